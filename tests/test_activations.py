import pytest
import torch

from openset.activations import UNKNOWN, Activations, concatenate


def dense(n=2, k=3, d=4, h=2, w=5):
    return Activations(
        torch.randn(n, k, h, w),
        {"a": torch.randn(n, d, h, w), "b": torch.randn(n, 1, h, w)},
        torch.randint(0, k, (n, h, w)),
        {"reconstruction": torch.rand(n, h, w)},
    )


def test_rows_of_pixels_keep_each_pixel_together():
    batch = dense()
    rows = batch.rows()
    assert len(rows) == 2 * 2 * 5
    i = 1 * 10 + 1 * 5 + 3  # image 1, pixel (1, 3)
    assert torch.equal(rows.logits[i], batch.logits[1, :, 1, 3])
    assert torch.equal(rows.features["a"][i], batch.features["a"][1, :, 1, 3])
    assert rows.labels[i] == batch.labels[1, 1, 3]
    assert rows.extra["reconstruction"][i] == batch.extra["reconstruction"][1, 1, 3]


def test_rows_of_images_are_the_images():
    batch = Activations(torch.randn(4, 3))
    assert batch.rows() is batch


def test_stacked_takes_layers_in_the_order_asked_for():
    rows = dense().rows()
    stacked = rows.stacked(["b", "logits", "a"])
    assert torch.equal(stacked, torch.cat([rows.features["b"], rows.logits, rows.features["a"]], 1))


def test_stacked_half_precision_is_computed_in_single():
    batch = Activations(torch.zeros(2, 3).half(), {"a": torch.ones(2, 4).bfloat16()})
    assert batch.stacked(["a", "logits"]).dtype == torch.float32


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown layer 'stge1': did you mean stage1\?"):
        Activations(torch.zeros(1, 2), {"stage1": torch.zeros(1, 2)}).stacked(["stge1"])


def test_concatenate_is_the_inverse_of_slicing():
    batch = dense(n=6)
    joined = concatenate([batch[:2], batch[2:3], batch[3:]])
    assert torch.equal(joined.logits, batch.logits)
    assert torch.equal(joined.features["a"], batch.features["a"])
    assert torch.equal(joined.labels, batch.labels)
    assert torch.equal(joined.extra["reconstruction"], batch.extra["reconstruction"])


def test_concatenate_nothing_says_so():
    with pytest.raises(ValueError, match="no activations"):
        concatenate([])


def test_to_casts_floats_and_leaves_labels():
    head = (torch.zeros(3, 4), torch.zeros(3))
    batch = Activations(torch.zeros(1, 3), {}, torch.tensor([UNKNOWN]), head=head).to(torch.float64)
    assert batch.logits.dtype == batch.head[0].dtype == torch.float64
    assert batch.labels.dtype == torch.long


def test_beside_follows_what_a_module_has_learned():
    batch = Activations(torch.zeros(2, 3), {"stage1": torch.zeros(2, 4)}, torch.tensor([0, 1]))
    learned = torch.nn.BatchNorm1d(3, device="meta")
    moved = batch.beside(learned)
    assert moved.logits.is_meta
    assert moved.features["stage1"].is_meta
    assert moved.labels.is_meta
    assert batch.beside(torch.nn.BatchNorm1d(3)) is batch
    assert batch.beside(torch.nn.Identity()) is batch
    assert batch.beside(len) is batch


def test_activations_are_shown_in_five_lines():
    features = {f"layer{i}": torch.zeros(2, 5) for i in range(200)}
    seen = Activations(
        torch.zeros(2, 3), features, torch.zeros(2), {"reconstruction": torch.ones(2)}
    )
    shown = repr(seen)
    assert len(shown.splitlines()) <= 5
    assert "logits [2, 3]" in shown
    assert "layer0 [2, 5]" in shown
    assert "196 more" in shown
