"""``fbconv info --flops``: parameters and FLOPs of a model's layers, theory against measurement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

from .checkpoint import load
from .counting import LayerCount, ModelCount, count
from .experiment import environment
from .measuring import LayerTime, measure
from .models import MODELS, build
from .user_code import call

_SUMS = ("weights", "trained", "basis", "parameters", "sparsity", "interspace_sparsity", "real_sparsity", "dense_flops",
         "theory_flops", "exact_flops", "flop_ratio")  # fmt: skip


def report(place: str, input_shape: tuple[int, ...], file: Path | None, measured: bool) -> dict[str, object]:
    """Counts, and times if asked for, of a model at batch 1, for JSON.

    Args:
        place: ``FILE.py:FACTORY`` of one's own, or a name of :data:`fbconv.models.MODELS`.
        input_shape: of one input.
        file: whose masks and weights the model gets.
        measured: time every layer, too.

    Raises:
        typer.BadParameter: a model that is neither, or a shape that it cannot take. ValueError: as the factory and
            :func:`fbconv.load`. RuntimeError: as the model's forward pass.

    Example:
        >>> report("lenet5", (1, 28, 28), None, measured=False)["totals"]["dense_flops"]
        4586000
    """
    model = _model(place, input_shape).eval()
    if file is not None:
        model = load(file, model)
    counts = _of_user_code(place, lambda: count(model, (1, *input_shape)))
    times = measure(model, counts.layers) if measured else [None] * len(counts.layers)
    facts: dict[str, object] = {
        "model": place,
        "file": None if file is None else str(file),
        "input_shape": list(input_shape),
        "layers": [_layer(*both) for both in zip(counts.layers, times, strict=True)],
        "totals": {name: getattr(counts, name) for name in _SUMS},
    }
    if measured:
        facts["totals"] |= _times(_sum(times))
        facts["environment"] = environment()
    return facts


def _model(place: str, shape: tuple[int, ...]) -> nn.Module:
    if ".py:" in place:
        torch.manual_seed(0)  # random masks of the user's are the same in every call
        return call(place, nn.Module, "a torch.nn.Module")
    if place not in MODELS:
        raise typer.BadParameter(f"flops must be FILE.py:FACTORY or one of {', '.join(MODELS)}, got {place!r}")
    if len(shape) != 3 or shape[1] != shape[2]:
        raise typer.BadParameter(f"input-shape must be C,H,W with H = W for {place}, got {','.join(map(str, shape))}")
    try:
        return build(place, in_channels=shape[0], image_size=shape[1])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _of_user_code(place: str, work: Callable[[], ModelCount]) -> ModelCount:
    try:
        return work()
    except ValueError:
        raise
    except Exception as error:
        raise RuntimeError(f"{place}: counting raised {type(error).__name__}: {error}") from error


def _layer(counted: LayerCount, time: LayerTime | None) -> dict[str, object]:
    return dataclasses.asdict(counted) | {"flop_ratio": counted.flop_ratio} | (_times(time) if time else {})


def _times(time: LayerTime) -> dict[str, float]:
    return dataclasses.asdict(time) | {"speedup": time.dense_seconds / time.seconds}


def _sum(times: Iterable[LayerTime | None]) -> LayerTime:
    called = [time for time in times if time]
    return LayerTime(sum(time.dense_seconds for time in called), sum(time.seconds for time in called))


def print_report(facts: Mapping[str, object]) -> None:
    """The same as two tables, of parameters and of FLOPs, and a line of rates."""
    shape = "x".join(map(str, facts["input_shape"]))
    of_file = f" with {facts['file']}" if facts["file"] else ""
    Console().print(_parameter_table(f"{facts['model']}{of_file}: weights", facts))
    Console().print(_flop_table(f"Forward pass of one {shape} input: FLOPs", facts))
    totals = facts["totals"]
    print(f"q {totals['sparsity']:.4f}, with filter bases {totals['interspace_sparsity']:.4f}, over all "
          f"{totals['parameters']:,} parameters {totals['real_sparsity']:.4f}")  # fmt: skip


def _parameter_table(title: str, facts: Mapping[str, object]) -> Table:
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    table.add_column("kind", overflow="fold")
    for column in ("output", "weights", "trained", "basis"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in facts["layers"]:
        output = "x".join(map(str, layer["output"][1:])) if layer["output"] else "not called"
        table.add_row(layer["name"] or "(model)", layer["kind"], output, *_numbers(layer))
    table.add_section()
    table.add_row("all", "", "", *_numbers(facts["totals"]))
    return table


def _numbers(of: Mapping[str, int]) -> list[str]:
    return [f"{of[key]:,}" for key in ("weights", "trained", "basis")]


def _flop_table(title: str, facts: Mapping[str, object]) -> Table:
    measured = "speedup" in facts["totals"]
    table = Table(title=title)
    table.add_column("layer", overflow="fold")
    for column in (
        "dense",
        "theory",
        "exact",
        "composed",
        "ratio",
        *(("dense ms", "ms", "speed-up") if measured else ()),
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in facts["layers"]:
        table.add_row(layer["name"] or "(model)", *_flops(layer), *(_clock(layer) if measured else ()))
    table.add_section()
    totals = {"composed_flops": None} | facts["totals"]
    table.add_row("all", *_flops(totals), *(_clock(totals) if measured else ()))
    return table


def _flops(of: Mapping[str, object]) -> list[str]:
    counts = [_short(of[f"{key}_flops"]) for key in ("dense", "theory", "exact", "composed")]
    return [*counts, "-" if of["flop_ratio"] is None else f"{of['flop_ratio']:.2f}"]


def _clock(of: Mapping[str, float]) -> list[str]:
    if "speedup" not in of:
        return ["-"] * 3
    return [f"{1e3 * of['dense_seconds']:.3f}", f"{1e3 * of['seconds']:.3f}", f"{of['speedup']:.2f}"]


def _short(number: int | None) -> str:
    """Four digits and a unit."""
    if number is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.4g} {unit}"
    return str(number)
