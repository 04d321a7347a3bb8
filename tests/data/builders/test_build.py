"""Builders on made-up copies with the publishers' folders and names."""

import json

import numpy as np
import pytest
from PIL import Image

from openset import data
from openset.activations import UNKNOWN, VOID
from openset.commands.app import main
from openset.data.builders.build import build_set, how_to_get
from openset.data.builders.cityscapes import CITYSCAPES_IDS
from openset.data.builders.vistas import VISTAS_NAMES, vistas_table
from openset.data.columns import CITYSCAPES, STREETHAZARDS, VISTAS_NP


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def picture(seed=0, size=(16, 24)):
    return np.random.default_rng(seed).integers(0, 255, (*size, 3))


def columns(*values, size=(16, 24)):
    """A mask of upright bands with these values."""
    width = size[1] // len(values)
    return np.repeat(np.array(values), width)[None].repeat(size[0], 0)


def bands(labels, count):
    """The labels in the middle of each band."""
    width = labels.shape[-1] // count
    return labels[..., 0, width // 2 :: width].tolist()


def test_cityscapes_ids_become_its_nineteen_classes(tmp_path):
    source = tmp_path / "copy"
    for part in ("train", "val"):
        for i in range(3):
            stem = f"bern_{i:06d}_000019"
            save(source / f"leftImg8bit/{part}/bern/{stem}_leftImg8bit.png", picture(i))
            ids = columns(7, 26, 33, 0)
            save(source / f"gtFine/{part}/bern/{stem}_gtFine_labelIds.png", ids)
    assert build_set("cityscapes", [str(source)], tmp_path / "cityscapes") == {
        "train": 3,
        "test": 3,
    }
    loaded = data.load(str(tmp_path / "cityscapes"), valid=0)
    assert loaded.classes == list(CITYSCAPES)
    expected = [CITYSCAPES.index(name) for name in ("road", "car", "bicycle")]
    assert bands(loaded.test.labels[0], 4) == [*expected, VOID]
    assert loaded.train.images[0].permute(1, 2, 0).numpy().tolist() == picture(0).tolist()
    assert (CITYSCAPES_IDS != 255).sum() == 19
    np_set = data.load(str(tmp_path / "cityscapes"), "not person,rider", valid=0)
    assert np_set.classes == list(VISTAS_NP)


VISTAS = ["construction--flat--road", "human--person", "human--rider--bicyclist", "nature--sky"]


def vistas(source):
    labels = [{"name": name} for name in [*VISTAS, "void--static"]]
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"labels": labels}))
    masks = {
        "training": [columns(0, 3, 4), columns(0, 1, 3), columns(0, 3, 2)],
        "validation": [columns(3, 0, 4), columns(1, 1, 1)],
    }
    for part, each in masks.items():
        for i, mask in enumerate(each):
            image = source / part / "images" / f"{part}{i}.jpg"
            save(image, picture(i))
            save(source / part / "labels" / f"{part}{i}.png", mask)
    return source


def test_vistas_with_people_become_the_test(tmp_path):
    source = vistas(tmp_path / "copy")
    counts = build_set("vistas-np", [str(source)], tmp_path / "vistas-np")
    assert counts == {"train": 1, "validation": 1, "test": 3}
    loaded = data.load(str(tmp_path / "vistas-np"))
    road, sky = VISTAS_NP.index("road"), VISTAS_NP.index("sky")
    assert bands(loaded.train.labels[0], 3) == [road, sky, VOID]
    found = [bands(each, 3) for each in loaded.test.labels]
    assert found == [[road, UNKNOWN, sky], [road, sky, UNKNOWN], [UNKNOWN] * 3]
    assert len(loaded.unknown) == 3


def test_vistas_labels_are_the_authors(tmp_path):
    """Nine labels of https://github.com/matejgrcic/Vistas-NP that were void here at first."""
    named = {
        "construction--barrier--curb": "sidewalk",
        "construction--barrier--guard-rail": "fence",
        "construction--flat--parking": "road",
        "construction--flat--rail-track": "road",
        "construction--structure--bridge": "building",
        "construction--structure--tunnel": "building",
        "nature--sand": "terrain",
        "nature--snow": "terrain",
        "object--support--traffic-sign-frame": "traffic sign",
    }
    void = ["construction--barrier--other-barrier", "object--traffic-sign--back", "nature--water"]
    people = ["human--person", "human--rider--other-rider"]
    labels = [{"name": name} for name in [*named, *void, *people]]
    (tmp_path / "config.json").write_text(json.dumps({"labels": labels}))
    table = vistas_table(tmp_path).tolist()
    assert [VISTAS_NP[value] for value in table[:9]] == list(named.values())
    assert table[9:15] == [255, 255, 255, 254, 254, 255]
    assert len(VISTAS_NAMES) == 34


