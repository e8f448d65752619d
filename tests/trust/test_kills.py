"""Training runs and sweeps that SIGKILL ends at random moments, again and again, until they are through."""

import random
import sqlite3
import time
from contextlib import closing

import pytest
import small_runs

from fbconv.results import Results
from fbconv.sweep import RESULTS

RUNS = [
    ({"mode": "prune", "space": "interspace", "epochs": 20}, False),
    ({"mode": "freeze", "dynamic": "lth", "epochs": 6}, False),
    ({"mode": "prune", "dynamic": "rigl", "score": "random", "epochs": 12}, True),
    ({"mode": "freeze", "space": "interspace", "dynamic": "ft", "epochs": 8}, False),
    ({"mode": "dense", "epochs": 20}, False),
    ({"mode": "prune", "space": "interspace", "dynamic": "gmp", "rounds": 1, "epochs": 12}, False),
]

SWEEP = """
[options]
model = "lenet300"
epochs = 8

[[runs]]
sparsity = [0.9, 0.99]
seed = [0, 1]

[[runs]]
mode = "dense"
seed = [0, 1]
"""


def undisturbed(target, *arguments):
    """How long it takes."""
    started = time.monotonic()
    process = small_runs.start(target, *arguments)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - started


def survives(seconds, target, *arguments):
    """Whether it ends within that time, before it is killed; with None, it must."""
    process = small_runs.start(target, *arguments)
    process.join(seconds)
    if process.exitcode is None:
        small_runs.kill(process)
    assert process.exitcode in (0, -9)
    return process.exitcode == 0


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_a_killed_training_ends_as_if_nothing_had_happened(tmp_path, cases, tried, number):
    options, pictures = RUNS[number]
    wanted = cases(number < 2, 9)  # 54 in all
    arguments = (1, None, pictures)
    if not wanted:
        pytest.skip("in the full form only")
    small_runs.start(small_runs.run, {"epochs": 1}, tmp_path / "first").join()  # starts the server
    length = undisturbed(small_runs.run, options, tmp_path / "whole", *arguments)
    whole = small_runs.outcome(tmp_path / "whole")
    rng, kills, ended = random.Random(number), 0, 0

    def moment():
        return rng.uniform(0, length) if kills < wanted else None

    while kills < wanted:
        folder = tmp_path / str(ended)
        while not survives(moment(), small_runs.run, options, folder, *arguments):
            kills += 1
        ended += 1
        assert small_runs.same(small_runs.outcome(folder), whole)
    tried("kills of training runs", kills)


def done(folder):
    """ID -> result, seconds too: a run that is done again has others."""
    if not (folder / RESULTS).exists():
        return {}
    with closing(sqlite3.connect(folder / RESULTS)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not database.execute("SELECT name FROM sqlite_master").fetchall():
            return {}
    return {record.id: record.result for record in Results(folder / RESULTS).records() if record.result}


@pytest.mark.parametrize("number", range(2))  # the longest of all tests: two processes share it
def test_a_killed_sweep_loses_and_repeats_nothing(tmp_path, cases, tried, number):
    wanted = cases(number < 1, 25)
    if not wanted:
        pytest.skip("in the full form only")
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    length = undisturbed(small_runs.run_sweep, file, tmp_path / "whole", 2)
    whole = small_runs.outcome(tmp_path / "whole")
    assert len(done(tmp_path / "whole")) == 6
    rng, kills, ended = random.Random(number + 1), 0, 0

    def moment():
        return rng.uniform(length / 3, length) if kills < wanted else None

    while kills < wanted:
        folder, before = tmp_path / str(ended), {}
        while not survives(moment(), small_runs.run_sweep, file, folder, 2):
            kills += 1
            now = done(folder)
            assert {run: now[run] for run in before} == before
            before = now
        ended += 1
        now = done(folder)
        assert {run: now[run] for run in before} == before
        assert small_runs.settled(now) == small_runs.settled(done(tmp_path / "whole"))
        left = small_runs.outcome(folder)
        assert small_runs.same({**left, RESULTS: b""}, {**whole, RESULTS: b""})  # the models, and no other file
    tried("kills of sweeps", kills)
