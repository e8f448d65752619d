"""Shapes nobody thought of: hypothesis draws the geometry, the reference decides."""

import torch
from cases import (
    BASIS_SHARINGS,
    ELEMENTS,
    ConvCase,
    check,
    fb_conv2d_call,
    frozen_conv2d_call,
    linear_call,
    sparse_conv2d_call,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

SETTINGS = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DTYPES = st.sampled_from([torch.float64, torch.float32])
DENSITIES = st.sampled_from([0.0, 0.02, 0.2, 0.7, 1.0])
SEEDS = st.integers(0, 2**31 - 1)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def conv_cases(draw: st.DrawFn) -> ConvCase:
    groups = draw(st.integers(1, 3))
    case = ConvCase(
        "random",
        batch=draw(st.integers(0, 5)),
        inputs=groups * draw(st.integers(1, 5)),
        outputs=groups * draw(st.integers(1, 7)),
        size=draw(st.tuples(st.integers(1, 12), st.integers(1, 36))),
        kernel=draw(pairs(1, 5)),
        stride=draw(pairs(1, 3)),
        padding=draw(pairs(0, 4)),
        dilation=draw(pairs(1, 3)),
        groups=groups,
        bias=draw(st.booleans()),
        density=draw(DENSITIES),
    )
    spans = [d * (k - 1) + 1 for d, k in zip(case.dilation, case.kernel, strict=True)]
    assume(all(n + 2 * p >= span for n, p, span in zip(case.size, case.padding, spans, strict=True)))
    return case


@SETTINGS
@given(case=conv_cases(), dtype=DTYPES, seed=SEEDS, backend=st.sampled_from(["auto", "sparse", "dense"]))
def test_sparse_conv2d(device, case, dtype, seed, backend):
    call = sparse_conv2d_call(case, torch.Generator().manual_seed(seed), device, backend=backend)
    check(call, dtype, device)


@SETTINGS
@given(case=conv_cases(), dtype=DTYPES, seed=SEEDS)
def test_frozen_conv2d(device, case, dtype, seed):
    check(frozen_conv2d_call(case, torch.Generator().manual_seed(seed), device), dtype, device)


@SETTINGS
@given(
    case=conv_cases(),
    dtype=DTYPES,
    seed=SEEDS,
    sharing=st.sampled_from(sorted(BASIS_SHARINGS)),
    elements=st.sampled_from(sorted(ELEMENTS.values())),
    backend=st.sampled_from(["auto", "basis_first", "mix_first", "composed"]),
)
def test_fb_conv2d(device, case, dtype, seed, sharing, elements, backend):
    bases, axis = BASIS_SHARINGS[sharing]
    assume(not bases or (case.inputs if axis == "in" else case.outputs) % bases == 0)
    generator = torch.Generator().manual_seed(seed)
    check(fb_conv2d_call(case, generator, device, sharing, elements, backend=backend), dtype, device)


@SETTINGS
@given(
    lead=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    density=DENSITIES,
    dtype=DTYPES,
    seed=SEEDS,
    frozen=st.booleans(),
    bias=st.booleans(),
)
def test_linear(device, lead, shape, density, dtype, seed, frozen, bias):
    generator = torch.Generator().manual_seed(seed)
    check(linear_call(lead, shape, density, generator, device, frozen, bias), dtype, device)
