"""One self-contained HTML page from results: tables, curves, thresholds and the worst mistakes."""

from openset.report.page import report

__all__ = ["report"]
