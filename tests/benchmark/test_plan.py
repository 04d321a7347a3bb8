"""The plan: what decides a key, what is missing, and what it costs."""

import time
from dataclasses import replace

import pytest
from command_line import call
from torch import nn

from openset.benchmark import keys, protocol
from openset.benchmark.plan import Plan
from openset.benchmark.protocol import Protocol
from openset.benchmark.time_left import forward_speed


def changed(known: Protocol, **training) -> Protocol:
    """The protocol with other training settings."""
    method = known.methods[0]
    return replace(known, methods=[replace(method, training=method.training.changed(training))])


def key(known: Protocol, folder, seed: int = 0) -> str:
    return Plan(known, folder, seeds=seed + 1).steps[seed].key


def test_the_key_covers_all_that_decides_the_weights(tiny, tmp_path):
    known = protocol.load(str(tiny), "quick")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"0")
    started = replace(known, methods=[replace(known.methods[0], weights=str(weights))])
    variants = [known, changed(known, lr=0.06), started, replace(known, data="digits,limit=500")]
    variants += [replace(known, splits=["0,1,2,3,4,6"]), replace(known, valid=0.3)]
    found = [key(each, tmp_path) for each in variants] + [key(known, tmp_path, seed=1)]
    weights.write_bytes(b"1")
    found += [key(started, tmp_path)]
    assert len(set(found)) == len(found)
    assert key(known, tmp_path) == found[0]


def test_a_mended_objective_is_not_served_from_an_earlier_training(tiny, tmp_path, monkeypatch):
    known = protocol.load(str(tiny), "quick")
    before, read = key(known, tmp_path), keys._source
    mended = "openset.objectives.cross_entropy"
    monkeypatch.setattr(keys, "_source", lambda name: read(name) + "#" * (name == mended))
    assert key(known, tmp_path) != before


def test_steps_read_and_hash_a_source_once(tiny, tmp_path):
    one, other = Plan(protocol.load(str(tiny)), tmp_path, seeds=1).steps
    noise = "gaussian-noise,limit=50"
    assert one.data.train.pixels is other.data.train.pixels
    assert one.sets[noise].pixels is other.sets[noise].pixels
    assert one.data.train.fingerprint != other.data.train.fingerprint


def test_methods_that_differ_in_their_training_alone_each_have_their_guess(tiny, tmp_path):
    known = protocol.load(str(tiny), "quick")
    methods = [*known.methods, *changed(known, lr=0.06).methods]
    left = Plan(replace(known, methods=methods), tmp_path, seeds=1).time_left()
    assert len(left.guesses) == 4


def test_the_first_pass_of_a_shape_counts_for_no_guess():
    class Slow(nn.Module):
        seen = 0

        def forward(self, image):
            Slow.seen += 1
            time.sleep(0.2 if Slow.seen == 1 else 0.02)
            return image

    assert 16 / 0.1 < forward_speed(Slow(), (1, 4, 4)) <= 16 / 0.02


def test_a_plan_writes_nothing(tiny, tmp_path):
    table = Plan(protocol.load(str(tiny), "quick"), tmp_path / "work", seeds=1).table()
    assert table.row_count == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("seeds", [0, -1, 1001])
def test_too_few_seeds_are_refused(tiny, tmp_path, seeds):
    with pytest.raises(ValueError, match="at least 1"):
        Plan(protocol.load(str(tiny)), tmp_path, seeds=seeds)


def test_dry_run_trains_nothing(tiny, tmp_path, capsys):
    call("benchmark", tiny, "--quick", "--dry-run", "--out", tmp_path / "out")
    assert "8 epochs" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_networks_are_chosen_by_their_names(tiny, tmp_path):
    known = protocol.load(str(tiny), "quick")
    both = replace(known, methods=[known.methods[0], replace(known.methods[0], network="resnet18")])
    steps = Plan(both, tmp_path, seeds=1, networks=["resnet18"]).steps
    assert {step.trial.method.network for step in steps} == {"resnet18"}
    with pytest.raises(ValueError, match="unknown network of this protocol 'resnet8'"):
        Plan(both, tmp_path, networks=["resnet8"])
