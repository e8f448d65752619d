"""Random calls of the operators, each decided by its seed, against the reference: outputs, gradients, second ones.

``python tests/trust/random_calls.py SEED`` repeats the one that a failure names; a second number, that many from there.
"""

from __future__ import annotations

import faulthandler
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from cases import (
    BASIS_SHARINGS,
    ELEMENTS,
    Call,
    ConvCase,
    assert_near,
    check,
    fb_conv2d_call,
    frozen_conv2d_call,
    linear_call,
    randn,
    random_mask,
    sparse_conv2d_call,
    with_grad,
)

from fbconv import SparsePattern, reference
from fbconv import functional as F

CPU = torch.device("cpu")
DTYPES = [torch.float64, torch.float32, torch.float32]
# Longer sums are rounded as torch's are wherever a plan is torch's, which for half precision leaves little.
SHORT_SUMS, HALVES = 3000, [torch.bfloat16, torch.float16]
DENSITIES = [0.0, 0.02, 0.1, 0.3, 0.7, 1.0]
ROUTES = ["functions", "functions", "dispatcher"]


@dataclass
class Drawn:
    """A call, what to ask of it, and how to say so."""

    call: Call
    dtype: torch.dtype
    needs: list[str] | None
    short: bool  # are its sums
    second_order: bool
    route: str
    threads: int
    about: str


def draw(seed: int) -> Drawn:
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    about, call = rng.choice(KINDS)(rng, generator)
    layouts = {name: rng.choice(LAYOUTS[value.dim()]) for name, value in call.operands.items()}
    short = max(value.numel() for value in call.operands.values()) < SHORT_SUMS
    finish = rng.choice([name for name in FINISHES if short or name != "summed"])
    needs = None if rng.random() < 0.6 else [name for name in call.operands if rng.random() < 0.5]
    drawn = Drawn(
        laid_out(call, layouts, FINISHES[finish]),
        dtype=rng.choice([*DTYPES, *HALVES] if short else DTYPES),
        needs=needs,
        short=short,
        second_order=rng.random() < 0.1,
        route=rng.choice(ROUTES),
        threads=rng.choice([1, 2]),
        about=about,
    )
    placed = {name: layout.__name__ for name, layout in layouts.items()}
    drawn.about += f", {drawn.dtype}, operands {placed}, result {finish}, gradients of {needs or 'all'}, "
    drawn.about += f"{'second order, ' * drawn.second_order}by {drawn.route}, {drawn.threads} threads"
    return drawn


def run(seed: int) -> None:
    """Raises an error that names the seed unless the call is right."""
    drawn = draw(seed)
    torch.set_num_threads(drawn.threads)
    by = through_dispatcher if drawn.route == "dispatcher" else F.call
    try:
        with patch.object(F, "call", by):
            if drawn.second_order:
                check_second_order(drawn.call)
            else:
                check(drawn.call, drawn.dtype, CPU, drawn.needs, slack=1 if drawn.short else 4)
    except Exception as error:
        raise AssertionError(f"seed {seed}: {drawn.about}: {error}") from error


# Shapes.


def conv_case(rng: random.Random, **changes: object) -> ConvCase:
    """Small, long and thin, or degenerate; always with an output, which may be of an empty batch."""
    case = replace(rng.choice([small, long, degenerate])(rng), **changes)
    spans = [d * (k - 1) + 1 for d, k in zip(pair(case.dilation), case.kernel, strict=True)]
    padded = [n + 2 * p for n, p in zip(case.size, pair(case.padding), strict=True)]
    short = [max(0, span - size) for span, size in zip(spans, padded, strict=True)]
    case = replace(case, size=tuple(n + more for n, more in zip(case.size, short, strict=True)))
    return replace(case, bias=rng.random() < 0.6, density=rng.choice(DENSITIES))


def pair(option: int | tuple[int, int]) -> tuple[int, int]:
    return option if isinstance(option, tuple) else (option, option)


def small(rng: random.Random) -> ConvCase:
    groups = rng.choice([1, 1, 2, 3])
    return ConvCase(
        "small",
        batch=rng.randint(1, 6),
        inputs=groups * rng.randint(1, 6),
        outputs=groups * rng.randint(1, 9),
        size=(rng.randint(1, 12), rng.randint(1, 40)),
        kernel=(rng.randint(1, 5), rng.randint(1, 5)),
        stride=(rng.randint(1, 3), rng.randint(1, 3)),
        padding=(rng.randint(0, 4), rng.randint(0, 4)),
        dilation=(rng.randint(1, 3), rng.randint(1, 3)),
        groups=groups,
    )


