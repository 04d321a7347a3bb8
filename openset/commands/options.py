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
        help="Function or class that builds the model's network, such as `eff:make`, if openset "
        "did not build it; the model's weights are loaded into it."
    ),
]


Places = Annotated[list[str], Parameter(negative="", consume_multiple=True)]
