"""The same images and labels come out of every form in which people have them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openset.activations import UNKNOWN
from openset.data import Adapter, load, load_images
from tests.data.forms import FORMS, VALUE, csv, csv_split_column, images, markdown, npz, shards

GREY = Adapter((4, 4), 1)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_set(form, tmp_path):
    given = FORMS[form][1](tmp_path / "set")
    spec = str(given) if isinstance(given, Path) else given
    numbers = form == "NumPy archive"
    data = load(spec, "1,2" if numbers else "cat,dog", channels=1)
    assert data.classes == (["1", "2"] if numbers else ["cat", "dog"])
    assert [len(data.train) + len(data.valid), len(data.test), len(data.unknown)] == [18, 6, 3]
    for part in (data.train, data.valid, data.test):
        values = part.images[:, 0, 0, 0]
        assert {*zip(values.tolist(), part.labels.tolist(), strict=True)} == {(60, 0), (120, 1)}
    assert data.unknown.labels.tolist() == [UNKNOWN] * 3
    assert data.unknown.images.unique().tolist() == [VALUE["bird"]]
    assert len(load_images(spec, GREY)) == 9
    assert data.train.fingerprint == load(spec, data.classes, channels=1).train.fingerprint


def test_the_page_lists_every_form():
    page = Path(__file__).parents[2] / "docs" / "how-to" / "own-data.md"
    assert markdown() in page.read_text(), (
        "put tests.data.forms.markdown() into docs/how-to/own-data.md"
    )


def write(folder: Path, name: str, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "x,y\n1,2\n", r"no column of image paths \(columns: x, y\); name it path"),
        ("a.csv", "", "no column of image paths"),
        ("a.csv", "path,label\na.png\n", "1 cells in row 1 but 2 columns"),
        ("a.csv", "path,label\na.png,cat\n", "names no file that is there, the first is .*a.png"),
        ("a.csv", "path,label\n,cat\n", "names no image in row 1"),
        ("a.jsonl", '{"path": 1}\n[]\n', "line 2 is no JSON object"),
        ("a.jsonl", "{", "cannot read .*a.jsonl as JSON lines"),
        ("a.jsonl", "[" * 100_000, "cannot read .*a.jsonl as JSON lines"),
        ("a.npz", "no archive", "cannot read .*a.npz"),
        ("a.tar", "no archive", "cannot read .*a.tar as an uncompressed tar file"),
        ("a.parquet", "no table", "cannot read the parquet files of .*a.parquet"),
        ("a.txt", "", "a.txt is a file of an unknown kind; give a folder, or a file that ends in"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "set", name, text))


def test_images_beside_a_table_without_paths_are_no_class(tmp_path):
    folder = csv_split_column(tmp_path)
    (folder / "labels.csv").write_text("number,kind\n1,cat\n")
    with pytest.raises(ValueError, match=r"single class, 'images', .*columns path and label"):
        load(str(folder))


def test_a_table_without_heading_or_split(tmp_path):
    records = images(tmp_path)[:18]
    (tmp_path / "list.csv").write_text(
        csv(records[1:], ("path", "label"), heading="images/0.png,cat")
    )
    data = load(str(tmp_path / "list.csv"), valid=0)
    assert [len(data.train), len(data.test)] == [14, 4]
    assert data.classes == ["cat", "dog"]


def test_classes_in_a_table_are_text(tmp_path):
    records = images(tmp_path)
    names = {"cat": "NA", "dog": "007", "bird": "null"}
    renamed = [record | {"label": names[record["label"]]} for record in records]
    (tmp_path / "a.csv").write_text(csv(renamed, ("path", "label", "split")))
    assert load(str(tmp_path), "NA,007").classes == ["NA", "007"]


def test_one_missing_file_is_named_or_skipped(tmp_path):
    folder = csv_split_column(tmp_path)
    (folder / "images" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"no such image: .*images/3\.png"):
        _ = load(str(folder), "cat,dog", valid=0).train.images
    assert "3.png" in load(str(folder), "cat,dog", skip_bad=True).skipped[0]


def test_a_table_may_name_masks(tmp_path):
    for i in range(4):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"{i}.png")
    rows = [{"image": f"{i}.png", "mask": f"{i}.png"} for i in range(4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(str(tmp_path), valid=0)
    assert data.train.dense
    assert data.classes == list("0123")
    assert data.train.labels.equal(data.train.images[:, 0].long())


def test_an_archive_runs_nothing_and_must_be_clear(tmp_path):
    file = npz(tmp_path / "set")
    np.savez(file, x=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"cannot read .*allow_pickle=False"):
        load(str(file))
    np.savez(file, a=np.zeros((2, 4, 4)), b=np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match=r"holds a \(2, 4, 4\), b \(2, 4, 4\); give one array"):
        load(str(file))
    np.savez(file, x=np.zeros((2, 4, 4)), y=np.zeros(3))
    with pytest.raises(ValueError, match="2 images but 3 labels"):
        load(str(file))


def test_images_in_shards_are_named(tmp_path):
    folder = shards(tmp_path / "set")
    found = load_images(str(folder), GREY)
    assert found.paths[0].endswith("(" + str(folder / "test-000000.tar") + "/s/0.png)")
    assert len(load_images(str(folder / "test-000000.tar"), GREY)) == 9
