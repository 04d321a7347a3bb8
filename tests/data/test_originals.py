"""An adapter gives the very pixels of the preprocessing that it was read from."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from openset import networks
from openset.data import Adapter
from openset.networks.external import import_library

pytestmark = pytest.mark.skipif(
    not (find_spec("timm") and find_spec("torchvision")), reason="needs timm and torchvision"
)

TIMM = ("resnet18", "vit_tiny_patch16_224", "efficientnet_b3", "inception_v3", "convnext_tiny")
TORCHVISION = ("resnet18", "vit_b_16", "swin_t", "regnet_y_400mf", "inception_v3")
SIZES = ((64, 64), (300, 451), (451, 300), (33, 257), (224, 224), (257, 256), (37, 1200))


def difference(transform, adapter: Adapter) -> float:
    """The largest difference of any pixel, in 1/255, over pictures of many sizes."""
    random, worst = np.random.default_rng(0), 0.0
    for height, width in SIZES:
        coarse = random.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        theirs = transform(picture)
        if adapter.mean is not None:
            std, mean = (torch.tensor(x).view(-1, 1, 1) for x in (adapter.std, adapter.mean))
            theirs = theirs * std + mean
        ours = adapter(picture)
        assert ours.shape == theirs.shape
        worst = max(worst, float((ours - theirs * 255).abs().max()))
    return worst


@pytest.mark.parametrize("model", TIMM)
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_of_timm(model, mode):
    data = import_library("timm.data")
    config = import_library("timm").get_pretrained_cfg(model).to_dict()
    config = data.resolve_data_config(pretrained_cfg=config)
    for size in (config["input_size"], (3, 224, 160)):
        own = {**config, "crop_mode": mode, "input_size": size}
        transform = data.create_transform(**own)
        assert difference(transform, Adapter.of(own)) < 0.01
        assert difference(transform, Adapter.of(transform)) < 0.01


@pytest.mark.parametrize("model", TORCHVISION)
def test_of_weights_of_torchvision(model):
    for weights in import_library("torchvision").models.get_model_weights(model):
        assert difference(weights.transforms(), Adapter.of(weights)) < 0.01
        assert Adapter.of(weights.transforms()) == Adapter.of(weights)


def composed():
    """Compositions of transforms, old and v2, with the largest difference that is allowed."""
    import_library("torchvision")
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms import transforms as v1

    normalise = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    lanczos, nearest = InterpolationMode.LANCZOS, InterpolationMode.NEAREST
    half = [v1.PILToTensor(), v1.ConvertImageDtype(torch.float)]
    v2_float = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    yield 0.01, v1, [v1.Resize(256), v1.CenterCrop(224), v1.ToTensor(), v1.Normalize(*normalise)]
    yield 0.01, v1, [v1.Resize((200, 100), interpolation=lanczos), v1.ToTensor()]
    yield 0.01, v1, [v1.Resize(200), v1.CenterCrop((224, 192)), *half, v1.Normalize(*normalise)]
    yield 0.01, v1, [v1.Resize([64], interpolation=nearest), v1.CenterCrop([60, 50]), *half]
    yield 0.01, v2, [v2.Resize((64, 48)), v2.CenterCrop(40), *v2_float]
    yield 0.01, v2, [v2.RGB(), v2.Resize(64), v2.CenterCrop(40), *v2_float]
    # Of tensors, and of grey pictures, torchvision rounds at another place.
    yield 1.01, v2, [v2.ToImage(), v2.Resize(64), v2.CenterCrop(56), *v2_float[1:]]
    yield 1.01, v1, [v1.ToTensor(), v1.Resize(64), v1.CenterCrop(64)]
    yield 1.01, v1, [v1.Resize(28), v1.CenterCrop(28), v1.Grayscale(), v1.ToTensor()]


def test_of_composed_transforms():
    for allowed, library, steps in composed():
        transform = library.Compose(steps)
        assert difference(transform, Adapter.of(transform)) < allowed, transform


def test_networks_note_how_their_library_prepares_images():
    network = networks.build("timm:resnet18", classes=2, channels=3)
    data = import_library("timm.data")
    whole = Adapter.of(data.resolve_data_config(model=network.network))
    assert Adapter(**network.adapter_settings, mean=whole.mean, std=whole.std) == whole
    assert network.normalize.mean.flatten().tolist() == pytest.approx(whole.mean)
    grey = networks.build("timm:resnet18", classes=2, channels=1)
    assert Adapter(**grey.adapter_settings).shape == (1, 224, 224)
    network = networks.build("torchvision:resnet18", classes=2, channels=3)
    assert Adapter(**network.adapter_settings).scaled == (256, 256)
    segmentation = networks.build("torchvision:deeplabv3_resnet50", classes=2, channels=3)
    assert segmentation.adapter_settings is None
