"""Pictures of speed-up over sparsity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from ..plots import figure_of, save_figure
from .candidates import OPS
from .passes import DIRECTIONS

_COLOURS = dict(zip(DIRECTIONS, ("#0072B2", "#009E73", "#E69F00", "#CC79A7", "black"), strict=True))
_STYLES = dict(zip(OPS, (("-", "o"), ("--", "s"), (":", "^")), strict=True))
_Points = list[tuple[float, float]]


def plot_layer(rows: Sequence[Mapping[str, object]], path: Path, title: str) -> None:
    """Speed-up over dense against sparsity for one layer, as a PNG: a panel for each batch size, a line for each
    operator and pass, break-even marked and, in the legend, where the line crosses it.

    Args:
        rows: of this layer, as :func:`fbconv.benchmark.run` returns them.
        path: where to write.
        title: above the picture.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    figure = figure_of(width=1 + 6.5 * len(batches), height=5)
    figure.suptitle(title)
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        _panel(axes, [row for row in rows if row["batch"] == batch])
        axes.set_title(f"batch {batch}")
    save_figure(figure, path)


def _panel(axes, rows: Sequence[Mapping[str, object]]) -> None:
    lines: dict[tuple[str, str], _Points] = {}
    for row in rows:
        lines.setdefault((row["op"], row["pass"]), []).append((row["sparsity"], row["speed_up"]))
    for (op, direction), points in lines.items():
        points.sort()
        dash, marker = _STYLES[op]
        places = [place(sparsity) for sparsity, _ in points]
        axes.plot(
            places, [ratio for _, ratio in points], color=_COLOURS[direction], linestyle=dash, marker=marker,
            markersize=4, linewidth=1.5, label=f"{op}, {direction}: {_break_even(points)}",
        )  # fmt: skip
        crossings = [place(sparsity) for sparsity in crossings_of(points)]
        axes.plot(crossings, [1] * len(crossings), color=_COLOURS[direction], marker="x", markersize=9, linestyle="")
    speed_up_axes(axes, [row["sparsity"] for row in rows], [row["speed_up"] for row in rows])
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), title="op, pass: break-even sparsity")


def speed_up_axes(axes, sparsities: Iterable[float], ratios: Sequence[float]) -> None:
    """Ticks, labels and the line of break-even for points at :func:`place` of these sparsities."""
    axes.axhline(1, color="0.4", linewidth=1, zorder=0)
    axes.annotate("break-even", (0, 1), (2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  fontsize=8, color="0.4")  # fmt: skip
    ticks = sorted(set(sparsities))
    axes.set_xticks([place(q) for q in ticks], [f"{q:g}" for q in ticks])
    _ratio_axis(axes, ratios)
    axes.set_xlabel("sparsity")
    axes.set_ylabel("speed-up over dense torch")
    axes.grid(alpha=0.3)


def _ratio_axis(axes, ratios: Sequence[float]) -> None:
    """Powers of two, each ratio as far from the next as in truth."""
    from matplotlib.ticker import NullLocator

    low = math.floor(math.log2(min(*ratios, 1)))
    high = math.ceil(math.log2(max(*ratios, 1.01)))
    axes.set_yscale("log", base=2)
    axes.set_ylim(2.0 ** (low - 0.1), 2.0 ** (high + 0.1))
    ticks = [2.0**exponent for exponent in range(low, high + 1)]
    axes.set_yticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def place(sparsity: float) -> float:
    """Equal distances for equal ratios of density."""
    return -math.log10(1 - sparsity)


def crossings_of(points: Sequence[tuple[float, float]]) -> list[float]:
    """Sparsities at which a line of (sparsity, speed-up), rising in sparsity, passes 1; between two points it is
    straight in the logarithms of density and speed-up.

    Example:
        >>> [round(sparsity, 3) for sparsity in crossings_of([(0.0, 0.1), (0.99, 10.0)])]
        [0.9]
    """
    crossings = []
    for (q0, r0), (q1, r1) in pairwise(points):
        if (r0 < 1) != (r1 < 1):
            share = math.log(r0) / (math.log(r0) - math.log(r1))
            crossings.append(1 - 10 ** -(place(q0) + share * (place(q1) - place(q0))))
    return crossings


def _break_even(points: _Points) -> str:
    crossings = crossings_of(points)
    if crossings:
        return ", ".join(f"{sparsity:.3g}" for sparsity in crossings)
    return "faster throughout" if points[0][1] >= 1 else "slower throughout"
