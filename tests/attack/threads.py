"""One model in many threads, as a web server uses it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

import openset

from .cases import Case
from .material import Material, fitted, names, three_classes

THREADS, CALLS = 8, 200
"""Threads, and the calls of each."""

SIZES = (1, 2, 3, 5, 8, 16, 31, 64)
"""Images of a call."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """Every detector, after load and as it was fitted, with and without an error beside it."""
    calls = min(CALLS, max(10, count // 5))
    for name in names():
        for way in ("loaded", "loaded, one call fails", "fitted", "fitted, in training mode"):
            attempt = partial(together, name, way, calls)
            yield Case(f"threads: {way}", name, attempt, refusable=False, seconds=240.0)
    if calls < CALLS:  # A few cases of each kind are no place to take the time.
        return
    yield Case("threads: throughput", "energy", throughput, refusable=False, seconds=240.0)


def together(name: str, way: str, calls: int) -> str | None:
    """Many threads score slices of the same images; each must get what it gets alone."""
    model = fitted(name)
    if way.startswith("loaded"):
        model.save("model")
        model = openset.OpenSet.load("model")
    else:
        model.train(way == "fitted, in training mode")
    images = three_classes(96, 5)[0]
    slices = [slice(i, i + n) for n in SIZES for i in (0, 17, 32)]
    before = {key: x.clone() for key, x in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        alone = [model(images[where]) for where in slices]

    sys.setswitchinterval(1e-4)  # Threads take turns more often, so that little work shows much.

    def work(thread: int) -> tuple[int, int]:
        wrong = failed = 0
        for call in range(calls):
            i = (7 * thread + 5 * call) % len(slices)
            if "fails" in way and thread == 0 and call % 3 == 0:
                failed += fails(model)
            wrong += not same(model(images[slices[i]]), alone[i])
        return wrong, failed

    with ThreadPoolExecutor(THREADS) as pool:
        wrong = sum(w for w, _ in pool.map(work, range(THREADS)))
    after = sum(not same(model(images[where]), alone[i]) for i, where in enumerate(slices))
    moved = sum(not torch.equal(x, before[key]) for key, x in model.state_dict().items())
    turned = sum(a is not b.training for a, b in zip(modes, model.modules(), strict=True))
    if wrong or after or moved or turned:
        asked = f"{wrong} of {THREADS * calls} answers wrong, {after} of {len(slices)} afterwards"
        return f"{asked}; {moved} tensors moved, {turned} modules in another mode"
    return None


def fails(model: openset.OpenSet) -> bool:
    """A call with images of a shape that the network does not take."""
    try:
        model(torch.rand(2, 5, 8, 8))
    except Exception:
        return True
    return False


def same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether labels are equal, and scores but for the rounding of the last digits."""
    size = max(1.0, float(other[1].abs().max()))
    near = torch.allclose(one[1], other[1], rtol=1e-5, atol=1e-6 * size)
    return near and torch.equal(one[0], other[0])


ROUNDS, ANSWERED = 7, 48
"""Pairs of measurements, and the calls of each."""


def throughput() -> str | None:
    """Four threads on one model must answer at least as many images as one does.

    Other work on the machine comes and goes, so each measurement of four stands beside two of one,
    before and after it, and the best of all pairs counts. The time of computing, which other work
    lengthens little, shows what threads lose by waiting for each other's turns.
    """
    torch.manual_seed(0)
    network = openset.networks.cnn(3, 3, widths=(32, 64), hidden=64).eval()
    model = openset.OpenSet(openset.Tap(network), openset.detectors.Energy()).eval()
    images = torch.rand(16, 3, 32, 32)
    taken = {1: [spent(model, images, 1)], 4: []}
    best = 0.0
    for _ in range(ROUNDS):
        taken[4].append(spent(model, images, 4))
        taken[1].append(spent(model, images, 1))
        alone = sum(seconds for seconds, _ in taken[1][-2:]) / 2
        best = max(best, alone / taken[4][-1][0])
    one, four = (min(computing for _, computing in taken[n]) for n in (1, 4))
    if best < 1 or four > 1.5 * one:
        return f"{best:.2f} times the images of one thread, {four / one:.2f} times the computing"
    return None


def spent(model: openset.OpenSet, images: Tensor, threads: int) -> tuple[float, float]:
    """Seconds, and seconds of computing, that so many threads take for `ANSWERED` calls."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(model, [images] * threads))
        began, before = time.perf_counter(), time.process_time()
        list(pool.map(model, [images] * ANSWERED))
    return time.perf_counter() - began, time.process_time() - before
