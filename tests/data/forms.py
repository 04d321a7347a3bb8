"""The forms in which people have labelled images, each with a writer of the same small set."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

VALUE = {"bird": 10, "cat": 60, "dog": 120}
"""The grey value of each class's images."""

ROWS = [("train", "cat"), ("train", "dog")] * 9 + [("test", c) for c in ("bird", "cat", "dog")] * 3
"""The split and the class of each image; birds are in the test alone."""


def png(label: str) -> bytes:
    out = io.BytesIO()
    Image.new("L", (4, 4), VALUE[label]).save(out, "png")
    return out.getvalue()


def cells(split: str) -> dict:
    """The columns of one split, images as bytes."""
    labels = [label for each, label in ROWS if each == split]
    return {"image": [{"bytes": png(x), "path": None} for x in labels], "label": labels}


def table(split: str) -> Dataset:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=list(VALUE))})
    return Dataset.from_dict(cells(split), features)


def save(path: Path, label: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(label))
    return path


def images(folder: Path, by_split: bool = False) -> list[dict[str, str]]:
    """Files in a folder `images`, and a record of each: path, label, split."""
    records = []
    for i, (split, label) in enumerate(ROWS):
        name = f"{split}/{i}.png" if by_split else f"images/{i}.png"
        save(folder / name, label)
        records.append({"path": name, "label": label, "split": split})
    return records


def csv(records: list[dict], keys: tuple[str, ...], mark: str = ",", heading: str = "") -> str:
    lines = [heading or mark.join(keys)] + [mark.join(r[key] for key in keys) for r in records]
    return "\n".join(lines) + "\n"


def class_folders(folder: Path) -> Path:
    for i, (split, label) in enumerate(ROWS):
        save(folder / split / label / f"{i}.png", label)
    return folder


def csv_split_column(folder: Path) -> Path:
    text = csv(images(folder), ("path", "label", "split"))
    (folder / "labels.csv").write_text(text)
    return folder


def csv_one_file(folder: Path) -> Path:
    return csv_split_column(folder) / "labels.csv"


def csv_a_file_each(folder: Path) -> Path:
    records = images(folder)
    for split in ("train", "test"):
        chosen = [record for record in records if record["split"] == split]
        text = csv(chosen, ("path", "label"), ";", "Filename;Class")
        (folder / f"{split}.csv").write_text(text, "utf-8-sig")
    return folder


def csv_stems(folder: Path) -> Path:
    """As on Kaggle: names without a folder or an ending."""
    records = [r | {"path": Path(r["path"]).stem} for r in images(folder)]
    (folder / "labels.csv").write_text(
        csv(records, ("path", "label", "split"), heading="id,label,split")
    )
    return folder


def json_lines(folder: Path) -> Path:
    lines = [json.dumps(record) for record in images(folder)]
    (folder / "index.jsonl").write_text("\n".join(lines))
    return folder


def metadata(folder: Path) -> Path:
    """As Hugging Face's image folders have it."""
    records = images(folder, by_split=True)
    for split in ("train", "test"):
        chosen = [r | {"path": Path(r["path"]).name} for r in records if r["split"] == split]
        text = csv(chosen, ("path", "label"), heading="file_name,label")
        (folder / split / "metadata.csv").write_text(text)
    return folder


def metadata_top(folder: Path) -> Path:
    text = csv(images(folder, by_split=True), ("path", "label"), heading="file_name,label")
    (folder / "metadata.csv").write_text(text)
    return folder


def parquet_images(folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "test"):
        table(split).to_parquet(folder / f"{split}.parquet")
    return folder


def parquet_paths(folder: Path) -> Path:
    records = images(folder)
    for split in ("train", "test"):
        rows = [record for record in records if record["split"] == split]
        columns = {"file_name": [r["path"] for r in rows], "label": [r["label"] for r in rows]}
        Dataset.from_dict(columns).to_parquet(folder / f"{split}.parquet")
    return folder


def data_sets(folder: Path) -> DatasetDict:
    return DatasetDict({split: table(split) for split in ("train", "test")})


def data_set_of_text(folder: Path) -> dict[str, Dataset]:
    features = Features({"image": ImageFeature(), "label": Value("string")})
    return {split: Dataset.from_dict(cells(split), features) for split in ("train", "test")}


def saved(folder: Path) -> Path:
    data_sets(folder).save_to_disk(folder)
    return folder


def npz(folder: Path) -> Path:
    folder.mkdir()
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        labels = [label for each, label in ROWS if each == split]
        arrays[f"x_{split}"] = np.stack([np.full((4, 4), VALUE[x], np.uint8) for x in labels])
        arrays[f"y_{split}"] = np.array([list(VALUE).index(x) for x in labels])
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def npz_text(folder: Path) -> Path:
    """As MedMNIST names its arrays, labels in a column; here as text, images in colour."""
    folder.mkdir()
    arrays: dict[str, Any] = {}
    for split in ("train", "test"):
        labels = [label for each, label in ROWS if each == split]
        colour = [np.full((4, 4, 3), VALUE[x], np.uint8) for x in labels]
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = np.stack(colour), np.array(labels)
    np.savez_compressed(folder / "set.npz", **arrays)
    return folder / "set.npz"


def shards(folder: Path, ending: str = "cls") -> Path:
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}-000000.tar", "w") as archive:
            for i, label in enumerate(label for each, label in ROWS if each == split):
                text = label if ending == "cls" else json.dumps({"label": label, "caption": "x"})
                for name, data in ((f"s/{i}.png", png(label)), (f"s/{i}.{ending}", text.encode())):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    return folder


def shards_json(folder: Path) -> Path:
    return shards(folder, "json")


FORMS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "split and class folders": ("`DIR`: `train/cat/1.png`", class_folders),
    "CSV beside images": ("`DIR`: `labels.csv` with `path,label,split`", csv_split_column),
    "a CSV file": ("`labels.csv`", csv_one_file),
    "a CSV file for each split": ("`DIR`: `train.csv` with `Filename;Class`", csv_a_file_each),
    "CSV of names without ending": ("`DIR`: `labels.csv` with `id,label,split`", csv_stems),
    "JSON lines": ("`DIR`: `index.jsonl` with `path`, `label`, `split`", json_lines),
    "Hugging Face metadata": ("`DIR`: `train/metadata.csv` with `file_name,label`", metadata),
    "one metadata.csv": ("`DIR`: `metadata.csv` with `train/1.png`", metadata_top),
    "Parquet of images": ("`DIR`: `train.parquet`, `test.parquet`", parquet_images),
    "Parquet of paths": ("`DIR`: `train.parquet` with `file_name`, `label`", parquet_paths),
    "datasets.DatasetDict": ("the object, in Python", data_sets),
    "datasets.Dataset by split": ("`{\"train\": …, \"test\": …}`, in Python", data_set_of_text),
    "save_to_disk": ("`DIR`", saved),
    "NumPy archive": ("`set.npz` with `x_train`, `y_train`, …", npz),
    "NumPy archive of colour": ("`set.npz` with `train_images`, `train_labels`, …", npz_text),
    "WebDataset shards": ("`DIR`: `train-000000.tar` with `1.png`, `1.cls`", shards),
    "WebDataset shards, JSON": ("`DIR`: `train-000000.tar` with `1.png`, `1.json`", shards_json),
}  # fmt: skip
"""By name: how it is given to `load` and to the commands, and its writer."""


def markdown() -> str:
    """The table of all forms."""
    rows = [f"| {name} | {given} |" for name, (given, _) in FORMS.items()]
    return "\n".join(["| Form | Given as |", "|---|---|", *rows]) + "\n"
