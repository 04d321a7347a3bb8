"""Images wherever they lie, cut into slices that one worker reads and scores at a time."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from openset.data.columns import is_image
from openset.data.decode import shown
from openset.data.folders import SUFFIXES, find_images, image_files
from openset.data.pixels import short_hash
from openset.data.shards import find_shards
from openset.model.maps import names_of

SLICE = 1024
"""Images of a slice: image files as many, row groups of Parquet until there are as many."""

READERS = 16
"""Files or rows that a worker fetches at once, since a store far away takes its time for each."""

STATES = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated", "created")
"""Facts of file systems that change with a file's content, the surest first."""

Picture = tuple[str, bytes | str]
"""An image's name, and its file's content or, as text, what is wrong with it."""


class File(NamedTuple):
    """A file by its place for every worker, its name for people, and its size and age."""

    place: str
    name: str
    state: str

    @property
    def kind(self) -> str:
        """What it holds, by its ending: `parquet`, `tar` or `images`."""
        ending = os.path.splitext(self.place)[1].lower()
        return ending[1:] if ending in (".parquet", ".tar") else "images"


@dataclass(frozen=True)
class Slice:
    """The images of some image files, of a shard, or of row groups of a Parquet file.

    Args:
        files: The files, all of one kind and on one file system.
        groups: Row groups, of Parquet.
        start: The rows before these groups.
        names: A name for the maps of each file, of image files.
        number: What its maps are called by where they have no such names.
    """

    files: tuple[File, ...]
    groups: tuple[int, ...] = ()
    start: int = 0
    names: tuple[str, ...] = ()
    number: int = 0

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with the slice and with its files."""
        return short_hash(repr(self))

    def pictures(self) -> Iterator[Picture]:
        """Its images in their order, read from where they lie."""
        readers = {"images": _of_files, "parquet": self._of_parquet, "tar": _of_shard}
        return readers[self.files[0].kind](self.files)

    def called(self, index: int) -> str:
        """The name of the maps of its picture at an index, which no other picture has."""
        return self.names[index] if self.names else f"{self.number:06}-{index:06}"

    def _of_parquet(self, files: Sequence[File]) -> Iterator[Picture]:
        from pyarrow import parquet

        (file,), row = files, self.start
        with opened(file) as stream:
            table = parquet.ParquetFile(stream)
            column = image_column(table.schema_arrow, file.name)
            for batch in table.iter_batches(READERS, [*self.groups], [column]):
                for cell in batch.column(0).to_pylist():
                    path = f" ({shown(os.fsdecode(cell['path']))})" if cell and cell["path"] else ""
                    name, content = f"{file.name}[{row}]{path}", cell and cell["bytes"]
                    yield name, content or f"{name} holds no bytes of an image; remove the row"
                    row += 1


def find_slices(places: Iterable[str], most: int | None = None) -> list[Slice]:
    """The slices of files, folders, globs and URLs, in their order; nothing is decoded.

    A folder stands for its Parquet files, or else its shards, or else its image files.

    Args:
        places: Paths, globs and URLs.
        most: Images of a slice, `SLICE` by default.

    Raises:
        ValueError: For a place without images, and for what fsspec cannot reach.
    """
    files = [file for place in places for file in _files_of(str(place))]
    if not files:
        raise ValueError("no images given; give image files, Parquet, tar shards or folders")
    most, slices = most or SLICE, []
    for (kind, _), group in groupby(files, lambda file: (file.kind, protocol(file))):
        some = tuple(group)
        if kind == "images":
            slices += [Slice(some[i : i + most]) for i in range(0, len(some), most)]
        else:
            for file in some:
                slices += _row_groups(file, most) if kind == "parquet" else [Slice((file,))]
    return slices


def named(slices: Sequence[Slice]) -> list[Slice]:
    """The same slices with names for their maps.

    Those of image files alone are the names that `write_maps` gives them.
    """
    if any(piece.files[0].kind != "images" for piece in slices):
        return [replace(piece, number=i) for i, piece in enumerate(slices)]
    names = iter(names_of([file.name for piece in slices for file in piece.files]))
    return [replace(piece, names=tuple(islice(names, len(piece.files)))) for piece in slices]


def protocol(file: File) -> str:
    """The file system's name in a URL; nothing for a path."""
    return file.place.partition("://")[0] if "://" in file.place else ""


