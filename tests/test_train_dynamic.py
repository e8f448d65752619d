"""Training runs whose masks change, or come out of trainings: budgets, epochs that count, rewinding, resuming."""

import dataclasses
import itertools
import math

import pytest
import torch

import fbconv
from fbconv import data
from fbconv._training import run as run_module
from fbconv.experiment import Config, load_checkpoint
from fbconv.models import MODELS
from fbconv.train import evaluate, train

pytestmark = pytest.mark.usefixtures("one_thread", "few_digits")

DYNAMICS = ("set", "rigl", "gmp", "lth", "ft")
SCORES = {"set": "random", "rigl": "random"}


WEIGHTS = 6 * 25 + 8 * 6 * 25 + 8 * 16 * 10


def config_of(dynamic, space="spatial", **options):
    common = {"model": "normed", "space": space, "sparsity": 0.6 if space == "spatial" else 0.5, "epochs": 4,
              "lr": 0.05, "score": SCORES.get(dynamic, "magnitude"), "batch_size": 45, "dynamic": dynamic,
              "interval": 3, "rounds": 2, "rewind": 2}  # fmt: skip
    return Config(**common | options)


def without_times(result):
    return {key: value for key, value in result.items() if key not in ("seconds", "steps_per_second", "environment")}


def values_of(state):
    return {name: value.numel() for name, value in state.items() if name.endswith("values")}


@pytest.mark.parametrize("space", ["spatial", "interspace"])
@pytest.mark.parametrize("dynamic", DYNAMICS)
def test_the_tested_model_has_exactly_the_budget(tmp_path, dynamic, space):
    config = config_of(dynamic, space)
    result = train(config, tmp_path)
    assert result["trained_weights"] == math.floor((1 - config.sparsity) * WEIGHTS + 1e-6)
    best = load_checkpoint(tmp_path / "last.ckpt", config)["best"]["model"]
    bases = 625 if space == "interspace" else 0
    assert sum(values_of(best).values()) + bases == result["trained_weights"]
    model = fbconv.load(tmp_path / "model.fbc", MODELS["normed"].layers(1, 28, 10))
    digits = data.load("digits")
    assert evaluate(model, digits, digits.test)[1] == result["test_accuracy"]


@pytest.mark.parametrize("dynamic", ["set", "rigl"])
@pytest.mark.parametrize("mode", ["prune", "freeze"])
def test_regrowing_keeps_the_counts_of_layers_and_changes_masks(tmp_path, dynamic, mode):
    config = config_of(dynamic, mode=mode, distribution="erk")
    train(config, tmp_path)
    train(dataclasses.replace(config, dynamic="none"), tmp_path / "none")
    ends = [load_checkpoint(path / "last.ckpt", c)["model"] for path, c in
            ((tmp_path, config), (tmp_path / "none", dataclasses.replace(config, dynamic="none")))]  # fmt: skip
    assert values_of(ends[0]) == values_of(ends[1])
    for name in values_of(ends[0]):
        indices = name.replace("values", "indices")
        if ends[0][name].numel() < 150:  # a layer that keeps all has nothing to grow
            assert not torch.equal(ends[0][indices], ends[1][indices])


def test_rigl_updates_in_the_place_of_the_optimizers_step(tmp_path, monkeypatch):
    steps, updates = [], []
    make = run_module.make_optimizer

    def watched(model, lr):
        optimizer = make(model, lr)
        optimizer.register_step_post_hook(lambda *_: steps.append(len(steps) + len(updates)))
        return optimizer

    original = run_module.RegrowingMasks.update
    monkeypatch.setattr(run_module, "make_optimizer", watched)
    monkeypatch.setattr(
        run_module.RegrowingMasks, "update", lambda self, step, *a: (updates.append(step), original(self, step, *a))[0]
    )
    train(config_of("rigl"), tmp_path)
    assert updates == [3, 6, 9, 12, 15]  # up to three quarters of 24
    assert steps == [step for step in range(24) if step not in updates]


def test_gradual_pruning_counts_the_epochs_after_its_end_only(tmp_path):
    config = config_of("gmp", epochs=8)
    result = train(config, tmp_path)
    assert result["best_epoch"] > 6
    state = load_checkpoint(tmp_path / "last.ckpt", config)
    assert len(state["history"]) == 8


