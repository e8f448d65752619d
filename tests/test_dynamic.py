"""Masks that change during training: optimizer state that follows, dense gradients, SET, RigL, gradual pruning."""

import copy
import math

import pytest
import torch
from torch import nn

import fbconv
from fbconv.dynamic import GradualPruning, RegrowingMasks, dense_gradients, set_masks
from fbconv.models import build

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
}
KINDS = ("spatial", "interspace", "frozen", "interspace frozen")


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 1, 28, 28, generator=generator), torch.randint(10, (8,), generator=generator)


def network(kind, sparsity=0.9):
    model = build("lenet5", seed=1)
    model = fbconv.interspace(model) if "interspace" in kind else model
    shapes = fbconv.prunable(model)
    masks = fbconv.select({name: torch.rand(shape) for name, shape in shapes.items()}, sparsity, distribution="uniform")
    return fbconv.freeze(model, masks) if "frozen" in kind else fbconv.sparsify(model, masks)


def loss_of(model, seed=0):
    images, labels = batch(seed)
    return nn.functional.cross_entropy(model(images), labels)


def step(model, optimizer):
    optimizer.zero_grad()
    loss = loss_of(model)
    loss.backward()
    optimizer.step()
    return loss.item()


def masks_of(model):
    return {name: model.get_submodule(name.rpartition(".")[0]).pattern.mask() for name in fbconv.prunable(model)}


def dense_state(model, optimizer, name, key):
    """A state of single values, scattered by the layer's pattern."""
    layer = model.get_submodule(name.rpartition(".")[0])
    return layer.pattern.scatter(optimizer.state[layer.values][key])


# --- optimizer state -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chosen", OPTIMIZERS)
def test_surviving_values_keep_their_state_and_grown_ones_start_at_zero(chosen, kind):
    torch.manual_seed(0)
    model = network(kind)
    optimizer = OPTIMIZERS[chosen](model.parameters())
    for _ in range(3):
        step(model, optimizer)
    keys = {"sgd": ["momentum_buffer"], "adam": ["exp_avg", "exp_avg_sq"],
            "adamw": ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]}[chosen]  # fmt: skip
    before = {name: model.get_submodule(name.rpartition(".")[0]).dense_values().detach() for name in masks_of(model)}
    states = {(name, key): dense_state(model, optimizer, name, key) for name in before for key in keys}
    old = masks_of(model)
    new = {name: torch.rand(mask.shape) < 0.2 for name, mask in old.items()}
    set_masks(model, new, optimizer)
    for name, mask in new.items():
        layer = model.get_submodule(name.rpartition(".")[0])
        both = old[name] & mask
        assert torch.equal(layer.pattern.mask(), mask)
        assert torch.equal(layer.dense_values()[both], before[name][both])
        grown = layer.dense_values()[mask & ~old[name]]
        assert torch.equal(grown, layer.frozen[mask & ~old[name]] if "frozen" in kind else torch.zeros_like(grown))
        for key in keys:
            state = dense_state(model, optimizer, name, key)
            assert torch.equal(state, states[name, key] * both)
    parameters = {id(p) for p in model.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == parameters
    assert {id(p) for p in optimizer.state} == parameters
    copy.deepcopy(optimizer.state_dict())
    step(model, optimizer)


def test_steps_after_a_change_are_those_of_a_dense_masked_network():
    """The whole trajectory against dense training with masked gradients, values and momentum."""
    torch.manual_seed(0)
    model = network("spatial")
    dense = fbconv.densify(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model, dense)]
    masks = masks_of(model)
    for i in range(6):
        if i == 3:
            masks = {name: torch.rand(mask.shape) < 0.1 for name, mask in masks.items()}
            set_masks(model, masks, optimizers[0])
        for name, mask in masks.items():
            weight = dense.get_submodule(name.rpartition(".")[0]).weight
            weight.data.mul_(mask)
            if i:
                optimizers[1].state[weight]["momentum_buffer"].mul_(mask)
        step(model, optimizers[0])
        optimizers[1].zero_grad()
        loss_of(dense).backward()
        for name, mask in masks.items():
            dense.get_submodule(name.rpartition(".")[0]).weight.grad.mul_(mask)
        optimizers[1].step()
    for name, mask in masks.items():
        layer = name.rpartition(".")[0]
        expected = dense.get_submodule(layer).weight * mask
        torch.testing.assert_close(model.get_submodule(layer).weight, expected, rtol=1e-3, atol=1e-5)


