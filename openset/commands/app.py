"""The command `openset`; each command is a plain function in a file of its own."""

from __future__ import annotations

import ast
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cyclopts import App
from rich.text import Text

from openset.commands.screen import say, screen
from openset.errors import LOST, STARTED, TRACEBACK, Lost, Paused, foreseen, one_line
from openset.files import naming

app = App(
    name="openset",
    help="Teach a trained network to say: I don't know.",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

COMMANDS = {
    "demo": "demo:demo",
    "train": "train:train",
    "import": "import_network:import_network",
    "fit": "fit:fit",
    "rehearse": "rehearse:rehearse",
    "tune": "tune:tune",
    "predict": "predict:predict",
    "explain": "explain:explain",
    "monitor": "monitor:monitor",
    "discover": "discover:discover",
    "add-class": "add_class:add_class",
    "show": "show:show",
    "shares": "shares:shares",
    "export": "export:export",
    "evaluate": "evaluate:evaluate",
    "benchmark": "benchmark:benchmark",
    "build-set": "build_set:build_set",
    "report": "report:report",
    "list": "list:list_names",
}
"""Each command with its file and its function, which is imported when it is called."""


def sentence(file: str, function: str) -> str:
    """The first sentence of a command's docstring, read without importing its file."""
    tree = ast.parse(Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8"))
    (found,) = (x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == function)
    return (ast.get_docstring(found) or "").partition("\n\n")[0]


for _name, _place in COMMANDS.items():
    app.command(f"openset.commands.{_place}", name=_name, help=sentence(*_place.split(":")))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; an error ends in one sentence.

    Exit codes: 0 done, or paused by `--max-minutes`; 1 a bug in openset; 2 what was given cannot be
    used, or the machine does not suffice; 130 stopped by Ctrl-C; 141 nobody reads the output any
    more, as after `| head`; 129 and 143 stopped by SIGHUP and SIGTERM, which count as Ctrl-C:
    nothing half-written stays, and training goes on from its last checkpoint with `--resume`.
    """
    if not sys.warnoptions:  # Pillow and torch warn of damage that our own sentence names.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.|torch\.")
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
        sys.exit(stop.code if isinstance(stop, Terminated) else 130)
    except BrokenPipeError:
        # For what Python flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        if isinstance(error, Lost) and STARTED in os.environ:
            sys.exit(LOST)
        screen.print(Text.assemble(("error:", "bold red"), " ", one_line(error)))
        sys.exit(2 if foreseen(error) else 1)


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: from `kill`, a batch system, or as a container or terminal ends."""

    def __init__(self, number: int):
        super().__init__()
        self.code = 128 + number


@contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end the block as Ctrl-C does, so that files are cleaned up."""

    def stop(number: int, _: object) -> None:
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What `nohup` ignores stays ignored.
    kinds = [kind for kind in kinds if signal.getsignal(kind) is not signal.SIG_IGN]
    before = {kind: signal.signal(kind, stop) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
