"""Commands refuse bad input in one sentence, with exit code 2, and leave nothing behind."""

import shutil

import pytest
from command_line import call, fails

from openset.runs.run import Run


def test_ambiguous_and_missing_models_are_named(run, tmp_path, capsys):
    said = fails(capsys, "predict", run, "x.png")
    assert "say which of its models" in said
    said = fails(capsys, "predict", run, "x.png", "--detector", "enrgy")
    assert "energy" in said
    said = fails(capsys, "predict", run, "x.png", "--detector", "energy", "--storey")
    assert "give fdr too" in said
    assert "holds no" in fails(capsys, "predict", tmp_path, "x.png")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("train", "digitz", "--out", "{o}"), "digits"),
        (("train", "digits", "--out", "{o}", "--network", "cnnn"), "cnn"),
        (("train", "digits", "--out", "{o}", "--objective", "cros-entropy"), "cross-entropy"),
        (("train", "digits", "--out", "{o}", "--known-classes", "0-30"), "30"),
        (("train", "digits", "--out", "{o}", "--epochs", "-1"), "epochs"),
        (("train", "digits", "--out", "{o}", "--optimizer", "adamm"), "adam"),
        (("train", "digits"), "out"),
        (("trian", "digits"), "train"),
        (("list", "detecters"), "detectors"),
        (("fit", "{o}", "--detector", "energy"), "holds no run"),
        (("report", "{o}"), "results"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, expected, tmp_path, capsys):
    filled = [a.replace("{o}", str(tmp_path / "o")) for a in arguments]
    assert expected in fails(capsys, *filled)
    assert not (tmp_path / "o").exists()


def test_unknown_names_of_a_run_are_named(run, tmp_path, capsys):
    out = tmp_path / "o"
    said = fails(capsys, "evaluate", run, "--detector", "gemoss", "--out", out)
    assert "did you mean gemos" in said
    said = fails(capsys, "evaluate", run, "--metric", "aurok", "--out", out)
    assert "did you mean auroc" in said
    said = fails(capsys, "evaluate", run, "--unknown", "gausian-noise", "--out", out)
    assert "gaussian-noise" in said
    said = fails(capsys, "fit", run, "--detector", "mahalanobis:layers=stage7")
    assert "stage1" in said
    said = fails(capsys, "fit", run, "--detector", "energy", "--accept", "0.9999")
    assert "held-out known samples" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        (
            "gemos:components=2.5",
            "components of density gaussian-mixture is 2.5; expected a whole number",
        ),
        ("knn:k=x", "k of detector knn is 'x'; expected a whole number"),
        ("energy:temperature=x", "temperature of detector energy is 'x'; expected a number"),
        ("odin:epsilon=-1", "epsilon must lie in 0…1"),
        ("mahalanobis:epsilon=x", "epsilon of detector mahalanobis is 'x'"),
        ("vib", "vib is for a network trained with --objective vib"),
        ("bin", "was trained with cross-entropy"),
    ],
)
def test_a_detector_that_cannot_be_is_one_sentence(detector, said, run, capsys):
    assert said in fails(capsys, "fit", run, "--detector", detector)
    assert detector not in Run.load(run).models


@pytest.mark.parametrize("name", ["digits", "digits:test", "digits,limit=50"])
def test_the_runs_own_data_are_not_unknown(name, run, tmp_path, capsys):
    said = fails(capsys, "evaluate", run, "--unknown", name, "--out", tmp_path / "out")
    assert "name no unknown data" in said
    assert "known classes" in fails(capsys, "tune", run, "--detector", "odin", "--unknown", name)
    noisy = ("--unknown", "digits,noise=1", "--detector", "energy")
    call("evaluate", run, *noisy, "--out", tmp_path / "o")


def test_another_share_than_a_model_was_fitted_to_is_refused(run, tmp_path, capsys):
    given = ("evaluate", run, "--detector", "energy", "--out", tmp_path / "out", "--accept")
    assert "energy is fitted to accept 0.95" in fails(capsys, *given, 0.5)
    call(*given, 0.95)


@pytest.mark.parametrize("options", [("--augment", "foo"), ("--lr", "inf"), ("--momentum", "2")])
def test_a_training_that_never_began_leaves_nothing(options, tmp_path, capsys):
    fails(capsys, "train", "digits", "--epochs", 1, *options, "--out", tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_refused_resume_leaves_what_was_begun(tmp_path, capsys):
    given = ("train", "digits", "--epochs", 2, "--out", tmp_path / "run")
    with pytest.raises(SystemExit):
        call(*given, "--max-minutes", 0)  # In the middle of the first epoch.
    work = tmp_path / ".run.unfinished"
    assert (work / "checkpoint.pt").exists()
    capsys.readouterr()
    assert "different run" in fails(capsys, *given, "--resume", "--lr", 0.01)
    assert (work / "checkpoint.pt").exists()


def test_folders_that_hold_something_else_are_left_alone(run, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    said = fails(capsys, "evaluate", run, "--detector", "energy", "--out", tmp_path)
    assert "notes.txt" in said
    said = fails(capsys, "train", "digits", "--out", run)
    assert "already exists" in said
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_changed_checkpoint_of_the_run_is_refused(run, tmp_path, capsys):

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "network.safetensors").write_bytes(b"short")
    assert "network.safetensors" in fails(capsys, "fit", copy, "--detector", "energy")


def test_export_refuses_what_it_cannot_write(run, tmp_path, capsys):
    assert "end the name in .onnx" in fails(capsys, "export", run, "--out", tmp_path / "a.bin")


def test_a_full_disk_is_one_sentence(run, tmp_path, capsys, monkeypatch):
    import errno

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("safetensors.torch.save_file", full)
    said = fails(capsys, "fit", run, "--detector", "mahalanobis")
    assert "No space left on device" in said
    assert "mahalanobis" not in Run.load(run).models
