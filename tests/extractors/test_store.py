import pytest
import torch
from torch import nn

from openset.activations import Activations
from openset.extractors.extract import extract
from openset.extractors.store import Store
from openset.extractors.tap import Tap


def batches():
    head = (torch.randn(3, 4), torch.randn(3))
    return [
        Activations(
            torch.randn(n, 3),
            {"z": torch.randn(n, 2), "a": torch.randn(n, 4)},
            torch.arange(n),
            {"reconstruction": torch.rand(n)},
            head,
        )
        for n in (4, 2)
    ]


def test_gives_back_what_was_written(tmp_path):
    written = batches()
    store = Store(tmp_path / "s").write(iter(written))
    for _ in range(2):
        for read, batch in zip(store, written, strict=True):
            assert list(read.features) == ["z", "a"], "the layers' order decides how they stack"
            assert torch.equal(read.stacked(), batch.stacked())
            assert torch.equal(read.labels, batch.labels)
            assert torch.equal(read.extra["reconstruction"], batch.extra["reconstruction"])
            assert torch.equal(read.head[0], batch.head[0])
    assert len(store) == 6


def test_a_store_cut_short_is_refused(tmp_path):
    def cut():
        yield batches()[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        Store(tmp_path).write(cut())
    with pytest.raises(ValueError, match="holds no complete store"):
        list(Store(tmp_path))


def test_writing_over_a_store_is_refused(tmp_path):
    Store(tmp_path).write(batches())
    with pytest.raises(ValueError, match="already holds a store"):
        Store(tmp_path).write(batches())


def test_extract_runs_the_images_once_and_keeps_labels(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    images, labels = torch.rand(10, 1, 2, 2), torch.arange(10) % 3
    source = list(zip(images.split(4), labels.split(4), strict=True))
    kept = extract(Tap(network), source)
    stored = extract(Tap(network), source, store=tmp_path / "s")
    assert [len(batch) for batch in kept] == [4, 4, 2]
    for a, b in zip(kept, stored, strict=True):
        assert torch.equal(a.logits, b.logits)
        assert torch.equal(a.labels, b.labels)
        assert not a.logits.requires_grad


def test_extract_refuses_pixels_and_outputs_that_are_not_finite():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    image, label = torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.long)
    image[3, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        extract(Tap(network), [(image, label)])
    network[1].weight.data[0, 0] = torch.inf
    image[3] = 1
    with pytest.raises(ValueError, match="batch 0: the network's logits hold NaN or infinite"):
        extract(Tap(network), [(image, label)])


def test_one_layer_under_two_names_is_stored_as_both(tmp_path):
    x = torch.rand(4, 3)
    seen = Activations(torch.zeros(4, 2), {"stage1": x, "mean": x})
    (again,) = Store(tmp_path / "store").write([seen])
    assert torch.equal(again.features["stage1"], x)
    assert torch.equal(again.features["mean"], x)
