import numpy as np
import pytest
import torch
from scipy.stats import weibull_min

from openset.activations import Activations
from openset.detectors import OpenMax

ALPHA, TAIL = 3, 20


def batch(n=600, k=4, seed=0, wrong=0.1):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % k
    moved = torch.rand(n, generator=generator) < wrong
    predicted = torch.where(moved, (labels + 1) % k, labels)
    logits = 2 * torch.randn(n, k, generator=generator) + 9 * torch.eye(k)[predicted]
    return Activations(logits, labels=labels)


def published(train, test, distance):
    """Algorithms 1 and 2 with libMR's FitHigh, one image and one class at a time."""
    x, y = train.logits.double().numpy(), train.labels.numpy()
    means, models = [], []
    for c in range(x.shape[1]):
        rows = x[(y == c) & (x.argmax(1) == c)]
        means.append(rows.mean(0))
        tail = np.sort([distance(row, means[c]) for row in rows])[-TAIL:]
        shape, _, scale = weibull_min.fit(tail - tail[0] + 10_000, 1e4, floc=0, scale=1e4)
        models.append((tail[0], shape, scale))
    revised, unknown = [], []
    for row in test.logits.double().numpy():
        new, taken = row.copy(), 0.0
        for i, c in enumerate(np.argsort(-row)[:ALPHA], start=1):
            smallest, shape, scale = models[c]
            moved = distance(row, means[c]) - smallest + 10_000
            w = weibull_min.cdf(moved, shape, scale=scale) * (ALPHA + 1 - i) / ALPHA
            taken += row[c] * w
            new[c] = row[c] * (1 - w)
        revised.append(new)
        unknown.append(np.exp(taken) / (np.exp(taken) + np.exp(new).sum()))
    return np.array(revised), np.array(unknown)


def euclidean(a, b):
    return np.linalg.norm(a - b)


def both(a, b):
    cosine = 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return np.linalg.norm(a - b) / 200 + cosine


@pytest.mark.parametrize(
    ("distance", "reference"), [("euclidean", euclidean), ("euclidean-cosine", both)]
)
def test_follows_the_papers_algorithms(distance, reference):
    train, test = batch(), batch(60, seed=1)
    test.logits[:30] += 5 * torch.randn(30, 4)
    detector = OpenMax(TAIL, ALPHA, distance=distance).fit([train[:100], train[100:]])
    revised, unknown = published(train, test, reference)
    assert 0.1 < (unknown > 0.5).mean() < 0.9
    np.testing.assert_allclose(detector.score(test).sigmoid(), unknown, atol=0.01)
    np.testing.assert_allclose(detector.class_scores(test), revised, atol=0.05)


def test_a_tail_that_is_stretched_fires_at_stretched_distances():
    train, test = batch(), batch(60, seed=1)
    plain = OpenMax().fit([train]).outlying(test.logits)
    train.logits, test.logits = train.logits * 1e4, test.logits * 1e4
    again = OpenMax().fit([train]).outlying(test.logits)
    torch.testing.assert_close(again, plain, rtol=1e-2, atol=1e-3)


def test_scores_alone_are_those_of_any_batch_to_the_bit():
    detector, test = OpenMax().fit([batch()]), batch(60, seed=1)
    alone = torch.cat([detector.score(test[i : i + 1]) for i in range(60)])
    assert torch.equal(alone, detector.score(test))


def test_large_logits_do_not_overflow():
    train = batch()
    train.logits = train.logits * 1e4
    assert OpenMax().fit([train]).score(train).isfinite().all()


def test_wrong_rows_do_not_move_the_means():
    clean, train = batch(wrong=0), batch(wrong=0)
    train.labels = train.labels.clone()
    train.labels[::7] = (train.labels[::7] + 1) % 4
    right = train.logits.argmax(1) == train.labels
    expected = OpenMax().fit([clean[right]]).mean
    torch.testing.assert_close(OpenMax().fit([train]).mean, expected)


def test_a_class_without_correct_rows_is_named():
    train = batch(wrong=0)
    train.labels = torch.where(train.labels == 2, 3, train.labels)
    with pytest.raises(ValueError, match="class 2 has 0"):
        OpenMax().fit([train])


def test_a_class_of_equal_rows_is_named():
    train = batch(wrong=0)
    train.logits[train.labels == 1] = 9 * torch.eye(4)[1]
    with pytest.raises(ValueError, match="distances of class 1 are all 0"):
        OpenMax().fit([train])
