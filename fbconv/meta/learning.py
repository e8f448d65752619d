"""The whole of it: examples of some networks, regressors that learn from them, files and figures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..data import load
from ..experiment import Config, choose_device, environment, write_json
from ..plots import require_matplotlib
from ..scores.learned import LearnedScore, save
from ..scores.learned.features import names_of
from .data_set import Examples, examples
from .fitting import REGRESSORS, fit, quality, require_scikit_learn
from .plot import plot_learning

SUMMARY = "meta.json"
PICTURE = "meta.png"
SUFFIX = ".safetensors"

# (what is being done, share of it that is)
Progress = Callable[[str, float], None]


def learn(
    configs: Sequence[Config], out: Path, extended: bool = False, progress: Progress | None = None
) -> dict[str, object]:
    """Train every regressor on the weights of all networks but the last, and test it on that one's.

    Writes ``NAME.safetensors`` for each of :data:`fbconv.meta.REGRESSORS`, ``meta.json`` and ``meta.png``. Networks'
    trainings are taken up where an earlier call was killed.

    Args:
        configs: of the networks, as for :func:`examples`; at least two, which differ in their seed.
        out: folder of the results.
        extended: ten features instead of four.
        progress: called with what is being done, and the share of it that is.

    Returns:
        what ``meta.json`` holds: quality on train and test and seconds of each regressor, correlations of features.

    Raises:
        ValueError: too few networks, or as :func:`examples`. ModuleNotFoundError: without scikit-learn or matplotlib.

    Source: "Hitting the Jackpot", section 5.2.

    Example:
        >>> configs = [Config(data="mnist", model="lenet300", sparsity=0.995, seed=seed) for seed in range(3)]
        >>> learn(configs, Path("runs/meta"))["regressors"]["linear"]["test"]["r2"]  # doctest: +SKIP
        0.17
    """
    if len(configs) < 2:
        raise ValueError(f"meta: at least two networks must be given, one of them to test on, got {len(configs)}")
    require_scikit_learn()
    require_matplotlib()
    report = progress or (lambda what, share: None)
    networks = [_network(config, out, extended, report) for config in configs]
    train, test = Examples.together(networks[:-1]), networks[-1]
    regressors = {}
    for name in REGRESSORS:
        report(name, 0)
        started = time.perf_counter()
        regressor = fit(name, train)
        seconds = time.perf_counter() - started
        save(LearnedScore(regressor, extended), out / f"{name}{SUFFIX}")
        qualities = {part: quality(regressor, given) for part, given in (("train", train), ("test", test))}
        regressors[name] = {part: dataclasses.asdict(found) for part, found in qualities.items()} | {"seconds": seconds}
        report(name, 1)
    summary = {
        "regressors": regressors,
        "correlations": _correlations(train, extended),
        "weights": {"train": len(train.target), "test": len(test.target)},
        "configs": [dataclasses.asdict(config) for config in configs],
        "environment": environment(),
    }
    write_json(out / SUMMARY, summary)
    plot_learning(summary, out / PICTURE)
    return summary


def _network(config: Config, out: Path, extended: bool, report: Progress) -> Examples:
    name = f"network {config.seed}"
    report(name, 0)
    data = load(config.data, config.data_dir, config.seed).to(choose_device(config.device))
    found = examples(
        config, data, out / f"seed{config.seed}", extended, lambda done, steps, _: report(name, done / steps)
    )
    report(name, 1)
    return found


def _correlations(train: Examples, extended: bool) -> dict[str, dict[str, float]]:
    """Pearson's, of all pairs of features and target; 0 for what is constant."""
    names = (*names_of(extended), "target")
    table = torch.cat([train.features, train.target[:, None]], 1).double()
    correlations = torch.corrcoef(table.T).nan_to_num(0.0).tolist()
    return {name: dict(zip(names, row, strict=True)) for name, row in zip(names, correlations, strict=True)}
