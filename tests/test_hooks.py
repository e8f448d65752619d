"""Hooks on a layer go with it, or are refused."""

import pytest
import torch
from conversions import CONVERSIONS, masks_of, near, pruned
from torch import nn

import fbconv
import fbconv.nn as fnn

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


@pytest.mark.parametrize("convert", [*CONVERSIONS, lambda model: fbconv.densify(pruned(model))])
def test_hooks_go_with_the_layer(convert):
    model = nn.Sequential(nn.Linear(4, 4))
    calls = []
    model[0].register_forward_hook(lambda module, args, kwargs, output: calls.append("kwargs"), with_kwargs=True)
    model[0].register_forward_hook(lambda module, args, output: output + 1)
    model[0].register_forward_hook(lambda module, args, output: calls.append("first"), prepend=True)
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    model[0].register_forward_pre_hook(lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True)
    model[0].register_full_backward_hook(lambda module, inputs, outputs: calls.append("backward"))
    model[0].register_full_backward_pre_hook(lambda module, outputs: (outputs[0] * 3,))
    x = torch.randn(2, 4, requires_grad=True)
    converted = convert(model)
    converted(x).sum().backward()
    assert calls == [{}, "first", "kwargs", "backward"]
    plain = nn.functional.linear(x * 2, converted[0].weight, converted[0].bias) + 1
    near(converted(x), plain)
    near(x.grad, torch.autograd.grad(plain.sum() * 3, x)[0])


def test_hooks_that_always_run():
    model, calls = nn.Sequential(nn.Linear(4, 4)), []
    model[0].register_forward_hook(lambda *_: calls.append("always"), always_call=True)
    with pytest.raises(RuntimeError):
        pruned(model)(torch.randn(2, 3))
    assert calls == ["always"]


def test_handles_still_remove_their_hooks():
    model, calls = nn.Sequential(nn.Linear(4, 4)), []
    handles = [
        model[0].register_forward_hook(lambda *_: calls.append("forward")),
        model[0].register_forward_pre_hook(lambda *_: calls.append("before")),
    ]
    fbconv.sparsify(model, masks_of(model), inplace=True)
    model(torch.randn(1, 4))
    for handle in handles:
        handle.remove()
    model(torch.randn(1, 4))
    assert calls == ["before", "forward"]


REGISTER = {
    "state_dict hook": lambda module: module.register_state_dict_post_hook(lambda *_: None),
    "state_dict pre-hook": lambda module: module.register_state_dict_pre_hook(lambda *_: None),
    "load_state_dict pre-hook": lambda module: module.register_load_state_dict_pre_hook(lambda *_: None),
    "load_state_dict post-hook": lambda module: module.register_load_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("what", REGISTER)
def test_hooks_on_the_state_dict_are_refused(what):
    model = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    handle = REGISTER[what](model[1])
    for convert in CONVERSIONS:
        with pytest.raises(ValueError, match=rf"layer '1' \(Linear\) has a {what}"):
            convert(model)
    assert type(model[1]) is nn.Linear
    handle.remove()
    assert isinstance(pruned(model)[1], fnn.SparseLinear)
