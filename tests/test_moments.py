import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openset.moments import Moments


def rows(n=200, classes=3, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n,), generator=generator)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64) * 3 + 1000
    return x + labels[:, None], labels


@pytest.mark.parametrize("kind", ["full", "diag", "tied"])
def test_equals_numpy_on_all_rows_at_once(kind):
    x, labels = rows()
    moments = Moments(3, 4, kind)
    for part, label in zip(x.split(17), labels.split(17), strict=True):
        moments.update(part, label)
    groups = [x[labels == c].numpy() for c in range(3)]
    np.testing.assert_allclose(moments.mean, np.stack([g.mean(0) for g in groups]), rtol=1e-12)
    full = np.stack([np.cov(g.T, ddof=0) for g in groups])
    counts = np.array([len(g) for g in groups])
    expected = {
        "full": full,
        "diag": np.stack([np.diag(c) for c in full]),
        "tied": (full * counts[:, None, None]).sum(0) / counts.sum(),
    }[kind]
    np.testing.assert_allclose(moments.covariance(), expected, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 199), max_size=4), st.sampled_from(["full", "diag", "tied"]))
def test_merging_any_split_gives_the_whole(cuts, kind):
    x, labels = rows()
    whole = Moments(3, 4, kind).update(x, labels)
    merged = Moments(3, 4, kind)
    edges = [0, *sorted(cuts), 200]
    for a, b in itertools.pairwise(edges):
        merged.merge(Moments(3, 4, kind).update(x[a:b], labels[a:b]))
    for name in ("count", "mean", "scatter"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))


def test_a_large_offset_does_not_cancel():
    x = torch.tensor([[1e8 - 1], [1e8 + 1]], dtype=torch.float64)
    assert Moments(1, 1, "diag").update(x[:1]).update(x[1:]).covariance().item() == 1.0


def test_negative_labels_are_left_out_and_others_refused():
    moments = Moments(2, 1).update(torch.ones(3, 1), torch.tensor([0, -1, -100]))
    assert moments.count.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="label 2 is outside 0…1"):
        moments.update(torch.ones(1, 1), torch.tensor([2]))


def test_merging_different_shapes_is_refused():
    with pytest.raises(ValueError, match="cannot merge full moments"):
        Moments(2, 3, "diag").merge(Moments(2, 3, "full"))


def test_state_survives_a_save():
    x, labels = rows()
    moments = Moments(3, 4).update(x, labels)
    again = Moments(3, 4)
    again.load_state_dict(moments.state_dict())
    torch.testing.assert_close(again.covariance(), moments.covariance(), rtol=0, atol=0)
