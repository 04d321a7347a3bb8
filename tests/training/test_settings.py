"""Schedules against torch's own, and settings that make no sense."""

import copy
import dataclasses
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from openset.networks import ladder_small
from openset.objectives import CrossEntropy
from openset.training.loop import train
from openset.training.settings import Settings


def rates(build, epochs):
    """Rates of one of torch's schedulers at the start of each epoch, from 0.1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = build(optimizer)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(
    ("settings", "build"),
    [
        ({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, 20)),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, 1.0)),
        (
            {"schedule": "step", "milestones": (10, 15)},
            lambda o: lr_scheduler.MultiStepLR(o, [10, 15]),
        ),
        (
            {"schedule": "step", "step_every": 6, "step_factor": 0.5},
            lambda o: lr_scheduler.StepLR(o, 6, 0.5),
        ),
    ],
)
def test_schedules_are_torchs(settings, build):
    ours = Settings(epochs=20, lr=0.1, **settings)
    assert [ours.lr_at(epoch) for epoch in range(20)] == pytest.approx(rates(build, 20))


def test_one_cycle_is_torchs():
    ours = Settings(epochs=1000, lr=0.1, schedule="one-cycle")
    theirs = rates(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=1000), 1000)
    # Torch counts steps from the first to the last, and we count time; 1000 steps hide it.
    assert [ours.lr_at(epoch) for epoch in range(1000)] == pytest.approx(theirs, abs=3e-4)


def test_warm_up_rises_and_then_the_schedule_takes_what_is_left():
    settings = Settings(epochs=12, lr=0.1, schedule="cosine", warmup_epochs=2)
    assert settings.lr_at(0) == pytest.approx(0.001)
    assert settings.lr_at(1) == pytest.approx(0.0505)
    assert settings.lr_at(2) == pytest.approx(0.1)
    assert settings.lr_at(7) == pytest.approx(0.05)
    assert settings.lr_at(12) == pytest.approx(0)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers_get_the_settings(optimizer, kind):
    settings = Settings(optimizer=optimizer, lr=0.02, momentum=0.8, weight_decay=0.003)
    made = settings.build_optimizer(nn.Linear(2, 2))
    group = made.param_groups[0]
    assert type(made) is kind
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.003)
    assert (group["momentum"] if optimizer == "sgd" else group["betas"][0]) == 0.8


def test_the_encoder_of_a_ladder_learns_at_its_own_rate():
    """1e-4 for the encoder and 4e-4 for the way up, as the paper of Ladder-DenseNet has it."""
    network = ladder_small(classes=3, width=4)
    made = Settings(optimizer="adam", lr=4e-4, encoder_lr_factor=0.25).build_optimizer(network)
    rest, encoder = made.param_groups
    assert (rest.get("factor", 1), encoder["factor"]) == (1, 0.25)
    inside = {id(p) for p in encoder["params"]}
    parts = (network.stem, network.stage1, network.stage4, network.transitions)
    assert all(id(p) in inside for part in parts for p in part.parameters())
    up = (network.pyramid, network.rungs, network.last, network.head)
    assert {id(p) for p in rest["params"]} == {id(p) for part in up for p in part.parameters()}
    assert len(inside) + len(rest["params"]) == len(list(network.parameters()))
    with pytest.raises(ValueError, match="names no stages"):
        Settings(encoder_lr_factor=0.25).build_optimizer(nn.Linear(2, 2))


def test_the_loop_keeps_the_factor_between_the_rates():
    """Plain SGD on a constant gradient moves each part by its own rate."""
    network = nn.Sequential(
        OrderedDict(stem=nn.Flatten(), stage1=nn.Linear(4, 3), head=nn.Linear(3, 2))
    )
    network.stages = ("stage1",)
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(0.1)
    batch = (torch.rand(8, 1, 2, 2), torch.arange(8) % 2)
    moved = []
    for factor in (1.0, 0.5):
        twin = copy.deepcopy(network)
        how = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "lr": 0.1}
        train(CrossEntropy(twin), [batch], epochs=1, batch_size=8, encoder_lr_factor=factor, **how)
        parts = (twin.stage1.bias, twin.head.bias)
        moved.append([part.detach() - 0.1 for part in parts])
    torch.testing.assert_close(moved[1][0], moved[0][0] / 2)
    torch.testing.assert_close(moved[1][1], moved[0][1])


def test_nesterov_reaches_sgd():
    made = Settings(nesterov=True).build_optimizer(nn.Linear(2, 2))
    assert made.param_groups[0]["nesterov"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "sdg"}, "optimizer of the training is 'sdg'; expected 'sgd' or 'adam'"),
        ({"precision": "bf16"}, "precision of the training is 'bf16'"),
        ({"schedule": "linear"}, "schedule of the training is 'linear'"),
        ({"schedule": "step"}, "needs milestones, or step_every"),
        ({"epochs": -1}, "epochs of the training is -1; expected a whole number at least 0"),
        ({"batch_size": -1}, "batch_size of the training is -1"),
        ({"lr": float("nan")}, "lr of the training is nan"),
        (
            {"momentum": 1.5},
            "momentum of the training is 1.5; expected a number at least 0 and below 1",
        ),
        ({"clip_norm": 0.0}, "clip_norm of the training is 0.0; expected a number above 0 or none"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_changes_are_by_name():
    settings = Settings().changed({"epochs": 3})
    assert settings == dataclasses.replace(Settings(), epochs=3)
    with pytest.raises(ValueError, match="unknown training setting 'epoch': did you mean epochs"):
        settings.changed({"epoch": 3})


def test_parts_of_a_learner_are_groups_with_settings_of_their_own():
    learner = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    options = {"network": {"lr": 0.1}, "network.2": {"weight_decay": 0.0, "lr": 1.0}, "flow": {}}
    own, parts = Settings(weight_decay=0.5).of("network", options)
    assert (own.lr, list(parts), parts["2"].lr) == (0.1, ["2"], 1.0)
    rest, last = own.build_optimizer(learner, parts).param_groups
    assert [len(group["params"]) for group in (rest, last)] == [2, 2]
    assert (rest["lr"], rest["weight_decay"], rest["momentum"]) == (0.1, 0.5, 0.9)
    assert (last["lr"], last["weight_decay"], last["momentum"]) == (1.0, 0.0, 0.9)
    assert all(group is not learner[0].weight for group in last["params"])
