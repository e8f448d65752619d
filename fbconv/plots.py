"""Pictures of runs. Colours (Okabe and Ito's) and dashes tell lines apart without colour vision, and in print."""

import math
from collections.abc import Mapping
from pathlib import Path

from .experiment import replacing

STYLES = (
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "D"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#56B4E9", (0, (8, 2)), "P"),
)


def plot_curves(result: Mapping[str, object], path: Path) -> None:
    """Loss and accuracy over the epochs of one run, with the best epoch and its test accuracy, as a PNG.

    Args:
        result: as returned by :func:`fbconv.train.train`.
        path: where to write.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    config, history = result["config"], result["history"]
    epochs = [entry["epoch"] for entry in history]
    figure = figure_of(width=9.5)
    figure.suptitle(_title(config))
    for axes, quantity, scale in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for split, (colour, dash, marker) in zip(("train", "validation"), STYLES, strict=False):
            values = [scale * entry[f"{split}_{quantity}"] for entry in history]
            axes.plot(epochs, values, color=colour, linestyle=dash, label=split, marker=marker, **_marking(epochs))
        best = result["best_epoch"]
        axes.axvline(best, color="0.6", linewidth=1, zorder=0, label=f"best epoch ({best})")
        axes.set_ylabel("cross entropy" if quantity == "loss" else "accuracy in %")
        _finish(axes)
    test = 100 * result["test_accuracy"]
    axes.plot([best], [test], color="black", marker="*", markersize=11, linestyle="", label=f"test {test:.2f} %")
    axes.legend()
    save_figure(figure, path)


def plot_comparison(results: Mapping[str, Mapping[str, object]], path: Path, title: str) -> None:
    """Validation accuracy over the epochs, and test accuracy with its standard error, of several runs, as a PNG.

    Args:
        results: label -> result of a run, in the order to show.
        path: where to write.
        title: above the picture.

    Raises:
        ModuleNotFoundError: without matplotlib.
    """
    figure = figure_of(width=11)
    figure.suptitle(title)
    curves, points = figure.subplots(1, 2, width_ratios=(3, 2))
    tests = [100 * result["test_accuracy"] for result in results.values()]
    errors = [_standard_error(result) for result in results.values()]
    late = []
    for row, (label, result) in enumerate(results.items()):
        colour, dash, marker = STYLES[row % len(STYLES)]
        epochs = [entry["epoch"] for entry in result["history"]]
        values = [100 * entry["validation_accuracy"] for entry in result["history"]]
        late += values[len(values) // 4 :]
        curves.plot(epochs, values, color=colour, linestyle=dash, marker=marker, label=label, **_marking(epochs))
        points.errorbar(tests[row], row, xerr=errors[row], color=colour, marker=marker, markersize=9, capsize=4)
        note = f"{tests[row]:.2f} %, {result['trained_weights']:,} weights"
        points.annotate(note, (tests[row], row), (0, 11), textcoords="offset points", ha="center")
    curves.set_ylabel("validation accuracy in %")
    _finish(curves)
    # The first steep quarter of training would squeeze the differences into a line.
    curves.set_ylim(max(0, min(late) - 0.15 * (100 - min(late)) - 0.2), 100.2)
    margin = 0.4 * (max(tests) - min(tests)) + 2 * max(*errors, 0.1)
    points.set_xlim(min(tests) - margin, max(tests) + margin)
    points.set_xticks([tick for tick in points.get_xticks() if min(tests) - margin <= tick <= 100])
    points.set_ylim(len(tests) - 0.5, -0.7)
    points.set_yticks(range(len(tests)), list(results))
    points.set_xlabel("test accuracy in % (± standard error of the images)")
    points.grid(alpha=0.3)
    save_figure(figure, path)


def _standard_error(result: Mapping[str, object]) -> float:
    """Of a share counted on so many independent images, in percent; that of seeds comes on top."""
    share = result["test_accuracy"]
    return 100 * math.sqrt(share * (1 - share) / result["test_images"])


def _title(config: Mapping[str, object]) -> str:
    parts = [config["model"], config["data"], config["space"], config["mode"]]
    if config["mode"] != "dense":
        parts += [config["score"]]
        parts += [f"{config['combine']} {config['control']} {config['alpha']:g}"] if config["control"] else []
        parts += [config["dynamic"]] if config["dynamic"] != "none" else []
        parts += [f"{config['rounds']} rounds"] if config["rounds"] > 1 else []
        parts += [f"sparsity {config['sparsity']:g}"]
    return ", ".join(map(str, parts))


def _marking(epochs: list[int]) -> dict[str, float]:
    return {"markersize": 4, "markevery": max(1, len(epochs) // 10), "linewidth": 1.5}


def _finish(axes) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()


def require_matplotlib() -> None:
    """Raise a ModuleNotFoundError that says how to install matplotlib, if it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('plots need matplotlib: pip install "fbconv[train]"') from error


def figure_of(width: float, height: float = 4.2):
    """A figure of this size in inches that no window system and no global state knows of."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
