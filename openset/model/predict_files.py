"""Image files in, a table or maps out, as `openset predict` gives them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from openset.data.loaders import images_at_once
from openset.data.readable import Readable
from openset.model.maps import labels_pixels, write_maps
from openset.model.open_set import OpenSet
from openset.model.predict import Answer, answers, opened, together, with_threshold
from openset.model.records import print_csv, write
from openset.scoring.false_discoveries import promise
from openset.scoring.threshold import percent
from openset.training.progress import progress_bar

NAMED = 3
"""Broken files that an error names at the most."""


def predict_files(
    model: OpenSet,
    places: Sequence[str | Path],
    out: Path | None = None,
    *,
    report: Path | None = None,
    accept: float | None = None,
    threshold: float | None = None,
    fdr: float | None = None,
    storey: bool = False,
    skip_bad: bool = False,
    probabilities: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
) -> list[str]:
    """Answers for all images of files, folders and globs; see `openset predict`.

    Returns:
        What to say on the screen, in lines; the records themselves go to `out` or to stdout.

    Raises:
        ValueError: If files cannot be read, unless `skip_bad`; the others are answered before.
    """
    model, values = with_threshold(model, accept, threshold, fdr, storey=storey)
    found = open_files(model, places, workers)
    pixels = labels_pixels(model)
    if pixels and fdr is not None:
        raise ValueError("this model labels pixels, which depend on each other; fdr judges images")
    said = promised(model, accept, values)
    found.batch_size = batch_size or (images_at_once(found.images) if pixels else found.batch_size)
    with shown(found, bar=out is not None or not sys.stdout.isatty()):
        if pixels:
            count = write_maps(model, found, out, values)
        else:
            given = answers(model, found, values, probabilities=probabilities)
            if fdr is not None:
                given = together(model, list(given), fdr, storey=storey)
                said += kept_promise(model, given, fdr)
            by_hand = threshold is not None or fdr is not None
            with reported(model, found, given, report, by_hand) as passing:
                records = (answer.record() for answer in passing)
                count = print_csv(records) if out is None else write(records, out)
    if pixels and report is not None:
        from openset.model.predict_report import report_pixels  # Drawing takes long to import.

        report_pixels(model, found.images, report, values)
    if found.skipped and not skip_bad:
        raise ValueError(unread(found.skipped, count, out))
    written = {f"{count} images": out, "report": report}
    said = [f"{what}: {where}" for what, where in written.items() if where is not None] + said
    said += [f"skipped: {reason}" for reason in found.skipped]
    return said + [f"{len(found.skipped)} files skipped"] * bool(found.skipped)


@contextmanager
def reported(
    model: OpenSet,
    found: Readable,
    given: Iterable[Answer],
    report: Path | None,
    by_hand: bool,
) -> Iterator[Iterable[Answer]]:
    """The same answers; the report, if one is asked for, is written when all have passed."""
    if report is None:
        yield given
        return
    from openset.model.predict_report import Told  # Drawing takes long to import.

    told = Told(model, found.images)
    yield told.passing(given)
    told.report(report, by_hand=by_hand)


def open_files(
    model: OpenSet, places: Sequence[str | Path], workers: int | None = None
) -> Readable:
    """The images that files, folders and globs name, brought to what the model takes."""
    if not places:
        raise ValueError("no images given; give image files, folders of them, or globs")
    found = opened(model, places, workers=workers)
    assert isinstance(found, Readable), "files are no tensors"
    return found


def promised(model: OpenSet, accept: float | None, values: Tensor | None) -> list[str]:
    """States the guarantee of a threshold that was chosen after the calibration, if it has one."""
    if values is not None:
        if not model.held_out.fitted:
            return ["The threshold was set by hand, so nothing is promised of it."]
        n, share = sum(model.held_out.counts), model.held_out.accepted(float(values))
        return [
            f"The threshold was set by hand and accepts {share:.1%} of the {n} held-out known "
            "images; nothing else is promised of it."
        ]
    if model.threshold is None:
        return [
            "The model has no threshold, so it calls nothing unknown: give --threshold, or fit it "
            "again with --held-out."
        ]
    if accept is None:
        return []
    more = (
        ""
        if model.held_out.exact(accept)
        else (
            f" Not all held-out scores are kept; the threshold is that of the next share above "
            f"{percent(accept)} which they give."
        )
    )
    return [model.threshold.guarantee() + more]


def kept_promise(model: OpenSet, answers: Sequence[Answer], fdr: float) -> list[str]:
    """States what is promised of images that were called unknown together."""
    marked = sum(answer.label == "unknown" for answer in answers)
    doubt = None if model.threshold is None else model.threshold.doubt
    return promise(fdr, marked, len(answers), model.held_out.counts, doubt)


@contextmanager
def shown(found: Readable, *, bar: bool) -> Iterator[None]:
    """Shows how many images are done, at what rate and the time left, where someone looks."""
    with progress_bar(bar, "{task.completed}/{task.total}") as progress:
        task = progress.add_task("", total=len(found))
        found.done = lambda count: progress.update(task, advance=count)
        yield


def unread(skipped: Sequence[str], count: int, out: Path | None) -> str:
    """Says which files have no answer, and where those of the others are."""
    bad = len(skipped)
    reasons = [reason.partition(";")[0] for reason in skipped[:NAMED]]
    more = f"; and {bad - NAMED} more" if bad > NAMED else ""
    place = "" if out is None else f" in {out}"
    return (
        f"{bad} of {bad + count} files have no answer: {'; '.join(reasons)}{more}; "
        f"the other {count} are answered{place}; --skip-bad does without the bad ones"
    )
