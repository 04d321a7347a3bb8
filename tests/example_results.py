"""Results of two detectors on two unknown sets, made up."""

import torch

from openset.activations import UNKNOWN
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.seen import Images
from openset.scoring.scored import Scored

THRESHOLD = {
    "value": 1.5,
    "accept": 0.95,
    "n": 200,
    "guarantee": "At least 95 % of future known images are accepted, on average.",
    "interval": [0.92, 0.98],
}


def scored(count, shift, unknown=False):
    label = torch.randint(3, (count,))
    score = torch.randn(count) + shift
    return Images(Scored(score, torch.full_like(label, UNKNOWN) if unknown else label, label))


def example(seed=0, detectors=("energy", "msp")):
    results = Results(notes={"data": "digits"})
    for detector in detectors:
        case = Case("demo", seed, "cnn", "cross-entropy", detector, "digits")
        sets = {"letters": scored(40, 1, True), "noise": scored(50, 3, True)}
        paper = {("letters", "auroc"): 0.9}
        known = scored(60, 0)
        results.add(case, known, sets, THRESHOLD, classes=["zero", "one", "<two>"], paper=paper)
    (run,) = results.classes
    for data, indices in results.wanted_images(run).items():
        results.keep_images(run, data, {i: torch.rand(1, 8, 8) for i in indices})
    results.figures["t-SNE, 1/2"] = b"\x89PNG\r\n"
    return results
