"""Other libraries' networks: a stand-in where none is installed, the real ones where they are."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from openset.extractors.tap import Tap
from openset.networks import build, external, from_spec
from openset.networks.external import External

TIMM = """
import torch.nn as nn
ASKED = {}
def is_model(name):
    return name == "tiny"
def list_models():
    return ["tiny"]
def create_model(name, **options):
    ASKED.update(options)
    if options["pretrained"]:
        raise OSError("no route to the weights")
    network = nn.Sequential()
    network.conv = nn.Conv2d(options["in_chans"], 4, 3)
    network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.head = nn.Linear(4, options["num_classes"])
    network.feature_info = [{"module": "stem"}, {"module": "conv"}]
    network.pretrained_cfg = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3)}
    return network
"""

TORCHVISION = """
import torch
@torch.library.register_fake("torchvision::nms")
def nms(boxes, scores, threshold):
    return boxes
torch.library.register_autograd("torchvision::roi_align", lambda context, gradient: gradient)
"""


def installed(*names):
    return pytest.mark.skipif(
        not all(find_spec(name) for name in names), reason=f"needs {' and '.join(names)}"
    )


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Writes a module that is importable during the test, in place of an installed one."""
    kept = {k: m for k, m in sys.modules.items() if k.split(".")[0] in ("timm", "torchvision")}
    monkeypatch.syspath_prepend(tmp_path)
    external._mend_torchvision.cache_clear()

    def write(name, text):
        sys.modules.pop(name, None)
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for name in ("timm", "torchvision"):
        sys.modules.pop(name, None)
    sys.modules.update(kept)
    external._mend_torchvision.cache_clear()


def test_timm_gets_its_own_words_for_our_arguments(library):
    library("torchvision", "")
    library("timm", TIMM)
    network = build("timm:tiny,image_size=8", classes=3, channels=1)
    assert sys.modules["timm"].ASKED == {
        "pretrained": False,
        "num_classes": 3,
        "in_chans": 1,
        "img_size": 8,
    }
    assert network.stages == ("network.conv",), "a stage that is no module must be left out"
    torch.testing.assert_close(network.normalize.mean.flatten(), torch.tensor([0.4]))
    assert Tap(network, layers=["stage1"])(torch.rand(2, 1, 8, 8)).features["stage1"].shape == (
        2,
        4,
    )


def test_a_saved_spec_never_downloads(library):
    library("torchvision", "")
    library("timm", TIMM)
    with pytest.raises(ValueError, match="cannot make timm:tiny: no route to the weights"):
        build("timm:tiny,pretrained=true", classes=3)
    spec = {"name": "timm", "model": "tiny", "classes": 3, "pretrained": True}
    assert from_spec(spec).spec["pretrained"] is False
    with pytest.raises(ValueError, match="unknown timm network 'tiny2': did you mean tiny"):
        build("timm:tiny2", classes=3)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_missing_operators_are_declared_once(library, caplog):
    library("torchvision", TORCHVISION)
    with pytest.raises(RuntimeError, match="operator torchvision::nms does not exist"):
        __import__("torchvision")
    try:
        assert external.import_library("torchvision").nms
        external.import_library("torchvision")
        assert len(caplog.records) == 1
        assert "compiled operators do not load" in caplog.text
    finally:
        external._declared.pop()._destroy()


def test_torchvisions_other_failures_are_not_hidden(library):
    library("torchvision", "raise RuntimeError('the disk is on fire')")
    with pytest.raises(RuntimeError, match="on fire"):
        external.import_library("torchvision")


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(external, "_mend_torchvision", lambda: None)
    with pytest.raises(ValueError, match=r"timm cannot be imported .*pip install 'openset\[vision"):
        build("timm:resnet18", classes=3)


def test_importing_openset_imports_no_library():
    code = "import openset.networks, sys; print({'timm', 'torchvision'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class ChannelsLast(nn.Module):
    """Maps [N, H, W, D] between its stages, as Swin has."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 2, stride=2)
        self.stage = nn.Linear(4, 6)
        self.head = nn.Linear(6, 5)
        self.feature_info = [{"module": "stage"}]

    def forward(self, x):
        return self.head(self.stage(self.embed(x).permute(0, 2, 3, 1)).mean((1, 2)))


def test_tap_averages_over_space_wherever_the_channels_are():
    network = External(ChannelsLast())
    tap = Tap(network, layers=["stage1", "network.embed"])
    activations = tap(torch.rand(2, 3, 8, 8))
    assert activations.features["network.embed"].shape == (2, 4)
    torch.testing.assert_close(activations.features["stage1"], activations.features["penultimate"])


def test_the_logits_of_a_dictionary_are_its_out():
    class Segmenter(nn.Conv2d):
        def forward(self, x):
            return {"out": super().forward(x), "aux": x}

    assert External(Segmenter(3, 5, 1))(torch.rand(2, 3, 4, 4)).shape == (2, 5, 4, 4)


class Segmenter(nn.Module):
    """Named as segmentation-models-pytorch names its parts."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential()
        for i in (1, 2, 3, 4):
            self.encoder.add_module(f"layer{i}", nn.Conv2d(3, 3, 1))
        self.decoder = nn.Conv2d(3, 6, 3, padding=1)
        self.segmentation_head = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1), nn.Identity())

    def forward(self, x):
        return self.segmentation_head(self.decoder(self.encoder(x)))


