"""Files that are no files, pictures that are bombs, and texts that take for ever."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .cases import Case, command
from .files import PICTURE_ROOM, PROTOCOL
from .material import Material, png
from .mutate import toml

SIDE = 13_300
"""Of the square picture that lies just below the size at which Pillow refuses."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Odd files in the place of pictures, models, runs and protocols."""
    model = material.models / "energy"
    bombs = {kind: link(str(place)) for kind, place in made(material).items()}
    for kind, make in {**PICTURES, **bombs}.items():
        given = {"memory": PICTURE_ROOM, "seconds": 6.0}
        yield Case("resources: picture", kind, partial(as_picture, model, make), **given)
    for name in ("run.json", "models/energy/model.json", "models/energy/model.safetensors"):
        for kind, make in ODD.items():
            attempt = partial(in_a_run, material.run, material.pictures, name, make)
            yield Case(f"resources: {Path(name).name}", kind, attempt)
    for kind, make in ODD.items():
        yield Case("resources: protocol", kind, partial(as_protocol, make))
    for name, text in TEXTS.items():
        yield Case("resources: protocol text", name, partial(reads_protocol, text))


def fifo(place: Path) -> None:
    os.mkfifo(place)


def link(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


ODD: dict[str, Callable[[Path], None]] = {
    "a pipe": fifo,
    "/dev/zero": link("/dev/zero"),
    "/dev/null": link("/dev/null"),
    "/dev/urandom": link("/dev/urandom"),
    "a link to itself": lambda place: place.symlink_to(place.name),
    "a link to nothing": link("nothing"),
    "a folder": lambda place: place.mkdir(),
    "a file of 4 GB of nothing": lambda place: _sparse(place),
}


def _sparse(place: Path) -> None:
    place.touch()
    os.truncate(place, 4 * 2**30)


def bomb(place: Path, side: int = SIDE, depth: int = 3) -> None:
    """A picture of nothing."""
    body = packed_zeros(side * (1 + depth * side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2 if depth == 3 else 0, 0, 0, 0)
    chunks = b"".join(_chunk(*c) for c in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")))
    place.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def text_bomb(place: Path) -> None:
    """A small picture with a compressed text of 400 MB."""
    data, text = png(8, 50), packed_zeros(400 * 2**20)
    place.write_bytes(data[:33] + _chunk(b"zTXt", b"Comment\0\0" + text) + data[33:])


def packed_zeros(count: int) -> bytes:
    """So many bytes of zero, as zlib packs them, made of one piece that is repeated."""
    packer, piece = zlib.compressobj(9, wbits=-15), bytes(2**20)
    whole = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(piece[: count % len(piece)]) + packer.flush()
    adler = struct.pack(">I", (count % 65521) << 16 | 1)
    return b"\x78\xda" + whole * (count // len(piece)) + rest + adler


def made(material: Material) -> dict[str, Path]:
    """The pictures that take memory, made once."""
    bombs: dict[str, Callable[[Path], None]] = {
        f"a bomb of {SIDE}²": bomb,
        "a bomb of 60000²": partial(bomb, side=60_000, depth=1),
        "a text bomb": text_bomb,
    }
    return {kind: material.made(f"{kind}.png", make) for kind, make in bombs.items()}


PICTURES: dict[str, Callable[[Path], None]] = {
    **ODD,
    "no name": lambda place: None,
    "a zip in its place": lambda place: place.write_bytes(gzip.compress(bytes(10**8))),
    "SVG": lambda place: place.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>") and None,
    "PostScript": lambda place: (
        place.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9") and None
    ),
}


def as_picture(model: Path, make: Callable[[Path], None]) -> str | None:
    """Predicts for one picture, and for a folder with it and a good one."""
    place = Path("pictures/x.png")
    place.parent.mkdir()
    make(place)
    Path("pictures/good.png").write_bytes(png(8, 99))
    name = place if place.exists() or place.is_symlink() else ""
    command("predict", model, name)
    return None


def in_a_run(run: Path, pictures: Path, name: str, make: Callable[[Path], None]) -> str | None:
    """A file of a run is none."""
    shutil.copytree(run, "run")
    place = Path("run") / name
    place.unlink()
    make(place)
    command("predict", "run", pictures, "--detector", "energy")
    return "was read all the same"


def as_protocol(make: Callable[[Path], None]) -> str | None:
    make(Path("mine.toml"))
    command("benchmark", "mine.toml", "--out", "out", "--dry-run")
    return "was read all the same"


TEXTS: dict[str, str] = {
    "a long key": "segmentation-models-pytorch-extended\n",
    "a long key with a value": toml({**PROTOCOL, "title": "x"})
    + '"segmentation-models-pytorch-extended" = 1\n',
    "a key of 10,000 letters": "a" * 10_000 + "\n",
    "a key of 10,000 parts": ".".join("a" * 10_000) + " = 1\n",
    "a key of quotes": "'a'." * 2_000 + "x\n",
    "a key of blanks": " ." * 3_000 + "\n",
    "a key of dashes": "-" * 5_000 + " ! = 1\n",
    "deep arrays": "x = " + "[" * 10_000 + "]" * 10_000 + "\n",
    "deep tables": "x = " + "{a = " * 5_000 + "1" + "}" * 5_000 + "\n",
    "a long number": "seeds = " + "9" * 100_000 + "\n",
    "a long word in a text": 'source = """\nsegmentation-models-pytorch-extended\n"""\n',
    "long words in a list": f"notes = [\n'{'segmentation-models-pytorch-extended.' * 9}'\n]\n",
    "a text on many lines": 'title = """\n' + "segmentation-models-pytorch\n" * 5_000 + '"""\n',
    "brackets": "[" * 5_000 + "\n",
}


def reads_protocol(text: str) -> str | None:
    key = text.partition(" = ")[0]
    rest = {name: value for name, value in PROTOCOL.items() if name != key}
    Path("mine.toml").write_text(text + toml(rest))
    command("benchmark", "mine.toml", "--out", "out", "--dry-run")
    return None
