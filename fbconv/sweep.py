"""A grid of training runs from one file: all of them, each once, whatever interrupts."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from string import Formatter
from typing import get_args, get_type_hints

from .cluster import train_on_cluster
from .experiment import Config
from .parallel import Report, train_all
from .results import Results, run_id
from .train import MODEL

RESULTS = "results.sqlite"
_MOST_RUNS = 100_000
_FIELDS = {field.name: field for field in dataclasses.fields(Config)}
_KINDS = {name: get_args(hint) or (hint,) for name, hint in get_type_hints(Config).items()}


def read_sweep(path: str | Path, overrides: Mapping[str, object] | None = None) -> dict[str, list[Config]]:
    """The runs that a TOML file describes.

    ``[options]`` holds options of all runs; each ``[[runs]]`` holds further ones, where a list stands for one run with
    each of its values: several lists, for every combination. Options are those of :class:`fbconv.experiment.Config`.
    ``name`` names a group of runs, ``{score}`` and the like standing for its options; by default the name is what
    distinguishes it from the others that have none. ::

        [options]
        data = "mnist"
        model = "lenet300"
        epochs = 5
        seed = [0, 1, 2]

        [[runs]]
        mode = "dense"

        [[runs]]
        score = ["snip", "synflow", "snip/magnitude"]
        sparsity = [0.9, 0.99, 0.995]

    Args:
        path: of the file.
        overrides: options that go before the file's.

    Returns:
        name -> configurations of all seeds and sparsities that share it. A configuration that several groups
        describe belongs to the first one.

    Raises:
        FileNotFoundError. ValueError: no TOML, an unknown option, or a value that it cannot have.

    Example:
        >>> _ = Path("sweep.toml").write_text('[[runs]]\\nscore = ["snip", "grasp"]\\nseed = [0, 1]\\n')
        >>> {name: len(configs) for name, configs in read_sweep("sweep.toml").items()}
        {'snip': 2, 'grasp': 2}
    """
    with open(path, "rb") as file:
        try:
            content = tomllib.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not TOML: {error}") from error
    options, groups = content.pop("options", {}), content.pop("runs", [{}])
    tables = isinstance(options, dict) and isinstance(groups, list) and all(isinstance(group, dict) for group in groups)
    if content or not tables:
        raise ValueError(f"{path}: must hold [options] and [[runs]], got {', '.join(content) or 'something else'}")
    points = [point for group in groups for point in _points(path, {**options, **group, **(overrides or {})})]
    varied = _varied([point for point in points if "name" not in point])
    runs: dict[str, list[Config]] = {}
    seen: set[str] = set()
    for point in points:
        named = point.pop("name", None)
        config = _config(path, point)
        name = _name(point, varied) if named is None else _filled(path, str(named), config)
        if run_id(config) not in seen:
            seen.add(run_id(config))
            runs.setdefault(name, []).append(config)
    return runs


def _points(path: str | Path, group: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """Every combination of the values of a group's options."""
    unknown = [name for name in group if name not in _FIELDS and name != "name"]
    if unknown:
        raise ValueError(f"{path}: options are {', '.join(_FIELDS)}; got {unknown[0]!r}")
    values = [value if isinstance(value, list) else [value] for value in group.values()]
    count = prod(len(value) for value in values)
    if count > _MOST_RUNS:
        raise ValueError(f"{path}: a group may hold up to {_MOST_RUNS:,} runs, got {count:,}")
    for combination in itertools.product(*values):
        yield dict(zip(group, combination, strict=True))


def _config(path: str | Path, point: Mapping[str, object]) -> Config:
    for name, value in point.items():
        kinds = _KINDS[name]
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise ValueError(f"{path}: {name} must be of type {kinds[0].__name__}, got {value!r}")
    try:
        return Config(**point)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _varied(points: Sequence[Mapping[str, object]]) -> list[str]:
    """Options that distinguish groups: those with several values, but for the axes of every report."""
    names = dict.fromkeys(name for point in points for name in point)
    return [
        name
        for name in names
        if name not in ("seed", "sparsity", "data_dir")
        and len({point.get(name, _FIELDS[name].default) for point in points}) > 1
    ]


def _name(point: Mapping[str, object], varied: Sequence[str]) -> str:
    own = [point[name] for name in varied if name in point]
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in own) or "all"


def _filled(path: str | Path, name: str, config: Config) -> str:
    """Not by ``str.format``, which would follow attributes and pad to any width."""
    options, text = dataclasses.asdict(config), ""
    try:
        for literal, option, width, conversion in Formatter().parse(name):
            if width or conversion:
                raise ValueError("an option has neither a width nor a conversion")
            text += literal + ("" if option is None else str(options[option]))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: name may hold options like {{score}}, got {name!r}") from error
    return text


def sweep(
    runs: Mapping[str, Sequence[Config]],
    out: Path,
    jobs: int | None = None,
    progress: Callable[[float, int], None] | None = None,
    ray: str | None = None,
) -> Results:
    """Train all runs that have no result yet, several at a time.

    Results are in ``out/results.sqlite`` as soon as a run ends, its model in ``out/ID/model.fbc``. A second call takes
    up what a killed one had begun, tries again what failed, and trains nothing twice. Runs of a seed start from the
    same weights, whatever their other options.

    Args:
        runs: of :func:`read_sweep`.
        out: folder of the results; further calls may add other runs.
        jobs: processes at a time, which share the cores; by default one for each.
        progress: called about five times a second with the runs that are done, a fraction for those under way, and
            all runs.
        ray: address of a Ray cluster that trains instead of processes of this machine, on a core for each run, with
            the same results (:func:`fbconv.cluster.train_on_cluster`). What a killed call had under way begins anew.

    Returns:
        all results in the folder.

    Raises:
        ValueError: a file of results that is none. RuntimeError: a process that was killed, no such cluster.

    Example:
        >>> runs = {"dense": [Config(mode="dense", epochs=1, seed=seed) for seed in range(2)]}
        >>> len(sweep(runs, Path("runs/sweep"), jobs=2).pending())  # doctest: +SKIP
        0
    """
    results = Results(out / RESULTS)
    results.add(runs)
    wanted = {run_id(config) for configs in runs.values() for config in configs}
    records = [record for record in results.records() if record.id in wanted]
    for record in records:
        if record.result is not None:
            _tidy(out / record.id)  # a sweep may have been killed before it had
    pending = [record for record in records if record.result is None]
    pending.sort(key=lambda record: (record.config.data, record.config.seed))  # a worker keeps the data of one seed
    share = dict.fromkeys(wanted, 1.0) | {record.id: 0.0 for record in pending}

    def keep(run: str, result: dict[str, object] | None, failure: str | None) -> None:
        if failure is None:
            results.finish(run, result)
            _tidy(out / run)
            advance((run, 1, 1, None))
        else:
            results.fail(run, failure)

    def advance(report: Report) -> None:
        run, steps, total, _ = report
        share[run] = steps / total
        if progress:
            progress(sum(share.values()), len(share))

    configs = {record.id: record.config for record in pending}
    if configs and ray is None:
        train_all(configs, out, jobs, advance, keep, pictures=False)
    elif configs:
        train_on_cluster(configs, out, ray, keep)
    return results


def _tidy(folder: Path) -> None:
    """Leaves the model alone: checkpoints of thousands of runs are many gigabytes."""
    for entry in list(folder.iterdir()) if folder.exists() else ():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != MODEL:
            entry.unlink()
