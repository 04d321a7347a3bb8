"""Models give the results of their detectors, share passes, and wrong pairings are refused."""

import pytest
import torch
from torch import nn

from openset import OpenSet, Results, Tap, networks
from openset.activations import concatenate
from openset.data import ImageSet
from openset.detectors import KNN, ODIN, Energy, MaxSoftmax, build
from openset.detectors.by_layer import by_layer
from openset.evaluation.evaluate import evaluate
from openset.evaluation.gallery import TRAINING
from openset.extractors.extract import stream
from openset.model.fit import fit


@pytest.fixture(scope="module")
def sets():
    torch.manual_seed(0)
    known = ImageSet(torch.rand(60, 1, 8, 8), torch.arange(60) % 3, name="known ones")
    noise = ImageSet(torch.rand(50, 1, 8, 8) ** 2, name="noise")
    return known, noise


@pytest.fixture
def network():
    torch.manual_seed(0)
    return networks.cnn(3, 1, widths=(4, 8), hidden=8).eval()


@pytest.fixture
def models(network, sets):
    detectors = {"msp": MaxSoftmax(), "knn": KNN(k=3), "odin": ODIN(epsilon=0.01)}
    found = fit(network, detectors, sets[0], sets[0], accept=0.9)
    for model in found.values():
        model.classes = ["a", "b", "c"]
    return found


def passes(network):
    """Grows by the batch size of each forward pass."""
    seen = []
    network.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    return seen


def test_models_give_what_their_parts_give(models, network, sets):
    known, noise = sets
    found = evaluate(models, known=known, unknown={"noise": noise})
    detectors = {name: model.detector for name, model in models.items()}
    thresholds = {name: model.threshold for name, model in models.items()}
    tap = Tap(network, models["knn"].tap.layers)
    parts = evaluate(tap, detectors, known, noise, thresholds=thresholds, classes=["a", "b", "c"])
    assert repr(found.rows) == repr(parts.rows)
    assert {row.metric for row in found.rows} >= {"macro_f1", "auroc"}
    assert (found.classes, found.thresholds) == (parts.classes, parts.thresholds)
    assert found.images.keys() == parts.images.keys()


def test_results_keep_the_p_values_of_models(models, sets, tmp_path):
    names = ["known_at_p05", "unknown_at_p05"]
    found = evaluate({"knn": models["knn"]}, known=sets[0], unknown=sets[1], metrics=names)
    found.save(tmp_path / "results")
    loaded = Results.load(tmp_path / "results")
    ((case, scored),) = loaded.scored.items()
    for name, its in scored.items():
        expected = models["knn"].held_out.p_values(its.score, its.predicted)
        assert torch.equal(its.p_value, expected), name
    shares = {row.metric: row.value for row in loaded.rows}
    assert shares["known_at_p05"] == (scored[case.known].p_value <= 0.05).double().mean()
    assert shares["unknown_at_p05"] == (scored["noise"].p_value <= 0.05).double().mean()


def test_models_of_one_network_share_its_passes(models, network, sets):
    seen = passes(network)
    evaluate(models, known=sets[0], unknown=sets[1])
    # ODIN looks twice and lends its first look to the others; of the report's images, here all, the
    # second class is looked up once more.
    assert sum(seen) == 2 * 2 * (60 + 50)


def test_models_of_two_networks_are_compared(models, sets):
    torch.manual_seed(1)
    other = OpenSet(Tap(networks.cnn(3, 1, widths=(4, 8), hidden=8)), MaxSoftmax())
    together = evaluate({**models, "other": other}, known=sets[0], unknown=sets[1])
    alone = evaluate({"other": other}, known=sets[0], unknown=sets[1])
    of_other = [row for row in together.rows if row.detector == "other"]
    assert repr(of_other) == repr(alone.rows)
    assert [row.detector for row in together.rows][:: len(together.rows) - 1] == ["msp", "other"]
    single = evaluate(other, known=sets[0], unknown=sets[1])
    assert [row.value for row in single.rows] == [row.value for row in alone.rows]


