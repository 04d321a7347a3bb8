"""What the page's script reads: scores, thresholds and images of the results, as plain JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import fields
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from openset.evaluation.gallery import SHOWN, TRAINING, Details
from openset.evaluation.maps import Maps
from openset.evaluation.results import Results
from openset.evaluation.rows import Case, Row
from openset.pictures import image_picture, palette
from openset.reporting.axes import axis
from openset.reporting.positions import positions
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored
from openset.scoring.threshold import ThresholdRecord

SCORES = 300_000
"""The most scores on a page, of all detectors and sets; of more, a sample drawn by a seed."""


SMALL = 48
"""Images up to this side are kept lossless; they are enlarged without smoothing."""


class Arrays:
    """Arrays as base64 text under their index; equal ones, such as labels, lie once."""

    def __init__(self):
        self.stored: list[tuple[str, str]] = []
        self._places: dict[bytes, int] = {}

    def put(self, x: Tensor, dtype: torch.dtype | None = None) -> int:
        """Returns the index of a tensor, which keeps its own precision unless one is named."""
        array = np.ascontiguousarray(x.detach().cpu().to(dtype or x.dtype).numpy())
        digest = sha256(str(array.dtype).encode() + array.tobytes()).digest()
        if digest not in self._places:
            self._places[digest] = len(self.stored)
            self.stored.append((str(array.dtype), base64.b64encode(array.tobytes()).decode()))
        return self._places[digest]

    def classes(self, x: Tensor) -> int:
        """Returns the index of classes, in as few bytes as they need."""
        few = not len(x) or (int(x.min()) >= 0 and int(x.max()) < 256)
        return self.put(x, torch.uint8 if few else torch.int16)

    def scores(self, x: Tensor) -> int:
        """Returns the index of scores; no digit is lost, on which a threshold may depend."""
        return self.put(x, torch.float64 if x.dtype == torch.float64 else torch.float32)


def payload(
    results: Results, cases: Sequence[Case], names: Sequence[str], *, truth: bool = True
) -> dict[str, Any]:
    """All that the page's script needs.

    Args:
        results: The results.
        cases: Those of its cases that the page shows.
        names: How the page calls them.
        truth: Whether it is known which images are unknown.
    """
    arrays, runs = Arrays(), list(dict.fromkeys(case.run for case in cases))
    kept = share_kept(results, cases)
    shown = {run: Shown(results, run, arrays) for run in runs}
    dense = any(case in results.maps for case in cases)
    return {
        "unit": "pixels" if dense else "images",
        "truth": truth,
        "first": first_shown(results, cases),
        "runs": [_run(results, cases, run, kept) | shown[run].record() for run in runs],
        "cases": [
            {"run": runs.index(case.run), "name": name}
            | _case(results, case, kept, arrays)
            | {"gallery": shown[case.run].answers(case)}
            for case, name in zip(cases, names, strict=True)
        ],
        "palette": palette(most_classes(results, cases)).tolist() if dense else [],
        "arrays": arrays.stored,
    }


def share_kept(results: Results, cases: Sequence[Case]) -> float:
    """The share of each set's scores that a page of bounded size can hold."""
    total = sum(len(scored) for case in cases for scored in results.scored[case].values())
    return min(1.0, SCORES / max(total, 1))


def sample(count: int, share: float) -> Tensor | None:
    """The indices of a seeded sample, ascending; None for all."""
    if share == 1:
        return None
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return chosen[: max(1, int(share * count))].sort().values


def first_shown(results: Results, cases: Sequence[Case]) -> dict[str, Any]:
    """The case that the page opens with, and its unknown set.

    The highest AUROC, averaged over the unknown sets, among the detectors that were tuned on no
    unknown data if there are any; and the set of which it rejects the least.
    """
    ranked = {case: (not case.tuned_on, mean_auroc(results, case)) for case in cases}
    if not ranked:
        return {"case": 0, "set": 1}
    case = max(ranked, key=lambda each: ranked[each])
    sets = [name for name in results.scored[case] if name != case.known]
    value = results.thresholds.get(case, {}).get("value")

    def rejected(name: str) -> float:
        scored = results.scored[case][name]
        if value is None:
            return auroc_of(results, case).get(name, 0.0)
        return float(scored.rejected(value).double().mean())

    hardest = min(sets, key=rejected) if sets else ""
    return {"case": cases.index(case), "set": 1 + sets.index(hardest) if sets else 0}


