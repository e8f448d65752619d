"""The pictures of a report, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from torch import Tensor

from .comparing import Group
from .plots import STYLES, figure_of

_BINS = 60


def png(figure) -> bytes:
    """A figure's picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def accuracies(groups: Sequence[Group], baseline: str | None = None):
    """Mean test accuracy over the share of weights that remain, with standard deviations; dense ones as lines.

    Of more than there are styles, the best at the fewest weights, and the baseline, are in colour and within the frame.
    """
    figure = figure_of(width=9, height=4.6)
    axes = figure.subplots()
    labelled = _labelled(groups, baseline)
    for name in dict.fromkeys(group.name for group in groups):
        look = {"color": "0.8", "linewidth": 0.8, "zorder": 0}
        if name in labelled:
            colour, dash, marker = STYLES[labelled.index(name)]
            look = {"color": colour, "linestyle": dash, "marker": marker, "label": name}
        _line(axes, [group for group in groups if group.name == name], look)
    if any(group.sparsity for group in groups):
        axes.set_xscale("log")
        shares = sorted({1 - group.sparsity for group in groups if group.sparsity})
        axes.set_xticks(shares, [f"{100 * share:.3g}" for share in shares], minor=False)
        axes.set_xticks([], minor=True)
        axes.invert_xaxis()
    lowest, highest = _frame([group for group in groups if group.name in labelled])
    axes.set_ylim(lowest, highest)
    axes.set_xlabel("weights remaining in % (more and more pruned to the right)")
    axes.set_ylabel("test accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def _frame(groups: Sequence[Group]) -> tuple[float, float]:
    ends = [100 * (group.mean + sign * (group.std or 0)) for group in groups for sign in (-1, 1)]
    margin = 0.05 * (max(ends) - min(ends)) + 0.5
    return min(ends) - margin, max(ends) + margin


def _labelled(groups: Sequence[Group], baseline: str | None) -> list[str]:
    """The names that get a colour."""
    names = list(dict.fromkeys(group.name for group in groups))
    if len(names) <= len(STYLES):
        return names
    least = {name: max((g.sparsity, g.mean) for g in groups if g.name == name) for name in names}
    best = sorted(names, key=lambda name: (name != baseline, [-part for part in least[name]]))[: len(STYLES)]
    return [name for name in names if name in best]


def _line(axes, own: Sequence[Group], look: Mapping[str, object]) -> None:
    if all(group.sparsity == 0 for group in own):
        axes.axhline(100 * own[0].mean, **{"linewidth": 1, **look, "marker": ""})
        return
    remaining = [1 - group.sparsity for group in own]
    spread = [100 * (group.std or 0) for group in own]
    axes.errorbar(remaining, [100 * group.mean for group in own], spread, capsize=3, **look)


def histograms(weights: Mapping[str, Tensor]):
    """How large the kept weights of each group are, on one scale."""
    columns = min(4, len(weights))
    rows = -(-len(weights) // columns)
    figure = figure_of(width=3 * columns, height=0.6 + 1.9 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True)
    edge = max(map(_extent, weights.values())) or 1.0
    for row, (axes, (name, values)) in enumerate(zip(panels.flat, weights.items(), strict=False)):
        colour, *_ = STYLES[row % len(STYLES)]
        axes.hist(values.clamp(-edge, edge).numpy(), bins=_BINS, range=(-edge, edge), color=colour)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels.flat[len(weights) :]:
        axes.set_visible(False)
    return figure


def _extent(values: Tensor) -> float:
    """What all but a thousandth of the values lie within."""
    few = values[:: -(-values.numel() // 2**22) or 1]  # torch's quantile takes 2^24 at most
    return float(few.abs().quantile(0.999)) if few.numel() else 0.0
