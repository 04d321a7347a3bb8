"""Tables over seeds and sets: what they average, mark and show."""

import io
import math
import re
from dataclasses import replace

import pytest
from example_results import example
from rich.console import Console

from openset.commands.screen import show
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import Results
from openset.evaluation.rows import COLUMNS, Row
from openset.evaluation.summary import Summary, mean_over_seeds


def rows(**values):
    """One row per detector and seed, of AUROC and FPR95 on one unknown set."""
    return [
        Row(seed=seed, detector=detector, known="k", unknown="u", metric=metric, value=value)
        for detector, per_metric in values.items()
        for metric, per_seed in per_metric.items()
        for seed, value in enumerate(per_seed)
    ]


def test_mean_and_deviation_over_seeds():
    (cell,) = mean_over_seeds(rows(energy={"auroc": [0.8, 0.9, 1.0]})).values()
    assert cell.mean == pytest.approx(0.9)
    assert cell.deviation == pytest.approx(0.1)
    assert cell.seeds == 3
    assert str(cell) == "0.900 ± 0.100"
    (single,) = mean_over_seeds(rows(energy={"auroc": [0.8]})).values()
    assert (single.deviation, str(single)) == (None, "0.800")


def test_a_figure_only_from_the_paper_shows_a_dash():
    row = Row(detector="csi", known="k", unknown="u", metric="auroc", paper=0.98)
    (cell,) = mean_over_seeds([row]).values()
    assert (str(cell), cell.paper) == ("–", 0.98)


def test_best_is_highest_or_lowest_by_the_metric_and_ties_share_it():
    table = rows(
        a={"auroc": [0.9], "fpr_at_95_tpr": [0.3]},
        b={"auroc": [0.95001], "fpr_at_95_tpr": [0.2]},
        c={"auroc": [0.95002], "fpr_at_95_tpr": [0.4]},
        d={"auroc": [math.nan]},
    )
    summary = Summary(table, ["auroc", "fpr_at_95_tpr"])
    best = {(line.detector, column.metric) for line, column in summary.best}
    assert best == {("b", "auroc"), ("c", "auroc"), ("b", "fpr_at_95_tpr")}


def test_a_single_detector_is_not_called_best():
    assert not Summary(rows(a={"auroc": [0.9]}), ["auroc"]).best


def test_the_summary_orders_columns_and_averages_unknown_sets():
    results = Results.merge([example(0), example(1)])
    summary = results.summary()
    groups = list(dict.fromkeys(summary.group(column) for column in summary.columns))
    assert groups == ["known", "letters", "noise", "mean over unknown"]
    assert [c.metric for c in summary.columns[1:4]] == ["auroc", "fpr_at_95_tpr", "macro_f1"]
    line = summary.lines[0]
    letters, noise, mean = (summary.cells[line, c] for c in summary.columns if c.metric == "auroc")
    assert mean.mean == pytest.approx((letters.mean + noise.mean) / 2)


def test_labels_name_only_what_differs():
    one, other = example(), example()
    assert [one.summary().label(line) for line in one.summary().lines] == ["energy", "msp"]
    other.rows = [replace(row, network="vgg", known="cifar") for row in other.rows]
    summary = Summary(one.rows + other.rows, ["auroc"])
    assert summary.label(summary.lines[0]) == "energy · cnn"
    assert summary.group(summary.columns[0]) == "digits → letters"


def printed(table, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return console.export_text()


def test_the_table_on_screen_fits_80_columns():
    text = printed(example().table())
    assert "letters" in text
    assert "mean over unknown" in text
    assert "(paper 0.9)" in text
    assert "…" not in text


def test_a_wide_table_gives_way_in_its_labels_not_in_its_figures():
    results = example()
    results.rows = [replace(row, detector="long " * 20 + row.detector) for row in results.rows]
    text, wide = printed(results.table()), printed(results.table(), width=400)
    figures = re.findall(r"\d\.\d{3}", wide)
    assert figures
    assert re.findall(r"\d\.\d{3}", text) == figures
    assert "…" not in text


def test_a_table_in_a_pipe_is_whole_unless_a_width_is_set(capsys, monkeypatch):
    results = example()
    results.rows = [replace(row, detector="long" * 30) for row in results.rows]
    monkeypatch.delenv("COLUMNS", raising=False)
    show(results.table())
    assert "long" * 30 in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "70")
    show(results.table())
    assert max(map(len, capsys.readouterr().out.splitlines())) == 70


def test_a_narrow_summary_sets_the_sets_side_by_side():
    text = printed(example().table(["auroc"]))
    assert "letters" in text.splitlines()[1]
    assert "AUROC ↑" in text.splitlines()[2]


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="unknown metric 'aurok'"):
        example().table(["aurok"])


def test_results_are_shown_in_five_lines_and_are_a_frame():
    results = Results()
    rows = [
        Row(detector=f"d{i}", unknown=f"set {i}", metric="auroc", value=i / 9) for i in range(9)
    ]
    results.rows += rows
    assert len(repr(results).splitlines()) <= 5
    assert "9 figures" in repr(results)
    frame = results.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["value"].tolist() == [row.value for row in rows]
    assert len(Results().to_pandas()) == 0


def test_every_false_positive_rate_says_what_is_positive():
    for metric in METRICS.values():
        if "FPR95" in metric.title or "TNR95" in metric.title:
            assert "known positive" in metric.title
