"""Preprocessing as other libraries describe it; `test_originals` compares pixels with theirs."""

import json
from types import SimpleNamespace

import pytest
import torch

from openset.data import Adapter

CLIP = {
    "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True,
    "do_resize": True, "crop_size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.2, 0.1], "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 256}, "image_processor_type": "CLIPImageProcessor",
}  # fmt: skip


def step(name: str, **attributes):
    """An object as a transform of torchvision looks like."""
    return type(name, (), attributes)()


def compose(*steps):
    return SimpleNamespace(transforms=[*steps])


RESIZE = step("Resize", size=256, interpolation=SimpleNamespace(value="bilinear"), max_size=None)
CROP = step("CenterCrop", size=(224, 192))
FLOATS = step("ToTensor")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"crop_pct": 0.9}, {"resize": "shorter", "scaled": (248, 248)}),
        ({"crop_pct": None, "crop_mode": "squash"}, {"scaled": (256, 256)}),
        ({"crop_pct": 1.0, "interpolation": "lanczos"},
         {"resize": "shorter", "interpolation": "lanczos"}),
        ({"crop_mode": "border", "mean": (0.5, 0.4, 0.3), "crop_pct": 1},
         {"resize": "pad", "fill": (128, 102, 76), "mean": (0.5, 0.4, 0.3)}),
    ],
)  # fmt: skip
def test_a_configuration_of_timm_is_read(config, expected):
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    expected = {"interpolation": "bicubic", **imagenet, **expected}
    whole = {"input_size": (3, 224, 224), "url": "somewhere", **config}
    assert Adapter.of(whole) == Adapter((224, 224), **expected)
    network = torch.nn.Linear(1, 1)
    network.pretrained_cfg = whole
    assert Adapter.of(network) == Adapter.of(whole)
    assert Adapter.of(whole, resize="stretch").resize == "stretch"


def test_transforms_are_read_in_any_nesting():
    expected = Adapter((224, 192), resize="shorter", scaled=(256, 256))
    assert Adapter.of(compose(RESIZE, compose(CROP), FLOATS)) == expected
    normalise = step("Normalize", mean=torch.tensor([0.5]), std=[0.25])
    grey = compose(step("Grayscale", num_output_channels=1), RESIZE, CROP, FLOATS, normalise)
    assert Adapter.of(grey) == Adapter(
        (224, 192), 1, resize="shorter", scaled=(256, 256), mean=(0.5,), std=(0.25,)
    )
    both = step("Resize", size=[32, 48], interpolation=SimpleNamespace(value="nearest-exact"))
    assert Adapter.of(both) == Adapter((32, 48), interpolation="nearest")
    assert Adapter.of(compose(FLOATS, normalise), size=(28, 28)).shape == (1, 28, 28)


def test_weights_of_torchvision_are_read():
    preset = step(
        "ImageClassification", crop_size=[224], resize_size=[232], mean=[0.5] * 3, std=[0.2] * 3,
        interpolation=SimpleNamespace(value="bicubic"),
    )  # fmt: skip
    expected = Adapter(
        (224, 224), interpolation="bicubic", resize="shorter", scaled=(232, 232),
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2),
    )  # fmt: skip
    assert Adapter.of(preset) == expected
    assert Adapter.of(SimpleNamespace(transforms=lambda: preset)) == expected


MEAN_STD = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"resize": "shorter", "scaled": (256, 256), "interpolation": "bicubic"}),
        ({"size": {"height": 240, "width": 256}, "resample": 2}, {"scaled": (240, 256)}),
        ({"do_center_crop": False, "size": {"height": 224, "width": 224}, "resample": 2}, {}),
        # Older configurations say one number: with a crop the shorter side, without one both.
        ({"size": 256}, {"resize": "shorter", "scaled": (256, 256), "interpolation": "bicubic"}),
        ({"size": 224, "do_center_crop": False, "resample": 1}, {"interpolation": "lanczos"}),
        # ConvNeXt says a share in place of the crop, and stretches large images.
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875, "do_center_crop": False},
         {"resize": "shorter", "scaled": (256, 256), "interpolation": "bicubic"}),
    ],
)  # fmt: skip
def test_a_configuration_of_hugging_face_is_read(tmp_path, changes, expected):
    config = {**CLIP, **changes}
    adapter = Adapter.of(config)
    assert adapter == Adapter((224, 224), **expected, **MEAN_STD)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert Adapter.of(tmp_path) == adapter
    assert Adapter.of(SimpleNamespace(image_mean=[], to_dict=lambda: config)) == adapter


def test_a_scale_of_its_own_goes_into_mean_and_std():
    twice = Adapter.of({**CLIP, "rescale_factor": 1 / 127.5})
    x = 0.7
    own = (x * 255 / 127.5 - 0.5) / 0.3
    assert (x - twice.mean[0]) / twice.std[0] == pytest.approx(own)
    unscaled = Adapter.of({**CLIP, "do_rescale": False, "do_normalize": False})
    assert x / unscaled.std[0] == pytest.approx(255 * x)
    assert Adapter.of({**CLIP, "do_normalize": False}).mean is None


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (compose(RESIZE, FLOATS), "without CenterCrop"),
        (compose(step("RandomResizedCrop"), FLOATS), "RandomResizedCrop"),
        (compose(step("Lambda")), "Lambda"),
        (compose(RESIZE, CROP, RESIZE), "Resize after CenterCrop"),
        (compose(RESIZE, CROP, CROP), "CenterCrop after another"),
        (compose(CROP), "CenterCrop without Resize"),
        (compose(RESIZE, CROP, step("PILToTensor")), "0…255"),
        (compose(RESIZE, CROP, step("ToDtype", dtype=torch.float32, scale=False)), "scale=True"),
        (compose(FLOATS, step("Resize", size=8, interpolation="bilinear", antialias=False)),
         "antialias=False"),
        (step("Grayscale", num_output_channels=3), "Grayscale with 3"),
        (step("SemanticSegmentation", resize_size=[520]), "SemanticSegmentation"),
        ({**CLIP, "do_pad": True}, "do_pad=True"),
        ({**CLIP, "resample": 9}, "resample=9"),
        ({**CLIP, "size": {"longest_edge": 5}}, "longest_edge"),
        ({"input_size": (3, 8, 8), "crop_mode": "zoom"}, "crop_mode='zoom'"),
        ({"learning_rate": 3}, "learning_rate describes no preprocessing"),
        (compose(FLOATS), r"size=\(height, width\)"),
        (7, "int"),
    ],
)  # fmt: skip
def test_what_an_adapter_cannot_express_is_named(thing, named):
    with pytest.raises(ValueError, match=named):
        Adapter.of(thing)


def test_a_file_without_a_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json"):
        Adapter.of(tmp_path)
