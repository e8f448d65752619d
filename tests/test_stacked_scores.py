"""Stacks of scores: one looks at the other's scores in the place of the weights."""

import pytest
import torch
from torch import nn

import fbconv
from fbconv.scores import SCORES

NAMES = ("random", "magnitude", "snip", "grasp", "synflow")


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)).double()


@pytest.fixture
def batches(generator):
    images = torch.randn(6, 2, 5, 5, generator=generator, dtype=torch.float64)
    return [(images, torch.tensor([0, 1, 2, 0, 1, 2]))]


def by_hand(first, second, model, batches):
    """The scores of a network that was built with the first scores for its weights."""
    found = fbconv.score(model, first, batches, generator=torch.Generator().manual_seed(1))
    other = network()
    with torch.no_grad():
        for name, value in found.items():
            other.get_parameter(name).copy_(value)
    return fbconv.score(other, second, batches)


@pytest.mark.parametrize("first", NAMES[1:])
@pytest.mark.parametrize("second", NAMES[1:])
def test_the_second_score_sees_the_first_ones_scores(first, second, batches):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fbconv.score(model, f"{first}/{second}", batches)
    expected = by_hand(first, second, model, batches)
    assert all(torch.allclose(found[name], expected[name], rtol=1e-10) for name in expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_magnitude_on_grasp_is_its_absolute_value(batches):
    signed = fbconv.score(network(), "grasp", batches)
    assert any((value < 0).any() for value in signed.values())
    for name, value in fbconv.score(network(), "grasp/magnitude", batches).items():
        torch.testing.assert_close(value, signed[name].abs())


def test_stacks_of_three_and_options_of_the_last(batches):
    one = fbconv.score(network(), "snip/magnitude/grasp", batches, temperature=2.0)
    other = fbconv.score(network(), "snip/grasp", batches, temperature=2.0)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["0.weight"], fbconv.score(network(), "snip/grasp", batches)["0.weight"])


@pytest.mark.parametrize("name", ["random/snip", "snip/magnitude", "grasp/synflow"])
def test_masked_weights_stay_masked_in_a_stack(name, batches, generator):
    model = network()
    masks = {key: torch.rand(shape, generator=generator) < 0.5 for key, shape in fbconv.prunable(model).items()}
    found = fbconv.score(model, name, batches, masks=masks)
    for key, value in found.items():
        assert torch.equal(value == -torch.inf, ~masks[key])
    kept = {key: mask.clone() for key, mask in masks.items()}
    sparse = fbconv.score(fbconv.sparsify(model, kept), name, batches)
    if not name.startswith("random"):  # which draws as many numbers as there are weights
        assert all(torch.allclose(sparse[key.replace("weight", "values")], value) for key, value in found.items())


def test_frozen_weights_stay_in_a_stack(batches, generator):
    masks = {key: torch.rand(shape, generator=generator) < 0.5 for key, shape in fbconv.prunable(network()).items()}
    frozen = fbconv.freeze(network(), masks)
    found = fbconv.score(frozen, "magnitude/snip", batches)
    plain = network()
    with torch.no_grad():
        for key, mask in masks.items():
            weight = plain.get_parameter(key)
            weight.copy_(torch.where(mask, weight.abs(), weight))
    expected = fbconv.score(plain, "snip", batches)
    for key, mask in masks.items():
        torch.testing.assert_close(found[key.replace("weight", "values")][mask], expected[key][mask])


def test_stacks_prune_in_rounds_and_in_the_interspace(batches):
    model = fbconv.interspace(network())
    masks = fbconv.prune_masks(model, "snip/magnitude", 0.8, rounds=3, batches=batches)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int(mask.sum()) for mask in masks.values()) == int(0.2 * total)


def test_unknown_names_and_numbers_that_do_not_fit(batches, monkeypatch):
    monkeypatch.setitem(SCORES, "huge", lambda _, weights, *__: {key: w * torch.inf for key, w in weights.items()})
    with pytest.raises(ValueError, match=r"a stack like snip/magnitude, or a callable, got 'snip/'"):
        fbconv.score(network(), "snip/", batches)
    with pytest.raises(ValueError, match="'0.weight' in a stack must be finite in torch.float64"):
        fbconv.score(network(), "huge/magnitude", batches)
