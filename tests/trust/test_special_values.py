"""NaN, infinities and denormal numbers: the promise of :mod:`fbconv.functional`, forward and backward.

On the sparse plans ("sparse", "basis_first", "mix_first") what is not finite in an input reaches exactly the outputs
and the weight gradients whose kept weights see it, and what is not finite in an incoming gradient exactly those input
gradients. A pruned weight passes nothing on. A weight that is not finite reaches whatever it is multiplied with, and
may also make NaN where it meets the zeros of the padding; so may an incoming gradient in weight gradients. Everything
else keeps its very bits. Denormal numbers are numbers: none is flushed to zero.
"""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from cases import (
    BASIS_SHARINGS,
    CONV_CASES,
    Call,
    ConvCase,
    fb_conv2d_call,
    frozen_conv2d_call,
    linear_call,
    random_mask,
    sparse_conv2d_call,
    with_grad,
)
from test_dispatch import SUPPORTED, python
from torch import Tensor

import fbconv
from fbconv import SparsePattern

CPU = torch.device("cpu")
CASES = [case for case in CONV_CASES if case.batch and case.density]
UPSTREAM = "upstream"  # the incoming gradient, among the operands
MAPS = {"input", UPSTREAM}


def make_call(seed: int, rng: random.Random, case: ConvCase) -> Call:
    generator = torch.Generator().manual_seed(seed)
    kind = rng.choice(["sparse", "sparse", "basis_first", "mix_first", "linear"])
    if kind == "linear":
        shape = (rng.choice([1, 2, 17]),), (rng.randint(1, 40), rng.randint(1, 40))
        return linear_call(*shape, 0.3, generator, CPU, backend="sparse")
    if kind == "sparse":
        return sparse_conv2d_call(case, generator, CPU, backend=kind)
    sharing = rng.choice(sorted(BASIS_SHARINGS)) if case.inputs % 2 == case.outputs % 2 == 0 else "shared"
    return fb_conv2d_call(case, generator, CPU, sharing, backend=kind)


def on_a_padded_map(case: ConvCase) -> ConvCase:
    """The same convolution, of a map whose padding is data."""
    padding = case.padding if isinstance(case.padding, tuple) else (case.padding,) * 2
    return replace(case, size=tuple(n + 2 * p for n, p in zip(case.size, padding, strict=True)), padding=0)


