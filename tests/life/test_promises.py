"""What is promised of many images holds over 1,000 streams, after save and load and in ONNX.

Scores are real ones; each stream has held-out images of its own, drawn from the same known images.
"""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from scipy import stats

from openset import OpenSet
from openset.files.sealed import read_tensors, save_tensors
from openset.life.martingale import Martingale, Urn
from openset.model.export import export
from openset.runs.run import Run
from openset.scoring.false_discoveries import q_values
from openset.scoring.held_out import HeldOut, PValues

STREAMS, KNOWN, STRANGE = 1000, 60, 20
LEVEL, ALARM = 0.2, 0.05

WAYS = ("loaded", "onnx")


def as_file(model, folder):
    """A session of the exported model."""
    export(model, folder / "model.onnx")
    return onnxruntime.InferenceSession(str(folder / "model.onnx"))


def scores_of(model, images):
    """The scores of images, by a model or by a session of its file."""
    x = images.images.float() / 255
    if isinstance(model, OpenSet):
        return model(x)[1].double()
    given = {"image": x.numpy(), "threshold": np.zeros(1, np.float32)}
    return torch.from_numpy(model.run(["score"], given)[0]).double()


@pytest.fixture(scope="module")
def scores(run, tmp_path_factory):
    """By each way, the scores of known images that no training has seen, and of unknown ones."""
    folder, loaded = tmp_path_factory.mktemp("promises"), Run.load(run)
    data, model = loaded.load_data(), loaded.load_model("energy")
    model.save(folder / "model")
    ways = {"loaded": OpenSet.load(folder / "model"), "onnx": as_file(model, folder)}
    parts = [data.valid, data.test, data.unknown]
    found = {way: [scores_of(m, part) for part in parts] for way, m in ways.items()}
    return {way: (torch.cat(known), strange) for way, (*known, strange) in found.items()}


def streams(known, unknown):
    """Held-out scores of each stream, its known scores and its unknown ones."""
    for seed in range(STREAMS):
        draw = torch.Generator().manual_seed(seed)
        mixed = known[torch.randperm(len(known), generator=draw)]
        strange = unknown[torch.randperm(len(unknown), generator=draw)[:STRANGE]]
        yield mixed[KNOWN:].sort().values, mixed[:KNOWN], strange


def through_a_file(held_out, folder):
    save_tensors(held_out.state_dict(), folder / "held-out.safetensors")
    held_out = HeldOut()
    held_out.load_state_dict(read_tensors(folder / "held-out.safetensors"))
    return held_out


def p_values(way, held_out, score, group, folder):
    """p-values, each against the held-out scores of its own stream."""
    held_out = through_a_file(held_out, folder)
    if way == "loaded":
        return held_out.p_values(score, group)
    size = {0: torch.export.Dim("images")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.onnx.export(
            PValues(held_out).eval(), (score[:9].float(), group[:9]), dynamo=True, verbose=False,
            input_names=["score", "group"], dynamic_shapes=(size, size),
        )  # fmt: skip
    graph.save(folder / "p.onnx")
    session = onnxruntime.InferenceSession(str(folder / "p.onnx"))
    given = {"score": score.float().numpy(), "group": group.numpy()}
    return torch.from_numpy(session.run(None, given)[0]).double()


@pytest.fixture(scope="module", params=WAYS)
def rare(request, scores, tmp_path_factory):
    """p-values `[STREAMS, KNOWN + STRANGE]`."""
    kept, known, strange = zip(*streams(*scores[request.param]), strict=True)
    score = torch.cat([torch.stack(known), torch.stack(strange)], 1)
    group = torch.arange(STREAMS)[:, None].expand_as(score)
    folder = tmp_path_factory.mktemp("tables")
    asked = (request.param, HeldOut().fit(kept), score.flatten(), group.flatten(), folder)
    return p_values(*asked).view_as(score)


@pytest.mark.parametrize("storey", [False, True])
def test_the_share_of_false_alarms_is_as_promised(rare, storey):
    marked = torch.stack([q_values(p, storey=storey) <= LEVEL for p in rare])
    false, right = marked[:, :KNOWN].sum(1), marked[:, KNOWN:].sum(1)
    share = false / (false + right).clamp_min(1)
    error = 3 * share.std() / STREAMS**0.5
    promised = LEVEL if storey else LEVEL * KNOWN / (KNOWN + STRANGE)
    assert share.mean() <= promised + error
    assert share.mean() > promised / 2, "so low that it could have marked more"
    assert right.double().mean() / STRANGE > 0.2
    fixed = rare <= 0.05
    false, right = fixed[:, :KNOWN].sum(1), fixed[:, KNOWN:].sum(1)
    assert false.sum() > 0
    assert right.double().mean() / STRANGE > 0.2


@pytest.mark.parametrize("way", WAYS)
def test_known_streams_sound_the_alarm_as_rarely_as_promised(scores, way, tmp_path):
    known, strange = scores[way]
    kept, streamed = [], []
    for seed in range(STREAMS):
        mixed = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))]
        kept.append(mixed[:100].sort().values)
        streamed.append(mixed[100:300])
    held_out = through_a_file(HeldOut().fit(kept), tmp_path)

    def alarms(seed, stream):
        draw = np.random.default_rng(seed)
        p = Urn(held_out, seed).p_values(stream.numpy(), *draw.random((2, len(stream))))
        return Martingale().add(p).max() >= -np.log(ALARM)

    found = sum(alarms(*pair) for pair in enumerate(streamed))
    assert found <= stats.binom.isf(0.001, STREAMS, ALARM)
    mixed = [torch.cat([stream[:50], strange[:100]]) for stream in streamed[:100]]
    assert sum(alarms(*pair) for pair in enumerate(mixed)) > 90, "so deaf that it keeps any promise"
