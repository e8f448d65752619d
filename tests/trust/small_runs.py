"""Training runs of a second or less, each in a process of its own that may be killed.

Processes are forked from a server that has imported everything and run nothing: an attempt costs what its training
does, not the seconds of ``import torch``.
"""

import contextlib
import functools
import itertools
import json
import multiprocessing
import multiprocessing.forkserver
import os
import signal
from collections import OrderedDict
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from few import few_digits
from torch import nn

import fbconv
from fbconv import data, sweep
from fbconv.experiment import Config
from fbconv.models import MODELS, Architecture
from fbconv.train import train_on

COMMON = {"model": "small", "score": "magnitude", "sparsity": 0.6, "epochs": 4, "batch_size": 45, "lr": 0.03,
          "interval": 3, "rewind": 4, "rounds": 2}  # fmt: skip
_OF_DYNAMIC = {"none": {"score": "snip", "rounds": 1}, "set": {"score": "random", "rounds": 1},
               "rigl": {"score": "random", "rounds": 1}}  # fmt: skip
_SETTLED = ("seconds", "training_seconds", "steps_per_second", "environment")  # by the clock and the machine


def modes() -> list[dict[str, object]]:
    """The options of every training mode: dense, pruned or frozen, in either space, with every dynamic."""
    found = [{"mode": "dense", "space": space} for space in ("spatial", "interspace")]
    for mode, space, dynamic in itertools.product(
        ("prune", "freeze"), ("spatial", "interspace"), ("none", "set", "rigl", "gmp", "lth", "ft")
    ):
        found.append({"mode": mode, "space": space, "dynamic": dynamic, **_OF_DYNAMIC.get(dynamic, {})})
    return found


def start(target, *arguments) -> BaseProcess:
    """A process of its own session that calls ``target``."""
    process = _server().Process(target=_apart, args=(target, *arguments))
    process.start()
    return process


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    paths = (Path(__file__).parent, Path(fbconv.__file__).parents[1], os.environ.get("PYTHONPATH", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))  # the server does not look elsewhere
        for library in ("OMP", "OPENBLAS"):  # nor may it have threads: they would not outlive its forks
            patch.setenv(f"{library}_NUM_THREADS", "1")
        multiprocessing.forkserver.ensure_running()
    return context


def _apart(target, *arguments) -> None:
    os.setsid()
    target(*arguments)


def kill(process: BaseProcess) -> None:
    """With all processes of its session."""
    with contextlib.suppress(ProcessLookupError):  # which it has only just begun to be
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def run(options: dict[str, object], out: Path, threads: int = 1, kill_at: int | None = None,
        pictures: bool = False) -> None:  # fmt: skip
    """Trains in this process, which kills itself after ``kill_at`` steps of all that are left."""
    torch.set_num_threads(threads)
    install()
    config = Config(**COMMON | options)
    steps = itertools.count(1)

    def progress(*_) -> None:
        if next(steps) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train_on(data.load("digits", "", config.seed), config, out, progress, pictures)


def run_sweep(file: Path, out: Path, jobs: int) -> None:
    sweep.sweep(sweep.read_sweep(file), out, jobs)


def install() -> None:
    """In this process alone: a small network, and 270 training images of the digits."""

    def layers(channels, size, classes):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 8, 3, stride=2),
                norm=nn.BatchNorm2d(8),
                relu=nn.ReLU(),
                conv2=nn.Conv2d(8, 16, 3, stride=2),
                pool=nn.AdaptiveAvgPool2d(3),
                flatten=nn.Flatten(),
                fc=nn.Linear(16 * 3 * 3, classes),
            )
        )

    MODELS["small"] = Architecture(layers, "kaiming_normal", lr=0.1, smallest=28)
    data.DATA_SETS["digits"] = lambda _: _few_digits


_few_digits = few_digits()


def settled(found):
    """A result or a checkpoint without what the clock decides."""
    if isinstance(found, dict):
        return {name: settled(value) for name, value in found.items() if name not in _SETTLED}
    return [settled(value) for value in found] if isinstance(found, list | tuple) else found


def same(one, other) -> bool:
    """Whether two nested containers hold the same bits."""
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def outcome(folder: Path) -> dict[str, object]:
    """All that a run has left, but for what the clock decides and TensorBoard's files."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "result.json":
            found[name] = settled(json.loads(path.read_text()))
        elif path.suffix == ".ckpt":
            found[name] = settled(torch.load(path, weights_only=True))
        elif path.is_file() and "tfevents" not in path.name:
            found[name] = path.read_bytes()
    return found
