"""``fbconv info``: what is installed here, or what a compressed file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ._files.container import read
from ._files.sizes import describe
from .experiment import environment

EPILOG = "Example: fbconv info --json"


def info(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE.fbc]", help="A compressed file to describe.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Print versions, instruction set, threads and CUDA, or the layers and sizes of a compressed file."""
    facts = environment() if file is None else describe(read(file))
    if as_json:
        print(json.dumps(facts, indent=2))
    elif file is None:
        _print_environment(facts)
    else:
        _print_file(str(file), facts)


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
