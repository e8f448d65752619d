"""Peak memory of a call, in a process of its own; Linux only."""

from __future__ import annotations

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Thread
from typing import TypeVar

from torch import Tensor

from fbconv.benchmark.timing import Candidate

_M_MMAP_THRESHOLD, _PR_SET_THP_DISABLE = -3, 41  # malloc.h, sys/prctl.h
_OWN_MAPPING = 64 << 10  # bytes of a block from which on it does not come out of malloc's pools
_SECONDS_TO_END = 10

_Prepared = TypeVar("_Prepared")


def extra_bytes(prepare: Callable[[], Callable[[], object]]) -> int:
    """By how much resident memory rises at most while a call runs, its result included.

    A fresh process: what another call has given back to the allocator would be taken again unseen.

    Args:
        prepare: a picklable function that makes the arguments and returns the call; its memory does not count.
    """
    return _in_fresh_process("spawn", _measure, prepare)


def scratch_bytes(prepare: Callable[[], Candidate]) -> int:
    """By how much memory rises at most during the first call of its kind, beyond the tensors that it returns.

    Counted are temporary tensors, scratch and caches of native code, compiled code and plans, to the page: blocks of
    64 KB and more are mapped and given back one by one, in pages of the least size. What is loaded from files does not
    count. Good to a few hundred kilobytes, which is how the kernel counts pages and Python allocates.

    Args:
        prepare: a picklable function that makes the arguments and returns the call. The candidate's ``before`` runs in
            a thread that ends, so that scratch which threads keep is not there when the call needs it.
    """
    return _in_fresh_process("forkserver", _scratch, prepare)


def _in_fresh_process(
    start: str, measure: Callable[[Callable[[], _Prepared]], int], prepare: Callable[[], _Prepared]
) -> int:
    context = multiprocessing.get_context(start)
    context.set_forkserver_preload(["torch", "fbconv.benchmark"])  # loaded once, before any thread starts
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, prepare).result()


def _measure(prepare: Callable[[], Callable[[], object]]) -> int:
    call = prepare()
    before = _reset_peak()
    result = call()
    peak = _status("VmHWM")
    del result  # alive until here
    return peak - before


def _scratch(prepare: Callable[[], Candidate]) -> int:
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    libc.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING)
    candidate = prepare()
    _in_passing_thread(candidate.before)
    libc.malloc_trim(0)
    files, before = _status("RssFile"), _reset_peak()
    result = candidate.call()
    peak, loaded = _status("VmHWM"), _status("RssFile") - files
    return peak - before - loaded - sum(tensor.nbytes for tensor in _tensors(result))


def _in_passing_thread(function: Callable[[], None]) -> None:
    """Returns when the thread, and those that it started for itself, have given back what they kept.

    A joined thread has left Python, but may still be freeing.
    """
    tasks = Path("/proc/self/task")
    others = len(list(tasks.iterdir()))
    thread = Thread(target=function)
    thread.start()
    thread.join()
    deadline = time.monotonic() + _SECONDS_TO_END
    while len(list(tasks.iterdir())) > others:
        if time.monotonic() > deadline:
            raise RuntimeError(f"threads must end within {_SECONDS_TO_END} s")
        time.sleep(0.001)


def _tensors(result: object) -> Iterable[Tensor]:
    return (result,) if isinstance(result, Tensor) else result


def _reset_peak() -> int:
    """The peak starts from what is resident now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status must have a line {field}")
