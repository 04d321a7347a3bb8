"""Promises of every detector, checked on each one; a new detector is picked up by its name."""

import inspect
import json
from importlib.util import find_spec

import pytest
import torch
from attack.material import HEADS, companions

from openset import detectors, networks
from openset.activations import Activations, concatenate
from openset.detectors import DETECTORS, Detector, build
from openset.extractors.tap import Tap
from openset.model.saved import restore
from openset.scoring.views import layers_for

CLASSES = 3
SMALL = {
    "csi": "csi:crops=2",
    "gemos": "gemos:components=1",
    "knn": "knn:k=5",
    "mlod": "mlod:k=5",
    "pytorch-ood": "pytorch-ood:KNN,k=5",
}
"""Settings that let a detector work on the little data here."""

NAMES = sorted(name for name in DETECTORS if name != "pytorch-ood" or find_spec("pytorch_ood"))
BY_LOGITS = ("ash", "dice", "nac", "nci", "nnguide", "react", "scale", "she", "vra", "weiper")
NOT_FAR = (
    *BY_LOGITS,
    *("fdbd", "mahalanobis-plus-plus", "pnml", "subspaces"),
    *("binc", "ova", "ovnni", "csi", "generalized-odin", "learned-confidence"),
    *("mc-dropout", "deep-ensemble"),
)
"""Some read far features as sure logits or clip them, some see directions alone, some read logits,
where high is known, and some read how far opinions differ."""
BY_VIEW = ("autoencoder", "crf", "synthcp")
"""Some read what their view adds, and no logits."""


def make(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(SMALL.get(name, name), **companions(CLASSES))


def tap_for(detector, network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        headed = HEADS.get(detector.name, lambda plain: plain)(network)
    return Tap(headed, layers_for(headed, [detector]))


def fits(detector):
    return type(detector).fit is not Detector.fit


def reads_features(detector):
    return bool(set(detector.layers_read) - {"logits"})


def assert_near(score, expected):
    """Equal but for the rounding of single precision at the scores' own size."""
    size = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5 * size)


def images(n, seed):
    """Three classes of noisy images, each brighter in another corner."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    image = torch.rand(n, 1, 8, 8, generator=generator) * 0.5
    for c, (i, j) in enumerate([(0, 0), (0, 4), (4, 0)]):
        image[labels == c, :, i : i + 4, j : j + 4] += 0.5
    return image, labels


@pytest.fixture(scope="module")
def network():
    """A network trained for a moment, so that it classifies these images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.cnn(CLASSES, 1, widths=(4, 8), hidden=8)
        optimizer = torch.optim.Adam(network.parameters(), 0.01)
        image, label = images(240, 0)
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(image), label).backward()
            optimizer.step()
        return network.eval()


@pytest.fixture(scope="module")
def fitted(network):
    """Every detector, fitted, with the extractor that it looks through."""
    image, label = images(240, 1)
    found = {}
    for name in NAMES:
        detector = make(name)
        tap = tap_for(detector, network)
        with torch.no_grad():
            batch = tap(image)
        batch.labels = label
        detector.fit([batch[:100], batch[100:]])
        detector.adjust([batch])
        found[name] = detector, tap
    return found


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def detector(name, fitted):
    return fitted[name][0]


@pytest.fixture
def seen(name, fitted):
    """Activations of fresh images, as the detector wants to see them."""
    detector, tap = fitted[name]
    image, label = images(40, 2)
    with torch.no_grad():
        batch = detector.view(tap)(image)
    batch.labels = label
    return batch


def test_scores_one_number_a_row(detector, seen):
    score = detector(seen)
    assert score.shape == (40,)
    assert score.isfinite().all()
    assert score.unique().numel() > 20


def test_a_score_does_not_depend_on_the_batch(detector, seen):
    together = detector(seen)
    alone = torch.cat([detector(seen[i : i + 1]) for i in range(40)])
    assert_near(alone, together)


def test_permuting_rows_permutes_scores(detector, seen):
    order = torch.randperm(40)
    assert_near(detector(seen[order]), detector(seen)[order])


def test_many_batches_fit_as_one_does(name, network):
    image, label = images(240, 1)
    one, many = make(name), make(name)
    tap = tap_for(one, network)
    with torch.no_grad():
        batch = one.view(tap)(image)
    batch.labels = label
    one.fit([batch]).adjust([batch])
    many.fit([batch[i : i + 7] for i in range(0, 240, 7)]).adjust([batch])
    torch.testing.assert_close(many(batch), one(batch), rtol=1e-3, atol=1e-4)