def auroc_of(results: Results, case: Case) -> dict[str, float]:
    """The AUROC on each unknown set, as the table has it."""
    rows = (row for row in results.rows if row.metric == "auroc")
    return {row.unknown: row.value for row in rows if case_of(row) == case}


def case_of(row: Row) -> Case:
    """The case that a figure is about."""
    return Case(**{field.name: getattr(row, field.name) for field in fields(Case)})


def mean_auroc(results: Results, case: Case) -> float:
    """The AUROC averaged over the unknown sets; 0 where none was measured."""
    found = [value for value in auroc_of(results, case).values() if value == value]
    return sum(found) / len(found) if found else 0.0


def most_classes(results: Results, cases: Sequence[Case]) -> int:
    """The classes of the network that knows the most."""
    return max((len(class_names(results, case)) for case in cases), default=0)


def class_names(results: Results, case: Case) -> list[str]:
    """The names of the known classes, or their numbers if nobody named them."""
    if case.run in results.classes:
        return list(map(str, results.classes[case.run]))
    sets = results.scored[case]
    count = 1 + max((int(s.predicted.max()) for s in sets.values() if len(s)), default=0)
    known = sets[case.known].label
    return [str(c) for c in range(max(count, 1 + int(known.max()) if len(known) else 1))]


def _run(results: Results, cases: Sequence[Case], run: Case, kept: float) -> dict[str, Any]:
    """The classes and the sets of a run, the known one first."""
    case = next(case for case in cases if case.run == run)
    sets = []
    for name in set_names(results, case):
        total = len(results.scored[case][name])
        chosen = sample(total, kept)
        sets.append(
            {"name": name, "total": total, "kept": total if chosen is None else len(chosen)}
        )
    return {"classes": class_names(results, case), "sets": sets}


def set_names(results: Results, case: Case) -> list[str]:
    """The names of a case's sets, the known one first."""
    return [case.known, *(name for name in results.scored[case] if name != case.known)]


def _case(results: Results, case: Case, kept: float, arrays: Arrays) -> dict[str, Any]:
    record, held_out = results.thresholds.get(case), results.held_out.get(case)
    known, auroc = results.scored[case][case.known], auroc_of(results, case)
    sets = []
    for name in set_names(results, case):
        scored = results.scored[case][name]
        chosen = sample(len(scored), kept)
        its = scored if chosen is None else scored[chosen]
        told: dict[str, Any] = {
            "score": arrays.scores(its.score),
            "predicted": arrays.classes(its.predicted),
        }
        if name == case.known:
            told["label"] = arrays.classes(its.label)
        else:
            told |= axis(known.score, scored.score, (record or {}).get("value"))
            told["auroc"] = auroc.get(name)
        sets.append(told)
    maps = {
        name: [_maps(m, arrays) for m in its] for name, its in results.maps.get(case, {}).items()
    }
    found = {"sets": sets, "maps": maps, "tuned_on": case.tuned_on}
    return found | threshold_facts(known, record, held_out, arrays)


def threshold_facts(
    known: Scored, record: ThresholdRecord | None, held_out: HeldOut | None, arrays: Arrays
) -> dict[str, Any]:
    """The slider's positions, what is promised of them, and the table that gives p-values."""
    found = positions(known, record, held_out)
    values = torch.tensor([each.values for each in found], dtype=torch.float64)
    record = record or {}
    own, value = record.get("accept"), record.get("value")
    value = None if value is None else torch.as_tensor(value, dtype=torch.float64)
    shares = [each.accept for each in found]
    return {
        "accept": shares,
        "values": arrays.put(values.flatten()),
        "intervals": [each.interval for each in found],
        "strays": [each.strays for each in found],
        "own": None if own is None else shares.index(own),
        "given": None if own is not None or value is None else arrays.put(value.flatten()),
        "n": record.get("n"),
        "doubt": record.get("doubt"),
        "guarantee": record.get("guarantee"),
        "held": None if held_out is None else held_out_table(held_out, arrays),
    }


