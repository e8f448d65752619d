"""Several training runs at once, each in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue as queues
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import torch

from .data import DataSet, load
from .experiment import Config
from .train import train_on

# (label, steps done, steps in all, the last finished epoch's figures)
Report = tuple[str, int, int, dict[str, float] | None]
# (label, result, None), or (label, None, message) of a run that failed
Finished = Callable[[str, dict[str, object] | None, str | None], None]
_REPORT_EVERY = 0.2  # seconds


@dataclass
class Outcome:
    """What became of the runs: label -> result, and label -> message of those that failed."""

    results: dict[str, dict[str, object]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def train_all(
    configs: Mapping[str, Config],
    out: Path,
    jobs: int | None = None,
    progress: Callable[[Report], None] | None = None,
    finished: Finished | None = None,
    pictures: bool = True,
) -> Outcome:
    """Train every configuration in its folder ``out/label``, several at a time.

    Each run is :func:`fbconv.train.train`: what an earlier call had begun is taken up, what it had finished is not
    trained again. The processor's cores are shared out evenly among the processes. A run that fails does not stop the
    others.

    Args:
        configs: label, fit for the name of a folder -> configuration.
        out: folder of the folders.
        jobs: processes at a time; by default one for each core, up to the number of runs.
        progress: called in this process, about five times a second for each run.
        finished: called in this process with each run that has ended, as soon as it has.
        pictures: whether runs draw their curves and write TensorBoard events.

    Returns:
        results and failures, in the order of ``configs``.

    Raises:
        ValueError: if ``jobs`` is below 1.
        RuntimeError: if a process dies, killed for its memory for instance.

    Example:
        >>> configs = {f"seed{seed}": Config(seed=seed, epochs=1) for seed in range(4)}
        >>> train_all(configs, Path("runs"), jobs=2).results["seed3"]["test_accuracy"]  # doctest: +SKIP
        0.42
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(cores, len(configs)) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"train_all: jobs must be at least 1, got {jobs}")
    # Not fork: a forked copy of a process whose thread pools have run hangs in them.
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    setup = (max(1, cores // jobs), pictures, reports)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_set_up, initargs=setup) as pool:
        futures: dict[str, Future] = {}
        try:
            with _deaf_children():
                for label, config in configs.items():
                    futures[label] = pool.submit(_train, label, config, out / label)
            _follow(futures, reports, progress, finished)
        except BaseException:  # the keyboard's too: leaving the pool would else wait for runs to end
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
    return _outcome(futures)


def _follow(
    futures: Mapping[str, Future],
    reports,
    progress: Callable[[Report], None] | None,
    finished: Finished | None,
) -> None:
    pending = dict(futures)
    while True:
        for label in [label for label, future in pending.items() if future.done()]:
            result, failure = _ended(label, pending.pop(label))
            if finished:
                finished(label, result, failure)
        try:
            report = reports.get(timeout=_REPORT_EVERY if pending else 0)
        except queues.Empty:
            if not pending:
                return
            continue
        if progress:
            progress(report)


def _ended(label: str, future: Future) -> tuple[dict[str, object] | None, str | None]:
    """Result or failure of a run that has ended."""
    try:
        return future.result(), None
    except BrokenProcessPool as error:
        raise RuntimeError(f"{label}: its process, or one beside it, was killed; the same call resumes") from error
    except Exception as error:
        return None, str(error) or type(error).__name__


def _outcome(futures: Mapping[str, Future]) -> Outcome:
    ended = {label: _ended(label, future) for label, future in futures.items()}
    results = {label: result for label, (result, failure) in ended.items() if failure is None}
    return Outcome(results, {label: failure for label, (_, failure) in ended.items() if failure is not None})


_pictures, _reports = True, None  # of a worker process


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within never see Ctrl-C, which a terminal sends to all: this one hears it, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up(threads: int, pictures: bool, reports) -> None:
    global _pictures, _reports
    torch.set_num_threads(threads)
    _pictures, _reports = pictures, reports
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would else train on, and then wait for ever."""
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _train(label: str, config: Config, out: Path) -> dict[str, object]:
    reported = 0.0

    def report(done: int, steps: int, entry: dict[str, float] | None) -> None:
        nonlocal reported
        if done == steps or time.monotonic() - reported > _REPORT_EVERY:
            reported = time.monotonic()
            _reports.put((label, done, steps, entry))

    return train_on(_loaded(config.data, config.data_dir, config.seed), config, out, report, _pictures)


@functools.lru_cache(maxsize=1)
def _loaded(name: str, data_dir: str, seed: int) -> DataSet:
    """A worker's data: runs of a seed that follow each other read them once."""
    return load(name, data_dir, seed)
