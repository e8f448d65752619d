"""Models that torch has pruned: the same masks, outputs and training afterwards, and the way back."""

import copy

import pytest
import torch
from interop_cases import OPTIMIZERS, batch, net, pruned_by_torch, train
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import fbconv
import fbconv.nn as fnn
from fbconv import interop


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def assert_pruned_weights(model, pruned):
    """The effective weights and biases of a model pruned by torch, hooks or not."""
    for name, tensor in interop.dense_state_dict(model).items():
        module, _, part = name.rpartition(".")
        expected = getattr(pruned.get_submodule(module), part)
        close(tensor, expected.detach())


class Mask(nn.Module):
    """As users write it; the attribute's name is theirs."""

    def __init__(self, kept):
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, weight):
        return weight * self.kept


class Positive(nn.Module):
    def forward(self, weight):
        return weight.relu()


class Binary(nn.Module):
    def forward(self, weight):
        return weight.sign()


def positive_and_masked(layer):
    """The mask of the weights of today, but not of the negative ones that training may bring."""
    layer.weight.data.abs_()
    parametrize.register_parametrization(layer, "weight", Mask(torch.eye(4)))
    parametrize.register_parametrization(layer, "weight", Positive())


def binary_and_masked(layer):
    parametrize.register_parametrization(layer, "weight", Mask(torch.eye(4)))
    parametrize.register_parametrization(layer, "weight", Binary())


@pytest.mark.parametrize("called", [False, True])
def test_masks_and_outputs_of_a_pruned_model(called):
    pruned, (x, _) = pruned_by_torch(), batch()
    if called:
        pruned(x)
    before = {key: tensor.clone() for key, tensor in pruned.state_dict().items()}
    dense, masks, others = interop.from_torch_pruning(pruned)
    assert set(masks) == {"0.weight", "2.weight", "5.weight"}
    assert set(others) == {"0.bias", "3.weight", "5.bias"}
    for key, mask in (masks | others).items():
        assert mask.dtype == torch.bool
        assert torch.equal(mask, pruned.state_dict()[f"{key}_mask"] == 1)
    assert not prune.is_pruned(dense)
    assert dense.state_dict().keys() == net().state_dict().keys()
    assert prune.is_pruned(pruned)
    assert all(torch.equal(before[key], tensor) for key, tensor in pruned.state_dict().items())
    sparse = fbconv.sparsify(dense, masks)
    assert sum(layer.values.numel() for layer in (sparse[0], sparse[2], sparse[5])) == sum(
        int(mask.sum()) for mask in masks.values()
    )
    close(dense.eval()(x), pruned.eval()(x))
    close(sparse.eval()(x), pruned(x))


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_torch_would(kind):
    """With masks of biases and normalisation held, and the optimizer's state carried over."""
    pruned = pruned_by_torch()
    old = OPTIMIZERS[kind](pruned.parameters())
    train(pruned, old)
    dense, masks, others = interop.from_torch_pruning(pruned)
    sparse = fbconv.sparsify(dense, masks)
    interop.mask_others(sparse, others)
    optimizer = OPTIMIZERS[kind](sparse.parameters())
    interop.carry_optimizer_state(old, pruned, optimizer, sparse)
    train(pruned, old)
    train(sparse, optimizer)
    for _, module in sparse.named_children():
        for name in [hook._tensor_name for hook in list(module._forward_pre_hooks.values())]:
            prune.remove(module, name)
    pruned.eval()(batch()[0])  # hooks compute the weights before a call
    assert_pruned_weights(sparse, pruned)
    assert not torch.equal(sparse[5].values, fbconv.sparsify(dense, masks)[5].values)


def test_without_holding_them_pruned_biases_train():
    dense, masks, others = interop.from_torch_pruning(pruned_by_torch())
    sparse = fbconv.sparsify(dense, masks)
    assert not sparse[5].bias[~others["5.bias"]].any()
    train(sparse, OPTIMIZERS["sgd"](sparse.parameters()))
    assert sparse[5].bias[~others["5.bias"]].all()


