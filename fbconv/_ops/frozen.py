"""The frozen operators: torch's dense convolution and linear layer, whose weight gradient is ours (autograd.py)."""

from __future__ import annotations

import torch
from torch.library import impl

from .checks import check_frozen_conv2d, check_frozen_linear
from .fakes import fake
from .torch_conv import conv2d


def _frozen_conv2d(input, weight, values, bias, pattern, stride, padding, dilation, groups):
    check_frozen_conv2d(input, weight, values, bias, pattern, stride, padding, dilation, groups)
    return conv2d(input, weight, bias, stride, padding, dilation, groups)


def _frozen_linear(input, weight, values, bias, pattern):
    check_frozen_linear(input, weight, values, bias, pattern)
    return torch.nn.functional.linear(input, weight, bias)


for _kernel in (_frozen_conv2d, _frozen_linear):
    _name = _kernel.__name__[1:]
    for _overload in ("", ".kernel"):
        impl(f"fbconv::{_name}{_overload}", "default", _kernel)
    fake(_name)(_kernel)
