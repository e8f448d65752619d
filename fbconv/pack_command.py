"""``fbconv pack``: any state dict in a compressed file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer

from ._files.container import write
from ._files.entries import Layer, cast
from ._files.sources import entries_of_source, load_masks
from .initialisation import INITS

EPILOG = "Example: fbconv pack model.safetensors model.fbc --masks masks/masks.safetensors --dtype bfloat16"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pack(
    source: Annotated[
        Path,
        typer.Argument(
            help="State dict of a plain model: .safetensors, or torch's .pt, .pth, .ckpt or .bin (tensors only). Or a "
            "packed file, to change its dtype."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.fbc", help="The compressed file.")],
    masks: Annotated[
        Path | None,
        typer.Option(
            help="masks.safetensors of fbconv score: store these weights, zero or not; all others must be zero"
            " (or, with --init and --seed, as drawn)."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of all numbers: {', '.join(DTYPES)}; by default as they are.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help=f"What frozen weights were drawn from, with --seed: {', '.join(INITS)}.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, help="Of the frozen weights: those are left out, layer by layer."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Compress a state dict: weights without their zeros, or without what a seed gives, if that is smaller."""
    if dtype not in (None, *DTYPES):
        raise typer.BadParameter(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if init not in (None, *INITS):
        raise typer.BadParameter(f"init must be one of {', '.join(INITS)}, got {init!r}")
    if (init is None) != (seed is None):
        raise typer.BadParameter("init and seed belong together")
    draw = None if init is None else (init, seed)
    entries = entries_of_source(source, load_masks(masks) if masks else None, draw)
    size = write(out, cast(entries, DTYPES.get(dtype)))
    layers = [entry for entry in entries if isinstance(entry, Layer)]
    summary = {
        "source": str(source), "out": str(out), "source_bytes": source.stat().st_size, "bytes": size,
        "compressed_layers": len(layers), "kept": sum(layer.kept for layer in layers),
        "of": sum(layer.size for layer in layers),
    }  # fmt: skip
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    print(f"{out}: {size:,} bytes, of {summary['source_bytes']:,}; {len(layers)} compressed layers keep "
          f"{summary['kept']:,} of {summary['of']:,} weights")  # fmt: skip
