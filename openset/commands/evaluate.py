"""`openset evaluate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from openset.commands.options import Device, Devices, Network, Places, Trust
from openset.commands.screen import show_results


def evaluate(
    run: Path,
    *,
    unknown: Places = [],  # noqa: B006
    detector: Places = [],  # noqa: B006
    out: Path,
    accept: float | None = None,
    metric: Places = [],  # noqa: B006
    device: Device = None,
    devices: Devices = None,
    trust: Trust = None,
    network: Network = None,
    allow_leak: bool = False,
    explain: bool = False,
) -> None:
    """Measure detectors on the known test images and on unknown ones.

    Args:
        run: Folder that `openset train` or `openset import` wrote.
        unknown: Data sets of unknown images; by default the classes that training left out.
        detector: Detectors to evaluate; one without a model in the run is fitted first. By default
            those that are fitted.
        out: Folder for `results.csv` and `report.html`.
        accept: Share of known images to accept, for detectors that are fitted now; 0.95 by default.
        metric: Metrics that `openset list metrics` names; by default the usual ones, which choose
            nothing on unknown data.
        explain: Show in the report, with each image, the training images that look most like it to
            the network, and which layer made its score; takes a pass over those images.
        allow_leak: Allow unknown data on which a detector was tuned; its figures flatter it.
    """
    from openset.evaluation.results import FILES
    from openset.evaluation.stamp import command
    from openset.files import complete_folder
    from openset.processes import here
    from openset.runs.evaluate import evaluate_run, write_results
    from openset.scale.launch import together

    with together(devices, device) as own:
        # Several processes have the same results, and one of them writes.
        with complete_folder(out, owns=FILES) if here().first else nullcontext() as partial:
            results = evaluate_run(
                run,
                unknown,
                detector,
                accept=accept,
                metrics=metric or None,
                trust=trust or (),
                network=network,
                device=own,
                allow_leak=allow_leak,
                explain=explain,
                command=command(),
            )
            if partial is not None:
                write_results(results, partial)
        show_results(results.table(), out)
