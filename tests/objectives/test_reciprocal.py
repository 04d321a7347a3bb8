import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.detectors import MaxLogit
from openset.extractors.tap import Tap
from openset.networks import Normalize, cnn, reciprocal
from openset.objectives import ARPL, ARPLCS, RPL
from openset.objectives.reciprocal import sureness
from openset.training.loop import train

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)
LABEL = torch.tensor([0, 2, 1, 1, 0])


def network():
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


def plane(classes=2):
    """A network of two numbers."""
    torch.manual_seed(0)
    layers = [
        Normalize([0.5], [0.125]),
        nn.Flatten(),
        nn.Linear(2, 16),
        nn.Tanh(),
        nn.Linear(16, classes),
    ]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("adversarial", [True, False])
def test_logits_are_the_distances_of_the_equations(adversarial):
    made = reciprocal(network(), adversarial, dim=6).eval()
    features, points = made.embed(IMAGE), made.points.points
    for i in range(5):
        for k in range(3):
            d_e = sum((features[i, j] - points[k, j]) ** 2 for j in range(6)) / 6
            d_d = sum(features[i, j] * points[k, j] for j in range(6))
            expected = d_e - d_d if adversarial else d_e
            torch.testing.assert_close(made(IMAGE)[i, k], expected)


def test_points_at_the_origin_tell_no_class_from_another():
    made = reciprocal(network())
    nn.init.zeros_(made.points.points)
    logits = made.eval()(IMAGE)
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3))


@pytest.mark.parametrize("variant", ["paper", "published", "rpl"])
def test_the_loss_is_cross_entropy_and_the_bound(variant):
    objective = RPL(network(), 0.3, 2.0) if variant == "rpl" else ARPL(network(), 0.3, variant)
    objective.eval()
    made = objective.network
    nn.init.normal_(made.bound, std=0.1)
    features, points = made.embed(IMAGE), made.points.points
    d_e = torch.stack([(features - point).square().mean(1) for point in points], dim=1)
    total = 0.0
    for i, y in enumerate(LABEL.tolist()):
        radius = made.bound[0] if variant == "published" else F.softplus(10 * made.bound[y]) / 10
        d = d_e[i, y]
        excess = {"paper": (d - radius).relu(), "published": (1 + d - radius).relu()}
        logits = 2 * d_e[i] if variant == "rpl" else d_e[i] - features[i] @ points.T
        bound = (d - radius) ** 2 if variant == "rpl" else excess[variant]
        total += F.cross_entropy(logits, torch.tensor(y)) + 0.3 * bound
    ((_, loss),) = objective.step(IMAGE, LABEL)
    torch.testing.assert_close(loss, total / 5)


def test_the_known_lie_opposite_their_points_and_the_unknown_in_the_middle():
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(200) % 2
    known = torch.randn(200, 1, 1, 2, generator=generator) * 0.04 + 0.5
    known[..., 0] += label.view(-1, 1, 1) / 2 - 0.25
    unknown = torch.randn(200, 1, 1, 2, generator=generator) * 0.04 + 0.5
    how = {"epochs": 60, "batch_size": 50, "lr": 0.1, "device": "cpu"}
    trained = train(ARPL(plane(), dim=2), [(known, label)], **how)
    tap = Tap(trained)
    assert (trained(known).argmax(1) == label).float().mean() > 0.99
    own = trained.points.points[label]
    assert (F.cosine_similarity(trained.embed(known), own) < 0).float().mean() > 0.95
    low, high = MaxLogit()(tap(known)), MaxLogit()(tap(unknown))
    assert (high > low.quantile(0.95)).float().mean() > 0.95


def test_the_published_bound_only_ever_loosens_and_the_papers_does_not():
    falls = {}
    for variant in ("paper", "published"):
        objective = ARPL(network(), variant=variant).eval()
        ((_, loss),) = objective.step(10 * IMAGE, LABEL)
        loss.backward()
        falls[variant] = objective.network.bound.grad
    assert falls["published"].shape == (1,)
    assert falls["published"] < 0
    assert falls["paper"].shape == (3,)


def test_sureness_is_least_where_all_points_are_equally_far():
    made = reciprocal(plane(classes=3), dim=4)
    made.points.points.data = torch.eye(3, 4)
    assert sureness(made, torch.zeros(2, 4)).item() == pytest.approx(1 / 3)
    far = torch.tensor([[-400.0, 0.0, 0.0, 0.0]])
    assert sureness(made, far).item() == pytest.approx(1)
    x = torch.randn(5, 4)
    p = made.points.distances(x).softmax(1)
    entropy = torch.distributions.Categorical(p).entropy()
    torch.testing.assert_close(sureness(made, x), (-entropy).exp().mean())


def test_confusing_samples_add_to_the_losses_of_both():
    made = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        objective = ARPLCS(network(), weight=weight, width=4).eval()
        torch.manual_seed(1)
        made[weight] = dict(objective.step(IMAGE, LABEL))
    torch.manual_seed(1)
    assert made[0.5]["discriminator"].equal(made[0.0]["discriminator"])
    for learner in ("generator", "network"):
        gap = made[0.5][learner] - made[0.0][learner]
        assert 0.5 / 3 <= gap.item() <= 0.5
    ((_, alone),) = _arpl().step(IMAGE, LABEL)
    torch.testing.assert_close(made[0.0]["network"], alone)


def _arpl():
    torch.manual_seed(0)
    return ARPL(network()).eval()


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be 'paper' or 'published'; got 'code'"):
        ARPL(network(), variant="code")
