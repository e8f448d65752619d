"""Memory of single layers: what a forward and a backward pass take at most beyond inputs and outputs.

    python bench/bench_memory.py --threads 1,2 --out bench/results

Layers of a VGG at batch 32, pruned, with a filter basis and frozen, by ``backend="sparse"``, beside torch's dense layer
in both memory formats and sparse matrices times unfolded inputs: scipy's forward, torch's backward, which unfold as few
images at a time as suits them. Every case is the first pass of a fresh process, so that scratch and plans that stay for
later passes count, and so does compiled code. A backward pass follows a forward pass that is not counted; its outputs
are the gradients of the input and of the weights or values (and the basis), as large as they are stored. Medians of
several processes. The unfolded input (im2col) of the whole batch is computed, not measured. Prints a table and writes
memory.json and memory.png.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from memory import scratch_bytes
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fbconv.benchmark import OPS, VGG, Layer, Operands, our_candidate
from fbconv.benchmark.candidates import FORMATS, dense_candidates
from fbconv.benchmark.peers import peer_candidate
from fbconv.benchmark.table import print_whole
from fbconv.benchmark.timing import Candidate
from fbconv.experiment import environment, write_json
from fbconv.plots import figure_of, save_figure

BATCH = 32
SPARSITIES = (0.9, 0.99)
PEERS = {"forward": "scipy", "backward": "torch-csr"}
REPETITIONS = 5
PARALLEL = 1 << 20  # elements: enough for torch to start its threads
COLOURS = {"masked": "#0072B2", "filter-basis": "#D55E00", "frozen": "#009E73"}
PEER_COLOUR = "#E69F00"
NOISE = 0.05  # MB: smaller bars mean nothing

Row = dict[str, object]


def cases(direction: str) -> Iterator[tuple[str, float]]:
    """(what runs, sparsity): dense layers have none."""
    yield from ((f"dense {layout}", 0.0) for layout in FORMATS)
    yield from ((runs, sparsity) for runs in (*OPS, PEERS[direction]) for sparsity in SPARSITIES)


def candidate(runs: str, direction: str, operands: Operands) -> Candidate:
    if runs in OPS:
        return our_candidate(operands, runs, direction)
    if runs in PEERS.values():
        return peer_candidate(operands, runs, "masked", direction)
    return dense_candidates(operands, direction)[runs.removeprefix("dense ")]


def prepare(
    make: Callable[[Operands], Candidate], threads: int, layer: Layer, batch: int, sparsity: float
) -> Candidate:
    """A candidate in a process where threads run and a tiny layer of its kind has passed."""
    torch.set_num_threads(threads)
    torch.ones(PARALLEL).exp_()
    tiny = make(Operands(Layer("tiny", 4, 4, layer.size), 1, 0.5))
    tiny.before()
    tiny.call()
    return make(Operands(layer, batch, sparsity))


def measure(layer: Layer, direction: str, threads: int, repetitions: int) -> Iterator[Row]:
    for runs, sparsity in cases(direction):
        make = partial(candidate, runs, direction)
        prepared = partial(prepare, make, threads, layer, BATCH, sparsity)
        found = [max(0, scratch_bytes(prepared)) for _ in range(repetitions)]
        yield {"layer": layer.name, "pass": direction, "threads": threads, "runs": runs,
               "sparsity": sparsity if sparsity else None, "extra_bytes": int(statistics.median(found)),
               "least_bytes": min(found), "most_bytes": max(found), "im2col_bytes": im2col_bytes(layer)}  # fmt: skip


def im2col_bytes(layer: Layer) -> int:
    """Of the unfolded input of the whole batch, in float32."""
    return 4 * layer.in_channels * layer.kernel**2 * layer.positions(BATCH)


def table(rows: Sequence[Row]) -> Table:
    shown = Table("layer", "pass", "threads", "runs", "sparsity", title="extra memory beyond inputs and outputs")
    for column in ("MB", "least", "most"):
        shown.add_column(column, justify="right")
    for row in rows:
        sizes = (f"{row[f'{name}_bytes'] / 1e6:.2f}" for name in ("extra", "least", "most"))
        sparsity = "" if row["sparsity"] is None else f"{row['sparsity']:g}"
        shown.add_row(row["layer"], row["pass"], str(row["threads"]), row["runs"], sparsity, *sizes)
    return shown


def plot(rows: Sequence[Row], path: Path) -> None:
    threads = list(dict.fromkeys(row["threads"] for row in rows))
    figure = figure_of(width=14, height=1.4 + 3.6 * len(threads))
    figure.suptitle(f"Memory of one layer beyond inputs and outputs, batch {BATCH}")
    for line, count in zip(figure.subplots(len(threads), 2, squeeze=False, sharey=True), threads, strict=True):
        for axes, direction in zip(line, PEERS, strict=True):
            panel(axes, [row for row in rows if row["threads"] == count and row["pass"] == direction])
            axes.set_title(f"{direction}, {count} thread{'s' if count > 1 else ''}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=9)
    save_figure(figure, path)


def panel(axes, rows: Sequence[Row]) -> None:
    """A group of bars for each layer, a line across it at the size of the unfolded batch."""
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    kinds = list(dict.fromkeys((row["runs"], row["sparsity"]) for row in rows))
    width = 0.84 / len(kinds)
    for i, (runs, sparsity) in enumerate(kinds):
        sizes = [row["extra_bytes"] / 1e6 for row in rows if (row["runs"], row["sparsity"]) == (runs, sparsity)]
        places = [place - 0.42 + (i + 0.5) * width for place in range(len(layers))]
        axes.bar(places, sizes, width, edgecolor="white", linewidth=0.5, **look(runs, sparsity))
        for place, size in zip(places, sizes, strict=True):
            axes.annotate(f"{size:.2g}" if size < 9.95 else f"{size:.0f}", (place, size), (0, 2), ha="center",
                          textcoords="offset points", fontsize=7, rotation=90)  # fmt: skip
    im2col = [next(row["im2col_bytes"] / 1e6 for row in rows if row["layer"] == layer) for layer in layers]
    axes.hlines(im2col, [place - 0.45 for place in range(len(layers))], [place + 0.45 for place in range(len(layers))],
                color="black", linestyle="--", linewidth=1, label="im2col of the batch")  # fmt: skip
    axes.set_xticks(range(len(layers)), layers)
    axes.set_yscale("log")
    axes.set_ylim(NOISE, 2.5 * max(max(im2col), *(row["extra_bytes"] / 1e6 for row in rows)))
    axes.set_ylabel("MB")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def look(runs: str, sparsity: float | None) -> Mapping[str, object]:
    if sparsity is None:
        return {"color": "0.35" if runs == "dense contiguous" else "0.65", "label": runs}
    hatch = "" if sparsity == SPARSITIES[0] else "////"
    name = "CSR + im2col" if runs in PEERS.values() else runs
    return {"color": COLOURS.get(runs, PEER_COLOUR), "hatch": hatch, "label": f"{name}, q = {sparsity:g}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=lambda text: tuple(map(int, text.split(","))), default=(1, 2))
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    args = parser.parse_args()
    about = environment()
    grid = [(layer, direction, threads) for threads in args.threads for layer in VGG for direction in PEERS]
    rows = [row for cell in track(grid, "layers", console=Console(stderr=True))
            for row in measure(*cell, args.repetitions)]  # fmt: skip
    print_whole(table(rows))
    settings = {"batch": BATCH, "sparsities": SPARSITIES, "repetitions": args.repetitions}
    write_json(args.out / "memory.json", {"environment": about, "settings": settings, "rows": rows})
    plot(rows, args.out / "memory.png")


if __name__ == "__main__":
    main()