def test_an_equal_mask_changes_nothing():
    model = network("spatial")
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    step(model, optimizer)
    before = list(model.parameters())
    set_masks(model, masks_of(model), optimizer)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


# --- dense gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_dense_gradients_are_those_of_the_whole_layer(kind):
    model = network(kind).double()
    images, labels = batch()
    whole = copy.deepcopy(model)
    set_masks(whole, {name: torch.ones(shape, dtype=torch.bool) for name, shape in fbconv.prunable(whole).items()})
    nn.functional.cross_entropy(whole(images.double()), labels).backward()
    with dense_gradients(model) as weights:
        nn.functional.cross_entropy(model(images.double()), labels).backward()
    for name, weight in weights.items():
        expected = whole.get_parameter(name).grad.view(weight.shape)
        torch.testing.assert_close(weight.grad, expected)
    for name, parameter in model.named_parameters():
        if name.endswith("values"):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, whole.get_parameter(name).grad)
    torch.testing.assert_close(model(images.double()), whole(images.double()))


def test_dense_gradients_add_up_and_leave_no_trace():
    model = network("interspace")
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    with dense_gradients(model) as weights:
        loss_of(model, 0).backward()
        one = {name: weight.grad.clone() for name, weight in weights.items()}
        loss_of(model, 1).backward()
    with dense_gradients(model) as again:
        loss_of(model, 1).backward()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, one[name] + again[name].grad)
    with pytest.raises(ZeroDivisionError), dense_gradients(model):
        raise ZeroDivisionError
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before


# --- SET and RigL ----------------------------------------------------------------------------------------------------


def counts(model):
    return {name: int(mask.sum()) for name, mask in masks_of(model).items()}


@pytest.mark.parametrize("grow", ["random", "gradient"])
@pytest.mark.parametrize("kind", ["spatial", "interspace"])
def test_updates_drop_the_smallest_and_grow_the_wanted(kind, grow):
    torch.manual_seed(0)
    model = network(kind)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    step(model, optimizer)
    regrowing = RegrowingMasks(model, optimizer, interval=10, end=100, drop_fraction=0.5)
    old, before = masks_of(model), counts(model)
    values = {name: model.get_submodule(name.rpartition(".")[0]).dense_values().detach() for name in old}
    gradients = None
    if grow == "gradient":
        with dense_gradients(model) as weights:
            loss_of(model).backward()
        gradients = {name: weight.grad for name, weight in weights.items()}
    regrowing.update(20, gradients)
    assert counts(model) == before
    for name, mask in masks_of(model).items():
        dropped = int(regrowing.fraction(20) * before[name])
        kept = old[name] & mask
        magnitudes = values[name].abs()
        threshold = magnitudes[old[name]].sort().values[dropped]
        assert mask[old[name] & (magnitudes > threshold)].all()
        grown, left_out = mask & ~old[name], ~mask
        assert before[name] - int(kept.sum()) == int(grown.sum()) <= dropped
        if grow == "gradient":
            wanted = gradients[name].abs()
            assert wanted[grown].min() >= wanted[left_out].max()
        new = model.get_submodule(name.rpartition(".")[0]).dense_values()
        assert torch.equal(new[kept], values[name][kept])
        assert not new[grown].any()


def test_the_share_falls_by_a_cosine_and_ends():
    model = network("spatial")
    regrowing = RegrowingMasks(model, OPTIMIZERS["sgd"](model.parameters()), interval=10, end=100, drop_fraction=0.3)
    assert [s for s in range(130) if regrowing.due(s)] == list(range(10, 100, 10))
    assert regrowing.fraction(0) == 0.3
    assert regrowing.fraction(50) == pytest.approx(0.15)
    assert regrowing.fraction(25) == pytest.approx(0.15 * (1 + math.sqrt(0.5)))
    assert regrowing.fraction(100) == pytest.approx(0)


