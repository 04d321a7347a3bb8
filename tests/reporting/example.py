"""Results whose names are hostile, for the tests of the page."""

import torch

from openset.activations import UNKNOWN
from openset.evaluation.gallery import TRAINING
from openset.evaluation.results import Results
from openset.evaluation.rows import Case
from openset.evaluation.seen import Images
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored

EVIL = "</script><script>document.title='hacked'</script>&\"'<!--"


def scored(count, shift, classes, unknown=False, dtype=torch.float32):
    predicted = torch.randint(classes, (count,))
    label = torch.where(torch.rand(count) < 0.9, predicted, torch.randint(classes, (count,)))
    score = torch.randn(count, dtype=dtype).mul(100).round().div(100) + shift  # with ties
    return Images(Scored(score, torch.full_like(label, UNKNOWN) if unknown else label, predicted))


def example(
    classes=3, seeds=1, detectors=("energy", "gemos:components=4"), size=8, count=90, images=True
):
    """The second detector has a threshold per class and scores in double precision."""
    torch.manual_seed(0)
    results = Results(notes={"data": EVIL})
    for seed in range(seeds):
        for number, detector in enumerate(detectors):
            case = Case("demo", seed, "cnn", "cross-entropy", detector, "digits")
            dtype = torch.float64 if number % 2 else torch.float32
            sets = {
                "letters": scored(count, 1, classes, True, dtype),
                EVIL: scored(count, 500, classes, True, dtype),
            }
            groups = [torch.randn(400, dtype=dtype) for _ in range(classes if number % 2 else 1)]
            held_out = HeldOut().fit(groups)
            threshold = held_out.threshold(0.95)
            known = scored(count, 0, classes, dtype=dtype)
            if results.scored and number:  # One set, so one truth for all detectors.
                known.parts[0].label = next(reversed(results.scored.values()))["digits"].label
            results.add(
                case, known, sets, threshold.record(), held_out=held_out,
                classes=[EVIL, *(f"class {c}" for c in range(1, classes))],
                paper={("letters", "auroc"): 0.77},
            )  # fmt: skip
    for run in list(results.classes) if images else []:
        for data, indices in results.wanted_images(run).items():
            told = {i: {"path": f"{EVIL}/{data}/{i}.png", "near": [(7, 0.25)]} for i in indices}
            for i in indices:
                told[i]["runner_up"] = dict.fromkeys(detectors, i % classes)
                told[i]["parts"] = {detectors[0]: [(EVIL, 0.125)]}
            results.keep_images(run, data, {i: torch.rand(3, size, size) for i in indices}, told)
        results.keep_images(run, TRAINING, {7: torch.rand(3, 8, 8)}, {7: {"label": EVIL}})
    return results
