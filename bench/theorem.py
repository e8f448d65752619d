"""The interspace theorem, numerically: magnitude pruning's error against bases that adapt to the filters.

    python bench/theorem.py --trials 40 --out bench/results

Filters U ``(m, n)`` have independent N(0, 1) entries, s of m n coefficients are kept. Magnitude pruning keeps the
largest entries; the interspace has a basis F ``(m, m)`` and ``|U - F R|_F`` is minimised with the support of R fixed to
magnitude's, or free. Checked are both statements of the theorem (0 < s < m n, m > 1):

1. With a free support the infimum is below magnitude's error with probability 1: here in every trial.
2. With magnitude's support it is never above, and below with probability at least 1 - delta, where
   ``delta = C(n, s / m) / C(m n, s)`` if m divides s, else 0: the chance that every filter is kept whole or not at all,
   when no basis helps. For m = 9 and n >= 9 that is under 1e-10, so tiny problems show whether delta is right.

Below means by more than 1e-12 of it. The theorem does not count the m^2 entries of the basis; "equal memory" does, and
leaves as many coefficients fewer. Alternating minimisation finds upper bounds of the infima. Prints tables and writes
theorem.json and theorem.png.

Source: Wimmer et al. 2022, theorem 1 and equation (3); thesis, theorem 5.3.1, figure 5.3 and appendix B.2.
"""

from __future__ import annotations

import argparse
import statistics
from math import comb
from pathlib import Path

import torch
from dictionary_learning import fixed_support, free_support, magnitude
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from fbconv.benchmark.table import print_whole
from fbconv.experiment import environment, stream, write_json
from fbconv.plots import figure_of, save_figure

M = 9  # 3 x 3
COUNTS = (9, 16, 64, 256, 1024)
SPARSITIES = (0.5, 0.75, 0.9, 0.98)
TINY = ((2, 2), (2, 3), (3, 2), (2, 5))  # (m, n) where delta can be observed
TINY_TRIALS = 2000
ROUNDS = 12
ROUNDING = 1e-12  # relative difference of errors from which on they differ
METHODS = {"fixed": "support fixed", "free": "support free", "equal_memory": "free, equal memory"}
LOOKS = {9: ("#0072B2", "o"), 16: ("#56B4E9", "P"), 64: ("#009E73", "^"), 256: ("#E69F00", "v"), 1024: ("#D55E00", "s")}

Row = dict[str, object]


