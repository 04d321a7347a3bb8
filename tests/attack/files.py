"""Every file that openset reads, changed in a thousand ways."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

import openset

from . import mutate
from .cases import Case, command
from .material import Material, resumed
from .mutate import toml
from .target import Target, predicted

PICTURE_ROOM = 512 * 2**20
"""Bytes that a picture may take, which is stored smaller than it is read."""


def cases(material: Material, count: int) -> Iterator[Case]:
    """All files, `count` changes of each."""
    for targets in (of_models, of_runs, of_trainings, of_results, of_stores, of_data):
        for target in targets(material):
            yield from target.cases(count)
    yield from checkpoints(material)
    yield from with_code(material, count)
    yield from protocols(material, count)


def of_models(material: Material) -> Iterator[Target]:
    """The two files of a saved model, together and one alone."""
    origin = material.models / "gemos"
    read = partial(predicted, ".", material.pictures)
    yield Target("files: model.json", origin, "model.json", read, values=True)
    yield Target("files: model.safetensors", origin, "model.safetensors", read)
    lone = material.root / "lone"
    lone.mkdir(exist_ok=True)
    shutil.copy(origin / "model.safetensors", lone)
    alone = partial(predicted, "model.safetensors", material.pictures)
    yield Target("files: model.safetensors alone", lone, "model.safetensors", alone)


def of_runs(material: Material) -> Iterator[Target]:
    """The files of a run."""
    fit = partial(fitted_threshold, ".")
    yield Target("files: run.json", material.run, "run.json", fit, values=True)
    yield Target("files: network.safetensors", material.run, "network.safetensors", fit)
    model = partial(command, "predict", ".", material.pictures, "--detector", "energy")
    file = "models/energy/model.safetensors"
    yield Target("files: model in a run", material.run, file, model)


def fitted_threshold(run: str) -> str:
    """Threshold and class names after `openset fit RUN --detector max-logit`."""
    command("fit", run, "--detector", "max-logit", "--accept", "0.9")
    told = json.loads(Path(run, "models/max-logit/model.json").read_text())
    return json.dumps({key: told[key] for key in ("threshold", "classes", "adapter")})


def of_trainings(material: Material) -> Iterator[Target]:
    """Files from which an interrupted training goes on."""
    for file in ("training.json", "checkpoint.pt", "log.jsonl"):
        read = partial(resumed, Path("."))
        yield Target(f"files: {file}", material.training, file, read, values=file[-4:] == "json")


def of_results(material: Material) -> Iterator[Target]:
    """Files that `openset report` reads."""
    for file in ("results.csv", "results.json", "scores.safetensors"):
        json_too = file.endswith("json")
        yield Target(f"files: {file}", material.results, file, reported, values=json_too)


def reported() -> str:
    """The page that `openset report` makes."""
    command("report", ".")
    return Path("report.html").read_text()


def of_stores(material: Material) -> Iterator[Target]:
    """Activations on disk."""
    for file in ("index.json", "00000.safetensors"):
        json_too = file.endswith("json")
        yield Target(f"files: store {file}", material.store, file, stored, values=json_too)


def stored() -> str:
    """Sums of everything in a store, batch by batch."""
    lines = [str(len(openset.Store(".")))]
    for batch in openset.Store("."):
        parts = {"logits": batch.logits, "labels": batch.labels, **batch.features, **batch.extra}
        sums = {k: (list(x.shape), x.double().sum().item()) for k, x in parts.items()}
        lines.append(json.dumps(sums))
    return "\n".join(lines)


def of_data(material: Material) -> Iterator[Target]:
    """Pictures and tables, which their user may change as he likes."""
    for name in ("00.png", "01.jpg", "02.tif"):
        read = partial(command, "predict", material.models / "energy", name)
        given = {"ours": False, "memory": PICTURE_ROOM}
        yield Target(f"files: {name[3:]}", material.pictures, name, read, **given)
    given = {"ours": False, "memory": PICTURE_ROOM}
    table = material.table
    yield Target("files: parquet", table, "zoo/train.parquet", partial(loaded, "zoo"), **given)
    folder = material.class_folders
    yield Target("files: class folder", folder, "zoo/cat/0.png", partial(loaded, "zoo"), **given)


def loaded(folder: str) -> str:
    """The classes of a data set, and the sums of its pictures."""
    data = openset.data.load(folder)
    parts = (data.train, data.valid, data.test)
    pairs = [pair for part in parts for pair in openset.data.batches(part)]
    sums = [(x.sum().item(), y.tolist()) for x, y in pairs]
    return json.dumps([data.classes, sums])


def checkpoints(material: Material) -> Iterator[Case]:
    """Checkpoints with other contents, written as torch writes them."""
    read = partial(resumed, Path("."))
    target = Target("files: checkpoint.pt values", material.training, "checkpoint.pt", read)
    expected = target.answer()
    yield target.case("as it is", lambda file: False, expected, reference=True)
    for key, value in CHECKPOINT.items():
        yield target.case(key, partial(_change_checkpoint, key, value), expected)


CHECKPOINT = {
    **{"epoch": 99, "step": 7, "random": torch.zeros(3), "objective": {}, "losses": []},
    **{"optimizers": {"network": {}}, "log_bytes": 10**12, "seconds": "x", "precision": None},
    **{"epoch ": None, "all of it": [], "NaN weights": None, "code": None},
}
"""Values of a checkpoint that none can have; those with a name of their own are made below."""


def _change_checkpoint(key: str, value: object, file: Path) -> bool:
    state = torch.load(io.BytesIO(file.read_bytes().partition(b"\n")[2]), weights_only=True)
    if key == "NaN weights":
        for x in state["objective"].values():
            x.fill_(torch.nan) if x.is_floating_point() else None
    state = value if key == "all of it" else {**state, key: value}
    buffer = io.BytesIO()
    torch.save(mutate.Payload() if key == "code" else state, buffer)
    content = buffer.getvalue()
    seal = f"openset checkpoint {hashlib.sha256(content).hexdigest()}\n"
    file.write_bytes(seal.encode() + content)
    return False


def protocols(material: Material, count: int) -> Iterator[Case]:
    """Protocols, which run nothing that they name without trust."""
    read = partial(command, "benchmark", "mine.toml", "--out", "out", "--dry-run")
    place = material.root / "protocol"
    place.mkdir(exist_ok=True)
    (place / "mine.toml").write_text(toml(PROTOCOL))
    target = Target("files: protocol", place, "mine.toml", read, ours=False)
    yield from target.cases(count // 2)
    text = partial(mutate.edited_toml, PROTOCOL, "nowhere")
    odd = [("set", ("detectors",), x) for x in ([1], [None], [[]], "energy", [{}], [1.5], [""])]
    odd += mutate.draws(mutate.of_json(PROTOCOL), count // 2)
    for way, edits in (("values", odd), ("code", mutate.with_code(PROTOCOL))):
        target = Target(f"files: protocol {way}", place, "mine.toml", read, ours=False)
        yield from target.edits(edits[:count], text)


def with_code(material: Material, count: int) -> Iterator[Case]:
    """Runs and results whose texts name code; which folders they read is their user's choice."""
    fit = partial(fitted_threshold, ".")
    for origin, file, read in (
        (material.run, "run.json", fit),
        (material.results, "results.json", reported),
    ):
        told = json.loads((origin / file).read_text())
        edits = mutate.with_code(told)
        edits = edits[:: max(1, -(-len(edits) // count))]
        target = Target(f"files: {file} code", origin, file, read)
        yield from target.edits(edits, partial(mutate.edited_json, told, decoy="nowhere"))


PROTOCOL = {
    "title": "Digits",
    "source": "ours",
    "metrics": ["auroc"],
    "data": "digits",
    "network": "cnn:widths=4+8,hidden=8",
    "splits": [[0, 1, 2, 3, 4, 5]],
    "unknown": ["left-out", "gaussian-noise,limit=50"],
    "seeds": 1,
    "detectors": ["energy", "gemos:components=1"],
    "notes": ["None."],
    "training": {"epochs": 1, "lr": 0.01},
    "methods": [{"objective": "cross-entropy", "detectors": ["energy"]}],
}
