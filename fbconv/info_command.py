"""``fbconv info``: what is installed here, what a compressed file holds, or what a model costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ._files.container import read
from ._files.sizes import describe
from .experiment import environment
from .flops_report import print_report, report
from .input_shape import parse_shape
from .models import MODELS

EPILOG = "Example: fbconv info --flops vgg16 --input-shape 3,32,32"


def info(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE.fbc]", help="A compressed file to describe, or to load into the --flops model."),
    ] = None,
    flops: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Count the parameters and FLOPs of each layer of a network "
            f"({', '.join(MODELS)}, 10 classes) or of what FILE.py:FACTORY, a function of your own, returns.",
        ),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Shape of one input of the --flops model.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="With --flops: time each layer at batch 1, too, against the dense layer.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Print versions, instruction set, threads and CUDA; the layers and sizes of a compressed file; or, with --flops,
    parameters and FLOPs of a model.

    FLOPs are dense, by the papers' formula (theory), with the masks that the model has (exact), and of composing
    filters first, for filter bases. The ratio is of dense to exact ones.
    """
    facts, printed = _facts(file, flops, parse_shape(input_shape), measure)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        printed(facts)


def _facts(
    file: Path | None, flops: str | None, shape: tuple[int, ...] | None, measure: bool
) -> tuple[dict[str, object], Callable[[dict[str, object]], None]]:
    """What to print, and what prints it for people."""
    if flops is not None:
        if shape is None:
            raise typer.BadParameter("flops needs --input-shape")
        return report(flops, shape, file, measure), print_report
    if shape is not None or measure:
        raise typer.BadParameter("input-shape and measure need --flops")
    if file is None:
        return environment(), _print_environment
    return describe(read(file)), partial(_print_file, str(file))


def _print_environment(facts: dict[str, object]) -> None:
    table = Table(show_header=False)
    for key, value in facts.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, content in parts:
            table.add_row(f"{key} {part}".strip().replace("_", " "), "-" if content in (None, "") else str(content))
    Console().print(table)


def _print_file(name: str, facts: dict[str, object]) -> None:
    table = Table(title=f"{name}: {facts['format']}, {', '.join(facts['dtypes'])}")
    table.add_column("layer", overflow="fold")
    for column in ("shape", "kept", "density", "elsewhere", "bits a position", "bound", "bytes"):
        table.add_column(column, justify="right")
    for layer in facts["layers"]:
        bits = (layer["position"][key] for key in ("bits", "bound_bits"))
        table.add_row(
            layer["name"] or "(model)", "x".join(map(str, layer["shape"])), f"{layer['kept']:,}",
            f"{100 * layer['density']:.4g} %", layer["elsewhere"],
            *("-" if value is None else f"{value:.3f}" for value in bits), f"{layer['bytes']:,}",
        )  # fmt: skip
    table.add_section()
    others = facts["other_tensors"]
    table.add_row("other tensors", "", f"{others['entries']:,}", "", "", "", "", f"{others['bytes']:,}")
    Console().print(table)
    sizes = facts["bytes"]
    print(f"{facts['kept']:,} of {facts['weights']:,} weights kept; {sizes['file']:,} bytes, checksum included")
    print(f"with CSR int32 positions {sizes['with_csr']:,}, with bitmaps {sizes['with_bitmap']:,}, dense in float32 "
          f"{sizes['dense_float32']:,}")  # fmt: skip
    if facts["seed"] is not None:
        print(f"frozen weights: {facts['init']}, seed {facts['seed']}, generator {facts['generator']}")
