"""`openset rehearse`, and `openset fit --detector auto`, which follows it."""

import csv

import torch
from command_line import call

from openset.runs import rehearse
from openset.runs.run import Run


def test_rehearse_and_fit_auto(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(rehearse, "CANDIDATES", ("energy", "knn:k=5"))
    out = tmp_path / "rehearsal.csv"
    call("rehearse", run, "--kind", "turned", "noisy", "--out", out)
    said = capsys.readouterr()
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["detector"], row["kind"]) for row in rows] == [
        ("energy", "turned"),
        ("energy", "noisy"),
        ("knn:k=5", "turned"),
        ("knn:k=5", "noisy"),
    ]
    expected = {
        name: sum(float(row["auroc"]) for row in rows if row["detector"] == name) / 2
        for name in ("energy", "knn:k=5")
    }
    best = max(expected, key=lambda name: expected[name])
    assert f"take {best}: expected AUROC {expected[best]:.3f}" in said.err
    assert "noisy" in said.out

    call("fit", run, "--detector", "auto")
    assert "take " in capsys.readouterr().err
    assert {"energy", "knn:k=5"} & set(Run.load(run).models)
    assert "auto" not in Run.load(run).models


class Plain(torch.nn.Module):
    """No stages, and logits that no linear layer gives."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(64, 6))

    def forward(self, image):
        return image.flatten(1) @ self.weight


def test_candidates_that_a_network_does_not_suit_are_left_out(run):
    told = Run.load(run)
    names = (
        "energy",
        "knn",
        "vim",
        "react",
        "pnml",
        "gemos:layers=stage1+stage2",
        "fusion:gen+energy",
    )
    train = told.load_data().train
    assert rehearse.able(names, Plain(), train) == ["energy", "fusion:gen+energy"]
    assert rehearse.able(names, told.load_network(), train) == list(names)
