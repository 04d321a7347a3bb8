"""`openset export`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Network, Trust
from openset.commands.screen import say


def export(
    run: Path,
    *,
    detector: str | None = None,
    out: Path,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Write network, detector and threshold as one ONNX file, checked against the model.

    Args:
        run: A run, or a model's folder or file.
        detector: The detector of a run whose model to export.
        out: The file to write (.onnx).
    """
    from openset.model.export import export as to_onnx
    from openset.runs.run import load_model

    if out.suffix != ".onnx":
        raise ValueError(f"cannot write {out.name}; end the name in .onnx")
    gap = to_onnx(load_model(run, detector, trust or (), network), out)
    say(f"scores differ from the model's by at most {gap:.1g} of a score: {out}")
