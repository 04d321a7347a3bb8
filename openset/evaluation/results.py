"""The results of an evaluation: figures, and the scores, thresholds and images behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from safetensors import SafetensorError
from torch import Tensor

from openset.evaluation.gallery import (
    SHOWN,
    Details,
    interesting,
    joined_details,
    thumbnail,
    worst,
)
from openset.evaluation.maps import Maps
from openset.evaluation.metrics import METRICS
from openset.evaluation.rows import COLUMNS, Case, Row, read_csv, write_csv
from openset.evaluation.seen import Seen
from openset.evaluation.shelf import Album, Shelf, held_out_of
from openset.evaluation.stamp import stamp
from openset.evaluation.summary import Cell, Summary, mean_over_seeds
from openset.files import (
    complete_folder,
    digest_of,
    read_json,
    read_tensors,
    recovered,
    save_tensors,
    sealed_json,
)
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord
from openset.text import few

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Case", "Results", "Row", "Scored", "ThresholdRecord"]


FILES = ("results.csv", "results.json", "scores.safetensors", "figure-*.png", "report.html")
"""Patterns of the files in a folder of results, which `Results.save` replaces, and no other."""


USUAL = ("accuracy", "auroc", "fpr_at_95_tpr", "macro_f1")
"""Metrics that tables show unless others are named."""


PER_CASE = ("scored", "thresholds", "held_out", "classes", "maps", "figures", "notes")
"""What of several runs' results is joined by its key."""


