"""The loop against a plain one written out, and runs that are cut off anywhere."""

import json
import math
import multiprocessing
import random
import time
import types

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from openset.data import AUGMENTATIONS, ImageSet
from openset.errors import Paused
from openset.objectives import CrossEntropy
from openset.objectives.base import Objective
from openset.training.loop import accuracy, train
from openset.training.randomness import Seeds

SOME = {"epochs": 3, "batch_size": 16, "lr": 0.05, "device": "cpu"}


def images(n=80, seed=0):
    """Two classes of noisy 6×6 images, bright above or below."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(n) % 2
    image = torch.rand(n, 1, 6, 6, generator=generator) * 0.6
    image[label == 0, :, :3] += 0.3
    image[label == 1, :, 3:] += 0.3
    return image, label


def small(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(64, 2),
    )


class Demanding(Objective):
    """All that a resumed run must get right: two learners with optimisers of their own, a head
    that learns alone at first, noise, a sum over the epoch and a buffer that grows."""

    sums: torch.Tensor

    def __init__(self, network, pause=0.0):
        super().__init__(network)
        self.pause = pause
        self.judge = nn.Linear(2, 1)
        self.keep(sums=torch.zeros(0), last=torch.zeros(1))

    def learners(self):
        return {"network": self.network, "judge": self.judge}

    def options(self):
        return {"judge": {"optimizer": "adam", "lr": 1e-3, "schedule": "constant"}}

    def start_epoch(self, epoch):
        self.network[0].requires_grad_(epoch > 0)
        self.keep(last=self.sums.mean().nan_to_num()[None], sums=self.sums[:0])

    def step(self, image, label):
        time.sleep(self.pause)
        logits = self.network(image + 0.01 * torch.randn_like(image)) + self.last.tanh()
        yield "network", F.cross_entropy(logits, label)
        again = self.network(image).detach()
        self.keep(sums=torch.cat([self.sums, again.mean()[None]]))
        yield "judge", F.mse_loss(self.judge(again)[:, 0], label.float())


def demanding(pause=0.0):
    network = small()
    return Demanding(network, pause)


def same(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)


def log(folder):
    """The log's lines, without the entries that depend on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def test_is_a_plain_loop():
    """The same weights, bit for bit, as SGD written out on the same order."""
    image, label = images()
    trained = train(CrossEntropy(small(dropout=0)), [(image, label)], schedule="constant", **SOME)
    network = small(dropout=0).train()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(3):
        generator = torch.Generator().manual_seed(Seeds.of(0, epoch).order)
        for batch in torch.randperm(80, generator=generator).split(16):
            optimizer.zero_grad()
            F.cross_entropy(network(image[batch]), label[batch], reduction="sum").div(16).backward()
            optimizer.step()
    assert same(trained, network)


def test_the_seed_decides_the_weights_whatever_the_caller_drew():
    objectives = [CrossEntropy(small()) for _ in range(3)]
    trained = []
    for objective, seed in zip(objectives, (1, 1, 2), strict=True):
        torch.rand(1)
        trained.append(train(objective, [images()], seed=seed, **SOME))
    assert same(trained[0], trained[1])
    assert not same(trained[0], trained[2])


def test_the_callers_random_state_is_left_alone():
    objective = CrossEntropy(small())
    before = torch.get_rng_state()
    train(objective, [images()], **SOME)
    assert torch.get_rng_state().equal(before)


def test_a_learner_has_the_optimizer_it_asks_for():
    objective = demanding()
    before = objective.judge.weight.detach().clone()
    train(objective, [images()], epochs=1, batch_size=80)
    # Adam's first step is its rate for every weight, whatever the gradient.
    step = (objective.judge.weight - before).abs()
    assert step.flatten().tolist() == pytest.approx([1e-3, 1e-3], rel=0.01)


