"""`openset benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from openset.commands.options import Device, Places, Trust
from openset.commands.screen import say, show, show_results


def benchmark(
    protocol: str,
    *,
    out: Path,
    tier: Literal["quick", "cpu", "gpu", "paper"] | None = None,
    quick: bool = False,
    seeds: int | None = None,
    only: Places = [],  # noqa: B006
    network: Places = [],  # noqa: B006
    dry_run: bool = False,
    skip_missing: bool = False,
    max_minutes: float | None = None,
    device: Device = None,
    cache: Path | None = None,
    trust: Trust = None,
) -> None:
    """Reproduce a paper's table: train, evaluate and set our figures beside the published ones.

    Trains and evaluates what is missing; after an interruption the same command goes on. Several of
    the same command at once share the work: each trains what no other is at.

    Args:
        protocol: A name that `openset list protocols` shows, or a TOML file of your own.
        out: Folder for `results.csv` and `report.html`.
        tier: Take settings for minutes on two cores (quick), hours on them (cpu) or minutes of a
            GPU (gpu), where the protocol has them; by default the paper's.
        quick: Short for `--tier quick`.
        seeds: Number of seeds; by default the protocol's.
        only: Detectors to run; all by default.
        network: Networks to run; all by default.
        dry_run: Print the steps and about how long each takes, and run nothing.
        skip_missing: Leave out unknown sets that are not on this machine.
        max_minutes: Stop at a checkpoint after so many minutes; the same command goes on.
        cache: Folder for trained networks and evaluations; `work` in `out` by default.
    """
    from openset.benchmark import protocol as protocols
    from openset.benchmark.plan import Plan
    from openset.benchmark.runner import benchmark as run_benchmark
    from openset.evaluation.stamp import command

    if quick and tier not in (None, "quick"):
        raise ValueError(f"--quick is --tier quick, and --tier {tier} is another; give one of them")
    known = protocols.load(protocol, "quick" if quick else tier or "paper", trust or ())
    if dry_run:
        work = cache or out / "work"
        which = {"seeds": seeds, "only": only, "networks": network}
        show(Plan(known, work, **which, skip_missing=skip_missing, device=device).table())
        return
    results = run_benchmark(
        known,
        out,
        cache=cache,
        seeds=seeds,
        only=only,
        networks=network,
        skip_missing=skip_missing,
        max_minutes=max_minutes,
        command=command(),
        say=say,
        device=device,
    )
    show_results(results.table(), out)
