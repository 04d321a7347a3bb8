"""Data sets as tables: of a folder, a file, or the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from openset.data.builders.build import how_to_get
from openset.data.columns import quiet
from openset.data.folders import read_image_folder
from openset.data.listings import READERS, read_listing, read_listings, with_images
from openset.data.places import known_names
from openset.data.source import split_in
from openset.errors import unknown_name

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def read_folder(folder: Path) -> dict[str, Dataset]:
    """A folder of parquet files, of what `save_to_disk` wrote, of tables of paths, or of images."""
    parquet = sorted(folder.rglob("*.parquet"))
    if parquet:
        return read_parquet(folder, parquet)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return read_saved(folder)
    return read_listings(folder) or read_image_folder(folder)


def read_file(file: Path) -> dict[str, Dataset]:
    """One file: a table of paths and labels, or parquet.

    Raises:
        ValueError: For a file of another kind.
    """
    ending = file.suffix.lower()
    if ending in READERS:
        return read_listing(file)
    if ending == ".parquet":
        return read_parquet(file, [file])
    raise ValueError(
        f"{file} is a file of an unknown kind; give a folder, or a file that ends in "
        f"{', '.join(READERS)}, .parquet, .npz or .tar"
    )


def read_parquet(place: Path, files: Sequence[Path]) -> dict[str, Dataset]:
    """The splits of parquet files, of images or of paths to them.

    Raises:
        ValueError: For files that cannot be read, or that declare different classes.
    """
    from datasets import load_dataset

    folder = place if place.is_dir() else place.parent
    try:
        _refuse_other_classes(files)
        with quiet():
            found: Any = (
                load_dataset(str(place))
                if place.is_dir()
                else load_dataset("parquet", data_files={_split(place): [str(place)]})
            )
    except Exception as error:  # parquet, Arrow and Hugging Face each have their own
        raise ValueError(f"cannot read the parquet files of {place}: {error}") from error
    return {name: with_images(table, folder, f"{place}:{name}") for name, table in found.items()}


def _split(file: Path) -> str:
    return split_in(file.stem) or "train"


def _refuse_other_classes(files: Sequence[Path]) -> None:
    """Raises where files declare different classes: only the first one's names would be read."""
    import pyarrow.parquet as parquet
    from datasets import ClassLabel, Features

    first: dict[str, tuple[list[str], Path]] = {}
    for file in files:
        for column, feature in Features.from_arrow_schema(parquet.read_schema(file)).items():
            if isinstance(feature, ClassLabel):
                names, other = first.setdefault(column, (feature.names, file))
                if names != feature.names:
                    raise ValueError(
                        f"{other.name} and {file.name} declare different classes for {column!r}; "
                        "write labels as text, or declare the same ones in both"
                    )


def read_saved(folder: Path) -> dict[str, Dataset]:
    """Reads what `save_to_disk` of a `datasets.Dataset` or `DatasetDict` wrote: tables by split."""
    from datasets import Dataset, load_from_disk

    try:
        found = load_from_disk(str(folder))
    except Exception as error:  # Arrow and Hugging Face each have their own
        raise ValueError(f"cannot read the data set of {folder}: {error}") from error
    return {"train": found} if isinstance(found, Dataset) else cast("dict[str, Dataset]", found)


def given_tables(given: Any) -> dict[str, Dataset]:
    """The tables of a `datasets.Dataset` or `DatasetDict` that a caller has.

    Raises:
        ValueError: For anything else.
    """
    from datasets import Dataset

    if isinstance(given, Dataset):
        return {"train": given}
    if isinstance(given, dict) and given and all(isinstance(x, Dataset) for x in given.values()):
        return dict(given)
    raise ValueError(
        f"data is a {type(given).__name__}; give a data string such as a folder, or a "
        "datasets.Dataset or DatasetDict"
    )


def read_hub(name: str, configuration: str | None) -> dict[str, Dataset]:
    """A set from the Hugging Face hub, or from the copy that an earlier download left here.

    Raises:
        ValueError: For what is nowhere, with the nearest names that are.
    """
    from datasets import config, load_dataset
    from huggingface_hub import HfApi

    _refuse_no_id(name)
    owner, _, title = name.partition("/")
    cached = Path(config.HF_DATASETS_CACHE) / f"{owner}___{title}"
    try:
        if not cached.is_dir():
            # Asked once here, because load_dataset tries an unreachable hub for half a minute.
            HfApi().dataset_info(name, timeout=10)
        with quiet():
            return cast("dict[str, Dataset]", load_dataset(name, configuration))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        root = os.environ.get("OPENSET_DATA", "which is not set")
        near = get_close_matches(name, known_names(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(
            f"{name} is no folder here nor below $OPENSET_DATA, {root}{hint}; the Hugging "
            f"Face hub says: {reason}. Set OPENSET_DATA to the folder that "
            f"holds {name}, or go online"
        ) from error


def _refuse_no_id(name: str) -> None:
    if help := how_to_get(name):
        raise ValueError(f"{name} is not on this machine, and may not be passed on. {help}")
    if not HUB_ID.fullmatch(name):
        root = os.environ.get("OPENSET_DATA")
        raise ValueError(
            f"{unknown_name('data set', name, known_names())} A folder, or a Hugging Face id "
            f"such as ylecun/mnist, works too; $OPENSET_DATA is {root or 'not set'}"
        )
