"""Training runs on the machines of a Ray cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from .data import DataSet, load
from .experiment import Config, replacing
from .parallel import Finished
from .train import MODEL, train_on


def train_on_cluster(configs: Mapping[str, Config], out: Path, address: str, finished: Finished) -> None:
    """Train every configuration on a core of the cluster; models go to ``out/label/model.fbc`` on this machine.

    Data are read here and handed to the cluster's memory, so that its machines need fbconv and nothing else. What a
    machine that goes down had begun is begun again on another one.

    Args:
        configs: label, fit for the name of a folder -> configuration.
        out: folder of the folders.
        address: of the cluster, as ``ray.init`` takes it: ``"auto"`` for the one that this machine belongs to,
            ``"ray://HOST:10001"``, or ``"local"`` for one of this machine alone.
        finished: called with each run that has ended, as soon as it has.

    Raises:
        ModuleNotFoundError: without Ray. RuntimeError: there is no such cluster.

    Example:
        >>> configs = {f"seed{seed}": Config(seed=seed, epochs=1) for seed in range(4)}
        >>> train_on_cluster(configs, Path("runs"), "auto", print)  # doctest: +SKIP
    """
    with _cluster(address) as ray:
        remote = ray.remote(num_cpus=1)(_train)
        data: dict[tuple[str, str, int], object] = {}
        under_way = {}
        for label, config in configs.items():
            source = config.data, config.data_dir, config.seed
            if source not in data:
                data[source] = ray.put(load(*source))
            under_way[remote.remote(data[source], config)] = label
        while under_way:
            (task,), _ = ray.wait(list(under_way))
            finished(*_ended(ray, task, under_way.pop(task), out))


def _ended(ray, task: object, label: str, out: Path) -> tuple[str, dict[str, object] | None, str | None]:
    try:
        result, model = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        return label, None, str(error.cause) or type(error.cause).__name__
    except ray.exceptions.RayError as error:
        return label, None, f"its machine was lost: {error}"
    with replacing(out / label / MODEL) as temporary:
        temporary.write_bytes(model)
    return label, result, None


def _train(data: DataSet, config: Config) -> tuple[dict[str, object], bytes]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        result = train_on(data, config, Path(folder), pictures=False)
        return result, (Path(folder) / MODEL).read_bytes()


@contextmanager
def _cluster(address: str) -> Iterator[object]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report itself to its makers
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('a cluster needs Ray: pip install "fbconv[ray]"') from error
    try:
        ray.init(address, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise RuntimeError(f"no Ray cluster at {address}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
