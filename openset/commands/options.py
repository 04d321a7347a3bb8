"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from openset.training.settings import Settings

Device = Annotated[
    str | None, Parameter(help="`cpu`, `cuda:1`, …; by default an accelerator if there is one.")
]


Devices = Annotated[
    int | None,
    Parameter(
        help="Number of processes that share the work: one on each accelerator, or all on the CPU. "
        "Under `torchrun`, as many as it started."
    ),
]


def sides(size: str | None) -> int | tuple[int, int] | None:
    """Reads `224` as one side, and `360x640` as height and width."""
    parts = [] if size is None else size.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"size is {size!r}; give such as 224, or 360x640 for height and width")
    numbers = [int(part) for part in parts]
    return None if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


Resize = Annotated[
    Literal["stretch", "shorter", "pad"],
    Parameter(
        help="For images of another aspect ratio than `--size`: `stretch` them, resize the "
        "`shorter` side and crop the centre, or `pad` with black bars."
    ),
]


Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"],
    Parameter(help="Filter that resizes, antialiased."),
]


Training = Annotated[Settings, Parameter(name="*", group="Training")]


Trust = Annotated[
    list[str] | None,
    Parameter(negative="", help="Packages outside openset whose code a file may run."),
]


Network = Annotated[
    str | None,
    Parameter(
        help="Function or class that builds the network, such as `eff:make`, which you trust by "
        "naming it; needed for a network of your own."
    ),
]


Places = Annotated[list[str], Parameter(negative="", consume_multiple=True)]
