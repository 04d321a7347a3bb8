"""A class has one number in all splits, and the number that its name says."""

from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openset.activations import UNKNOWN
from openset.data import Adapter, load, load_images
from openset.data.classes import choose_classes, natural
from openset.data.labels import labels_of, share_classes
from openset.runs.recipe import Recipe
from openset.runs.run import Run
from tests.data.test_sources import cell, write_classes, write_image

GREY = Adapter((4, 4), 1)


def write(folder: Path, labels: dict[str, list], value: dict, names: dict | None = None) -> str:
    """Parquet splits whose images' grey value is that of their label."""
    folder.mkdir()
    for split, each in labels.items():
        columns = {"image": [cell(value[label]) for label in each], "label": each}
        features = None
        if names:
            columns["label"] = [names[split].index(label) for label in each]
            features = Features({"image": ImageFeature(), "label": ClassLabel(names=names[split])})
        Dataset.from_dict(columns, features).to_parquet(folder / f"{split}.parquet")
    return str(folder)


ZOO = {"bird": 10, "cat": 60, "dog": 120, "emu": 200}
SPLITS = {"train": ["cat", "dog", "emu"] * 9, "test": ["bird", "cat", "dog"] * 3}


def pairs(images) -> set:
    return set(zip(images.images[:, 0, 0, 0].tolist(), images.labels.tolist(), strict=True))


def test_splits_of_different_classes_share_one_vocabulary(tmp_path):
    data = load(write(tmp_path / "zoo", SPLITS, ZOO), known_classes="cat,dog")
    assert data.classes == ["cat", "dog"]
    assert pairs(data.train) == pairs(data.valid) == pairs(data.test) == {(60, 0), (120, 1)}
    assert pairs(data.unknown) == {(10, UNKNOWN)}
    assert {value for value, _ in pairs(load_images(f"{tmp_path}/zoo", GREY))} == {10, 60, 120}
    with pytest.raises(ValueError, match=r"no training image of bird; .*known_classes='not bird'"):
        load(f"{tmp_path}/zoo")
    data = load(f"{tmp_path}/zoo", known_classes="not bird")
    assert pairs(data.train) == {(60, 0), (120, 1), (200, 2)}


def test_whole_numbers_keep_their_values(tmp_path):
    value = {3: 30, 5: 50, 7: 70, 10: 100}
    labels = {"train": [3, 5, 10] * 9, "test": [3, 7, 10] * 3}
    data = load(write(tmp_path / "set", labels, value), known_classes="3,10")
    assert data.classes == ["3", "10"]
    assert pairs(data.train) == pairs(data.test) == {(30, 0), (100, 1)}
    assert pairs(data.unknown) == {(70, UNKNOWN)}


def test_files_that_declare_other_classes_are_refused(tmp_path):
    names = {"train": ["cat", "dog", "emu"], "test": ["bird", "cat", "dog"]}
    folder = write(tmp_path / "zoo", SPLITS, ZOO, names)
    with pytest.raises(ValueError, match="declare different classes for 'label'; write labels as"):
        load(folder)


@given(
    st.dictionaries(
        st.sampled_from(["train", "valid", "test"]),
        st.lists(st.sampled_from(["a", "b", "10", "9", "é", "b2", "b10"]), min_size=1),
    )
)
def test_a_shared_label_is_its_name(splits):
    labels, names = share_classes({key: labels_of(each, key) for key, each in splits.items()})
    assert names == sorted({name for each in splits.values() for name in each}, key=natural)
    for key, each in splits.items():
        assert [names[c] for c in labels[key]] == each


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, 1], "holds 0.5, which names no class"),
        ([[1, 0], [0, 1]], r"holds \[1, 0\], which names no class"),
        (["a", None, ""], "2 of 3 images have no label, the first is number 1"),
        ([1, -1, 2], "1 of 3 images have no label"),
    ],
)
def test_labels_that_name_no_class_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        labels_of(values, "the set")


@pytest.mark.parametrize("values", [[], [None, None], [-1, -1], ["", ""], [float("nan")] * 2])
def test_hidden_labels_are_none(values):
    assert not labels_of(values, "the set").names


def test_whole_floats_are_numbers():
    assert labels_of([1.0, 0.0, 10.0, 2.0], "the set").names == ["0", "1", "2", "10"]