def delta(m: int, n: int, kept: int) -> float:
    """The bound: the share of supports that keep every filter whole or not at all."""
    return 0.0 if kept % m else comb(n, kept // m) / comb(m * n, kept)


def whole_filters(mask: Tensor) -> bool:
    """Whether every column is kept whole or not at all."""
    return bool((mask.all(0) | ~mask.any(0)).all())


def below(error: float, other: float) -> bool:
    return error < (1 - ROUNDING) * other


def budgets(n: int) -> list[int]:
    """Multiples of m, for which delta is not 0, as near to the sparsities as they come; each once."""
    return sorted({M * max(1, round((1 - sparsity) * n)) for sparsity in SPARSITIES}, reverse=True)


def trial(n: int, kept: int, rounds: int, generator: torch.Generator) -> dict[str, float]:
    """Relative error of each method on the same filters."""
    target = torch.randn(M, n, generator=generator, dtype=torch.float64)
    pruned = magnitude(target, kept)
    fits = {
        "magnitude": pruned,
        "fixed": fixed_support(target, pruned.coefficients != 0, rounds),
        "free": free_support(target, kept, rounds, generator),
    }
    if kept > M * M:
        fits["equal_memory"] = free_support(target, kept - M * M, rounds, generator)
    return {name: fit.error / float(target.norm()) for name, fit in fits.items()}


def measure(counts: tuple[int, ...], trials: int, rounds: int, console: Console) -> list[Row]:
    rows = []
    cells = [(n, kept) for n in counts for kept in budgets(n)]
    for n, kept in track(cells, "trials", console=console):
        generator = stream(0, f"{n} filters, {kept} kept")
        # Means of many filters vary less, and take longer.
        errors = [trial(n, kept, rounds, generator) for _ in range(max(4, trials * 64 // max(n, 64)))]
        rows.append(row(n, kept, errors))
    return rows


def row(n: int, kept: int, errors: list[dict[str, float]]) -> Row:
    ratios = {name: [one[name] / one["magnitude"] for one in errors] for name in errors[0]}
    return {
        "m": M, "n": n, "kept": kept, "sparsity": 1 - kept / (M * n), "trials": len(errors), "delta": delta(M, n, kept),
        "mean_error": {name: statistics.mean(one[name] for one in errors) for name in errors[0]},
        "mean_ratio": {name: statistics.mean(values) for name, values in ratios.items()},
        "largest_ratio": {name: max(values) for name, values in ratios.items()},
        "share_below": {name: share(errors, name) for name in errors[0] if name != "magnitude"},
    }  # fmt: skip


def share(errors: list[dict[str, float]], name: str) -> float:
    return statistics.mean(below(one[name], one["magnitude"]) for one in errors)


def measure_tiny(shapes: tuple[tuple[int, int], ...], trials: int, console: Console) -> list[Row]:
    """How often the support of magnitude leaves no basis that is better, for every budget."""
    cells = [(m, n, kept) for m, n in shapes for kept in range(1, m * n)]
    return [tiny_row(*cell, trials) for cell in track(cells, "tiny problems", console=console)]


def tiny_row(m: int, n: int, kept: int, trials: int) -> Row:
    generator = stream(0, f"tiny {m} x {n}, {kept} kept")
    equal = unexplained = 0
    for _ in range(trials):
        target = torch.randn(m, n, generator=generator, dtype=torch.float64)
        pruned = magnitude(target, kept)
        mask = pruned.coefficients != 0
        same = not below(fixed_support(target, mask, rounds=1).error, pruned.error)
        equal += same
        unexplained += same != whole_filters(mask)
    return {"m": m, "n": n, "kept": kept, "trials": trials, "delta": delta(m, n, kept),
            "share_not_below": equal / trials, "unexplained": unexplained}  # fmt: skip


def tables(rows: list[Row], tiny: list[Row]) -> None:
    table = Table(title=f"m = {M}: mean |U - F R| / |U|, and share of trials below magnitude's")
    for name in ("n", "s", "sparsity", "trials", "magnitude", "delta", *METHODS.values()):
        table.add_column(name, justify="right")
    for row in rows:
        figures = (f"{row['sparsity']:.3f}", str(row["trials"]), f"{row['mean_error']['magnitude']:.4f}")
        cells = (cell(row, method) for method in METHODS)
        table.add_row(str(row["n"]), str(row["kept"]), *figures, f"{row['delta']:.0e}", *cells)
    print_whole(table)
    table = Table(title="Share of trials where no basis is better on magnitude's support")
    for name in ("m", "n", "s", "trials", "observed", "delta", "other than whole filters"):
        table.add_column(name, justify="right")
    for row in tiny:
        shares = (f"{row['share_not_below']:.3f}", f"{row['delta']:.3f}")
        table.add_row(*(str(row[name]) for name in ("m", "n", "kept", "trials")), *shares, str(row["unexplained"]))
    print_whole(table)


def cell(row: Row, method: str) -> str:
    errors = row["mean_error"]
    return f"{errors[method]:.4f} ({row['share_below'][method]:.0%})" if method in errors else ""


def plot(rows: list[Row], tiny: list[Row], path: Path) -> None:
    figure = figure_of(width=15, height=5)
    figure.suptitle(f"n random 3x3 filters (m = {M}) approximated with s coefficients: in an adaptive basis and pruned")
    fixed, free, bound = figure.subplots(1, 3)
    for axes, name in ((fixed, "fixed"), (free, "free"), (free, "equal_memory")):
        plot_ratios(axes, rows, name)
    fixed.set_title("support of magnitude pruning, basis adapted", fontsize=10)
    free.set_title("basis and support adapted", fontsize=10)
    free.plot([], [], color="0.3", linestyle=":", label="equal memory:\ns - 81 coefficients")
    for axes in (fixed, free):
        axes.axhline(1, color="black", linewidth=1, label="magnitude")
        axes.set_xlabel("sparsity 1 - s / (m n)")
        axes.set_ylabel("|U - F R|, magnitude pruning = 1 (mean of trials)")
        axes.set_ylim(-0.03, 1.2)
        axes.grid(alpha=0.3)
    figure.legend(*free.get_legend_handles_labels(), loc="outside left center", fontsize=9)
    plot_bound(bound, tiny)
    save_figure(figure, path)


def plot_ratios(axes, rows: list[Row], name: str) -> None:
    for n in sorted({row["n"] for row in rows}):
        points = [(row["sparsity"], row["mean_ratio"][name]) for row in rows
                  if row["n"] == n and name in row["mean_ratio"]]  # fmt: skip
        colour, marker = LOOKS[n]
        label = None if name == "equal_memory" else f"n = {n}"
        axes.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=5, label=label,
                  linestyle=":" if name == "equal_memory" else "-") if points else None  # fmt: skip


def plot_bound(axes, tiny: list[Row]) -> None:
    colours = ("#0072B2", "#009E73", "#CC79A7", "#D55E00")
    for colour, (m, n) in zip(colours, sorted({(row["m"], row["n"]) for row in tiny}), strict=False):
        cells = [row for row in tiny if (row["m"], row["n"]) == (m, n)]
        places = [row["kept"] for row in cells]
        shares = [row["share_not_below"] for row in cells]
        spread = [2 * (share * (1 - share) / row["trials"]) ** 0.5 for share, row in zip(shares, cells, strict=True)]
        axes.plot(places, [row["delta"] for row in cells], color=colour, linewidth=1, label=f"m = {m}, n = {n}")
        axes.errorbar(places, shares, spread, color=colour, marker="x", linestyle="", capsize=3)
    axes.errorbar([], [], [], color="0.3", marker="x", linestyle="", label="observed (± 2 standard errors)")
    axes.set_title("tiny problems where no basis helps that support", fontsize=10)
    axes.set_xlabel("kept coefficients s")
    axes.set_ylabel("share of trials (lines: delta)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about, progress = environment(), Console(stderr=True)
    rows = measure(COUNTS, options.trials, ROUNDS, progress)
    tiny = measure_tiny(TINY, TINY_TRIALS, progress)
    tables(rows, tiny)
    settings = {"trials": options.trials, "rounds": ROUNDS, "rounding": ROUNDING}
    write_json(options.out / "theorem.json", {"environment": about, "settings": settings, "rows": rows,
                                              "tiny": tiny})  # fmt: skip
    plot(rows, tiny, options.out / "theorem.png")


if __name__ == "__main__":
    main()
