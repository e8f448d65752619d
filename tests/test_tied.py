"""Parameters that layers share stay shared through conversions, mask changes, files and copies."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from conversions import CONVERSIONS, interspace, masked, masks_of, near, pruned
from torch import nn

import fbconv
import fbconv.nn as fnn
from fbconv.integrations.conversion import load_state

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class Tied(nn.Module):
    """Convolutions with one weight and one bias, linear layers with one weight, an embedding with a head."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(36, 16)
        self.one, self.two = (nn.Conv2d(4, 4, 3, padding=1, stride=stride) for stride in (1, 2))
        self.two.weight, self.two.bias = self.one.weight, self.one.bias
        self.three, self.four = nn.Linear(16, 16), nn.Linear(16, 16, bias=False)
        self.four.weight = self.three.weight
        self.head = nn.Linear(16, 36)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens).view(-1, 4, 4, 4)
        x = self.two(self.one(x)).flatten(1)
        return self.head(self.four(self.three(x)))


TOKENS = torch.arange(8).view(2, 4)
ONCE = ["one.weight", "three.weight"]


def tie_names(model):
    """Sets of names that are one parameter."""
    names = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def test_a_shared_weight_is_prunable_once():
    model = Tied()
    found = fbconv.convertible(model)
    assert list(fbconv.prunable(model)) == list(found.weights) == ONCE
    assert found.tied == {"two.weight": "one.weight", "four.weight": "three.weight"}
    assert "'embedding.weight' too" in found.dense["head.weight"]
    assert "two.weight: is one.weight" in str(found)
    with pytest.raises(KeyError, match=r"'two\.weight' is not prunable: it is 'one\.weight'"):
        fbconv.sparsify(model, {"two.weight": torch.ones(4, 4, 3, 3)})
    with pytest.raises(KeyError, match=r"'head\.weight' is not prunable: it is 'embedding\.weight' too"):
        fbconv.freeze(model, {"head.weight": torch.ones(36, 16)})


@pytest.mark.parametrize("sharing", ["coarse", "fine", "in:2"])
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_tied_weights_stay_tied(convert, sharing, tmp_path):
    model = Tied()
    converted = fbconv.interspace(model, sharing, linear_block=4) if convert is interspace else convert(model)
    names = [["embedding.weight", "head.weight"], ["four.values", "three.values"], ["one.bias", "two.bias"],
             ["one.values", "two.values"]]  # fmt: skip
    kept = [group for group in tie_names(converted) if "basis" not in group[0]]
    assert kept == names
    expected = masked(model, masks_of(model)) if convert is pruned else model
    near(converted(TOKENS), expected(TOKENS))
    converted(TOKENS).square().sum().backward()
    torch.optim.SGD(converted.parameters(), lr=1e-3).step()
    dense = fbconv.densify(converted)
    assert tie_names(dense) == tie_names(model)
    near(dense(TOKENS), converted(TOKENS))
    fbconv.save(converted, tmp_path / "model.fbc")
    again = fbconv.load(tmp_path / "model.fbc", Tied())
    assert tie_names(again) == tie_names(converted)
    assert torch.equal(again(TOKENS), converted(TOKENS))


def test_the_gradient_of_a_tied_weight_is_the_dense_ones():
    model = Tied()
    sparse, dense = pruned(model), masked(model, masks_of(model))
    for each in (sparse, dense):
        each(TOKENS).square().sum().backward()
    for layer in ("one", "three"):
        near(sparse.get_submodule(layer).values.grad, sparse.get_submodule(layer).pattern.gather(
            dense.get_submodule(layer).weight.grad))  # fmt: skip


def test_tied_weights_are_stored_once(tmp_path):
    model = Tied()
    tied = fbconv.save(pruned(model), tmp_path / "tied.fbc")
    model.two.weight = nn.Parameter(model.one.weight.detach().clone())
    model.four.weight = nn.Parameter(model.three.weight.detach().clone())
    apart = fbconv.save(pruned(model), tmp_path / "apart.fbc")
    assert apart - tied > 4 * int(sum(mask.sum() for mask in masks_of(Tied()).values())) / 2
    with pytest.raises(ValueError, match=r"'one\.weight' and 'two\.weight' are one parameter"):
        fbconv.load(tmp_path / "apart.fbc", Tied())


