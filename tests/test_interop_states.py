"""State dicts and optimizers of dense models, for compressed ones, and back."""

import copy

import pytest
import torch
from interop_cases import OPTIMIZERS, batch, net, train
from safetensors.torch import load_file, save_file
from torch import nn

import fbconv
import fbconv.nn as fnn
from fbconv import interop


def random_masks(model, density=0.4):
    generator = torch.Generator().manual_seed(3)
    return {key: torch.rand(shape, generator=generator) < density for key, shape in fbconv.prunable(model).items()}


def pruned(model):
    return fbconv.sparsify(model, random_masks(model))


def frozen(model):
    return fbconv.freeze(model, random_masks(model))


def interspace(sharing="coarse", **options):
    return lambda model: fbconv.interspace(model, sharing, generator=torch.Generator().manual_seed(2), **options)


def decayed(model):
    model = frozen(model)
    fbconv.decay_frozen(model, torch.optim.SGD(model.parameters(), 0.1), 0.5)
    for layer in (model[0], model[2], model[5]):
        layer.frozen_scale.fill_(0.25)
    return model


KINDS = {
    "plain": lambda model: model,
    "pruned": pruned,
    "nothing kept": lambda model: fbconv.sparsify(model, random_masks(model, -1)),
    "one layer": lambda model: fbconv.sparsify(model, {"2.weight": torch.rand(6, 2, 3, 3) < 0.5}),
    "frozen": frozen,
    "drawn": lambda model: fbconv.freeze(model, random_masks(model), seed=7),
    "decayed": decayed,
    "interspace": lambda model: pruned(interspace(init="orthonormal")(model)),
    "in:1": interspace("in:1", init="orthonormal"),
    "out:2": interspace("out:2", init="orthonormal"),
    "linear blocks": interspace(linear_block=4, init="orthonormal"),
    "frozen coefficients": lambda model: frozen(interspace(init="orthonormal")(model)),
    "overcomplete": interspace(init="random", n_elements=12),
}
DECOMPOSES = [kind for kind in KINDS if kind != "overcomplete"]


def dense_numbers():
    """A state dict of ``net`` in which no tensor is what it was."""
    generator = torch.Generator().manual_seed(11)
    state = net().state_dict()
    return {key: t + torch.randint(1, 9, t.shape, generator=generator).to(t.dtype) for key, t in state.items()}


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # bases are orthonormal to float32's last bits


# Out.


@pytest.mark.parametrize("kind", KINDS)
def test_dense_state_is_the_plain_models(kind, tmp_path):
    model = KINDS[kind](net())
    state = interop.dense_state_dict(model)
    expected = fbconv.densify(model).state_dict()
    assert list(state) == list(net().state_dict()) == list(expected)
    for key, tensor in state.items():
        assert tensor.dtype == expected[key].dtype
        assert torch.equal(tensor, expected[key])
        assert not tensor.requires_grad
    plain = net()
    plain.load_state_dict(state, strict=True)
    close(plain.eval()(batch()[0]), model.eval()(batch()[0]))
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    for again in (load_file(tmp_path / "a.safetensors"), torch.load(tmp_path / "a.pt", weights_only=True)):
        assert all(torch.equal(tensor, state[key]) for key, tensor in again.items())
        assert again.keys() == state.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_state_has_the_models_dtype(dtype):
    state = interop.dense_state_dict(pruned(net().to(dtype)))
    assert {t.dtype for t in state.values()} == {dtype, torch.int64}


def test_weights_are_copies():
    model = fbconv.sparsify(net(), {"5.weight": torch.ones(5, 96)})
    state = interop.dense_state_dict(model)
    with torch.no_grad():
        model[5].values.zero_()
    assert state["5.weight"].any()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3)
        self.b = self.a


def test_a_layer_of_two_names_has_both():
    model = fbconv.sparsify(Twice(), {"a.weight": torch.rand(2, 2, 3, 3) < 0.5})
    state = interop.dense_state_dict(model)
    assert state.keys() == Twice().state_dict().keys()
    assert state["a.weight"] is state["b.weight"]
    other = fbconv.sparsify(Twice(), {"a.weight": model.a.pattern.mask()})
    interop.load_dense_state_dict(other, state)
    assert torch.equal(other.b.values, model.a.values)
    del state["b.weight"]
    assert interop.load_dense_state_dict(other, state, strict=False).missing_keys == ["b.weight"]


