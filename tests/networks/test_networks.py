"""Networks by name and by spec."""

import sys

import pytest
import torch
from torch import nn

from openset.networks import HEADS, Backbone, Normalize, build, cnn, described, from_spec, resnet18

OWN = """
import torch.nn as nn
def shallow(classes, hidden=4, **options):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))
class Wide(nn.Linear):
    def __init__(self, classes, channels):
        super().__init__(channels, classes)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package of the user's own."""
    package = tmp_path / "mycompany"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mycompany.nets"
    for name in ("mycompany", "mycompany.nets"):
        sys.modules.pop(name, None)


def test_settings_follow_the_name():
    network = build("cnn:widths=8+16,hidden=12", classes=3, channels=1)
    assert network.stages == ("stage1", "stage2")
    assert network.head.in_features == 12
    assert network.spec == {
        "name": "cnn",
        "classes": 3,
        "channels": 1,
        "widths": (8, 16),
        "hidden": 12,
    }


def test_what_the_spec_sets_wins_over_what_is_given():
    assert build("cnn:classes=4", classes=3).head.out_features == 4
    assert build({"name": "cnn", "classes": 4}, classes=3, channels=1).head.out_features == 4


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("resnet-18", "unknown network 'resnet-18': did you mean resnet18"),
        ("wrn-28-1", "did you mean wrn-28-10"),
        ("cnn:hiden=3", "unknown setting of network cnn 'hiden': did you mean hidden"),
        ("resnet18:stem=tiny", "stem of network resnet18 is 'tiny'; expected 'small' or 'large'"),
        ("no_such_package.nets:f", "cannot import 'no_such_package.nets:f'"),
        ("torch.nn:NoSuchModule", "cannot import 'torch.nn:NoSuchModule'"),
        ("timm", "missing 1 required positional argument: 'model'"),
    ],
)
def test_build_says_what_is_wrong(spec, said):
    with pytest.raises(ValueError, match=said):
        build(spec, classes=3)


def test_own_factory_gets_what_it_takes(own):
    network = build(f"{own}:shallow:hidden=7,depth=2", classes=3, channels=1)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    assert network.spec == {"name": f"{own}:shallow", "classes": 3, "hidden": 7, "depth": 2}
    wide = build(f"{own}:Wide", classes=3, channels=2)
    assert (wide.out_features, wide.in_features) == (3, 2)


def test_own_factory_comes_back_only_if_trusted(own):
    spec = build(f"{own}:shallow", classes=3).spec
    del sys.modules[own]
    for trust in ((), ["my"], ["mycompany.net"], ["other"]):
        with pytest.raises(ValueError, match=r"mycompany\.nets:shallow.*trust=\['mycompany'\]"):
            from_spec(spec, trust=trust)
    assert own not in sys.modules, "an untrusted package was imported"
    for trust in (["mycompany"], ["mycompany.nets"]):
        assert from_spec(spec, trust=trust).spec == spec


@pytest.mark.parametrize("spec", [{}, {"name": None}, {"name": 3}])
def test_a_spec_needs_a_name(spec):
    with pytest.raises(ValueError, match="needs a name"):
        from_spec(spec)


def test_from_spec_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean cnn"):
        from_spec({"name": "cnnn", "classes": 3})


def test_heads_nest_the_spec_of_their_network(monkeypatch):
    @described
    def two_heads(network, size: int = 3):
        return nn.Sequential(network, nn.Linear(network.head.out_features, size))

    monkeypatch.setitem(HEADS, "two-heads", two_heads)
    network = two_heads(cnn(5, 1), size=2)
    assert network.spec == {"name": "two-heads", "network": cnn(5, 1).spec, "size": 2}
    again = from_spec(network.spec)
    assert again.state_dict().keys() == network.state_dict().keys()
    assert again.spec == network.spec


def test_heads_pass_trust_on_to_their_network(own, monkeypatch):
    @described
    def behind(network):
        return nn.Sequential(network)

    monkeypatch.setitem(HEADS, "behind", behind)
    spec = behind(build(f"{own}:shallow", classes=3)).spec
    with pytest.raises(ValueError, match="trust"):
        from_spec(spec)
    assert isinstance(from_spec(spec, trust=["mycompany"])[0], nn.Sequential)


def test_normalize_is_the_formula_and_refuses_other_channels():
    normalize = Normalize([0.2, 0.4], [0.5, 0.25])
    x = torch.rand(3, 2, 4, 4)
    torch.testing.assert_close(normalize(x)[:, 1], (x[:, 1] - 0.4) / 0.25)
    with pytest.raises(ValueError, match="images have 1 channels, the network expects 2"):
        normalize(x[:, :1])
    assert "0.25" in repr(normalize)


def test_images_are_normalised_inside():
    network = resnet18(classes=2, channels=1, width=4).eval()
    dark, bright = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    seen = []
    network.stem.register_forward_pre_hook(lambda module, args: seen.append(args[0].unique()))
    network(dark), network(bright)
    assert [x.item() for x in seen] == [-1.0, 1.0]
    assert isinstance(network, Backbone)
