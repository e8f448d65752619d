"""One layer, one pass, one operator of ``fbconv bench`` for each benchmark.

    pytest bench/bench_layers.py --benchmark-only --benchmark-json=layers.json

The time that pytest-benchmark reports is ours; ``extra_info`` is the row that ``fbconv bench`` prints, with interleaved
medians and the speed-up.
"""

from __future__ import annotations

import pytest
import torch
from shapes import DEPTHWISE, LINEAR, RESNET50, VGG

import fbconv
from fbconv.benchmark import DIRECTIONS, OPS, Operands, applicable, measure, our_candidate
from fbconv.benchmark.timing import ROUNDS

LAYERS = (*VGG, *RESNET50[2:], *DEPTHWISE, *LINEAR)


@pytest.fixture(scope="module")
def peak() -> float:
    """GFLOP/s of all threads together."""
    return fbconv._C.fma_gflops(0.5) * torch.get_num_threads()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("sparsity", [0.9, 0.99])
@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def bench_layer(benchmark, layer, batch, sparsity, direction, op, peak):
    if not applicable(layer, op):
        pytest.skip(f"{layer.name} has no {op} operator")
    operands = Operands(layer, batch, sparsity)
    (row,) = measure(operands, [op], direction, ROUNDS, [], peak)
    benchmark.extra_info |= row | {"threads": torch.get_num_threads()}
    ours = our_candidate(operands, op, direction)
    benchmark.pedantic(ours.call, setup=ours.before, rounds=ROUNDS, warmup_rounds=2)