def test_the_model_itself_may_be_the_layer():
    layer = fnn.FBConv2d(2, 3, 3)
    assert interop.dense_state_dict(layer).keys() == {"weight", "bias"}
    state = nn.Conv2d(2, 3, 3).state_dict()
    interop.load_dense_state_dict(layer, state)
    assert torch.equal(layer.weight, state["weight"])


# In.


@pytest.mark.parametrize("kind", ["pruned", "nothing kept", "one layer"])
def test_pruned_layers_take_what_they_keep(kind):
    model, state = KINDS[kind](net()), dense_numbers()
    parameters = list(model.parameters())
    masks = {key: layer.pattern.mask() for key, layer in fbconv.nn.compressed.compressed_layers(model).items()}
    assert interop.load_dense_state_dict(model, state) == ([], [])
    for key, tensor in interop.dense_state_dict(model).items():
        mask = masks.get(key.removesuffix(".weight"), 1) if key.endswith("weight") else 1
        assert torch.equal(tensor, state[key] * mask)
    assert all(one is two for one, two in zip(parameters, model.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["plain", "frozen", "drawn", "decayed"])
def test_frozen_layers_take_all(kind):
    model, state = KINDS[kind](net()), dense_numbers()
    interop.load_dense_state_dict(model, state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in interop.dense_state_dict(model).items())
    plain = net()
    plain.load_state_dict(state)
    close(model.eval()(batch()[0]), plain.eval()(batch()[0]))
    if kind != "plain":
        assert model[0].draw is None


@pytest.mark.parametrize("kind", ["drawn", "decayed"])
def test_seed_and_decay_stay_where_frozen_weights_do(kind):
    model = KINDS[kind](net())
    state, before = interop.dense_state_dict(model), copy.deepcopy(model)
    state["5.weight"] = state["5.weight"] + model[5].pattern.mask()
    state["0.weight"] = state["0.weight"] + 1
    interop.load_dense_state_dict(model, state)
    assert torch.equal(model[5].values, before[5].values + 1)
    assert model[5].draw == before[5].draw
    assert torch.equal(model[5].frozen, before[5].frozen)
    assert (model[5].frozen_scale is None) == (kind == "drawn")
    assert model[0].draw is None
    assert model[0].frozen_scale is None


@pytest.mark.parametrize("kind", ["in:1", "out:2", "linear blocks", "frozen coefficients"])
def test_whole_coefficients_express_every_weight(kind):
    model, state = KINDS[kind](net()), dense_numbers()
    elements = copy.deepcopy(model[0].basis.elements)
    interop.load_dense_state_dict(model, state)
    for key, tensor in interop.dense_state_dict(model).items():
        torch.testing.assert_close(tensor, state[key], rtol=1e-12, atol=1e-12)
    assert torch.equal(model[0].basis.elements, elements)


def test_kept_coefficients_are_those_of_the_whole_decomposition():
    model, state = KINDS["interspace"](net()), dense_numbers()
    with torch.no_grad():  # trained: no longer orthonormal
        model[0].basis.elements += 0.3 * torch.rand(3, 3, dtype=torch.float64)
    interop.load_dense_state_dict(model, state)
    basis = model[0].basis.elements.flatten(1)
    for layer, key in ((model[0], "0.weight"), (model[2], "2.weight")):
        exact = torch.linalg.solve(basis.T, state[key].flatten(2).unsqueeze(-1)).squeeze(-1)
        torch.testing.assert_close(layer.values, exact[layer.pattern.mask()], rtol=1e-10, atol=1e-10)
    assert torch.equal(model[5].values, state["5.weight"][model[5].pattern.mask()])


def test_unit_filters_keep_the_bits():
    model, state = interspace()(net().float()), {key: t.float() for key, t in dense_numbers().items()}
    interop.load_dense_state_dict(model, state)
    assert torch.equal(model[0].weight, state["0.weight"])


@pytest.mark.parametrize("kind", DECOMPOSES)
def test_out_and_in_is_the_same_model(kind):
    model = KINDS[kind](net())
    state = model.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    interop.load_dense_state_dict(model, interop.dense_state_dict(model))
    whole = kind in ("interspace", "in:1", "out:2", "linear blocks", "frozen coefficients")
    for key, tensor in model.state_dict().items():
        if kind == "interspace" and key.endswith("values") and key != "5.values":
            continue  # filters of few coefficients, decomposed anew: same coefficients, up to rounding
        torch.testing.assert_close(tensor, before[key], rtol=1e-10 if whole else 0, atol=1e-10 if whole else 0)


@pytest.mark.parametrize("options", [{"n_elements": 4}, {"init": "random", "n_elements": 12}])
def test_bases_that_cannot_express_every_filter(options):
    model = interspace(**options)(net())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"0.weight: the filter basis must have 9 independent elements .* got \d+ ele"):
        interop.load_dense_state_dict(model, dense_numbers())
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_a_singular_basis():
    model = interspace("in:1")(net())
    with torch.no_grad():
        model[2].basis.elements[1, 3] = model[2].basis.elements[1, 4]
    with pytest.raises(ValueError, match=r"2.weight: .* got 9 elements of rank 8"):
        interop.load_dense_state_dict(model, dense_numbers())


