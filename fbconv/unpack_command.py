"""``fbconv unpack``: the plain state dict of a compressed file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from safetensors import SafetensorError
from safetensors.torch import save_file

from ._files.container import read
from ._files.state_dicts import dense_state
from .experiment import replacing

EPILOG = "Example: fbconv unpack model.fbc model.safetensors"


def unpack(
    source: Annotated[Path, typer.Argument(metavar="IN.fbc", help="A compressed file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The state dict of the plain model.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON on standard output.")] = False,
) -> None:
    """Write the plain state dict: dense weights under torch's names, filter bases multiplied out."""
    file = read(source)
    try:
        state = dense_state(file)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    with replacing(out) as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:  # its own, for a full disk or a folder that cannot be written, too
            raise OSError(f"{out}: {error}") from error
    summary = {"source": str(source), "out": str(out), "bytes": out.stat().st_size, "tensors": len(state)}
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    print(f"{out}: {summary['bytes']:,} bytes, {len(state)} tensors")
