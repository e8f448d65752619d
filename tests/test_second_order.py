"""Gradients of gradients: every operator, its gradient operators included, against finite differences."""

import pytest
from raw_ops import ALL, op, raw_calls
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fbconv._ops.call import functions

# The embedded weight of a frozen layer gets no gradient of its own: values carry it.
UNDIFFERENTIATED = {"frozen_conv2d": {1}, "frozen_linear": {1}}


def leaves(name: str, args: tuple) -> list[int]:
    skipped = UNDIFFERENTIATED.get(name, set())
    floating = [i for i, arg in enumerate(args) if isinstance(arg, Tensor) and arg.is_floating_point()]
    return [i for i in floating if i not in skipped]


ROUTES = {"dispatcher": op, "eager": lambda name: functions[op(name)].apply}
every_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)


@every_route
@pytest.mark.parametrize("name", [name for name in ALL if "frozen" not in name])
def test_first_and_second_derivatives(name, route, device, generator):
    args = raw_calls(generator, device)[name]
    places = leaves(name, args)

    def call(*tensors: Tensor) -> Tensor:
        replaced = dict(zip(places, tensors, strict=True))
        return route(name)(*(replaced.get(i, arg) for i, arg in enumerate(args)))

    tensors = [args[i].clone().requires_grad_() for i in places]
    assert gradcheck(call, tensors, fast_mode=True)
    assert gradgradcheck(call, tensors, fast_mode=True)


@every_route
@pytest.mark.parametrize("name", ["frozen_conv2d", "frozen_linear"])
def test_second_derivatives_through_the_embedded_weight(name, route, device, generator):
    """As the functional calls use it: the weight is embedded from the same values that carry the gradient."""
    args = list(raw_calls(generator, device)[name])
    input, frozen, values, pattern = args[0], args[1], args[2], args[4]

    def call(input: Tensor, values: Tensor) -> Tensor:
        weight = route("embed")(values, frozen, pattern, list(frozen.shape))
        return route(name)(input, weight, values, *args[3:])

    tensors = [input.clone().requires_grad_(), values.clone().requires_grad_()]
    assert gradgradcheck(call, tensors, fast_mode=True)