def test_masks_keep_weights_that_are_zero():
    model = nn.Linear(4, 2)
    model.weight.data[0, 0] = 0
    prune.custom_from_mask(model, "weight", torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1]]))
    sparse = fbconv.sparsify(*interop.from_torch_pruning(model)[:2])
    assert sparse.values.numel() == 3
    assert sparse.values[0] == 0


def test_removed_masks_leave_zeros():
    pruned, kept = pruned_by_torch(), interop.from_torch_pruning(pruned_by_torch()).masks
    for name, part in [("0", "weight"), ("2", "weight"), ("5", "weight")]:
        prune.remove(pruned.get_submodule(name), part)
    with torch.no_grad():
        pruned[0].weight[~kept["0.weight"]] = -0.0
    dense, masks, _ = interop.from_torch_pruning(pruned)
    assert masks == {}
    masks = interop.masks_of_zeros(dense)
    assert masks.keys() == kept.keys()
    assert torch.equal(masks["2.weight"], kept["2.weight"])
    assert torch.equal(masks["5.weight"], kept["5.weight"])
    close(fbconv.sparsify(dense, masks).eval()(batch()[0]), pruned.eval()(batch()[0]))


def test_zeros_of_whole_and_of_compressed_layers():
    assert interop.masks_of_zeros(net()) == {}
    sparse = fbconv.sparsify(net(), {"5.weight": torch.rand(5, 96) < 0.5})
    assert torch.equal(interop.masks_of_zeros(sparse)["5.values"], sparse[5].pattern.mask())


def test_the_model_itself_may_be_the_layer_and_other_hooks_stay():
    model, calls = nn.Linear(4, 2), []
    model.register_forward_hook(lambda *_: calls.append(1))
    prune.random_unstructured(model, "weight", amount=3)
    dense, masks, _ = interop.from_torch_pruning(model)
    assert int(masks["weight"].sum()) == 5
    dense(torch.zeros(1, 4))
    assert calls == [1]


def test_frozen_parameters_stay_frozen():
    model = nn.Linear(4, 2).requires_grad_(False)
    prune.random_unstructured(model, "weight", amount=3)
    assert not interop.from_torch_pruning(model).model.weight.requires_grad


def test_a_mask_of_other_numbers_is_refused():
    model = nn.Sequential(nn.Linear(2, 1))
    prune.custom_from_mask(model[0], "weight", torch.tensor([[1.0, 0.5]]))
    with pytest.raises(ValueError, match=r"from_torch_pruning: 0.weight_mask must hold only 0 and 1, got 0.5"):
        interop.from_torch_pruning(model)
    with pytest.raises(ValueError, match=r"from_pruned_state_dict: 0.weight_mask must hold only 0 and 1, got 0.5"):
        interop.from_pruned_state_dict(model.state_dict(), nn.Sequential(nn.Linear(2, 1)))


@pytest.mark.parametrize("how", ["hooks", "parametrizations"])
def test_one_parameter_under_two_masks_is_refused(how):
    def pruned(*masks):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
        for layer, mask in zip(model, masks, strict=False):
            if how == "hooks":
                prune.custom_from_mask(layer, "weight", mask)
            else:
                parametrize.register_parametrization(layer, "weight", Mask(mask))
        return model

    one, two = torch.eye(2), 1 - torch.eye(2)
    dense, masks, others = interop.from_torch_pruning(pruned(one, one))
    assert dense[0].weight is dense[1].weight
    assert list(masks) == ["0.weight"]
    assert torch.equal(masks["0.weight"], one.bool())
    assert not others
    sparse = fbconv.sparsify(dense, masks)
    assert sparse[0].values is sparse[1].values
    for model in (pruned(one, two), pruned(one)):
        with pytest.raises(ValueError, match="are one parameter and must have the same mask"):
            interop.from_torch_pruning(model)


