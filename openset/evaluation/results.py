"""What an evaluation found: figures, and the scores, thresholds and images behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor
from torch.nn import functional as F

from openset.evaluation.metrics import METRICS, STANDARD, measure
from openset.evaluation.rows import Case, Row, read_csv, write_csv
from openset.evaluation.stamp import stamp
from openset.evaluation.summary import Cell, Summary, mean_over_seeds
from openset.files import check_digest, complete_folder, digest_of, read_json, sealed_json
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord

__all__ = ["Case", "Results", "Row", "Scored", "ThresholdRecord"]


FILES = ("results.csv", "results.json", "scores.safetensors", "figure-*.png", "report.html")
"""What a folder of results may hold; `Results.save` replaces a folder of these and no other."""


EXAMPLES = 8
"""Images shown per detector and data set: the most wrongly accepted or rejected."""


THUMBNAIL = 96
"""Longest side in pixels of the images that are kept."""


@dataclass
class Results:
    """One long table, and what the report draws.

    Args:
        rows: One figure each; what `results.csv` holds.
        scored: Per case and data set, the scores of its images; `case.known` names the known data.
        thresholds: Per case, its `ThresholdRecord`.
        classes: Per run (`case.run`), the names of the known classes.
        images: Per run and data set, a few images `[C, H, W]` in uint8 by their index.
        figures: Further pictures by title, as PNG bytes.
        notes: More on what was run, shown at the top of the report; starts with date and versions.

    Example:
        >>> from torch import tensor
        >>> known = Scored(tensor([0.1, 0.4]), tensor([0, 1]), tensor([0, 1]))
        >>> unknown = Scored(tensor([0.3, 0.9]), tensor([-1, -1]), tensor([1, 0]))
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
    figures: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=stamp)

    def add(
        self,
        case: Case,
        known: Scored,
        unknown: Mapping[str, Scored],
        threshold: ThresholdRecord | None = None,
        *,
        classes: Sequence[str] | None = None,
        metrics: Iterable[str] = STANDARD,
        paper: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        """Measures one detector on all unknown sets and keeps its scores.

        Args:
            case: Which detector of which run.
            known: Scores of the known test data.
            unknown: Name of each unknown set to its scores.
            threshold: The threshold, with how it came about.
            classes: Names of the known classes.
            metrics: What to measure.
            paper: Published figures by (unknown set, metric); the set is "" for the accuracy.
        """
        metrics, paper = list(metrics), paper or {}
        _check(case, known, unknown, classes)
        cut = threshold["value"] if threshold and "value" in threshold else None
        training = threshold.get("training") if threshold else None
        found: dict[tuple[str, str], float] = {}
        for name, scored in unknown.items():
            measured = measure(known, scored, cut, metrics, training=training)
            for metric, value in measured.items():
                found[name if METRICS[metric].needs_unknown else "", metric] = value
        for (name, metric), value in found.items():
            row = Row(**asdict(case), unknown=name, metric=metric, value=value)
            self.rows.append(replace(row, paper=paper.get((name, metric))))
        self.scored[case] = {case.known: known, **unknown}
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
        """Detectors down, unknown sets and metrics across, averaged over seeds."""
        measured = {row.metric for row in self.rows}
        first = ("accuracy", "auroc", "fpr_at_95_tpr", "macro_f1")
        return Summary(self.rows, metrics or [name for name in first if name in measured])

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
            for name in ("scored", "thresholds", "classes", "figures", "notes"):
                getattr(merged, name).update(getattr(part, name))
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
        shelf = _Shelf()
        cases = [self._case_record(case, shelf) for case in self.scored]
        runs = [self._run_record(run, shelf) for run in {**self.classes, **self.images}]
        figures = {f"figure-{i}.png": title for i, title in enumerate(self.figures, start=1)}
        for file, title in figures.items():
            (folder / file).write_bytes(self.figures[title])
        save_file(shelf.tensors, folder / "scores.safetensors")
        record = {"notes": self.notes, "runs": runs, "cases": cases, "figures": figures}
        files = ["results.csv", "scores.safetensors", *figures]
        record["sha256"] = {file: digest_of(folder / file) for file in files}
        (folder / "results.json").write_text(sealed_json(record), encoding="utf-8")

    def _case_record(self, case: Case, shelf: _Shelf) -> dict[str, Any]:
        """A case for results.json; its tensors go on the shelf under the keys that it names."""
        keys = {
            data: {name: shelf.put(x) for name, x in vars(scored).items()}
            for data, scored in self.scored[case].items()
        }
        return {"case": asdict(case), "threshold": self.thresholds.get(case), "scored": keys}

    def _run_record(self, run: Case, shelf: _Shelf) -> dict[str, Any]:
        keys = {
            data: {index: shelf.put(image) for index, image in kept.items()}
            for data, kept in self.images.get(run, {}).items()
        }
        return {"run": asdict(run), "classes": self.classes.get(run), "images": keys}

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Reads what `save` wrote; never runs code from the files.

        Raises:
            ValueError: If a file is missing or damaged, naming it.
        """
        folder = Path(folder)
        try:
            record = read_json(folder / "results.json")
            for file, digest in record.get("sha256", {}).items():
                check_digest(folder / Path(file).name, digest)
            tensors = load((folder / "scores.safetensors").read_bytes())
            results = cls(read_csv(folder / "results.csv"), notes=record["notes"])
            for file, title in record["figures"].items():
                results.figures[title] = (folder / Path(file).name).read_bytes()
            results._fill(record, tensors)
        except FileNotFoundError as error:
            raise ValueError(
                f"{error.filename} is missing; name a folder that `openset evaluate` wrote"
            ) from error
        except (ValueError, SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} is damaged ({error}); evaluate again") from error
        return results

    def _fill(self, record: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        for entry in record["cases"]:
            case = Case(**entry["case"])
            self.scored[case] = {
                data: Scored(**{name: tensors[key] for name, key in keys.items()})
                for data, keys in entry["scored"].items()
            }
            if entry["threshold"] is not None:
                self.thresholds[case] = entry["threshold"]
        for entry in record["runs"]:
            run = Case(**entry["run"])
            if entry["classes"] is not None:
                self.classes[run] = entry["classes"]
            for data, keys in entry["images"].items():
                kept = {int(index): tensors[key] for index, key in keys.items()}
                self.images.setdefault(run, {})[data] = kept


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
    """Tensors under numbered keys; one that several records share, such as labels, lies once."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}
        self._keys: dict[int, str] = {}

    def put(self, x: Tensor) -> str:
        """The key of a tensor, under which it is saved."""
        key = self._keys.setdefault(id(x), str(len(self._keys)))
        if key not in self.tensors:
            # A copy, because safetensors refuses tensors that are views of one memory.
            self.tensors[key] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
        return key


def thumbnail(image: Tensor) -> Tensor:
    """An image `[C, H, W]` as uint8, at most `THUMBNAIL` pixels a side."""
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    shrink = THUMBNAIL / max(image.shape[1:])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in image.shape[1:]]
        image = F.interpolate(image[None].float(), size, mode="area")[0].round().to(torch.uint8)
    return image.cpu().contiguous()
