"""Sweeps: what their files mean, results that outlive kills, runs that fail."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from command_line import check_wrong_usage, run_main
from sweeping import outcomes, small

import fbconv
from fbconv import models
from fbconv.experiment import Config
from fbconv.results import Results, run_id
from fbconv.sweep import RESULTS, read_sweep, sweep

FILE = """
[options]
model = "lenet300"
epochs = 2
lr = 1
seed = [0, 1]

[[runs]]
mode = "dense"

[[runs]]
score = ["snip", "snip/magnitude"]
sparsity = [0.9, 0.99]

[[runs]]
name = "mine"
score = ["synflow", "snip"]
sparsity = 0.99
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(FILE)
    return path


def test_lists_are_combinations_and_no_run_is_in_twice(file):
    runs = read_sweep(file)
    assert {name: len(configs) for name, configs in runs.items()} == {
        "dense": 2, "snip": 4, "snip/magnitude": 4, "mine": 2,
    }  # fmt: skip
    common = {"model": "lenet300", "epochs": 2, "lr": 1}
    assert runs["mine"] == [Config(**common, score="synflow", sparsity=0.99, seed=seed) for seed in (0, 1)]
    assert len({run_id(config) for configs in runs.values() for config in configs}) == 12


def test_what_is_given_goes_before_the_file(file):
    runs = read_sweep(file, {"data_dir": "there", "seed": 7})
    assert {config.data_dir for configs in runs.values() for config in configs} == {"there"}
    assert [config.seed for config in runs["dense"]] == [7]


