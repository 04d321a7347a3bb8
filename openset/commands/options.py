"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from openset.training.settings import Settings

Device = Annotated[
    str | None, Parameter(help="`cpu`, `cuda:1`, …; by default an accelerator if there is one.")
]


Training = Annotated[Settings, Parameter(name="*", group="Training")]


Trust = Annotated[
    list[str] | None,
    Parameter(negative="", help="Packages outside openset that a file may have imported."),
]


Places = Annotated[list[str], Parameter(negative="", consume_multiple=True)]