def test_set_is_repeatable_and_explores():
    after = []
    for _ in range(2):
        torch.manual_seed(0)
        model = network("spatial")
        old = masks_of(model)
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        regrowing = RegrowingMasks(model, optimizer, 1, 10, 0.5, torch.Generator().manual_seed(5))
        for i in range(1, 5):
            regrowing.update(i)
        after.append(masks_of(model))
    for name, mask in after[0].items():
        assert torch.equal(mask, after[1][name])
    assert 0.2 < (after[0]["fc1.values"] & old["fc1.values"]).sum() / old["fc1.values"].sum() < 0.7


@pytest.mark.parametrize("kind", ["spatial", "interspace"])
def test_rigl_trains(kind):
    torch.manual_seed(0)
    model = network(kind, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    regrowing = RegrowingMasks(model, optimizer, interval=4, end=16)
    losses = []
    for i in range(48):
        if regrowing.due(i):
            with dense_gradients(model) as weights:
                loss_of(model).backward()
            regrowing.update(i, {name: weight.grad for name, weight in weights.items()})
            optimizer.zero_grad()
        else:
            losses.append(step(model, optimizer))
    assert losses[-1] < 0.5 * losses[0]


def test_layers_that_do_not_train_stay():
    model = network("spatial")
    model.fc1.values.requires_grad_(False)
    before = masks_of(model)["fc1.values"]
    regrowing = RegrowingMasks(model, OPTIMIZERS["sgd"](model.parameters()), 1, 10)
    regrowing.update(1)
    assert torch.equal(masks_of(model)["fc1.values"], before)
    assert not model.fc1.values.requires_grad


# --- gradual pruning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interspace", [False, True])
def test_gradual_pruning_follows_the_cubic_and_never_revives(interspace):
    model = build("lenet300", seed=1) if not interspace else fbconv.interspace(build("lenet5", seed=1))
    model = fbconv.sparsify(model, {name: torch.ones(shape) for name, shape in fbconv.prunable(model).items()})
    total = sum(counts(model).values())
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    pruning = GradualPruning(model, optimizer, 0.9, start=2, end=9, interval=3)
    due, masks = [], masks_of(model)
    for i in range(12):
        if pruning.due(i):
            due.append(i)
            pruning.update(i)
            q = 0.9 * (1 - (1 - (i - 2) / 7) ** 3)
            assert sum(counts(model).values()) == math.floor((1 - q) * total + 1e-6)
            now = masks_of(model)
            assert not any((now[name] & ~masks[name]).any() for name in now)
            masks = now
        step(model, optimizer)
    assert due == [2, 5, 8, 9]
    assert pruning.sparsity(100) == 0.9
    assert sum(counts(model).values()) == total // 10


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m, o: set_masks(m, {"fc9.values": None}, o), KeyError, "fc9.values.*not the values"),
        (lambda m, o: set_masks(m, {"fc1.bias": None}, o), KeyError, "fc1.bias.*not the values"),
        (lambda m, o: set_masks(m, {"fc1.values": torch.ones(2, 2)}, o), ValueError, r"shape \(500, 800\)"),
        (lambda m, o: RegrowingMasks(m, o, interval=0), ValueError, "interval must be at least 1, got 0"),
        (lambda m, o: RegrowingMasks(m, o, end=0), ValueError, "end must be at least 1, got 0"),
        (lambda m, o: RegrowingMasks(m, o, drop_fraction=0), ValueError, r"drop_fraction must be in \(0, 1\], got 0"),
        (lambda m, o: RegrowingMasks(m, o).update(1, {}), ValueError, "got none for conv1.values"),
        (lambda m, o: GradualPruning(m, o, 0.9, 5, 5), ValueError, "rise from 0, got 5 and 5"),
        (lambda m, o: GradualPruning(m, o, 1.5, 0, 5), ValueError, r"in \[0, 1\], got 1.5"),
        (lambda m, o: GradualPruning(m, o, 0.5, 0, 5, 0), ValueError, "interval must be at least 1, got 0"),
    ],
)
def test_errors(make, error, message):
    model = network("spatial")
    with pytest.raises(error, match=message):
        make(model, OPTIMIZERS["sgd"](model.parameters()))