def results(run, operands: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = with_grad({name: value for name, value in operands.items() if name != UPSTREAM})
    output = run(**leaves)
    output.backward(operands[UPSTREAM])
    return {"output": output.detach()} | {name: leaf.grad for name, leaf in leaves.items()}


def reached(call: Call, name: str, place: int, upstream: torch.Size) -> dict[str, Tensor]:
    """What one number takes part in: what changes when it does and nothing can cancel."""
    ones = {key: torch.ones_like(value) for key, value in call.operands.items()}
    ones[UPSTREAM] = torch.ones(upstream, dtype=torch.float64)
    other = ones | {name: ones[name].flatten().index_fill(0, torch.tensor(place), 2).view(ones[name].shape)}
    before, after = results(call.expected, ones), results(call.expected, other)
    return {key: before[key] != after[key] for key in before}


def check_poisoned(seed: int) -> None:
    rng = random.Random(seed)
    torch.set_num_threads(rng.choice([1, 2]))
    case, state = rng.choice(CASES), rng.getstate()
    call = make_call(seed, rng, case)
    rng.setstate(state)
    padded = make_call(seed, rng, on_a_padded_map(case))
    operands = call.on(CPU, rng.choice([torch.float32, torch.float64]))
    shape = call.run(**operands).shape
    operands[UPSTREAM] = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(operands["input"])
    name = rng.choice([name for name, value in operands.items() if value.numel()])
    place, number = rng.randrange(operands[name].numel()), rng.choice([float("nan"), float("inf"), float("-inf")])
    bad = operands | {name: operands[name].flatten().index_fill(0, torch.tensor(place), number).view_as(operands[name])}
    clean, poisoned = results(call.run, operands), results(call.run, bad)
    least = reached(call, name, place, shape)
    most = least if name in ("input", "bias") else reached(padded, name, place, shape)
    for key, result in poisoned.items():
        about = f"seed {seed}: {case}, {number} in {name}, {key}"
        hit = ~result.isfinite()
        assert not (least[key] & ~hit).any(), f"{about}: lost"
        assert not (hit & ~allowed(name, key, least[key], most[key])).any(), f"{about}: spread"
        assert torch.equal(result[~hit], clean[key][~hit]), f"{about}: other numbers changed"


def allowed(name: str, key: str, least: Tensor, most: Tensor) -> Tensor:
    if name in MAPS and key in (*MAPS, "output"):
        return least
    if key == "input" and most.dim() == 4:  # of the padded map, of which a channel may be seen in its padding alone
        return most.flatten(2).any(2)[..., None, None]
    return most


def test_what_is_not_finite_reaches_what_sees_it(cases, tried):
    count = cases(60, 1500)
    for seed in range(count):
        check_poisoned(seed)
    tried("NaN or infinity in one place, and where it arrives", count)


def test_a_pruned_weight_hides_what_a_zero_does_not():
    mask = torch.tensor([[[[True]], [[False]]]])
    image = torch.tensor([3.0, float("nan")]).view(1, 2, 1, 1)
    pattern = SparsePattern.from_mask(mask)
    assert fbconv.functional.sparse_conv2d(image, torch.ones(1), pattern, backend="sparse").item() == 3
    assert fbconv.functional.sparse_conv2d(image, torch.ones(1), pattern, backend="dense").isnan().all()


def test_infinities_keep_their_sign():
    pattern = SparsePattern.from_mask(torch.ones(2, 1, 1, 1, dtype=torch.bool))
    image = torch.tensor([1.0, float("inf")]).view(1, 1, 1, 2)
    output = fbconv.functional.sparse_conv2d(image, torch.tensor([2.0, -0.5]), pattern, backend="sparse")
    assert output.flatten().tolist() == [2, float("inf"), -0.5, float("-inf")]


def test_frozen_layers_gather_their_gradient_at_the_pattern(generator):
    """Their forward pass is torch's; a NaN in the input reaches only those values that multiply it."""
    case = next(case for case in CASES if case.name == "odd_map")
    call = frozen_conv2d_call(case, generator, CPU, backend="sparse")
    operands = call.on(CPU, torch.float32)
    shape = call.run(**operands).shape
    operands[UPSTREAM] = torch.ones(shape)
    operands["input"][0, 1, 3, 3] = float("nan")
    place = operands["input"].isnan().flatten().nonzero().item()
    hit = ~results(call.run, operands)["values"].isfinite()
    assert torch.equal(hit, reached(call, "input", place, shape)["values"])


TINY = {torch.float32: 2.0**-149, torch.float64: 2.0**-1074, torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24}


@pytest.mark.parametrize("dtype", TINY, ids=str)
@pytest.mark.parametrize("small", ["input", UPSTREAM, "values"])
def test_denormals_are_numbers(dtype, small, cases, tried):
    """Multiples of the smallest number, whose sums are exact."""
    count = cases(4, 100)
    for seed in range(count):
        check_denormal(seed, dtype, small)
    tried("calls on denormal numbers, bit for bit", count)


def check_denormal(seed: int, dtype: torch.dtype, small: str) -> None:
    rng = random.Random(seed)
    torch.set_num_threads(rng.choice([1, 2]))
    call = make_call(seed, rng, rng.choice([case for case in CASES if case.batch < 9 and case.inputs < 9]))
    generator = torch.Generator().manual_seed(seed)
    shape = call.expected(**call.operands).shape
    shapes = {name: value.shape for name, value in call.operands.items()} | {UPSTREAM: shape}
    whole = {name: torch.randint(-1, 2, tuple(size), generator=generator).double() for name, size in shapes.items()}
    whole |= {"bias": torch.zeros_like(whole["bias"])} if "bias" in whole and small != UPSTREAM else {}
    # Float64's smallest number squared is nothing in any reference: scale the results, which are whole numbers.
    scaled = whole | {small: whole[small] * TINY[dtype]}
    actual = results(call.run, {name: value.to(dtype) for name, value in scaled.items()})
    expected = results(call.expected, whole)
    for name, result in actual.items():
        scale = TINY[dtype] if depends(name, small) else 1.0
        same = torch.equal(result, (expected[name] * scale).to(dtype))
        assert same, f"seed {seed}: {name} of {dtype} with a denormal {small}: {result} for {expected[name] * scale}"


def depends(result: str, small: str) -> bool:
    """Results are linear in each operand but the one whose gradient they are."""
    return result != small and (small != UPSTREAM or result != "output") and (result != "bias" or small == UPSTREAM)


def test_scatter_and_gather_keep_every_bit(generator):
    pattern = SparsePattern.from_mask(random_mask(generator, (40, 9), 0.4))
    special = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45, -1e-45, 3e38])
    values = special.repeat(-(-pattern.nnz // 6))[: pattern.nnz]
    dense = pattern.scatter(values)
    assert torch.equal(pattern.gather(dense).view(torch.int32), values.view(torch.int32))
    assert torch.equal(dense[~pattern.mask()].view(torch.int32), torch.zeros(360 - pattern.nnz, dtype=torch.int32))


def test_other_instruction_sets(cases):
    """Each in a process of its own, with the tests above."""

    def failure(capability: str) -> str:
        done = python(
            "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not other", capability=capability
        )
        return "" if done.returncode == 0 else f"{capability}: {done.stdout[-3000:]}{done.stderr[-1000:]}"

    with ThreadPoolExecutor(2) as pool:
        assert not "\n".join(filter(None, pool.map(failure, SUPPORTED[:-1])))
