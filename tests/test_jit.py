"""Patterns that are compiled to machine code, and maps that are read where they lie, change nothing but rounding.

Both need AVX-512; on other CPUs the same tests hold for the kernels there are.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cases import Call, ConvCase, assert_near, fb_conv2d_call, randn, sparse_conv2d_call, with_grad
from torch import Tensor

from fbconv.nn import FBConv2d, SparseConv2d

TESTS = Path(__file__).parent
CPU = torch.device("cpu")
SPARSITIES = (0.0, 0.5, 0.9, 0.99, 1.0)


def same_size_case(
    draw: random.Random, name: str, size: tuple[int, int], kernel: int, dilation: int, **fixed
) -> ConvCase:
    """A convolution whose output is as large as its input; what is not fixed is drawn."""
    groups = draw.choice((1, 1, 2))
    drawn = {
        "batch": draw.choice((0, 1, 2, 9, 33)),
        "inputs": draw.choice((2, 6, 16)),
        "outputs": draw.choice((2, 8, 30, 58)),
        "groups": groups,
        "bias": draw.random() < 0.5,
        "density": 1 - draw.choice(SPARSITIES),
    }
    padding = dilation * (kernel - 1) // 2
    return ConvCase(name, size=size, kernel=(kernel, kernel), padding=padding, dilation=dilation, **(drawn | fixed))


def same_size_cases() -> Iterator[ConvCase]:
    draw = random.Random(20)
    for size in range(1, 21):
        for kernel, dilation in ((1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2), (2, 2)):
            shape = (size, draw.randint(1, 20))
            shape = shape if draw.random() < 0.5 else shape[::-1]
            yield same_size_case(draw, f"{shape} by {kernel}, dilation {dilation}", shape, kernel, dilation)
    # Each batch with each sparsity, on maps that fill their vectors and on maps that do not.
    for size in ((8, 8), (5, 7), (17, 19), (3, 32)):
        for batch in (0, 1, 2, 9, 33):
            for sparsity in SPARSITIES:
                name = f"{size}, batch {batch}, q {sparsity}"
                yield same_size_case(draw, name, size, 3, 1, batch=batch, density=1 - sparsity)


LAYOUTS = ("contiguous", "channels_last", "images of a batch", "every other image", "channels", "columns")


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same numbers elsewhere in memory, amid NaNs."""
    n, c, h, w = tensor.shape

    def amid(*shape: int) -> Tensor:
        return torch.full(shape, torch.nan, dtype=tensor.dtype)

    if layout == "contiguous":
        return tensor.clone()
    if layout == "channels_last":
        return tensor.to(memory_format=torch.channels_last, copy=True)
    view = {
        "images of a batch": lambda: amid(n + 3, c, h, w)[2 : n + 2],
        "every other image": lambda: amid(2 * n, c, h, w)[::2],
        "channels": lambda: amid(n, c + 3, h, w)[:, 1 : c + 1],
        "columns": lambda: amid(n, c, h, w + 3)[..., 2 : w + 2],
    }[layout]()
    return view.copy_(tensor)


def calls() -> Iterator[tuple[str, Call, str]]:
    """Both operators on every case, with the layout of the maps."""
    generator = torch.Generator().manual_seed(3)
    for number, case in enumerate(same_size_cases()):
        layout = LAYOUTS[number % len(LAYOUTS)]
        sharing = ("shared", "shared", "in_all", "out_blocks")[number % 4]
        order = "mix_first" if number % 5 == 0 else "basis_first"
        yield f"{number}: sparse {case}", sparse_conv2d_call(case, generator, CPU, backend="sparse"), layout
        yield f"{number}: {order} {case}", fb_conv2d_call(case, generator, CPU, sharing, backend=order), layout


def upstream_of(shape: tuple[int, ...]) -> Tensor:
    return randn(torch.Generator().manual_seed(7), *shape, dtype=torch.float32)


def results(call: Call, layout: str = "contiguous") -> dict[str, Tensor]:
    """The output and every gradient in float32."""
    operands = call.on(CPU, torch.float32)
    operands["input"] = laid_out(operands["input"], layout)
    leaves = {name: value.detach().requires_grad_() for name, value in operands.items()}
    output = call.run(**leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), laid_out(upstream_of(output.shape), layout))
    return {"output": output.detach()} | dict(zip(leaves, gradients, strict=True))


def exact_results(call: Call) -> dict[str, Tensor]:
    leaves = with_grad({name: value.float().double() for name, value in call.operands.items()})
    output = call.expected(**leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), upstream_of(output.shape).double())
    return {"output": output.detach()} | dict(zip(leaves, gradients, strict=True))


def all_results() -> dict[str, dict[str, Tensor]]:
    torch.set_num_threads(1)
    return {name: results(call, layout) for name, call, layout in calls()}


