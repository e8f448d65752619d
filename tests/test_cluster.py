"""Sweeps on a Ray cluster: here, one of this machine alone."""

import sys

import pytest
from command_line import check_wrong_usage
from sweeping import outcomes, small

from fbconv.sweep import sweep


@pytest.fixture
def ray():
    return pytest.importorskip("ray")


def test_a_cluster_gives_the_same_results(ray, tmp_path, one_thread):
    runs = {"all": [small(sparsity=sparsity, seed=seed) for sparsity in (0.9, 0.99) for seed in (0, 1)]}
    done = []
    sweep(runs, tmp_path / "cluster", progress=lambda share, total: done.append((share, total)), ray="local")
    sweep(runs, tmp_path / "here", jobs=1)
    assert outcomes(tmp_path / "cluster") == outcomes(tmp_path / "here")
    for model in (tmp_path / "here").glob("*/model.fbc"):
        assert (tmp_path / "cluster" / model.parent.name / "model.fbc").read_bytes() == model.read_bytes()
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert not ray.is_initialized()


def test_failures_are_recorded_and_other_runs_go_on(ray, tmp_path):
    runs = {"all": [small(space="interspace"), small(mode="dense")]}  # the first has nothing to put there
    (failed,) = sweep(runs, tmp_path, ray="local").pending()
    assert failed.failure.startswith("train: space interspace needs a convolution larger than 1x1")


def test_no_such_cluster(ray, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(RuntimeError, match="no Ray cluster at nowhere"):
        sweep({"all": [small()]}, tmp_path, ray="nowhere")


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fbconv\[ray\]"'):
        sweep({"all": [small()]}, tmp_path, ray="local")


def test_jobs_are_for_this_machine(tmp_path, monkeypatch, capsys):
    (tmp_path / "s.toml").write_text("[[runs]]\n")
    check_wrong_usage(monkeypatch, capsys, ["sweep", str(tmp_path / "s.toml"), "--ray", "auto", "--jobs", "2"], "jobs")