def test_clips_the_gradient():
    network = small(dropout=0)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    how = {"epochs": 1, "batch_size": 80, "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    train(CrossEntropy(network), [images()], schedule="constant", clip_norm=0.01, **how)
    step = nn.utils.parameters_to_vector(network.parameters()) - before
    assert step.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_learns_in_mixed_precision_with_channels_last():
    network = train(
        CrossEntropy(small()), [images()], precision="bf16-mixed", channels_last=True, **SOME
    )
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert accuracy(network, [images(seed=1)]) > 0.9


def test_says_that_a_cpu_takes_bf16_for_fp16():
    with pytest.warns(UserWarning, match="fp16 is not supported on CPU"):
        fp16 = train(CrossEntropy(small()), [images()], precision="16-mixed", **SOME)
    assert same(fp16, train(CrossEntropy(small()), [images()], precision="bf16-mixed", **SOME))


def test_a_part_that_is_frozen_stays_as_it_is():
    objective = demanding()
    before = objective.network[0].weight.detach().clone()
    train(objective, [images()], epochs=1, batch_size=16)
    assert objective.network[0].weight.equal(before)
    train(objective, [images()], epochs=2, batch_size=16)
    assert not objective.network[0].weight.equal(before)


def test_a_leftover_of_one_image_is_skipped():
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    train(CrossEntropy(network), [images(33)], epochs=1, batch_size=16)
    assert network[2].num_batches_tracked.item() == 2


def test_accuracy_counts_what_is_labelled():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    network[1].weight.data = torch.eye(2)
    image = logits.view(4, 2, 1, 1) / 3
    assert accuracy(network, [(image, torch.tensor([0, 0, 0, -1]))], batch_size=3) == 2 / 3
    assert math.isnan(accuracy(network, [(image, torch.full((4,), -100))]))
    assert network.training


def test_logs_each_epoch(tmp_path):
    data = types.SimpleNamespace(
        name="bright", train=ImageSet(*images()), valid=ImageSet(*images(seed=1))
    )
    network = train(CrossEntropy(small()), data, folder=tmp_path / "run", **SOME)
    lines = log(tmp_path / "run")
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["step"] for line in lines] == [5, 5, 5]
    assert lines[0]["loss"]["network"] > lines[2]["loss"]["network"] > 0
    assert lines[2]["valid_accuracy"] == accuracy(network, data.valid)
    assert 0 <= lines[2]["train_accuracy"] <= 1
    assert 0.05 > lines[0]["lr"]["network"] > lines[2]["lr"]["network"] > 0
    assert load_file(tmp_path / "run" / "network.safetensors").keys() == network.state_dict().keys()


def test_an_objective_without_classes_is_not_judged(tmp_path):
    class Copy(Objective):
        def step(self, image, label):
            yield "network", F.mse_loss(self.network(image), image)

    image, _ = images()
    unlabelled = torch.full((80,), -1)
    train(Copy(nn.Conv2d(1, 1, 1)), [(image, unlabelled)], folder=tmp_path / "run", **SOME)
    assert "train_accuracy" not in log(tmp_path / "run")[0]


def test_trains_on_label_maps():
    image = torch.rand(12, 1, 6, 6)
    label = (image[:, 0] > 0.5).long()
    label[:, 0] = -100
    network = nn.Conv2d(1, 2, 1)
    train(CrossEntropy(network), [(image, label)], epochs=40, batch_size=4, lr=0.1)
    assert accuracy(network, [(image, label)]) > 0.9


def test_augments_by_name(monkeypatch):
    seen = []

    def darken(image, generator):
        seen.append(torch.rand(1, generator=generator).item())
        return image * 0

    monkeypatch.setitem(AUGMENTATIONS, "darken", darken)
    train(CrossEntropy(small()), [images()], epochs=2, batch_size=40, augment="darken")
    assert len(set(seen)) == 4
    with pytest.raises(ValueError, match="unknown augmentation 'dark': did you mean darken"):
        train(CrossEntropy(small()), [images()], augment="dark")
    maps = torch.zeros(80, 6, 6, dtype=torch.long)
    with pytest.raises(ValueError, match="for label maps there are"):
        train(CrossEntropy(nn.Conv2d(1, 2, 1)), [(images()[0], maps)], augment="darken")


def test_stops_at_a_loss_that_is_not_finite(tmp_path):
    class Diverging(CrossEntropy):
        steps = 0

        def step(self, image, label):
            self.steps += 1
            for learner, loss in super().step(image, label):
                yield learner, loss * (math.nan if self.steps == 8 else 1)

    message = r"the loss of network is nan at epoch 2, step 3; try a lower lr"
    with pytest.raises(ValueError, match=message):
        train(Diverging(small()), [images()], folder=tmp_path / "run", **SOME)
    assert len(log(tmp_path / "run")) == 1