# State dicts.


def test_a_pruned_state_dict_is_the_pruned_model():
    pruned, plain = pruned_by_torch(), net()
    expected = interop.from_torch_pruning(pruned)
    with torch.no_grad():
        plain[5].weight.zero_()
    found = interop.from_pruned_state_dict(pruned.state_dict(), plain)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    theirs = expected.model.state_dict()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in found.model.state_dict().items())
    assert not plain[5].weight.any()


def test_other_names_that_end_in_mask_stay():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(2, 2)
            self.register_buffer("causal_mask", torch.ones(2, 2).tril())

    model = Attention()
    dense, masks, others = interop.from_pruned_state_dict(model.state_dict(), Attention())
    assert (masks, others) == ({}, {})
    assert torch.equal(dense.proj.weight, model.proj.weight)


def test_state_dicts_that_do_not_fit():
    state = dict(pruned_by_torch().state_dict())
    with pytest.raises(KeyError, match="got unexpected '0.bias', '0.weight'"):
        interop.from_pruned_state_dict(state, net()[1:])
    state["0.weight_mask"] = state["0.weight_mask"][:1]
    with pytest.raises(ValueError, match=r"0.weight_mask must have shape \(4, 3, 3, 3\) as 0.weight_orig, got \(1, 3"):
        interop.from_pruned_state_dict(state, net())


# Parametrizations.


def test_parametrized_masks():
    model, (x, _) = net(), batch()
    masks = {name: torch.rand(shape) < 0.5 for name, shape in fbconv.prunable(model).items()}
    parametrize.register_parametrization(model[0], "weight", Mask(masks["0.weight"]))
    parametrize.register_parametrization(model[0], "bias", Mask(torch.tensor([1.0, 0, 1, 0])))
    parametrize.register_parametrization(model[5], "weight", Mask(masks["5.weight"].double()))
    parametrize.register_parametrization(model[5], "weight", Mask(torch.rand(5, 96).gt(0.3).double()))
    dense, found, others = interop.from_torch_pruning(model)
    assert set(found) == {"0.weight", "5.weight"}
    assert torch.equal(found["0.weight"], masks["0.weight"])
    assert torch.equal(found["5.weight"], model[5].weight != 0)
    assert torch.equal(others["0.bias"], torch.tensor([True, False, True, False]))
    assert parametrize.is_parametrized(model[0])
    sparse = fbconv.sparsify(dense, found)
    assert type(sparse[0]) is fnn.SparseConv2d
    close(sparse.eval()(x), model.eval()(x))
    old = OPTIMIZERS["adam"](model.parameters())
    train(model, old)
    interop.mask_others(sparse.train(), others)
    optimizer = OPTIMIZERS["adam"](sparse.parameters())
    interop.carry_optimizer_state(old, model, optimizer, sparse)
    moments = optimizer.state[sparse[5].values]["exp_avg"]
    assert torch.equal(moments, old.state[model[5].parametrizations.weight.original]["exp_avg"][found["5.weight"]])
    moments = optimizer.state[sparse[0].bias_orig]["exp_avg"]
    assert torch.equal(moments, old.state[model[0].parametrizations.bias.original]["exp_avg"])
    with pytest.raises(ValueError, match="optimizer must hold parameters of model"):
        interop.carry_optimizer_state(old, model, OPTIMIZERS["adam"](net().parameters()), sparse)


