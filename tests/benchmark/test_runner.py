"""The runner: keys, reuse, resuming after kill -9, pauses, missing sets, and the paper's table."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_protocol import TINY

from openset.benchmark import protocol, runner
from openset.benchmark.plan import Plan
from openset.benchmark.protocol import Method, Protocol
from openset.commands.app import main
from openset.errors import Paused
from openset.evaluation.results import Results
from openset.evaluation.rows import Row, read_csv
from openset.files import SEAL
from openset.reporting.markdown import results_page
from openset.training.settings import Settings


def run(path, out, tier="quick", **options) -> tuple[Results, list[str]]:
    said: list[str] = []
    results = runner.benchmark(protocol.load(str(path), tier), out, say=said.append, **options)
    return results, said


def test_a_second_run_does_nothing_and_gives_the_same_table(tiny, tmp_path):
    results, said = run(tiny, tmp_path / "out")
    assert sum("training" in line for line in said) == 2
    assert (tmp_path / "out" / "report.html").exists()
    before = (tmp_path / "out" / "results.csv").read_bytes()
    again, said = run(tiny, tmp_path / "out")
    assert said == []
    assert (tmp_path / "out" / "results.csv").read_bytes() == before
    assert repr(again.rows) == repr(results.rows)


def test_published_figures_stand_beside_ours(tiny, tmp_path):
    results, _ = run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    assert {row.detector for row in results.rows} == {"msp", "CROSR"}
    found = {(r.detector, r.unknown, r.metric): r for r in results.rows}
    ours = found["msp", "left-out", "auroc"]
    assert (ours.paper, 0 < ours.value <= 1) == (0.9, True)
    far = [found["msp", name, "auroc"].value for name in found_sets(results)[1:]]
    mean = found["msp", "mean of far", "auroc"]
    assert mean.value == pytest.approx(sum(far) / 2)
    assert mean.paper == 0.95
    other = found["CROSR", "left-out", "auroc"]
    assert other.value != other.value
    assert other.paper == 0.8
    page = results_page(tmp_path)
    assert "(paper 0.9)" in page
    assert "- Tier: quick" in page


def found_sets(results: Results) -> list[str]:
    return ["left-out", "gaussian-noise,limit=50", "uniform-noise,limit=50"]


def test_means_over_splits_carry_the_papers_figure(tiny, tmp_path):
    results, _ = run(tiny, tmp_path / "out", "paper", seeds=1, only=["msp"])
    rows = [r for r in results.rows if (r.unknown, r.metric, r.detector) == SHOWN]
    by_known = {row.known: row for row in rows}
    splits = [by_known[f"digits split {i}"] for i in (1, 2)]
    mean = by_known["digits, mean of 2 splits"]
    assert mean.value == pytest.approx(sum(row.value for row in splits) / 2)
    assert (mean.paper, splits[0].paper) == (0.9, None)


SHOWN = ("left-out", "auroc", "msp")


def test_only_runs_what_is_asked_for_and_the_rest_later(tiny, tmp_path):
    run(tiny, tmp_path / "out", seeds=1, only=["gemos"])
    with pytest.raises(Paused):
        run(tiny, tmp_path / "out", seeds=1, max_minutes=0)
    there = Results.load(tmp_path / "out").rows
    assert {row.detector for row in there if row.value == row.value} == {"gemos:components=1"}
    rest, said = run(tiny, tmp_path / "out", seeds=1)
    assert not any("training" in line for line in said)
    assert not any("gemos" in line for line in said)
    whole, _ = run(tiny, tmp_path / "whole", seeds=1)
    assert repr(rest.rows) == repr(whole.rows)
    with pytest.raises(ValueError, match="gemos"):
        run(tiny, tmp_path / "out", only=["gemso"])


def test_changed_weights_are_evaluated_again(tiny, tmp_path):
    run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    (file,) = tmp_path.glob("out/work/runs/*/network.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"network.safetensors: it is damaged, or was changed"):
        run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    save_file({name: x * 1 for name, x in load_file(file).items()}, file)  # Without a seal.
    _, said = run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    assert len(said) == 1
    assert "evaluating msp" in said[0]


def test_a_run_of_another_description_is_refused(tiny, tmp_path):
    run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    (file,) = tmp_path.glob("out/work/runs/*/run.json")
    text = file.read_text().replace('"lr": 0.1', '"lr": 0.5')
    file.write_text(text)
    with pytest.raises(ValueError, match=r"run.json is damaged: it was changed"):
        run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    file.write_text(json.dumps({k: x for k, x in json.loads(text).items() if k != SEAL}))
    with pytest.raises(ValueError, match="another training"):
        run(tiny, tmp_path / "out", seeds=1, only=["msp"])


def test_a_run_of_openset_train_is_accepted(tiny, tmp_path):
    known = protocol.load(str(tiny), "quick")
    (step,) = Plan(known, tmp_path / "out" / "work", seeds=1, only=["msp"]).steps
    arguments = "--network cnn:widths=4+8,hidden=16 --known-classes 0,1,2,3,4,5 --valid 0.2"
    settings = "--epochs 8 --batch-size 64 --lr 0.1 --seed 0"
    main(["train", "digits", "--out", str(tmp_path / "r"), *f"{arguments} {settings}".split()])
    step.folder.parent.mkdir(parents=True)
    (tmp_path / "r").rename(step.folder)
    _, said = run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    assert not any("training" in line for line in said)


def test_missing_unknown_sets_are_named_or_left_out(tiny, tmp_path):
    tiny.write_text(TINY.replace('["left-out"]', '["left-out", "nowhere/at-all"]'))
    with pytest.raises(ValueError, match=r"nowhere/at-all.*OPENSET_DATA.*--skip-missing"):
        run(tiny, tmp_path / "out", seeds=1)
    results, _ = run(tiny, tmp_path / "out", seeds=1, only=["msp"], skip_missing=True)
    assert "nowhere/at-all" in results.notes["Left out"]


def test_a_pause_goes_on_to_the_same_results(tiny, tmp_path):
    with pytest.raises(Paused, match="same command") as pause:
        run(tiny, tmp_path / "out", seeds=1, max_minutes=1e-6)
    assert pause.value.again == "run the same command again to go on exactly there"
    assert str(pause.value) == f"{pause.value.progress}; {pause.value.again}"
    assert not any(row.value == row.value for row in Results.load(tmp_path / "out").rows)
    paused, _ = run(tiny, tmp_path / "out", seeds=1)
    whole, _ = run(tiny, tmp_path / "whole", seeds=1)
    assert repr(paused.rows) == repr(whole.rows)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Forks of threaded processes.
def test_processes_share_the_work(tiny, tmp_path):
    """Each network is trained once, and each process ends with the whole table."""
    children = []
    for i in range(2):
        if not (child := os.fork()):
            _, said = run(tiny, tmp_path / "out")
            (tmp_path / f"{i}.txt").write_text("\n".join(said))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    said = [(tmp_path / f"{i}.txt").read_text() for i in range(2)]
    assert ["training" in text for text in said] == [True, True]
    assert sum(text.count("training") for text in said) == 2
    shared = (tmp_path / "out" / "results.csv").read_bytes()
    run(tiny, tmp_path / "whole")
    assert shared == (tmp_path / "whole" / "results.csv").read_bytes()


def test_what_is_finished_is_written_before_the_end(tiny, tmp_path):
    def stop_at_the_second(text):
        if text.startswith("2/2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.benchmark(
            protocol.load(str(tiny), "quick"), tmp_path / "out", say=stop_at_the_second
        )
    found = Results.load(tmp_path / "out")
    assert {row.seed for row in found.rows if row.network} == {0}
    assert found.notes["Unfinished"].startswith("1 of 2 networks are still to train")
    whole, _ = run(tiny, tmp_path / "out")
    assert {row.seed for row in whole.rows if row.network} == {0, 1}
    assert "Unfinished" not in Results.load(tmp_path / "out").notes


def test_a_network_that_fails_costs_no_other(tiny, tmp_path):
    text = tiny.read_text() + "\n[[quick.methods]]\ntraining = { lr = 1e30 }\n[[quick.methods]]\n"
    tiny.write_text(text)
    said: list[str] = []
    with pytest.raises(ValueError, match="the loss of network is"):
        runner.benchmark(
            protocol.load(str(tiny), "quick"), tmp_path / "out", seeds=1, say=said.append
        )
    assert any(line.startswith("1/2 ") and "failed, the loss" in line for line in said)
    found = Results.load(tmp_path / "out")
    assert {row.detector for row in found.rows if row.value == row.value} >= {"msp", "energy"}
    assert found.notes["Unfinished"].startswith("1 of 2 networks are still")


def test_other_files_in_the_folder_are_refused(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        run(tiny, tmp_path / "out")


@pytest.mark.parametrize("arguments", [["osr-mist"], ["no.toml"], ["osr-mnist", "--seeds", "0"]])
def test_command_line_errors_are_one_sentence(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["benchmark", *arguments, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_lists_protocols(capsys):
    main(["list", "protocols"])
    assert "osr-mnist" in capsys.readouterr().out


def killed(path: Path, out: Path, seconds: float) -> bool:
    """Starts the benchmark in a process of its own and kills it; False if it came to its end."""
    code = f"""
