"""Composite strategies in training runs: stacked scores, scores as weights, multi-shot tickets, early stopping."""

import pytest
import torch
from torch import nn

import fbconv
from fbconv import data
from fbconv.experiment import Config
from fbconv.scores import weights_from_scores
from fbconv.train import prepare, train

pytestmark = pytest.mark.usefixtures("one_thread", "few_digits")


def config_of(**options):
    common = {"model": "normed", "sparsity": 0.6, "epochs": 2, "lr": 0.05, "batch_size": 45, "rewind": 2}
    return Config(**common | options)


def weights_of(config):
    model = prepare(config, data.load("digits", seed=config.seed)).model
    return {name: model.get_parameter(name).detach() for name in fbconv.prunable(model)}


@pytest.mark.parametrize("space", ["spatial", "interspace"])
@pytest.mark.parametrize("score", ["magnitude", "snip", "magnitude/snip"])
def test_a_network_starts_from_the_signs_and_sizes_of_its_scores(space, score):
    plain = config_of(mode="dense", space=space)
    before, after = weights_of(plain), weights_of(config_of(mode="dense", space=space, weights_from=score))
    assert max(float(weight.abs().max()) for weight in after.values()) == 1
    for name, weight in after.items():
        assert torch.equal(weight.sign() * (weight != 0), before[name].sign() * (weight != 0))
    if score == "magnitude":
        largest = max(float(weight.abs().max()) for weight in before.values())
        for name, weight in after.items():
            torch.testing.assert_close(weight, before[name] * (before[name].abs() / largest) / before[name].abs())


@pytest.mark.parametrize("mode", ["prune", "freeze"])
def test_masks_are_scored_on_the_weights_that_the_scores_became(mode):
    config = config_of(mode=mode, weights_from="snip", score="magnitude")
    digits = data.load("digits", seed=0)
    dense = prepare(config_of(mode="dense", weights_from="snip"), digits).model
    masks = fbconv.prune_masks(dense, "magnitude", 0.6, 1)
    for name, layer in prepare(config, digits).model.named_modules():
        if hasattr(layer, "pattern"):
            weight = dense.get_submodule(name).weight
            assert torch.equal(layer.pattern.mask(), masks[f"{name}.weight"])
            assert torch.equal(layer.values, weight[layer.pattern.mask()])
            if mode == "freeze":
                assert torch.equal(layer.weight, weight)


def test_a_run_of_everything_resumes_and_saves(tmp_path):
    config = config_of(mode="freeze", weights_from="synflow", score="magnitude/snip", space="interspace", sparsity=0.5)
    result = train(config, tmp_path)
    assert result == train(config, tmp_path) | {"environment": result["environment"]}
    model = fbconv.load(tmp_path / "model.fbc", prepare(config_of(mode="dense", space="interspace"),
                                                        data.load("digits")).model)  # fmt: skip
    assert isinstance(model.conv1, fbconv.nn.FBConv2d)


def test_shots_are_rounds_of_scoring_at_each_pruning_step(tmp_path, monkeypatch):
    calls = []
    original = fbconv.schedules.prune_masks

    def prune_masks(network, score, sparsity, rounds, *arguments, **options):
        calls.append((round(sparsity, 3), rounds))
        return original(network, score, sparsity, rounds, *arguments, **options)

    monkeypatch.setattr("fbconv.schedules.prune_masks", prune_masks)
    train(config_of(dynamic="lth", score="magnitude", rounds=2, shots=3), tmp_path)
    assert calls == [(round(1 - 0.4**0.5, 3), 3), (0.6, 3)]


def test_patience_ends_a_training_after_so_many_epochs_without_a_better_one(tmp_path):
    whole = train(config_of(mode="dense", epochs=30, lr=0.2), tmp_path / "whole")["history"]
    stopped = train(config_of(mode="dense", epochs=30, lr=0.2, patience=2), tmp_path / "stopped")
    assert stopped["history"] == whole[: len(stopped["history"])]
    assert len(stopped["history"]) < 30
    assert stopped["best_epoch"] == len(stopped["history"]) - 2
    # never before: each epoch within was at most one after a better one
    best, waited = None, 0
    for entry in stopped["history"][:-1]:
        quality = entry["validation_accuracy"], -entry["validation_loss"]
        best, waited = (quality, 0) if best is None or quality > best else (best, waited + 1)
        assert waited < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "snip/"}, "score must be one of .*, or a stack like snip/magnitude, got 'snip/'"),
        ({"weights_from": "snap"}, "weights_from must be one of .* got 'snap'"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"patience": -1}, "patience must be at least 0, got -1"),
    ],
)
def test_config_names_the_field_and_its_values(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


def test_weights_from_scores_of_pruned_and_masked_weights(generator):
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    masks = {name: torch.rand(shape, generator=generator) < 0.5 for name, shape in fbconv.prunable(model).items()}
    sparse = fbconv.sparsify(model, masks)
    made = weights_from_scores(sparse, fbconv.score(sparse, "magnitude"))
    largest = max(float(layer.values.detach().abs().max()) for layer in sparse)
    for before, after in zip(sparse, made, strict=True):
        torch.testing.assert_close(after.values, before.values / largest)
        assert torch.equal(after.bias, before.bias)
        assert before.values is not after.values
    masked = weights_from_scores(model, fbconv.score(model, "magnitude", masks=masks))
    for layer, name in zip(masked, masks, strict=True):
        assert torch.equal(layer.weight[~masks[name]], model.get_parameter(name)[~masks[name]])


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"1.weight": torch.ones(1, 2)}, KeyError, "'1.weight' is not prunable; the model has 0.weight"),
        ({"0.weight": torch.ones(2, 1)}, ValueError, r"'0.weight' must have shape \(1, 2\), got \(2, 1\)"),
        ({"0.weight": torch.tensor([[1.0, torch.nan]])}, ValueError, "'0.weight' must have finite scores"),
        ({"0.weight": torch.zeros(1, 2)}, ValueError, "must not all be zero"),
        ({}, ValueError, "must not all be zero"),
    ],
)
def test_bad_scores(scores, error, message):
    with pytest.raises(error, match=message):
        weights_from_scores(nn.Sequential(nn.Linear(2, 1)), scores)
