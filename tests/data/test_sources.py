import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from openset.activations import UNKNOWN, VOID
from openset.data import Adapter, load, load_files, load_images, load_known
from openset.data.sources import DataName, open_source, other_part

GREY = Adapter((4, 4), 1)


def write_image(path: Path, value: int = 0, size=(4, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def write_classes(folder: Path, classes: str = "abc", count: int = 4) -> Path:
    """Class folders whose images' grey value is 50 × class + number."""
    for c, name in enumerate(classes):
        for i in range(count):
            write_image(folder / name / f"{i}.png", 50 * c + i)
    return folder


def cell(value: int | np.ndarray) -> dict:
    out = io.BytesIO()
    array = value if isinstance(value, np.ndarray) else np.full((4, 4), value, np.uint8)
    Image.fromarray(array).save(out, "png")
    return {"bytes": out.getvalue(), "path": None}


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty $OPENSET_DATA, and Hugging Face's cache beside it."""
    monkeypatch.setenv("OPENSET_DATA", str(tmp_path / "sets"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "sets").mkdir()
    return tmp_path / "sets"


def write_parquet(folder: Path, columns: dict, features: dict | None, splits=("train", "test")):
    for split in splits:
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict(columns, Features(features) if features else None).to_parquet(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", DataName("digits")),
        ("ylecun/mnist:train", DataName("ylecun/mnist", "train")),
        ("a/b,invert=true,limit=5", DataName("a/b", invert=True, limit=5)),
        ("uniform-noise,seed=3", DataName("uniform-noise", seed=3)),
        ("/no/where.d/x:test,config=full", DataName("/no/where.d/x", "test", config="full")),
        ("digits:test[:30%]", DataName("digits", "test", 30)),
        ("a/b:test[30%:],limit=5", DataName("a/b", "test", -30, limit=5)),
    ],
)
def test_a_data_string_is_taken_apart(text, expected):
    assert DataName.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("digits,limits=4", "did you mean limit"),
        ("digits,invert", "unknown setting"),
        ("digits,limit=0", "limit is 0"),
        ("digits,limit=1.5", r"limit is 1\.5"),
        ("digits,invert=7", "invert is 7"),
        ("digits[:50%]", r"digits\[:50%\] names no part of a split; give such as digits:test"),
        ("digits:test[:100%]", r"names no part of a split"),
        ("digits:test[0%:]", r"names no part of a split"),
    ],
)
def test_settings_are_checked(text, message):
    with pytest.raises(ValueError, match=message):
        DataName.parse(text)


def test_a_path_with_commas_and_colons_is_one_path(tmp_path):
    folder = write_classes(tmp_path / "odd, name:x")
    assert len(load_images(str(folder), GREY)) == 12


def test_a_part_of_a_split_and_the_rest_of_it_are_all_of_it():
    rest = other_part("digits:test[:30%]")
    assert rest == "digits:test[30%:]"
    assert other_part(rest) == "digits:test[:30%]"
    names = [str(c) for c in range(10)]
    part, others, whole = (
        load_known(name, names, Adapter((8, 8), 1))
        for name in ("digits:test[:30%]", rest, "digits:test")
    )
    assert str(part.name) == "digits:test[:30%]"
    together = torch.cat([part.indices, others.indices])
    assert torch.equal(together.sort().values, whole.indices)
    counts = part.labels.bincount() / whole.labels.bincount()
    assert counts.sub(0.3).abs().max() < 0.01
    drawn = load_known("digits:test[:30%],seed=1", names, Adapter((8, 8), 1))
    assert not torch.equal(drawn.indices, part.indices)


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source(DataName("digits"))
    bunch = load_digits()
    assert {name: len(split.pixels) for name, split in source.splits.items()} == {
        "train": 1198,
        "test": 599,
    }
    stored = torch.cat([split.pixels.images for split in source.splits.values()])
    pixels = torch.from_numpy(bunch.images * 255 / 16).round().byte()
    assert torch.equal(
        stored.flatten(1).double().sum(1).sort().values,
        pixels.flatten(1).double().sum(1).sort().values,
    )