@pytest.mark.parametrize("label", [2, -1])
def test_refuses_labels_that_have_no_logit(label):
    image, labels = images()
    labels[5] = label
    with pytest.raises(ValueError, match=f"label is {label}, but the network has 2 classes"):
        train(CrossEntropy(small()), [(image, labels)], **SOME)


def test_refuses_images_that_the_network_cannot_take():
    image, label = images()
    message = r"the network cannot take images of shape \[3, 6, 6\]; check their channels"
    with pytest.raises(ValueError, match=message):
        train(CrossEntropy(small()), [(image.expand(-1, 3, -1, -1), label)])


def test_refuses_to_pause_without_a_folder():
    with pytest.raises(ValueError, match="max_minutes need a folder"):
        train(CrossEntropy(small()), [images()], max_minutes=1)


def test_resumes_only_the_same_run(tmp_path):
    run = {"folder": tmp_path / "run", **SOME}
    train(CrossEntropy(small()), [images()], **run)
    with pytest.raises(ValueError, match="already holds a run"):
        train(CrossEntropy(small()), [images()], **run)
    with pytest.raises(ValueError, match=r"settings.lr was 0.05, now 0.2$"):
        train(CrossEntropy(small()), [images()], resume=True, **{**run, "lr": 0.2})
    with pytest.raises(ValueError, match=r"objective.label_smoothing was 0.0, now 0.1$"):
        train(CrossEntropy(small(), 0.1), [images()], resume=True, **run)
    with pytest.raises(ValueError, match=r"data.images was 80, now 60"):
        train(CrossEntropy(small()), [images(60)], resume=True, **run)


def test_a_finished_run_resumes_to_its_result(tmp_path):
    run = {"folder": tmp_path / "run", **SOME}
    first = train(demanding(), [images()], **run)
    assert same(train(demanding(), [images()], resume=True, **run), first)
    assert len(log(tmp_path / "run")) == 3


def test_pauses_after_any_step_and_goes_on(tmp_path):
    whole = train(demanding(), [images()], folder=tmp_path / "whole", **SOME)
    pauses, resumed = 0, None
    while resumed is None:
        try:
            resumed = train(
                demanding(), [images()], folder=tmp_path / "run", resume=True, max_minutes=0, **SOME
            )
        except Paused:
            pauses += 1
    assert pauses == 15
    assert same(resumed, whole)
    assert log(tmp_path / "run") == log(tmp_path / "whole")


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(tmp_path):
    class Interrupted(Demanding):
        name = "demanding"
        steps = 0

        def step(self, image, label):
            self.steps += 1
            if self.steps == 8:
                raise KeyboardInterrupt
            yield from super().step(image, label)

    run = {"folder": tmp_path / "run", **SOME}
    with pytest.raises(KeyboardInterrupt):
        train(Interrupted(small()), [images()], checkpoint_minutes=0, **run)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "checkpoint.pt",
        "log.jsonl",
        "training.json",
    ]
    resumed = train(demanding(), [images()], resume=True, **run)
    assert same(resumed, train(demanding(), [images()], **SOME))


def work(folder, pause):
    """A whole run, in a process of its own."""
    torch.set_num_threads(1)
    train(
        demanding(pause),
        [images()],
        folder=folder,
        resume=True,
        checkpoint_minutes=0,
        **{**SOME, "epochs": 8},
    )


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["openset.training.loop"])
    torch.manual_seed(0)
    pause = 0.02

    whole = context.Process(target=work, args=(tmp_path / "whole", pause))
    whole.start()
    chance = random.Random(time.time_ns())
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    kills = 0
    for _ in range(50):
        process = context.Process(target=work, args=(tmp_path / "run", pause))
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process.start()
        while kills < 6 and process.is_alive():
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:
                time.sleep(chance.uniform(0, 0.1))
                process.kill()
                break
            time.sleep(0.001)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        kills += 1
    whole.join()
    assert kills >= 3
    assert whole.exitcode == process.exitcode == 0
    for name in ("network.safetensors", "training.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert log(tmp_path / "run") == log(tmp_path / "whole")
    assert [line["epoch"] for line in log(tmp_path / "run")] == list(range(1, 9))
