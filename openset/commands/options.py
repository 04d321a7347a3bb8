"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from openset.training.settings import Settings

Device = Annotated[
    str | None, Parameter(help="`cpu`, `cuda:1`, …; by default an accelerator if there is one.")
]


Resize = Annotated[
    Literal["stretch", "shorter", "pad"],
    Parameter(
        help="An image of another aspect than `--size`: `stretch` it, resize its `shorter` side "
        "and cut the centre out, or `pad` it with black bars."
    ),
]


Interpolation = Annotated[
    Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"],
    Parameter(help="Filter that resizes, antialiased."),
]


Training = Annotated[Settings, Parameter(name="*", group="Training")]


Trust = Annotated[
    list[str] | None,
    Parameter(negative="", help="Packages outside openset that a file may have imported."),
]


Network = Annotated[
    str | None,
    Parameter(
        help="What makes the model's network, such as `eff:make`, if openset did not; the model "
        "fills it with its weights."
    ),
]


Places = Annotated[list[str], Parameter(negative="", consume_multiple=True)]
