"""False alarms and what is found, over simulated streams of real images, promise beside outcome.

    OPENSET_DATA=… python speed/false_alarms.py RUN --detector D --out FOLDER

RUN is a run on MNIST. Held-out known images are what it held out, streams are drawn from its test
images; KMNIST and blurred test images are strange. Writes two tables as CSV and prints them:
`discoveries-D.csv`, of `predict --fdr`, and `alarms-D.csv`, of `monitor`.

A promise holds for images that are drawn as the held-out ones were. MNIST's test images come from
other writers than its training images, of which some are held out. So "shuffled" redraws held-out
and stream from both together, stream by stream, as the promise has it; "as they are" keeps them
apart, as life does.
"""

import argparse
from math import log
from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image, ImageFilter

from openset import Tap
from openset.data import ImageSet, load_images
from openset.detectors import Detector
from openset.life.martingale import Martingale, Urn
from openset.runs.run import Run
from openset.scoring.answers import answers
from openset.scoring.false_discoveries import q_values
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import joined

STREAMS, HELD_OUT, LONG, MIXED = 1000, 2000, 5000, 3000
LEVEL, ALARM, SHARES = 0.1, 0.01, (0.05, 0.1, 0.2)
KNOWN_BEFORE = 1000
"""Known images of a stream before strange ones are mixed in."""


def scores(tap: Tap, detector: Detector, images: ImageSet) -> np.ndarray:
    return joined([a.scored for a in answers(tap, {"": detector}, images)]).score.double().numpy()


def blurred(images: ImageSet, radius: float) -> ImageSet:
    """The images, blurred by a Gaussian of that radius in pixels."""
    pictures = [Image.fromarray(image[0].numpy()) for image in images.images]
    soft = [np.array(p.filter(ImageFilter.GaussianBlur(radius))) for p in pictures]
    return ImageSet(torch.from_numpy(np.stack(soft))[:, None], name=f"blur {radius:g}")


def held_out_and_stream(valid, test, length: int, how: str, draw) -> tuple[HeldOut, np.ndarray]:
    """Held-out known scores, and known scores of a stream."""
    if how == "shuffled":
        mixed = draw.permutation(np.concatenate([valid, test]))
        kept, stream = mixed[:HELD_OUT], mixed[HELD_OUT:][:length]
    else:
        kept, stream = valid, draw.permutation(test)[:length]
    return HeldOut().fit([torch.from_numpy(np.sort(kept))]), stream


def discoveries(valid, test, strange: dict[str, np.ndarray]) -> list[dict]:
    """False and found shares of 1,000 images of which some are strange, by `predict --fdr`."""
    rows = []
    for how in ("shuffled", "as they are"):
        for name, unknown in strange.items():
            for share in SHARES:
                rows += _discoveries(valid, test, unknown, share, {"known": how, "strange": name})
    return rows


def _discoveries(valid, test, unknown, share: float, facts: dict) -> list[dict]:
    found: dict[str, list[tuple[float, float]]] = {}
    count = round(1000 * share)
    for seed in range(STREAMS):
        draw = np.random.default_rng(seed)
        held_out, known = held_out_and_stream(valid, test, 1000 - count, facts["known"], draw)
        stream = torch.from_numpy(np.concatenate([known, draw.choice(unknown, count, False)]))
        p = held_out.p_values(stream, torch.zeros(len(stream)).long())
        marks = {
            "fdr": q_values(p) <= LEVEL,
            "fdr, Storey": q_values(p, storey=True) <= LEVEL,
            "threshold 95%": p <= 0.05,
        }
        for rule, marked in marks.items():
            false, right = int(marked[: len(known)].sum()), int(marked[len(known) :].sum())
            found.setdefault(rule, []).append((false / max(1, false + right), right / count))
    rows = []
    for rule, pairs in found.items():
        false, right = np.array(pairs).T
        promised = {"fdr": LEVEL * (1 - share), "fdr, Storey": LEVEL}.get(rule)
        rows.append(
            {
                **facts, "share": share, "rule": rule,
                "promised": "none" if promised is None else f"{promised:.4f}",
                "false": f"{false.mean():.4f}",
                "± error": f"{2 * false.std() / STREAMS**0.5:.4f}",
                "found": f"{right.mean():.4f}",
            }
        )  # fmt: skip
    return rows