def test_a_threshold_that_is_named_takes_the_place_of_the_models(models, sets):
    loose = models["msp"].threshold
    found = evaluate(
        {"knn": models["knn"]}, known=sets[0], unknown=sets[1], thresholds={"knn": loose}
    )
    (record,) = found.thresholds.values()
    assert record == loose.record()


def test_what_cannot_be_paired_is_refused(models, network, sets):
    known, noise = sets
    with pytest.raises(ValueError, match="known=…, unknown=…"):
        evaluate(models, known, noise)
    with pytest.raises(ValueError, match="name the data"):
        evaluate(Tap(network), [Energy()], known)
    maps = [(torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8).long())]
    with pytest.raises(ValueError, match="maps labels pixels and the known data whole images"):
        evaluate(models, known=known, unknown={"maps": maps})
    with pytest.raises(ValueError, match="noise labels whole images and the known data pixels"):
        evaluate(models, known=maps, unknown={"noise": noise})
    with pytest.raises(ValueError, match="labels whole images and labels are maps"):
        evaluate(models, known=maps, unknown={"maps": maps})
    pixels = nn.Conv2d(1, 3, 1)
    with pytest.raises(ValueError, match="labels pixels and labels are one per image"):
        evaluate(Tap(pixels), [Energy()], known, noise)
    with pytest.raises(ValueError, match="two detectors are the same"):
        evaluate(Tap(network), [Energy(), Energy()], known, noise)


def test_the_reports_images_have_a_second_class_and_their_nearest_training_images(models, sets):
    known, noise = sets
    found = evaluate(models, known=known, unknown=noise, training=known)
    ((run, told),) = found.details.items()
    features = torch.cat([seen.values("penultimate") for seen in stream(models["knn"].tap, known)])
    features = features / features.norm(dim=1, keepdim=True)
    strange = torch.cat([seen.values("penultimate") for seen in stream(models["knn"].tap, noise)])
    logits = torch.cat([seen.logits for seen in stream(models["msp"].tap, noise)])
    for i, its in told[noise.name].items():
        distance = 1 - features @ (strange[i] / strange[i].norm())
        near, far = zip(*its["near"], strict=True)
        assert list(far) == pytest.approx(distance.sort().values[:3].tolist(), abs=1e-5)
        assert distance[list(near)].tolist() == pytest.approx(list(far), abs=1e-5)
        assert its["runner_up"]["msp"] == int(logits[i].argsort(descending=True)[1])
        assert set(near) <= set(found.images[run][TRAINING])
    for i, its in told[TRAINING].items():
        assert its["label"] == "abc"[int(known.labels[i])]
        assert its["path"] == known.paths[i]


def test_of_a_fusion_the_report_has_what_its_members_say(network, sets):
    known, noise = sets
    model = fit(network, {"f": build("fusion:energy+knn")}, known, known, accept=0.9)["f"]
    found = evaluate({"f": model}, known=known, unknown=noise)
    ((_, told),) = found.details.items()
    rows = torch.cat([model.detector.surprise(seen) for seen in stream(model.tap, noise)])
    for i, its in told[noise.name].items():
        names, rare = zip(*its["parts"]["f"], strict=True)
        assert names == ("energy", "knn")
        assert list(rare) == pytest.approx((-rows[i]).exp().tolist(), rel=1e-4)


def test_of_a_sum_over_layers_the_report_has_what_each_layer_says(network, sets):
    known, noise = sets
    detector = build("gemos:components=1,density=gaussian-mixture")
    model = fit(network, {"g": detector}, known, known, accept=0.9)["g"]
    found = evaluate({"g": model}, known=known, unknown=noise, held_out=known)
    ((_, told),) = found.details.items()
    usual, strange = (
        by_layer(model.detector, concatenate(stream(model.tap, images))) for images in sets
    )
    for i, its in told[noise.name].items():
        assert [name for name, _ in its["parts"]["g"]] == list(model.detector.layers_read)
        for layer, p in its["parts"]["g"]:
            higher = sum(nats >= strange[layer][i] for nats in usual[layer].tolist())
            assert p == pytest.approx((1 + higher) / 61)
