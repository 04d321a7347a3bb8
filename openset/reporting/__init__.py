"""One self-contained HTML page from results: tables, curves, thresholds and the worst mistakes."""

from openset.reporting.page import report

__all__ = ["report"]