def first_alarm(p_values: np.ndarray) -> int | None:
    above = np.flatnonzero(Martingale().add(p_values) >= -log(ALARM))
    return int(above[0]) + 1 if len(above) else None


def grown(held_out: HeldOut, stream: np.ndarray, seed: int, draw) -> np.ndarray:
    chance = draw.random((2, len(stream)))
    return Urn(held_out, seed=seed).p_values(stream, *chance)


def fixed(held_out: HeldOut, stream: np.ndarray, draw) -> np.ndarray:
    """p-values against the held-out images alone, as no monitor should take them."""
    p = held_out.p_values(torch.from_numpy(stream), torch.zeros(len(stream)).long()).numpy()
    return p - draw.random(len(p)) / (1 + held_out.counts[0])


def alarms(valid, test, strange: dict[str, np.ndarray]) -> list[dict]:
    """False alarms of known streams, and images until an alarm after a change."""
    rows = []
    for how in ("shuffled", "as they are"):
        sounded = {"growing": 0, "fixed": 0}
        for seed in range(STREAMS):
            draw = np.random.default_rng(seed)
            held_out, known = held_out_and_stream(valid, test, LONG, how, draw)
            sounded["growing"] += first_alarm(grown(held_out, known, seed, draw)) is not None
            sounded["fixed"] += first_alarm(fixed(held_out, known, draw)) is not None
        for rule, count in sounded.items():
            promised = f"{ALARM}" if rule == "growing" else "none"
            facts = {"known": how, "strange": "none", "share": 0, "held-out scores": rule}
            outcome = {"promised": promised, "alarms": f"{count / STREAMS:.4f}"}
            rows.append({**facts, **outcome, "median delay": "", "90 % delay": ""})
    for name, unknown in strange.items():
        mixed = (1.0,) if "blur" in name else SHARES
        rows += [_delay(valid, test, unknown, share, name) for share in mixed]
    return rows


def _delay(valid, test, unknown, share: float, name: str) -> dict:
    """Images from the change to the alarm, in 200 streams."""
    delays, early = [], 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        length = KNOWN_BEFORE + MIXED
        held_out, stream = held_out_and_stream(valid, test, length, "shuffled", draw)
        after = np.flatnonzero(draw.random(length) < share)
        after = after[after >= KNOWN_BEFORE]
        stream[after] = draw.choice(unknown, len(after))
        first = first_alarm(grown(held_out, stream, seed, draw))
        early += first is not None and first <= KNOWN_BEFORE
        delays.append(np.inf if first is None else first - KNOWN_BEFORE)
    median, most = np.quantile(delays, [0.5, 0.9], method="inverted_cdf")
    return {
        "known": "shuffled", "strange": name, "share": share, "held-out scores": "growing",
        "promised": "", "alarms": f"{np.isfinite(delays).mean():.4f}",
        "median delay": f"{median:.0f}", "90 % delay": f"{most:.0f}",
    }  # fmt: skip


def write(rows: list[dict], file: Path) -> None:
    pandas.DataFrame(rows).to_csv(file, index=False)
    print(f"\n{file.name}\n\n| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print("|", " | ".join(map(str, row.values())), "|", flush=True)


def main(folder: str, detector: str, out: Path) -> None:
    run = Run.load(folder)
    data, model = run.load_data(), run.load_model(detector)
    tap, chosen = model.tap, model.detector
    # Of the held-out images the detector may have learned from every other one.
    held_out = data.valid.subset(torch.arange(1, len(data.valid), 2))
    valid, test = scores(tap, chosen, held_out), scores(tap, chosen, data.test)
    kmnist = load_images("tanganke/kmnist", data.adapter)
    strange = {"kmnist": scores(tap, chosen, kmnist)}
    out.mkdir(parents=True, exist_ok=True)
    write(discoveries(valid, test, strange), out / f"discoveries-{detector}.csv")
    for radius in (0.7, 1.0):
        strange[f"blur {radius:g}"] = scores(tap, chosen, blurred(data.test, radius))
    write(alarms(valid, test, strange), out / f"alarms-{detector}.csv")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--detector", default="energy")
    parser.add_argument("--out", type=Path, default=Path("docs/results/life"))
    given = parser.parse_args()
    main(given.run, given.detector, given.out)
