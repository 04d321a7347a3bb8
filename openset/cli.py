"""The commands; each is a plain function, and its docstring is its help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table

from openset.table import show
from openset.train import Settings

app = App(
    name="openset",
    help="Teach a trained network to say: I don't know.",
    help_format="markdown",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
screen = Console(stderr=True)

Training = Annotated[Settings, Parameter(name="*", group="Training")]
Trust = Annotated[
    list[str] | None,
    Parameter(negative="", help="Packages that may be imported to build the network."),
]
Device = Annotated[str | None, Parameter(help="`cpu`, `cuda:1`, …; by default an accelerator.")]
Places = Annotated[list[str], Parameter(negative="", consume_multiple=True)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; bad input ends in one sentence and exit code 2."""
    from openset.errors import one_line
    from openset.train import Paused

    try:
        app(arguments, exit_on_error=False, print_error=False)
    except Paused as pause:
        _say(str(pause))
        sys.exit(0)
    except KeyboardInterrupt:
        screen.print("[bold]stopped[/]; nothing half-written is left behind")
        sys.exit(130)
    except (ValueError, ArithmeticError, OSError, CycloptsError) as error:
        screen.print(f"[bold red]error:[/] {one_line(error)}", highlight=False, soft_wrap=True)
        sys.exit(2)


app.command(
    "openset.demo:demo",
    help="Do the whole job on embedded digits: six classes are known, the other four unknown.",
)


@app.command
def train(
    data: str,
    *,
    out: Path,
    network: str = "cnn",
    objective: str = "cross-entropy",
    known_classes: str | None = None,
    unknown_classes: str | None = None,
    size: int | None = None,
    channels: int | None = None,
    valid: float = 0.1,
    weights: Path | None = None,
    resume: bool = False,
    max_minutes: float | None = None,
    device: Device = None,
    settings: Training = Settings(),  # noqa: B008
) -> None:
    """Train a network on the known classes of a data set.

    Args:
        data: `digits`, a hub id such as `ylecun/mnist`, or a folder of images.
        out: Folder for the run; an unfinished run waits beside it for `--resume`.
        network: Name of the network; see `openset list networks`.
        objective: Name of the training method; see `openset list objectives`.
        known_classes: Classes to know, such as `0-5` or `cat,dog`; the others stay unknown.
        unknown_classes: Instead: classes to leave out, such as `Pedestrian,Bicyclist`.
        size: Height and width of every image; as stored by default.
        channels: 1 or 3; as stored by default.
        valid: Share of the training images held out for the threshold.
        weights: Weights to start from (safetensors or a state dict); `--epochs 0` keeps them.
        resume: Go on where an interrupted run stopped.
        max_minutes: Stop at a checkpoint after so long; `--resume` goes on.
        settings: How to train.
    """
    from openset.job import train_run

    if unknown_classes is not None:
        if known_classes is not None:
            raise ValueError("give --known-classes or --unknown-classes, not both")
        known_classes = f"not {unknown_classes}"
    run = train_run(
        data,
        out,
        network=network,
        objective=objective,
        known_classes=known_classes,
        size=size,
        channels=channels,
        valid=valid,
        weights=weights,
        resume=resume,
        max_minutes=max_minutes,
        settings=settings,
        device=device,
    )
    shares = [f"accuracy: {split} {share:.2%}" for split, share in run.accuracy.items()]
    _say("; ".join([*shares, f"run: {out}"]))


