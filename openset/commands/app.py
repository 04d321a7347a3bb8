"""The command `openset`; each command is a plain function in a file of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from openset.commands.screen import say, screen
from openset.errors import Paused, one_line

app = App(
    name="openset",
    help="Teach a trained network to say: I don't know.",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)


Device = Annotated[str | None, Parameter(help="`cpu`, `cuda:1`, …; by default an accelerator.")]

COMMANDS = {
    "demo": (
        "openset.commands.demo:demo",
        "Do the whole job on embedded digits: six classes are known, the other four unknown.",
    ),
    "train": (
        "openset.commands.train:train",
        "Train a network on the known classes of a data set.",
    ),
    "fit": (
        "openset.commands.fit:fit",
        "Fit detectors to a trained network and set their thresholds from known data alone.",
    ),
    "tune": (
        "openset.commands.tune:tune",
        "Choose a detector's settings, such as ODIN's temperature and ε, on validation data.",
    ),
    "predict": (
        "openset.commands.predict:predict",
        "Label image files, or call them unknown.",
    ),
    "export": (
        "openset.commands.export:export",
        "Write network, detector and threshold as one ONNX file, checked against the model.",
    ),
    "evaluate": (
        "openset.commands.evaluate:evaluate",
        "Measure detectors on the known test images and on unknown ones.",
    ),
    "benchmark": (
        "openset.commands.benchmark:benchmark",
        "Run a protocol: the paper's table with ours beside it.",
    ),
    "build-set": (
        "openset.commands.build_set:build_set",
        "Make a segmentation set from your own copies of what may not be passed on.",
    ),
    "report": (
        "openset.commands.report:report",
        "Write `report.html` again from the results in a folder.",
    ),
    "list": (
        "openset.commands.list:list_names",
        "List detectors, densities, objectives, networks, metrics, protocols or data.",
    ),
}
"""Each command with its function, imported when it is called, and its line in the help."""

for _name, (_place, _help) in COMMANDS.items():
    app.command(_place, name=_name, help=_help)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; bad input ends in one sentence and exit code 2."""
    try:
        app(arguments, exit_on_error=False, print_error=False)
    except Paused as pause:
        say(str(pause))
        sys.exit(0)
    except KeyboardInterrupt:
        screen.print("[bold]stopped[/]; nothing half-written is left behind")
        sys.exit(130)
    except (ValueError, ArithmeticError, OSError, CycloptsError) as error:
        screen.print(f"[bold red]error:[/] {one_line(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)