def test_class_folders_become_labels_in_order_of_their_names(root):
    write_classes(root / "mine", "bca")
    data = load("mine", valid=0.25)
    assert data.classes == ["a", "b", "c"]
    assert "20 %" in data.notes[0]
    for part in (data.train, data.valid, data.test):
        value = part.images[:, 0, 0, 0].long() // 50
        assert torch.equal(part.labels, torch.tensor([1, 2, 0])[value])
    assert [len(data.train), len(data.valid), len(data.test)] == [6, 3, 3]
    found = {path for part in (data.train, data.valid, data.test) for path in part.paths}
    assert found == {str(p) for p in (root / "mine").rglob("*.png")}


def test_split_folders(root):
    write_classes(root / "mine" / "train", "ab", 5)
    write_classes(root / "mine" / "val", "ab", 2)
    write_classes(root / "mine" / "test", "abc", 3)
    data = load("mine", known_classes="a,b")
    assert [len(data.train), len(data.valid), len(data.test), len(data.unknown)] == [10, 4, 6, 3]
    assert data.notes == []
    assert data.unknown.labels.unique().tolist() == [UNKNOWN]
    assert len(load_images("mine", GREY)) == 9
    assert len(load_images("mine:valid", GREY)) == 4
    assert load_images("mine:train", GREY).name == "mine:train"
    with pytest.raises(ValueError, match="did you mean train"):
        load_images("mine:trian", GREY)


def test_a_flat_folder_is_an_unknown_set(tmp_path):
    for i in range(3):
        write_image(tmp_path / f"{i}.png", i)
    (tmp_path / "notes.txt").write_text("not an image")
    write_image(tmp_path / ".hidden" / "x.png")
    images = load_images(str(tmp_path), GREY)
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert images.labels.tolist() == [UNKNOWN] * 3
    with pytest.raises(ValueError, match="no labels"):
        load(str(tmp_path))


def test_images_beside_class_folders_are_refused(tmp_path):
    write_classes(tmp_path)
    write_image(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"stray\.png lies beside"):
        load(str(tmp_path))


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .*one folder of them per class"):
        load_images(str(tmp_path), GREY)


def test_one_bad_image_is_named_or_skipped(tmp_path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "test")
    (tmp_path / "train" / "b" / "1.png").write_bytes(b"")
    data = load(str(tmp_path), valid=0)
    with pytest.raises(ValueError, match=r"1\.png: the file is empty"):
        _ = data.train.images
    data = load(str(tmp_path), valid=0, skip_bad=True)
    assert len(data.train.images) == 11
    assert data.train.labels.bincount().tolist() == [4, 3, 4]
    assert len(data.skipped) == 1
    assert "1.png" in data.skipped[0]
    (tmp_path / "test" / "a" / "0.png").write_text("rubbish")
    assert len(load_images(str(tmp_path), GREY, skip_bad=True).skipped) == 1


def test_columns_are_found_by_their_types(root):
    features = {
        "coarse_label": ClassLabel(names=["x", "y"]),
        "fine_label": ClassLabel(names=["p", "q", "r"]),
        "img": ImageFeature(),
    }
    columns = {
        "coarse_label": [0, 1, 1, 0],
        "fine_label": [0, 1, 2, 0],
        "img": [cell(i) for i in range(4)],
    }
    write_parquet(root / "me" / "fine", columns, features)
    data = load("me/fine", known_classes="q,r,p"[:3], valid=0)
    assert data.classes == ["q", "r"]
    assert data.name == "me/fine"
    assert data.train.images[:, 0, 0, 0].tolist() == [1, 2]
    assert data.train.labels.tolist() == [0, 1]
    assert data.unknown.images[:, 0, 0, 0].tolist() == [0, 3]


