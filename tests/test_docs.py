"""Every block of code in the README and under docs runs as it stands, page by page."""

import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import test_examples
import torch
from command_line import call
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*) -->\n)?```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S
)
EXAMPLE = re.compile(r'--8<-- "examples/(\w+)\.py"\n')

NOT_RUN = Counter(
    {
        "README.md": 1,
        "docs/how-to/compare.md": 1,
        "docs/how-to/many-machines.md": 1,
        "docs/how-to/own-network.md": 2,
        "docs/how-to/per-pixel.md": 2,
        "docs/how-to/several-processes.md": 1,
        "docs/index.md": 2,
    }
)
"""Blocks that say why they are not run; a further one must be counted here."""

LEAVES = {
    "README.md": ["model/model.safetensors"],
    "docs/index.md": ["model/model.json", "run/run.json", "answers.csv", "measured/report.html"],
    "docs/how-to/choose-a-detector.md": ["report.html"],
    "docs/how-to/life.md": ["stream.svg", "groups/groups.html", "one-more/README.md", "why.html"],
    "docs/how-to/compare.md": ["results/results.csv", "results/report.html"],
}
"""Files that a page's blocks say they write."""

NETWORK = """
from collections import OrderedDict
from torch import nn

def layer(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))

def make():
    top = nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 6))
    return nn.Sequential(OrderedDict(layer1=layer(1, 16), layer2=layer(16, 32), top=top))
"""


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    code: str
    mark: str

    @property
    def kind(self) -> str:
        return self.mark.partition(":")[0]

    @property
    def example(self) -> str | None:
        found = EXAMPLE.fullmatch(self.code)
        return found and found[1]


def blocks(page: Path) -> Iterator[Block]:
    name = page.relative_to(ROOT).as_posix()
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        yield Block(name, found["language"], found["code"], found["mark"] or "")


EVERY = [block for page in PAGES for block in blocks(page)]


def to_run(kinds: set[str]) -> dict[str, list[Block]]:
    """The blocks that run, by page, of pages that have one of these kinds."""
    run = [b for b in EVERY if b.language != "text" and b.kind != "not run" and not b.example]
    pages = {b.page for b in run if b.kind in kinds}
    return {page: [b for b in run if b.page == page] for page in sorted(pages)}


def test_every_block_is_run_or_says_why_not():
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    assert fences == 2 * len(EVERY), "a block is indented, or its fence has settings"
    assert {block.language for block in EVERY if not block.example} == {"python", "sh", "text"}
    assert {block.kind for block in EVERY} <= {"", "slow", "not run"}
    assert Counter(b.page for b in EVERY if b.kind == "not run") == NOT_RUN
    assert all(b.mark.partition(": ")[2] for b in EVERY if b.mark), "a mark needs its reason"
    shown = {block.example for block in EVERY if block.example}
    assert shown <= {*test_examples.SHOWN, "server"}, "an example that no test runs"


def test_what_a_page_names_is_there():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"`([a-z_]+(?:/[a-z_]+)+\.(?:py|md|toml))`", text):
            assert (ROOT / name).exists() or (ROOT / "openset" / name).exists(), f"{page}: {name}"
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page}: {link}"


@pytest.fixture(scope="module")
def belongings(tmp_path_factory):
    """A reader's own network with weights, its images, and pictures of unknown digits."""
    home = tmp_path_factory.mktemp("reader")
    source = load_digits()
    pixels, digits = np.uint8(source.images * 15.9), source.target
    for i, (image, digit) in enumerate(zip(pixels, digits, strict=True)):
        part = ("train", "train", "train", "valid", "test")[i % 5]
        folder = home / "photos" / part / "abcdef"[digit] if digit < 6 else home / "strange"
        if digit < 6 or i % 10 == 0:
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{i}.png")
    (home / "mynet.py").write_text(NETWORK)
    space: dict = {}
    exec(NETWORK, space)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = trained(space["make"](), pixels, digits)
    save_file(network.state_dict(), home / "weights.safetensors")
    return home


def trained(network, pixels, digits):
    seen = np.flatnonzero((digits < 6) & (np.arange(len(digits)) % 5 < 3))
    images = torch.from_numpy(pixels[seen])[:, None].float() / 255
    labels = torch.from_numpy(digits[seen])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(15):
        for rows in torch.randperm(len(seen)).split(64):
            loss = torch.nn.functional.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture
def reader(belongings, tmp_path, monkeypatch):
    """A folder of the reader's, in which a page's blocks run."""
    home = shutil.copytree(belongings, tmp_path / "reader")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    return home


def run(block: Block, space: dict) -> None:
    """Runs it as its reader would, in this process: importing torch again takes long."""
    if block.language == "python":
        exec(compile(block.code, block.page, "exec"), space)
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        program, *arguments = shlex.split(line, comments=True) or [""]
        assert program == "openset", f"{block.page}: {line!r} needs the mark that it is not run"
        call(*arguments)


@pytest.mark.parametrize("page", to_run({""}))
def test_the_page_runs(page, reader):
    space = {"__name__": page}
    for block in to_run({""})[page]:
        if block.kind != "slow":
            run(block, space)
    for name in LEAVES.get(page, ()):
        assert (reader / name).stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("page", to_run({"slow"}))
def test_the_page_runs_on_real_data(page, reader):
    from openset.data import load

    street = load("camvid").test[0][0].permute(1, 2, 0).mul(255).byte()
    Image.fromarray(street.numpy()).save("street.png")
    space = {"__name__": page}
    for block in to_run({"slow"})[page]:
        run(block, space)
