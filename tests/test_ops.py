"""Every operator and every gradient against the reference, over geometries, layouts and subsets of gradients."""

from itertools import chain, combinations

import pytest
import torch
from cases import (
    BASIS_SHARINGS,
    CONV_CASES,
    ELEMENTS,
    Call,
    ConvCase,
    assert_near,
    check,
    fb_conv2d_call,
    frozen_conv2d_call,
    linear_call,
    randn,
    sparse_conv2d_call,
    with_grad,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

BASE = ConvCase("base", padding=1)
BLOCKS = ConvCase("blocks", inputs=4, outputs=6, padding=1)
LINEAR_SHAPES = {
    "vector": ((), (5, 7), 0.4),
    "matrix": ((6,), (5, 7), 0.4),
    "three_dims": ((2, 3), (5, 7), 0.4),
    "wide": ((3,), (130, 70), 0.05),
    "tall_batch": ((67,), (3, 33), 0.3),
    "one_by_one": ((4,), (1, 1), 1.0),
    "empty_batch": ((0,), (5, 7), 0.4),
    "nnz_0": ((6,), (5, 7), 0.0),
    "full_mask": ((6,), (5, 7), 1.0),
    "mostly_empty_rows": ((6,), (40, 7), 0.02),
}
CALLS = {"sparse_conv2d": sparse_conv2d_call, "frozen_conv2d": frozen_conv2d_call, "fb_conv2d": fb_conv2d_call}


def each_op(generator: torch.Generator, device: torch.device, **options) -> dict[str, Call]:
    """One ordinary call of each operator."""
    return {
        **{name: make(BLOCKS, generator, device, **options) for name, make in CALLS.items()},
        "sparse_linear": linear_call((6,), (5, 7), 0.4, generator, device, **options),
        "frozen_linear": linear_call((6,), (5, 7), 0.4, generator, device, frozen=True, **options),
    }


OPS = ["sparse_conv2d", "frozen_conv2d", "fb_conv2d", "sparse_linear", "frozen_linear"]


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_sparse_conv2d_matches_reference(case, dtype, device, generator):
    check(sparse_conv2d_call(case, generator, device), dtype, device)


@pytest.mark.parametrize("backend", ["sparse", "dense"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_sparse_conv2d_backend_matches_reference(case, backend, device, generator):
    check(sparse_conv2d_call(case, generator, device, backend=backend), torch.float64, device)


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_frozen_conv2d_matches_reference(case, dtype, device, generator):
    check(frozen_conv2d_call(case, generator, device), dtype, device)


@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_fb_conv2d_matches_reference(case, dtype, device, generator):
    check(fb_conv2d_call(case, generator, device), dtype, device)


@pytest.mark.parametrize("backend", ["basis_first", "mix_first", "composed"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_fb_conv2d_backend_matches_reference(case, backend, device, generator):
    check(fb_conv2d_call(case, generator, device, backend=backend), torch.float64, device)


@pytest.mark.parametrize("backend", ["auto", "basis_first", "mix_first", "composed"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("elements", ELEMENTS.values(), ids=ELEMENTS)
@pytest.mark.parametrize("sharing", BASIS_SHARINGS)
def test_fb_conv2d_bases_match_reference(sharing, elements, groups, backend, dtype, device, generator):
    case = ConvCase("bases", inputs=4, outputs=6, groups=groups, padding=(1, 0), stride=(1, 2))
    check(fb_conv2d_call(case, generator, device, sharing, elements, backend=backend), dtype, device)


@pytest.mark.parametrize("backend", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(("lead", "shape", "density"), LINEAR_SHAPES.values(), ids=LINEAR_SHAPES)
def test_sparse_linear_matches_reference(lead, shape, density, bias, backend, dtype, device, generator):
    check(linear_call(lead, shape, density, generator, device, bias=bias, backend=backend), dtype, device)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize(("lead", "shape", "density"), LINEAR_SHAPES.values(), ids=LINEAR_SHAPES)
def test_frozen_linear_matches_reference(lead, shape, density, bias, dtype, device, generator):
    check(linear_call(lead, shape, density, generator, device, frozen=True, bias=bias), dtype, device)


@pytest.mark.parametrize("op", OPS)
def test_gradients_only_where_needed(op, device, generator):
    call = each_op(generator, device)[op]
    names = list(call.operands)
    for needs in chain.from_iterable(combinations(names, count) for count in range(len(names))):
        check(call, torch.float64, device, list(needs))


class Recorder(TorchDispatchMode):
    """Names of the operators that run, and the numbers of elements of what they make."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(func.name())
        made = result if isinstance(result, tuple) else (result,)
        self.sizes += [tensor.numel() for tensor in made if isinstance(tensor, Tensor) and not func.is_view]
        return result


def record_backward(call: Call, needs: list[str], device: torch.device) -> Recorder:
    output = call.run(**with_grad(call.on(device, torch.float64), needs))
    with Recorder() as recorder:
        output.backward(torch.ones_like(output))
    return recorder


@pytest.mark.parametrize(
    ("op", "gradients"),
    [
        ("sparse_conv2d", {"input": "grad_input", "values": "grad_values"}),
        ("fb_conv2d", {"input": "grad_input", "basis": "grad_basis", "values": "grad_values"}),
        ("sparse_linear", {"input": "grad_input", "values": "grad_values"}),
    ],
)
def test_backward_runs_only_the_needed_kernels(op, gradients, device, generator):
    call = each_op(generator, device, backend="sparse")[op]
    for needed, kernel in gradients.items():
        ran = [name for name in record_backward(call, [needed], device).names if "_grad_" in name]
        assert ran == [f"fbconv::{op}_{kernel}.kernel"]


@pytest.mark.parametrize("op", ["frozen_conv2d", "frozen_linear", "sparse_conv2d", "sparse_linear"])
def test_backward_makes_no_dense_weight_gradient(op, device, generator):
    """No tensor of the weight's size appears; the map sizes are chosen to differ from it."""
    elements = 6 * 4 * 3 * 3 if "conv" in op else 5 * 7
    recorder = record_backward(each_op(generator, device, backend="sparse")[op], ["values"], device)
    assert recorder.sizes
    assert elements not in recorder.sizes


@pytest.mark.parametrize("op", CALLS)
def test_channels_last_in_channels_last_out(op, dtype, device, generator):
    call = CALLS[op](BLOCKS, generator, device)
    operands = call.on(device, dtype)
    plain = call.run(**operands)
    operands["input"] = operands["input"].contiguous(memory_format=torch.channels_last).requires_grad_()
    output = call.run(**operands)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert plain.is_contiguous()
    torch.testing.assert_close(output.contiguous(), plain)
    output.backward(torch.ones_like(output))
    assert operands["input"].grad.shape == operands["input"].shape


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same numbers behind other strides and offsets."""
    spread = torch.zeros([2 * size + 1 for size in tensor.shape], dtype=tensor.dtype, device=tensor.device)
    sliced = spread[tuple(slice(1, None, 2) for _ in tensor.shape)]
    sliced.copy_(tensor)
    order = list(range(tensor.dim()))[::-1]
    transposed = tensor.permute(order).contiguous().permute(order)
    views = {"sliced": sliced, "transposed": transposed}
    if tensor.dim() == 4:
        views["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    return views


@pytest.mark.parametrize("op", OPS)
def test_any_strides(op, dtype, device, generator):
    call = each_op(generator, device)[op]
    operands = call.on(device, dtype)
    plain = with_grad(operands)
    output = call.run(**plain)
    upstream = randn(generator, *output.shape).to(device, dtype)
    output.backward(upstream)
    # Every operand and the upstream gradient, one at a time, in every layout.
    views = [(name, view) for name, value in operands.items() for view in layouts(value).values()]
    views += [("upstream", view) for view in layouts(upstream).values()]
    for changed, view in views:
        leaves = with_grad(operands)
        inputs = leaves | ({} if changed == "upstream" else {changed: view.detach().requires_grad_()})
        result = call.run(**inputs)
        result.backward(view if changed == "upstream" else upstream)
        assert_near(result, output.double().cpu(), f"output, strided {changed}")
        for name, operand in inputs.items():
            assert_near(operand.grad, plain[name].grad.double().cpu(), f"gradient of {name}, strided {changed}")


@pytest.mark.parametrize("op", OPS)
def test_expanded_input_and_gradient(op, device, generator):
    call = each_op(generator, device)[op]
    operands = call.on(device, torch.float64)
    first = operands["input"][:1]
    repeated, expanded = first.repeat(3, *[1] * (first.dim() - 1)), first.expand(3, *first.shape[1:])
    outputs = [call.run(**operands | {"input": value.requires_grad_()}) for value in (repeated, expanded.detach())]
    torch.testing.assert_close(*outputs)
    values = [operands["values"].clone().requires_grad_() for _ in range(2)]
    grads = []
    for leaf, reduce in zip(values, (Tensor.sum, lambda y: (y * torch.ones_like(y)).sum()), strict=True):
        # sum() sends an expanded scalar back.
        reduce(call.run(**operands | {"values": leaf})).backward()
        grads.append(leaf.grad)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("case", [c for c in CONV_CASES if c.batch], ids=str)
@pytest.mark.parametrize("op", CALLS)
def test_adjoint_identities(op, case, device, generator):
    """<Y, dY> = <X, dX> = <w, dw> (= <g, dg>): the map is linear in each operand, checked without any reference."""
    case = ConvCase(**{**vars(case), "bias": False, "name": case.name})
    call = CALLS[op](case, generator, device)
    operands = with_grad(call.on(device, torch.float64))
    output = call.run(**operands)
    upstream = randn(generator, *output.shape).to(device)
    output.backward(upstream)
    product = (output * upstream).sum()
    linear = ["input"] if op == "frozen_conv2d" else list(operands)
    for name in linear:
        torch.testing.assert_close((operands[name] * operands[name].grad).sum(), product, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", OPS)
def test_gradcheck(op, device, generator):
    if op in CALLS:
        case = ConvCase("tiny", batch=2, inputs=2, outputs=2, size=(4, 3), kernel=(2, 2), padding=(1, 0), stride=(1, 2))
        call = CALLS[op](case, generator, device)
    else:
        call = linear_call((3,), (3, 4), 0.5, generator, device, frozen=op == "frozen_linear")
    leaves = with_grad(call.on(device, torch.float64))
    assert torch.autograd.gradcheck(lambda *tensors: call.run(*tensors), tuple(leaves.values()))


@pytest.mark.parametrize(("op", "backend"), [("sparse_conv2d", "dense"), ("fb_conv2d", "composed")])
def test_dense_plans_are_twice_differentiable(op, backend, device, generator):
    case = ConvCase("tiny", inputs=2, outputs=2, size=(3, 3), kernel=(2, 2), padding=(1, 0), stride=(1, 2))
    call = CALLS[op](case, generator, device, backend=backend)
    leaves = with_grad(call.on(device, torch.float64))
    assert torch.autograd.gradgradcheck(lambda *tensors: call.run(*tensors), tuple(leaves.values()))


@pytest.mark.parametrize("op", OPS)
def test_sparse_plans_are_twice_differentiable(op, device, generator):
    """A mixed second derivative through every gradient kernel, as a Hessian-vector product takes it."""
    call = each_op(generator, device, backend="sparse")[op]
    actual, exact = with_grad(call.on(device, torch.float64)), with_grad(call.operands)

    def second(run, leaves):
        (grad,) = torch.autograd.grad(run(**leaves).pow(3).sum(), leaves["values"], create_graph=True)
        return torch.autograd.grad(grad.square().sum(), leaves["input"])[0]

    assert_near(second(call.run, actual), second(call.expected, exact), "second derivative")


@pytest.mark.parametrize("op", OPS)
def test_repeated_calls_are_bit_identical(op, device, generator):
    call = each_op(generator, device)[op]
    runs = []
    with torch.random.fork_rng():
        torch.use_deterministic_algorithms(True)
        try:
            for _ in range(2):
                operands = with_grad(call.on(device, torch.float32))
                output = call.run(**operands)
                output.square().sum().backward()
                runs.append([output, *(operand.grad for operand in operands.values())])
        finally:
            torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("op", OPS)
def test_autocast(op, dtype, device, generator):
    """Under autocast the result has the lower dtype and float32 operands get float32 gradients."""
    call = each_op(generator, device)[op]
    operands = with_grad(call.on(device, torch.float32))
    with torch.autocast(device.type, dtype=dtype):
        output = call.run(**operands)
    assert output.dtype == dtype
    assert_near(output, call.expected(**call.operands), "output")
    output.float().sum().backward()
    assert {operand.grad.dtype for operand in operands.values()} == {torch.float32}