@pytest.mark.parametrize("labels", [[7, 3, 7, 5], ["c", "a", "c", "b"]])
def test_plain_parquet_needs_no_declared_types(root, labels):
    write_parquet(root / "plain", {"image": [cell(i) for i in range(4)], "label": labels}, None)
    data = load("plain", valid=0)
    assert data.classes == [str(c) for c in sorted(set(labels))]
    assert data.train.labels.tolist() == [2, 0, 2, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_labels_outside_their_classes_are_counted(root):
    features = {"image": ImageFeature(), "label": Value("int64")}
    table = Dataset.from_dict({"image": [cell(0)] * 3, "label": [0, 1, 4]}, Features(features))
    from openset.data.labels import read_labels

    table._info.features["label"] = ClassLabel(names=["a", "b"])
    with pytest.raises(ValueError, match=r"column 'label': 1 labels are outside 0…1 \(such as 4"):
        read_labels(table, "label", "set")


def test_hidden_labels_of_a_test_split_are_no_labels(root):
    features = {"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])}
    images = [cell(i) for i in range(6)]
    folder = root / "hidden"
    write_parquet(folder, {"image": images, "label": [0, 1] * 3}, features, ["train", "validation"])
    write_parquet(folder, {"image": images, "label": [-1] * 6}, features, ["test"])
    data = load("hidden", valid=0.4)
    assert "its validation split is the test" in data.notes[0]
    assert [len(data.train), len(data.valid), len(data.test)] == [4, 2, 6]


def test_a_set_without_images_or_a_broken_one_is_named(root, caplog):
    write_parquet(root / "text", {"words": ["a", "b"]}, None)
    with pytest.raises(ValueError, match=r"text:train has no column of images .columns: words"):
        load("text")
    write_parquet(root / "broken", {"image": [cell(0)]}, {"image": ImageFeature()}, ["train"])
    (file,) = (root / "broken").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cannot read the parquet files of .*broken"):
        load("broken")
    assert caplog.text == ""


def test_names_that_are_nowhere_get_the_nearest(root):
    write_parquet(root / "me" / "fine", {"image": [cell(0)]}, {"image": ImageFeature()})
    with pytest.raises(ValueError, match="did you mean digits"):
        load("digit")
    with pytest.raises(ValueError, match="did you mean gaussian-noise"):
        load_images("gausian-noise", GREY)
    os.environ.pop("OPENSET_DATA")
    with pytest.raises(ValueError, match="OPENSET_DATA is not set"):
        load("mnist")


def test_a_hub_id_without_the_hub_says_what_to_set(root, monkeypatch):
    write_parquet(root / "me" / "fine", {"image": [cell(0)]}, {"image": ImageFeature()})

    def offline(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    with pytest.raises(ValueError, match=r"did you mean me/fine.*no route.*Set OPENSET_DATA"):
        load("me/fin")


def test_noise_and_single_splits_cannot_be_trained_on(root):
    for spec in ("gaussian-noise", "digits:test"):
        with pytest.raises(ValueError, match="cannot be trained on"):
            load(spec)
    write_parquet(root / "t", {"image": [cell(0)]}, {"image": ImageFeature()}, ["test"])
    with pytest.raises(ValueError, match=r"no train split .it has: test"):
        load("t")


def test_polarity_is_known_of_some_sets_and_can_be_said(root):
    features = {"image": ImageFeature()}
    for name in ("brendenlake/omniglot", "ylecun/mnist", "mine"):
        write_parquet(root / name, {"image": [cell(200)]}, features)
    turned = Adapter((4, 4), 1, invert=True)

    def pixel(spec: str, adapter: Adapter) -> int:
        return int(load_images(spec, adapter).images[0, 0, 0, 0])

    assert pixel("brendenlake/omniglot", GREY) == 55
    assert pixel("brendenlake/omniglot", turned) == 55
    assert pixel("brendenlake/omniglot,invert=false", GREY) == 200
    assert pixel(f"{root}/brendenlake/omniglot", GREY) == 55
    assert pixel("ylecun/mnist", GREY) == pixel("ylecun/mnist", turned) == 200
    assert pixel("ylecun/mnist,invert=true", GREY) == 55
    assert pixel("mine", GREY) == 200
    assert pixel("mine", turned) == 55


def test_limit_draws_the_same_few_images(root):
    write_classes(root / "mine", count=10)
    one = load_images("mine,limit=7", GREY)
    assert len(one) == 7
    assert torch.equal(one.images, load_images("mine,limit=7", GREY).images)
    assert not torch.equal(one.images, load_images("mine,limit=7,seed=1", GREY).images)
    everything = load_images("mine", GREY)
    assert one.indices.tolist() == sorted(one.indices.tolist())
    assert torch.equal(one.images, everything.images[one.indices])
    assert len(load_images("mine,limit=99", GREY)) == 30


def test_files_folders_and_globs(tmp_path):
    write_classes(tmp_path, "ab", 2)
    one = write_image(tmp_path / "one.png", 9, size=(8, 8))
    images = load_files([one, tmp_path / "b", tmp_path / "a" / "*.png"], GREY)
    assert images.images[:, 0, 0, 0].tolist() == [9, 50, 51, 0, 1]
    assert [Path(path).name for path in images.paths] == [
        "one.png", "0.png", "1.png", "0.png", "1.png",
    ]  # fmt: skip
    assert images.labels.tolist() == [UNKNOWN] * 5
    bad = tmp_path / "bad.png"
    bad.write_text("")
    with pytest.raises(ValueError, match=r"bad\.png: the file is empty"):
        list(load_files([bad, one], GREY).batches())
    kept = load_files([bad, one], GREY).without_bad()
    assert [len(kept), len(kept.skipped)] == [1, 1]
    for nothing in ([], [tmp_path / "gone.png"], [tmp_path / "*.jpg"]):
        with pytest.raises(ValueError, match="no image"):
            load_files(nothing, GREY)


def write_masks(folder: Path, splits=("train", "test")) -> np.ndarray:
    masks = np.random.default_rng(0).integers(0, 3, (6, 4, 4)).astype(np.uint8)
    masks[:, 0, 0] = 255
    columns = {"image": [cell(i) for i in range(6)], "mask": [cell(mask) for mask in masks]}
    write_parquet(folder, columns, {"image": ImageFeature(), "mask": ImageFeature()}, splits)
    return masks


def test_masks_label_pixels(root):
    masks = torch.from_numpy(write_masks(root / "streets")).long()
    data = load("streets", valid=0)
    assert data.classes == ["0", "1", "2"]
    assert data.train.dense
    assert torch.equal(data.train.labels, torch.where(masks == 255, VOID, masks))
    assert len(data.unknown) == 0
    part = load("streets", known_classes="2,0", valid=0)
    table = torch.tensor([1, UNKNOWN, 0] + [VOID] * 253)
    assert torch.equal(part.test.labels, table[masks])
    table[1] = VOID
    assert torch.equal(part.train.labels, table[masks])
    assert any("void in training" in note for note in part.notes)
    small = load("streets", size=2).train
    assert small.labels.shape[1:] == (2, 2) == small.images.shape[2:]


def test_values_of_known_masks_have_a_meaning(root):
    masks = torch.from_numpy(write_masks(root / "road-anomaly", ["test"])).long()
    images = load_images("road-anomaly", GREY)
    table = torch.tensor([0, UNKNOWN] + [VOID] * 254)
    assert torch.equal(images.labels, table[masks])
    assert images.take(torch.tensor([1]))[1].shape == (1, 4, 4)


def test_progress_bars_stay_as_they_were(root, capfd):
    import datasets

    write_parquet(root / "t", {"image": [cell(0)]}, {"image": ImageFeature()})
    capfd.readouterr()
    load_images("t", GREY)
    assert datasets.is_progress_bar_enabled()
    assert capfd.readouterr().err == ""


def test_classes_are_left_out_of_a_set():
    some = load_images("digits:test,without=3+8", Adapter((8, 8), channels=1))
    everything = load_images("digits:test", Adapter((8, 8), channels=1))
    known = load("digits", known_classes="3,8").test
    assert len(some) == len(everything) - len(known)
    with pytest.raises(ValueError, match="unknown class 'x'"):
        load_images("digits,without=x", Adapter((8, 8), channels=1))
