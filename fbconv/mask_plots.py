"""Pictures of masks: how dense each layer is, how alike masks are, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .plots import figure_of, save_figure

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "0.75"


def plot_densities(layers: Sequence[Mapping[str, object]], path: Path, title: str) -> None:
    """Density of each layer on a logarithmic scale, with the number of weights kept, as a PNG.

    Args:
        layers: in the network's order, with ``name``, ``weights``, ``kept``, ``density`` and ``excluded``.
        path: where to write.
        title: above the picture.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = figure_of(width=8.5, height=1.6 + 0.24 * len(layers))
    figure.suptitle(title)
    axes = figure.subplots()
    floor = 10 ** _exponent_below([layer["density"] for layer in layers])
    for row, layer in enumerate(layers):
        density, kept = max(layer["density"], floor), layer["kept"]
        colour = _GREY if layer["excluded"] else _BLUE
        axes.barh(row, density - floor, left=floor, color=colour)
        text = "whole" if layer["excluded"] else f"{kept:,}" if kept else "none left: collapsed"
        inside = density > 0.1
        axes.annotate(
            text, (density, row), (-4 if inside else 4, 0), textcoords="offset points", va="center", fontsize=8,
            ha="right" if inside else "left", color="white" if inside and not layer["excluded"] else
            "black" if kept else _ORANGE,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(floor, 1)
    axes.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=8)
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set_xlabel("density (labels: weights kept)")
    axes.grid(axis="x", alpha=0.3)
    save_figure(figure, path)


def _exponent_below(densities: Sequence[float]) -> int:
    """A power of ten that every nonzero density is above."""
    least = min((density for density in densities if density > 0), default=0.1)
    exponent = -1
    while 10**exponent >= least:
        exponent -= 1
    return exponent


def plot_similarity(
    labels: Sequence[str], matrices: Mapping[str, Sequence[Sequence[float | None]]], path: Path, title: str
) -> None:
    """:func:`similarity_figure`, with a title, as a PNG."""
    figure = similarity_figure(labels, matrices)
    figure.suptitle(title)
    save_figure(figure, path)


def similarity_figure(labels: Sequence[str], matrices: Mapping[str, Sequence[Sequence[float | None]]]):
    """Heat maps of how alike masks are, from 0 to 1, with the numbers in the cells; unknown ones stay empty.

    Args:
        labels: of the masks, in the order of rows and columns.
        matrices: title of the map -> square matrix.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    size = 1.4 + 0.36 * len(labels)
    figure = figure_of(width=(size + 0.6) * len(matrices), height=size + 0.7)
    for axes, (name, matrix) in zip(figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True):
        shares = [[math.nan if value is None else value for value in row] for row in matrix]
        picture = axes.imshow(shares, vmin=0, vmax=1, cmap="viridis")
        axes.set_title(name)
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if value is not None:
                    colour = "black" if value > 0.6 else "white"
                    axes.text(j, i, short(value), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, ax=figure.axes, shrink=0.8)
    return figure


def short(share: float) -> str:
    """A share in three characters; only what is 1 is called so.

    Example:
        >>> short(0.516), short(0.9999), short(1.0)
        ('.52', '.99', '1')
    """
    return "1" if share == 1 else f"{min(share, 0.99):.2f}".removeprefix("0")


def plot_alphas(
    alphas: Mapping[float, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, float]],
    best: float,
    path: Path,
    title: str,
) -> None:
    """Validation and test accuracy over the balance factor, with baselines as horizontal lines, as a PNG.

    Args:
        alphas: alpha -> result with ``validation_accuracy`` and ``test_accuracy``, ascending.
        baselines: label -> such a result.
        best: the alpha that the validation accuracy picks.
        path: where to write.
        title: above the picture.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = figure_of(width=9, height=4.4)
    figure.suptitle(title)
    axes = figure.subplots()
    places = list(range(len(alphas)))
    for key, colour, dash, marker in (
        ("validation_accuracy", _BLUE, "--", "o"), ("test_accuracy", _ORANGE, "-", "s"),
    ):  # fmt: skip
        values = [100 * result[key] for result in alphas.values()]
        axes.plot(places, values, color=colour, linestyle=dash, marker=marker, label=key.replace("_", " "))
    place = list(alphas).index(best)
    axes.axvline(place, color="0.6", linewidth=1, zorder=0, label=f"picked by validation: {best:g}")
    for (label, result), (colour, dash) in zip(
        baselines.items(), (("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", "-")), strict=False
    ):
        test = 100 * result["test_accuracy"]
        axes.axhline(test, color=colour, linestyle=dash, label=f"{label}, test {test:.2f} %")
    axes.set_xticks(places, [f"{alpha:g}" for alpha in alphas], rotation=45)
    axes.set_xlabel("balance factor alpha (0: target alone, near 1: control alone)")
    axes.set_ylabel("accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)