@dataclass(repr=False)
class Results:
    """One long table, and all that the report draws.

    Args:
        rows: One figure each, as `results.csv` holds them.
        scored: Per case and data set, the scores of its images; `case.known` names the known data.
        thresholds: Per case, its `ThresholdRecord`.
        held_out: Per case, the held-out scores that its threshold rests on, for p-values.
        classes: Per run (`case.run`), the names of the known classes.
        images: Per run and data set, a few images `[C, H, W]` in uint8 by their index.
        details: Per run, data set and index, what is known of those images.
        maps: Per case and unknown set, a few images whose pixels were scored.
        figures: Further pictures by title, as PNG.
        notes: More on what was run, shown at the top of the report; starts with date and versions.
        shown: The metrics that tables show, in this order; empty for the usual ones.
        shown_known: The known data that tables are about; empty for all.
        seconds: Time that measuring took.

    Example:
        >>> from torch import tensor
        >>> from openset.evaluation.seen import Images
        >>> known = Images(Scored(tensor([0.1, 0.4]), tensor([0, 1]), tensor([0, 1])))
        >>> unknown = Images(Scored(tensor([0.3, 0.9]), tensor([-1, -1]), tensor([1, 0])))
        >>> results = Results()
        >>> results.add(Case(detector="energy", known="digits"), known, {"noise": unknown})
        >>> [row.value for row in results.rows if row.metric == "auroc"]
        [0.75]
    """

    rows: list[Row] = field(default_factory=list)
    scored: dict[Case, dict[str, Scored]] = field(default_factory=dict)
    thresholds: dict[Case, ThresholdRecord] = field(default_factory=dict)
    held_out: dict[Case, HeldOut] = field(default_factory=dict)
    classes: dict[Case, list[str]] = field(default_factory=dict)
    images: dict[Case, dict[str, dict[int, Tensor]]] = field(default_factory=dict)
    details: dict[Case, dict[str, dict[int, Details]]] = field(default_factory=dict)
    maps: dict[Case, dict[str, list[Maps]]] = field(default_factory=dict)
    figures: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=stamp)
    shown: list[str] = field(default_factory=list)
    shown_known: str = ""
    seconds: float = 0.0

    def __repr__(self) -> str:
        sets = sorted({row.unknown for row in self.rows if row.unknown})
        detectors = sorted(
            {case.detector for case in self.scored} or {r.detector for r in self.rows}
        )
        return "\n".join(
            [
                f"Results: {len(self.rows)} figures, {len(self.scored)} with scores",
                f"  detectors: {few(detectors)}",
                f"  unknown: {few(sets)}",
                f"  metrics: {few(dict.fromkeys(row.metric for row in self.rows))}",
            ]
        )

    def to_pandas(self) -> DataFrame:
        """All figures as a `pandas.DataFrame`, with the columns of `results.csv`."""
        from pandas import DataFrame

        return DataFrame([asdict(row) for row in self.rows], columns=list(COLUMNS))

    def add(
        self,
        case: Case,
        known: Seen,
        unknown: Mapping[str, Seen],
        threshold: ThresholdRecord | None = None,
        *,
        held_out: HeldOut | None = None,
        classes: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        paper: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        """Measures one detector on all unknown sets and keeps its scores.

        Args:
            case: Which detector of which run.
            known: The known test data, as the detector saw it.
            unknown: The unknown sets by name.
            threshold: The threshold, with how it came about.
            held_out: The held-out scores that it rests on.
            classes: Names of the known classes.
            metrics: Metrics to measure; None for all that are usual.
            paper: Published figures by (unknown set, metric); the set is "" for the accuracy.
        """
        kept = {name: its.scored(unknown=True) for name, its in unknown.items()}
        scores = known.scored(unknown=False)
        _check(case, scores, kept, classes)
        found: dict[tuple[str, str], float] = {}
        for name, its in unknown.items():
            for metric, value in its.measure(known, metrics, threshold).items():
                found[name if METRICS[metric].needs_unknown else "", metric] = value
        for (name, metric), value in found.items():
            row = Row(**asdict(case), unknown=name, metric=metric, value=value)
            self.rows.append(replace(row, paper=(paper or {}).get((name, metric))))
        self.scored[case] = {case.known: scores, **kept}
        if maps := {name: its.maps for name, its in unknown.items() if its.maps}:
            self.maps[case] = maps
        if threshold is not None:
            self.thresholds[case] = threshold
        if held_out is not None and held_out.fitted:
            self.held_out[case] = held_out
        if classes is not None:
            self.classes[case.run] = list(classes)

    def examples(self, case: Case, data: str, count: int = 8) -> list[int]:
        """Indices of the images that a detector gets most wrong, worst first; see `worst`."""
        return worst(self.scored[case][data], known=data == case.known)[:count]

    def wanted_images(self, run: Case) -> dict[str, list[int]]:
        """The indices of the images that the report shows, per data set of a run."""
        seen: dict[str, list[Any]] = {}
        for case in (case for case in self.scored if case.run == run.run):
            threshold = self.thresholds.get(case, {}).get("value")
            for data, scored in self.scored[case].items():
                seen.setdefault(data, []).append((scored, threshold))
        share = SHOWN // max(len(seen), 1)
        return {
            data: interesting(each, share, known=data == run.known) for data, each in seen.items()
        }

    def keep_images(
        self,
        run: Case,
        data: str,
        images: Mapping[int, Tensor],
        details: Mapping[int, Details] | None = None,
    ) -> None:
        """Keeps images `[C, H, W]` (uint8, or floats in 0…1) by index, as thumbnails."""
        kept = self.images.setdefault(run.run, {}).setdefault(data, {})
        kept.update({index: thumbnail(image) for index, image in images.items()})
        told = self.details.setdefault(run.run, {}).setdefault(data, {})
        for index, its in (details or {}).items():
            told[index] = joined_details(told.get(index, {}), its)

    def mean_over_seeds(self) -> dict[Row, Cell]:
        """Each figure's mean and deviation over the seeds; see `summary.mean_over_seeds`."""
        return mean_over_seeds(self.rows)

    def summary(self, metrics: Sequence[str] | None = None) -> Summary:
        """Sets detectors down, unknown sets and metrics across, averaged over seeds.

        Args:
            metrics: Metrics to show; None for those of `shown`, or else the usual ones.
        """
        rows = [row for row in self.rows if self.shown_known in ("", row.known)]
        measured = {row.metric for row in rows}
        usual = [name for name in USUAL if name in measured]
        return Summary(rows, metrics or self.shown or usual)

    def table(self, metrics: Sequence[str] | None = None) -> Table:
        """The summary for the screen, as a rich table."""
        return self.summary(metrics).table()

    @classmethod
    def merge(cls, parts: Iterable[Results]) -> Results:
        """Joins the results of several runs; the same figure twice counts once.

        Raises:
            ValueError: If two parts give different values for the same figure.
        """
        merged = cls()
        seen: dict[Row, Row] = {}
        for part in parts:
            for row in part.rows:
                key = replace(row, value=0.0, paper=None)
                if repr(seen.setdefault(key, row)) != repr(row):
                    raise ValueError(f"two values for one figure: {seen[key]} and {row}")
            for name in PER_CASE:
                getattr(merged, name).update(getattr(part, name))
            merged.shown = part.shown or merged.shown
            merged.shown_known = part.shown_known or merged.shown_known
            merged.seconds += part.seconds
            for run, sets in part.images.items():
                for data, images in sets.items():
                    merged.keep_images(run, data, images, part.details.get(run, {}).get(data))
        merged.rows = list(seen.values())
        return merged

    def save(self, folder: str | Path) -> None:
        """Writes a folder with results.csv, results.json, scores.safetensors and the figures.

        The folder is complete or absent. One with earlier results is replaced.

        Raises:
            ValueError: If the folder holds anything but results.
        """
        with complete_folder(folder, owns=FILES) as partial:
            self.write(partial)

    def write(self, folder: Path) -> None:
        """Writes the files of `save` into an existing folder."""
        write_csv(self.rows, folder / "results.csv")
        shelf, album = Shelf(), Album(folder)
        figures = {album.put(png): title for title, png in self.figures.items()}
        cases = [self._case_record(case, shelf) for case in self.scored]
        runs = [self._run_record(run, shelf) for run in {**self.classes, **self.images}]
        save_tensors(shelf.tensors, folder / "scores.safetensors")
        record = {
            name: getattr(self, name) for name in ("notes", "shown", "shown_known", "seconds")
        }
        record |= {"runs": runs, "cases": cases, "figures": figures}
        record["table"] = digest_of(folder / "results.csv")
        (folder / "results.json").write_text(sealed_json(record), encoding="utf-8")

    def _case_record(self, case: Case, shelf: Shelf) -> dict[str, Any]:
        """A case for results.json, with the keys of its tensors."""
        held_out = self.held_out.get(case)
        return {
            "case": asdict(case),
            "threshold": self.thresholds.get(case),
            "held_out": None if held_out is None else shelf.put_all(held_out.state_dict()),
            "scored": {
                data: shelf.put_all(scored.tensors()) for data, scored in self.scored[case].items()
            },
            "maps": {
                data: [shelf.put_all(vars(each)) for each in maps]
                for data, maps in self.maps.get(case, {}).items()
            },
        }

    def _run_record(self, run: Case, shelf: Shelf) -> dict[str, Any]:
        keys = {
            data: {index: shelf.put(image) for index, image in kept.items()}
            for data, kept in self.images.get(run, {}).items()
        }
        record = {"run": asdict(run), "classes": self.classes.get(run), "images": keys}
        return record | {"details": self.details.get(run, {})}

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Reads a folder that `save` wrote; never runs code from the files.

        Raises:
            ValueError: If a file is missing or damaged, naming it.
        """
        with _reading(recovered(folder)) as folder:
            results, record = cls._table(folder)
            results._fill(record, read_tensors(folder / "scores.safetensors"), folder)
        return results

    @classmethod
    def load_table(cls, folder: str | Path) -> Results:
        """Reads the rows and the notes alone, of a folder that may lack all else.

        Raises:
            ValueError: If a file is missing or damaged, naming it.
        """
        with _reading(recovered(folder)) as folder:
            return cls._table(folder)[0]

    @classmethod
    def _table(cls, folder: Path) -> tuple[Results, dict[str, Any]]:
        record = read_json(folder / "results.json")
        if record.get("table", digest := digest_of(folder / "results.csv")) != digest:
            raise ValueError("results.csv was changed after it was written")
        notes = dict(record["notes"])
        # Before they had fields of their own, these were notes.
        shown, known = notes.pop("Shown", "").split(), notes.pop("Shown known", "")
        seconds = float(notes.pop("seconds", 0))
        results = cls(
            read_csv(folder / "results.csv"),
            notes=notes,
            shown=record.get("shown", shown),
            shown_known=record.get("shown_known", known),
            seconds=record.get("seconds", seconds),
        )
        return results, record

    def _fill(self, record: dict[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
        def taken(keys: Mapping[str, str]) -> dict[str, Tensor]:
            return {name: tensors[key] for name, key in keys.items()}

        for file, title in record["figures"].items():
            self.figures[title] = (folder / Path(file).name).read_bytes()
        for entry in record["cases"]:
            case, scored = Case(**entry["case"]), entry["scored"]
            self.scored[case] = {data: Scored(**taken(keys)) for data, keys in scored.items()}
            if entry["threshold"] is not None:
                self.thresholds[case] = entry["threshold"]
            if keys := entry.get("held_out"):
                self.held_out[case] = held_out_of(taken(keys))
            if maps := entry.get("maps"):
                self.maps[case] = {
                    data: [Maps(**taken(keys)) for keys in each] for data, each in maps.items()
                }
        for entry in record["runs"]:
            run = Case(**entry["run"])
            if entry["classes"] is not None:
                self.classes[run] = entry["classes"]
            for data, keys in entry["images"].items():
                kept = {int(index): tensors[key] for index, key in keys.items()}
                told = entry.get("details", {}).get(data, {})
                self.images.setdefault(run, {})[data] = kept
                self.details.setdefault(run, {})[data] = {int(i): its for i, its in told.items()}


@contextmanager
def _reading(folder: Path) -> Iterator[Path]:
    """Turns what reading a damaged folder raises into one sentence."""
    try:
        yield folder
    except FileNotFoundError as error:
        raise ValueError(
            f"{error.filename} is missing; name a folder that `openset evaluate` wrote"
        ) from error
    except (ValueError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} is damaged ({error}); evaluate again") from error


def _check(
    case: Case, known: Scored, unknown: Mapping[str, Scored], classes: Sequence[str] | None
) -> None:
    if case.known in unknown:
        raise ValueError(f"{case.known!r} is the known data; give the unknown set another name")
    if strangers := int((known.label < 0).sum()):
        raise ValueError(
            f"{strangers} of {len(known)} images of the known data {case.known!r} carry no known "
            "label; leave them out or pass them as an unknown set"
        )
    labels = [known.label, known.predicted, *(scored.predicted for scored in unknown.values())]
    highest = max((int(x.max()) for x in labels if len(x)), default=-1)
    if classes is not None and highest >= len(classes):
        raise ValueError(f"class {highest} has no name: {len(classes)} classes were named")
