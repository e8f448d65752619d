"""Geometries, random operands and the comparison that the operator tests share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fbconv import SparsePattern, reference
from fbconv import functional as F

Pair = int | tuple[int, int]


@dataclass(frozen=True)
class ConvCase:
    """One convolution; ``density`` is the expected share of True in the mask."""

    name: str
    batch: int = 2
    inputs: int = 3
    outputs: int = 4
    size: tuple[int, int] = (7, 9)
    kernel: tuple[int, int] = (3, 3)
    stride: Pair = 1
    padding: Pair = 0
    dilation: Pair = 1
    groups: int = 1
    bias: bool = True
    density: float = 0.3

    @property
    def geometry(self) -> dict[str, Pair]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.outputs, self.inputs // self.groups, *self.kernel)

    def __str__(self) -> str:
        return self.name


CONV_CASES = [
    ConvCase("odd_map", padding=1),
    ConvCase("even_map", size=(8, 8), padding=1),
    ConvCase("no_padding_no_bias", bias=False),
    ConvCase("wider_than_two_vectors", size=(3, 37), padding=1),
    ConvCase("width_of_one_vector", size=(5, 16), padding=1, outputs=9),
    ConvCase("row_and_column_maps", size=(1, 11), padding=1),
    ConvCase("column_map", size=(11, 1), padding=1),
    ConvCase("many_channels", batch=1, inputs=37, outputs=35, size=(6, 5), padding=1, density=0.1),
    ConvCase("batch_of_17", batch=17, size=(4, 4), padding=1, inputs=5, outputs=6),
    ConvCase("stride", stride=2, padding=1),
    ConvCase("stride_pair", size=(9, 8), stride=(2, 3), padding=(1, 0)),
    ConvCase("stride_over_kernel", size=(11, 12), kernel=(2, 2), stride=(4, 5)),
    ConvCase("dilation", size=(9, 10), dilation=2, padding=2),
    ConvCase("all_pairs", size=(12, 13), kernel=(3, 2), stride=(2, 1), padding=(1, 3), dilation=(2, 3)),
    ConvCase("padding_over_kernel", size=(3, 4), kernel=(2, 3), padding=(4, 5)),
    ConvCase("kernel_fills_padded_map", size=(4, 3), kernel=(6, 5), padding=1),
    ConvCase("kernel_larger_than_map", size=(2, 3), kernel=(5, 5), padding=2),
    ConvCase("groups", inputs=4, outputs=6, groups=2, padding=1),
    ConvCase("groups_stride_dilation", inputs=6, outputs=3, groups=3, size=(10, 9), stride=2, padding=2, dilation=2),
    ConvCase("depthwise", inputs=5, outputs=5, groups=5, padding=1, density=0.6),
    ConvCase("depthwise_multiplier", inputs=3, outputs=6, groups=3, padding=1, stride=2, density=0.6),
    ConvCase("pointwise", kernel=(1, 1), inputs=9, outputs=7),
    ConvCase("pointwise_stride", kernel=(1, 1), inputs=9, outputs=7, stride=2),
    ConvCase("pointwise_padded", kernel=(1, 1), padding=1),
    ConvCase("5x5", kernel=(5, 5), padding=2, density=0.1),
    ConvCase("7x7_stem", inputs=3, kernel=(7, 7), size=(15, 14), stride=2, padding=3, density=0.1),
    ConvCase("1x3", kernel=(1, 3), padding=(0, 1)),
    ConvCase("3x1", kernel=(3, 1), padding=(1, 0)),
    ConvCase("single_channels", inputs=1, outputs=1, padding=1),
    ConvCase("empty_batch", batch=0, padding=1),
    ConvCase("nnz_0", padding=1, density=0.0),
    ConvCase("nnz_0_no_bias", padding=1, density=0.0, bias=False),
    ConvCase("full_mask", padding=1, density=1.0, inputs=5, outputs=6),
    ConvCase("mostly_empty_rows", padding=1, density=0.02, outputs=13),
]

# name -> (bases, axis): one shared basis (3-D), and blocks of neighbouring channels.
BASIS_SHARINGS = {"shared": (None, "in"), "in_blocks": (2, "in"), "out_blocks": (2, "out"), "in_all": (0, "in")}
ELEMENTS = {"under": -1, "complete": 0, "over": 2}


def randn(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def random_mask(generator: torch.Generator, shape: Sequence[int], density: float) -> Tensor:
    return torch.rand(tuple(shape), generator=generator) < density


@dataclass
class Call:
    """An operator's call on random float64 operands: ``run`` is fbconv's, ``expected`` the reference's.

    ``operands`` are the differentiable ones, in the order in which both functions take them.
    """

    run: Callable[..., Tensor]
    expected: Callable[..., Tensor]
    operands: dict[str, Tensor]

    def on(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        return {name: value.to(device, dtype) for name, value in self.operands.items()}


def sparse_conv2d_call(case: ConvCase, generator: torch.Generator, device: torch.device, **options) -> Call:
    mask = random_mask(generator, case.weight_shape, case.density)
    pattern = SparsePattern.from_mask(mask).to(device)
    operands = conv_operands(case, int(mask.sum()), generator)

    def run(input, values, bias=None):
        return F.sparse_conv2d(input, values, pattern, bias, **case.geometry, **options)

    def expected(input, values, bias=None):
        return reference.sparse_conv2d(input, values, mask, bias, **case.geometry)

    return Call(run, expected, operands)


def frozen_conv2d_call(case: ConvCase, generator: torch.Generator, device: torch.device, **options) -> Call:
    mask = random_mask(generator, case.weight_shape, case.density)
    pattern = SparsePattern.from_mask(mask).to(device)
    frozen = randn(generator, *case.weight_shape)
    operands = conv_operands(case, int(mask.sum()), generator)

    def run(input, values, bias=None):
        return F.frozen_conv2d(input, frozen.to(input), values, pattern, bias, **case.geometry, **options)

    def expected(input, values, bias=None):
        return reference.frozen_conv2d(input, frozen, values, mask, bias, **case.geometry)

    return Call(run, expected, operands)


def fb_conv2d_call(
    case: ConvCase,
    generator: torch.Generator,
    device: torch.device,
    sharing: str = "shared",
    elements: int = 0,
    **options,
) -> Call:
    """``elements`` is counted from a complete basis, kernel_height * kernel_width."""
    bases, axis = BASIS_SHARINGS[sharing]
    bases = case.inputs if bases == 0 else bases
    count = max(1, case.kernel[0] * case.kernel[1] + elements)
    mask = random_mask(generator, (case.outputs, case.inputs // case.groups, count), case.density)
    pattern = SparsePattern.from_mask(mask).to(device)
    basis = randn(generator, *([bases] if bases else []), count, *case.kernel)
    operands = conv_operands(case, int(mask.sum()), generator)
    operands = {"input": operands.pop("input"), "basis": basis, **operands}

    def run(input, basis, values, bias=None):
        return F.fb_conv2d(input, basis, values, pattern, bias, **case.geometry, basis_axis=axis, **options)

    def expected(input, basis, values, bias=None):
        return reference.fb_conv2d(input, basis, values, mask, bias, **case.geometry, basis_axis=axis)

    return Call(run, expected, operands)


def conv_operands(case: ConvCase, nnz: int, generator: torch.Generator) -> dict[str, Tensor]:
    operands = {
        "input": randn(generator, case.batch, case.inputs, *case.size),
        "values": randn(generator, nnz),
    }
    return operands | ({"bias": randn(generator, case.outputs)} if case.bias else {})


def linear_call(
    lead: tuple[int, ...],
    shape: tuple[int, int],
    density: float,
    generator: torch.Generator,
    device: torch.device,
    frozen: bool = False,
    bias: bool = True,
    **options,
) -> Call:
    """``lead`` are the input's dimensions before its features, ``shape`` is (out_features, in_features)."""
    mask = random_mask(generator, shape, density)
    pattern = SparsePattern.from_mask(mask).to(device)
    weight = randn(generator, *shape)
    operands = {"input": randn(generator, *lead, shape[1]), "values": randn(generator, int(mask.sum()))}
    operands |= {"bias": randn(generator, shape[0])} if bias else {}

    def run(input, values, bias=None):
        if frozen:
            return F.frozen_linear(input, weight.to(input), values, pattern, bias, **options)
        return F.sparse_linear(input, values, pattern, bias, **options)

    def expected(input, values, bias=None):
        if frozen:
            return reference.frozen_linear(input, weight, values, mask, bias)
        return reference.sparse_linear(input, values, mask, bias)

    return Call(run, expected, operands)


