"""Several training runs at once, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue as queues
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import torch

from .experiment import Config
from .train import train

# (label, steps done, steps in all, the last finished epoch's figures)
Report = tuple[str, int, int, dict[str, float] | None]
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
    setup = (max(1, cores // jobs), reports)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_set_up, initargs=setup) as pool:
        futures = {label: pool.submit(_train, label, config, out / label) for label, config in configs.items()}
        try:
            _follow(futures, reports, progress)
        except BaseException:  # the keyboard's too: leaving the pool would else wait for runs to end
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
    return _outcome(futures)


def _follow(futures: Mapping[str, Future], reports, progress: Callable[[Report], None] | None) -> None:
    while True:
        finished = all(future.done() for future in futures.values())
        try:
            report = reports.get(timeout=0 if finished else _REPORT_EVERY)
        except queues.Empty:
            if finished:
                return
            continue
        if progress:
            progress(report)


def _outcome(futures: Mapping[str, Future]) -> Outcome:
    outcome = Outcome()
    for label, future in futures.items():
        try:
            outcome.results[label] = future.result()
        except BrokenProcessPool as error:
            raise RuntimeError(f"{label}: its process, or one beside it, was killed; the same call resumes") from error
        except Exception as error:
            outcome.failures[label] = str(error) or type(error).__name__
    return outcome


_reports = None  # of a worker process


def _set_up(threads: int, reports) -> None:
    global _reports
    torch.set_num_threads(threads)
    _reports = reports
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

    return train(config, out, report)
