"""Digits that were left out are found as groups, shown, named and added."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call, fails
from PIL import Image
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import adjusted_mutual_info_score

from openset import OpenSet
from openset.life.discover import discover, group_files, grouped
from openset.runs.run import load_model


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """The digits 6 to 9 as files whose names say which they are, and a few known ones."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    source = load_digits()
    for i, (image, digit) in enumerate(zip(source.images, source.target, strict=True)):
        if digit > 5 or i % 50 == 0:
            Image.fromarray(np.uint8(image * 15.9)).save(f"photos/{digit}-{i:04}.png")
    return "photos"


def digit(path):
    return int(Path(path).name[0])


def test_groups_are_those_that_were_made_and_what_is_far_is_in_none():
    x, label = make_blobs(120, 5, centers=3, cluster_std=0.5, random_state=0)
    labels, order = grouped(np.concatenate([x, [[99.0] * 5]]), least=10)
    assert labels[-1] == -1
    assert adjusted_mutual_info_score(label, labels[:-1]) > 0.95
    assert sorted(order) == list(range(121))
    for c in range(3):
        own = np.flatnonzero(labels[:-1] == c)
        away = np.linalg.norm(x[own] - x[own].mean(0), axis=1)
        first, last = ([i for i in order if labels[i] == c][k] for k in (0, -1))
        assert away[own == first] < np.median(away) < away[own == last]


def test_left_out_digits_are_found(run, strange):
    model = load_model(run, "gemos:components=1")
    found = discover(model, strange)
    answers = model.predict(strange)
    unknown = [i for i, answer in enumerate(answers) if answer.label == "unknown"]
    assert found.images == len(answers)
    in_groups = [position for group in found.groups for position in group.positions]
    assert sorted([*in_groups, *found.alone]) == unknown
    assert [len(group) for group in found.groups] == sorted(map(len, found.groups), reverse=True)
    for group in found.groups:
        assert [answers[i].path for i in group.positions] == list(group.paths)
        assert [answers[i].nearest for i in group.positions] == list(group.nearest)
    truth = [digit(answers[i].path) for i in in_groups]
    labels = [c for c, group in enumerate(found.groups) for _ in group.positions]
    assert adjusted_mutual_info_score(truth, labels) > 0.6
    assert len(found.groups) >= 3


def test_a_model_of_logits_alone_compares_the_features_before_them(run):
    model = load_model(run, "energy")
    images = torch.from_numpy(load_digits().images / 16)[:, None].float()
    found = discover(model, images, least=10)
    assert found.groups
    assert found.groups[0].paths[0] is None


def test_the_commands_find_show_name_and_add(run, strange, capsys):
    detector = ("--detector", "gemos:components=1")
    call("discover", run, strange, "--out", "groups", *detector)
    said = capsys.readouterr().err
    count = int(re.search(r"form (\d+) groups", said)[1])
    assert len(re.findall(r"^group \d+: \d+ images", said, re.M)) == count
    page = Path("groups/groups.html").read_text()
    assert page.count("<h2>Group") == count
    assert page.count('<img src="data:image/png;base64,') >= 12
    assert f"--group groups:{count} --name {{name}}" in page
    with open("groups/groups.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["group"] for row in rows} == {str(i + 1) for i in range(count)}
    files = group_files("groups:1")
    name = str(np.bincount([digit(file) for file in files]).argmax())
    call("add-class", run, *detector, "--group", "groups:1", "--name", name, "--out", "new")
    model = OpenSet.load("new")
    assert model.classes[-1] == name
    own = [f"photos/{path.name}" for path in Path("photos").glob(f"{name}-*.png")]
    labels = [answer.label for answer in model.predict(own)]
    assert labels.count(name) > 0.7 * len(own)
    capsys.readouterr()
    adding = ("add-class", "new", "--name", "x", "--out", "y", "--group")
    assert "has no group 99 of files" in fails(capsys, *adding, "groups:99")
    for text in ("a,b\n1,2\n", "group,rank,path\n1\n", "group,path\n1," + "x" * 200_000):
        Path("groups/groups.csv").write_text(text)
        assert "is damaged" in fails(capsys, *adding, "groups:1")
    call("discover", run, strange, "--out", "my groups", *detector)
    page = Path("my groups/groups.html").read_text()
    assert f"--group &#39;my groups:&#39;{count} --name {{name}}" in page


def test_too_few_to_group_are_refused(run, strange):
    model = load_model(run, "gemos:components=1")
    with pytest.raises(ValueError, match=r"of 3 images are unknown, fewer than the 10"):
        discover(model, sorted(Path(strange).iterdir())[:3])
    with pytest.raises(ValueError, match="a group has at least 2 images"):
        discover(model, strange, least=1)
