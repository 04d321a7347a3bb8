import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openset.activations import Activations
from openset.data import ImageSet
from openset.detectors import ODIN, Energy, Fusion, Mahalanobis, MaxLogit, MaxSoftmax
from openset.evaluation.metrics import fpr_at_95_tpr
from openset.extractors.tap import Tap
from openset.model.tune import GRID, refuse_leak, tune, tune_on_known

SMALL = {"temperature": (0.5, 10.0, 1000.0), "epsilon": (0.0, 0.02, 0.2)}


class Counted(nn.Module):
    """A small classifier that counts the images that pass through it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        for layer in (1, 3):  # Sharper logits, so that temperatures and steps differ.
            nn.init.normal_(self.layers[layer].weight)
        self.passes = 0

    def forward(self, image):
        self.passes += 1
        return self.layers(image)


@pytest.fixture
def tap():
    return Tap(Counted().requires_grad_(False), head="layers.3")


@pytest.fixture
def sets():
    known = ImageSet(torch.rand(40, 1, 4, 4), torch.arange(40) % 3, name="letters")
    return known, ImageSet(torch.rand(30, 1, 4, 4).round(), name="dots")


def passes(tap):
    return tap.network.passes


def test_the_grid_is_odins():
    assert GRID["temperature"] == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
    assert len(GRID["epsilon"]) == 21
    assert (GRID["epsilon"][0], GRID["epsilon"][7], GRID["epsilon"][-1]) == (0, 0.0014, 0.004)


def test_figures_are_those_of_each_detector_on_its_own(tap, sets):
    known, unknown = sets
    tuned = tune(ODIN(), SMALL, known=known, unknown=unknown, tap=tap, batch_size=16)
    rates = {}
    for t, e in itertools.product(*SMALL.values()):
        odin = ODIN(t, e)
        seen = [odin(odin.view(tap)(images.images.float() / 255)) for images in sets]
        rates[t, e] = fpr_at_95_tpr(*seen)
    found = {(x["temperature"], x["epsilon"]): x["fpr_at_95_tpr"] for x in tuned.figures}
    assert found == rates
    assert len(set(rates.values())) > 2
    best = tuned.settings["temperature"], tuned.settings["epsilon"]
    assert rates[best] == min(rates.values())
    assert (tuned.detector.temperature, tuned.detector.epsilon) == best
    assert tuned.tuned_on == ("letters", "dots")


def test_ties_go_to_the_first_of_the_grid():
    for order in [(1.0, 2.0), (2.0, 1.0)]:
        # Between two classes, the temperature does not change the order of the scores.
        two = [Activations(torch.randn(9, 2))]
        tuned = tune(MaxSoftmax(), {"temperature": order}, known=two, unknown={"u": [two[0][:5]]})
        assert tuned.settings == {"temperature": order[0]}


def test_temperature_needs_one_pass_for_all(tap, sets):
    known, unknown = sets
    tune(MaxSoftmax(), known=known, unknown=unknown, tap=tap)
    assert passes(tap) == 2


def test_odin_needs_a_gradient_per_temperature_and_a_pass_per_step(tap, sets):
    known, unknown = sets
    tune(ODIN(), SMALL, known=known, unknown=unknown, tap=tap)
    plain, gradients, steps = 1, 3, 3 * 2
    assert passes(tap) == 2 * (plain + gradients + steps)


def test_the_same_sample_for_the_same_seed(tap, sets):
    known, unknown = sets

    def figures(seed):
        return tune(
            ODIN(), SMALL, known=known, unknown=unknown, tap=tap, limit=12, seed=seed
        ).figures

    assert figures(0) == figures(0)
    assert figures(0) != figures(1)


def test_limit_takes_so_many_images(tap, sets):
    known, unknown = sets
    dataset = torch.utils.data.TensorDataset(torch.rand(40, 1, 4, 4), torch.arange(40) % 3)
    for images in (known, dataset):
        tuned = tune(MaxSoftmax(), known=images, unknown=unknown, tap=tap, limit=4, batch_size=2)
        assert tuned.tuned_on[1] == "dots"
    assert passes(tap) == 8
    with pytest.raises(ValueError, match="limit needs an ImageSet or a Dataset; got list"):
        tune(MaxSoftmax(), known=[], unknown=unknown, tap=tap, limit=4)


def test_refuses_the_unknown_set_of_the_test(tap, sets):
    known, unknown = sets
    settings = {"known": known, "unknown": unknown, "tap": tap, "tested_on": ["dots", "lines"]}
    with pytest.raises(ValueError, match="dots is an unknown set of the test"):
        tune(MaxSoftmax(), **settings)
    assert passes(tap) == 0
    assert tune(MaxSoftmax(), **settings, allow_leak=True).tuned_on == ("letters", "dots")


@pytest.mark.parametrize("spelled", ["./ood", "ood/", "ood:test,limit=9", "{root}/ood"])
def test_a_folder_is_the_same_however_it_is_spelled(spelled, tmp_path, monkeypatch):
    (tmp_path / "ood").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is an unknown set of the test"):
        refuse_leak([spelled.format(root=tmp_path)], ["ood"])
    refuse_leak([spelled.format(root=tmp_path)], ["other"])


def test_a_fusion_says_what_its_members_were_tuned_on(tap, sets):
    known, unknown = sets
    tuned = tune(MaxSoftmax(), known=known, unknown=unknown, tap=tap)
    assert Fusion([tuned.detector, Energy()]).tuned_on == ("letters", "dots")


def test_an_unknown_set_without_a_name_is_refused(tap, sets):
    with pytest.raises(ValueError, match="has no name"):
        tune(MaxSoftmax(), known=sets[0], unknown=[(torch.rand(2, 1, 4, 4), torch.zeros(2))])


def test_several_unknown_sets_count_together(tap, sets):
    known, unknown = sets
    grid = {"temperature": (1.0, 100.0)}
    parts = {"a": unknown.subset(range(10)), "b": unknown.subset(range(10, 30))}
    apart = tune(MaxSoftmax(), grid, known=known, unknown=parts, tap=tap)
    whole = tune(MaxSoftmax(), grid, known=known, unknown=unknown, tap=tap)
    assert apart.figures == whole.figures
    assert apart.tuned_on == ("letters", "a", "b")


def test_activations_serve_where_no_second_look_is_needed(tap, sets):
    known, unknown = ([tap(images.images.float() / 255)] for images in sets)
    tuned = tune(Energy(), known=known, unknown={"dots": unknown})
    direct = tune(Energy(), known=sets[0], unknown=sets[1], tap=tap)
    assert tuned.figures == direct.figures
    still = tune(ODIN(), {"epsilon": (0.0,)}, known=known, unknown={"dots": unknown})
    assert still.settings == {"epsilon": 0.0}
    with pytest.raises(ValueError, match="looks at the image again"):
        tune(ODIN(), known=known, unknown={"dots": unknown})


def test_a_fitted_detector_keeps_its_fit(tap, sets):
    known, unknown = sets
    seen = tap(known.images.float() / 255)
    seen.labels = known.labels
    detector = Mahalanobis().fit([seen])
    grid = {"epsilon": (0.0, 0.01)}
    tuned = tune(detector, grid, known=known, unknown=unknown, tap=tap)
    torch.testing.assert_close(tuned.detector(seen), detector(seen))
    assert detector.epsilon == 0.0


@pytest.mark.parametrize(
    ("detector", "grid", "sentence"),
    [
        (ODIN(), {"epsilom": (0.1,)}, "unknown setting of odin 'epsilom': did you mean epsilon"),
        (ODIN(), {"epsilon": ()}, "no value for epsilon"),
        (MaxLogit(), None, "name a grid"),
    ],
    ids=["misspelt", "empty", "nothing"],
)
def test_grids_that_cannot_be_searched(detector, grid, sentence, tap, sets):
    with pytest.raises(ValueError, match=sentence):
        tune(detector, grid, known=sets[0], unknown=sets[1], tap=tap)


def test_known_data_alone_finds_the_temperature_of_least_nll(tap, sets):
    known = sets[0]
    with torch.no_grad():
        tap.network.layers[3].weight.mul_(30)  # A network that is far too sure.
    tuned = tune_on_known(MaxSoftmax(), known=known, tap=tap)
    logits = tap(known.images.float() / 255).logits
    losses = {}
    for t in GRID["temperature"]:
        probability = (logits.double() / t).softmax(1)
        chosen = [probability[i, c].item() for i, c in enumerate(known.labels.tolist())]
        losses[t] = -sum(math.log(p) for p in chosen) / len(chosen)
    assert [x["nll"] for x in tuned.figures] == pytest.approx(list(losses.values()))
    assert tuned.settings["temperature"] == min(losses, key=losses.__getitem__) != 1
    assert tuned.tuned_on == ("letters",)


def test_known_data_alone_finds_the_step_of_the_largest_drop(tap, sets):
    known = sets[0]
    tuned = tune_on_known(ODIN(), SMALL, known=known, tap=tap, batch_size=16)
    t, image = tuned.settings["temperature"], known.images.float() / 255
    drops = {}
    for e in SMALL["epsilon"]:
        still, moved = ODIN(t, 0.0), ODIN(t, e)
        drop = still(tap(image)).double() - moved(moved.view(tap)(image)).double()
        drops[e] = drop.mean().item()
    found = {x["epsilon"]: x["mean_score_drop"] for x in tuned.figures if "epsilon" in x}
    assert found == pytest.approx(drops, abs=1e-9)
    assert tuned.settings["epsilon"] == max(drops, key=drops.__getitem__) > 0
    assert (tuned.detector.temperature, tuned.detector.epsilon) == (t, tuned.settings["epsilon"])


def test_known_data_alone_tunes_nothing_else(sets):
    with pytest.raises(ValueError, match="can tune temperature and epsilon, not shrinkage"):
        tune_on_known(Mahalanobis(), {"shrinkage": (0.1, 0.2)}, known=sets[0])


def test_odin_is_the_formula_of_the_paper(tap, sets):
    """Eq. 1 and 2, image by image, with autograd and nothing of the library."""
    network, (t, e) = tap.network.double(), (1000.0, 0.002)
    image = sets[0].images.double() / 255
    odin = ODIN(t, e)
    score = odin(odin.view(tap)(image))
    for x, found in zip(image, score, strict=True):
        x = x[None].clone().requires_grad_()
        logits = network(x)
        F.cross_entropy(logits / t, logits.argmax(1)).backward()
        assert x.grad is not None
        sign = torch.where(x.grad >= 0, 1.0, -1.0)
        moved = network(x.detach() - e * sign)
        assert found.item() == pytest.approx(1 - (moved / t).softmax(1).max().item(), abs=1e-9)
