"""The results of an evaluation: figures, and the scores, thresholds and images behind them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from openset.evaluation.metrics import METRICS
from openset.evaluation.rows import COLUMNS, Case, Row, read_csv, write_csv
from openset.evaluation.seen import Seen
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
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord
from openset.text import few

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Case", "Results", "Row", "Scored", "ThresholdRecord"]


FILES = ("results.csv", "results.json", "scores.safetensors", "figure-*.png", "report.html")
"""Patterns of the files in a folder of results, which `Results.save` replaces, and no other."""


EXAMPLES = 8
"""Images shown per detector and data set: the most wrongly accepted or rejected."""


USUAL = ("accuracy", "auroc", "fpr_at_95_tpr", "macro_f1")
"""Metrics that tables show unless others are named."""


THUMBNAIL = 96
"""Longest side in pixels of the images that are kept."""


@dataclass(repr=False)
class Results:
    """One long table, and all that the report draws.

    Args:
        rows: One figure each, as `results.csv` holds them.
        scored: Per case and data set, the scores of its images; `case.known` names the known data.
        thresholds: Per case, its `ThresholdRecord`.
        classes: Per run (`case.run`), the names of the known classes.
        images: Per run and data set, a few images `[C, H, W]` in uint8 by their index.
        pictures: Per case and unknown set, a picture of a few images with their answers, as PNG.
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
    classes: dict[Case, list[str]] = field(default_factory=dict)
    images: dict[Case, dict[str, dict[int, Tensor]]] = field(default_factory=dict)
    pictures: dict[Case, dict[str, bytes]] = field(default_factory=dict)
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
        if pictures := {name: its.picture for name, its in unknown.items() if its.picture}:
            self.pictures[case] = pictures
        if threshold is not None:
            self.thresholds[case] = threshold
        if classes is not None:
            self.classes[case.run] = list(classes)

    def examples(self, case: Case, data: str, count: int = EXAMPLES) -> list[int]:
        """Indices of the images that a detector gets most wrong, worst first.

        The highest scores of the known data, the lowest of an unknown set.
        """
        score = self.scored[case][data].score
        order = score.argsort(descending=data == case.known, stable=True)
        return order[:count].tolist()

    def wanted_images(self, run: Case) -> dict[str, list[int]]:
        """The indices of the images that the report shows, per data set of a run."""
        wanted: dict[str, set[int]] = {}
        for case in (case for case in self.scored if case.run == run.run):
            for data in self.scored[case]:
                wanted.setdefault(data, set()).update(self.examples(case, data))
        return {data: sorted(indices) for data, indices in wanted.items()}

    def keep_images(self, run: Case, data: str, images: Mapping[int, Tensor]) -> None:
        """Keeps images `[C, H, W]` (uint8, or floats in 0…1) by index, as thumbnails."""
        kept = self.images.setdefault(run.run, {}).setdefault(data, {})
        kept.update({index: thumbnail(image) for index, image in images.items()})

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
            for name in ("scored", "thresholds", "classes", "pictures", "figures", "notes"):
                getattr(merged, name).update(getattr(part, name))
            merged.shown = part.shown or merged.shown
            merged.shown_known = part.shown_known or merged.shown_known
            merged.seconds += part.seconds
            for run, sets in part.images.items():
                for data, images in sets.items():
                    merged.keep_images(run, data, images)
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
        shelf, album = _Shelf(), _Album(folder)
        figures = {album.put(png): title for title, png in self.figures.items()}
        cases = [self._case_record(case, shelf, album) for case in self.scored]
        runs = [self._run_record(run, shelf) for run in {**self.classes, **self.images}]
        save_tensors(shelf.tensors, folder / "scores.safetensors")
        record = {
            name: getattr(self, name) for name in ("notes", "shown", "shown_known", "seconds")
        }
        record |= {"runs": runs, "cases": cases, "figures": figures}
        record["table"] = digest_of(folder / "results.csv")
        (folder / "results.json").write_text(sealed_json(record), encoding="utf-8")

    def _case_record(self, case: Case, shelf: _Shelf, album: _Album) -> dict[str, Any]:
        """A case for results.json, with the keys of its tensors and the files of its pictures."""
        keys = {
            data: {name: shelf.put(x) for name, x in scored.tensors().items()}
            for data, scored in self.scored[case].items()
        }
        pictures = {data: album.put(png) for data, png in self.pictures.get(case, {}).items()}
        record = {"case": asdict(case), "threshold": self.thresholds.get(case), "scored": keys}
        return record | {"pictures": pictures}

    def _run_record(self, run: Case, shelf: _Shelf) -> dict[str, Any]:
        keys = {
            data: {index: shelf.put(image) for index, image in kept.items()}
            for data, kept in self.images.get(run, {}).items()
        }
        return {"run": asdict(run), "classes": self.classes.get(run), "images": keys}

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
        def picture(file: str) -> bytes:
            return (folder / Path(file).name).read_bytes()

        for file, title in record["figures"].items():
            self.figures[title] = picture(file)
        for entry in record["cases"]:
            case = Case(**entry["case"])
            self.scored[case] = {
                data: Scored(**{name: tensors[key] for name, key in keys.items()})
                for data, keys in entry["scored"].items()
            }
            if entry["threshold"] is not None:
                self.thresholds[case] = entry["threshold"]
            if files := entry.get("pictures"):
                self.pictures[case] = {data: picture(file) for data, file in files.items()}
        for entry in record["runs"]:
            run = Case(**entry["run"])
            if entry["classes"] is not None:
                self.classes[run] = entry["classes"]
            for data, keys in entry["images"].items():
                kept = {int(index): tensors[key] for index, key in keys.items()}
                self.images.setdefault(run, {})[data] = kept


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


class _Shelf:
    """Tensors under numbered keys; equal ones, such as labels of several records, lie once."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}
        self._keys: dict[tuple[Any, ...], str] = {}

    def put(self, x: Tensor) -> str:
        """Returns the key under which a tensor is saved."""
        # A copy, because safetensors refuses tensors that are views of one memory.
        x = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        digest = sha256(x.flatten().view(torch.uint8).numpy().data).digest()
        key = self._keys.setdefault((digest, x.dtype, x.shape), str(len(self._keys)))
        self.tensors[key] = x
        return key


class _Album:
    """Pictures as numbered files of a folder."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def put(self, png: bytes) -> str:
        """Writes a picture and returns the name of its file."""
        self.count += 1
        file = self.folder / f"figure-{self.count}.png"
        file.write_bytes(png)
        return file.name


def thumbnail(image: Tensor) -> Tensor:
    """An image `[C, H, W]` as uint8, at most `THUMBNAIL` pixels a side."""
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    shrink = THUMBNAIL / max(image.shape[1:])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in image.shape[1:]]
        image = F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)
    return image.cpu().contiguous()
