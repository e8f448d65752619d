"""Calls with exactly one thing wrong, each decided by its seed: of ``torch.ops.fbconv`` and of the Python functions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from raw_ops import (
    ALL,
    COEFFICIENT_SHAPE,
    GROUPS,
    LINEAR_SHAPE,
    TRACED_INFERENCE,
    WEIGHT_SHAPE,
    op,
    raw_calls,
)
from test_errors import (
    CORRUPTIONS,
    READS,
    arguments,
    constant,
    corrupted,
    elsewhere,
    integral,
    longer,
    other_float,
    wrong_rank,
)
from torch import Tensor

from fbconv import SparsePattern
from fbconv import functional as F

CPU = torch.device("cpu")
Break = tuple[str, Callable[[Any], Any]]


@dataclass
class Malformed:
    """``run`` must raise an error that says ``name``, a regular expression."""

    name: str
    about: str
    run: Callable[[], Any]


def draw(seed: int) -> Malformed:
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    name, call, args = rng.choice([raw_call, python_call])(rng, generator)
    argument = rng.choice(sorted(args))
    what, spoil = rng.choice(breaks(name, argument, args[argument]))
    broken = args | {argument: spoil(args[argument])}
    needs_grad = rng.random() < 0.3
    kind = "raw" if isinstance(call, torch._ops.OpOverload) else "Python"
    about = f"{name} ({kind}), {argument}: {what}{', training' * needs_grad}"

    def run() -> Any:
        return call(**{key: _learned(value) if needs_grad else value for key, value in broken.items()})

    # The operators of traces stand for layers, and complain in the names of these.
    return Malformed(name.removeprefix("dense_"), about, run)


def _learned(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return value.clone().requires_grad_() if floating else value


def raw_call(rng: random.Random, generator: torch.Generator) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    name = rng.choice([*ALL, *TRACED_INFERENCE])
    args = arguments(name, raw_calls(generator, CPU)[name])
    return name, op(name), {key: value for key, value in args.items() if value is not None}


def python_call(rng: random.Random, generator: torch.Generator) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    raw = raw_calls(generator, CPU)
    name = rng.choice(["sparse_conv2d", "fb_conv2d", "frozen_conv2d", "sparse_linear", "frozen_linear", "scatter"])
    name = rng.choice([name, name, "gather", "from_packed", "compose_filters"])
    args = arguments(name, raw[name]) if name in raw else {}
    shape = LINEAR_SHAPE if "linear" in name else COEFFICIENT_SHAPE if name == "fb_conv2d" else WEIGHT_SHAPE
    pattern = SparsePattern(args["pattern"] if args else raw["sparse_conv2d"][3], shape)
    weight, values = torch.randn(WEIGHT_SHAPE, dtype=torch.float64), torch.randn(pattern.nnz, dtype=torch.float64)
    if name == "scatter":
        return "embed|scatter", pattern.scatter, {"values": values, "frozen": weight}
    if name == "gather":
        return "gather", pattern.gather, {"dense": weight}
    if name == "from_packed":
        return "SparsePattern", SparsePattern.from_packed, {"packed": pattern.packed, "shape": shape}
    if name == "compose_filters":
        basis, coefficients = raw["fb_conv2d"][1], torch.randn(COEFFICIENT_SHAPE, dtype=torch.float64)
        given = {"coefficients": coefficients, "basis": basis, "groups": GROUPS, "basis_axis": "in"}
        return "compose_filters", F.compose_filters, given
    args = {key: value for key, value in args.items() if key not in ("weight_shape", "coefficient_shape", "order")}
    if "weight" in args:
        args["frozen"] = args.pop("weight")
    own = ("auto", "sparse", "dense", *(("basis_first", "mix_first", "composed") if name == "fb_conv2d" else ()))
    return name, getattr(F, name), args | {"pattern": pattern, "backend": rng.choice(own)}


# What can be wrong with an argument, beside its being something else altogether.


def breaks(name: str, argument: str, value: Any) -> list[Break]:
    found: list[Break] = [(f"{other!r}", constant(other)) for other in (None, 2.5, "nonsense", object())]
    if argument in ("bias", "frozen") and isinstance(value, Tensor):
        found = found[1:]  # None is no bias
    if isinstance(value, Tensor):
        return found + tensor_breaks(name, argument, value)
    if isinstance(value, SparsePattern):
        return found + pattern_breaks(name, value)
    if isinstance(value, list | tuple):
        return found + list_breaks(argument, value)
    if isinstance(value, str):
        return [(repr(other), constant(other)) for other in ("", "In", "magic", 3, ["auto"])]
    return found + [(repr(other), constant(other)) for other in (0, -1, 5, 2**31, 2**63, 2**70, float("nan"), [1])]


def tensor_breaks(name: str, argument: str, value: Tensor) -> list[Break]:
    if argument in ("pattern", "packed"):
        return packed_breaks(name)
    found: list[Break] = [
        ("integers", integral),
        ("complex", lambda t: t.to(torch.complex64)),
        ("booleans", lambda t: t > 0),
        ("rank 0", lambda t: t.flatten()[0]),
    ]
    if name != "gather":  # which has no other numbers to disagree with
        found += [("another float", other_float), ("elsewhere", elsewhere)]
    if not (argument in ("input", "grad") and name.endswith(("_linear", "linear_grad_input"))):
        found.append(("a rank more", wrong_rank))
    found += [(f"longer in {dim}", longer(dim)) for dim in fixed_dims(name, argument, value)]
    found += [(f"cut in {dim}", lambda t, dim=dim: t.narrow(dim, 0, t.shape[dim] - 1)) for dim in
              fixed_dims(name, argument, value)]  # fmt: skip
    return found


def fixed_dims(name: str, argument: str, value: Tensor) -> list[int]:
    """The dimensions that no other argument would let be larger or smaller."""
    if argument in ("input", "basis", "coefficients"):
        linear = value.dim() == 2
        return [-1] if linear or argument == "coefficients" else [1]
    if argument == "grad":
        return [-1] if name == "sparse_linear_grad_input" else list(range(value.dim()))
    if argument in ("weight", "frozen") and name.startswith("frozen_conv2d"):
        return [0, 1]  # other taps are another kernel, which only the values' gradient would notice
    return list(range(value.dim()))


def packed_breaks(name: str) -> list[Break]:
    found: list[Break] = [
        ("64 bits", integral),
        ("floats", lambda t: t.float()),
        ("rank 2", wrong_rank),
        ("elsewhere", elsewhere),
        ("nothing", lambda t: t[:0]),
        ("a header alone", lambda t: t[:8]),
        ("a word less", lambda t: t[:-1]),
        ("three words more", lambda t: torch.cat([t, t[-3:]])),
        ("every second word", lambda t: torch.stack([t, t], 1)[:, 0]),
    ]
    if name == "SparsePattern":
        return [(what, spoil) for what, spoil in found if what not in ("elsewhere", "every second word")]
    shape = (4, 6) if "linear" in name else (4, 3)
    # Two entries in another order may be those of two rows, and no harm.
    certain = {what: how for what, how in CORRUPTIONS.items() if not what.endswith(("unsorted", "repeated"))}
    for part in ("index", "t_index"):
        certain[f"{part} unsorted"] = (part, lambda entries: entries.copy_(entries.sort(descending=True)[0]))
        certain[f"{part} repeated"] = (part, lambda entries: entries.fill_(entries[0]))
    read = [(what, *how) for what, how in certain.items() if how[0] in READS.get(name, ())]
    return found + [
        (what, lambda t, part=part, change=change: corrupted(t, shape, part, change)) for what, part, change in read
    ]


def pattern_breaks(name: str, value: SparsePattern) -> list[Break]:
    def of(shape: tuple[int, ...]) -> SparsePattern:
        return SparsePattern.from_mask(torch.ones(shape, dtype=torch.bool))

    rows, *rest = value.shape
    return [
        ("its words alone", lambda p: p.packed),
        ("a mask", lambda p: p.mask()),
        ("a row more", constant(of((rows + 1, *rest)))),
        ("an entry less", lambda p: SparsePattern.from_mask(one_less(p.mask()))),
        ("another rank", constant(of((rows, 2, 2, 2, 2)))),
        ("elsewhere", lambda p: p.to("meta")),
    ]


def one_less(mask: Tensor) -> Tensor:
    position = mask.flatten().nonzero()[0]
    return mask.flatten().index_fill(0, position, False).view(mask.shape)


def list_breaks(argument: str, value: list[int]) -> list[Break]:
    def put(number: object) -> Callable[[Any], Any]:
        return lambda sizes: [number, *sizes[1:]]

    found: list[Break] = [
        ("empty", constant([])),
        ("tuples", lambda sizes: [(size,) for size in sizes]),
        *((f"{number!r} in front", put(number)) for number in (-1, -(2**63), 2**31, 2**63, 2**70, 2.5, float("nan"))),
        *((f"{number!r} in front", put(number)) for number in (None, "3", [1], torch.ones(2))),
    ]
    if argument != "shape":  # of which a one more is the same weight
        found.append(("one number more", lambda sizes: [*sizes, 1]))
    if argument != "padding":
        found.append(("0 in front", put(0)))
    if argument not in ("stride", "padding", "dilation"):
        found.append(("one number less", lambda sizes: sizes[:-1]))
    return found