@app.command
def fit(
    run: Path,
    *,
    detector: Places,
    accept: float = 0.95,
    per_class: bool = False,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Fit detectors to a trained network and set their thresholds from known data alone.

    Args:
        run: Folder that `openset train` wrote.
        detector: Detectors with settings, such as `energy` or `gemos:components=4`.
        accept: Share of known images to accept.
        per_class: Set one threshold for each predicted class.
    """
    from openset.device import choose_device
    from openset.run import Run

    known = Run.load(run)
    network = known.load_network(trust or ()).to(choose_device(device))
    models = known.fit(detector, known.load_data(), network, accept=accept, per_class=per_class)
    for name, model in models.items():
        assert model.threshold is not None
        _say(f"{name}: {model.threshold.guarantee()}")
        _say(f"model: {known.model_folder(name)}")


@app.command
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
) -> None:
    """Choose a detector's settings, such as ODIN's temperature and ε, on validation data.

    With unknown data the settings with the least FPR95 win; without, known images alone decide.
    The model is saved under its new settings, and every result of it names what it was tuned on.

    Args:
        run: Folder that `openset train` wrote.
        detector: The detector, such as `odin`.
        unknown: Data sets of unknown images to tune on; none uses held-out known images alone.
        tested_on: Unknown data that results will be reported on; tuning on it is refused.
        allow_leak: Tune on data of `--tested-on` all the same.
        grid: The values to try, such as `temperature=1+100,epsilon=0+0.002`; by default ODIN's.
        limit: Take a random sample of so many images of each set.
        accept: Share of known images to accept.
        seed: Of that sample.
    """
    from openset.job import tune_run

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
        device=device,
    )
    show(tuned.table())
    assert model.threshold is not None
    _say(f"{name}, tuned on {' + '.join(tuned.tuned_on)}: {model.threshold.guarantee()}")
    _say(f"next: openset evaluate {run} --detector {name} --unknown DATA --out DIR")


@app.command
def predict(
    model: Path,
    images: Annotated[list[str], Parameter(negative="")],
    *,
    detector: str | None = None,
    out: Path | None = None,
    skip_bad: bool = False,
    probabilities: bool = False,
    device: Device = None,
    trust: Trust = None,
) -> None:
    """Label image files, or call them unknown.

    A model that labels pixels writes a label map, a score map and an overlay of each image.

    Args:
        model: A model's folder or file, or a run with `--detector`.
        images: Files, folders and globs.
        detector: Which model of a run.
        out: File to write (.csv, .jsonl or .parquet); by default CSV goes to the screen. For a
            model that labels pixels, the folder for its maps.
        skip_bad: Leave out files that are no images, and count them.
        probabilities: Add each known class's probability.
    """
    from openset.device import choose_device
    from openset.predict import predict_files
    from openset.run import load_model

    loaded = load_model(model, detector, trust or ())
    loaded.tap.to(choose_device(device))
    for line in predict_files(loaded, images, out, skip_bad=skip_bad, probabilities=probabilities):
        _say(line)


@app.command
def export(run: Path, *, detector: str | None = None, out: Path, trust: Trust = None) -> None:
    """Write network, detector and threshold as one ONNX file, checked against the model.

    Args:
        run: A run, or a model's folder or file.
        detector: Which model of a run.
        out: The file to write (.onnx).
    """
    from openset.export import export as to_onnx
    from openset.run import load_model

    if out.suffix != ".onnx":
        raise ValueError(f"cannot write {out.name}; end the name in .onnx")
    gap = to_onnx(load_model(run, detector, trust or ()), out)
    _say(f"scores differ from the model's by at most {gap:.1g} of a score: {out}")


@app.command
def evaluate(
    run: Path,
    *,
    unknown: Places = [],  # noqa: B006
    detector: Places = [],  # noqa: B006
    out: Path,
    accept: float | None = None,
    metric: Places = [],  # noqa: B006
    device: Device = None,
    trust: Trust = None,
    allow_leak: bool = False,
) -> None:
    """Measure detectors on the known test images and on unknown ones.

    Args:
        run: Folder that `openset train` wrote.
        unknown: Data sets of unknown images; by default the classes that were left out.
        detector: Detectors; one without a model in the run is fitted first. By default those that
            are fitted.
        out: Folder for `results.csv` and `report.html`.
        accept: Share of known images to accept, for detectors that are fitted now; 0.95 by default.
        metric: What to measure; by default everything that needs no unknown data to set up.
        allow_leak: Test a detector on the very unknown data that it was tuned on.
    """
    from openset.folders import complete_folder
    from openset.job import evaluate_run, write_results
    from openset.results import FILES
    from openset.stamp import command

    with complete_folder(out, owns=FILES) as partial:
        results = evaluate_run(
            run,
            unknown,
            detector,
            accept=accept,
            metrics=metric or None,
            trust=trust or (),
            device=device,
            allow_leak=allow_leak,
            command=command(),
        )
        write_results(results, partial)
    _show(results.table(), out)


@app.command
def benchmark(
    protocol: str,
    *,
    out: Path,
    quick: bool = False,
    seeds: int | None = None,
    only: Places = [],  # noqa: B006
    dry_run: bool = False,
    skip_missing: bool = False,
    max_minutes: float | None = None,
    device: Device = None,
    cache: Path | None = None,
) -> None:
    """Run a protocol: the paper's table with ours beside it.

    Trains and evaluates what is missing; after an interruption the same command goes on.

    Args:
        protocol: A name of `openset list protocols`, or a TOML file of your own.
        out: Folder for `results.csv` and `report.html`, and for the work.
        quick: Run the tier for two cores instead of the paper's settings.
        seeds: How many seeds; by default as many as the protocol says.
        only: Detectors to run; all by default.
        dry_run: Say what would run and about how long it takes, and run nothing.
        skip_missing: Leave out unknown sets that are not on this machine.
        max_minutes: Stop at a checkpoint after so long; the same command goes on.
        cache: Folder for trained networks and evaluations; `work` in `out` by default.
    """
    from openset import benchmark as job
    from openset import protocol as protocols
    from openset.paper_table import paper_table
    from openset.stamp import command

    tier = protocols.load(protocol, "quick" if quick else "paper")
    if dry_run:
        show(job.Benchmark(tier, cache or out / "work", seeds, only, skip_missing, device).plan())
        return
    results = job.benchmark(
        tier,
        out,
        cache=cache,
        seeds=seeds,
        only=only,
        skip_missing=skip_missing,
        max_minutes=max_minutes,
        command=command(),
        say=_say,
        device=device,
    )
    _show(paper_table(results), out)


@app.command
def build_set(name: str, sources: Places, *, out: Path) -> None:
    """Make a segmentation set from your own copies of what may not be passed on.

    Args:
        name: `cityscapes`, `fishyscapes-lost-and-found`, `streethazards`, `vistas-np`, `wd-pascal`.
        sources: The folders that the publishers' archives hold.
        out: The new folder, such as `$OPENSET_DATA/cityscapes`.
    """
    from openset.data.builders import build_set as build

    counts = build(name, sources, out)
    _say(f"{', '.join(f'{split} {count:,}' for split, count in counts.items())} images: {out}")


@app.command
def report(folder: Path) -> None:
    """Write `report.html` again from the results in a folder.

    Args:
        folder: Folder that `openset evaluate` or `openset benchmark` wrote.
    """
    from openset.report import report as write_report
    from openset.results import Results

    write_report(Results.load(folder), folder / "report.html")
    _say(f"report: {folder / 'report.html'}")


@app.command(name="list")
def list_names(what: str) -> None:
    """List what there is: detectors, densities, objectives, networks, metrics, protocols or data.

    Args:
        what: One of those words.
    """
    from openset.listing import listing

    show(listing(what))


def _show(table: Table, out: Path) -> None:
    show(table)
    _say(f"results: {out / 'results.csv'}, report: {out / 'report.html'}")


def _say(text: str) -> None:
    screen.print(text, highlight=False, soft_wrap=True, markup=False)
