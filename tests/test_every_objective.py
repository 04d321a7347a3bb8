"""Promises of every objective, checked on each one; a new objective is picked up by its name."""

import copy
import json

import pytest
import torch

from openset import networks
from openset.errors import Paused
from openset.networks.spade import class_maps
from openset.objectives import OBJECTIVES
from openset.runs.recipe import Recipe
from openset.runs.train import train_run
from openset.spec import build
from openset.training.loop import accuracy, train
from openset.training.settings import Settings

CLASSES = 3


def images(n=72, seed=0):
    """Three classes of noisy images, each brighter in another corner."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % CLASSES
    image = torch.rand(n, 1, 16, 16, generator=generator) * 0.4
    for c, (i, j) in enumerate([(0, 0), (0, 8), (8, 0)]):
        image[label == c, :, i : i + 8, j : j + 8] += 0.5
    return image, label


SMALL = {
    "flow-outliers": "flow-outliers:blocks=1,width=8,couplings=1,border=0.1",
    "gan-outliers": "gan-outliers:width=8",
    "arpl-cs": "arpl-cs:width=8",
    "csi": "csi:shift=cutperm,flip=false,area=0.5",
    "deep-ensemble": "deep-ensemble:members=2",
    "synthesis": "synthesis:width=4",
    "outlier-exposure": "outlier-exposure:data=uniform-noise",
}
"""Settings that an objective needs, or that make its own networks small enough to train here."""


OTHERS = {
    "likelihood": "real-nvp:couplings=2,blocks=1,width=8",
    "reconstruction": "autoencoder:width=4,latent=8",
    "synthesis": "spade:width=4",
}
"""The networks of the objectives that do not classify."""


def make(name):
    """An objective around a small network."""
    if OBJECTIVES[name].classifies:
        network = networks.build("cnn", classes=CLASSES, channels=1, widths=(4, 8), hidden=16)
    else:
        network = networks.build(OTHERS[name], classes=CLASSES, channels=1, size=16)
    return build("objective", OBJECTIVES, SMALL.get(name, name), network=network)


@pytest.fixture(params=sorted(OBJECTIVES))
def objective(request):
    made = make(request.param).train()
    made.start_epoch(0)
    return made


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_needs_nothing_but_a_network(name):
    network = networks.build(OTHERS.get(name, "cnn"), classes=CLASSES, channels=1)
    declared = dict.fromkeys(OBJECTIVES[name].unknown_data, "gaussian-noise")
    objective = OBJECTIVES[name](network, **declared)
    assert objective.settings().keys() >= {"network"}
    assert objective.learners()


def weights(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(module, before):
    return {name for name, value in module.named_parameters() if not value.equal(before[name])}


def test_a_step_yields_losses_of_its_learners(objective):
    yielded = set()
    for learner, loss in objective.step(*images(24)):
        assert loss.shape == ()
        assert loss.isfinite()
        assert loss.requires_grad
        yielded.add(learner)
        loss.backward()
    assert yielded
    assert yielded <= set(objective.learners())


def test_each_loss_reaches_every_part_of_its_learner(objective):
    # A layer that starts at zero lets no gradient through to those before it, until it has moved.
    train(objective, [images(48)], epochs=1, batch_size=24, lr=0.01)
    objective.train().start_epoch(1)
    reached = {}
    for learner, loss in objective.step(*images(24)):
        module = objective.learners()[learner]
        module.zero_grad()
        loss.backward()
        parts = reached.setdefault(learner, set())
        for name, value in module.named_parameters():
            if value.grad is not None and value.grad.any():
                assert value.grad.isfinite().all(), f"{learner}: {name}"
                parts.add(name)
    for learner, parts in reached.items():
        module = objective.learners()[learner]
        learning = {name for name, value in module.named_parameters() if value.requires_grad}
        assert parts == learning, learner


def test_a_learner_moves_alone(objective):
    """Each update changes the weights of the learner that was named and of no other."""
    learners = objective.learners()
    optimizers = {
        name: torch.optim.SGD(module.parameters(), 1e-3) for name, module in learners.items()
    }
    steps = objective.step(*images(24))
    before = {name: weights(module) for name, module in learners.items()}
    for learner, loss in steps:
        optimizers[learner].zero_grad()
        loss.backward()
        optimizers[learner].step()
        for name, module in learners.items():
            assert bool(changed(module, before[name])) == (name == learner)
        before = {name: weights(module) for name, module in learners.items()}


def test_every_weight_that_learns_has_one_learner(objective):
    owned = [id(p) for module in objective.learners().values() for p in module.parameters()]
    assert len(owned) == len(set(owned))
    assert {id(p) for p in objective.network.parameters()} <= set(owned)


def test_learns_a_small_problem(objective):
    before = next(objective.step(*images(seed=1)))[1].item()
    network = train(objective, [images()], epochs=10, batch_size=24, lr=0.05)
    if objective.classifies:
        assert accuracy(network, [images(seed=1)]) > 0.9
    else:
        left = LEFT.get(objective.name, 0.8)
        assert next(objective.step(*images(seed=1)))[1].item() < left * before


LEFT = {"likelihood": 0.97, "synthesis": 0.9}
"""Share of the first loss that must be undercut: bits of noise cannot be learned away, and a
discriminator is ever harder to deceive."""


HEAVY = ("flow-outliers", "gan-outliers", "arpl-cs")
"""Objectives whose own networks take minutes at their full size."""


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in (1, 2))])
@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        *((name, 8) for name in sorted(OBJECTIVES) if name not in HEAVY),
        *(pytest.param(name, 20, marks=pytest.mark.slow) for name in sorted(OBJECTIVES)),
    ],
)
def test_learns_the_digits_with_the_settings_of_the_command_line(name, epochs, seed, tmp_path):
    """Whatever is not named on the command line suits every objective."""
    network = "cnn" if OBJECTIVES[name].classifies else OTHERS[name]
    recipe = Recipe(
        "digits",
        known_classes="0-5",
        network=network,
        objective=SMALL.get(name, name),
        settings=Settings(epochs=epochs, seed=seed),
    )
    run = train_run(recipe, tmp_path / "run", progress=False, device="cpu")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert run.warning is None
    if OBJECTIVES[name].classifies:
        assert run.accuracy["test"] > 0.9
    else:
        assert log[-1]["loss"]["network"] < LEFT.get(name, 0.75) * log[0]["loss"]["network"]


def test_state_dict_round_trip(objective):
    train(objective, [images(48)], epochs=1, batch_size=24, lr=0.01)
    other = make(objective.name)
    other.load_state_dict(objective.state_dict())
    image, _ = images(8, seed=2)
    with torch.no_grad():
        assert other.eval().logits(image).equal(objective.eval().logits(image))


def test_finishes_with_a_network_that_can_be_rebuilt(objective):
    network = train(objective, [images(48)], epochs=1, batch_size=24, lr=0.01)
    image, label = images(8, seed=2)
    assert not network.training
    if objective.name == "synthesis":
        image = class_maps(label, CLASSES, (16, 16))
    with torch.no_grad():
        output = network(image)
        if isinstance(output, torch.Tensor):  # A flow gives latents.
            assert output.shape == ((8, CLASSES) if objective.classifies else (8, 1, 16, 16))
        again = networks.from_spec(network.spec)
        again.load_state_dict(network.state_dict())
        torch.testing.assert_close(again.eval()(image), output, rtol=0, atol=0)


def test_logits_before_the_first_step(objective):
    """The loop compares labels with the number of logits before it begins."""
    with torch.no_grad():
        logits = objective.eval().logits(images(5)[0])
    assert logits.shape == (5, CLASSES) or not objective.classifies


def test_order_gives_each_epoch_batches_of_known_indices(objective):
    label = images(50)[1]

    def order(seed):
        generator = torch.Generator().manual_seed(seed)
        return [batch.tolist() for batch in objective.order(label, 12, generator)]

    drawn = order(0)
    assert drawn == order(0)
    assert drawn != order(1)
    assert all(0 <= index < 50 for batch in drawn for index in batch)


def test_stops_and_goes_on_as_if_nothing_happened(objective, tmp_path):
    """Whatever an objective must remember is in its state_dict."""
    twin = copy.deepcopy(objective)
    how = {"epochs": 2, "batch_size": 24, "lr": 0.01}
    whole = train(objective, [images(48)], **how)
    resumed = None
    for _ in range(10):
        try:
            resumed = train(
                copy.deepcopy(twin),
                [images(48)],
                folder=tmp_path / "run",
                resume=True,
                max_minutes=0,
                **how,
            )
        except Paused:
            continue
        break
    assert resumed is not None
    for name, value in whole.state_dict().items():
        assert value.equal(resumed.state_dict()[name]), name


def test_is_documented(objective):
    doc = type(objective).__doc__ or ""
    assert "https://" in doc, "the docstring links the paper"
    assert "Example:" in doc
    assert type(objective).__name__ in repr(objective)
    assert objective.name == type(objective).name
