import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.networks import cnn, ensemble, from_spec, ladder_small
from openset.networks.heads.ensemble import Members, plain_batch_norm, restarted
from openset.objectives import DeepEnsemble, OneVsAll

IMAGE = torch.linspace(0, 1, 320).sin().view(5, 1, 8, 8)


def network():
    torch.manual_seed(0)
    return cnn(classes=3, channels=1, widths=(4, 8), hidden=16)


@pytest.mark.parametrize(
    ("make", "image"),
    [
        (network, IMAGE),
        (lambda: ladder_small(classes=3, channels=1, width=4), torch.rand(2, 1, 32, 32)),
    ],
)
def test_one_program_gives_what_each_network_gives_alone(make, image):
    members = Members(restarted(make()) for _ in range(3)).train()
    alone = copy.deepcopy(members)
    assert members.together(image).equal(torch.stack([m(image) for m in copy.deepcopy(alone)]))
    members = copy.deepcopy(alone)
    together = members.batched(image)
    separate = torch.stack([member(image) for member in alone])
    torch.testing.assert_close(together, separate, rtol=1e-4, atol=1e-5)
    together.square().sum().backward()
    separate.square().sum().backward()
    for (name, ours), theirs in zip(members.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=2e-3, atol=2e-3, msg=name)
    for (name, ours), theirs in zip(members.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    side = members.eval()(image)
    torch.testing.assert_close(side, torch.cat([m(image) for m in members], dim=1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(4, 3, 5, 5), (4, 3)])
def test_batches_are_normalised_as_torch_does(training, affine, shape):
    x = torch.randn(shape).requires_grad_()
    weight, bias = (torch.rand(3), torch.rand(3)) if affine else (None, None)
    results = []
    for norm in (F.batch_norm, plain_batch_norm):
        kept = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0])
        y = norm(x, *kept, weight, bias, training, 0.3, 1e-3)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        results.append((y, gradient, *kept))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(theirs, ours)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("objective", [DeepEnsemble, partial(OneVsAll, trunk="separate")])
def test_one_program_trains_on_a_gpu_as_one_network_after_another_does(
    objective, layout, monkeypatch
):
    label, image = torch.arange(5).cuda() % 3, IMAGE.cuda().to(memory_format=layout)
    losses = []
    for batched in (True, False):
        made = objective(network()).cuda().to(memory_format=layout)
        if not batched:
            one_by_one = lambda self, x: torch.stack([member(x) for member in self])  # noqa: E731
            monkeypatch.setattr(Members, "batched", one_by_one)
        optimizer = torch.optim.SGD(made.parameters(), 0.01)
        for _ in range(3):
            with torch.autocast("cuda", torch.bfloat16):
                ((_, loss),) = made.step(image, label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_one_program_keeps_its_own_precision_within_mixed_precision():
    members = Members([network(), network()]).train()
    whole = copy.deepcopy(members).batched(IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = members.batched(IMAGE)
    assert mixed.dtype == torch.float32
    assert mixed.equal(whole)


def test_dropout_differs_between_the_members():
    same = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5))
    members = Members([same, copy.deepcopy(same)]).train()
    one, other = members.batched(torch.ones(1, 1, 8, 8))
    assert not one.equal(other)


def test_each_member_learns_as_it_would_alone():
    objective, label = DeepEnsemble(network(), members=2), torch.arange(5) % 3
    ((_, loss),) = objective.step(IMAGE, label)
    loss.backward()
    for member in objective.network.members:
        alone = copy.deepcopy(member)
        alone.zero_grad()
        F.cross_entropy(alone.train()(IMAGE), label).backward()
        grads = zip(member.parameters(), alone.parameters(), strict=True)
        assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5) for a, b in grads)


def test_the_first_member_is_the_network_and_the_others_start_anew():
    inner = network()
    inner.normalize.mean.fill_(0.25)
    joined = ensemble(inner, members=3)
    assert joined.members[0] is inner
    first, *others = (member.stage1[0].weight for member in joined.members)
    assert not any(weight.equal(first) for weight in others)
    assert not others[0].equal(others[1])
    assert all(member.normalize.mean.item() == 0.25 for member in joined.members)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    assert not restarted(plain)[1].weight.equal(plain[1].weight)


def test_trained_networks_are_joined_as_they_are_and_made_again_from_the_spec():
    members = [network(), cnn(classes=3, channels=1, widths=(4, 8), hidden=16)]
    joined = ensemble(members).eval()
    assert [*joined.members] == members
    again = from_spec(joined.spec)
    again.load_state_dict(joined.state_dict())
    assert again.eval()(IMAGE).equal(joined(IMAGE))


def test_void_pixels_do_not_count():
    objective = DeepEnsemble(ladder_small(classes=3, channels=1, width=4), members=2).eval()
    image, label = torch.rand(2, 1, 32, 32), torch.randint(3, (2, 32, 32))
    ((_, whole),) = objective.step(image, label)
    label[1] = -100
    ((_, half),) = objective.step(image, label)
    ((_, first),) = objective.step(image[:1], label[:1])
    assert not torch.allclose(half, whole)
    torch.testing.assert_close(half, first)


def test_one_network_or_several_kinds_are_refused():
    with pytest.raises(ValueError, match="at least 2 networks; got 1"):
        DeepEnsemble(network(), members=1)
    with pytest.raises(ValueError, match="must be of one architecture"):
        ensemble([network(), cnn(classes=3, channels=1)])
