"""Small classifiers and objectives with outliers, and what one step of them does."""

import torch
from torch import nn

from openset.networks.base import Backbone, pooled_neck
from openset.objectives import FlowOutliers, NoiseOutliers


def classifier(channels=1, norm=True) -> Backbone:
    """A small network of three classes, with batch norm and dropout or with neither."""
    between = [nn.BatchNorm2d(6), nn.Dropout(0.1)] if norm else []
    stage = nn.Sequential(nn.Conv2d(channels, 6, 3, 2), *between, nn.ReLU())
    return Backbone(channels, nn.Identity(), [stage], pooled_neck(), nn.Linear(6, 3))


def opinionated() -> Backbone:
    """A classifier whose outlier term is large, so that its gradient is no rounding error."""
    network = classifier(norm=False)
    with torch.no_grad():
        network.head.weight *= 30
    return network


def small(kind, network=None, **settings):
    """An objective with as few maps as it can have."""
    small = {} if kind is NoiseOutliers else {"width": 4}
    if kind is FlowOutliers:
        small |= {"blocks": 1, "couplings": 2}
    objective = kind(network or classifier(), **{**small, **settings})
    if kind is FlowOutliers:
        for weight in objective.flow.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
    return objective


def batch(n=6, size=(8, 8)):
    return torch.rand(n, 1, *size), torch.arange(n) % 3


def gradients(module):
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def pairs(objective, image, label):
    """Each learner's loss, and the gradients its backward pass left in every learner."""
    found = {}
    for who, loss in objective.step(image, label):
        objective.zero_grad()
        loss.backward()
        found[who] = loss.item(), {n: gradients(m) for n, m in objective.learners().items()}
    return found


def learn(objective, image, label, optimizers):
    """One step as the training loop takes it."""
    losses = {}
    for who, loss in objective.step(image, label):
        optimizers[who].zero_grad()
        loss.backward()
        optimizers[who].step()
        losses[who] = loss.item()
    return losses


def adams(objective, lr=2e-3):
    return {who: torch.optim.Adam(m.parameters(), lr) for who, m in objective.learners().items()}
