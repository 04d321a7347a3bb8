"""The command `openset`; each command is a plain function in a file of its own."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

from cyclopts import App, Parameter
from rich.text import Text

from openset.commands.screen import say, screen
from openset.errors import TRACEBACK, Paused, foreseen, one_line
from openset.files import naming

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
    """Runs the command line; an error ends in one sentence.

    Exit codes: 0 done, or paused by `--max-minutes`; 1 a bug in openset; 2 what was given cannot be
    used, or the machine does not suffice; 130 stopped by Ctrl-C; 141 nobody reads the output any
    more, as after `| head`; 143 stopped by SIGTERM, which counts as Ctrl-C: nothing half-written
    stays, and training goes on from its last checkpoint with `--resume`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # Its encoding may lack a class's letters.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with _terminable(), naming("the output"):
            app(arguments, exit_on_error=False, print_error=False)
            sys.stdout.flush()
    except Paused as pause:
        say(str(pause))
        sys.exit(0)
    except KeyboardInterrupt as stop:
        say("stopped; nothing half-written is left behind")
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except BrokenPipeError:
        # For what Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        screen.print(Text.assemble(("error:", "bold red"), " ", one_line(error)))
        sys.exit(2 if foreseen(error) else 1)


class Terminated(KeyboardInterrupt):
    """SIGTERM came, from `kill`, a batch system or a container's end."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, so that files are cleaned up."""

    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