def test_tap_finds_the_head_and_the_stages_of_a_segmentation_network():
    network = External(Segmenter())
    tap = Tap(network, layers=["stage4", "penultimate"])
    assert network.stages == tuple(f"network.encoder.layer{i}" for i in (1, 2, 3, 4))
    assert tap.head == "network.segmentation_head.0"
    activations = tap(torch.rand(2, 3, 8, 8))
    assert activations.features["penultimate"].shape == (2, 6, 8, 8)
    assert activations.head is None, "a 3×3 convolution is no linear map of one pixel's features"


def test_weights_that_do_not_fit_leave_the_head_as_it_is():
    network, pretrained = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Linear(2, 3)
    head = network[1].weight.clone()
    state = {"0.weight": pretrained.weight, "0.bias": pretrained.bias, "1.weight": torch.ones(9, 3)}
    external._load_fitting(network, state)
    assert torch.equal(network[0].weight, pretrained.weight)
    assert torch.equal(network[1].weight, head)


# The real libraries, where they are installed.


REAL = [
    ("timm", "timm:resnet18", 32, (64, 128, 256, 512)),
    ("timm", "timm:convnext_atto", 64, (40, 80, 160, 320)),
    ("timm", "timm:swin_tiny_patch4_window7_224,image_size=64", 64, (96, 192, 384, 768)),
    ("timm", "timm:vit_tiny_patch16_224,image_size=32", 32, (192,) * 12),
    ("timm", "timm:mambaout_femto", 64, (48, 96, 192, 288)),
    ("timm", "timm:efficientnet_b0", 64, (16, 24, 40, 112, 320)),
    ("torchvision", "torchvision:resnet18", 64, (64, 128, 256, 512)),
    ("torchvision", "torchvision:swin_t", 64, (96, 192, 384, 768)),
    ("torchvision", "torchvision:densenet121", 64, (64, 256, 512, 1024, 1024)),
    ("torchvision", "torchvision:vgg11", 64, (64, 128, 256, 512, 512, 512)),
    ("torchvision", "torchvision:mobilenet_v3_small", 64, (16, 16, 24, 48, 576)),
    ("torchvision", "torchvision:efficientnet_b0", 64, (16, 24, 40, 112, 1280)),
    ("torchvision", "torchvision:convnext_tiny", 64, (96, 192, 384, 768)),
    ("torchvision", "torchvision:regnet_x_400mf", 64, (32, 32, 64, 160, 400)),
    ("torchvision", "torchvision:vit_b_32", 224, (768,) * 4),
    ("timm", "timm:hrnet_w18_small", 64, (64, 128, 256, 512, 2048)),
    ("timm", "timm:selecsls42", 64, (32, 128, 288, 480, 1024)),
    ("timm", "timm:deit_tiny_distilled_patch16_224", 224, (192,) * 12),
    ("torchvision", "torchvision:fcn_resnet50", 64, (256, 512, 1024, 2048)),
    ("segmentation_models_pytorch", "smp:unet,encoder=resnet18", 64, (64, 128, 256, 512)),
    ("segmentation_models_pytorch", "smp:fpn", 64, (64, 128, 256, 512)),
    ("segmentation_models_pytorch", "smp:segformer,encoder=mit_b0", 64, ()),
]


@pytest.mark.parametrize(
    ("spec", "side", "widths"),
    [pytest.param(*row[1:], marks=installed(row[0], "torchvision"), id=row[1]) for row in REAL],
)
@pytest.mark.filterwarnings("default")
@torch.inference_mode()
def test_real_networks_are_tapped_stage_by_stage(spec, side, widths):
    network = build(spec, classes=5).eval()
    images = torch.rand(2, 3, side, side)
    activations = Tap(network, layers=[*network.stages, "penultimate"])(images)
    grid = activations.grid
    assert grid == ((side, side) if activations.logits.dim() == 4 else ())
    assert [activations.features[stage].shape for stage in network.stages] == [
        (2, width, *grid) for width in widths
    ]
    assert "penultimate" in activations.features
    if activations.head is not None:
        weight, bias = activations.head
        by_hand = activations.features["penultimate"] @ weight.T + bias
        torch.testing.assert_close(by_hand, activations.logits)
    again = from_spec(network.spec).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images), activations.logits)


@installed("timm", "torchvision", "segmentation_models_pytorch")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("timm:resnet19", "did you mean resnet18"),
        ("timm:resnet18.no_tag", "cannot make timm:resnet18.no_tag"),
        ("torchvision:resnet19", "did you mean resnet18"),
        ("torchvision:resnet18,channels=1", "torchvision's networks take 3 channels, not 1"),
        ("smp:unett", "did you mean unet"),
        ("smp:unet,encoder=resnet19", "unknown smp encoder 'resnet19': did you mean resnet18"),
        ("smp:unet,encoder=tu-hf-hub:someone/network", "unknown smp encoder"),
        ("timm:resnet18,pretraind=true", "did you mean pretrained"),
    ],
)
def test_real_libraries_say_what_is_wrong(spec, said):
    with pytest.raises(ValueError, match=said):
        build(spec, classes=5)


@installed("torchvision")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("resnet18:stem=large", "resnet18"),
        ("resnet34:stem=large", "resnet34"),
        ("densenet-121:stem=large", "densenet121"),
    ],
)
@torch.inference_mode()
def test_ours_compute_what_torchvisions_do(ours, theirs):
    models = external.import_library("torchvision").models
    network, reference = build(ours, classes=7).eval(), models.get_model(theirs, num_classes=7)
    own = [key for key in network.state_dict() if not key.startswith("normalize.")]
    state = reference.state_dict()
    assert [network.state_dict()[key].shape for key in own] == [x.shape for x in state.values()]
    network.load_state_dict(dict(zip(own, state.values(), strict=True)), strict=False)
    images = torch.rand(2, 3, 64, 64)
    expected = reference.eval()(network.normalize(images))
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
