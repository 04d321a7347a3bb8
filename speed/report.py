"""Size of a report with 20,000 scores and 200 images, and the time until a browser has drawn it.

python speed/report.py [IMAGES [DETECTORS]]

Needs Chromium and playwright. The time runs from the navigation to the page's own mark that all is
drawn; the least of five, and the median.
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

from openset.activations import UNKNOWN
from openset.evaluation.gallery import THUMBNAIL
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.seen import Images
from openset.reporting import report
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored

TIMES = 5
CLASSES = 10


def photographs(count: int) -> torch.Tensor:
    """Smooth colour images, which compress about as photographs do."""
    coarse = torch.rand(count, 3, 24, 24)
    smooth = torch.nn.functional.interpolate(coarse, THUMBNAIL, mode="bicubic")
    return (smooth + 0.03 * torch.randn_like(smooth)).clamp(0, 1)


def results(images: int, detectors: int) -> Results:
    """Made-up scores of so many images, half known, half of two unknown sets."""
    torch.manual_seed(0)
    made = Results()
    label = torch.randint(CLASSES, (images // 2,))
    parts = {"near": images // 4, "far": images - images // 2 - images // 4}
    for i in range(detectors):
        held_out = HeldOut().fit([torch.randn(2000)])
        guess = torch.where(
            torch.rand(len(label)) < 0.95, label, torch.randint_like(label, CLASSES)
        )
        unknown = {
            name: Scored(
                torch.randn(count) + shift,
                torch.full((count,), UNKNOWN),
                torch.randint(CLASSES, (count,)),
            )
            for (name, count), shift in zip(parts.items(), (2 + i / 10, 6), strict=True)
        }
        made.add(
            Case(detector=f"detector-{i}", known="known"),
            Images(Scored(torch.randn(len(label)), label, guess)),
            {name: Images(scored) for name, scored in unknown.items()},
            held_out.threshold(0.95).record(),
            held_out=held_out,
            classes=[f"class {c}" for c in range(CLASSES)],
        )
    (run,) = made.classes
    for data, indices in made.wanted_images(run).items():
        made.keep_images(run, data, dict(zip(indices, photographs(len(indices)), strict=True)))
    return made


def opening(path: Path) -> list[float]:
    """Seconds that a fresh tab takes to open and draw a page, several times."""
    found = []
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(TIMES):
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            started = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("body[data-ready]")
            found.append(time.perf_counter() - started)
            page.close()
        chromium.close()
    return found


def main(images: int = 20_000, detectors: int = 5) -> None:
    made = results(images, detectors)
    kept = sum(len(its) for sets in made.images.values() for its in sets.values())
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        path = report(made, Path(folder, "report.html"))
        written = time.perf_counter() - started
        size = path.stat().st_size / 1e6
        seconds = opening(path)
    print(f"{images:,} images, {detectors} detectors, {kept} thumbnails")
    print(f"written in     {written:.1f} s")
    print(f"size           {size:.2f} MB")
    print(f"drawn after    {min(seconds):.2f} s, median {statistics.median(seconds):.2f} s")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
