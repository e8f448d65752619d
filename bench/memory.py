"""Peak memory of a call, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path


def extra_bytes(prepare: Callable[[], Callable[[], object]]) -> int:
    """By how much resident memory rises at most while a call runs, its result included; Linux only.

    A fresh process: what another call has given back to the allocator would be taken again unseen.

    Args:
        prepare: a picklable function that makes the arguments and returns the call; its memory does not count.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, prepare).result()


def _measure(prepare: Callable[[], Callable[[], object]]) -> int:
    call = prepare()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is resident now
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    del result  # alive until here
    return peak - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status must have a line {field}")