def in_subprocess(script: str, **environment: str) -> None:
    """Runs a script that may import this file; where it crashes, only the test fails."""
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | environment
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=TESTS, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_same_results_without_compiled_code_and_by_definition(one_thread, tmp_path):
    file = tmp_path / "results.pt"
    in_subprocess(f"import torch, test_jit; torch.save(test_jit.all_results(), {str(file)!r})", FBCONV_JIT="0")
    walked = torch.load(file)
    for name, call, layout in calls():
        what = f"{name}, {layout}"
        compiled, exact = results(call, layout), exact_results(call)
        for key, expected in exact.items():
            assert_near(compiled[key], expected, f"{key} of {what}")
            assert_near(compiled[key], walked[name][key].double(), f"{key} of {what} without compiled code")


GUARDED_CASES = [
    ConvCase("4x4", batch=3, size=(4, 4), inputs=3, outputs=5, padding=1),
    ConvCase("part of a vector", batch=2, size=(3, 5), inputs=3, outputs=5, padding=1),
    ConvCase("one lane in the last vector", batch=2, size=(7, 7), inputs=3, outputs=30, padding=1),
    ConvCase("one lane missing", batch=2, size=(9, 7), inputs=4, outputs=6, padding=1, groups=2),
    ConvCase("pointwise", batch=2, size=(5, 7), inputs=3, outputs=5, kernel=(1, 1), density=0.7),
    ConvCase("5x5, dilated", batch=9, size=(6, 5), kernel=(5, 5), padding=4, dilation=2),
    ConvCase("narrower than the kernel", batch=2, size=(15, 1), kernel=(5, 5), padding=2),
    ConvCase("wide", batch=1, size=(2, 39), padding=1, outputs=29),
    ConvCase("copied", batch=2, size=(19, 17), padding=1, outputs=6),
    ConvCase("rows of vectors", batch=2, size=(5, 16), padding=1, outputs=6),
    ConvCase("rows of vectors, dilated", batch=9, size=(4, 32), padding=2, dilation=2, outputs=30),
]


def guarded(tensor: Tensor, at_end: bool) -> Tensor:
    """A copy right before, or right behind, a page that nobody may touch."""
    size, page = tensor.numel() * tensor.element_size(), mmap.PAGESIZE
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 2) * page)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for guard in (begin, begin + (pages + 1) * page):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = page + (pages * page - size if at_end else 0)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offset)
    return copy.view(tensor.shape).copy_(tensor)


def run_between_guards() -> None:
    generator = torch.Generator().manual_seed(5)
    for case in GUARDED_CASES:
        for make, options in (
            (sparse_conv2d_call, {"backend": "sparse"}),
            (fb_conv2d_call, {"backend": "basis_first"}),
            (fb_conv2d_call, {"backend": "mix_first"}),
        ):
            call = make(case, generator, CPU, **options)
            exact = exact_results(call)
            for at_end in (False, True):
                where = f"{case}, {make.__name__}, {options}, {'at the end' if at_end else 'at the beginning'}"
                print(where, flush=True)  # the last words of a process that crashes
                operands = {name: guarded(value, at_end) for name, value in call.on(CPU, torch.float32).items()}
                upstream = guarded(upstream_of(exact["output"].shape), at_end)
                assert_near(call.run(**operands), exact["output"], f"output of {where}")
                for name, operand in operands.items():
                    print(f"gradient of {name}", flush=True)
                    call.run(**(operands | {name: operand.requires_grad_()})).backward(upstream)
                    operands[name] = operand.detach()
                    assert_near(operand.grad, exact[name], f"gradient of {name}, {where}")


@pytest.mark.skipif(os.name != "posix", reason="pages are guarded with mprotect")
@pytest.mark.parametrize("jit", ["0", "1"])
def test_nothing_outside_the_operands_is_touched(jit):
    in_subprocess("import test_jit; test_jit.run_between_guards()", FBCONV_JIT=jit)


@pytest.mark.skipif(os.name != "posix", reason="pages are guarded with mprotect")
def test_guards_are_out_of_reach():
    """What the test above relies on, asked of the system, which refuses to read there instead of ending the process."""
    reader, writer = os.pipe()
    for at_end in (False, True):
        begin = (tensor := guarded(torch.ones(5), at_end)).data_ptr()
        end = begin + tensor.numel() * tensor.element_size()
        inside, outside = (end - 1, end) if at_end else (begin, begin - 1)
        for address, count in ((inside, 1), (outside, -1)):
            assert ctypes.CDLL(None).write(writer, ctypes.c_void_p(address), ctypes.c_size_t(1)) == count
    os.close(reader)
    os.close(writer)