def test_fine_tuning_prunes_the_trained_network_and_has_the_schedule_twice(tmp_path):
    config = config_of("ft")
    result = train(config, tmp_path)
    dense = load_checkpoint(tmp_path / "dense" / "last.ckpt", config)
    assert [len(state["history"]) for state in (dense, result)] == [4, 4]
    weights = dense["best"]["model"]
    threshold = torch.cat([weights[f"{name}.weight"].abs().flatten() for name in ("conv1", "conv2", "fc")])
    threshold = threshold.sort(descending=True).values[result["trained_weights"] - 1]
    final = load_checkpoint(tmp_path / "last.ckpt", config)["model"]
    for name in ("conv1", "conv2", "fc"):
        mask = fbconv.SparsePattern.from_packed(final[f"{name}.indices"], weights[f"{name}.weight"].shape).mask()
        assert torch.equal(mask, weights[f"{name}.weight"].abs() >= threshold)


def test_tickets_start_from_the_rewound_step(tmp_path, monkeypatch):
    """Weights, statistics, order of the data and learning rate go back to step t0 in every round."""
    starts = []
    original = run_module.Run.fit

    def fit(self, *arguments):
        starts.append((self.start, {name: value.clone() for name, value in self.model.state_dict().items()}))
        return original(self, *arguments)

    monkeypatch.setattr(run_module.Run, "fit", fit)
    config = config_of("lth", rounds=3, rewind=8)  # in the second epoch of six steps
    result = train(config, tmp_path)
    assert [start for start, _ in starts] == [8] * 4
    assert [entry["epoch"] for entry in result["history"]] == [2, 3, 4]
    first = starts[0][1]
    for _, state in starts[1:]:
        assert torch.equal(state["norm.running_mean"], first["norm.running_mean"])
        assert torch.equal(state["conv1.bias"], first["conv1.bias"])
        pattern = fbconv.SparsePattern.from_packed(state["fc.indices"], first["fc.weight"].shape)
        assert torch.equal(state["fc.values"], first["fc.weight"][pattern.mask()])
    kept = [sum(values_of(state).values()) or WEIGHTS for _, state in starts]
    expected = [WEIGHTS * 0.4 ** (k / 3) for k in range(4)]
    assert kept == [pytest.approx(value, abs=1) for value in expected]
    assert not torch.equal(first["conv1.weight"], MODELS["normed"].layers(1, 28, 10).conv1.weight)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("space", ["spatial", "interspace"])
@pytest.mark.parametrize("dynamic", DYNAMICS)
def test_an_interrupted_run_ends_bit_identical(tmp_path, dynamic, space):
    config = config_of(dynamic, space)
    seen = []
    whole = train(config, tmp_path / "whole", lambda done, total, _: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}
    for steps in (8, len(seen) - 3):

        def kill(done, *_, steps=steps):
            if done == steps:
                raise KilledError

        with pytest.raises(KilledError):
            train(config, tmp_path / f"killed{steps}", kill)
        resumed = train(config, tmp_path / f"killed{steps}")
        assert without_times(resumed) == without_times(whole)
        states = [load_checkpoint(tmp_path / name / "last.ckpt", config) for name in ("whole", f"killed{steps}")]
        for name, value in states[0]["model"].items():
            assert torch.equal(states[1]["model"][name], value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic": "snip"}, "dynamic must be one of none, set, rigl, gmp, lth, ft, got 'snip'"),
        ({"dynamic": "set", "mode": "dense"}, "dynamic must be none with mode dense, got 'set'"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"drop_fraction": 1.5}, r"drop_fraction must be in \(0, 1\]"),
        ({"rewind": -1}, "rewind must be at least 0"),
        ({"distribution": "even"}, "distribution must be one of uniform, er, erk"),
    ],
)
def test_errors_of_the_configuration(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@pytest.mark.parametrize("dynamic", DYNAMICS)
def test_a_budget_below_the_bases_is_an_error_before_any_training(tmp_path, dynamic):
    with pytest.raises(ValueError, match="leave room for the 625 entries"):
        train(config_of(dynamic, "interspace", sparsity=0.99), tmp_path, lambda *_: pytest.fail("it trained"))


def test_rewinding_past_the_end_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="rewind must be below the 24 steps of a training, got 24"):
        train(config_of("lth", rewind=24), tmp_path)


def test_every_combination_is_a_configuration():
    for space, mode, dynamic in itertools.product(("spatial", "interspace"), ("prune", "freeze"), DYNAMICS):
        Config(space=space, mode=mode, dynamic=dynamic)