def test_a_parametrized_mask_keeps_weights_that_are_zero():
    model = nn.Linear(3, 1)
    model.weight.data[0, 0] = 0
    parametrize.register_parametrization(model, "weight", Mask(torch.tensor([[1.0, 1.0, 0.0]])))
    assert interop.from_torch_pruning(model).masks["weight"].tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    "parametrized",
    [
        lambda layer: parametrize.register_parametrization(layer, "weight", Positive()),
        lambda layer: parametrize.register_parametrization(layer, "weight", Mask(torch.full_like(layer.weight, 0.5))),
        positive_and_masked,
        binary_and_masked,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
    ids=["relu", "scale", "positive", "binary", "weight_norm", "spectral_norm", "orthogonal"],
)
def test_other_parametrizations_are_no_masks(parametrized):
    model = nn.Sequential(nn.Linear(4, 4))  # in training: calls of spectral_norm change its buffers
    parametrized(model[0])
    before = copy.deepcopy(model.state_dict())
    dense, masks, others = interop.from_torch_pruning(model)
    assert (masks, others) == ({}, {})
    assert not interop.is_pruned(model)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    x = torch.randn(2, 4)
    assert torch.equal(dense.eval()(x), model.eval()(x))


# And back.


def test_back_to_torch():
    dense, masks, _ = interop.from_torch_pruning(pruned_by_torch())
    sparse = fbconv.sparsify(dense, masks)
    again = interop.to_torch_pruning(sparse)
    assert [name for name, _ in again[5].named_parameters()] == ["bias", "weight_orig"]
    assert again[0].weight_mask.dtype == torch.float64
    assert prune.is_pruned(again)
    back = fbconv.sparsify(*interop.from_torch_pruning(copy.deepcopy(again))[:2])
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in sparse.state_dict().items())
    one, two = OPTIMIZERS["sgd"](sparse.parameters()), OPTIMIZERS["sgd"](again.parameters())
    train(sparse, one)
    train(again, two)
    again.eval()(batch()[0])
    assert_pruned_weights(sparse, again)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: fbconv.freeze(net(), {"0.weight": torch.ones(4, 3, 3, 3)}), "'0', a FrozenConv2d with frozen weights"),
        (lambda: fbconv.interspace(net()), "'0', a FBConv2d"),
    ],
)
def test_what_torch_has_no_masks_for(model, message):
    with pytest.raises(ValueError, match=f"must have pruned spatial layers only, got {message}"):
        interop.to_torch_pruning(model())


def test_is_pruned():
    half = {"5.weight": torch.rand(5, 96) < 0.5}
    assert not interop.is_pruned(net())
    assert not interop.is_pruned(fbconv.freeze(net(), half))
    assert not interop.is_pruned(fbconv.sparsify(net(), {"5.weight": torch.ones(5, 96)}))
    assert interop.is_pruned(fbconv.sparsify(net(), half))
    assert interop.is_pruned(pruned_by_torch())
    parametrized = net()
    parametrize.register_parametrization(parametrized[5], "weight", Mask(half["5.weight"]))
    assert interop.is_pruned(parametrized)


def test_masks_of_others_that_do_not_fit():
    with pytest.raises(KeyError, match=r"mask_others: '5.gone' is no parameter"):
        interop.mask_others(net(), {"5.gone": torch.ones(5)})
    model = net()
    with pytest.raises(ValueError, match=r"the mask of 5.bias must have shape \(5,\), got \(4,\)"):
        interop.mask_others(model, {"0.bias": torch.ones(4), "5.bias": torch.ones(4)})
    assert not prune.is_pruned(model)


def test_amount_and_sparsity():
    """The table of docs/interop.md."""
    model = net()
    scores = fbconv.score(model, "magnitude")
    counts = {key: value.numel() for key, value in scores.items()}
    pruned, layers = net(), {"0.weight": 0, "2.weight": 2, "5.weight": 5}
    prune.global_unstructured([(pruned[i], "weight") for i in layers.values()], prune.L1Unstructured, amount=123)
    for key, mask in fbconv.select(scores, 123 / sum(counts.values())).items():
        assert torch.equal(mask, pruned[layers[key]].weight_mask == 1)
    pruned = net()
    for key, i in layers.items():
        prune.l1_unstructured(pruned[i], "weight", amount=7)
        mask = fbconv.select({key: scores[key]}, 7 / counts[key])[key]
        assert torch.equal(mask, pruned[i].weight_mask == 1)
