import pytest
import torch

from openset.activations import Activations
from openset.detectors import VIB, VIBY1, VIBY2
from openset.evaluation.metrics import auroc
from openset.extractors.tap import Tap
from openset.networks import cnn
from openset.networks.heads.bottleneck import bottleneck


def rows(columns, count=6, classes=3):
    return Activations(torch.randn(count, classes), {"divergence": torch.rand(count, columns) * 90})


def test_vib_is_the_kl():
    seen = rows(1)
    torch.testing.assert_close(VIB().score(seen), seen.features["divergence"][:, 0])


def test_viby_1_weights_the_kl_by_the_probabilities():
    seen = rows(3)
    score = VIBY1().score(seen)
    for i in range(len(seen)):
        p = seen.logits[i].exp() / seen.logits[i].exp().sum()
        expected = sum(p[c] * seen.features["divergence"][i, c] for c in range(3))
        torch.testing.assert_close(score[i], expected)


def test_viby_2_is_the_kl_to_the_nearest_prior():
    seen = rows(3)
    expected = [min(row) for row in seen.features["divergence"].tolist()]
    assert VIBY2().score(seen).tolist() == expected


def test_viby_2_is_never_above_viby_1():
    seen = rows(3, count=50)
    assert (VIBY2().score(seen) <= VIBY1().score(seen)).all()


@pytest.mark.parametrize(
    ("detector", "columns", "sentence"),
    [(VIB(), 3, "viby-1"), (VIBY1(), 1, "use vib"), (VIBY2(), 1, "use vib")],
)
def test_priors_of_the_other_kind_are_refused(detector, columns, sentence):
    with pytest.raises(ValueError, match=sentence):
        detector.score(rows(columns))


@pytest.mark.parametrize(
    ("detector", "priors"), [(VIB(), 1), (VIBY1(), None), (VIBY2(), None)], ids=lambda x: str(x)
)
def test_far_noise_ranks_where_the_confidence_underflows(detector, priors):
    network = cnn(classes=3, channels=1, widths=(4, 8), hidden=16)
    tap = Tap(bottleneck(network, priors=priors, dim=64), ["divergence"])
    noise = torch.rand(8, 1, 8, 8)
    # The farther out the same picture goes, the farther its code lies from every prior.
    near, far, farther = (detector.score(tap(noise * size)) for size in (1e3, 1e4, 1e5))
    assert VIB().confidence(far).max() == VIB().confidence(farther).max() == 0
    assert auroc(near, far) == auroc(far, farther) == 1
    assert farther.isfinite().all()
