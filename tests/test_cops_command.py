"""``fbconv cops``: several runs at once, the choice among them, and runs taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fbconv
from fbconv import cli, cops_command, parallel
from fbconv.experiment import Config
from fbconv.train import train

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.999, 0.9999, 0.99999)
COMMON = {"model": "lenet300", "epochs": 2, "sparsity": 0.98, "batch_size": 200}
OPTIONS = ["--model", "lenet300", "--epochs", "2", "--sparsity", ".98", "--batch-size", "200"]


def run(*arguments):
    return CliRunner().invoke(cli.app, ["cops", *map(str, arguments)])


def without_times(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "steps_per_second", "environment")}


class KilledError(Exception):
    pass


@contextmanager
def thread_count(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_search_in_two_processes_with_a_run_that_was_killed(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    killed = Config(**COMMON, control="grasp", alpha=0.9)

    def kill(done, steps, entry):
        if entry:
            raise KilledError

    threads = max(1, len(os.sched_getaffinity(0)) // 2)  # of each process
    with thread_count(threads), pytest.raises(KilledError):
        train(killed, tmp_path / "alpha-0.9", kill)
    assert (tmp_path / "alpha-0.9" / "last.ckpt").exists()
    result = run("--alpha", 0.9, "--alpha", 0.1, *OPTIONS, "--jobs", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "cops.json").read_text())
    labels = ["alpha-0.1", "alpha-0.9", "snip-alone", "grasp-alone", "linear-mix"]
    assert list(summary["runs"]) == summary["labels"] == labels
    assert summary["failures"] == {}
    assert summary["runs"]["alpha-0.9"]["config"] == {**vars(killed)}
    assert summary["runs"]["alpha-0.1"]["environment"]["threads"] == threads
    with thread_count(threads):
        again = train(killed, tmp_path / "again")
    assert without_times(summary["runs"]["alpha-0.9"]) == without_times(again)
    by_alpha = {alpha: summary["runs"][f"alpha-{alpha:g}"] for alpha in (0.1, 0.9)}
    assert summary["best_alpha"] == max(by_alpha, key=lambda alpha: cops_command._quality(by_alpha[alpha]))
    check_matrices(summary)
    for name in ("alphas.png", "similarity.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for label in labels:
        assert label in result.stdout
        assert f"{100 * summary['runs'][label]['test_accuracy']:.2f} %" in result.stdout


def check_matrices(summary):
    """Symmetric, 1 on the diagonal, the two measures consistent, and the control drawing towards its own mask."""
    similarity, jaccard, labels = summary["similarity"], summary["jaccard"], summary["labels"]
    for i, row in enumerate(similarity):
        assert row[i] == jaccard[i][i] == 1
        for j, value in enumerate(row):
            assert value == similarity[j][i]
            assert jaccard[i][j] == pytest.approx(value / (2 - value))  # masks of equal size
    strong, weak, control = (labels.index(label) for label in ("alpha-0.9", "alpha-0.1", "grasp-alone"))
    assert similarity[strong][control] > similarity[weak][control]


def fake_runs(monkeypatch, validation, failing=()):
    """Results without training; the configurations that were asked for."""
    asked = {}

    def train_all(configs, out, jobs, progress):
        asked.update(configs)
        outcome = parallel.Outcome()
        for label, config in configs.items():
            if label in failing:
                outcome.failures[label] = "the loss is no longer finite"
                continue
            accuracy, loss = validation.get(config.alpha if label.startswith("alpha") else label, (0.5, 1.0))
            entry = {"validation_accuracy": accuracy, "validation_loss": loss}
            outcome.results[label] = {
                "validation_accuracy": accuracy, "test_accuracy": 0.4, "trained_weights": 5, "seconds": 1.0,
                "history": [entry], "best_epoch": 1,
            }  # fmt: skip
        return outcome

    monkeypatch.setattr(parallel, "train_all", train_all)
    monkeypatch.setattr(cops_command, "_masks", lambda path, config: {})
    return asked


def test_the_papers_grid(tmp_path, monkeypatch):
    asked = fake_runs(monkeypatch, {0.99: (0.9, 0.3), "snip-alone": (0.99, 0.1)})
    result = run("--alpha-grid", *OPTIONS, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "cops.json").read_text())
    assert json.loads(result.stdout)["best_alpha"] == 0.99
    assert [config.alpha for label, config in asked.items() if label.startswith("alpha-")] == list(GRID)
    assert all(config.control == "grasp" for label, config in asked.items() if label.startswith("alpha-"))
    baselines = {label: (c.score, c.control, c.combine) for label, c in asked.items() if not label.startswith("alpha-")}
    assert baselines == {
        "snip-alone": ("snip", None, "cops"),
        "grasp-alone": ("grasp", None, "cops"),
        "linear-mix": ("snip", "grasp", "linear"),
    }
    assert len(set(asked.values())) == 17


def test_validation_picks_and_its_loss_breaks_ties(tmp_path, monkeypatch):
    fake_runs(monkeypatch, {0.1: (0.9, 0.3), 0.5: (0.9, 0.2), 0.9: (0.8, 0.1)})
    options = ["--alpha", 0.1, "--alpha", 0.5, "--alpha", 0.9, "--no-baselines", "--out", tmp_path, "--json"]
    assert json.loads(run(*options).stdout)["best_alpha"] == 0.5


def test_alphas_next_to_1_have_runs_of_their_own(tmp_path, monkeypatch):
    alphas = (0.0, 0.99999, 0.999999, 0.9999999, 0.99999999)
    asked = fake_runs(monkeypatch, {0.9999999: (0.9, 0.1)})
    options = [part for alpha in alphas for part in ("--alpha", alpha)]
    result = run(*options, "--no-baselines", "--out", tmp_path, "--json")
    assert {label: config.alpha for label, config in asked.items()} == {
        "alpha-0": 0.0, "alpha-0.99999": 0.99999, "alpha-0.999999": 0.999999, "alpha-0.9999999": 0.9999999,
        "alpha-0.99999999": 0.99999999,
    }  # fmt: skip
    assert json.loads(result.stdout)["best_alpha"] == 0.9999999


def test_options_arrive(tmp_path, monkeypatch):
    asked = fake_runs(monkeypatch, {})
    options = {
        "data": "digits", "data_dir": "somewhere", "model": "lenet5", "space": "interspace", "sharing": "fine",
        "mode": "freeze", "score": "usnip", "control": "magnitude", "rounds": 3, "sparsity": 0.75, "epochs": 4,
        "batch_size": 50, "lr": 0.01, "seed": 4, "device": "cpu", "backend": "dense",
    }  # fmt: skip
    arguments = [part for name, value in options.items() for part in ("--" + name.replace("_", "-"), value)]
    assert run("--alpha", 0.3, *arguments, "--no-baselines", "--out", tmp_path, "--json").exit_code == 0
    assert asked == {"alpha-0.3": Config(**options, alpha=0.3)}


def test_a_run_that_fails_does_not_spoil_the_others(tmp_path, monkeypatch, capsys):
    fake_runs(monkeypatch, {0.9: (0.7, 1.0)}, failing=("alpha-0.1", "linear-mix"))
    arguments = ["fbconv", "cops", "--alpha", ".1", "--alpha", ".9", "--out", str(tmp_path), "--json"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["best_alpha"] == 0.9
    assert set(json.loads(captured.out)["failures"]) == {"alpha-0.1", "linear-mix"}
    assert "fbconv: alpha-0.1: the loss is no longer finite" in captured.err
    fake_runs(monkeypatch, {}, failing=("alpha-0.1", "alpha-0.9"))
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "every run with a control failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of --alpha-grid and --alpha must be given"),
        (["--alpha-grid", "--alpha", "0.5"], "one of --alpha-grid and --alpha must be given"),
        (["--alpha", "1"], "alpha must be in [0, 1), got 1.0"),
        (["--alpha", "0.5", "--mode", "dense"], "mode must be prune or freeze, got 'dense'"),
        (["--alpha", "0.5", "--control", "guess"], "control must be one of random"),
        (["--alpha", "0.5", "--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments, message, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["fbconv", "cops", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_help_has_an_example_that_parses(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    asked = fake_runs(monkeypatch, {})
    _, _, example = run("--help").output.partition("Example: fbconv cops ")
    assert run(*example.split()).exit_code == 0
    assert len(asked) == 17
    assert Path("runs/gcops/cops.json").exists()


def test_no_process_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        parallel.train_all({"a": Config()}, tmp_path, jobs=0)


def runs(process):
    """Neither gone nor a zombie, whose command line is empty."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


SEARCH = """
import signal
import sys
from pathlib import Path
from fbconv import parallel
from fbconv.experiment import Config

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    configs = {f"seed{seed}": Config(model="lenet300", epochs=10_000, seed=seed) for seed in range(3)}
    parallel.train_all(configs, Path(sys.argv[1]), jobs=1, progress=lambda report: print(report[0], flush=True))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_a_search_that_is_killed(tmp_path, how):
    (tmp_path / "search.py").write_text(SEARCH)
    environment = os.environ | {"PYTHONPATH": str(Path(fbconv.__file__).parents[1])}
    command = [sys.executable, str(tmp_path / "search.py"), str(tmp_path)]
    search = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert search.stdout.readline() == "seed0\n"  # a run is under way
    children = Path(f"/proc/{search.pid}/task/{search.pid}/children").read_text().split()
    assert children
    search.send_signal(how)
    search.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(map(runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, children))