def with_grad(operands: dict[str, Tensor], needs: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Detached copies that require a gradient, all of them or those named in ``needs``."""
    names = operands if needs is None else needs
    return {name: value.detach().clone().requires_grad_(name in names) for name, value in operands.items()}


def assert_near(actual: Tensor, expected: Tensor, what: str, slack: float = 1) -> None:
    """Compares with a float64 reference: a few roundings of the sums, whose terms are of size 1, or for long sums
    ``slack`` times as many; zeros are exact."""
    relative = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}[
        actual.dtype
    ] * slack
    scale = expected.abs().max().item() if expected.numel() else 0.0
    message = f"{what} ({tuple(actual.shape)}, {actual.dtype})"
    assert actual.shape == expected.shape, f"{message}: expected shape {tuple(expected.shape)}"
    torch.testing.assert_close(
        actual.detach().cpu().double(),
        expected.detach(),
        rtol=relative,
        atol=relative * max(scale, 1.0) if scale else 0.0,
        msg=lambda text: f"{message}: {text}",
    )


def check(
    call: Call, dtype: torch.dtype, device: torch.device, needs: Sequence[str] | None = None, slack: float = 1
) -> None:
    """Output and every needed gradient against the reference in float64; no other gradient may appear."""
    # The reference starts from the operands as the dtype holds them, so only the operator's own rounding counts.
    exact = with_grad({name: value.to(dtype).double() for name, value in call.operands.items()}, needs)
    actual = with_grad(call.on(device, dtype), needs)
    expected, output = call.expected(**exact), call.run(**actual)
    assert output.dtype == dtype
    assert_near(output, expected, "output", slack)
    if not output.requires_grad:
        assert needs == []
        return
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
    expected.backward(upstream.double())
    output.backward(upstream.to(device))
    for name, operand in actual.items():
        if not operand.requires_grad:
            assert operand.grad is None, f"{name} needs no gradient and got one"
            continue
        assert operand.grad is not None, f"{name} got no gradient"
        assert_near(operand.grad, exact[name].grad, f"gradient of {name}", slack)
