"""Which weights a training run keeps: scores, rounds and controls, orthogonal to space and mode."""

import itertools

import pytest
import torch
from torch import nn

import fbconv
from fbconv import data
from fbconv.experiment import Config, stream
from fbconv.masks import kept_count
from fbconv.train import prepare

pytestmark = pytest.mark.usefixtures("one_thread")

TOTAL = 430_500
COMBINATIONS = list(itertools.product(("spatial", "interspace"), ("prune", "freeze")))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def masks_of(model):
    return {name: module.pattern.mask() for name, module in model.named_modules() if hasattr(module, "pattern")}


def dense_model(config, digits):
    return prepare(Config(model=config.model, space=config.space, mode="dense", seed=config.seed), digits).model


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")  # single-shot SynFlow
@pytest.mark.parametrize("options", [{}, {"control": "grasp", "alpha": 0.9}, {"rounds": 3}, {"score": "synflow"}])
@pytest.mark.parametrize(("space", "mode"), COMBINATIONS)
def test_every_combination_trains_the_budget(digits, space, mode, options):
    config = Config(space=space, mode=mode, sparsity=0.95, batch_size=20, **options)
    assert prepare(config, digits).trained_weights == kept_count(TOTAL, 0.95)


@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_masks_are_those_of_prune_masks_on_the_weights_that_are_trained(digits, space):
    """Scored and trained weights are the same: nothing is drawn anew in between."""
    config = Config(space=space, sparsity=0.95, batch_size=20, control="magnitude", alpha=0.6, rounds=2, seed=3)
    model = prepare(config, digits).model
    dense = dense_model(config, digits)
    generator = stream(3, "score")
    batch = next(digits.training_batches(20, generator))
    total = sum(shape.numel() for shape in fbconv.prunable(dense).values())
    bases = total - TOTAL + 625 if space == "interspace" else 0
    expected = fbconv.prune_masks(
        dense, "snip", 1 - (0.05 * TOTAL - bases) / total, 2, batches=[batch], generator=generator,
        control="magnitude", alpha=0.6,
    )  # fmt: skip
    assert equal(masks_of(model), {name.rpartition(".")[0]: mask for name, mask in expected.items()})
    for name, mask in masks_of(model).items():
        kept = model.get_submodule(name)
        whole = dense.get_submodule(name)
        whole = whole.dense_values() if hasattr(whole, "pattern") else whole.weight
        assert torch.equal(kept.dense_values()[mask], whole[mask])


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
def test_the_options_change_the_mask(digits):
    base = {"model": "lenet300", "sparsity": 0.95, "batch_size": 50}
    others = [
        {}, {"rounds": 4}, {"control": "grasp", "alpha": 0.99}, {"control": "grasp", "alpha": 0.5, "combine": "linear"},
        {"score": "grasp"}, {"score": "usnip"}, {"score": "synflow"}, {"score": "magnitude"},
    ]  # fmt: skip
    found = [masks_of(prepare(Config(**base, **options), digits).model) for options in others]
    for one, other in itertools.combinations(found, 2):
        assert not equal(one, other)
    off = masks_of(prepare(Config(**base, control="grasp", alpha=0.0), digits).model)
    assert equal(off, found[0])


def test_frozen_weights_under_control_stay_where_they_were(digits):
    config = Config(model="lenet300", mode="freeze", sparsity=0.9, control="grasp", alpha=0.9)
    model, dense = prepare(config, digits).model, dense_model(config, digits)
    for name in ("fc1", "fc2", "fc3"):
        assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)
        assert isinstance(dense.get_submodule(name), nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"control": "guess"}, "control must be one of random, .*synflow, .*got 'guess'"),
        ({"alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"alpha": float("nan")}, "alpha must be in"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"combine": "sum"}, "combine must be one of cops, linear, got 'sum'"),
    ],
)
def test_config_names_the_field_and_its_values(options, message):
    with pytest.raises(ValueError, match=f"config: {message}"):
        Config(**options)
