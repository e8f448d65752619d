"""COPS and exact selection: against linear programming, on ResNet-50, and time and memory over the number of weights.

    python bench/bench_cops.py --threads 2 --out bench/results

The scores are float32: the target's importances absolute values of normal numbers, the control's normal numbers.
``fbconv.cops`` is timed as a whole, from dicts of scores to masks, and its compiled solver alone, on vectors. HiGHS
solves the same linear program through ``scipy.optimize.linprog``, by the method that it takes by default (simplex)
and by its interior point method, and must find the same value.
Prints a table and writes cops.json and cops.png.

Source of the problem: Wimmer, Mehnert, Condurache 2021, "COPS: Controlled Pruning Before Training Starts".
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from memory import extra_bytes
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.optimize import linprog
from shapes import resnet50_weights
from torch import Tensor

import fbconv
from fbconv import _C
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.experiment import environment, replacing, write_json
from fbconv.masks import kept_count

SPARSITY = 0.99
ALPHAS = (0.5, 0.9)
HIGHS_SIZE = 100_000
HIGHS_METHODS = ("highs", "highs-ipm")  # the default, and the faster one here
HIGHS_ROUNDS = 3
SHORT_ROUNDS = 101  # of calls of a few milliseconds
SIZES = (10**6, 3 * 10**6, 10**7, 25_600_000, 10**8)
MANY_ROUNDS = 5  # beyond 25.6 million weights
SELECT_SIZE = 10**8
SAME_VALUE = 1e-7

Scores = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


def draw(shapes: Shapes) -> tuple[Scores, Scores]:
    """A target's importances and a control's."""
    generator = torch.Generator().manual_seed(0)
    target, control = ({n: torch.randn(s, generator=generator) for n, s in shapes.items()} for _ in range(2))
    for value in target.values():
        value.abs_()
    return target, control


def median_seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    timings = interleaved_medians({name: Candidate(call) for name, call in calls.items()}, rounds)
    return {name: timing.seconds for name, timing in timings.items()}


def solve_vectors(target: np.ndarray, control: np.ndarray, alpha: float) -> dict[str, object]:
    """The compiled solver alone."""
    keep = kept_count(len(target), SPARSITY)
    scale = _C.cops_scale(target, control, keep)
    return _C.cops_solve(target, control, keep, alpha * scale["control_min"], scale["multiplier"])


def solve_program(target: np.ndarray, control: np.ndarray, kappa: float, method: str) -> float:
    """The optimum of the relaxation by HiGHS. Both scores add up to their number: its tolerances are absolute."""
    size = len(target)
    found = linprog(
        target,
        A_ub=np.stack([control, np.ones(size)]),
        b_ub=[kappa * size, kept_count(size, SPARSITY)],
        bounds=(0, 1),
        method=method,
    )
    if found.status != 0:
        raise RuntimeError(f"{method}: {found.message}")
    return found.fun / size


def against_highs(alpha: float) -> dict[str, object]:
    scores = draw({"w": (HIGHS_SIZE,)})
    result = fbconv.cops(*scores, SPARSITY, alpha)
    vectors = [-score["w"].numpy() for score in scores]
    scaled = [v.astype(np.float64) * (HIGHS_SIZE / np.abs(v).sum(dtype=np.float64)) for v in vectors]
    ours = {"fbconv.cops": partial(fbconv.cops, *scores, SPARSITY, alpha),
            "compiled solver": partial(solve_vectors, *vectors, alpha)}  # fmt: skip
    seconds = median_seconds(ours, SHORT_ROUNDS)
    for method in HIGHS_METHODS:
        program = partial(solve_program, *scaled, result.kappa, method)
        seconds[method] = statistics.median(seconds_to_find(result.lp_value, program) for _ in range(HIGHS_ROUNDS))
    speed_up = {name: {method: seconds[method] / seconds[name] for method in HIGHS_METHODS} for name in ours}
    return {"weights": HIGHS_SIZE, "alpha": alpha, "rounds": SHORT_ROUNDS, "highs_rounds": HIGHS_ROUNDS,
            "seconds": seconds, "speed_up": speed_up}  # fmt: skip


def seconds_to_find(value: float, program: Callable[[], float]) -> float:
    started = time.perf_counter()
    found = program()
    seconds = time.perf_counter() - started
    if abs(found / value - 1) > SAME_VALUE:
        raise AssertionError(f"HiGHS and cops must agree to {SAME_VALUE:g}, but found {found!r} and {value!r}")
    return seconds


def timed(shapes: Shapes, alpha: float, rounds: int = ROUNDS) -> dict[str, object]:
    size = sum(math.prod(shape) for shape in shapes.values())
    scores = draw(shapes)
    result = fbconv.cops(*scores, SPARSITY, alpha)
    seconds = median_seconds({"": partial(fbconv.cops, *scores, SPARSITY, alpha)}, rounds)[""]
    return {"weights": size, "tensors": len(shapes), "alpha": alpha, "rounds": rounds, "seconds": seconds,
            "nanoseconds_per_weight": 1e9 * seconds / size, "steps": result.steps, "kept": result.kept,
            "relative_gap": result.objective_gap / abs(result.lp_value)}  # fmt: skip


def over_sizes(size: int, alpha: float) -> dict[str, object]:
    shapes = in_layers(size)
    row = timed(shapes, alpha, ROUNDS if size <= 25_600_000 else MANY_ROUNDS)
    extra = extra_bytes(partial(prepare_cops, shapes, alpha))
    return row | {"peak_extra_bytes": extra, "bytes_of_masks": size, "extra_bytes_per_weight": extra / size}


def in_layers(size: int, count: int = 4) -> Shapes:
    return {f"layer{i}": (size // count,) for i in range(count)}


def prepare_cops(shapes: Shapes, alpha: float) -> Callable[[], object]:
    fbconv.cops(*draw(in_layers(1000)), SPARSITY, alpha)  # what is loaded on first use is not counted
    return partial(fbconv.cops, *draw(shapes), SPARSITY, alpha)


def prepare_select(shapes: Shapes) -> Callable[[], object]:
    fbconv.select(draw(in_layers(1000))[1], SPARSITY)
    return partial(fbconv.select, draw(shapes)[1], SPARSITY)


def selection() -> dict[str, object]:
    shapes = in_layers(SELECT_SIZE)
    extra = extra_bytes(partial(prepare_select, shapes))
    scores = draw(shapes)[1]
    kept = sum(int(mask.sum()) for mask in fbconv.select(scores, SPARSITY).values())
    if kept != kept_count(SELECT_SIZE, SPARSITY):
        raise AssertionError(f"select kept {kept} of {SELECT_SIZE}")
    seconds = median_seconds({"": partial(fbconv.select, scores, SPARSITY)}, MANY_ROUNDS)[""]
    return {"scores": SELECT_SIZE, "kept": kept, "rounds": MANY_ROUNDS, "seconds": seconds, "peak_extra_bytes": extra,
            "bytes_of_masks": SELECT_SIZE, "beyond_masks_bytes": extra - SELECT_SIZE,
            "one_float32_vector_bytes": 4 * SELECT_SIZE}  # fmt: skip


def measure(console: Console) -> dict[str, object]:
    with _bar(len(ALPHAS) * (len(SIZES) + 2) + 1, console) as step:
        return {
            "highs": [step(f"HiGHS, alpha {a:g}", against_highs, a) for a in ALPHAS],
            "resnet50": [step(f"ResNet-50, alpha {a:g}", timed, resnet50_weights(), a) for a in ALPHAS],
            "sizes": [step(f"{size:,} weights, alpha {a:g}", over_sizes, size, a) for size in SIZES for a in ALPHAS],
            "select": step(f"select of {SELECT_SIZE:,}", selection),
        }


@contextmanager
def _bar(total: int, console: Console) -> Iterator[Callable[..., dict[str, object]]]:
    columns = (TextColumn("{task.description:>32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)

        def step(label: str, function: Callable[..., dict[str, object]], *arguments: object) -> dict[str, object]:
            progress.update(task, description=label)
            result = function(*arguments)
            progress.advance(task)
            return result

        yield step


def print_table(found: Mapping[str, object], console: Console) -> None:
    table = Table(title=f"COPS and selection, sparsity {SPARSITY:g}")
    for column, justify in (("what", "left"), ("measured", "right"), ("asked for", "right")):
        table.add_column(column, justify=justify)
    for row in found["highs"]:
        seconds = ", ".join(f"{name} {1e3 * value:,.2f} ms" for name, value in row["seconds"].items())
        table.add_row(f"{row['weights']:,} weights, alpha {row['alpha']:g}", seconds, "")
        for name, ratios in row["speed_up"].items():
            against = ", ".join(f"{method} {ratio:,.0f} x" for method, ratio in ratios.items())
            table.add_row(f"  {name} against HiGHS", against, ">= 1,000 x")
    for row in found["resnet50"]:
        table.add_row(f"ResNet-50, {row['weights']:,} weights, alpha {row['alpha']:g}", f"{row['seconds']:.3f} s",
                      "< 2 s on two cores")  # fmt: skip
    for row in found["sizes"]:
        figures = f"{row['nanoseconds_per_weight']:.2f} ns, {row['extra_bytes_per_weight']:.1f} B"
        table.add_row(f"each of {row['weights']:,} weights, alpha {row['alpha']:g}", figures, "constant")
    row = found["select"]
    beyond, limit = (f"{row[key] / 1e6:,.0f} MB" for key in ("beyond_masks_bytes", "one_float32_vector_bytes"))
    table.add_row(f"select of {row['scores']:,}", f"{row['seconds']:.2f} s", "")
    table.add_row("  memory beyond scores and masks", beyond, f"<= {limit}")
    console.print(table)


def plot(found: Mapping[str, object], threads: int, path: Path) -> None:
    figure = Figure(figsize=(12, 3.8), dpi=120, layout="constrained")
    figure.suptitle(f"COPS, sparsity {SPARSITY:g}, {threads} thread{'s' if threads > 1 else ''}")
    against, times, memory = figure.subplots(1, 3)
    looks = (("#0072B2", "-", "o"), ("#D55E00", "--", "s"))
    styles = dict(zip(ALPHAS, looks, strict=True))
    plot_highs(found["highs"], {alpha: style[0] for alpha, style in styles.items()}, against)
    for axes, key, label in (
        (times, "nanoseconds_per_weight", "ns for each weight"),
        (memory, "extra_bytes_per_weight", "bytes for each weight, beyond the scores"),
    ):
        for alpha, (colour, dash, marker) in styles.items():
            rows = [row for row in found["sizes"] if row["alpha"] == alpha]
            sizes, values = ([row[name] for row in rows] for name in ("weights", key))
            axes.plot(sizes, values, color=colour, linestyle=dash, marker=marker, label=f"alpha {alpha:g}")
        axes.set_xscale("log")
        axes.set_xlabel("weights")
        axes.set_ylabel(label)
        axes.legend()
        axes.grid(alpha=0.3)
    times.set_yscale("log")
    times.set_ylim(1, 100)
    memory.set_ylim(0, 1.3 * max(row["extra_bytes_per_weight"] for row in found["sizes"]))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_highs(rows: list[dict[str, object]], colours: Mapping[float, str], axes) -> None:
    height = 0.8 / len(rows)
    for i, row in enumerate(rows):
        places = [place + (i - 0.5) * height for place in range(len(row["seconds"]))]
        values = [1e3 * value for value in row["seconds"].values()]
        axes.barh(places, values, 0.9 * height, color=colours[row["alpha"]], label=f"alpha {row['alpha']:g}")
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:,.1f}", (value, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(rows[0]["seconds"])), rows[0]["seconds"])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.1, 20 * max(1e3 * value for row in rows for value in row["seconds"].values()))
    axes.set_xlabel(f"ms for {rows[0]['weights']:,} weights")
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    found = measure(console)
    print_table(found, console)
    settings = {"sparsity": SPARSITY, "threads": options.threads}
    write_json(options.out / "cops.json", {"settings": settings, "environment": environment(), **found})
    plot(found, options.threads, options.out / "cops.png")


if __name__ == "__main__":
    main()