def test_other_dtypes_are_converted():
    model = pruned(net().float())
    state = {key: t.bfloat16() if t.is_floating_point() else t for key, t in dense_numbers().items()}
    interop.load_dense_state_dict(model, state)
    assert model[0].values.dtype == torch.float32
    assert torch.equal(model[0].values, state["0.weight"].float()[model[0].pattern.mask()])


@pytest.mark.parametrize("kind", ["pruned", "frozen", "interspace"])
def test_strict_and_not(kind):
    model, state = KINDS[kind](net()), dense_numbers()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    del state["0.weight"], state["3.running_var"]
    state |= {"0.values": torch.zeros(3), "head.bias": torch.zeros(2)}
    with pytest.raises(KeyError, match="missing '3.running_var', '0.weight', unexpected '0.values', 'head.bias'"):
        interop.load_dense_state_dict(model, state)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    keys = interop.load_dense_state_dict(model, state, strict=False)
    assert keys.missing_keys == ["3.running_var", "0.weight"]
    assert keys.unexpected_keys == ["0.values", "head.bias"]
    assert torch.equal(model[0].values, before["0.values"])
    assert torch.equal(model[3].running_var, before["3.running_var"])
    assert torch.equal(model[5].values, state["5.weight"][model[5].pattern.mask()])
    assert torch.equal(model[0].bias, state["0.bias"])


@pytest.mark.parametrize("kind", ["pruned", "interspace"])
@pytest.mark.parametrize(("key", "shape"), [("0.weight", (4, 3, 3, 1)), ("3.bias", (7,)), ("5.weight", (480,))])
@pytest.mark.parametrize("strict", [True, False])
def test_wrong_shapes(kind, key, shape, strict):
    model, state = KINDS[kind](net()), dense_numbers()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state[key] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"load_dense_state_dict: {key} must have shape \(.*\), got \("):
        interop.load_dense_state_dict(model, state, strict)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_checkpoints_are_opened_by_the_caller():
    model, state = pruned(net()), dense_numbers()
    checkpoint = {"model": state, "optimizer": {"state": {}}}
    with pytest.raises(TypeError, match=r"got dict under 'model' \(of a checkpoint, give the state dict in it\)"):
        interop.load_dense_state_dict(model, checkpoint)
    with pytest.raises(TypeError, match="state must map names to tensors, got Sequential"):
        interop.load_dense_state_dict(model, net())


def test_prefixes():
    model, state = pruned(net()), dense_numbers()
    lightning = {f"model.{key}": tensor for key, tensor in state.items()} | {"loss.weight": torch.ones(5)}
    interop.load_dense_state_dict(model, interop.without_prefix(lightning, "model."))
    assert torch.equal(model[0].values, state["0.weight"][model[0].pattern.mask()])
    with pytest.raises(KeyError, match=r"names must begin with 'module\.', got 'model.0.weight', .* and 6 more"):
        interop.without_prefix(lightning, "module.")
    wrapped = nn.DataParallel(net())
    assert interop.without_prefix(wrapped.state_dict(), "module.").keys() == state.keys()


# Optimizers.


def masked_step(model, optimizer, masks):
    """Dense training that is kept to the masks by force."""
    x, y = batch()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    with torch.no_grad():
        for key, mask in masks.items():
            model.get_parameter(key).mul_(mask)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("from_file", [False, True])
