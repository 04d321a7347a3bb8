"""`openset report`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.screen import say


def report(folder: Path) -> None:
    """Write `report.html` again from the results in a folder.

    Args:
        folder: Folder that `openset evaluate` or `openset benchmark` wrote.
    """
    from openset.evaluation.results import Results
    from openset.reporting import report as write_report

    write_report(Results.load(folder), folder / "report.html")
    say(f"report: {folder / 'report.html'}")
