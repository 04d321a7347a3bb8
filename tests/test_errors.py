"""Every error is one line that no terminal obeys; a bug is called one."""

import errno

import pyarrow
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from openset.errors import foreseen, one_line


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\nb \x1b[31mc"), r"a b \x1b[31mc"),
        (ValueError("[/red]"), "[/red]"),
        (ValueError(), "ValueError"),
        (FileNotFoundError(2, "No such file", "x\x1b[0m"), r"x\x1b[0m: No such file"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), "/out/a: No space left on"),
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/a"), "by TMPDIR"),
        (SafetensorError("Error while serializing: x"), "Error while serializing: x"),
        (pyarrow.ArrowInvalid("not parquet"), "not parquet"),
        (pyarrow.ArrowNotImplementedError("no such type"), "no such type"),
        (Image.DecompressionBombError("too large"), "too large"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "the memory does not suffice (MemoryError)"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried …"), "the memory does not suffice"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: …"), "the memory does not"),
    ],
    ids=repr,
)
def test_what_can_come_of_the_input_is_one_line(error, said, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/tmp")
    assert foreseen(error)
    assert said in one_line(error)
    assert one_line(error).isprintable()


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("no len()"), RuntimeError("size of a")])
def test_what_cannot_is_called_a_bug(error):
    assert not foreseen(error)
    line = one_line(error)
    assert line.startswith(f"this is a bug in openset: {type(error).__name__}: ")
    assert "OPENSET_TRACEBACK=1" in line
