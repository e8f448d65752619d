"""The command line: help, exit codes, output for people and for programs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import check_wrong_usage, run_main
from typer.testing import CliRunner

import fbconv
from fbconv import cli, data, train_command

COMMANDS = ("train", "reproduce", "info")


@pytest.fixture
def tiny(monkeypatch):
    """Digits cut down to 270 training, 30 validation and 60 test images."""
    whole, test = data.DATA_SETS["digits"](Path())
    cut = whole.subset(torch.arange(300)), test.subset(torch.arange(60))
    monkeypatch.setitem(data.DATA_SETS, "digits", lambda _: cut)


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_that_parses(command, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    result = run(command, "--help")
    assert result.exit_code == 0
    _, _, example = result.output.partition(f"Example: fbconv {command}")
    assert example
    ran = []
    monkeypatch.setattr(
        train_command.training, "train", lambda config, out, progress: ran.append(config) or sys.exit(0)
    )
    assert run(command, *example.split()).exit_code == 0
    assert len(ran) == (command != "info")


def test_top_level_help_lists_the_commands():
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--model", "alexnet"], "vgg7, vgg16, vgg16-lth, resnet18, got 'alexnet'"),
        (["train", "--sparsity", "2"], "sparsity must be in [0, 1], got 2.0"),
        (["train", "--epochs", "many"], "--epochs"),
        (["train", "--no-such-option"], "--no-such-option"),
        (["reproduce", "imagenet"], "imagenet"),
        (["reproduce"], "Missing argument"),
        (["reproduce", "digits", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, message, monkeypatch, capsys):
    check_wrong_usage(monkeypatch, capsys, arguments, message)


def test_missing_data_is_exit_code_one_and_says_where(monkeypatch, capsys, tmp_path):
    out = tmp_path / "out"
    assert run_main(monkeypatch, "train", "--data", "mnist", "--data-dir", tmp_path, "--out", out, "--json") == 1
    captured = capsys.readouterr()
    assert f"{tmp_path / 'mnist'}: missing train-images-idx3-ubyte[.gz]" in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


def test_unknown_sharing_is_an_error_with_a_message(monkeypatch, capsys, tmp_path, tiny):
    arguments = ("train", "--space", "interspace", "--sharing", "all", "--out", tmp_path)
    assert run_main(monkeypatch, *arguments) == 2
    assert "sharing must be" in capsys.readouterr().err


def test_train_json_is_only_json_and_options_arrive(tmp_path, tiny):
    options = {
        "data": "digits", "data_dir": "somewhere", "model": "lenet5", "space": "interspace", "sharing": "fine",
        "mode": "freeze", "score": "random", "sparsity": 0.75, "epochs": 1, "batch_size": 90, "lr": 0.01, "seed": 4,
        "device": "cpu", "backend": "dense",
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]
    result = run("train", *arguments, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert options.items() <= printed["config"].items()
    assert printed == json.loads((tmp_path / "result.json").read_text())


def test_train_for_people(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", "--model", "lenet300", "--epochs", 1, "--sparsity", 0.9)
    assert result.exit_code == 0, result.output
    folder = Path("runs/digits-lenet300-spatial-prune-snip-0.9-seed0")
    written = json.loads((folder / "result.json").read_text())
    assert f"{100 * written['test_accuracy']:.2f} %" in result.stdout
    assert "26,620" in result.stdout
    assert str(folder / "curves.png") in result.stdout


def test_another_configuration_is_exit_code_one(tmp_path, tiny, monkeypatch, capsys):
    arguments = ("train", "--model", "lenet300", "--epochs", 1, "--out", tmp_path)
    assert run(*arguments).exit_code == 0
    assert run_main(monkeypatch, *arguments, "--lr", ".2") == 1
    assert "lr 0.2 (0.1 there)" in capsys.readouterr().err


@pytest.mark.filterwarnings("error")
def test_reproduce_compares_four_runs(tmp_path, tiny):
    result = run("reproduce", "digits", "--epochs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "comparison.json").read_text())
    assert list(written["runs"]) == ["dense", "SNIP", "FreezeNet", "interspace SNIP"]
    for label, run_result in written["runs"].items():
        assert f"{100 * run_result['test_accuracy']:.2f} %" in result.stdout
        assert run_result["config"]["model"] == "lenet5"
        assert run_result["trained_weights"] == (430_500 if label == "dense" else 4_305)
        assert label in result.stdout
    assert {"commit", "command", "processor", "torch"} <= set(written["environment"])
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path / "comparison.png") in result.stdout.replace("\n", "")
    again = run("reproduce", "digits", "--epochs", 1, "--out", tmp_path, "--json")
    runs = json.loads(again.stdout)["runs"]
    for label, run_result in written["runs"].items():
        assert runs[label]["history"] == run_result["history"]


def test_info(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    people, programs = run("info"), run("info", "--json")
    facts = json.loads(programs.stdout)
    assert people.exit_code == programs.exit_code == 0
    assert facts["fbconv"] == fbconv.__version__
    assert facts["torch"] == torch.__version__
    for key in ("torch", "capability", "threads"):
        assert str(facts[key]) in people.stdout


def test_python_dash_m():
    source = str(Path(fbconv.__file__).parents[1])
    command = [sys.executable, "-m", "fbconv", "info", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": source}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fbconv"] == fbconv.__version__
