"""Shares of known, unknown and void pixels, against counting them."""

import pytest
import torch

from openset import data
from openset.activations import UNKNOWN, VOID
from openset.commands.app import main
from openset.data.shares import label_shares

from test_pixels import write_scenes  # isort: skip


def test_shares_are_those_of_all_pixels_of_each_split(tmp_path, capsys):
    write_scenes(tmp_path / "scenes")
    spec = str(tmp_path / "scenes")
    found = label_shares(spec, "not 3")
    loaded = data.load(spec, "not 3")
    for split, images in (("validation", loaded.valid), ("test", loaded.test)):
        label = images.labels
        assert found[split].images == len(images)
        assert found[split].known == pytest.approx((label >= 0).double().mean().item())
    kinds = [(loaded.test.labels == kind).double().mean().item() for kind in (UNKNOWN, VOID)]
    assert found["test"][2:] == pytest.approx(kinds)
    assert kinds[1] == pytest.approx(1 / 48)
    assert all(sum(each[1:]) == pytest.approx(1) for each in found.values())
    assert label_shares(f"{spec}:test").keys() == {"test"}
    assert label_shares(f"{spec}:test")["test"].unknown == 0
    main(["shares", f"{spec}:test", "--unknown-classes", "3"])
    shown = capsys.readouterr().out
    assert f"{kinds[0]:.1%}" in shown
    assert f"{torch.tensor(1 / 48).item():.1%}" in shown


def test_sets_without_label_maps_are_refused(capsys):
    for call, sentence in (
        (["digits"], "digits has no label maps"),
        (["camvid", "--known-classes", "Road", "--unknown-classes", "Car"], "not both"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["shares", *call])
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err
