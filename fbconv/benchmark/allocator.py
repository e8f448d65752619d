"""The C library's allocator, told to keep what was freed, so that timings do not depend on its moods."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 << 20
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Lets freed blocks of up to 32 MiB serve the next allocation instead of going back to the system.

    By default glibc decides from call to call whether the output of a layer is fresh memory, whose pages the system has
    to clear first. For some layers that takes longer than the layer itself, for dense and sparse ones alike. Does
    nothing where there is no ``mallopt``.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_TRIM_THRESHOLD, _NEVER)
