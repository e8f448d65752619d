"""One layer, one pass: our sparse plans against torch's dense convolution in its better memory format.

    pytest bench/bench_layers.py --benchmark-only --benchmark-json=layers.json

The time that pytest-benchmark reports is ours; ``extra_info`` holds the interleaved medians and the speed-up.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from shapes import DEPTHWISE, RESNET50, VGG, Layer
from timing import ROUNDS, interleaved_medians
from torch import Tensor

import fbconv
import fbconv.functional as F

SPARSITIES = (0.9, 0.99)
LAYERS = (*VGG, *RESNET50[2:], *DEPTHWISE)
Call = Callable[[], object]


def operands(layer: Layer, batch: int, sparsity: float) -> tuple[Tensor, Tensor, fbconv.SparsePattern]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.weight_shape, generator=generator)
    keep = torch.rand(layer.weight_shape, generator=generator) >= sparsity
    input = torch.randn(batch, layer.in_channels, layer.size, layer.size, generator=generator)
    return input, weight * keep, fbconv.SparsePattern.from_mask(keep)


def dense_calls(layer: Layer, input: Tensor, weight: Tensor, backward: bool) -> dict[str, Call]:
    def call(memory_format: torch.memory_format) -> Call:
        x = input.contiguous(memory_format=memory_format).requires_grad_(backward)
        w = weight.contiguous(memory_format=memory_format).requires_grad_(backward)
        return passes(lambda: torch.conv2d(x, w, None, layer.stride, layer.padding, 1, layer.groups), backward)

    return {"dense": call(torch.contiguous_format), "dense, channels_last": call(torch.channels_last)}


def passes(forward: Callable[[], Tensor], backward: bool) -> Call:
    if not backward:
        return torch.no_grad()(forward)
    upstream = torch.randn_like(forward())
    return lambda: forward().backward(upstream)


def our_call(op: str, layer: Layer, input: Tensor, weight: Tensor, pattern, backward: bool) -> Call:
    x = input.clone().requires_grad_(backward)
    values = pattern.gather(weight).requires_grad_(backward)
    geometry = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups, "backend": "sparse"}
    if op == "sparse":
        return passes(lambda: F.sparse_conv2d(x, values, pattern, **geometry), backward)
    if op == "frozen":
        return passes(lambda: F.frozen_conv2d(x, weight, values, pattern, **geometry), backward)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(layer.kernel**2, layer.kernel, layer.kernel, generator=generator).requires_grad_(backward)
    coefficients = fbconv.SparsePattern.from_mask(pattern.mask().flatten(2))
    return passes(lambda: F.fb_conv2d(x, basis, values, coefficients, **geometry), backward)


@pytest.mark.parametrize("op", ["sparse", "filter-basis", "frozen"])
@pytest.mark.parametrize("direction", ["forward", "step"])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def bench_layer(benchmark, layer, batch, sparsity, direction, op):
    backward = direction == "step"
    input, weight, pattern = operands(layer, batch, sparsity)
    ours = our_call(op, layer, input, weight, pattern, backward)
    medians = interleaved_medians(dense_calls(layer, input, weight, backward) | {"ours": ours})
    dense = min(seconds for name, seconds in medians.items() if name != "ours")
    benchmark.extra_info |= {
        "layer": layer.name,
        "batch": batch,
        "sparsity": sparsity,
        "direction": direction,
        "op": op,
        "threads": torch.get_num_threads(),
        "median_seconds": medians,
        "speed_up": dense / medians["ours"],
    }
    benchmark.pedantic(ours, rounds=ROUNDS, warmup_rounds=2)
