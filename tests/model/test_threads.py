"""One model in many threads, as a web server uses it."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from attack.material import HEADS, companions
from attack.threads import throughput

from openset import networks
from openset.detectors import DETECTORS, Energy, build
from openset.extractors.extract import extract
from openset.extractors.tap import Tap
from openset.model.open_set import OpenSet
from openset.scoring.views import layers_for

THREADS, CALLS = 8, 25
"""Threads, and the calls of each."""

SETTINGS = {
    "csi": "csi:crops=1",
    "gemos": "gemos:components=1",
    "knn": "knn:k=5",
    "odin": "odin:epsilon=0.05",
}
NAMES = [*sorted(set(DETECTORS) - {"pytorch-ood"}), "mahalanobis:epsilon=0.05"]


def images(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 8, 8, generator=generator)


@pytest.fixture
def turns():
    """Threads take turns more often, so that little work shows much."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def fitted(name):
    torch.manual_seed(0)
    plain = networks.cnn(3, 1, widths=(4, 8), hidden=8)
    plain.head.bias.data -= plain.eval()(images(60, 0)).mean(0).detach()
    network = HEADS.get(name, lambda network: network)(plain)
    detector = build(SETTINGS.get(name, name), **companions(3))
    tap = Tap(network, layers_for(network, [detector]))
    seen = extract(tap, [(images(240, 1), torch.arange(240) % 3)])
    # Some detectors fit what was classified rightly; a network without training rarely is, and one
    # head of these answers the same for all.
    found = seen[0].logits.argmax(1)
    seen[0].labels = found if len(found.unique()) == 3 else torch.arange(240) % 3
    detector.fit(seen)
    if detector.held_out:
        detector.adjust(seen)
    return OpenSet(tap, detector)


def together(model):
    """Answers that differ from those of one thread, while a call of one thread fails."""
    pool = images(96, 5)
    slices = [slice(i, i + n) for n in (1, 2, 3, 8, 31) for i in (0, 17, 32)]
    with torch.no_grad():
        alone = [model(pool[where]) for where in slices]

    def work(thread):
        wrong = 0
        for call in range(CALLS):
            if thread == 0 and call % 3 == 0:
                with pytest.raises((ValueError, RuntimeError)):
                    model(torch.rand(2, 5, 8, 8))
            i = (7 * thread + 5 * call) % len(slices)
            label, score = model(pool[slices[i]])
            same = torch.allclose(score, alone[i][1], rtol=1e-4, atol=1e-5)
            wrong += not (same and torch.equal(label, alone[i][0]))
        return wrong

    with ThreadPoolExecutor(THREADS) as threads:
        return sum(threads.map(work, range(THREADS)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["loaded", "in training mode"])
def test_each_thread_gets_what_it_would_get_alone(name, way, turns, tmp_path):
    model = fitted(name)
    if way == "loaded":
        model.save(tmp_path / "model")
        model = OpenSet.load(tmp_path / "model", network=model.tap.network)
        assert not any(module.training for module in model.modules())
    else:
        model.train()
    before = {key: x.clone() for key, x in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert together(model) == 0
    assert [key for key, x in model.state_dict().items() if not torch.equal(x, before[key])] == []
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


class Meeting(torch.nn.Module):
    """Gives the logits once as many threads as were asked for are inside."""

    def __init__(self, threads):
        super().__init__()
        self.barrier, self.fc = threading.Barrier(threads, timeout=60), torch.nn.Linear(64, 3)

    def forward(self, x):
        self.barrier.wait()
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("training", [False, True])
def test_no_thread_waits_for_another_to_leave_the_network(training):
    tap = Tap(Meeting(4).train(training), head="fc")
    model, batch = OpenSet(tap, Energy()), images(2, 0)
    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(model, [batch] * 8))) == 8


@pytest.mark.slow
def test_four_threads_answer_as_much_as_one():
    assert throughput() is None
