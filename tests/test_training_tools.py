"""torch's tools around a training loop do with compressed models what they do with dense ones."""

import copy
from contextlib import nullcontext

import pytest
import torch
from conversions import frozen, pruned
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import fbconv

pytestmark = pytest.mark.usefixtures("one_thread")


def interspace(model):
    return fbconv.interspace(model, linear_block=3)


def pruned_interspace(model):
    return pruned(interspace(model))


def frozen_interspace(model):
    return frozen(interspace(model))


@pytest.fixture(params=[pruned, frozen, interspace, pruned_interspace, frozen_interspace], ids=lambda f: f.__name__)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=3), nn.Tanh())
        head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 3))
        return request.param(nn.Sequential(stem, head))


IMAGES = torch.randn(8, 2, 7, 7, generator=torch.Generator().manual_seed(2))
LABELS = torch.arange(8) % 3


def loss_of(model, images=IMAGES, labels=LABELS):
    return nn.functional.cross_entropy(model(images), labels)


def grads(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def near(actual, expected, rtol=1e-4, atol=1e-6):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def full_gradients(model):
    model.zero_grad()
    loss_of(model).backward()
    return grads(model)


def test_gradients_are_those_of_the_dense_model(model):
    """What the tests below compare with: of the spatial models, the dense model's gradients at the pattern."""
    mine = full_gradients(model)
    dense = fbconv.densify(model)
    theirs = full_gradients(dense)
    for name, layer in model.named_modules():
        if isinstance(layer, fbconv.nn.Compressed):
            near(mine[f"{name}.bias"], theirs[f"{name}.bias"])
            weight = theirs[f"{name}.weight"]
            if isinstance(layer, fbconv.nn.FBConv2d):
                weight = torch.autograd.grad(layer.weight, layer.values, weight)[0]
                near(mine[f"{name}.values"], weight)
            else:
                near(mine[f"{name}.values"], layer.pattern.gather(weight))


def rounded(actual, exact):
    """As near as numbers of 8 bits allow."""
    assert actual.dtype == exact.dtype
    assert float((actual - exact).norm()) < 0.1 * float(exact.norm())


# --- gradient accumulation and checkpointing --------------------------------------------------------------------------


def test_accumulated_gradients_are_those_of_one_batch(model):
    expected = full_gradients(model)
    model.zero_grad()
    for images, labels in zip(IMAGES.split(2), LABELS.split(2), strict=True):
        (loss_of(model, images, labels) / 4).backward()
    for name, grad in grads(model).items():
        near(grad, expected[name])


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gradients_are_the_plain_ones(model, reentrant):
    expected = full_gradients(model)
    model.zero_grad()
    calls = []
    model[0].register_forward_pre_hook(lambda *_: calls.append(1))
    images = IMAGES.clone().requires_grad_()  # the reentrant kind needs an input with a gradient
    features = checkpoint(model[0], images, use_reentrant=reentrant)
    nn.functional.cross_entropy(model[1](features), LABELS).backward()
    assert len(calls) == 2, "run again in the backward pass"
    for name, grad in grads(model).items():
        near(grad, expected[name])


# --- mixed precision --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_what_the_dense_model_does(model, dtype):
    dense = fbconv.densify(model)
    with torch.autocast("cpu", dtype):
        actual, expected = model(IMAGES), dense(IMAGES)
        loss = loss_of(model)
    assert actual.dtype == expected.dtype == dtype
    near(actual, expected, rtol=0.05, atol=0.02)
    assert not torch.equal(actual.float(), model(IMAGES)), "autocast did something"
    exact = full_gradients(model)
    model.zero_grad()
    loss.backward()
    for name, grad in grads(model).items():
        rounded(grad, exact[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradient_scaling(model, dtype):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exact, before = full_gradients(model), {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype):
        loss = loss_of(model)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    for name, grad in grads(model).items():
        rounded(grad, exact[name])
    applied = grads(model)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**13
    for name, parameter in model.named_parameters():
        near(parameter, before[name] - 0.1 * applied[name])


def test_gradients_that_overflow_skip_the_step(model):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    scaler.scale(loss_of(model) * 1e4).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**119
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- averaged models --------------------------------------------------------------------------------------------------

DECAY = 0.75


def averaging(model, **options):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), **options)


def step(model, optimizer):
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.step()


def dense_state(model):
    """All parameters, values as dense tensors."""
    layers = {f"{name}.values": layer for name, layer in model.named_modules() if hasattr(layer, "dense_values")}
    return {
        name: (layers[name].dense_values() if name in layers else parameter).detach().clone()
        for name, parameter in model.named_parameters()
    }


def lerped(average, state):
    return {name: DECAY * average[name] + (1 - DECAY) * tensor for name, tensor in state.items()}


def test_averages_are_those_of_the_dense_tensors(model):
    average = averaging(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    average.update_parameters(model)
    expected = dense_state(model)
    for _ in range(3):
        step(model, optimizer)
        average.update_parameters(model)
        expected = lerped(expected, dense_state(model))
    for name, tensor in dense_state(average.module).items():
        near(tensor, expected[name])
    near(average(IMAGES), fbconv.densify(average.module)(IMAGES))
    assert not torch.equal(average(IMAGES), model(IMAGES))


def moved(model):
    """Masks of as many values at other places."""
    return {
        f"{name}.values": layer.pattern.mask().flatten().roll(1).view(layer.pattern.shape)
        for name, layer in model.named_modules()
        if hasattr(layer, "values")
    }


def test_masks_that_change_take_the_average_along(model):
    average = averaging(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    average.update_parameters(model)
    step(model, optimizer)
    fbconv.dynamic.set_masks(model, moved(model), optimizer)
    expected = dense_state(average.module)
    for name, mask in moved(average.module).items():
        layer = average.module.get_submodule(name.removesuffix(".values"))
        start = 0 if layer.frozen is None else layer.frozen
        expected[name] = torch.where(mask & layer.pattern.mask(), expected[name], start)
    fbconv.dynamic.match_masks(average, model)
    step(model, optimizer)
    average.update_parameters(model)
    expected = lerped(expected, dense_state(model))
    for name, tensor in dense_state(average.module).items():
        near(tensor, expected[name])
    near(average(IMAGES), fbconv.densify(average.module)(IMAGES))


def test_an_average_of_other_masks_is_refused(model):
    """Values of one place were averaged with those of another."""
    others = not all(bool(mask.all()) for mask in moved(model).values())  # where all is kept, there are none of as many
    average = averaging(model)
    average.update_parameters(model)
    fbconv.dynamic.set_masks(model, moved(model))
    average.update_parameters(model)
    for use in (lambda: average(IMAGES), lambda: fbconv.densify(average.module), lambda: fbconv.prunable(average)):
        message = "indices must be the positions of the values.*match_masks"
        with pytest.raises(RuntimeError, match=message) if others else nullcontext():
            use()


def test_averaged_buffers_are_right_or_refused(model):
    """Averaging whole numbers in floating point rounds some positions down."""
    average = averaging(model, use_buffers=True)
    for _ in range(3):
        average.update_parameters(model)
    same = all(map(torch.equal, average.module.buffers(), model.buffers()))
    with nullcontext() if same else pytest.raises(RuntimeError, match="use_buffers=True"):
        near(average(IMAGES), model(IMAGES))


def test_a_copied_pattern_may_be_written_over_by_itself(model):
    twin = copy.deepcopy(model)
    for mine, theirs in zip(twin.buffers(), model.buffers(), strict=True):
        mine.copy_(theirs)
    assert torch.equal(twin(IMAGES), model(IMAGES))


def test_models_made_in_inference_mode():
    with torch.inference_mode():
        layer = fbconv.nn.SparseConv2d(2, 2, 3)
        near(layer(IMAGES), layer.to_dense()(IMAGES))


def test_parameter_groups_hold_every_parameter_once(model):
    decayed, rest = fbconv.parameter_groups(model, 0.1)
    assert {id(p) for p in decayed["params"]} == {id(p) for name, p in model.named_parameters() if "values" in name}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(model.parameters()))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([decayed, rest], lr=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        near(parameter, before[name] * (0.9 if "values" in name else 1))
