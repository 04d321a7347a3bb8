"""The card of a saved model: what it knows, what it promises and what it is for, as Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openset.evaluation.stamp import stamp
from openset.text import few, printable

CARD = "README.md"
"""The name under which the Hugging Face hub shows a card."""

TAGS = ("openset", "out-of-distribution-detection", "open-set-recognition", "novelty-detection")


def card(told: Mapping[str, Any], digest: str) -> str:
    """The card of a model, with the header that the Hugging Face hub reads.

    Args:
        told: The model's description.
        digest: SHA-256 of its tensors' file.
    """
    about = dict(told["about"])
    facts = {
        **about,
        "Classes": few(told["classes"], 50) if told["classes"] else "not named",
        "Network": about.get("Network") or _network(told["network"]),
        "Detector": json.dumps(_settings(told["detector"]), ensure_ascii=False),
        "Chosen on": few(told["tuned_on"], 9) if told["tuned_on"] else "known data alone",
        "Input": _input(told["adapter"]),
        **stamp(),
        "SHA-256 of the tensors": digest,
    }
    lines = [f"- {name}: {plain(str(value))}" for name, value in facts.items()]
    name = told["name"] or told["detector"]["name"]
    return (
        f"{header(told, name)}\n# {plain(name)}\n\n"
        "A classifier that answers one of its classes, or that it does not know the image.\n\n"
        + "\n".join(lines)
        + f"\n\n## Promise\n\n{_promise(told['threshold'])}\n\n{USE}"
    )


USE = """## Intended use

For images of these classes that are taken as the held-out ones were, among which others may come:
they are to be called unknown. Nothing is promised of how many unknown images are noticed, nor of
known images of another camera, place or time; measure both on images of your own, and watch the
stream of answers with `openset monitor`.

```python
from openset import OpenSet

model = OpenSet.from_pretrained("this folder, or its name on the hub")
for answer in model.predict("photos"):
    print(answer.path, answer.label, answer.score, answer.p_value)
```
"""


def header(told: Mapping[str, Any], name: str) -> str:
    """The metadata that the hub reads, as YAML."""
    about = told["about"]
    facts: dict[str, Any] = {
        "library_name": "openset",
        "pipeline_tag": "image-classification",
        "tags": list(TAGS),
    }
    data = about.get("Data", "")
    if hub := re.match(r"[\w.-]+/[\w.-]+(?=[:,]|$)", data):
        facts["datasets"] = [hub[0]]
    if share := re.search(r"([\d.]+)% on test", about.get("Accuracy", "")):
        metric = {"type": "accuracy", "value": round(float(share[1]) / 100, 6)}
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": {"type": data, "name": data}, "metrics": [metric]}
        facts["model-index"] = [{"name": name, "results": [result]}]
    # JSON is YAML too, and quotes whatever a name may hold.
    return "\n".join(["---", *(f"{key}: {json.dumps(x)}" for key, x in facts.items()), "---", ""])


def _settings(spec: Any) -> Any:
    """A detector's spec without the settings of networks inside."""
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return [_settings(each) for each in spec]
    if not isinstance(spec, Mapping) or "kind" not in spec:
        return spec
    if spec["kind"] == "network":
        return "a network"
    return {spec["name"]: {key: _settings(value) for key, value in spec["settings"].items()}}


def _network(spec: Mapping[str, Any] | None) -> str:
    return "not built by openset; pass it to load" if spec is None else str(spec.get("name"))


def _input(adapter: Mapping[str, Any] | None) -> str:
    if adapter is None:
        return "tensors; no image file is read"
    height, width = adapter["size"]
    return f"{adapter['channels']} channels, {height} × {width} pixels"


def _promise(threshold: Mapping[str, Any] | None) -> str:
    """The threshold, and what it guarantees or why not."""
    if threshold is None:
        return "No threshold is set: every image is given a class."
    values = ", ".join(f"{value:.6g}" for value in threshold["values"])
    return f"{plain(threshold['guarantee'])} Threshold: {values}."


def plain(text: str) -> str:
    r"""A text as Markdown that shows it as it is.

    Example:
        >>> plain("a_b <script>|x")
        'a\\_b \\<script\\>\\|x'
    """
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", printable(text))
