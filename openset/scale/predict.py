"""Images in, a folder of Parquet out, by a cluster: `openset predict --cluster`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openset.data.pixels import short_hash
from openset.model.maps import CLASSES, labels_pixels, legend, legend_text
from openset.model.open_set import OpenSet
from openset.model.predict import with_threshold
from openset.model.predict_files import promised, unread
from openset.scale.cluster import score
from openset.scale.parts import Parts
from openset.scale.scorer import Question
from openset.scale.slices import find_slices, named
from openset.training.progress import progress_bar

LABELLED = 64
"""Image files of a slice where their pixels are labelled, which takes longer."""


def predict_cluster(
    model: OpenSet,
    places: Sequence[str],
    out: Path | None,
    *,
    accept: float | None = None,
    threshold: float | None = None,
    skip_bad: bool = False,
    probabilities: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    **whole: Any,
) -> list[str]:
    """Answers for all images of files, folders, globs and URLs, as `predict_files` gives them.

    Args:
        model: A model on the CPU; of one that labels pixels, maps are written beside the parts.
        places: Image files, Parquet, tar shards, folders and globs of them, or URLs of fsspec.
        out: Folder for the parts; what an earlier call of the same has finished is kept.
        accept: As for `predict_files`.
        threshold: As for `predict_files`.
        skip_bad: As for `predict_files`.
        probabilities: As for `predict_files`.
        batch_size: Images per pass.
        workers: Threads that decode in each worker.
        device: `cpu` or `cuda`; by default the accelerators of the cluster, if it has some.
        whole: Options that need all answers in one process, which are refused.

    Returns:
        What to say on the screen, in lines.

    Raises:
        ValueError: If images cannot be read, unless `skip_bad`; the others are answered before.
    """
    out = refuse_whole(model, out, whole)
    model, values = with_threshold(model, accept, threshold)
    question = Question(model, values, probabilities, batch_size)
    pixels = labels_pixels(model)
    parts = Parts(out, named(find_slices(places, LABELLED)) if pixels else find_slices(places))
    asked = {
        "model": digest(model),
        "threshold": threshold,
        "probabilities": probabilities,
    }
    with parts.begun(asked), progress_bar(True, "{task.completed}/{task.total} parts") as progress:
        if pixels:
            parts.write_maps({CLASSES: legend_text(legend(model)).encode()})
        left = parts.left()
        task = progress.add_task("", total=len(left))
        for name, (maps, table) in score(question, left, device, workers) if left else ():
            parts.write_maps(maps)
            if table is not None:
                parts.write(name, table)
                progress.update(task, advance=1)
    count, skipped = parts.told()
    if skipped and not skip_bad:
        raise ValueError(unread(skipped, count, out))
    said = [f"{count} images: {out}", *promised(model, accept, values)]
    said += [f"skipped: {reason}" for reason in skipped]
    return said + [f"{len(skipped)} files skipped"] * bool(skipped)


def refuse_whole(model: OpenSet, out: Path | None, whole: dict[str, Any]) -> Path:
    """The folder to write to; raises for what a cluster does not do."""
    if out is None:
        raise ValueError("a cluster's answers are no text; name a folder for them: --out FOLDER")
    if re.match(r"[\w+.-]{2,}:/", str(out)):
        raise ValueError(f"{out} is a URL, and answers lie on this machine; name a folder")
    for name, value in whole.items():
        if value:
            raise ValueError(
                f"--{name} takes all images together, and --cluster each by itself; "
                f"leave one of them out"
            )
    if model.adapter is None:
        raise ValueError("this model does not say how an image file becomes its input")
    return out


def digest(model: OpenSet) -> str:
    """16 hexadecimal digits that stand for all that a model's answers depend on."""
    tensors = sorted(model.state_dict().items())
    flat = (x.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for _, x in tensors)
    told = json.dumps(model.describe(), sort_keys=True)
    return short_hash(told, *(x.numpy().data for x in flat))
