"""Names of files and classes that mean something to a spreadsheet, a terminal or a pipe."""

from __future__ import annotations

import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import openset
from openset import OpenSet, Tap
from openset.detectors import build

from .cases import Case, Refused, command, heard
from .material import Material, png, small_network, three_classes

FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "=cmd|' /C calc'!A0", '="a"')

ROWS = 1200


def cases(material: Material, count: int) -> Iterator[Case]:
    """Names on their way through `predict`."""
    model = material.models / "energy"
    for form in ("csv", "screen"):
        for name in FORMULAS:
            attempt = partial(no_formula, model, name, form)
            yield Case("names: formulas", f"{name!r}, {form}", attempt)
    yield Case("names: formulas", "class names", class_names)
    for name in ("a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "a\u2028b", "a;b", " a ", "é", "a\\b"):
        attempt = partial(one_row_each, model, name)
        yield Case("names: rows", repr(name), attempt)
    for name in ("\x1b[31mred", "\x1b]0;title\x07", "a\x08b", "\x9b31m", "a\x7f"):
        for skip in (False, True):
            attempt = partial(no_escapes, model, name, skip)
            yield Case("names: escape sequences", f"{name!r}, skip {skip}", attempt)
    for bad in (False, True):
        for skip in (False, True):
            attempt = partial(not_utf8, model, bad, skip)
            yield Case("names: not UTF-8", f"broken {bad}, skip {skip}", attempt)
    for form in ("csv", "jsonl", "screen"):
        attempt = partial(one_broken_at_the_end, model, form)
        yield Case("names: one broken of 1,200", form, attempt, refusable=False, seconds=60)
    yield Case("names: train --skip-bad", "one broken of 40", trains_all_the_same, seconds=60)
    for name in ("list", "predict"):
        attempt = partial(into_head, material, name)
        yield Case("names: into head -1", name, attempt, refusable=False, seconds=120)


def predicted(model: Path, names: list[str], form: str) -> str:
    """The CSV of `predict` for pictures of these names, given without a folder."""
    for name in names:
        Path(name).write_bytes(png(8, 99))
    if form == "screen":
        return command("predict", model, "--", *names)
    command("predict", model, "--out", "labels.csv", "--", *names)
    with open("labels.csv", newline="", encoding="utf-8") as file:
        return file.read()


def rows_of(text: str) -> list[list[str]]:
    """The rows of a CSV, line ends kept as they are."""
    return list(csv.reader(text.splitlines(keepends=True)))


def no_formula(model: Path, name: str, form: str) -> str | None:
    """No cell begins as a formula does."""
    text = predicted(model, [f"{name.replace('/', '')}.png"], form)
    cell = next(csv.reader([text.split("\n", 1)[1]]))[0]
    return f"cell {cell!r}" if cell[:1] in "=+-@\t\r" else None


def class_names() -> str | None:
    """Names of classes are cells too."""
    net = small_network()
    model = OpenSet(Tap(net), build("energy")).calibrate([three_classes(120, 2)], accept=0.9)
    model.classes, model.adapter = ["=1+1", "+2", "@c"], openset.data.Adapter((8, 8), 1)
    model.set_threshold(None).save("m")
    Path("a.png").write_bytes(png(8, 99))
    text = command("predict", "m", "a.png", "--probabilities")
    cells = [cell for row in rows_of(text) for cell in row[:2] if cell]
    wrong = [cell for cell in cells if cell[0] in "=+@"]
    return f"cells {wrong}" if wrong else None


def one_row_each(model: Path, name: str) -> str | None:
    """Two pictures are two rows, for any reader, and their names are kept."""
    text = predicted(model, [f"{name}.png", "z.png"], "csv")
    Path("again.csv").write_bytes(text.encode())
    with open("again.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return None if len(rows) == 3 else f"{len(rows) - 1} rows for 2 pictures"


def no_escapes(model: Path, name: str, skip: bool) -> str | None:
    """The error about a broken picture of that name cannot steer the terminal."""
    Path("p").mkdir()
    Path("p", f"{name}.png").write_bytes(b"no picture")
    Path("p", "good.png").write_bytes(png(8, 9))
    flags = ("--skip-bad",) if skip else ()
    try:
        said = heard("predict", model, "p", *flags)
    except Refused as error:
        said = str(error)
    raw = [c for c in said if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160]
    return f"it says {raw} to the terminal" if raw else None


def not_utf8(model: Path, bad: bool, skip: bool) -> str | None:
    """A name of bytes that are no text: its picture is labelled, or it is named."""
    Path("p").mkdir()
    Path("p", "good.png").write_bytes(png(8, 9))
    with open(b"p/\xff\xfe.png", "wb") as file:
        file.write(b"no picture" if bad else png(8, 99))
    flags = ("--skip-bad",) if skip else ()
    try:
        text = command("predict", model, "p", *flags)
    except Refused as error:
        if skip or ".png" not in str(error):
            return f"refused: {error}"
        raise
    expected = 1 if bad else 2
    rows = len(text.splitlines()) - 1
    return None if rows == expected else f"{rows} rows for {expected} good pictures"


def one_broken_at_the_end(model: Path, form: str) -> str | None:
    """The rows of those before it are kept, and it is named."""
    Path("p").mkdir()
    data = png(8, 99)
    for i in range(ROWS):
        Path(f"p/{i:04d}.png").write_bytes(data)
    Path("p/9999.png").write_bytes(b"no picture")
    out = () if form == "screen" else ("--out", f"labels.{form}")
    rows, said = _printed("predict", model, "p", *out)
    kept = max([rows, *(p.read_bytes().count(b"\n") for p in Path().glob("*labels*"))])
    if kept < ROWS:
        return f"{kept} of {ROWS} rows are kept: {said[-120:]}"
    return None if "9999.png" in said else f"the broken one is not named: {said[-120:]}"


def _printed(*arguments: object) -> tuple[int, str]:
    """Lines on the standard output of a command, and what it says beside, however it ends."""
    import io
    import runpy

    out, said = io.StringIO(), io.StringIO()
    sys.argv = ["openset", *map(str, arguments)]
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(said),
        contextlib.suppress(SystemExit),
    ):
        runpy.run_module("openset", run_name="__main__")
    return out.getvalue().count("\n"), said.getvalue()


def trains_all_the_same() -> str | None:
    """One broken picture in class folders, left out where it is asked for."""
    for c, name in enumerate(("a", "b")):
        Path("zoo", name).mkdir(parents=True)
        for i in range(20):
            Path("zoo", name, f"{i}.png").write_bytes(png(8, 100 * c + i))
    Path("zoo/a/broken.png").write_bytes(b"no picture")
    network = ("--network", "cnn:widths=4+8,hidden=8", "--epochs", "1")
    try:
        command("train", "zoo", *network, "--skip-bad", "--out", "run")
    except Refused as error:
        return f"refused: {error}"
    return None


def into_head(material: Material, name: str) -> str | None:
    """A reader that leaves after one line is no error."""
    Path("pictures").mkdir()
    for i in range(600):
        os.symlink(material.pictures / "00.png", f"pictures/{i:0200d}.png")
    arguments = {
        "predict": ("predict", material.models / "energy", "pictures"),
        "list": ("list", "detectors"),
    }[name]
    places = [str(Path(openset.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-m", "openset", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read().decode()
    code = process.wait()
    return None if code in (0, 141, -13) and not said else f"ended with {code}: {said[-200:]}"
