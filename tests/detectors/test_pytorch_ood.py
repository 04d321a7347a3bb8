"""pytorch-ood's detectors through openset, and ours beside theirs where it is installed."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from openset.activations import Activations
from openset.detectors import (
    ASH,
    DICE,
    FDBD,
    GEN,
    KNN,
    NCI,
    PNML,
    SCALE,
    SHE,
    Energy,
    Entropy,
    Mahalanobis,
    MaxLogit,
    MaxSoftmax,
    NNGuide,
    OpenMax,
    PytorchOOD,
    ReAct,
    RelativeMahalanobis,
    ViM,
    build,
)
from openset.model.saved import restore

peers = pytest.mark.skipif(find_spec("pytorch_ood") is None, reason="needs pytorch_ood")


def batch(n=400, seed=0):
    """Features of four classes through one head, as a network gives them."""
    start = torch.Generator().manual_seed(9)
    weight = 0.3 * torch.randn(4, 8, generator=start) + torch.eye(4, 8)
    bias = 0.1 * torch.randn(4, generator=start)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    x = (torch.randn(n, 8, generator=generator) + 2 * weight[labels]).relu()
    return Activations(x @ weight.T + bias, {"penultimate": x}, labels, head=(weight, bias))


def scores(ours, theirs):
    train, test = batch(), batch(60, seed=1)
    return [d.fit([train[:150], train[150:]]).score(test).double() for d in (ours, build(theirs))]


@peers
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Energy(), "pytorch-ood:EnergyBased"),
        (Entropy(), "pytorch-ood:Entropy"),
        (MaxLogit(), "pytorch-ood:MaxLogit"),
        (KNN(k=7), "pytorch-ood:KNN,k=7"),
        (ViM(5), "pytorch-ood:ViM,d=5"),
        (ReAct(), "pytorch-ood:ReAct"),
        (SCALE(0.65), "pytorch-ood:SCALE"),
        (ASH("s", 0.65), "pytorch-ood:ASH"),
        (ASH("b", 0.65), "pytorch-ood:ASH,variant=ash-b"),
        (ASH("p", 0.65), "pytorch-ood:ASH,variant=ash-p"),
        (DICE(0.7), "pytorch-ood:DICE,p=0.7"),
        (FDBD(), "pytorch-ood:fDBD"),
        (NNGuide(k=7), "pytorch-ood:NNGuide,k=7"),
        (NCI(), "pytorch-ood:NCI"),
        (NCI(0.05), "pytorch-ood:NCI,alpha=0.05"),
        (SHE(), "pytorch-ood:SHE"),
        (PNML(), "pytorch-ood:PNML"),
    ],
)
def test_equal(ours, theirs):
    ours, theirs = scores(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@peers
def test_max_softmax_is_theirs_plus_one():
    ours, theirs = scores(MaxSoftmax(), "pytorch-ood:MaxSoftmax")
    torch.testing.assert_close(ours, 1 + theirs, rtol=0, atol=1e-6)


@peers
def test_mahalanobis_is_theirs_without_the_half_and_with_a_mean_covariance():
    """Theirs sums the covariance over the n rows, which divides every distance by n."""
    ours, theirs = scores(Mahalanobis(shrinkage=0), "pytorch-ood:Mahalanobis")
    torch.testing.assert_close(ours, 2 * 400 * theirs, rtol=1e-3, atol=1e-3)


@peers
def test_relative_mahalanobis_is_theirs_with_mean_covariances():
    ours, theirs = scores(RelativeMahalanobis(shrinkage=0), "pytorch-ood:RMD")
    torch.testing.assert_close(ours, 400 * theirs, rtol=2e-3, atol=5e-3)


@peers
def test_gen_is_theirs_times_the_classes_until_theirs_rounds():
    """Theirs cuts probabilities at 1e-7, so very sure images tie."""
    logits = torch.randn(50, 4)
    theirs = build("pytorch-ood:GEN").fit([Activations(logits, labels=torch.zeros(50).long())])
    expected = 4 * theirs.score(Activations(logits))
    torch.testing.assert_close(GEN().score(Activations(logits)), expected, rtol=1e-4, atol=1e-4)
    sure = Activations(torch.tensor([[20.0, 0, 0, 0], [30.0, 0, 0, 0]]))
    assert theirs.score(sure).diff() == 0
    assert GEN().score(sure).diff() < 0


@peers
def test_their_openmax_changes_with_the_batch_and_ours_does_not():
    """Theirs computes distances only to classes that are some image's best in the batch."""
    train, test = batch(), batch(60, seed=1)
    for detector, changes in ((OpenMax(), False), (build("pytorch-ood:OpenMax"), True)):
        detector.fit([train])
        alone = torch.cat([detector.score(test[i : i + 1]) for i in range(60)])
        assert bool((alone - detector.score(test)).abs().max() > 0.1) is changes


@peers
@pytest.mark.parametrize(
    "spec", ["KNN,k=7", "GMM", "SHE", "NNGuide", "DICE,p=0.5", "fDBD", "VRA", "KLMatching", "SCALE"]
)
def test_is_fitted_again_after_loading(spec):
    train, test = batch(), batch(60, seed=1)
    detector = build(f"pytorch-ood:{spec}").fit([train])
    again = restore(detector.spec())
    again.load_state_dict(detector.state_dict())
    score = detector.score(test)
    assert score.shape == (60,)
    np.testing.assert_allclose(again.score(test), score, rtol=1e-6)


@peers
@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("KN", "unknown detector of pytorch-ood 'KN'"),
        ("KNN,kk=3", "unknown setting of pytorch-ood's KNN 'kk': did you mean k"),
        ("ViM", "pytorch-ood's ViM needs the setting d"),
        ("GradNorm", "GradNorm reads the network itself"),
    ],
)
def test_what_cannot_be_made_is_said(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(f"pytorch-ood:{spec}")


@peers
def test_a_network_without_linear_head_is_told_what_to_do():
    train = batch()
    train.head = None
    with pytest.raises(ValueError, match=r"ViM needs the network's last linear layer"):
        build("pytorch-ood:ViM,d=5").fit([train]).score(train)


def test_without_pytorch_ood_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_ood", None)
    with pytest.raises(ValueError, match=r"pip install 'openset\[peers\]'"):
        PytorchOOD("KNN")