def system(file: File) -> Any:
    """The file system of a file; credentials come from the environment, as each documents."""
    import fsspec

    return fsspec.filesystem(protocol(file) or "file")


def opened(file: File) -> Any:
    """The file as a stream of bytes."""
    return system(file).open(file.place, "rb")


def image_column(schema: Any, name: str) -> str:
    """The first column of images in a schema of Arrow.

    Raises:
        ValueError: If there is none.
    """
    from datasets import Features

    for column, feature in Features.from_arrow_schema(schema).items():
        if is_image(feature):
            return column
    raise ValueError(
        f"{name} has no column of images (columns: {', '.join(schema.names)}); give one of "
        "structs of bytes and path, as Hugging Face writes it"
    )


def _files_of(place: str) -> list[File]:
    if "://" in place:
        return _far_files(place)
    path = Path(place)
    found = (sorted(path.rglob("*.parquet")) or find_shards(path)) if path.is_dir() else []
    found = found or (image_files(path) if path.is_dir() else []) or find_images([place])
    return [File(str(p.absolute()), shown(p), _state_of(p)) for p in found]


def _state_of(path: Path) -> str:
    told = path.stat()
    return f"{told.st_size} {told.st_mtime_ns}"


def _far_files(place: str) -> list[File]:
    from fsspec.core import url_to_fs

    if "::" in place:
        raise ValueError(f"{place} chains file systems; unpack it, or give one that is not chained")
    try:
        files, root = url_to_fs(place)
        folder = files.isdir(root)
        found = files.find(root, detail=True) if folder else files.glob(root, detail=True)
    except (ImportError, ValueError) as error:
        raise ValueError(f"cannot read {place}: {error}") from error
    urls: dict[str, dict[str, Any]] = {
        files.unstrip_protocol(path): info
        for path, info in sorted(found.items())
        if not (folder and "/." in path.removeprefix(root))
    }
    each = [File(url, url, _told(info)) for url, info in urls.items()]
    images = [f for f in each if f.kind != "images" or Path(f.place).suffix.lower() in SUFFIXES]
    kinds = [[f for f in images if f.kind == kind] for kind in ("parquet", "tar", "images")]
    chosen = next((some for some in kinds if some), []) if folder else each
    if not chosen:
        raise ValueError(f"no image at {place}; give image files, Parquet, tar shards or folders")
    return chosen


def _told(info: dict[str, Any]) -> str:
    age = next((info[key] for key in STATES if info.get(key) is not None), "")
    return f"{info.get('size')} {age}"


def _row_groups(file: File, most: int) -> list[Slice]:
    """A Parquet file by row groups, several of them where they are small."""
    from pyarrow import ArrowInvalid, parquet

    try:
        with opened(file) as stream:
            table = parquet.ParquetFile(stream)
            image_column(table.schema_arrow, file.name)
            rows = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    except ArrowInvalid as error:
        raise ValueError(f"cannot read {file.name} as Parquet: {error}") from error
    slices, groups, start, count = [], (), 0, 0
    for i, number in enumerate(rows):
        groups, count = (*groups, i), count + number
        if count >= most or i + 1 == len(rows):
            slices.append(Slice((file,), groups, start))
            groups, start, count = (), start + count, 0
    return slices


def _of_files(files: Sequence[File]) -> Iterator[Picture]:
    store = system(files[0])

    def fetch(file: File) -> Picture:
        try:
            return file.name, store.cat_file(file.place)
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            return file.name, f"cannot read {file.name}: {error.strerror or error}"

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(fetch, files)


def _of_shard(files: Sequence[File]) -> Iterator[Picture]:
    """The images of a shard, the first of each sample as `Shards` has it, in one pass."""
    (file,), seen = files, set()
    try:
        with opened(file) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                folder, slash, base = entry.name.rpartition("/")
                stem, _, ending = base.partition(".")
                image = f".{ending.rpartition('.')[2].lower()}" in SUFFIXES
                key = folder + slash + stem
                content = archive.extractfile(entry) if image and stem and key not in seen else None
                if content is not None:
                    seen.add(key)
                    yield f"{file.name}/{shown(entry.name)}", content.read()
    except tarfile.TarError as error:
        yield file.name, f"cannot read {file.name} to its end as an uncompressed tar file: {error}"
