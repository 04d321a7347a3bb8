"""The paper's table: means over sets and splits, and the published figure beside each of ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from openset.benchmark.protocol import Figures, Protocol
from openset.benchmark.protocol_file import KNOWN
from openset.data.sources import DataName
from openset.evaluation.rows import Row
from openset.evaluation.summary import MEAN


def paper_rows(protocol: Protocol, rows: Sequence[Row]) -> list[Row]:
    """The measured rows, with the means and the published figures that the paper's table shows.

    A mean over a group of unknown sets is named after it, and a mean over splits has a known set of
    its own. Published figures stand beside the mean over the splits, if there are several; those of
    methods or sets that were not run have no value.
    """
    rows = [*rows, *group_means(protocol, rows)]
    rows += split_means(protocol, rows)
    return list(with_figures(protocol, rows))


def group_name(group: str) -> str:
    """The name, in the results, of the mean over a group of unknown sets."""
    return f"{MEAN} of {group}"


def shown_known(protocol: Protocol) -> str:
    """The known set that the paper's table is about."""
    splits = len(protocol.splits)
    return f"{protocol.data}, {MEAN} of {splits} splits" if splits > 1 else protocol.data


def group_means(protocol: Protocol, rows: Iterable[Row]) -> Iterator[Row]:
    """The mean over the unknown sets of each group of two or more."""
    rows = list(rows)
    for group, names in protocol.unknown.items():
        members = [row for row in rows if row.unknown in names]
        if group and len({row.unknown for row in members}) > 1:
            yield from _means(replace(row, unknown=group_name(group)) for row in members)


def split_means(protocol: Protocol, rows: Iterable[Row]) -> Iterator[Row]:
    """The mean over all splits, of figures that are there for each."""
    if (splits := len(protocol.splits)) > 1:
        known = shown_known(protocol)
        yield from _means((replace(row, known=known) for row in rows), splits)


def _means(rows: Iterable[Row], least: int = 1) -> Iterator[Row]:
    values: dict[Row, list[float]] = {}
    for row in rows:
        values.setdefault(replace(row, value=0.0, paper=None), []).append(row.value)
    for row, found in values.items():
        if len(found) >= least:
            yield replace(row, value=fmean(found))


def with_figures(protocol: Protocol, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows with their published figures, then the figures that have no row."""
    known, seen = shown_known(protocol), set()
    tuned_on: dict[tuple[str, str, str], str] = {}
    for row in rows:
        tuned_on[row.network, row.objective, row.detector] = row.tuned_on
        published = _published(protocol, row)
        place = (_bare(protocol, row.unknown) or KNOWN, row.metric)
        figure = published.get(place) if row.known == known else None
        if figure is not None:
            seen.add((row.network, row.objective, row.detector, *place))
        yield replace(row, paper=figure)
    for line, figures in _lines(protocol, known):
        method = (line.network, line.objective, line.detector)
        row = replace(line, tuned_on=tuned_on.get(method, ""))
        for (unknown, metric), figure in _flat(figures).items():
            if (*method, unknown, metric) not in seen:
                name = _full(protocol, unknown)
                yield replace(row, unknown=name, metric=metric, paper=figure)


def _published(protocol: Protocol, row: Row) -> dict[tuple[str, str], float]:
    for method in protocol.methods:
        if (method.network, method.objective) == (row.network, row.objective):
            return _flat(method.published.get(row.detector, {}))
    return {}


def _lines(protocol: Protocol, known: str) -> Iterator[tuple[Row, Mapping]]:
    """A row without a value for each line of the paper's table, with its figures."""
    empty = Row(protocol=protocol.name, known=known, value=math.nan)
    for method in protocol.methods:
        own = replace(empty, network=method.network, objective=method.objective)
        for detector, figures in method.published.items():
            yield replace(own, detector=detector), figures
    others: Figures = protocol.others
    for name, figures in others.items():
        yield replace(empty, detector=name), figures


def _flat(figures: Mapping[str, Mapping[str, float]]) -> dict[tuple[str, str], float]:
    return {
        (unknown, metric): float(value)
        for unknown, values in figures.items()
        for metric, value in values.items()
    }


def _bare(protocol: Protocol, unknown: str) -> str:
    """The name of an unknown set beside published figures: without settings such as a limit."""
    groups = {group_name(group): group for group in protocol.unknown}
    return groups.get(unknown) or (str(DataName.parse(unknown)) if unknown else "")


def _full(protocol: Protocol, unknown: str) -> str:
    """The name, in the results, of an unknown set or a group of the published figures."""
    if unknown == KNOWN:
        return ""
    if unknown in protocol.unknown:
        return group_name(unknown)
    return next((x for x in protocol.unknown_sets if _bare(protocol, x) == unknown), unknown)
