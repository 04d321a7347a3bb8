"""The seeded sample of rows."""

import pytest
import torch

from openset.sampling import reservoir


def test_keeps_everything_that_fits_in_order():
    x, labels = torch.arange(6.0)[:, None], torch.tensor([1, 0, 1, -1, 0, 1])
    rows, counts = reservoir([(x[:2], labels[:2]), (x[2:], labels[2:])], 3, 10)
    assert [part.flatten().tolist() for part in rows] == [[1, 4], [0, 2, 5], []]
    assert counts.tolist() == [2, 3, 0]


def test_does_not_depend_on_the_batches():
    x, labels = torch.arange(1000.0)[:, None], torch.randint(3, (1000,))
    one, counts = reservoir([(x, labels)], 3, 40)
    batches = list(zip(x.split(17), labels.split(17), strict=True))
    for a, b in zip(one, reservoir(batches, 3, 40)[0], strict=True):
        assert torch.equal(a, b)
    assert counts.tolist() == torch.bincount(labels).tolist()
    other, _ = reservoir([(x, labels)], 3, 40, seed=1)
    assert not torch.equal(one[0], other[0])


def test_every_row_is_as_likely():
    x, labels = torch.arange(20.0)[:, None], torch.zeros(20, dtype=torch.long)
    drawn = [
        reservoir([(x[:5], labels[:5]), (x[5:], labels[5:])], 1, 5, s)[0][0] for s in range(400)
    ]
    times = torch.bincount(torch.cat(drawn).flatten().long(), minlength=20)
    assert times.min() > 60
    assert times.max() < 140


def test_errors():
    with pytest.raises(ValueError, match="no rows"):
        reservoir([], 2, 5)
    with pytest.raises(ValueError, match="label 2 is outside 0…1"):
        reservoir([(torch.zeros(1, 2), torch.tensor([2]))], 2, 5)
    with pytest.raises(ValueError, match="NaN or infinity"):
        reservoir([(torch.tensor([[torch.inf]]), torch.tensor([0]))], 1, 5)
