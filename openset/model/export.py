"""A model as one ONNX file: image and threshold in, label, score and p-value out."""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from openset.activations import UNKNOWN
from openset.errors import one_line
from openset.files import complete_file
from openset.model.open_set import OpenSet
from openset.networks.device import device_of
from openset.scoring.held_out import PValues

BATCHES = (2, 5)
"""Sizes of the batches on which the exported file must agree with the model."""


TOLERANCE = 1e-3
"""The largest relative difference between the two scores."""


class Deployed(nn.Module):
    """A model as a graph: the threshold is an input, so that it can be moved without a new file."""

    def __init__(self, model: OpenSet):
        super().__init__()
        self.model = model
        self.p_values = PValues(model.held_out) if model.held_out.fitted else None

    @property
    def outputs(self) -> list[str]:
        """The names of what comes out; models of older versions give no p-value."""
        return ["label", "score", *(["p_value"] if self.p_values else [])]

    def forward(self, image: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        seen = self.model.extractor(image)
        nearest, score, applying = self.model.judge(seen, threshold)
        label = torch.where(score <= applying, nearest, UNKNOWN)
        rare = [] if self.p_values is None else [self.look_up(score, nearest)]
        shape = (seen.logits.shape[0], *seen.grid)
        return tuple(x.view(shape) for x in (label, score, *rare))

    def look_up(self, score: Tensor, nearest: Tensor) -> Tensor:
        """The p-values of scores of any shape."""
        assert self.p_values is not None
        return self.p_values(score.flatten(), nearest.flatten()).view_as(score)


def export(
    model: OpenSet, path: str | os.PathLike[str], size: tuple[int, int, int] | None = None
) -> float:
    """Writes network, detector and threshold as one ONNX file, and checks it against the model.

    Inputs are `image`, float32 `[N, C, H, W]` in 0…1, and `threshold`, float32 `[1]` or, for a
    threshold per class, `[K]`; outputs `label`, int64 `[N, *grid]`, −1 where unknown, `score`,
    float32 `[N, *grid]`, and `p_value`, float32 `[N, *grid]`, the share of held-out known samples
    that look at least so strange; the grid is `(H, W)` for a network that labels pixels. The file's
    metadata names the classes, the calibrated threshold and how an image file becomes the input.
    Needs the extra `export`.

    Args:
        model: A calibrated model whose detector needs no gradient.
        path: The file to write; complete or absent.
        size: Channels, height and width of the input; None takes those of the model's adapter.

    Returns:
        The largest relative difference of a score between onnxruntime and the model.

    Raises:
        ValueError: For a detector that steps along a gradient, a model without threshold or input
            size, a missing library, or a file that does not agree with the model.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from openset import Tap, networks
        >>> from openset.detectors import Energy
        >>> network = networks.cnn(classes=3, channels=1, widths=(4, 4), hidden=4)
        >>> images = [(torch.rand(40, 1, 8, 8), torch.zeros(40, dtype=torch.long))]
        >>> model = OpenSet(Tap(network), Energy()).calibrate(images, accept=0.9)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export(model, Path(folder, "model.onnx"), (1, 8, 8)) < 1e-3
        True
    """
    refuse_what_cannot(model)
    if size is None:
        if model.adapter is None:
            raise ValueError(
                "this model does not say how large its images are; pass size=(C, H, W)"
            )
        size = model.adapter.shape
    runtime = _library("onnxruntime")
    with on_cpu(model), complete_file(path) as partial:
        graph, threshold = Deployed(model).eval(), model.get_buffer("values").float()
        image = torch.rand(BATCHES[0], *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            graph(image, threshold)  # A tap finds the head at its first look, which is no graph.
        program = _program(graph, image, threshold)
        program.model.metadata_props.update(facts(model))
        program.save(partial)
        try:
            return check(graph, runtime.InferenceSession(str(partial)), size, threshold)
        except ValueError:
            raise
        except Exception as error:  # Those of onnxruntime have no base of their own.
            raise ValueError(
                f"onnxruntime does not run the exported file: {str(error).splitlines()[0]}; "
                "nothing was written; please report the network and the detector"
            ) from error


@contextmanager
def on_cpu(model: OpenSet) -> Iterator[None]:
    """Has the model on the CPU, where a graph is made, and takes it back to where it was."""
    device = device_of(model)
    try:
        model.cpu()
        yield
    finally:
        model.to(device)


def refuse_what_cannot(model: OpenSet) -> None:
    """Raises for a model that no static graph can express, or that was never calibrated."""
    if model.extractor.moves_image:
        raise ValueError(
            f"{model.detector.name} steps along a gradient, which ONNX cannot express; "
            "export another detector, or this one with epsilon=0"
        )
    if model.threshold is None:
        raise ValueError("this model has no threshold; calibrate it before the export")


def _program(graph: Deployed, image: Tensor, threshold: Tensor) -> Any:
    _library("onnxscript")
    shapes = {"image": {0: torch.export.Dim.DYNAMIC}, "threshold": None}
    # The exporter's own, about its opsets and about torchvision, which is not needed.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.onnx.export(
                graph,
                (image, threshold),
                input_names=["image", "threshold"],
                output_names=graph.outputs,
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause = error.__cause__ or error
            raise ValueError(
                f"torch cannot make one graph of this network ({one_line(cause)[:200]}); export it "
                "as it was before torch.jit or quantisation, without branches that hang on pixels"
            ) from error


def facts(model: OpenSet) -> dict[str, str]:
    """Metadata of the file: classes, threshold, adapter and detector, as JSON texts."""
    about = {
        "classes": model.classes,
        "threshold": None if model.threshold is None else model.threshold.record(),
        "held_out": model.held_out.counts if model.held_out.fitted else None,
        "adapter": None if model.adapter is None else model.adapter.settings(),
        "detector": model.detector.spec(),
    }
    return {f"openset.{key}": json.dumps(value) for key, value in about.items()}


def check(graph: Deployed, session: Any, size: tuple[int, int, int], threshold: Tensor) -> float:
    """The largest relative difference of a score on random images; raises if it is too large.

    A p-value must be the one of the file's own score.
    """
    worst = 0.0
    for seed, count in enumerate(BATCHES):
        image = torch.rand(count, *size, generator=torch.Generator().manual_seed(seed))
        given = {"image": image.numpy(), "threshold": threshold.numpy()}
        its_label, its_score, *its_rare = session.run(graph.outputs, given)
        with torch.no_grad():
            label, score, *_ = graph(image, threshold)
            nearest = graph(image, torch.full_like(threshold, torch.inf))[0]
        rare = [graph.look_up(torch.from_numpy(its_score), nearest).numpy() for _ in its_rare]
        gap = np.abs(its_score - score.numpy()) / np.maximum(np.abs(score.numpy()), 1e-3)
        worst = max(worst, float(gap.max()))
        # On an image whose score is the threshold itself, rounding may decide.
        near = (score[..., None] - threshold).abs().min(-1).values <= TOLERANCE * score.abs()
        alike = bool(((torch.from_numpy(its_label) == label) | near).all())
        if worst > TOLERANCE or not alike or not np.allclose(rare, its_rare, rtol=1e-5):
            raise ValueError(
                f"the exported file scores differently from the model, by {worst:.2g} of a score; "
                "nothing was written; please report the network and the detector"
            )
    return worst


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name} is not installed; for exports: pip install 'openset[export]'"
        ) from error
