"""Share of new images accepted by the threshold that accepts 95 % of the training images.

    python speed/left_out.py RUN      # of `openset train DATA --objective vmdls`

Training images are judged by the Gaussians that were fitted to them, by those of all the others
(`Detector.training_score`), and, for half of them, by those of the other half.
"""

import argparse

import torch

from openset.detectors import VMDLSb
from openset.detectors.rows import known
from openset.extractors.extract import extract
from openset.runs.run import Run
from openset.scoring.views import tap_for

ACCEPT = 0.95


def scores(judge, batches):
    return torch.cat([judge(known(batch)) for batch in batches])


def main(folder: str) -> None:
    run = Run.load(folder)
    network, data, detector = run.load_network(), run.load_data(), VMDLSb()
    tap = tap_for(network, [detector])
    train, new = extract(tap, data.train), {"held-out": extract(tap, data.valid)}
    new["test"] = extract(tap, data.test)
    detector.fit(train)
    print(f"{len(data.train):,} images, {detector.mean.shape[1]} features")
    for name, judge in (("all", detector.score), ("all others", detector.training_score)):
        cut = scores(judge, train).quantile(ACCEPT)
        shares = {k: (scores(detector.score, v) <= cut).float().mean() for k, v in new.items()}
        print(f"fitted to {name}:", ", ".join(f"{k} {v:.1%}" for k, v in shares.items()))
    one, other = [b[::2] for b in train], [b[1::2] for b in train]
    half = VMDLSb().fit(one)
    cut = scores(half.score, one).quantile(ACCEPT)
    shares = {k: (scores(half.score, v) <= cut).float().mean() for k, v in new.items()}
    shares = {"the other half": (scores(half.score, other) <= cut).float().mean(), **shares}
    print("fitted to half:", ", ".join(f"{k} {v:.1%}" for k, v in shares.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    main(parser.parse_args().run)
