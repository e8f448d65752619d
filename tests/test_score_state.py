"""Scoring leaves no trace: not on the model, not on random states, not on graphs made before."""

import random

import numpy as np
import pytest
import torch
from score_cases import NAMES, generator, make_batches, random_masks, small_net
from torch import nn
from torch.nn import functional as F

from fbconv.convert import freeze, interspace, sparsify
from fbconv.scores import score

pytestmark = pytest.mark.usefixtures("one_thread")


def snapshot(model):
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "identity": [id(x) for x in [*model.parameters(), *model.buffers()]],
        "grads": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "flags": [module.training for module in model.modules()],
        "requires": [p.requires_grad for p in model.parameters()],
        "rng": torch.get_rng_state(),
    }


def same(one, other):
    return (
        one["state"].keys() == other["state"].keys()
        and all(torch.equal(one["state"][key], other["state"][key]) for key in one["state"])
        and all(one[key] == other[key] for key in ("identity", "flags", "requires"))
        and all(
            a is b is None or (a[0] == b[0] and torch.equal(a[1], b[1]))
            for a, b in zip(one["grads"], other["grads"], strict=True)
        )
        and torch.equal(one["rng"], other["rng"])
    )


def rough_score(model, weights, batches, loss_fn, generator):
    """A score function with all the side effects that one can have."""
    torch.rand(3)
    loss_fn(model(batches[0][0]), batches[0][1]).backward()
    scores = {key: weight.grad.abs() for key, weight in weights.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
            parameter.data = parameter.data.clone().zero_()
    model.eval().requires_grad_(False)
    return scores


@pytest.mark.parametrize("name", [*NAMES, rough_score])
@pytest.mark.parametrize("space", ["plain", "sparse", "frozen", "interspace"])
def test_the_model_is_left_as_it_was(name, space):
    model, batches = small_net(dropout=0.5), make_batches(2)
    if space == "interspace":
        model = interspace(model)
    if space in ("sparse", "frozen"):
        model = {"sparse": sparsify, "frozen": freeze}[space](model, random_masks(model, 0.5))
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    next(model.parameters()).grad = None
    model[1].eval()
    model[1].weight.requires_grad_(False)
    before = snapshot(model)
    score(model, name, batches)
    assert same(before, snapshot(model))
    masks = {key: value > value.median() for key, value in score(model, "random").items()}
    score(model, name, batches, masks=masks)
    assert same(before, snapshot(model))


class Remembering(nn.Module):
    """Fills an empty buffer and registers new ones when it is first run, and draws numbers from everywhere."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("empty", None)

    def forward(self, x):
        if self.empty is None:
            self.empty = torch.ones(3)
            self.register_buffer("late", torch.ones(3))
            self.register_buffer("hidden", torch.ones(3), persistent=False)
        return self.layer(x) * self.late * (1 + random.random() + np.random.rand())


@pytest.mark.parametrize("name", ["snip", "usnip", "grasp", "synflow"])
def test_new_buffers_and_other_random_numbers_leave_no_trace_either(name):
    model, batches = Remembering(), [(torch.ones(2, 4), torch.tensor([0, 2]))]
    random.seed(1)
    np.random.seed(1)
    expected = random.Random(1).random(), np.random.RandomState(1).rand()
    scores = score(model, name, batches)
    assert (random.random(), np.random.rand()) == expected
    assert dict(model.named_buffers()) == {}
    assert list(model._buffers) == ["empty"]
    assert not model._non_persistent_buffers_set
    assert list(model.state_dict()) == ["layer.weight", "layer.bias"]
    # They follow the generator, which is the same one again.
    assert torch.equal(scores["layer.weight"], score(model, name, batches)["layer.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_is_left_for_the_score(name):
    model, batches = small_net(), make_batches(2)
    expected = score(model, name, batches)
    with torch.inference_mode():
        batches = make_batches(2)
        scores = score(model, name, batches)
        assert torch.is_inference_mode_enabled()
    for key, value in scores.items():
        assert torch.equal(value, expected[key])
        assert not value.is_inference()
    assert model(batches[0][0].clone()).requires_grad
    assert not any(buffer.is_inference() for buffer in model.buffers())


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_made_before_can_still_be_gone_through(name):
    model, batches = small_net().eval(), make_batches(1)
    loss = F.cross_entropy(model(batches[0][0]), batches[0][1])
    score(model, name, batches)
    loss.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_a_score_that_is_the_weight_itself_keeps_its_numbers():
    def doubled(model, weights, *_):
        with torch.no_grad():
            for weight in weights.values():
                weight.mul_(2)
        return weights

    model = small_net()
    assert torch.equal(score(model, doubled)["0.weight"], 2 * model[0].weight.detach())


def test_the_model_is_left_as_it_was_after_an_error():
    model = small_net().eval()
    before = snapshot(model)
    masks = random_masks(model, 0.5)
    for name in ("snip", "usnip", "grasp"):
        with pytest.raises(ZeroDivisionError):
            score(model, name, make_batches(1), loss_fn=lambda *_: 1 / 0, masks=masks)
    assert same(before, snapshot(model))


def test_dropout_follows_the_generator():
    model, batches = small_net(dropout=0.5), make_batches(1)
    one, again, other = (score(model, "snip", batches, generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one["0.weight"], again["0.weight"])
    assert not torch.equal(one["0.weight"], other["0.weight"])