@pytest.mark.parametrize(
    ("known", "names", "expected"),
    [
        ("0-5", sorted(map(str, range(12))), [0, 1, 4, 5, 6, 7]),
        ("9-11", sorted(map(str, range(12))), [11, 2, 3]),
        ("not 2-11", sorted(map(str, range(12))), [0, 1]),
        ("3-7", ["10", "7", "3", "5"], [2, 3, 1]),
        ("0", ["1", "2", "0"], [2]),
        ("0-1", ["ant", "bee", "cat"], [0, 1]),
    ],
)
def test_ranges_of_numbers_go_by_value(known, names, expected):
    assert choose_classes(known, names) == expected


@pytest.mark.parametrize("known", ["0", "0-2", "4", "2-4"])
def test_a_number_is_no_index_where_classes_are_numbers(known):
    with pytest.raises(ValueError, match="unknown class"):
        choose_classes(known, ["1", "2", "3"])


def test_class_folders_are_in_natural_order(tmp_path):
    for c in range(12):
        for i in range(4):
            write_image(tmp_path / str(c) / f"{i}.png", 20 * c)
    data = load(str(tmp_path), known_classes="0-5")
    assert data.classes == list("012345")
    assert pairs(data.train) == {(20 * c, c) for c in range(6)}
    assert load(str(tmp_path)).classes == [str(c) for c in range(12)]


@pytest.mark.parametrize("name", ["train", "test", "valid", "Training"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    for c, each in enumerate(("bus", "car", name)):
        for i in range(9):
            write_image(tmp_path / each / f"{i}.png", 50 * c)
    data = load(str(tmp_path))
    assert sorted(data.classes) == sorted(["bus", "car", name])
    assert len(load_images(str(tmp_path), GREY)) == 27
    for split in ("train", "test"):
        write_classes(tmp_path / "splits" / split, ("bus", name), 4)
    assert sorted(load(str(tmp_path / "splits")).classes) == sorted(["bus", name])


def test_splits_beside_other_folders_are_refused(tmp_path):
    for split in ("train", "test"):
        write_classes(tmp_path / split, "ab")
    (tmp_path / "empty").mkdir()
    assert load(str(tmp_path)).classes == ["a", "b"]
    write_image(tmp_path / "others" / "1.png")
    with pytest.raises(ValueError, match=r"test, train with folders of images .*beside others"):
        load(str(tmp_path))


def test_a_class_called_unknown_is_refused_by_name(tmp_path):
    write_classes(tmp_path, ("cat", "dog", "Unknown"))
    with pytest.raises(ValueError, match=r"a class called 'Unknown', .*'not Unknown'"):
        load(str(tmp_path))
    data = load(str(tmp_path), known_classes="not Unknown")
    assert data.classes == ["cat", "dog"]
    assert len(data.unknown) == 1


def test_one_class_alone_is_refused(tmp_path):
    write_classes(tmp_path, ["images"])
    with pytest.raises(ValueError, match="a single class, 'images', so there is nothing to tell"):
        load(str(tmp_path))


def test_masks_of_all_splits_count(tmp_path):
    (tmp_path / "streets").mkdir()
    for split, top in (("train", 1), ("test", 3)):
        mask = torch.arange(16).remainder(top + 1).view(4, 4).byte().numpy()
        columns = {"image": [cell(0)] * 4, "mask": [cell(mask)] * 4}
        features = Features({"image": ImageFeature(), "mask": ImageFeature()})
        Dataset.from_dict(columns, features).to_parquet(tmp_path / "streets" / f"{split}.parquet")
    data = load(str(tmp_path / "streets"), known_classes="0,1")
    assert data.test.labels.unique().tolist() == [UNKNOWN, 0, 1]


def test_a_run_refuses_data_whose_classes_moved(tmp_path):
    write_classes(tmp_path / "set", "abc")
    data = load(str(tmp_path / "set"))
    run = Run(tmp_path, Recipe(str(tmp_path / "set")), data.classes, data.adapter, {}, {}, {})
    assert run.load_data().classes == ["a", "b", "c"]
    Image.new("L", (4, 4)).save(tmp_path / "set" / "a" / "9.png")
    (tmp_path / "set" / "a").rename(tmp_path / "set" / "d")
    with pytest.raises(ValueError, match=r"has the classes b, c, d.* was trained on a, b, c"):
        run.load_data()
