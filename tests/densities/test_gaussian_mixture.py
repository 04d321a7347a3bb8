"""GaussianMixture against scikit-learn, and the features that real networks give."""

import pytest
import torch
from sklearn.mixture import GaussianMixture as Reference

from openset.densities import GaussianMixture, gaussian_mixture
from openset.densities.gaussian_mixture import SHARES
from openset.densities.mixtures import Mixtures, Piece


def two_blobs(classes=3, rows=200, dim=5, dtype=torch.float64):
    """Two blobs per class, standardised over all, so that the jitter is scikit-learn's."""
    x = torch.randn(classes, 2, rows // 2, dim, dtype=torch.float64)
    x = x @ torch.randn(classes, 1, dim, dim, dtype=torch.float64)
    x = x + 6 * torch.randn(classes, 2, 1, dim, dtype=torch.float64)
    x = x.flatten(0, 2)
    labels = torch.arange(classes).repeat_interleave(rows)
    return ((x - x.mean(0)) / x.std(0, correction=0)).to(dtype), labels


def reference(x, covariance, components=2, **settings):
    settings = {"tol": 1e-9, "max_iter": 1000, "n_init": 3, "random_state": 0} | settings
    return Reference(components, covariance_type=covariance, **settings).fit(x.numpy())


@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_agrees_with_scikit_learn(covariance, memory):
    x, labels = two_blobs()
    batches = [(x[::2], labels[::2]), (x[1::2], labels[1::2])]
    density = GaussianMixture(
        2, covariance, shrinkage=0, seeds=3, tolerance=1e-9, iterations=1000, memory=memory
    ).fit_classes(batches, 3)
    for c in range(3):
        expected = -reference(x[labels == c], covariance).score_samples(x.numpy())
        torch.testing.assert_close(
            density.surprise(x, c), torch.from_numpy(expected), rtol=1e-3, atol=1e-3
        )


def test_float32_is_as_likely_as_scikit_learn():
    x, _ = two_blobs(1, 400, 20, torch.float32)
    density = GaussianMixture(2, shrinkage=0).fit([x])
    expected = reference(x.double(), "full", tol=1e-3).score(x.double().numpy())
    assert -density(x).mean().item() == pytest.approx(expected, rel=1e-3)


def test_streamed_start_from_a_sample_is_as_likely():
    x = torch.cat([torch.randn(2000, 3), 8 + torch.randn(2000, 3)])
    x = x[torch.randperm(len(x))]
    whole = GaussianMixture(2).fit([x])
    stream = GaussianMixture(2, memory=0).fit(list(x.split(500)))
    torch.testing.assert_close(stream(x).mean(), whole(x).mean(), rtol=1e-3, atol=0)


def test_surprise_is_a_density_in_the_original_units():
    x = torch.randn(500, 1, dtype=torch.float64) * 0.1 + 3
    grid = torch.linspace(1, 5, 4001, dtype=torch.float64)[:, None]
    total = (-GaussianMixture(2).fit([x])(grid)).exp().sum() * 0.001
    assert total.item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied"])
def test_units_of_the_features_only_shift_the_surprise(covariance):
    x, labels = two_blobs()
    units = torch.tensor([1e-4, 1.0, 50.0, 3e3, 7.0], dtype=torch.float64)
    plain = GaussianMixture(2, covariance).fit_classes([(x, labels)], 3)
    other = GaussianMixture(2, covariance).fit_classes([(x * units + 5 * units, labels)], 3)
    expected = plain(x, labels) + units.log().sum()
    torch.testing.assert_close(other(x * units + 5 * units, labels), expected)


def test_more_features_than_rows():
    """Features of rank 20 in 300 dimensions from 60 rows: held-out rows stay less surprising."""
    mix = torch.randn(20, 300)
    known, held_out, other = (
        torch.randn(60, 20) @ mix,
        torch.randn(50, 20) @ mix,
        torch.randn(50, 300),
    )
    density = GaussianMixture(4).fit([known])
    assert density(held_out).isfinite().all()
    assert density(held_out).max() < density(other * known.std()).min()


def test_without_shrinkage_a_singular_fit_warns_or_fails():
    x = torch.randn(100, 3)
    x = torch.cat([x, x[:, :1]], dim=1)
    with pytest.warns(UserWarning, match="class 0 is singular but for the jitter"):
        GaussianMixture(1, shrinkage=0).fit([x])
    with pytest.raises(ValueError, match=r"class 0 is singular.*shrinkage"):
        GaussianMixture(1, shrinkage=0, jitter=0).fit([x])


def test_fewer_distinct_rows_than_components():
    x = torch.randn(3, 4).repeat(10, 1)
    density = GaussianMixture(8).fit([x])
    assert density(x).isfinite().all()
    assert density(x).max() < density(x + 3).min()


def test_constant_features_and_rows():
    x = torch.randn(50, 4)
    x[:, 1] = 7.0
    density = GaussianMixture(2).fit([x])
    fired = x + torch.tensor([0, 5.0, 0, 0])
    assert (density(fired) > density(x) + 5).all()
    assert GaussianMixture(1).fit([torch.ones(5, 2)])(torch.ones(1, 2)).isfinite()


def test_half_precision_features():
    x = torch.randn(100, 4) * 50
    half = GaussianMixture(2).fit([x.half()])
    assert half.mean.dtype == torch.float32
    torch.testing.assert_close(
        half(x.half()).mean(), GaussianMixture(2).fit([x])(x).mean(), rtol=1e-2, atol=0
    )


def test_reduction_keeps_the_leading_axes():
    x = torch.randn(300, 2) @ torch.randn(2, 12)
    density = GaussianMixture(1, reduce=2).fit([x])
    assert density.mean.shape == (1, 1, 2)
    assert density(x * 10).mean() > density(x).mean()
    with pytest.raises(ValueError, match="reduce must be in 1…12"):
        GaussianMixture(1, reduce=13).fit([x])


def test_more_seeds_are_never_less_likely():
    x, _ = two_blobs(1, 300, 4)
    likely = [-GaussianMixture(6, seeds=seeds).fit([x])(x).mean().item() for seeds in (1, 6)]
    assert likely[1] >= likely[0] - 1e-3


def test_few_rows_name_the_class():
    x = torch.randn(30, 2)
    labels = torch.tensor([0] * 20 + [1] * 3 + [2] * 7)
    with pytest.raises(
        ValueError, match=r"at least 8 rows.*class 1 has 3, class 2 has 7, class 3 has 0"
    ):
        GaussianMixture().fit_classes([(x, labels)], 4)
    with pytest.raises(ValueError, match=r"at least 2 rows.*class 0 has 1"):
        GaussianMixture(1).fit([x[:1]])


def test_a_hundred_classes_fit_together():
    labels = torch.arange(100).repeat(30)
    x = 3 * torch.randn(100, 8)[labels] + torch.randn(3000, 8)
    density = GaussianMixture(4, "diag").fit_classes([(x, labels)], 100)
    assert (density.table(x).argmin(1) == labels).float().mean() > 0.95


def test_a_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        GaussianMixture().fit(x for x in [torch.randn(9, 2)])


@pytest.mark.parametrize("settings", [{"covariance": "round"}, {"shrinkage": 2}, {"components": 0}])
def test_wrong_settings(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        GaussianMixture(**settings)


def test_much_memory_is_said(monkeypatch):
    """4 bytes × D² for each of 3 · 2 covariances to keep; 15 of each worked on beside them."""
    monkeypatch.setattr(gaussian_mixture, "MUCH", 0.1)
    x, labels = torch.randn(60, 600), torch.arange(60) % 3
    kept, needed = (4 * 600**2 * 3 * 2 * copies / 2**30 for copies in (1, 16))
    figures = (
        f"600 features × 2 components × 3 classes take about {needed:.1f} GiB .* {kept:.1f} GiB"
    )
    with pytest.warns(UserWarning, match=f"{figures}.*reduce=64 or covariance=diag"):
        GaussianMixture(2, iterations=1).fit_classes([(x, labels)], 3)
    for less in ({"covariance": "diag"}, {"reduce": 64}):
        GaussianMixture(2, iterations=1, **less).fit_classes([(x, labels)], 3)


def test_many_features_agree_with_scikit_learn():
    """From 128 features on, blocks of products are skipped; nothing that counts may be."""
    x = torch.randn(900, 140, dtype=torch.float64) @ torch.randn(140, 140, dtype=torch.float64)
    x[:300] += 30
    x[300:600, 130:] -= 60
    x = (x - x.mean(0)) / x.std(0, correction=0)
    density = GaussianMixture(3, shrinkage=0).fit([x[torch.randperm(900)]])
    expected = reference(x, "full", 3, tol=1e-3)
    assert -density(x).mean().item() == pytest.approx(expected.score(x.numpy()), rel=1e-6)


def test_hopeless_components_have_no_share():
    x = torch.randn(3, 200, 140, dtype=torch.float64)
    x[:, :100] += 0.3
    mean, factor = torch.randn(3, 4, 140) / 3, torch.randn(3, 4, 140, 140).triu() / 20
    factor.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    mixtures = Mixtures(torch.full((3, 4), 0.25).log().double(), mean.double(), factor.double())
    piece = Piece(torch.arange(3), x, torch.rand(3, 200) > 0.1)
    share, likelihood = mixtures.expect(piece)
    joint = mixtures.log_joint(x)
    torch.testing.assert_close(
        share, joint.softmax(-1) * piece.mask[..., None], rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(likelihood, (joint.logsumexp(-1) * piece.mask).sum(1))


@pytest.mark.parametrize("rows", [60, 2000])
def test_auto_takes_the_share_under_which_held_out_rows_are_likeliest(rows):
    """Few rows of many features want more of it than many rows do."""
    torch.manual_seed(0)
    mixing = torch.randn(20, 20)
    x, labels = torch.randn(2 * rows, 20) @ mixing, torch.arange(2 * rows) % 2
    density = GaussianMixture(1, shrinkage="auto").fit_classes([(x, labels)], 2)
    held = torch.cat([torch.arange(c, 2 * rows, 2)[::5] for c in (0, 1)])
    learned = torch.ones(2 * rows, dtype=torch.bool)
    learned[held] = False

    def surprise(share):
        other = GaussianMixture(1, shrinkage=share)
        other.fit_classes([(x[learned], labels[learned])], 2)
        return float(other(x[held], labels[held]).sum())

    shares = {share: surprise(share) for share in SHARES}
    # The trial standardises by all rows, this by those that are left.
    assert shares[round(float(density.share), 6)] <= min(shares.values()) + 0.05 * len(held)
    assert (float(density.share) > 0.001) == (rows == 60)
    again = GaussianMixture(1, shrinkage="auto")
    again.load_state_dict(density.state_dict())
    torch.testing.assert_close(again(x, labels), density(x, labels))
    assert again.settings()["shrinkage"] == "auto"


def test_a_share_that_is_no_share_is_refused():
    with pytest.raises(ValueError, match="a share in 0…1, or 'auto'; got 'some'"):
        GaussianMixture(shrinkage="some")


def test_diagonal_scores_of_few_rows_at_a_time_are_those_of_all(monkeypatch):
    x, labels = two_blobs()
    density = GaussianMixture(2, "diag").fit_classes([(x, labels)], 3)
    whole = density.table(x), density(x, labels)
    monkeypatch.setattr(gaussian_mixture, "CACHED", 35)
    for few, all_ in zip((density.table(x), density(x, labels)), whole, strict=True):
        torch.testing.assert_close(few, all_)