def test_training_goes_on_pruned_with_its_state(kind, from_file):
    dense = net()
    old = OPTIMIZERS[kind](dense.parameters())
    train(dense, old)
    masks = random_masks(dense)
    model = fbconv.sparsify(dense, masks)
    optimizer = OPTIMIZERS[kind](model.parameters())
    given = old
    if from_file:
        given = OPTIMIZERS[kind](dense.parameters())
        given.load_state_dict(copy.deepcopy(old.state_dict()))
    interop.carry_optimizer_state(given, dense, optimizer, model)
    fresh = copy.deepcopy(model)
    with torch.no_grad():
        for key, mask in masks.items():
            dense.get_parameter(key).mul_(mask)
    for _ in range(2):
        masked_step(dense, old, masks)
        train(model, optimizer, steps=1)
    expected = dense.state_dict()
    for key, tensor in interop.dense_state_dict(model).items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-10, atol=1e-12)
    train(fresh, OPTIMIZERS[kind](fresh.parameters()), steps=2)
    assert (fresh[5].values - model[5].values).abs().max() > 1e-4


def test_training_goes_on_frozen_with_its_state():
    dense = net()
    old = OPTIMIZERS["adam"](dense.parameters())
    train(dense, old)
    masks = random_masks(dense)
    model = fbconv.freeze(dense, masks)
    optimizer = OPTIMIZERS["adam"](model.parameters())
    interop.carry_optimizer_state(old, dense, optimizer, model)
    before = copy.deepcopy(dense)
    train(dense, old, steps=1)
    train(model, optimizer, steps=1)
    for key, tensor in interop.dense_state_dict(model).items():
        mask = masks.get(key, torch.ones_like(tensor)).bool()
        torch.testing.assert_close(tensor[mask], dense.state_dict()[key][mask], rtol=1e-10, atol=1e-12)
        assert torch.equal(tensor[~mask], before.state_dict()[key][~mask])
    optimizer.load_state_dict(optimizer.state_dict())


def test_the_old_optimizer_goes_on_by_itself():
    dense = net()
    old = OPTIMIZERS["sgd"](dense.parameters())
    train(dense, old)
    before = copy.deepcopy(old.state_dict())
    model = pruned(dense)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    interop.carry_optimizer_state(old, dense, optimizer, model)
    train(model, optimizer)
    for index, state in old.state_dict()["state"].items():
        assert torch.equal(state["momentum_buffer"], before["state"][index]["momentum_buffer"])


def test_parameters_that_do_not_train_get_no_state():
    dense = net()
    old = OPTIMIZERS["sgd"](dense.parameters())
    train(dense, old)
    model = pruned(dense)
    optimizer = OPTIMIZERS["sgd"]([model[5].values])
    interop.carry_optimizer_state(old, dense, optimizer, model)
    assert set(optimizer.state) == {model[5].values}
    optimizer.state_dict()


def test_state_that_cannot_be_carried():
    dense = net()
    old = OPTIMIZERS["sgd"](dense.parameters())
    train(dense, old)
    model = pruned(dense)
    with pytest.raises(TypeError, match="optimizer must be a SGD as old is, got Adam"):
        interop.carry_optimizer_state(old, dense, OPTIMIZERS["adam"](model.parameters()), model)
    coefficients = interspace()(dense)
    with pytest.raises(ValueError, match="0.weight must be spatial in the model, got a FBConv2d"):
        interop.carry_optimizer_state(old, dense, OPTIMIZERS["sgd"](coefficients.parameters()), coefficients)
    short = model[:5]
    with pytest.raises(KeyError, match="model has no parameter '5.weight'"):
        interop.carry_optimizer_state(old, dense, OPTIMIZERS["sgd"](short.parameters()), short)
    wide = net()
    wide[5] = nn.Linear(96, 7).double()
    with pytest.raises(ValueError, match=r"5.weight must have shape \(7, 96\) as in the model, got \(5, 96\)"):
        interop.carry_optimizer_state(old, dense, OPTIMIZERS["sgd"](wide.parameters()), wide)
    old.state[dense[0].weight]["row"] = torch.zeros(4)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with pytest.raises(ValueError, match=r"row of 0.weight must be one number or of shape .* got shape \(4,\)"):
        interop.carry_optimizer_state(old, dense, optimizer, model)
    assert not optimizer.state