def long(rng: random.Random) -> ConvCase:
    """One size in the thousands, the others tiny."""
    kernel, padding = rng.choice([((1, 1), 0), ((3, 3), 1), ((1, 3), (0, 1)), ((3, 1), 0)])
    few = {"inputs": rng.randint(1, 2), "outputs": rng.randint(1, 2), "kernel": kernel, "padding": padding}
    few["stride"] = rng.choice([1, 1, 2, (1, 7)])
    many = rng.randint(1000, 3000)
    axis = rng.choice(["batch", "height", "width", "inputs", "outputs", "groups", "taps"])
    if axis == "batch":
        return ConvCase("long batch", batch=many, size=(3, 3), **few)
    if axis in ("height", "width"):
        size = (many, rng.randint(3, 4)) if axis == "height" else (rng.randint(3, 4), many)
        return ConvCase(f"long {axis}", batch=1, size=size, **few)
    if axis == "groups":
        return ConvCase("many groups", batch=1, size=(3, 4), **few | {"inputs": many, "outputs": many, "groups": many})
    if axis == "taps":
        return ConvCase("many taps", batch=1, size=(1, many + 9), **few | {"kernel": (1, many), "padding": (0, 3)})
    return ConvCase(f"many {axis}", batch=1, size=(3, 3), **few | {axis: many})


def degenerate(rng: random.Random) -> ConvCase:
    """Empty batches, single pixels, kernels and strides beyond the map, padding beyond the kernel."""
    case = ConvCase("degenerate", batch=rng.choice([0, 1, 2]), inputs=2, outputs=rng.choice([1, 4]))
    shapes = [
        {"size": (1, 1), "kernel": (1, 1)},
        {"size": (1, 1), "kernel": (3, 3), "padding": 1},
        {"size": (2, 3), "kernel": (6, 5), "padding": 3},
        {"size": (2, 3), "kernel": (2, 3), "stride": 50},
        {"size": (3, 2), "kernel": (1, 1), "padding": (7, 9)},
        {"size": (3, 40), "kernel": (2, 2), "dilation": (5, 30), "padding": (2, 0)},
        {"size": (1, 33), "kernel": (1, 2), "dilation": (9, 32)},
    ]
    return replace(case, **rng.choice(shapes))


# Calls.