def test_streethazards_leaves_out_other_and_keeps_anomalies_for_the_test(tmp_path):
    source = tmp_path / "copy"
    for part, split in (("train", "training"), ("train", "validation"), ("test", "test")):
        name = f"{split}/t1/7.png"
        save(source / part / "images" / name, picture())
        value = 14 if part == "test" else 5
        save(source / part / "annotations" / name, columns(1, 4, 13, value))
    build_set("streethazards", [str(source)], tmp_path / "streethazards")
    loaded = data.load(str(tmp_path / "streethazards"))
    assert loaded.classes == list(STREETHAZARDS)
    assert bands(loaded.train.labels[0], 4) == [0, VOID, 11, STREETHAZARDS.index("pedestrian")]
    assert bands(loaded.test.labels[0], 4) == [0, VOID, 11, UNKNOWN]


def test_fishyscapes_finds_its_images_under_their_own_names(tmp_path):
    stem = "04_Maurener_Weg_8_000000_000030"
    save(tmp_path / f"laf/test/x/{stem}_leftImg8bit.png", picture())
    save(tmp_path / f"fs/0000_{stem}_labels.png", columns(0, 1, 255))
    out = tmp_path / "fishyscapes-lost-and-found"
    build_set(out.name, [str(tmp_path / "fs"), str(tmp_path / "laf")], out)
    images = data.load_images(str(out), data.Adapter((16, 24)))
    assert bands(images.labels[0], 3) == [0, UNKNOWN, VOID]


def test_an_animal_is_pasted_whole_at_a_place_of_the_seed(tmp_path):
    voc, small, horse = tmp_path / "VOC2007", 1, 2
    save(voc / "JPEGImages/1.jpg", np.full((40, 40, 3), 200))
    objects = np.zeros((40, 40))
    objects[5:15, 5:20], objects[30:32, 30:31], objects[20:30, :] = horse, small, 3
    save(voc / "SegmentationObject/1.png", objects)
    save(voc / "SegmentationClass/1.png", np.array([0, 13, 13, 7])[objects.astype(int)])
    for i in range(4):
        save(tmp_path / f"wild/{i}.png", np.zeros((60, 80, 3)))
    sources = [str(tmp_path / "wild"), str(voc)]
    build_set("wd-pascal", sources, tmp_path / "wd-pascal")
    images = data.load_images(str(tmp_path / "wd-pascal"), data.Adapter((60, 80)))
    pasted = images.labels == UNKNOWN
    assert pasted.flatten(1).sum(1).tolist() == [150] * 4
    assert (images.images.amin(1)[pasted] > 150).all()
    assert (images.images.amax(1)[~pasted] == 0).all()
    assert len({tuple(each.nonzero()[0].tolist()) for each in pasted}) > 1
    (tmp_path / "again").mkdir()
    build_set("wd-pascal", sources, tmp_path / "again" / "wd-pascal")
    again = data.load_images(str(tmp_path / "again" / "wd-pascal"), data.Adapter((60, 80)))
    assert again.labels.equal(images.labels)


def test_what_is_missing_is_said_with_where_to_get_it(tmp_path, capsys):
    assert "mapillary.com" in how_to_get("vistas-np")
    assert how_to_get("digits") == ""
    with pytest.raises(ValueError, match=r"cityscapes-dataset\.com.*openset build-set cityscapes"):
        data.load("cityscapes")
    with pytest.raises(ValueError, match="did you mean cityscapes"):
        build_set("cityscape", [], tmp_path / "cityscape")
    with pytest.raises(ValueError, match="must end in cityscapes"):
        build_set("cityscapes", [str(tmp_path)], tmp_path / "streets")
    with pytest.raises(ValueError, match="made from 2 folders, got 1"):
        build_set("wd-pascal", [str(tmp_path)], tmp_path / "wd-pascal")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(
            ["build-set", "cityscapes", str(tmp_path / "empty"), "--out", f"{tmp_path}/cityscapes"]
        )
    assert "no images" in capsys.readouterr().err
    assert not (tmp_path / "cityscapes").exists()
