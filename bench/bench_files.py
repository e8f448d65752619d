"""Compressed files: bytes of whole networks beside other ways to store them, bits of a position, times.

    python bench/bench_files.py --threads 1 --out bench/results

LeNet-300, LeNet-5 and VGG-16, pruned by SNIP on one batch of the digits. Positions against their entropy,
``log2(size choose kept)`` of each layer, against CSR with int32 columns and row pointers, and against bitmaps: bits for
one kept weight. Files with everything in them, in float32 and bfloat16; frozen ones hold a seed more than pruned ones.
Times of saving and loading frozen ones, which are drawn again, and of the coder alone are the best of several. Prints
tables and writes files.json and files.png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import fbconv
from fbconv._files.container import read
from fbconv._files.positions import decode_positions, encode_positions, entropy_bits
from fbconv._files.sizes import describe
from fbconv.benchmark.table import print_whole
from fbconv.data import load
from fbconv.experiment import environment, stream, write_json
from fbconv.models import MODELS, build
from fbconv.plots import figure_of, save_figure

NETWORKS = {"lenet300": "LeNet-300", "lenet5": "LeNet-5", "vgg16": "VGG-16"}
SPARSITIES = (0.9, 0.99, 0.995, 0.999)
SEED = 7
BATCH = 20
CODED = 25_000_000  # elements of the coder's mask
POSITIONS = {"bits": "this format", "csr_bits": "CSR int32", "bitmap_bits": "bitmap"}
FILES = {
    "pruned_bfloat16": "this format, bfloat16",
    "pruned_float32": "this format, float32",
    "with_csr": "with CSR int32",
    "with_bitmap": "with bitmaps",
    "dense_float32": "dense float32",
}
LOOKS = {
    "this format": ("#0072B2", ""),
    "this format, bfloat16": ("#56B4E9", "..."),
    "this format, float32": ("#0072B2", ""),
    "CSR int32": ("#D55E00", "///"),
    "with CSR int32": ("#D55E00", "///"),
    "bitmap": ("#009E73", "xxx"),
    "with bitmaps": ("#009E73", "xxx"),
    "dense float32": ("0.6", ""),
}

Row = dict[str, object]


def measure_network(network: str, batch: tuple[Tensor, Tensor], path: Path, repetitions: int) -> Iterator[Row]:
    init = MODELS[network].init
    dense = build(network, seed=SEED)
    scores = fbconv.score(dense, "snip", [batch])
    for sparsity in SPARSITIES:
        masks = fbconv.select(scores, sparsity)
        yield {"network": network, "sparsity": sparsity} | measure(dense, masks, init, path, repetitions)


def measure(dense: nn.Module, masks: Mapping[str, Tensor], init: str, path: Path, repetitions: int) -> Row:
    frozen = fbconv.freeze(dense, masks, SEED, init)
    sizes = {
        f"{kind}_{str(dtype).removeprefix('torch.')}": fbconv.save(model, path, dtype)
        for kind, model in (("frozen", frozen), ("pruned", fbconv.sparsify(dense, masks)))
        for dtype in (torch.bfloat16, torch.float32)
    }
    facts = describe(read(path))  # of the last, pruned in float32
    kept, weights, positions = facts["kept"], facts["weights"], facts["position"]
    # Of the mask as a whole, which does not know how many weights each layer keeps.
    positions["global_bound_bits"] = entropy_bits(kept, weights) / kept
    fbconv.save(frozen, path)
    return {
        "weights": weights, "kept": kept,
        "position": positions,
        "bytes": sizes | {name: facts["bytes"][name] for name in ("with_csr", "with_bitmap", "dense_float32")},
        "save_seconds": best(lambda: fbconv.save(frozen, path), repetitions),
        "load_seconds": best(lambda: fbconv.load(path, dense), repetitions),
    }  # fmt: skip


def measure_coder(sparsity: float, repetitions: int) -> Row:
    mask = torch.rand(CODED, generator=stream(0, "mask")) >= sparsity
    positions = mask.nonzero()[:, 0]
    code = encode_positions(positions, CODED)
    return {
        "elements": CODED, "sparsity": sparsity, "kept": positions.numel(),
        "bits": 8 * len(code) / positions.numel(),
        "bound_bits": entropy_bits(positions.numel(), CODED) / positions.numel(),
        "encode_seconds": best(lambda: encode_positions(positions, CODED), repetitions),
        "decode_seconds": best(lambda: decode_positions(code, positions.numel(), CODED), repetitions),
    }  # fmt: skip


def best(work: Callable[[], object], repetitions: int) -> float:
    seconds = []
    for _ in range(repetitions):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def position_table(rows: Sequence[Row]) -> Table:
    table = Table("network", title="Bits of a kept weight's position")
    for column in ("q", "kept", "this format", "entropy", "over it", "of all layers as one", "CSR int32", "bitmap"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        bits = row["position"]
        over = f"{100 * (bits['bits'] / bits['bound_bits'] - 1):.3f} %"
        shown = [f"{bits[name]:.3f}" for name in ("global_bound_bits", "csr_bits", "bitmap_bits")]
        table.add_row(NETWORKS[row["network"]], f"{row['sparsity']:g}", f"{row['kept']:,}", f"{bits['bits']:.3f}",
                      f"{bits['bound_bits']:.3f}", over, *shown)  # fmt: skip
    return table


def file_table(rows: Sequence[Row]) -> Table:
    table = Table("network", title="Bytes of the file, and milliseconds")
    kinds = ("pruned_float32", "frozen_float32", "pruned_bfloat16", "frozen_bfloat16",
             "with_csr", "with_bitmap", "dense_float32")  # fmt: skip
    for column in ("q", *(kind.replace("_", " ") for kind in kinds), "save", "load"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        times = (f"{1e3 * row[name]:.1f}" for name in ("save_seconds", "load_seconds"))
        sizes = (f"{row['bytes'][kind]:,}" for kind in kinds)
        table.add_row(NETWORKS[row["network"]], f"{row['sparsity']:g}", *sizes, *times)
    return table


def coder_table(rows: Sequence[Row]) -> Table:
    table = Table("elements", title="The coder alone", expand=False)
    for column in ("q", "bits", "entropy", "encode ms", "decode ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(f"{row['elements']:,}", f"{row['sparsity']:g}", f"{row['bits']:.4f}", f"{row['bound_bits']:.4f}",
                      f"{1e3 * row['encode_seconds']:.0f}", f"{1e3 * row['decode_seconds']:.0f}")  # fmt: skip
    return table


def plot(rows: Sequence[Row], path: Path) -> None:
    figure = figure_of(width=15, height=8)
    halves = figure.subfigures(2, 1)
    panels = [half.subplots(1, len(NETWORKS)) for half in halves]
    for column, (network, title) in enumerate(NETWORKS.items()):
        mine = [row for row in rows if row["network"] == network]
        above, below = (half[column] for half in panels)
        bars(
            above,
            [row["position"] for row in mine],
            POSITIONS,
            lambda bits: f"{bits:.3g}" if bits < 999 else f"{bits:.0f}",
        )
        places = range(len(mine))
        bounds = [row["position"]["bound_bits"] for row in mine]
        above.hlines(bounds, [p - 0.45 for p in places], [p + 0.45 for p in places], color="black", linestyle=":",
                     label="entropy")  # fmt: skip
        above.set_title(f"{title}, {mine[0]['weights']:,} weights")
        bars(below, [row["bytes"] for row in mine], FILES, size_text)
        for axes in (above, below):
            axes.set_xticks(places, [f"q = {row['sparsity']:g}" for row in mine])
    panels[0][0].set_ylabel("bits for the position of a kept weight")
    panels[1][0].set_ylabel("bytes of the whole file")
    for half, axes in zip(halves, panels, strict=True):
        half.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
    figure.suptitle("Networks pruned by SNIP: positions and whole files")
    save_figure(figure, path)


def bars(axes, rows: Sequence[Row], kinds: dict[str, str], text: Callable[[float], str]) -> None:
    """A group of bars for each row, on a logarithmic scale."""
    width = 0.88 / len(kinds)
    for i, (kind, label) in enumerate(kinds.items()):
        colour, hatch = LOOKS[label]
        places = [place - 0.44 + (i + 0.5) * width for place in range(len(rows))]
        values = [row[kind] for row in rows]
        axes.bar(places, values, width, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5, label=label)
        for place, value in zip(places, values, strict=True):
            axes.annotate(text(value), (place, value), (0, 4), textcoords="offset points", ha="center", fontsize=7,
                          rotation=90)  # fmt: skip
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.3, high * 3)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def size_text(size: float) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    about = environment()
    batch = next(load("digits").training_batches(BATCH, stream(0, "score")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.fbc"
        rows = [
            row
            for network in track(NETWORKS, "networks", console=Console(stderr=True))
            for row in measure_network(network, batch, path, options.repetitions)
        ]
    coder = [measure_coder(sparsity, options.repetitions) for sparsity in (0.9, 0.99, 0.999)]
    for table in (position_table(rows), file_table(rows), coder_table(coder)):
        print_whole(table)
    settings = {"batch": BATCH, "seed": SEED, "threads": options.threads, "repetitions": options.repetitions}
    content = {"environment": about, "settings": settings, "rows": rows, "coder": coder}
    write_json(options.out / "files.json", content)
    plot(rows, options.out / "files.png")


if __name__ == "__main__":
    main()
