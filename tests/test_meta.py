"""Learning of scores from networks, and training with what was learned."""

import dataclasses
import json
import sys

import pytest
import torch
from command_line import check_wrong_usage, run_main

import fbconv
from fbconv import data, meta
from fbconv.experiment import Config
from fbconv.meta.learning import learn
from fbconv.scores.learned import load
from fbconv.train import prepare, train

FEW = {"model": "normed", "sparsity": 0.9, "epochs": 1, "rounds": 2, "shots": 3, "batch_size": 64}


@pytest.fixture
def digits(few_digits):
    return data.load("digits", "", 0)


@pytest.fixture
def quick(monkeypatch):
    """A forest of all examples takes seconds even here."""
    monkeypatch.setattr(meta.fitting, "REGRESSORS", {name: meta.REGRESSORS[name] for name in ("linear", "tree")})
    monkeypatch.setattr(meta.learning, "REGRESSORS", meta.fitting.REGRESSORS)


def test_the_target_is_what_synflow_leaves_in_the_end(digits, tmp_path, one_thread):
    config = Config(**FEW)
    found = meta.examples(config, digits, tmp_path)
    weights = 6 * 25 + 8 * 6 * 25 + 128 * 10
    assert found.features.shape == (weights, 4)
    assert found.target.shape == (weights,)
    assert int((found.target > 0).sum()) == int(0.1 * weights)
    assert found.target.max() == 1
    again = meta.examples(config, digits, tmp_path)  # from the checkpoints
    assert torch.equal(again.target, found.target)
    assert torch.equal(again.features, found.features)
    ticket = dataclasses.replace(config, dynamic="lth", score="synflow", rewind=0)
    train(ticket, tmp_path / "ticket")
    model = fbconv.load(
        tmp_path / "ticket" / "model.fbc", prepare(dataclasses.replace(config, mode="dense"), digits).model
    )
    kept = torch.cat([layer.pattern.mask().flatten() for layer in (model.conv1, model.conv2, model.fc)])
    assert torch.equal(kept, found.target > 0)


def test_learned_scores_prune_networks(few_digits, quick, tmp_path, one_thread):
    seen = []
    configs = [Config(**FEW, seed=seed) for seed in range(3)]
    summary = learn(configs, tmp_path, extended=True, progress=lambda what, share: seen.append((what, share)))
    assert [what for what, share in seen if share == 1] == ["network 0", "network 1", "network 2", "linear", "tree"]
    assert summary["regressors"]["tree"]["train"]["r2"] > 0.99
    assert summary["weights"] == {"train": 2 * 2630, "test": 2630}
    assert list(summary["correlations"]) == [*fbconv.scores.learned.features.names_of(True), "target"]
    assert json.loads((tmp_path / "meta.json").read_text()) == summary
    assert (tmp_path / "meta.png").read_bytes().startswith(b"\x89PNG")
    assert load(tmp_path / "linear.safetensors").extended
    options = FEW | {"rounds": 1, "meta": str(tmp_path / "linear.safetensors")}
    results = {
        score: train(Config(**options, score=score), tmp_path / score.replace("/", "+"))
        for score in ("meta", "meta/magnitude", "magnitude/meta")
    }
    assert {result["trained_weights"] for result in results.values()} == {263}
    assert all((tmp_path / f"{name}.safetensors").exists() for name in ("linear", "tree"))


def test_one_network_is_no_test(few_digits, tmp_path):
    with pytest.raises(ValueError, match="at least two networks must be given, .* got 1"):
        learn([Config(**FEW)], tmp_path)


def test_meta_needs_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"score must be .* meta \(with the file of a learned score\), .* got 'meta'"):
        Config(score="meta")
    config = Config(score="snip/meta", meta=str(tmp_path / "none"), epochs=1)
    with pytest.raises(FileNotFoundError, match="none"):
        train(config, tmp_path / "out")


def test_without_scikit_learn(few_digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "fbconv\[train\]"'):
        learn([Config(**FEW, seed=seed) for seed in range(2)], tmp_path)


def test_the_command_prints_a_table_or_json(few_digits, quick, tmp_path, monkeypatch, capsys, one_thread):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in FEW.items()]
    command = ["meta", *options, "--networks", "2", "--out", tmp_path]
    assert run_main(monkeypatch, *command) == 0
    printed = capsys.readouterr()
    assert "R2 test" in printed.out
    assert "network 1" in printed.err
    assert run_main(monkeypatch, *command, "--json") == 0
    assert json.loads(capsys.readouterr().out)["regressors"].keys() == {"linear", "tree"}
    check_wrong_usage(monkeypatch, capsys, ["meta", "--networks", "1"], "2")
    check_wrong_usage(monkeypatch, capsys, ["meta", "--sparsity", "2"], "sparsity must be in [0, 1]")
