"""How well a rehearsal foresees: its order of the detectors beside that on unknown images.

    openset benchmark fusion-networks --tier gpu --out out
    python speed/rehearsal.py out          # or: out WORK, where the benchmark had --cache WORK

For every network of the benchmark, rehearses those of its detectors that `auto` chooses from, on
known images alone, and prints Spearman's correlation of the expected with the real mean AUROC, and
the regret of four choices: the best detector's real mean AUROC minus that of `auto`'s, of always
`fusion`, of always `energy`, and of one chosen on another real unknown set, in the mean over which.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from wins import figures

from openset.networks.device import choose_device
from openset.runs.rehearse import CANDIDATES, rehearse_run
from openset.runs.run import Run


def regrets(names: list[str], expected: np.ndarray, real: np.ndarray) -> list[float]:
    """Of auto, fusion, energy and one chosen on another set, from real AUROC `[names, sets]`."""
    mean = real.mean(1)
    others = [
        np.delete(real, j, 1).mean(1).max() - np.delete(real, j, 1).mean(1)[real[:, j].argmax()]
        for j in range(real.shape[1])
    ]
    fixed = [mean.max() - mean[names.index(name)] for name in ("fusion", "energy")]
    return [mean.max() - mean[expected.argmax()], *fixed, float(np.mean(others))]


def main(folder: str, work: str | None) -> None:
    detectors, pairs, auroc = figures(folder)
    names = [name for name in CANDIDATES if name in detectors]
    device, found = choose_device(), []
    heads = "correlation | auto takes | regret | always fusion | always energy | other set"
    print(f"| network | {heads} |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for place in sorted(Path(work or Path(folder, "work"), "runs").iterdir()):
        run = Run.load(place)
        network = run.recipe.network
        of = [pair[:2] == (network, str(run.recipe.seed)) for pair in pairs]
        real = auroc[[detectors.index(name) for name in names]][:, of]
        loaded = run.load_network().to(device)
        rehearsal = rehearse_run(run, names, run.load_data(), loaded)
        expected = rehearsal.expected
        line = regrets(names, expected, real)
        correlation = spearmanr(expected, real.mean(1))[0]
        found.append([correlation, *line])
        cells = [f"{x:.4f}" for x in line]
        print(f"| {network} | {correlation:.2f} | `{rehearsal.best}` | {' | '.join(cells)} |")
        Path(folder, f"rehearsal-{network}.csv").write_text(rehearsal.csv(), encoding="utf-8")
    correlation, *means = np.mean(found, axis=0)
    print(f"| mean | {correlation:.2f} | | {' | '.join(f'{x:.4f}' for x in means)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("work", nargs="?")
    main(**vars(parser.parse_args()))
