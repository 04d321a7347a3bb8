"""`openset tune`."""

from __future__ import annotations

from pathlib import Path

from openset.commands.options import Device, Network, Places, Trust
from openset.commands.screen import say, show


def tune(
    run: Path,
    *,
    detector: str,
    unknown: Places = [],  # noqa: B006
    tested_on: Places = [],  # noqa: B006
    allow_leak: bool = False,
    grid: str | None = None,
    limit: int | None = None,
    accept: float = 0.95,
    seed: int = 0,
    device: Device = None,
    trust: Trust = None,
    network: Network = None,
) -> None:
    """Choose a detector's settings, such as ODIN's temperature and ε, on validation data.

    With unknown data the settings with the least FPR95 (known positive) win; without, known images
    alone decide.
    The model is saved under its new settings, and every result of it names what it was tuned on.

    Args:
        run: Folder that `openset train` or `openset import` wrote.
        detector: The detector, such as `odin`.
        unknown: Data sets of unknown images to tune on; without any, held-out known images decide.
        tested_on: Unknown data that results will be reported on; tuning on it is refused.
        allow_leak: Tune on data of `--tested-on` all the same.
        grid: The values to try, such as `temperature=1+100,epsilon=0+0.002`; by default ODIN's.
        limit: Take a random sample of so many images of each set.
        accept: Share of known images to accept.
        seed: Seed of that sample.
    """
    from openset.runs.tune import tune_run

    name, model, tuned = tune_run(
        run,
        detector,
        unknown,
        grid=grid,
        accept=accept,
        tested_on=tested_on,
        allow_leak=allow_leak,
        limit=limit,
        seed=seed,
        trust=trust or (),
        network=network,
        device=device,
    )
    show(tuned.table())
    assert model.threshold is not None
    say(f"{name}, tuned on {' + '.join(tuned.tuned_on)}: {model.threshold.guarantee()}")
    say(f"next: openset evaluate {run} --detector {name} --unknown DATA --out DIR")
