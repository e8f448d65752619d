"""The frozen operators: torch's dense convolution and linear layer, whose weight gradient is ours (autograd.py)."""

from __future__ import annotations

import torch
from torch.library import impl, register_fake

from .checks import check_frozen_conv2d, check_frozen_linear


@impl("fbconv::frozen_conv2d", "default")
def _frozen_conv2d(input, weight, values, bias, pattern, stride, padding, dilation, groups):
    check_frozen_conv2d(input, weight, values, bias, pattern, stride, padding, dilation, groups)
    return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)


@impl("fbconv::frozen_linear", "default")
def _frozen_linear(input, weight, values, bias, pattern):
    check_frozen_linear(input, weight, values, bias, pattern)
    return torch.nn.functional.linear(input, weight, bias)


register_fake("fbconv::frozen_conv2d", _frozen_conv2d)
register_fake("fbconv::frozen_linear", _frozen_linear)
