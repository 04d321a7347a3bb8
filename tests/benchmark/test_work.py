"""The part of the results that belongs to one detector."""

from openset.benchmark.work import part_of
from openset.evaluation.results import Results
from openset.evaluation.rows import Case


def test_a_part_holds_the_threshold_of_its_detector():
    """And of no other whose name begins alike."""
    cases = [Case("p", 0, "n", "o", name, "k") for name in ("msp", "msp:temperature=10")]
    results = Results()
    for case in cases:
        results.scored[case], results.classes[case.run] = {}, ["a"]
        results.thresholds[case] = {"value": 1.0}
    assert part_of(results, "msp").thresholds == {cases[0]: {"value": 1.0}}