from openset.benchmark import protocol, runner
runner.benchmark(protocol.load({str(path)!r}, "quick"), {str(out)!r})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # The first step has begun, so the imports are behind us.
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def forked(path: Path, out: Path, seconds: float) -> bool:
    """As `killed`, without the imports: in a fork of this process."""
    child = os.fork()
    if child == 0:
        try:
            runner.benchmark(protocol.load(str(path), "quick"), out, say=lambda _: None)
            os._exit(0)
        except BaseException:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Forks of threaded processes.
def test_kill_9_at_any_moment_changes_nothing(tiny, tmp_path):
    started = time.monotonic()
    run(tiny, tmp_path / "whole")
    whole = time.monotonic() - started
    random_times = random.Random(0)
    kills = [forked(tiny, tmp_path / "cut", random_times.uniform(0, whole / 2)) for _ in range(5)]
    assert sum(kills) >= 2
    run(tiny, tmp_path / "cut")
    results = [(tmp_path / name / "results.csv").read_bytes() for name in ("whole", "cut")]
    assert results[0] == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_kill_9_of_a_whole_process(tiny, tmp_path, seed):
    run(tiny, tmp_path / "whole")
    times = random.Random(seed)
    for _ in range(5):
        killed(tiny, tmp_path / "cut", times.uniform(0, 2))
    run(tiny, tmp_path / "cut")
    results = [(tmp_path / name / "results.csv").read_bytes() for name in ("whole", "cut")]
    assert results[0] == results[1]


