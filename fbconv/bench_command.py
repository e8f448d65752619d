"""``fbconv bench``: how fast single layers are, against torch's dense layer and public peers."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from . import _C
from .benchmark import DIRECTIONS, LAYERS, OPS, VGG, Grid, geometric_means, run
from .benchmark.allocator import keep_freed_memory
from .benchmark.peers import PEERS, installed_peers
from .benchmark.plot import plot_layer
from .benchmark.table import means_table, print_whole, table_of
from .benchmark.timing import ROUNDS
from .experiment import environment, write_json
from .plots import require_matplotlib

EPILOG = (
    "Example: fbconv bench --layers vgg-64x32,vgg-512x4 --batch 32 --sparsity .9,.95,.99 --ops masked "
    "--passes forward,backward --threads 1 --out runs/bench"
)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
BATCHES = (1, 32, 128)
_PEAK_SECONDS = 0.5
_DEFAULT = {"layers": [layer.name for layer in VGG], "batch": (1, 32), "sparsity": (0.9, 0.99)}
_QUICK = _DEFAULT | {"batch": (1,)}
_ALL = {"layers": list(LAYERS), "batch": BATCHES, "sparsity": SPARSITIES}
_Item = TypeVar("_Item")


def bench(
    layers: Annotated[
        str | None, typer.Option(metavar="NAME,...", help=f"By default the VGG layers, of {', '.join(LAYERS)}.")
    ] = None,
    batch: Annotated[str | None, typer.Option(metavar="N,...", help="Images; by default 1,32.")] = None,
    sparsity: Annotated[
        str | None, typer.Option(metavar="Q,...", help="Shares of weights to remove, in [0, 1); by default .9,.99.")
    ] = None,
    ops: Annotated[str, typer.Option(metavar="NAME,...", help="Operators.")] = ",".join(OPS),
    passes: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Passes; grad-values is the whole weight gradient, backward all gradients, step forward and backward.",
        ),
    ] = ",".join(DIRECTIONS),
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; by default as many as torch takes.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds that medians are taken of.")] = ROUNDS,
    peers: Annotated[
        bool, typer.Option(help=f"Measure {', '.join(PEERS)} too, where their packages can be imported.")
    ] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Batch 1 only: less than a minute.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help=f"Every layer, batch {', '.join(map(str, BATCHES))}, sparsity {', '.join(map(str, SPARSITIES))}: "
            "hours. Explicit lists go before --all and --quick.",
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("runs/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Time single layers against torch's dense layer and public peers, all interleaved, and report medians.

    Dense is the better of torch's two memory formats. Values change in place between calls, as in training, but for
    forward passes at batch 1. Useful GFLOP/s count two operations for each kept weight at each output position (for
    filter bases those of basis first on live columns); their share is of the peak measured on this machine. Writes
    layers-Ncore.json (for N threads) and a picture for each layer.
    """
    if quick and everything:
        raise typer.BadParameter("at most one of --quick and --all can be given")
    given = {"layers": layers, "batch": batch, "sparsity": sparsity, "ops": ops, "passes": passes}
    names = installed_peers() if peers else []
    grid = _grid(given, _QUICK if quick else _ALL if everything else _DEFAULT, rounds, names)
    require_matplotlib()
    _check_writable(out)
    with _threads(threads):
        result = _measure(grid, as_json)
    stem = f"layers-{result['environment']['threads']}core"
    write_json(out / f"{stem}.json", result)
    pictures = _draw(result, out, stem)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    _print(result, peers)
    print(f"results: {out / stem}.json\npictures: {', '.join(str(path) for path in pictures)}")


def _grid(given: Mapping[str, str | None], preset: Mapping[str, Sequence], rounds: int, peers: Sequence[str]) -> Grid:
    def listed(name: str, convert: Callable[[str], _Item]) -> list[_Item]:
        text = given[name]
        items = preset[name] if text is None else [convert(item.strip()) for item in text.split(",")]
        return list(dict.fromkeys(items))

    grid = Grid(
        layers=[LAYERS[name] for name in listed("layers", _choice("layers", LAYERS))],
        batches=listed("batch", _batch),
        sparsities=listed("sparsity", _sparsity),
        ops=listed("ops", _choice("ops", OPS)),
        directions=listed("passes", _choice("passes", DIRECTIONS)),
        rounds=rounds,
        peers=peers,
    )
    if not len(grid):
        raise typer.BadParameter("filter-basis needs a layer with filters larger than 1x1")
    return grid


def _choice(option: str, choices: Sequence[str] | Mapping[str, object]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise typer.BadParameter(f"{option} must be of {', '.join(choices)}, got {text!r}")
        return text

    return convert


def _batch(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"batch must be numbers from 1 with commas between, got {text!r}")
    return int(text)


def _sparsity(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1:
        raise typer.BadParameter(f"sparsity must be numbers in [0, 1) with commas between, got {text!r}")
    return value


def _check_writable(folder: Path) -> None:
    """Before the measurement rather than after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"out must be a folder that can be written to, got {str(folder)!r}: {error.strerror}"
        ) from error


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _measure(grid: Grid, quiet: bool) -> dict[str, object]:
    keep_freed_memory()
    peak = _C.fma_gflops(_PEAK_SECONDS)
    started = time.perf_counter()
    with _bar(len(grid), quiet) as progress:
        rows = run(grid, peak * torch.get_num_threads(), progress)
    return {
        "environment": environment(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "fma_gflops_per_core": peak,
        "rounds": grid.rounds,
        "peers": list(grid.peers),
        "seconds": time.perf_counter() - started,
        "rows": rows,
        "geometric_means": geometric_means(rows),
    }


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    if quiet:
        yield lambda label: None
        return
    columns = (TextColumn("{task.description:>45}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda label: bar.update(task, description=label, advance=1)
        bar.update(task, completed=total)


def _draw(result: Mapping[str, object], out: Path, stem: str) -> list[Path]:
    facts = result["environment"]
    where = f"{facts['processor']}, {facts['capability']}, {facts['threads']} threads".replace(
        " 1 threads", " 1 thread"
    )
    paths = []
    for name in dict.fromkeys(row["layer"] for row in result["rows"]):
        paths.append(out / f"{stem}-{name}.png")
        plot_layer([row for row in result["rows"] if row["layer"] == name], paths[-1], f"{name} on {where}")
    return paths


def _print(result: Mapping[str, object], peers: bool) -> None:
    peak, threads = result["fma_gflops_per_core"], result["environment"]["threads"]
    tables = [table_of(result["rows"], f"Medians in milliseconds; FMA peak {threads} x {peak:.4g} GFLOP/s")]
    tables += [means_table(result["geometric_means"])] if result["geometric_means"] else []
    for table in tables:
        print_whole(table)
    missing = dict.fromkeys(package for name, package in PEERS.items() if name not in result["peers"])
    if peers and missing:
        print(f"fbconv: peers not measured, because they cannot be imported: {', '.join(missing)}", file=sys.stderr)
