"""torch.compile on whole networks for images of CIFAR's size: VGG-16 dense, pruned, in the interspace and frozen.

    python bench/bench_compile.py --threads 1 --out bench/results

Networks, masks and passes are those of bench_networks.py: inference of one image, a training step of 32. Each network
runs as it is and through ``torch.compile(fullgraph=True)``, with "auto" as it decides in either, all of one sparsity
and pass interleaved. Dense, the unpruned network, and frozen, whose forward is as dense, run in both memory formats.
Slow ones take part in fewer rounds, as ``rounds`` says. Speed-ups are over eager dense torch in its faster format;
compilation is not timed. Before anything is timed, each network must be as close to its densified one in float64 as
that is in float32. Prints a table and writes compile.json and compile.png; ``--model lenet5`` measures that network and
adds its name to theirs.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from bench_networks import MODEL, Batch, Row, check, inference, plot, run, training_step
from rich.console import Console
from rich.table import Table
from torch import nn

from fbconv.benchmark.allocator import keep_freed_memory
from fbconv.benchmark.candidates import FORMATS
from fbconv.benchmark.table import print_whole
from fbconv.benchmark.timing import ROUNDS, Candidate, interleaved_medians
from fbconv.experiment import environment, write_json
from fbconv.train import Prepared

SPARSITIES = (0.986, 0.99)
SCORE_ROUNDS = 100
SLOW = ("dense", "frozen")
COLOURS = {"dense": "0.6", "frozen": "#009E73", "spatial": "#0072B2", "interspace": "#D55E00"}
RUNS = {"eager": 0.45, "compiled": 1.0}  # how strong the colour is

Key = tuple[str, str, str]  # network, memory format, how it runs


def variants(made: Mapping[str, Prepared], batch: Batch, training: bool) -> dict[Key, tuple[nn.Module, Batch]]:
    """Networks in the mode of the pass, eager and compiled, checked, each with its images."""
    found: dict[Key, tuple[nn.Module, Batch]] = {}
    images, labels = batch
    for name, prepared in made.items():
        for layout in FORMATS if name in SLOW else ("contiguous",):
            module = copy.deepcopy(prepared.model).train(training).to(memory_format=FORMATS[layout])
            average_with_momentum(module)
            laid_out = images.contiguous(memory_format=FORMATS[layout])
            compiled = torch.compile(copy.deepcopy(module), fullgraph=True)
            for runs, network in (("eager", module), ("compiled", compiled)):
                check(f"{name}, {runs}", network, module, laid_out)
                found[name, layout, runs] = network, (laid_out, labels)
    return found


def average_with_momentum(network: nn.Module) -> None:
    """torch cannot compile the training of batch norm with plain averages, which calibration leaves."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = 0.1


def measure(made: Mapping[str, Prepared], batch: Batch, direction: str, rounds: int) -> list[Row]:
    """Rows of one sparsity and pass, all interleaved."""
    torch._dynamo.reset()
    prepare_call: Callable = inference if direction == "inference" else training_step
    candidates = {
        key: Candidate(prepare_call(network, data), may_skip=key[0] in SLOW)
        for key, (network, data) in variants(made, batch, direction != "inference").items()
    }
    timings = interleaved_medians(candidates, rounds)
    dense = min(timings["dense", layout, "eager"].seconds for layout in FORMATS)
    return [{
        "pass": direction, "batch": len(batch[0]), "network": name, "format": layout, "runs": runs,
        "trained_weights": made[name].trained_weights, "ms": 1e3 * timing.seconds, "rounds": timing.rounds,
        "speed_up": dense / timing.seconds, "over_eager": timings[name, layout, "eager"].seconds / timing.seconds,
    } for (name, layout, runs), timing in timings.items()]  # fmt: skip


def table(model: str, rows: Sequence[Row]) -> Table:
    shown = Table("sparsity", "pass", "network", "format", "runs", title=f"{model}: speed-up by torch.compile")
    for column in ("rounds", "ms", "over eager", "over eager dense"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(f"{row['sparsity']:g}", row["pass"], row["network"], row["format"], row["runs"],
                      str(row["rounds"]), f"{row['ms']:.3g}", f"{row['over_eager']:.2f}x",
                      f"{row['speed_up']:.2f}x")  # fmt: skip
    return shown


def panel(axes, rows: Sequence[Row]) -> None:
    """Bars of speed-up over eager dense, a group for each sparsity; each network in its faster format."""
    sparsities = sorted({row["sparsity"] for row in rows})
    names = [name for name in COLOURS if any(row["network"] == name for row in rows)]
    kinds = [(name, runs) for name in names for runs in RUNS]
    width = 0.85 / len(kinds)
    for place, (name, runs) in enumerate(kinds):
        heights = [
            max(r["speed_up"] for r in rows if (r["sparsity"], r["network"], r["runs"]) == (sparsity, name, runs))
            for sparsity in sparsities
        ]
        left = [group + (place - (len(kinds) - 1) / 2) * width for group in range(len(sparsities))]
        bars = axes.bar(left, heights, width * 0.95, color=COLOURS[name], alpha=RUNS[runs], label=f"{name}, {runs}")
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.axhline(1, color="0.4", linewidth=1, zorder=0)
    axes.set_xticks(range(len(sparsities)), [f"sparsity {sparsity:g}" for sparsity in sparsities])
    axes.set_ylabel("speed-up over eager dense torch")
    axes.margins(y=0.35)  # room for the legend
    axes.legend(fontsize=8, ncols=2, loc="upper left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--sparsity", type=lambda text: tuple(map(float, text.split(","))), default=SPARSITIES)
    parser.add_argument("--score-rounds", type=int, default=SCORE_ROUNDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    about = environment()
    rows = run(args.sparsity, args.score_rounds, args.rounds, Console(), measure, args.model)
    print_whole(table(args.model, rows))
    settings = {"model": args.model, "sparsities": args.sparsity, "score": "synflow", "score_rounds": args.score_rounds}
    name = "compile" if args.model == MODEL else f"compile_{args.model}"
    write_json(args.out / f"{name}.json", {"environment": about, "settings": settings, "rows": rows})
    plot(rows, about, args.out / f"{name}.png", panel, args.model)


if __name__ == "__main__":
    main()
