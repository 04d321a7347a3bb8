"""Whether what a threshold promises holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import openset
from openset import OpenSet, Threshold
from openset.detectors import build

from .cases import Case, command, heard
from .material import DATA, Material, small_network, three_classes

RESAMPLES, HELD_OUT, ACCEPT = 2000, 200, 0.9


def cases(material: Material, count: int) -> Iterator[Case]:
    """Coverage by resampling, and what moves the threshold between fit and use."""
    draws = min(RESAMPLES, max(200, 2 * count))
    for levels in (10, 100, None):
        for classes in (1, 4):
            name = f"{levels or 'all'} levels, {'per class' if classes > 1 else 'global'}"
            attempt = partial(covers, levels, classes, draws)
            yield Case("thresholds: coverage", name, attempt, refusable=False, seconds=120)
    for accept in (0.9999, 0.99951, 0.95, 0.5):
        attempt = partial(says, accept)
        yield Case("thresholds: text", str(accept), attempt, refusable=False, seconds=20)
    for name in ("energy", "msp", "mahalanobis", "knn:k=3", "gemos:components=1", "fusion"):
        for distinct in (10, 100):
            attempt = partial(survives_saving, name, distinct)
            kind = "thresholds: saved and loaded"
            given = {"refusable": False, "seconds": 60.0}
            yield Case(kind, f"{name}, {distinct} distinct images", attempt, **given)
        for kind in ("half", "bfloat16", "double"):
            attempt = partial(of_precision, name, kind)
            yield Case("thresholds: precision", f"{name}, {kind}", attempt, seconds=60)
    for name in ("temperature", "fusion"):
        attempt = partial(whatever_the_batch, name)
        yield Case("thresholds: batch size", name, attempt, refusable=False, seconds=60)
    attempt = partial(weights_from_elsewhere, material.run)
    yield Case("thresholds: foreign weights", "--epochs 0", attempt, seconds=60)


def covers(levels: int | None, classes: int, draws: int) -> str | None:
    """The stated interval holds as often as stated, and the mean is at least what was asked."""
    generator = torch.Generator().manual_seed(levels or 1)
    population = torch.rand(40_000, generator=generator) ** 2
    if levels:
        population = (population * levels).floor()
    group = torch.arange(len(population)) % classes
    population = population + group  # Classes of different scores.
    held, shares = 0, []
    for _ in range(draws):
        chosen = torch.randint(len(population), (HELD_OUT * classes,), generator=generator)
        given = (population[chosen], ACCEPT)
        by_class = (group[chosen], classes) if classes > 1 else ()
        threshold = Threshold.conformal(*given, *by_class)
        again = Threshold.from_settings(json.loads(json.dumps(threshold.settings())))
        if again != threshold:
            return "the threshold is another after it was saved"
        values = threshold.tensor()
        limit = values[group] if classes > 1 else values
        share = float((population <= limit).double().mean())
        low, high = threshold.coverage
        held += low <= share <= high
        shares.append(share)
    mean = sum(shares) / draws
    if mean < ACCEPT - 0.003:
        return f"accepts {mean:.3f} on average, for {ACCEPT}"
    return None if held / draws > 0.935 else f"the interval held in {held / draws:.1%} of {draws}"


def says(accept: float) -> str | None:
    """The words round no promise up."""
    scores = torch.arange(30_000).double()
    text = Threshold.conformal(scores, accept).guarantee()
    told = float(text.split("%")[0].split()[-1])
    return None if told <= 100 * accept + 1e-9 else f"{accept} became: {text[:60]}"


def survives_saving(name: str, distinct: int) -> str | None:
    """A threshold that accepts the held-out images when set accepts them when loaded."""
    net = small_network(widths=(16, 32)).to(memory_format=torch.channels_last)
    few, labels = three_classes(distinct, 2)
    x, y = few.repeat(400 // distinct, 1, 1, 1), labels.repeat(400 // distinct)
    train = [three_classes(240, 1)]
    model = openset.fit(net, {"d": build(name)}, train, [(x, y)], accept=ACCEPT)["d"].eval()
    model.save("m")
    loaded = OpenSet.load("m").eval()
    shares = {}
    for who, one in (("fitted", model), ("loaded", loaded)):
        for size in (1, 7, 400):
            labels = torch.cat([one(part)[0] for part in x.split(size)])
            shares[f"{who}, batches of {size}"] = float((labels >= 0).float().mean())
    wrong = {key: share for key, share in shares.items() if share < ACCEPT - 0.01}
    if wrong:
        return f"accepted {wrong}, for {ACCEPT}"
    return f"{shares}" if max(shares.values()) - min(shares.values()) > 0.02 else None


def of_precision(name: str, kind: str) -> str | None:
    """A network in half or double precision comes back in it, with the same answers."""
    net = getattr(small_network(), kind)().eval()
    dtype = next(net.parameters()).dtype
    data = [(x.to(dtype), y) for x, y in (three_classes(120, 1), three_classes(120, 2))]
    model = openset.fit(net, {"d": build(name)}, data[:1], data[1:], accept=ACCEPT)["d"].eval()
    model.save("m")
    loaded = OpenSet.load("m").eval()
    kinds = {p.dtype for p in loaded.tap.network.parameters()}
    if kinds != {dtype}:
        return f"{dtype} came back as {kinds}"
    x = three_classes(40, 3)[0].to(dtype)
    (label, score), (again, other) = model(x), loaded(x)
    same = torch.equal(label, again) and torch.allclose(score.double(), other.double(), rtol=1e-4)
    return None if same else "another answer after loading"


def whatever_the_batch(name: str) -> str | None:
    """The same threshold however the images are batched."""
    x, y = three_classes(123, 2)
    found = {}
    for size in (1, 2, 7, 32, 123):
        batches = list(zip(x.split(size), y.split(size), strict=True))
        train = [three_classes(120, 1)]
        model = openset.fit(small_network(), {"d": build(name)}, train, batches, accept=ACCEPT)
        found[size] = model["d"].threshold.values[0]
    gap = max(found.values()) - min(found.values())
    return None if gap < 1e-4 * max(1, abs(found[123])) else f"thresholds by batch size: {found}"


def weights_from_elsewhere(run: Path) -> str | None:
    """Weights that may have seen the images give no promise, unless it says so."""
    shutil.copytree(run, "old")
    network = ("--network", "cnn:widths=4+8,hidden=16", "--known-classes", "0-5")
    given = ("--weights", "old/network.safetensors", "--epochs", "0", "--out", "new")
    command("train", DATA, *network, *given)
    said = heard("fit", "new", "--detector", "energy", "--accept", "0.9").lower()
    told = Path("new/models/energy/model.json").read_text().lower()
    words = ("not hold", "no guarantee", "seen", "not guaranteed", "cannot be")
    silent = [x for x, text in (("fit", said), ("model.json", told)) if _none_of(words, text)]
    return f"{' and '.join(silent)} promise without a caveat" if silent else None


def _none_of(words: tuple[str, ...], text: str) -> bool:
    """Whether a guarantee lacks any caveat; that no fit has seen the images is none."""
    return not any(word in text for word in words)