def small_calls(generator: torch.Generator, **changes) -> list[Call]:
    options = {"batch": 3, "size": (9, 7), "inputs": 6, "outputs": 30, "padding": 1, "density": 0.3} | changes
    case = ConvCase("small", **options)
    return [
        sparse_conv2d_call(case, generator, CPU, backend="sparse"),
        fb_conv2d_call(case, generator, CPU, backend="basis_first"),
        fb_conv2d_call(case, generator, CPU, "in_all", backend="basis_first"),
    ]


def check(call: Call, what: str) -> None:
    got = results(call)
    for name, expected in exact_results(call).items():
        assert_near(got[name], expected, f"{name} {what}")


def test_values_that_change_in_place_are_seen(generator, one_thread):
    for call in small_calls(generator):
        operands = with_grad(call.on(CPU, torch.float32))
        for step in range(3):
            output = call.run(**operands)
            upstream = upstream_of(output.shape)
            output.backward(upstream)
            exact = with_grad({name: value.detach().double() for name, value in operands.items()})
            expected = call.expected(**exact)
            expected.backward(upstream.double())
            assert_near(output, expected, f"output of step {step}")
            for name, operand in operands.items():
                assert_near(operand.grad, exact[name].grad, f"gradient of {name} in step {step}")
            with torch.no_grad():
                for operand in operands.values():
                    operand.mul_(-0.5).add_(operand.grad, alpha=0.01)
                    operand.grad = None


@pytest.mark.parametrize("make", [SparseConv2d, FBConv2d])
def test_another_mask_is_seen(make, generator, one_thread):
    layer = make(6, 30, 3, padding=1)
    layer.backend = "sparse" if make is SparseConv2d else "basis_first"
    input = randn(generator, 3, 6, 9, 7, dtype=torch.float32)
    shape = layer.pattern.shape
    # The second mask has as many entries as the first: only their places tell them apart.
    first = torch.rand(shape, generator=generator) < 0.3
    for mask in (first, first.roll(1, 0), first.roll(1, -1), first, ~first, torch.zeros_like(first)):
        layer.set_mask(mask)
        with torch.no_grad():
            layer.values.copy_(torch.randn(layer.values.shape, generator=generator))
        output, expected = layer(input), layer.to_dense().double()(input.double())
        assert_near(output, expected, "output")
        upstream = upstream_of(output.shape)
        (got,) = torch.autograd.grad(output, layer.values, upstream)
        if make is SparseConv2d:
            leaf = layer.values.detach().double().requires_grad_()
            weight = layer.pattern.scatter(leaf)
            exact = torch.conv2d(input.double(), weight, layer.bias.detach().double(), padding=1)
            assert_near(got, torch.autograd.grad(exact, leaf, upstream.double())[0], "gradient of values")


def test_the_first_call_of_a_thread(generator):
    """Buffers that belong to a thread are new and grow under it, layer by layer."""
    errors: list[AssertionError] = []

    def run(call: Call, what: str) -> None:
        try:
            check(call, what)
        except AssertionError as error:
            errors.append(error)

    for outputs in (4, 8, 16, 40):
        for bias in (False, True):
            for call in small_calls(generator, outputs=outputs, inputs=16, bias=bias, size=(8, 16)):
                thread = threading.Thread(target=run, args=(call, f"of {outputs} channels, bias: {bias}"))
                thread.start()
                thread.join()
    assert not errors, errors[0]


def test_two_python_threads_at_once(generator, one_thread):
    """Threads that compile the same patterns, and others, get what one thread gets, to the last bit."""
    distinct = [small_calls(generator), small_calls(generator, size=(8, 16)), small_calls(generator, batch=9)]
    for group in distinct:
        alone: list[dict[str, Tensor]] = []
        together: dict[tuple[int, int], list[dict[str, Tensor]]] = {}
        start = threading.Barrier(2)

        def run(number: int, group=group, together=together, start=start) -> None:
            start.wait()
            for step in range(4):
                together[number, step] = [results(call) for call in (group if number else group[::-1])]

        threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = [results(call) for call in group]
        assert len(together) == 8
        for (number, _), got in together.items():
            for one, two in zip(alone, got if number else got[::-1], strict=True):
                assert all(torch.equal(one[name], two[name]) for name in one)


def few_results() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(11)
    shapes = ({}, {"batch": 1, "size": (20, 20)}, {"batch": 33, "size": (4, 4)}, {"batch": 9, "size": (17, 19)})
    return [results(call) for shape in shapes for call in small_calls(generator, **shape)]


@pytest.mark.parametrize("count", [1, 2])
def test_same_bits_twice(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        first, second = few_results(), few_results()
    finally:
        torch.set_num_threads(before)
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(one[name], two[name]) for name in one)


