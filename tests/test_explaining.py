"""Plans in words: what "auto" chose, expected and measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fbconv
from fbconv import planner


def sparse_layer(generator, density=0.01, channels=64):
    mask = torch.rand(channels, channels, 3, 3, generator=generator) < density
    return fbconv.nn.SparseConv2d(channels, channels, 3, padding=1, mask=mask)


def test_explains_a_layer(generator, capsys):
    (found,) = fbconv.explain(sparse_layer(generator), (2, 64, 16, 16), rounds=2)
    assert found.backend == planner.cheapest(found.expected) == "sparse"
    assert set(found.expected) == set(found.measured) == {"sparse", "dense"}
    assert all(seconds > 0 for seconds in found.measured.values())
    printed = capsys.readouterr().out
    assert "sparse" in printed
    assert "chosen" in printed
    assert "ms measured" in printed


def test_explains_a_model_and_leaves_it_as_it_was(generator):
    model = nn.Sequential(
        sparse_layer(generator), nn.BatchNorm2d(64), nn.ReLU(), fbconv.nn.FBConv2d(64, 8, 3, padding=1)
    ).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = fbconv.explain(model, (1, 64, 8, 8), training=True, rounds=1)
    assert [explanation.name for explanation in found] == ["0", "3"]
    assert set(found[1].expected) == {"basis_first", "mix_first", "composed"}
    assert model.training
    assert model[1].training
    assert model[0].backend == model[3].backend == "auto"
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_frozen_layer_has_a_choice_only_in_training(generator):
    mask = torch.rand(16, 16, 3, 3, generator=generator) < 0.01
    layer = fbconv.nn.FrozenConv2d(16, 16, 3, mask=mask)
    (forward,) = fbconv.explain(layer, (1, 16, 8, 8), rounds=1)
    assert set(forward.expected) == {"dense"}
    (step,) = fbconv.explain(layer, (1, 16, 8, 8), training=True, rounds=1)
    assert set(step.expected) == {"sparse", "dense"}


@pytest.mark.parametrize(
    ("module", "rounds", "message"),
    [(nn.Linear(4, 4), 1, "compressed layer"), (nn.Identity(), 0, "rounds must be 1 or more, got 0")],
)
def test_refuses_what_it_cannot_explain(module, rounds, message):
    with pytest.raises(ValueError, match=message):
        fbconv.explain(module, (1, 4), rounds=rounds)


def test_auto_is_sparse_where_almost_nothing_is_kept_and_dense_where_all_is():
    shape = planner.ConvShape(1, 256, 256, 16, 16, (16, 16), (3, 3), (1, 1), (1, 1), (1, 1), 1)
    for training in (False, True):
        assert planner.cheapest(planner.sparse_costs(shape, "cpu", shape.weights // 100, training)) == "sparse"
        assert planner.cheapest(planner.sparse_costs(shape, "cpu", shape.weights, training)) == "dense"
        assert planner.cheapest(planner.sparse_costs(shape, "cuda", 10, training)) == "dense"
