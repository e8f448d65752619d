"""The picture of a learned score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..plots import STYLES, figure_of, save_figure


def plot_learning(summary: Mapping[str, object], path: Path) -> None:
    """R2 of the regressors on train and test, how much of the ticket they find, and how features correlate, as a PNG.

    Args:
        summary: as returned by :func:`fbconv.meta.learning.learn`.
        path: where to write.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = figure_of(width=13)
    bars, found, table = figure.subplots(1, 3, width_ratios=(3, 2, 3))
    names = list(summary["regressors"])
    for position, (part, (colour, _, _)) in enumerate(zip(("train", "test"), STYLES, strict=False)):
        values = [summary["regressors"][name][part]["r2"] for name in names]
        places = [index + 0.4 * position - 0.2 for index in range(len(names))]
        shown = bars.bar(places, [max(-1.0, value) for value in values], 0.38, color=colour, label=part)
        bars.bar_label(shown, [f"{value:.2f}" for value in values], fontsize=8, padding=2)
    bars.axhline(0, color="0.3", linewidth=1)
    bars.set(ylim=(-1.15, 1.15), ylabel="R2 (cut at -1)", title="how well scores are predicted")
    bars.set_xticks(range(len(names)), names)
    bars.legend(loc="lower left")
    _overlaps(found, summary["regressors"])
    _correlations(figure, table, summary["correlations"])
    save_figure(figure, path)


def _overlaps(axes, regressors: Mapping[str, Mapping[str, object]]) -> None:
    values = [100 * regressor["test"]["overlap"] for regressor in regressors.values()]
    axes.bar_label(axes.barh(list(regressors), values, color=STYLES[1][0]), fmt="%.0f", padding=2)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="Jaccard index in %", title="overlap with the ticket (test)")


def _correlations(figure, axes, correlations: Mapping[str, Mapping[str, float]]) -> None:
    names = list(correlations)
    image = axes.imshow([list(row.values()) for row in correlations.values()], vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for row, values in enumerate(correlations.values()):
        for column, value in enumerate(values.values()):
            colour = "white" if abs(value) > 0.6 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    axes.set_title("correlations (train)")
    figure.colorbar(image, ax=axes, fraction=0.046)