def a_sparse_conv2d(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    case, backend = conv_case(rng), rng.choice(["auto", "sparse", "sparse", "dense"])
    return f"sparse_conv2d {case!r} {backend}", sparse_conv2d_call(case, generator, CPU, backend=backend)


def a_frozen_conv2d(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    case, backend = conv_case(rng), rng.choice(["auto", "sparse", "sparse", "dense"])
    return f"frozen_conv2d {case!r} {backend}", frozen_conv2d_call(case, generator, CPU, backend=backend)


def a_fb_conv2d(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    case, sharing = conv_case(rng), rng.choice(sorted(BASIS_SHARINGS))
    bases, axis = BASIS_SHARINGS[sharing]
    fits = not bases or (case.inputs if axis == "in" else case.outputs) % bases == 0
    if not fits or max(case.inputs, case.outputs) > 100:  # the reference convolves with every basis
        sharing = "shared"
    taps = case.kernel[0] * case.kernel[1]
    elements = rng.choice(sorted(ELEMENTS.values())) if taps < 30 else 2 - taps
    backend = rng.choice(["auto", "basis_first", "mix_first", "sparse", "composed", "dense"])
    call = fb_conv2d_call(case, generator, CPU, sharing, elements, backend=backend)
    return f"fb_conv2d {case!r} {sharing} {elements:+} {backend}", call


def a_linear(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    lead = tuple(rng.choice([0, 1, 2, 3, 9, 17]) for _ in range(rng.randint(0, 3)))
    few = (lead, (rng.randint(1, 60), rng.randint(1, 60)))
    lead, shape = rng.choice([few, few, ((rng.randint(1000, 9000),), (2, 3)), ((2,), (9000, 3)), ((3,), (3, 9000))])
    frozen, bias, density = rng.random() < 0.4, rng.random() < 0.6, rng.choice(DENSITIES)
    backend = rng.choice(["auto", "sparse", "sparse", "dense"])
    call = linear_call(lead, shape, density, generator, CPU, frozen, bias, backend=backend)
    return f"{'frozen' if frozen else 'sparse'}_linear {lead} {shape} density {density} {backend}", call


def a_scatter_or_gather(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    shape = rng.choice([(4, 3, 3, 2), (7, 5), (3, 4, 9), (9000, 2), (1, 8000), (1, 1), (5, 6, 1, 1)])
    mask = random_mask(generator, shape, rng.choice(DENSITIES))
    pattern = SparsePattern.from_mask(mask)
    dense, values = randn(generator, *shape), randn(generator, pattern.nnz)
    if rng.random() < 0.4:
        return f"gather {shape}", Call(pattern.gather, lambda dense: reference.gather(dense, mask), {"dense": dense})
    frozen = dense if rng.random() < 0.5 else None

    def run(values: Tensor) -> Tensor:
        return pattern.scatter(values, None if frozen is None else frozen.to(values))

    def expected(values: Tensor) -> Tensor:
        return reference.embed(values, mask, frozen)

    return f"embed {shape} {'over frozen' * (frozen is not None)}", Call(run, expected, {"values": values})


def a_composition(rng: random.Random, generator: torch.Generator) -> tuple[str, Call]:
    groups, bases, axis = rng.choice([1, 2]), rng.choice([1, 2]), rng.choice(["in", "out"])
    outputs, inputs = groups * 2 * rng.randint(1, 3), 2 * rng.randint(1, 3)
    elements, kernel = rng.randint(1, 9), (rng.randint(1, 3), rng.randint(1, 3))
    operands = {"coefficients": randn(generator, outputs, inputs, elements)}
    operands["basis"] = randn(generator, bases, elements, *kernel)

    def basis_of(a: int, b: int) -> int:
        of_input = (a // (outputs // groups) * inputs + b) * bases // (inputs * groups)
        return a * bases // outputs if axis == "out" else of_input

    def expected(coefficients: Tensor, basis: Tensor) -> Tensor:
        pairs = [(a, b) for a in range(outputs) for b in range(inputs)]
        filters = [torch.tensordot(coefficients[a, b], basis[basis_of(a, b)], 1) for a, b in pairs]
        return torch.stack(filters).unflatten(0, (outputs, inputs))

    def run(coefficients: Tensor, basis: Tensor) -> Tensor:
        return F.compose_filters(coefficients, basis, groups=groups, basis_axis=axis)

    about = f"compose_filters {outputs} x {inputs} x {elements}, {groups} groups, {bases} bases by {axis}"
    return about, Call(run, expected, operands)


KINDS = [a_sparse_conv2d] * 3 + [a_frozen_conv2d] * 2 + [a_fb_conv2d] * 3 + [a_linear] * 2
KINDS += [a_scatter_or_gather, a_composition]


# Layouts: the same numbers elsewhere in memory. Their gradients come back the same way.


def contiguous(t: Tensor) -> Tensor:
    return t


def strided(t: Tensor) -> Tensor:
    return torch.stack([t, t], dim=-1)[..., 0]


def unaligned(t: Tensor) -> Tensor:
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


def transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT


def channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def batch_last(t: Tensor) -> Tensor:
    return t.movedim(0, -1).contiguous().movedim(-1, 0)


def cropped(t: Tensor) -> Tensor:
    return torch.nn.functional.pad(t, (1, 2, 1, 1))[..., 1:-1, 1:-2]


_ANY = [contiguous, strided, unaligned]
LAYOUTS = {1: _ANY, 2: [*_ANY, transposed, cropped], 3: [*_ANY, transposed, batch_last]}
LAYOUTS |= {4: [*_ANY, transposed, cropped, batch_last, channels_last, channels_last], 5: _ANY, 0: _ANY}

# What happens to an output before its gradient begins, so that gradients come in other layouts too.
FINISHES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda t: t,
    "channels last": lambda t: t.movedim(1, -1) if t.dim() == 4 else t,
    "reversed": lambda t: t.permute(*reversed(range(t.dim()))),
    "summed": lambda t: t.sum(0) if t.dim() else t,
    "scattered": lambda t: torch.stack([t, t], dim=-1),
}


def laid_out(call: Call, layouts: dict[str, Callable[[Tensor], Tensor]], finish: Callable[[Tensor], Tensor]) -> Call:
    """``call`` with operands in other layouts, and both results finished alike."""

    def run(**operands: Tensor) -> Tensor:
        return finish(call.run(**{name: layouts[name](operand) for name, operand in operands.items()}))

    return Call(run, lambda **operands: finish(call.expected(**operands)), call.operands)


def through_dispatcher(op: Callable[..., Tensor], tensors: tuple, args: tuple) -> Tensor:
    """As users of ``torch.ops.fbconv`` call it; the Python functions go past the dispatcher."""
    return op(*tensors, *args)


def check_second_order(call: Call) -> None:
    """Gradients of a sum of gradients, in float64."""
    found = {}
    for which in ("run", "expected"):
        operands = with_grad(call.operands)
        output = getattr(call, which)(**operands)
        upstream = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape).requires_grad_()
        leaves = [*operands.values(), upstream]
        first = torch.autograd.grad(output, list(operands.values()), upstream, create_graph=True)
        total = sum((gradient.square().sum() for gradient in first), output.sum() * 0)
        second = torch.autograd.grad(total, leaves, allow_unused=True)
        found[which] = [torch.zeros_like(a) if b is None else b for a, b in zip(leaves, second, strict=True)]
    for i, (actual, expected) in enumerate(zip(found["run"], found["expected"], strict=True)):
        assert_near(actual, expected, f"second derivative {i}")


def main(first: int, count: int = 1) -> bool:
    """Whether all were right; says which seed it is at, in case that one crashes."""
    faulthandler.enable()
    failures = []
    for seed in range(first, first + count):
        print(f"seed {seed}", flush=True)
        try:
            run(seed)
        except AssertionError as error:
            failures.append(str(error))
    print(*failures, sep="\n\n")
    return not failures


if __name__ == "__main__":
    sys.exit(not main(*map(int, sys.argv[1:])))
