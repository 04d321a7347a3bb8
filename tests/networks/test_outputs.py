"""Logits among whatever a network puts out, and a choice of them."""

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import openset
from openset.networks import build, cnn, from_spec, logits_of, select
from openset.objectives import CrossEntropy
from openset.training.loop import accuracy

X = torch.rand(2, 3)
Inception = namedtuple("Inception", "logits aux")


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dictionary whose keys are attributes too."""


FORMS = {
    "dictionary": lambda x: {"out": x},
    "logits-after-others": lambda x: {"hidden": torch.rand(2, 8), "logits": x},
    "tuple": lambda x: (x, None),
    "loss-first": lambda x: (torch.zeros(()), x),
    "named-tuple": lambda x: Inception(x, x + 1),
    "model-output": lambda x: ModelOutput(loss=torch.zeros(()), logits=x),
    "object": lambda x: SimpleNamespace(logits=x),
}


class Odd(nn.Module):
    """A classifier whose logits lie in something else."""

    def __init__(self, form):
        super().__init__()
        self.form, self.inner = form, cnn(3, 1, widths=(4, 8), hidden=6)

    def forward(self, image):
        return self.form(self.inner(image))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_logits_are_found(form):
    assert logits_of(form(X)) is X
    network = Odd(form)
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 3
    seen = openset.Tap(network)(images)
    assert torch.equal(seen.logits, network.eval().inner(images))
    assert seen.head is not None, "the head's output is the logits themselves"
    trained = openset.train(CrossEntropy(network), [(images, labels)], epochs=1, lr=0.01)
    assert 0 <= accuracy(trained, [(images, labels)]) <= 1


@pytest.mark.parametrize("output", [{"a": 1}, (), torch.zeros(3), None, {"logits": X[0]}])
def test_what_holds_none_is_described(output):
    with pytest.raises(ValueError, match=r"the network gave a .*expected logits \[N, K\]"):
        logits_of(output)


def test_select_keeps_the_rows_of_the_head_and_says_so():
    network = cnn(9, 1, widths=(4, 8), hidden=6).eval()
    image = torch.rand(4, 1, 8, 8)
    before = network(image)
    chosen = select(network, [7, 2, 5])
    torch.testing.assert_close(chosen(image), before[:, [7, 2, 5]])
    again = from_spec(chosen.spec).eval()
    again.load_state_dict(chosen.state_dict())
    assert torch.equal(again(image), chosen(image))
    assert again.spec == chosen.spec


@pytest.mark.parametrize("outputs", [[9, 1], [1, 1], [-1, 2], [3]])
def test_select_refuses_outputs_that_are_not_there(outputs):
    with pytest.raises(ValueError, match="name at least two of 0…8, each once"):
        select(cnn(9, 1), outputs)


def test_select_needs_a_linear_head():
    with pytest.raises(ValueError, match="no linear head"):
        select(nn.Flatten(), [0, 1])


def test_a_factory_lies_in_a_file_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes: int, norm=nn.BatchNorm1d):\n"
        "        super().__init__(nn.Flatten(), norm(4), nn.Linear(4, num_classes))\n\n\n"
        "def plain():\n    return Net(2)\n\n\n"
        "def text():\n    return 'no network'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    network = build("own_nets:Net", classes=3, num_classes=3)
    assert network.spec == {"name": "own_nets:Net", "num_classes": 3}
    assert build("own_nets:plain", classes=3)[2].out_features == 2
    assert isinstance(from_spec(network.spec, trust=["own_nets"]), nn.Sequential)
    with pytest.raises(ValueError, match=r"trust=\['own_nets'\]"):
        from_spec(network.spec)
    with pytest.raises(ValueError, match=r"made a str; expected an nn\.Module"):
        build("own_nets:text")
    with pytest.raises(ValueError, match=r"'own_nets' has no attribute 'nothing'"):
        build("own_nets:nothing")
    with pytest.raises(ValueError, match="unknown network 'cnnn': did you mean cnn"):
        build("cnnn:make")