@pytest.mark.parametrize("seed", [None, 3])
def test_drawn_weights_of_tied_layers(seed):
    model = fbconv.initialise(Tied(), seed=3)
    frozen = fbconv.freeze(model, masks_of(model), seed)
    near(frozen(TOKENS), model(TOKENS))
    assert frozen.one.values is frozen.two.values
    assert torch.equal(frozen.one.frozen, frozen.two.frozen)


def test_masks_of_tied_layers_change_together():
    model = pruned(Tied())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(TOKENS).square().sum().backward()
    optimizer.step()
    expected = fbconv.densify(model)
    masks = masks_of(model, 0.3, seed=9)
    fbconv.dynamic.set_masks(model, masks, optimizer)
    assert model.one.values is model.two.values
    assert model.three.values is model.four.values
    parameters = {id(parameter) for parameter in model.parameters()}
    assert parameters == {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    masks = {name.replace("values", "weight"): mask & old for (name, mask), old in zip(
        masks.items(), masks_of(Tied()).values(), strict=True)}  # fmt: skip
    near(model(TOKENS), masked(expected, masks)(TOKENS))
    other = pruned(Tied())
    other.load_state_dict(model.state_dict())
    assert tie_names(other) == tie_names(model)
    assert torch.equal(other(TOKENS), model(TOKENS))


def test_dense_gradients_of_tied_layers():
    model = pruned(Tied())
    dense = fbconv.densify(model)
    dense(TOKENS).square().sum().backward()
    with fbconv.dynamic.dense_gradients(model) as weights:
        model(TOKENS).square().sum().backward()
    assert list(weights) == ["one.values", "three.values"]
    near(weights["one.values"].grad, dense.one.weight.grad)
    near(weights["three.values"].grad, dense.three.weight.grad)


def test_tied_filters_over_different_bases_are_refused():
    names = dict.fromkeys(["stem", *(f"layer{i}" for i in range(1, 5))])
    model = nn.Sequential()
    for name in names:
        model.add_module(name, nn.Conv2d(2, 2, 3))
    model.layer2.weight = model.layer1.weight
    with pytest.raises(ValueError, match=r"'layer1\.weight' and 'layer2\.weight' are one parameter.*over one basis"):
        fbconv.interspace(model, "medium")


@pytest.mark.parametrize("convert", CONVERSIONS)
def test_a_bias_shared_with_a_layer_that_stays_dense_stays_shared(convert):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Bilinear(2, 2, 2)])
    model[0].bias = model[1].bias
    converted = convert(model)
    assert isinstance(converted[0], fnn.Compressed)
    assert converted[0].bias is converted[1].bias
    assert converted[0].bias is not model[0].bias
    assert fbconv.densify(converted)[0].bias is not converted[1].bias


def test_a_module_with_two_names_keeps_both():
    layer = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer, nn.ReLU())})
    sparse = pruned(model)
    assert sparse["a"] is sparse["b"][0]
    assert fbconv.convertible(model).weights.keys() == {"a.weight"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
@pytest.mark.parametrize("convert", CONVERSIONS)
def test_copies_of_whole_models(convert, copied):
    model = convert(Tied())
    twin = copied(model)
    expected = model(TOKENS)
    assert tie_names(twin) == tie_names(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(twin(TOKENS), expected)
    fbconv.dynamic.set_masks(twin, masks_of(twin, 0.2))
    assert twin.one.values is twin.two.values
    assert model.one.values.numel() != twin.one.values.numel()


def test_old_values_are_not_kept_alive():
    layer = fnn.SparseLinear(8, 8)
    old = weakref.ref(layer.values)
    layer.set_mask(torch.eye(8, dtype=torch.bool))
    gc.collect()
    assert old() is None


@pytest.mark.parametrize("convert", [fbconv.sparsify, fbconv.freeze])
@pytest.mark.parametrize("shared", ["layer", "weight", "nothing, the model is the layer"])
def test_saved_states_of_shared_layers_load(shared, convert):
    def make():
        first, second = nn.Linear(4, 4), nn.Linear(4, 4)
        second.weight = first.weight
        return {"layer": nn.Sequential(first, first), "weight": nn.Sequential(first, second)}.get(shared, first)

    model = make()
    trained = convert(model, {name: torch.rand(shape) < 0.5 for name, shape in fbconv.prunable(model).items()})
    loaded = load_state(make(), trained.state_dict())
    inputs = torch.randn(3, 4)
    assert torch.equal(loaded(inputs), trained(inputs))
    assert len(list(loaded.parameters())) == len(list(trained.parameters()))
