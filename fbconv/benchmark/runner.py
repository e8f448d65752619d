"""Runs a grid of benchmarks: all operators of one layer, batch, sparsity and pass against torch and peers at once."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from .candidates import OPS, applicable, dense_candidates, our_candidate
from .flops import useful_flops
from .operands import Operands
from .passes import DIRECTIONS
from .peers import peer_candidate
from .shapes import VGG, Layer
from .timing import ROUNDS, Candidate, Timing, interleaved_medians

Row = dict[str, object]


@dataclass(frozen=True)
class Grid:
    """What to run.

    Attributes:
        layers, batches, sparsities: each with each.
        ops: of "masked", "filter-basis", "frozen".
        directions: of "forward", "grad-input", "grad-values", "backward", "step".
        rounds: of our and of dense candidates.
        peers: names of installed peers.
    """

    layers: Sequence[Layer] = VGG
    batches: Sequence[int] = (1, 32)
    sparsities: Sequence[float] = (0.9, 0.99)
    ops: Sequence[str] = OPS
    directions: Sequence[str] = DIRECTIONS
    rounds: int = ROUNDS
    peers: Sequence[str] = ()

    def __len__(self) -> int:
        """Interleaved runs."""
        return len(self._cells()) * len(self.directions)

    def _cells(self) -> list[tuple[Layer, int, float]]:
        some = (layer for layer in self.layers if any(applicable(layer, op) for op in self.ops))
        return list(product(some, self.batches, self.sparsities))


def run(grid: Grid, peak: float, progress: Callable[[str], None] = lambda label: None) -> list[Row]:
    """Rows of the whole grid, in its order.

    Args:
        grid: what to run.
        peak: GFLOP/s of all threads' multipliers together.
        progress: called with a label before each interleaved run.

    Returns:
        A row for each layer, batch, sparsity, pass and operator, as :func:`measure` makes them.
    """
    rows = []
    for layer, batch, sparsity in grid._cells():
        operands = Operands(layer, batch, sparsity)
        for direction in grid.directions:
            progress(f"{layer.name} batch {batch} q {sparsity:g} {direction}")
            rows += measure(operands, grid.ops, direction, grid.rounds, grid.peers, peak)
    return rows


def measure(
    operands: Operands, ops: Sequence[str], direction: str, rounds: int, peers: Sequence[str], peak: float
) -> list[Row]:
    """One pass of several operators, interleaved with torch's dense layer and with peers.

    Returns:
        A row for each operator that the layer has: what was run, ``dense``, ``ours`` and ``peers`` with milliseconds
        (median) and rounds, ``dense_ms`` (the better memory format), ``speed_up`` over it and over each peer,
        ``useful_gflops`` (:func:`fbconv.benchmark.flops.useful_flops`) and ``peak_share``.
    """
    ops = [op for op in ops if applicable(operands.layer, op)]
    candidates: dict[tuple[str, str], Candidate] = {
        ("dense", name): candidate for name, candidate in dense_candidates(operands, direction).items()
    }
    for op in ops:
        candidates[op, "ours"] = our_candidate(operands, op, direction)
        made = {peer: peer_candidate(operands, peer, op, direction) for peer in peers}
        candidates |= {(op, peer): candidate for peer, candidate in made.items() if candidate is not None}
    timings = interleaved_medians(candidates, rounds)
    return [_row(operands, op, direction, timings, peak) for op in ops]


def _row(operands: Operands, op: str, direction: str, timings: Mapping[tuple[str, str], Timing], peak: float) -> Row:
    def of(group: str) -> dict[str, dict[str, float]]:
        chosen = {name: timing for (key, name), timing in timings.items() if key == group}
        return {name: {"ms": 1e3 * timing.seconds, "rounds": timing.rounds} for name, timing in chosen.items()}

    dense, peers = of("dense"), of(op)
    ours = peers.pop("ours")
    dense_ms = min(timing["ms"] for timing in dense.values())
    gflops = useful_flops(operands, op, direction) / ours["ms"] * 1e-6
    return {
        "layer": operands.layer.name,
        "batch": operands.batch,
        "sparsity": operands.sparsity,
        "op": op,
        "pass": direction,
        "nnz": operands.pattern.nnz,
        "dense": dense,
        "ours": ours,
        "peers": peers,
        "dense_ms": dense_ms,
        "ours_ms": ours["ms"],
        "speed_up": dense_ms / ours["ms"],
        "over_peers": {name: timing["ms"] / ours["ms"] for name, timing in peers.items()},
        "useful_gflops": gflops,
        "peak_share": gflops / peak,
    }


def geometric_means(rows: Iterable[Row]) -> list[Row]:
    """Over the four VGG layers, wherever all were measured: for each batch, sparsity, operator and pass, the geometric
    means of the speed-up over dense and over scipy (None without it), and the lowest over scipy."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        if row["layer"] in {layer.name for layer in VGG}:
            groups.setdefault(tuple(row[key] for key in ("batch", "sparsity", "op", "pass")), []).append(row)
    return [_mean(key, group) for key, group in groups.items() if len(group) == len(VGG)]


def _mean(key: tuple, group: Sequence[Row]) -> Row:
    over_scipy = [row["over_peers"]["scipy"] for row in group if "scipy" in row["over_peers"]]
    complete = len(over_scipy) == len(group)
    return dict(zip(("batch", "sparsity", "op", "pass"), key, strict=True)) | {
        "speed_up": statistics.geometric_mean(row["speed_up"] for row in group),
        "over_scipy": statistics.geometric_mean(over_scipy) if complete else None,
        "least_over_scipy": min(over_scipy) if complete else None,
    }