def test_a_method_is_told_apart_by_its_network():
    rows = [Row("p", 0, network, "o", "msp", "k", "u", "auroc", 0.5) for network in ("a", "b")]
    known = Protocol(
        "p",
        "quick",
        "",
        "",
        "k",
        [None],
        {"": ["u"]},
        [
            Method("a", "o", ["msp"], Settings(), published={"msp": {"u": {"auroc": 0.7}}}),
            Method("b", "o", ["msp"], Settings()),
        ],
        ["auroc"],
        {},
        [],
    )
    found = runner.paper_rows(known, rows)
    assert [(row.network, row.paper) for row in found] == [("a", 0.7), ("b", None)]


def test_results_csv_reads_back(tiny, tmp_path):
    results, _ = run(tiny, tmp_path / "out", seeds=1, only=["msp"])
    assert repr(read_csv(tmp_path / "out" / "results.csv")) == repr(results.rows)


def test_a_tuned_detector_says_so_in_every_row(tmp_path):
    path = tmp_path / "tuned.toml"
    text = TINY.replace("uniform-noise,limit=50", "gaussian-noise,limit=60")
    tune = 'tune = { msp = ["uniform-noise,limit=40"], energy = [] }\nseeds = 2'
    path.write_text(text.replace("seeds = 2", tune))
    results, said = run(path, tmp_path / "out", "quick", seeds=1, only=["msp", "energy", "gemos"])
    told = {row.detector: row.tuned_on for row in results.rows if row.network}
    assert told == {
        "msp": "digits (held out) + uniform-noise,limit=40",
        "energy": "digits (held out)",
        "gemos:components=1": "",
    }
    assert any("msp tuned to {'temperature': " in line for line in said)
    _, again = run(path, tmp_path / "out", "quick", seeds=1, only=["msp", "energy", "gemos"])
    assert not any("evaluating" in line for line in again)