SPREAD_CASES = [
    ConvCase("vectors", batch=2, size=(8, 8), inputs=3, outputs=5, padding=1),
    ConvCase("part of a vector", batch=2, size=(5, 6), inputs=3, outputs=30, padding=1),
    ConvCase("copied", batch=2, size=(17, 19), inputs=3, outputs=4, padding=1),
    ConvCase("dilated", batch=9, size=(5, 7), inputs=3, outputs=4, padding=2, dilation=2, density=0.2),
    ConvCase("5x5", batch=1, size=(7, 7), inputs=2, outputs=4, kernel=(5, 5), padding=2, density=0.2),
    ConvCase("pointwise", batch=2, size=(5, 7), inputs=3, outputs=5, kernel=(1, 1), density=0.5),
    ConvCase("rows of vectors", batch=2, size=(5, 16), inputs=3, outputs=5, padding=1),
    ConvCase("narrow", batch=2, size=(15, 2), inputs=3, outputs=4, padding=1),
]


def reach(call: Call, name: str, pixel: tuple[int, ...]) -> dict[str, Tensor]:
    """Which results the pixel has a part in: those that it changes when all operands are positive."""
    leaves = {key: torch.ones_like(value).requires_grad_() for key, value in call.operands.items()}
    shape = call.expected(**call.operands).shape
    upstream = torch.ones(shape, dtype=torch.float64)
    (upstream if name == "upstream" else leaves["input"].data).zero_()
    (upstream if name == "upstream" else leaves["input"].data)[pixel] = 1
    if "bias" in leaves:
        leaves["bias"].data.zero_()
    output = call.expected(**leaves)
    gradients = dict(zip(leaves, torch.autograd.grad(output, list(leaves.values()), upstream), strict=True))
    if name == "upstream":
        return {key: gradient != 0 for key, gradient in gradients.items()}
    return {"output": output != 0} | {key: gradients[key] != 0 for key in ("basis", "values") if key in gradients}


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", SPREAD_CASES, ids=str)
def test_odd_pixels_reach_what_they_should(case, odd, generator, one_thread):
    """A pixel that is not finite spoils all results in whose definition it has a part, and no others."""
    for make, options in ((sparse_conv2d_call, {"backend": "sparse"}), (fb_conv2d_call, {"backend": "basis_first"})):
        call = make(case, generator, CPU, **options)
        n, c, h, w = case.batch - 1, case.inputs, *case.size
        for pixel in ((n, c - 1, h - 1, w - 1), (0, 0, 0, 0), (n, 0, h - 1, 0), (0, c - 1, h // 2, w - 1)):
            operands = call.on(CPU, torch.float32)
            operands["input"][pixel] = odd
            leaves = with_grad(operands)
            output = call.run(**leaves)
            gradients = torch.autograd.grad(output, list(leaves.values()), upstream_of(output.shape))
            got = {"output": output} | dict(zip(leaves, gradients, strict=True))
            for name, expected in reach(call, "input", pixel).items():
                assert torch.equal(~got[name].isfinite(), expected), f"{name}, pixel {pixel}, {make.__name__}"
            assert got["input"].isfinite().all(), f"the gradient has no part of pixel {pixel}"


@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
@pytest.mark.parametrize("case", SPREAD_CASES, ids=str)
def test_odd_gradients_reach_what_they_should(case, odd, one_thread):
    """A tap that reads padding may or may not multiply it: both are the definition."""
    height, width = (size + 2 * case.padding for size in case.size)
    padded = replace(case, padding=0, size=(height, width))
    for make, options in ((sparse_conv2d_call, {"backend": "sparse"}), (fb_conv2d_call, {"backend": "basis_first"})):
        # Both have the same mask, which is drawn first.
        call = make(case, torch.Generator().manual_seed(2), CPU, **options)
        with_padding = make(padded, torch.Generator().manual_seed(2), CPU, **options)
        n, c, h, w = case.batch - 1, case.outputs, *case.size
        for pixel in ((n, c - 1, h - 1, w - 1), (0, 0, 0, 0), (n, 0, h - 1, 0), (0, c - 1, h // 2, w - 1)):
            leaves = with_grad(call.on(CPU, torch.float32))
            output = call.run(**leaves)
            upstream = upstream_of(output.shape)
            upstream[pixel] = odd
            gradients = torch.autograd.grad(output, list(leaves.values()), upstream)
            must, may = reach(call, "upstream", pixel), reach(with_padding, "upstream", pixel)
            may["input"] = must["input"]
            for name, gradient in zip(leaves, gradients, strict=True):
                spoilt = ~gradient.isfinite()
                what = f"gradient of {name}, pixel {pixel}, {make.__name__}"
                assert not (must[name] & ~spoilt).any(), f"{what} is finite"
                assert not (spoilt & ~may[name]).any(), f"{what} is not finite"
