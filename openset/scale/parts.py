"""A folder of Parquet files, one for each slice, that goes on after a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openset.files import complete_file, locked, naming, read_json, refuse_foreign
from openset.scale.slices import Slice

MANIFEST = "_manifest.json"
"""It starts with `_`, which readers of partitioned Parquet pass over."""

MAPS = "_maps"
"""The folder of maps beside the parts, which such readers pass over too."""

SKIPPED = b"openset.skipped"
"""The key of a part's metadata that holds what was wrong with images without an answer."""


class Parts:
    """The parts of a folder of answers, each complete or absent and named by its slice's digest.

    Args:
        folder: Where they lie.
        slices: The slices of the inputs, in their order.
    """

    def __init__(self, folder: Path, slices: Sequence[Slice]):
        self.folder = folder
        self.slices = {f"part-{i:06}-{s.digest}.parquet": s for i, s in enumerate(slices)}

    @contextmanager
    def begun(self, asked: Mapping[str, Any]) -> Iterator[None]:
        """Keeps other processes out while parts are written; begins a manifest, or checks it.

        Args:
            asked: What the answers depend on besides their images.

        Raises:
            ValueError: If the folder holds anything else, or answers to another question.
        """
        manifest, told = self.folder / MANIFEST, {**asked, "parts": [*self.slices]}
        known = manifest.exists()
        refuse_foreign(self.folder, (MANIFEST, MAPS, "part-*.parquet") if known else ())
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = f"another process is writing {self.folder}; wait for its end"
        with locked(self.folder / ".parts.lock", busy):
            if not known:
                self._note({"complete": False, **told})
            elif read_json(manifest) | told != read_json(manifest):
                raise ValueError(
                    f"{self.folder} holds answers of another model, other options or other images, "
                    "or images have changed since; name a new folder"
                )
            yield
            rows, skipped = self.told()
            self._note({"complete": True, **told, "rows": rows, "skipped": skipped})

    def left(self) -> list[tuple[str, Slice]]:
        """The parts that are not there yet."""
        return [(name, s) for name, s in self.slices.items() if not (self.folder / name).exists()]

    def write_maps(self, maps: Mapping[str, bytes]) -> None:
        """Writes files beside the parts, each complete or absent; older ones are replaced."""
        for name, content in maps.items():
            place = self.folder / MAPS / name
            place.parent.mkdir(exist_ok=True)
            partial = place.with_name(f".{name}.partial")
            with naming(place):
                partial.write_bytes(content)
            os.replace(partial, place)

    def write(self, name: str, table: Any) -> None:
        """Writes one part, after the maps that it tells of."""
        from pyarrow import parquet

        if (self.folder / MAPS).exists() and hasattr(os, "sync"):
            os.sync()  # Not even a power cut leaves the part without its maps; all at once is fast.
        with complete_file(self.folder / name) as partial:
            parquet.write_table(table, partial)

    def told(self) -> tuple[int, list[str]]:
        """The number of answers in all parts, and what was wrong with each other image."""
        from pyarrow import parquet

        found = [parquet.read_metadata(self.folder / name) for name in self.slices]
        skipped = [line for each in found for line in json.loads((each.metadata or {})[SKIPPED])]
        return sum(each.num_rows for each in found), skipped

    def _note(self, told: Mapping[str, Any]) -> None:
        with complete_file(self.folder / MANIFEST) as partial:
            partial.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
