"""The command `openset`; each command is a plain function in a file of its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError

from openset.commands.screen import say, screen
from openset.errors import Paused, one_line

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
    "fit": "fit:fit",
    "tune": "tune:tune",
    "predict": "predict:predict",
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
