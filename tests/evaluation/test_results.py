"""Results survive saving, loading and merging unchanged."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from example_results import example, scored

from openset.evaluation.gallery import interesting, thumbnail
from openset.evaluation.maps import Maps
from openset.evaluation.metrics import METRICS
from openset.evaluation.results import Results
from openset.evaluation.rows import COLUMNS, Case, Row, read_csv
from openset.evaluation.seen import Images
from openset.files import read_json, sealed_json
from openset.reporting.markdown import results_page
from openset.scoring.held_out import HeldOut
from openset.scoring.scored import Scored

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def same(one, other):
    assert repr(one.rows) == repr(other.rows)
    assert list(one.scored) == list(other.scored)
    for case, sets in one.scored.items():
        for data, expected in sets.items():
            for name, x in expected.tensors().items():
                found = getattr(other.scored[case][data], name)
                assert torch.equal(found, x)
                assert found.dtype == x.dtype
    for run, sets in one.images.items():
        for data, images in sets.items():
            assert images.keys() == other.images[run][data].keys()
            assert all(torch.equal(x, other.images[run][data][i]) for i, x in images.items())
    for case, expected in one.held_out.items():
        found = other.held_out[case].state_dict()
        assert all(torch.equal(found[name], x) for name, x in expected.state_dict().items())
    for case, sets in one.maps.items():
        for data, maps in sets.items():
            for each, again in zip(maps, other.maps[case][data], strict=True):
                assert all(torch.equal(getattr(again, name), x) for name, x in vars(each).items())
    facts = ("figures", "notes", "shown", "shown_known", "seconds")
    for name in ("thresholds", "classes", "details", *facts):
        assert getattr(one, name) == getattr(other, name)


def test_saving_and_loading_changes_nothing(tmp_path):
    results = example()
    case = next(iter(results.scored))
    image, label = torch.rand(3, 4, 400), torch.arange(4)[:, None].expand(4, 400)
    maps = Maps.small(image, Scored(torch.rand(4, 400), label, label))
    assert maps.image.shape == (3, 2, 192)
    results.maps[case] = {"noise": [maps, maps]}
    results.held_out[case] = HeldOut().fit([torch.rand(50)])
    results.keep_images(case, "noise", {3: image}, {3: {"path": "a.png", "near": [[7, 0.5]]}})
    results.shown, results.shown_known, results.seconds = ["auroc"], "digits", 1.5
    results.rows.append(Row(known="digits", metric="auroc", value=math.nan, paper=0.1 + 0.2))
    results.rows.append(Row(known='a "b", c\nd', metric="auroc", value=-math.inf))
    results.save(tmp_path / "out")
    same(results, Results.load(tmp_path / "out"))
    results.save(tmp_path / "out")  # over its own earlier results
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.csv",
        "results.json",
        "scores.safetensors",
        "figure-1.png",
    }


def test_labels_that_detectors_share_are_saved_once(tmp_path):
    label, score = torch.zeros(1000).long(), torch.rand(1000, 4)
    results = Results()
    for i in range(4):
        sample = Images(Scored(score[:, i], label.clone(), label))
        results.add(Case(detector=str(i), known="k"), sample, {"u": sample})
    results.save(tmp_path / "out")
    same(results, Results.load(tmp_path / "out"))
    assert (tmp_path / "out" / "scores.safetensors").stat().st_size < 4 * 4000 + 8000 + 2000


def test_results_of_before_their_facts_had_fields_load(tmp_path):
    example().save(tmp_path / "out")
    path = tmp_path / "out" / "results.json"
    record = read_json(path)
    for fact in ("shown", "shown_known", "seconds"):
        del record[fact]
    for case in record["cases"]:
        del case["maps"], case["held_out"]
    for run in record["runs"]:
        del run["details"]
    notes = {"data": "digits", "Shown": "oscr auroc", "Shown known": "digits", "seconds": "2.5"}
    path.write_text(json.dumps({**record, "notes": notes}))
    for found in (Results.load(tmp_path / "out"), Results.load_table(tmp_path / "out")):
        assert (found.shown, found.shown_known) == (["oscr", "auroc"], "digits")
        assert (found.seconds, found.notes) == (2.5, {"data": "digits"})
    (tmp_path / "out" / "scores.safetensors").unlink()
    assert len(Results.load_table(tmp_path / "out").rows) == len(example().rows)


def test_all_results_in_the_documentation_load():
    folders = [path.parent for path in RESULTS.rglob("results.json")]
    assert len(folders) >= 10
    for folder in folders:
        found = Results.load_table(folder)
        assert found.rows
        assert set(found.shown) <= set(METRICS)
        named = json.loads((folder / "results.json").read_text(encoding="utf-8"))["figures"]
        assert named.keys() == {path.name for path in folder.glob("figure-*.png")}
    assert results_page(RESULTS) == RESULTS.with_suffix(".md").read_text(encoding="utf-8")


def test_tables_show_the_metrics_that_were_asked_for():
    results = example()
    results.shown = ["oscr"]
    assert {column.metric for column in results.summary().columns} == {"oscr"}
    results.shown_known = "other data"
    assert not results.summary().columns


def test_the_csv_has_the_agreed_columns(tmp_path):
    results = example()
    results.save(tmp_path / "out")
    lines = list(csv.reader((tmp_path / "out" / "results.csv").read_text().splitlines()))
    expected = "protocol seed network objective detector known unknown metric value paper"
    assert lines[0] == expected.split() == list(COLUMNS[:-1])
    row = results.rows[1]
    assert " ".join(lines[2][:8]) == "demo 0 cnn cross-entropy energy digits letters auroc"
    assert float(lines[2][8]) == row.value
    assert lines[2][9] == "0.9"
    assert lines[3][9] == ""
    results.rows[1] = replace(row, tuned_on="other letters")
    results.save(tmp_path / "tuned")
    tuned = read_csv(tmp_path / "tuned" / "results.csv")
    assert [each.tuned_on for each in tuned[:2]] == ["", "other letters"]


def test_accuracy_is_one_row_and_the_others_one_per_unknown_set():
    results = example(detectors=["energy"])
    assert [row.unknown for row in results.rows if row.metric == "accuracy"] == [""]
    assert [row.unknown for row in results.rows if row.metric == "oscr"] == ["letters", "noise"]


@pytest.mark.parametrize("name", ["results.csv", "results.json", "scores.safetensors"])
def test_a_missing_or_truncated_file_is_named(tmp_path, name):
    example().save(tmp_path / "out")
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="out"):
        Results.load(tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Results.load(tmp_path / "out")


def test_results_json_without_an_entry_is_damaged(tmp_path):
    example().save(tmp_path / "out")
    path = tmp_path / "out" / "results.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "cases": [{"case": {}}]}))
    with pytest.raises(ValueError, match="is damaged"):
        Results.load(tmp_path / "out")


def test_results_json_of_another_shape_is_damaged(tmp_path):
    example().save(tmp_path)
    (tmp_path / "results.json").write_text('{"notes": [], "runs": {}, "cases": 1, "figures": []}')
    with pytest.raises(ValueError, match="is damaged"):
        Results.load(tmp_path)


def test_a_figure_is_never_read_from_elsewhere(tmp_path):
    example().save(tmp_path / "out")
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "out" / "results.json"
    record = read_json(path)
    path.write_text(sealed_json({**record, "figures": {"../secret": "t"}}))
    with pytest.raises(ValueError, match="secret is missing"):
        Results.load(tmp_path / "out")


def test_a_folder_with_anything_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"already holds thesis\.tex"):
        example().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_merging_joins_runs_and_counts_a_repeated_figure_once():
    first, second = example(seed=0), example(seed=1)
    merged = Results.merge([first, second, first])
    assert merged.rows == first.rows + second.rows
    assert set(merged.scored) == {*first.scored, *second.scored}
    assert set(merged.images) == {*first.images, *second.images}
    changed = Results([replace(first.rows[0], value=-1.0)])
    with pytest.raises(ValueError, match="two values for one figure"):
        Results.merge([first, changed])


def test_the_worst_examples_are_the_lowest_unknown_and_the_highest_known():
    results = Results()
    label = torch.zeros(4).long()
    case = Case(detector="energy", known="digits")
    known = Scored(torch.tensor([0.0, 9.0, 1.0, 5.0]), label, label)
    unknown = Scored(torch.tensor([3.0, -2.0, 7.0, 0.0]), label - 1, label)
    results.add(case, Images(known), {"noise": Images(unknown)})
    assert results.examples(case, "digits", 2) == [1, 3]
    assert results.examples(case, "noise", 2) == [1, 3]
    assert results.wanted_images(case) == {"digits": [0, 1, 2, 3], "noise": [0, 1, 2, 3]}


def test_the_images_of_a_set_are_mistakes_doubtful_ones_and_chance_in_turn():
    label = torch.zeros(100).long()
    one = Scored(torch.arange(100.0), label, label)
    other = Scored(-one.score, label, label)
    assert interesting([(one, 50.2)], 2, known=True) == [50, 99]
    assert interesting([(one, 50.2)], 2, known=False) == [0, 50]
    found = interesting([(one, 50.2), (other, None)], 5, known=False)
    assert {0, 99, 50} < set(found)
    assert len(found) == 5
    assert interesting([(one, None)], 1000, known=False) == list(range(100))


def test_the_known_set_cannot_be_an_unknown_set_too():
    with pytest.raises(ValueError, match="is the known data"):
        Results().add(Case(known="a"), scored(9, 0), {"a": scored(9, 1, True)})


def test_known_data_must_carry_known_and_named_labels():
    case, unknown = Case(known="a"), {"u": scored(9, 1, True)}
    with pytest.raises(ValueError, match="9 of 9 images of the known data 'a' carry no known"):
        Results().add(case, scored(9, 0, True), unknown)
    with pytest.raises(ValueError, match="class 2 has no name: 2 classes were named"):
        Results().add(case, scored(99, 0), unknown, classes=["zero", "one"])


def test_a_csv_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="the first line must be protocol,seed"):
        read_csv(path)
    path.write_text(",".join(COLUMNS[:-1]) + "\n,0,,,msp,k,u,auroc,0.5,\n")
    assert read_csv(path)[0].tuned_on == ""
    path.write_text(",".join(COLUMNS) + "\n,zero,,,,,,,1,,\n")
    with pytest.raises(ValueError, match="line 2: seed, value and paper must be numbers"):
        read_csv(path)


def test_thumbnails_are_small_and_exact_where_they_can_be():
    image = torch.tensor([[[0.0, 1.0], [0.5, 2.0]]])
    assert thumbnail(image).tolist() == [[[0, 255], [128, 255]]]
    large = thumbnail(torch.full((3, 300, 150), 0.2))
    assert large.shape == (3, 128, 64)
    assert large.unique().tolist() == [51]