def test_names_say_what_distinguishes(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('[[runs]]\nspace = ["spatial", "interspace"]\nalpha = [0.5, 0.25]\ncontrol = "grasp"\n')
    assert list(read_sweep(path)) == ["spatial 0.5", "spatial 0.25", "interspace 0.5", "interspace 0.25"]
    path.write_text("[[runs]]\nseed = [1, 2]\n")
    assert list(read_sweep(path)) == ["all"]


def test_names_may_hold_options(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(
        '[options]\nseed = [1, 2]\n[[runs]]\nname = "{score} on {weights_from}"\nweights_from = ["snip", "grasp"]\n'
        '[[runs]]\nscore = ["magnitude", "synflow"]\n'
    )
    assert list(read_sweep(path)) == ["snip on snip", "snip on grasp", "magnitude", "synflow"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[runs]]\nname = "{scores}"', "name may hold options like {score}, got '{scores}'"),
        ('[[runs]]\nname = "{"', "name may hold options like {score}, got '{'"),
        ("runs = 3", r"must hold \[options\] and \[\[runs\]\]"),
        ("[others]", r"must hold \[options\] and \[\[runs\]\], got others"),
        ("[options", "not TOML"),
        ("[[runs]]\nscores = 1", "options are data, .*; got 'scores'"),
        ('[[runs]]\nscore = "snap"', "score must be one of"),
        ('[[runs]]\nepochs = "3"', "epochs must be of type int, got '3'"),
        ("[[runs]]\nepochs = true", "epochs must be of type int, got True"),
        ("[[runs]]\nreinit = 1", "reinit must be of type bool, got 1"),
        ("[[runs]]\nseed = [[1]]", r"seed must be of type int, got \[1\]"),
        ("[[runs]]\nsparsity = 2", r"sparsity must be in \[0, 1\], got 2"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"s.toml: (config: )?{message}"):
        read_sweep(path)


COMMAND = [sys.executable, "-m", "fbconv", "sweep"]


def test_a_sweep_that_is_killed_again_and_again_loses_and_repeats_nothing(tmp_path, monkeypatch):
    file = tmp_path / "sweep.toml"
    file.write_text('[[runs]]\nmodel = "lenet300"\nepochs = 2\nsparsity = [0.9, 0.99]\nseed = [0, 1, 2]\n')
    monkeypatch.setenv("PYTHONPATH", str(Path(fbconv.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rng = random.Random(3)
    folder, kills, finished = tmp_path / "killed", 0, {}
    command = [*COMMAND, str(file), "--out", str(folder), "--jobs", "1", "--json"]
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        started, target = time.monotonic(), len(finished) + rng.choice((1, 2))
        while process.poll() is None and len(done_runs(folder)) < target and time.monotonic() - started < 300:
            time.sleep(0.05)
        if process.poll() is not None:
            assert process.returncode == 0, process.stderr.read().decode()
            break
        time.sleep(rng.random() * 0.3)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        now = done_runs(folder)
        assert all(now[run] == result for run, result in finished.items())  # seconds too: not done again
        finished = now
    assert kills >= 2
    sweep(read_sweep(file), tmp_path / "whole", jobs=1)
    assert outcomes(folder) == outcomes(tmp_path / "whole")
    assert {path.name for path in folder.glob("*/*")} == {"model.fbc"}


def done_runs(folder):
    if not (folder / RESULTS).exists():
        return {}
    return {record.id: record.result for record in Results(folder / RESULTS).records() if record.result}


def test_more_runs_join_and_what_failed_is_tried_again(tmp_path, monkeypatch):
    runs = {"all": [small(), small(space="interspace")]}  # which has nothing to put there
    results = sweep(runs, tmp_path, jobs=1)
    (failed,) = results.pending()
    assert "needs a convolution larger than 1x1" in failed.failure
    runs = {"other name": [small()], "more": [small(seed=1)]}
    done = []
    results = sweep(runs, tmp_path, 1, lambda share, total: done.append((share, total)))
    assert [(record.name, record.config.seed) for record in results.records() if record.result] == [
        ("other name", 0), ("more", 1),
    ]  # fmt: skip
    assert results.pending() == [failed]  # not asked for this time
    assert done[0][0] >= 1
    assert done[-1] == (2.0, 2)


def test_seeds_share_their_initial_weights_and_models_are_kept(tmp_path):
    runs = {"all": [small(score=score, sparsity=0.5, seed=seed) for score in ("random", "snip") for seed in (0, 1)]}
    for record in sweep(runs, tmp_path, jobs=2).records():
        plain = models.build("lenet300", seed=record.config.seed)
        model = fbconv.load(tmp_path / record.id / "model.fbc", plain)
        assert sum(layer.values.numel() for layer in (model.fc1, model.fc2, model.fc3)) == 133_100
        assert record.result["environment"]["torch"] == torch.__version__


def test_what_a_kill_left_beside_a_finished_model_goes(tmp_path):
    runs = {"all": [small()]}
    folder = tmp_path / run_id(small())
    for leftover in ("last.ckpt", ".last.ckpt.123"):
        sweep(runs, tmp_path, jobs=1)
        (folder / leftover).write_bytes(b"half a checkpoint")
        sweep(runs, tmp_path, jobs=1)
        assert [path.name for path in folder.iterdir()] == ["model.fbc"]


def test_ctrl_c_while_workers_start_does_not_wait_for_the_runs(tmp_path, monkeypatch):
    submit = ProcessPoolExecutor.submit

    def interrupted(self, *arguments):
        if self._pending_work_items:
            raise KeyboardInterrupt
        return submit(self, *arguments)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep({"all": [small(epochs=10**6, seed=seed) for seed in (0, 1)]}, tmp_path, jobs=1)


def test_results_that_cannot_be_written_are_still_results(tmp_path):
    folder = tmp_path / "a file"
    results = Results(folder / RESULTS)
    results.path.unlink()
    folder.rmdir()
    folder.touch()
    with pytest.raises(OSError, match=r"results.sqlite: unable to open database file"):
        results.records()


def test_no_file_of_results(tmp_path):
    (tmp_path / RESULTS).write_text("a file of something else, long enough not to be taken for an empty database" * 9)
    with pytest.raises(ValueError, match=r"results.sqlite: not a file of results: file is not a database"):
        sweep({"all": [small()]}, tmp_path)


def test_the_command_prints_a_table_or_json(tmp_path, monkeypatch, capsys):
    path = tmp_path / "s.toml"
    path.write_text('[[runs]]\nmodel = "lenet300"\nepochs = 1\nseed = [0, 1]\nmode = "dense"\n')
    assert run_main(monkeypatch, "sweep", path, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "results.sqlite" in printed.out
    assert "2 runs" in printed.err
    assert run_main(monkeypatch, "sweep", path, "--out", tmp_path / "out", "--json") == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["config"]["seed"] for record in records] == [0, 1]
    path.write_text('[[runs]]\nspace = "interspace"\nmodel = "lenet300"\nepochs = 1\n')
    assert run_main(monkeypatch, "sweep", path, "--out", tmp_path / "out") == 1
    assert "1 of 1 runs failed, the first, all: train: space interspace needs" in capsys.readouterr().err


def test_wrong_usage(tmp_path, monkeypatch, capsys):
    check_wrong_usage(monkeypatch, capsys, ["sweep", str(tmp_path / "none.toml")], "none.toml")
    (tmp_path / "s.toml").write_text("[[runs]]\nepoch = 1\n")
    check_wrong_usage(monkeypatch, capsys, ["sweep", str(tmp_path / "s.toml")], "got 'epoch'")