def held_out_table(held_out: HeldOut, arrays: Arrays) -> dict[str, Any] | None:
    """The table by which a score becomes a p-value."""
    if not held_out.fitted:
        return None
    return {
        "knots": arrays.put(held_out.knots),
        "atLeast": arrays.put(held_out.at_least, torch.int32),
        "above": arrays.put(held_out.above, torch.int32),
        "sizes": held_out.sizes.tolist(),
    }


class Shown:
    """The images of a run that the page shows, with the answers of each of its detectors.

    They carry scores of their own, so that a sample of the scores need not hold them.
    """

    def __init__(self, results: Results, run: Case, arrays: Arrays):
        self.results, self.run, self.arrays = results, run, arrays
        wanted, kept = results.wanted_images(run), results.images.get(run, {})
        kept = {data: kept[data] for data in wanted if kept.get(data)}
        share = SHOWN // max(len(kept), 1)
        self.places = {
            data: sorted(its, key=lambda i, chosen={*wanted[data]}: i not in chosen)[:share]
            for data, its in kept.items()
        }

    def record(self) -> dict[str, Any]:
        """The images, and the training images that stand beside some."""
        details = self.results.details.get(self.run, {})
        images = [
            self._image(data, i, details.get(data, {}).get(i, {}))
            for data in self.places
            for i in self.places[data]
        ]
        wanted = {i for image in images for i, _ in image["near"]}
        kept, told = self.results.images.get(self.run, {}), details.get(TRAINING, {})
        training = {
            i: {"src": data_uri(x), **told.get(i, {})}
            for i, x in kept.get(TRAINING, {}).items()
            if i in wanted
        }
        return {"images": images, "training": training}

    def _image(self, data: str, index: int, its: Details) -> dict[str, Any]:
        known = data == self.run.known
        case = next(case for case in self.results.scored if case.run == self.run)
        label = int(self.results.scored[case][data].label[index]) if known else -1
        return {
            "set": set_names(self.results, case).index(data),
            "index": index,
            "label": label,
            "path": its.get("path", ""),
            "near": its.get("near", []),
            "src": data_uri(self.results.images[self.run][data][index]),
        }

    def answers(self, case: Case) -> dict[str, Any]:
        """Score, nearest class and runner-up of each image by one detector."""
        sets, details = self.results.scored[case], self.results.details.get(self.run, {})
        parts = [sets[data][indices] for data, indices in self.places.items() if indices]
        told = [details.get(data, {}).get(i, {}) for data in self.places for i in self.places[data]]
        second = [its.get("runner_up", {}).get(case.detector, -1) for its in told]
        empty = torch.zeros(0)
        return {
            "score": self.arrays.scores(torch.cat([p.score for p in parts] or [empty])),
            "predicted": self.arrays.classes(
                torch.cat([p.predicted for p in parts] or [empty.long()])
            ),
            "second": self.arrays.put(torch.tensor(second, dtype=torch.int16)),
            "members": [its.get("members", {}).get(case.detector) for its in told],
        }


def _maps(maps: Maps, arrays: Arrays) -> dict[str, Any]:
    height, width = maps.score.shape
    return {
        "src": data_uri(maps.image),
        "height": height,
        "width": width,
        "score": arrays.put(maps.score, torch.float32),
        "predicted": arrays.classes(maps.predicted),
        "label": arrays.put(maps.label, torch.int16),
    }


def data_uri(image: Tensor) -> str:
    """A thumbnail `[C, H, W]` in uint8 as the address of itself."""
    picture = (
        Image.fromarray(image[0].numpy()) if image.shape[0] == 1 else image_picture(image[:3] / 255)
    )
    kind = "png" if max(picture.size) <= SMALL else "webp"
    file = io.BytesIO()
    picture.save(file, kind, quality=80) if kind == "webp" else picture.save(file, kind)
    return uri(file.getvalue(), f"image/{kind}")


def uri(content: bytes, kind: str) -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
