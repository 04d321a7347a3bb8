"""A file that is no image, or claims to be a huge one, is refused at once in one sentence."""

import os
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openset.data import Adapter, load, load_files
from openset.data.decode import open_picture, shown

GREY = Adapter((4, 4), 1)


def png(width: int, height: int, colour: int, rows: bytes, depth: int = 8) -> bytes:
    """A PNG file of scan lines, each with its filter byte; `colour` 2 is RGB, 0 grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_bomb_is_refused_by_its_header(tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(13_300, 13_300, 2, bytes(1000)))
    images = load_files([bomb], GREY)  # Which imports what takes room by itself.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(
        ValueError, match=r"bomb\.png: it has more than the 89478485 pixels.*shrink"
    ):
        GREY.open(bomb)
    assert images.without_bad().skipped
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_the_bound_is_pillows(monkeypatch):
    image = png(30, 30, 0, bytes(31 * 30))
    assert open_picture(image).size == (30, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)
    with pytest.raises(ValueError, match="more than the 899 pixels"):
        open_picture(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_picture(image).size == (30, 30)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe.png", "pipe.png is a pipe, a socket or a device"),
        ("/dev/zero", "/dev/zero is a pipe, a socket or a device"),
        ("folder", "folder is a folder"),
        ("", "an image has an empty name"),
        ("gone.png", "no such image: "),
        ("folder/x.png/y.png", "no such image: "),
        ("nul\0.png", "cannot read nul"),
        ("long" * 99, "cannot read long"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    Path("folder").mkdir()
    with pytest.raises(ValueError, match=message):
        GREY.open(name)


@pytest.mark.parametrize(
    ("name", "message"), [("pipe.png", "is a pipe"), ("/dev/zero", "a device"), ("", "empty name")]
)
def test_paths_to_predict_are_files(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.png")
    Image.new("L", (4, 4)).save("a.png")
    with pytest.raises(ValueError, match=message):
        load_files(["a.png", name], GREY)
    assert load_files(["a.png", "."], GREY).paths == ["a.png", "a.png"]  # no pipe among them


def test_nothing_is_run_for_an_image(tmp_path):
    file = tmp_path / "a.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n")
    with pytest.raises(ValueError, match="EPS is a program"):
        open_picture(file)


@pytest.fixture
def odd(tmp_path) -> Path:
    """Two class folders, a good and an empty file in each, whose names are no UTF-8."""
    for folder in (b"a\xe9", b"b"):
        place = os.path.join(os.fsencode(tmp_path), folder)
        os.mkdir(place)
        for i in range(3):
            with open(os.path.join(place, b"ok\xff%d.png" % i), "wb") as file:
                Image.new("L", (4, 4), i).save(file)
        Path(os.fsdecode(os.path.join(place, b"bad\xfe.png"))).write_bytes(b"")
    return tmp_path


def test_names_that_are_no_utf8_are_read_and_named(odd):
    with pytest.raises(ValueError, match=r"a\\xe9/bad\\xfe\.png: the file is empty"):
        _ = load_files([odd], GREY).images
    images = load_files([odd], GREY).without_bad()
    assert len(images) == 6
    assert [path.rpartition("/")[2] for path in images.paths[:2]] == [
        r"ok\xff0.png",
        r"ok\xff1.png",
    ]
    assert len(images.skipped) == 2
    assert all(text.isprintable() for text in [*images.paths, *images.skipped])
    data = load(str(odd), valid=0, skip_bad=True)
    assert data.classes == [r"a\xe9", "b"]
    assert len(data.skipped) == 2


def test_a_path_is_shown_as_it_can_be_printed():
    assert shown("é.png") == "é.png"
    assert shown(os.fsdecode(b"\xe9.png")) == r"\xe9.png"


def sixteen(top: int) -> np.ndarray:
    """A ramp to `top`."""
    return np.tile(np.linspace(0, top, 4), (4, 1)).astype(np.uint16)


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (4095, 12), (9000, 14)])
def test_fewer_bits_in_sixteen_must_be_said(tmp_path, ending, top, bits):
    file = tmp_path / f"x.{ending}"
    Image.fromarray(sixteen(top)).save(file)
    with pytest.raises(
        ValueError, match=f"at most {top} in 16 bits, as {bits}-bit data .*bits={bits}"
    ):
        GREY.open(file)
    told = Adapter((4, 4), 1, bits=bits)
    assert told.open(file)[0, 0].tolist() == (sixteen(top)[0] >> (bits - 8)).tolist()
    assert Adapter((4, 4), 1, bits=16).open(file).max() == top >> 8
    assert Adapter.from_settings(told.settings()) == told
    with pytest.raises(ValueError, match=f"outside the 0…{2**bits - 1} of {bits} bits"):
        told(sixteen(65535))


def test_colours_of_fewer_bits_in_sixteen_are_refused():
    rows = b"".join(b"\0" + (np.full((4, 3), 4095, ">u2")).tobytes() for _ in range(4))
    dark, bright = png(4, 4, 2, rows, 16), png(4, 4, 2, rows.replace(b"\x0f", b"\xff"), 16)
    assert Adapter((4, 4)).open(bright).max() == 255
    with pytest.raises(ValueError, match="16-bit colours of at most 15"):
        Adapter((4, 4)).open(dark)
    assert Adapter((4, 4), bits=16).open(dark).max() == 15


def test_a_set_says_how_many_bits_its_images_use(tmp_path):
    for split, top in (("train", 4000), ("test", 4095)):
        for name, c in (("a", 1), ("b", 2)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(4):
                place = tmp_path / split / name / f"{i}.png"
                Image.fromarray(sixteen(top) // np.uint16(3 - c)).save(place)
    data = load(str(tmp_path))
    assert data.adapter.bits == 12
    assert "use 12: the largest pixel to train on is 4000" in data.notes[0]
    assert data.test.images.max() == 255
    assert load(f"{tmp_path},bits=14").adapter.bits == 14
    assert "bits" not in load("digits").adapter.settings()
    with pytest.raises(ValueError, match="bits is 11"):
        load(f"{tmp_path},bits=11")


@pytest.mark.parametrize("value", [-1, 70_000])
def test_integers_outside_sixteen_bits_are_refused(value):
    picture = Image.fromarray(np.full((4, 4), value, np.int32))
    with pytest.raises(ValueError, match="outside the 0…65535 of 16 bits"):
        GREY(picture)