BESIDE = """
[companions.autoencoder]
network = "autoencoder:width=4,latent=4"
objective = "reconstruction"
training = { epochs = 1, optimizer = "adam", lr = 1e-2 }

[companions.start]
network = "cnn:widths=4+8,hidden=16"
training = { epochs = 2 }
"""


def test_companions_are_trained_once_and_given_to_the_detectors_that_take_them(tmp_path):
    text = TINY.replace('"gemos:components=1"]', '"vmdls"]').replace("seeds = 2", "seeds = 1")
    text = text.replace('metrics = ["auroc", "oscr"]', 'metrics = ["auroc", "macro_f1_train"]')
    text = text.replace("valid = 0.2", 'valid = 0.2\nweights = "start"')
    path = tmp_path / "tiny.toml"
    path.write_text(text + BESIDE)
    results, said = run(path, tmp_path / "out", only=["msp", "vmdls"])
    assert [line.partition("; ")[0].rpartition(": ")[2] for line in said] == [
        "training its autoencoder",
        "training its start",
        "training",
        "evaluating msp, vmdls",
    ]
    found = {(r.detector, r.unknown, r.metric): r.value for r in results.rows}
    assert 0 < found["vmdls", "left-out", "macro_f1_train"] < 1
    cuts = {case.detector: kept["training"] for case, kept in results.thresholds.items()}
    assert cuts.keys() == {"msp", "vmdls"}
    assert any("t-SNE" in title for title in results.figures)
    path.write_text(text + BESIDE.replace("latent=4", "latent=5"))
    _, said = run(path, tmp_path / "out", only=["msp", "vmdls"])
    assert [line.partition("; ")[0].rpartition(": ")[2] for line in said] == [
        "training its autoencoder",
        "evaluating vmdls",
    ]


def test_a_companion_needs_a_network(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY + '\n[companions.autoencoder]\nobjective = "reconstruction"\n')
    with pytest.raises(
        ValueError,
        match=r"tiny.toml: companions.autoencoder: a companion is a table with a network",
    ):
        protocol.load(str(path))
    path.write_text(TINY.replace('"msp"', '"vmdls"'))
    with pytest.raises(ValueError, match="vmdls needs autoencoder"):
        protocol.load(str(path))


FLOW = """
[companions.flow]
network = "real-nvp:couplings=1,blocks=1,width=4"
objective = "likelihood"
training = { epochs = 1 }
"""


def test_an_objective_starts_from_its_companion_and_is_trained_again_with_it(tmp_path):
    text = TINY.replace("seeds = 2", 'seeds = 1\nobjective = "flow-outliers"')
    text = text.replace("epochs = 8", "epochs = 1").replace(", [4, 5, 6, 7, 8, 9]]", "]")
    path = tmp_path / "tiny.toml"
    for extra, expected in (("", True), ("", False), ("lr = 0.2, ", True)):
        path.write_text(text + FLOW.replace("{ ", "{ " + extra))
        _, said = run(path, tmp_path / "out", only=["msp"])
        trained = [line.partition("; ")[0].rpartition(": ")[2] for line in said]
        assert trained == ["training its flow", "training", "evaluating msp"] * expected
    for folder in (tmp_path / "out" / "work" / "runs").glob("*flow-outliers*"):
        objective = json.loads((folder / "run.json").read_text())["objective"]
        assert objective["settings"]["flow"]["spec"]["width"] == 4
        log = json.loads((folder / "log.jsonl").read_text())
        assert log["outliers"] == 1  # A flow that was trained before draws at once.
