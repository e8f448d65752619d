"""Composite strategies on MNIST: upfront scores, stacks of two, scores as weights, their combinations, learned scores.

    python bench/strategies.py --data-dir data --out bench/results

LeNet-300-100 keeps half a percent, one and ten percent of its weights. strategies.toml lists the runs; to them come
those of the five scores that `fbconv meta` learns from two networks' lottery tickets. Training is shortened to 5 epochs
(the thesis: up to 100, with early stopping); three seeds, each with its own initial weights, shared by all strategies.
Runs go on in parallel in --work, where a second call resumes. Prints a table, with a star where Student's two-sample
t-test tells a strategy from SNIP at the same sparsity (p < .05, uncorrected), and writes strategies.json and
strategies.png.

Source: "Hitting the Jackpot" (Lutz, Manai), chapter 5.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from grid import cell, grid_options
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fbconv.comparing import compare
from fbconv.experiment import Config, environment, write_json
from fbconv.meta import REGRESSORS
from fbconv.meta.learning import SUFFIX, SUMMARY, learn
from fbconv.meta_command import table as learned_table
from fbconv.plots import figure_of, save_figure
from fbconv.sweep import read_sweep, sweep

RUNS = Path(__file__).with_suffix(".toml")
BASELINE = "snip on standard"
STARTS = ("standard", "snip", "synflow", "grasp", "bimodal")
COMBINED = ("magnitude", "snip", "synflow", "grasp", "magnitude/synflow", "synflow/magnitude", "grasp/magnitude",
            "snip/snip", "meta mlp")  # fmt: skip

Row = dict[str, object]
Runs = dict[str, list[Config]]


def learned(runs: Runs, work: Path) -> dict[str, object]:
    """What ``fbconv meta`` has learned, or learns now, from networks like those of the runs."""
    if (work / SUMMARY).exists():
        return json.loads((work / SUMMARY).read_text())
    configs = runs["snip on standard"]
    first = {config.seed: dataclasses.replace(config, sparsity=0.995, rounds=5, shots=20) for config in configs}
    return learn(list(first.values()), work)


def with_learned(runs: Runs, work: Path) -> Runs:
    """The runs, and those of learned scores, in one shot: on standard weights all five, on scores as weights one."""
    found = dict(runs)
    for name in REGRESSORS:
        found[f"meta {name} on standard"] = list(_learned(runs["snip on standard"], work / f"{name}{SUFFIX}"))
    for start in STARTS[1:]:
        found[f"meta mlp on {start}"] = list(_learned(runs[f"snip on {start}"], work / f"mlp{SUFFIX}"))
    return found


def _learned(configs: Sequence[Config], file: Path) -> Iterator[Config]:
    return (dataclasses.replace(config, score="meta", meta=str(file), rounds=1) for config in configs)


def rows_of(runs: Runs, work: Path, jobs: int, console: Console) -> list[Row]:
    """A line for each strategy and sparsity."""
    with Progress(console=console) as bar:
        task = bar.add_task("training", total=sum(map(len, runs.values())))
        results = sweep(runs, work, jobs, lambda done, total: bar.update(task, completed=done, total=total))
    groups = compare([record for record in results.records() if record.name in runs], BASELINE)
    return [
        {**dataclasses.asdict(group), "mean": group.mean, "std": group.std, "significant": group.significant}
        for group in groups
    ]


def table(rows: Sequence[Row]) -> Table:
    sparsities = sorted({row["sparsity"] for row in rows} - {0.0}, reverse=True)
    shown = Table("strategy", title="LeNet-300-100 on MNIST: test accuracy in %, by weights remaining")
    for sparsity in sparsities:
        shown.add_column(f"{1 - sparsity:.3g}", justify="right")
    found = {(row["name"], row["sparsity"]): row for row in rows}
    names = dict.fromkeys(row["name"] for row in rows if row["sparsity"])
    for name in sorted(names, key=lambda name: -found[name, sparsities[0]]["mean"]):
        own = [found[name, sparsity] for sparsity in sparsities]
        shown.add_row(name, *(cell(row) + ("*" if row["significant"] else " ") for row in own))
    shown.add_section()
    for row in rows:
        if not row["sparsity"]:
            shown.add_row(f"{row['name']}: {cell(row)}")
    return shown


def plot(rows: Sequence[Row], path: Path) -> None:
    """Accuracies at the fewest weights: stacks by their parts, strategies by what the network starts from."""
    least = max(row["sparsity"] for row in rows)
    means = {row["name"]: 100 * row["mean"] for row in rows if row["sparsity"] == least}
    figure = figure_of(width=12, height=5)
    figure.suptitle(f"LeNet-300-100 on MNIST, {100 * (1 - least):.2g} % of the weights, 5 epochs: test accuracy in %")
    stacks, starts = figure.subplots(1, 2, width_ratios=(4, 5))
    parts = ("magnitude", "snip", "synflow", "grasp")
    _heat(stacks, [[means[f"{first}/{second} on standard"] for second in parts] for first in parts], parts, parts)
    stacks.set(title="stacks, standard weights", xlabel="second score", ylabel="first score")
    image = _heat(starts, [[means[f"{score} on {start}"] for start in STARTS] for score in COMBINED], COMBINED, STARTS)
    starts.set(title="scores, stacks, and a learned one", xlabel="the network starts from")
    figure.colorbar(image, ax=[stacks, starts], fraction=0.03)
    save_figure(figure, path)


def _heat(axes, values: Sequence[Sequence[float]], names: Sequence[str], columns: Sequence[str]):
    image = axes.imshow(values, vmin=10, vmax=100, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(names)), names)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            colour = "white" if value < 60 else "black"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
    return image


def main() -> None:
    options = grid_options(__doc__, Path("runs/strategies"))
    about = environment()
    overrides = {"data_dir": options.data_dir, "epochs": options.epochs, "seed": list(range(options.seeds))}
    runs = read_sweep(RUNS, overrides)
    summary = learned(runs, options.work / "meta")
    rows = rows_of(with_learned(runs, options.work / "meta"), options.work, options.jobs, Console(stderr=True))
    Console().print(learned_table(summary))
    Console().print(table(rows))
    settings = {"epochs": options.epochs, "seeds": options.seeds, "baseline": BASELINE}
    learned_rows = [{"name": name, **found} for name, found in summary["regressors"].items()]
    content = {"environment": about, "settings": settings, "rows": rows, "regressors": learned_rows}
    write_json(options.out / "strategies.json", content | {"correlations": summary["correlations"]})
    plot(rows, options.out / "strategies.png")


if __name__ == "__main__":
    main()
