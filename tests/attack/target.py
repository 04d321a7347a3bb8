"""A file that openset reads, and what comes of it when it is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import mutate
from .cases import SLACK, Case, command

Change = Callable[[Path], bool]
"""Changes the file at a path, and says whether another answer may be true then."""


@dataclass(frozen=True)
class Target:
    """A file that openset reads, and how.

    Args:
        kind: The row of the table.
        origin: The folder that each case gets a copy of.
        file: The file in it that is changed.
        read: What openset makes of the copy, as text; runs in its folder.
        ours: Whether openset wrote the file, so that no change of it may pass for true.
        values: Whether it is JSON, half of whose changes are of values.
        memory: Bytes that reading may take beyond those of the file as it is.
    """

    kind: str
    origin: Path
    file: str
    read: Callable[[], str]
    ours: bool = True
    values: bool = False
    memory: int = SLACK

    def case(self, name: str, change: Change, expected: str, *, reference: bool = False) -> Case:
        """A case of this file; the reference must be right."""
        attempt = partial(self._attempt, change, expected)
        return Case(
            self.kind,
            name[:200],
            attempt,
            refusable=not reference,
            reference=reference,
            memory=self.memory,
            shares=True,
            group=f"{self.kind} {self.origin.name}",
        )

    def _attempt(self, change: Change, expected: str) -> str | None:
        shutil.copytree(self.origin, ".", dirs_exist_ok=True)
        may_differ = change(Path(self.file))
        answer = self.read()
        if answer == expected or (may_differ and finite(answer)):
            return None
        return f"another answer: {difference(expected, answer)}"

    def cases(self, count: int, seed: int = 0) -> Iterator[Case]:
        """The file as it is, and so many changes of it."""
        expected = self.answer()
        yield self.case("as it is", lambda file: not self.ours, expected, reference=True)
        told = json.loads((self.origin / self.file).read_text()) if self.values else None
        half = count // 2 if self.values else 0
        for edit in mutate.draws(mutate.of_json(told), half, seed) if half else []:
            write = partial(self._write, lambda data, e=edit: mutate.edited_json(told, e).encode())
            yield self.case(repr(edit), write, expected)
        for edits in mutate.draws(mutate.of_bytes(), count - half, seed):
            yield self.case(repr(edits), partial(self._write, mutate.editing(edits)), expected)

    def edits(self, edits: list, text: Callable[[mutate.Edit], str]) -> Iterator[Case]:
        """The file as it is, and with other contents, as `text` writes each."""
        expected = self.answer()
        yield self.case("as it is", lambda file: not self.ours, expected, reference=True)
        for edit in edits:
            write = partial(self._write, lambda data, e=edit: text(e).encode())
            yield self.case(repr(edit), write, expected)

    def _write(self, edit: Callable[[bytes], bytes], file: Path) -> bool:
        data = edit(file.read_bytes())
        file.unlink()
        file.write_bytes(data)
        return not self.ours

    def answer(self) -> str:
        """The answer about the unharmed file; found before the forks, so that they start warm."""
        here, folder = os.getcwd(), self.origin.parent / "warm"
        shutil.copytree(self.origin, folder)
        os.chdir(folder)
        try:
            return self.read()
        finally:
            os.chdir(here)
            shutil.rmtree(folder)


def finite(answer: str) -> bool:
    """Whether no score of a printed answer is NaN or infinite; an infinite threshold is none."""
    words = [line.split(",")[2:3] for line in answer.splitlines()]
    return not any(word in (["nan"], ["inf"], ["-inf"]) for word in words)


def difference(one: str, other: str) -> str:
    """The first line that differs."""
    pairs = zip([*one.splitlines(), ""], [*other.splitlines(), ""], strict=False)
    first = next((pair for pair in pairs if pair[0] != pair[1]), ("", "more lines"))
    return f"{first[0]!r:.120} became {first[1]!r:.120}"


def predicted(model: str, pictures: Path) -> str:
    """The output of `openset predict` for some pictures."""
    return command("predict", model, pictures)