def test_a_fit_refuses_a_generator(name, network):
    detector = make(name)
    if not fits(detector) or name == "temperature":
        return
    image, label = images(30, 1)
    with torch.no_grad():
        batch = tap_for(detector, network)(image)
    batch.labels = label
    with pytest.raises(ValueError, match="can be read only once"):
        detector.fit(b for b in [batch])


def test_saved_and_loaded_scores_are_equal(detector, seen):
    again = restore(detector.spec())
    again.load_state_dict(detector.state_dict())
    assert torch.equal(again(seen), detector(seen))
    assert again.settings().keys() == detector.settings().keys()


def test_a_fit_leaves_the_settings_as_they_were_given(name, detector):
    def plain(made):
        kept = made.settings().items()
        return {key: value for key, value in kept if not isinstance(value, torch.nn.Module)}

    assert plain(detector) == plain(make(name))


def test_the_layers_that_were_found_are_learned(detector):
    again = restore(detector.spec())
    again.load_state_dict(detector.state_dict())
    assert json.dumps(again.layers_read) == json.dumps(detector.layers_read)
    assert json.dumps(again.layers) == json.dumps(detector.layers)


def test_a_setting_that_names_other_layers_than_were_found_is_refused(detector):
    chose = [part for part in detector.modules() if getattr(part, "found_layers", None)]
    for part in chose:
        other = restore(part.spec())
        other.layers = part.found_layers[:-1]
        with pytest.raises(ValueError, match=f"fitted on the layers .*{part.found_layers[-1]}"):
            other.load_state_dict(part.state_dict())


def test_says_whether_it_looks_again(name, fitted):
    detector, tap = fitted[name]
    assert detector.looks_again == (detector.view(tap) is not tap)


def test_double_precision_agrees(detector, seen):
    torch.testing.assert_close(
        detector(seen.to(torch.float64)).float(), detector(seen), rtol=2e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_and_not_scored_in(detector, seen, dtype):
    half = seen.to(dtype)
    assert torch.equal(detector(half), detector(half.to(torch.float32)))


def test_pixels_score_as_their_rows_do(detector, seen):
    def grid(x):
        return x.reshape(10, 2, 2, *x.shape[1:]).movedim((1, 2), (-2, -1))

    dense = seen.map(grid)
    assert dense.grid == (2, 2)
    score = detector(dense)
    assert score.shape == (10, 2, 2)
    assert_near(score.flatten(), detector(seen))


def test_class_scores_have_a_column_for_each_class(detector, seen):
    assert detector.class_scores(seen).shape == (40, CLASSES)


def test_far_features_score_higher(name, detector, seen):
    """Images that look like nothing known, for detectors that read features."""
    if not reads_features(detector) or name in NOT_FAR:
        return
    far = Activations(
        seen.logits,
        {layer: x + 50 * x.abs().mean() for layer, x in seen.features.items()},
        head=seen.head,
        extra=seen.extra,
    )
    assert (detector(far) > detector(seen)).float().mean() > 0.9


def test_unsure_logits_score_higher(name, detector, seen):
    if reads_features(detector) or name in BY_VIEW:
        return
    flat = seen.map(lambda x: x)
    flat.logits = seen.logits * 0.01
    sure = detector(seen) <= detector(seen).median()
    assert (detector(flat) > detector(seen))[sure].all()


def test_its_text_says_what_it_is(name, detector):
    text = inspect.getdoc(type(detector)) or ""
    assert "https://" in text, "name the paper"
    assert "Example:" in text
    assert repr(detector).startswith(type(detector).__name__)


def test_unfitted_detectors_say_so(name, seen):
    detector = make(name)
    if not fits(detector):
        return
    with pytest.raises(ValueError, match="is not fitted; call fit first"):
        detector(seen)


def test_concatenated_batches_score_as_their_parts(detector, seen):
    parts = [seen[:13], seen[13:]]
    joined = torch.cat([detector(part) for part in parts])
    assert_near(detector(concatenate(parts)), joined)


def test_a_fit_names_features_that_are_no_numbers():
    batch = Activations(
        torch.randn(20, 3), {"penultimate": torch.randn(20, 4)}, torch.arange(20) % 3
    )
    batch.features["penultimate"][7, 2] = torch.nan
    with pytest.raises(ValueError, match="the features hold NaN or infinite values in 1 of 20"):
        build("mahalanobis").fit([batch])


@pytest.mark.parametrize("name", DETECTORS)
def test_the_name_on_the_command_line_is_one_to_import(name):
    """Without hyphens and whatever the case: `msp` is `MSP`, `max-logit` is `MaxLogit`."""
    spelled = [n for n in vars(detectors) if n.lower() == name.replace("-", "")]
    assert any(getattr(detectors, each) is DETECTORS[name] for each in spelled)
