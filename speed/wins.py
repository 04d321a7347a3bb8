"""Every detector beside the best single one on each pair of network and unknown set.

    python speed/wins.py docs/results/fusion-networks

Reads the `results.csv` of one or more benchmarks and prints, as Markdown, each detector's mean
AUROC over all pairs, how far it is behind the best single detector on its worst pair, and on how
many pairs it is first or level with that one (.001). A fusion is no single detector; the best of a
pair is chosen on that pair, which no one could.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

FUSIONS = ("fusion", "mlod", "masf")
LEVEL = 0.001


def figures(*folders: str) -> tuple[list[str], list[tuple], np.ndarray]:
    """Detectors, pairs (network, seed, unknown set) and AUROC `[detectors, pairs]`."""
    files = [Path(folder, "results.csv").read_text(encoding="utf-8") for folder in folders]
    rows = [row for file in files for row in csv.DictReader(file.splitlines())]
    found = {
        (row["detector"], (row["network"], row["seed"], row["unknown"])): float(row["value"])
        for row in rows
        if row["metric"] == "auroc" and row["value"] and not row["unknown"].startswith("mean of ")
    }
    detectors = list(dict.fromkeys(detector for detector, _ in found))
    pairs = list(dict.fromkeys(pair for _, pair in found))
    return detectors, pairs, np.array([[found[d, pair] for pair in pairs] for d in detectors])


def main(folders: list[str]) -> None:
    detectors, pairs, auroc = figures(*folders)
    single = [detector.partition(":")[0] not in FUSIONS for detector in detectors]
    best = auroc[single].max(0)
    behind = auroc - best
    networks = list(dict.fromkeys(network for network, _, _ in pairs))
    print(
        f"| detector | {' | '.join(networks)} | mean | worst pair | wins or ties of {len(pairs)} |"
    )
    print(f"|---|{'---:|' * (len(networks) + 3)}")
    for i in auroc.mean(1).argsort()[::-1]:
        of = [auroc[i, [pair[0] == network for pair in pairs]].mean() for network in networks]
        worst, wins = behind[i].min(), int((behind[i] >= -LEVEL).sum())
        cells = [f"{x:.3f}" for x in (*of, auroc[i].mean())]
        print(f"| `{detectors[i]}` | {' | '.join(cells)} | {worst:+.3f} | {wins} |")
    print("\n| pair | best single | its AUROC | fusion |\n|---|---|---:|---:|")
    ours = detectors.index("fusion")
    names = [detector for detector, alone in zip(detectors, single, strict=True) if alone]
    for j, (network, _, unknown) in enumerate(pairs):
        first = names[int(auroc[single][:, j].argmax())]
        print(f"| {network}, {unknown} | `{first}` | {best[j]:.3f} | {auroc[ours, j]:.3f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="+")
    main(parser.parse_args().folder)
