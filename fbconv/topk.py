"""The d highest of any number of scores, where they are: a radix selection in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

# Elements worked on at a time: fits the caches, and bounds the memory.
_CHUNK = 1 << 16
_DIGIT = 16
# Not worth another pass of counting.
_FEW = 1 << 20


def keep_highest(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Bool masks of the ``keep`` highest scores; among equal ones the earlier (order of the dict, then row-major).

    Args:
        scores: name -> tensor of any shape and real dtype, without NaN; compared in float32 where that holds all of
            them, else in float64.
        keep: from 0 to the number of scores above ``-inf``.

    Raises:
        ValueError: if fewer scores are above ``-inf``.

    Example:
        >>> keep_highest({"a": torch.tensor([1, 3, 3])}, 1)
        {'a': tensor([False,  True, False])}
    """
    flat = {name: torch.zeros(value.numel(), dtype=torch.bool, device=value.device) for name, value in scores.items()}
    if keep:
        dtype = _widest(scores)
        threshold, ties = _kth_highest(scores, keep, dtype)
        for name, value in scores.items():
            for part, mask in zip(_parts(value, dtype), flat[name].split(_CHUNK), strict=True):
                torch.gt(part, threshold, out=mask)
                if ties:
                    first = (part == threshold).nonzero().flatten()[:ties]
                    mask[first] = True
                    ties -= len(first)
    return {name: mask.view(scores[name].shape) for name, mask in flat.items()}


def count_nan(value: Tensor) -> int:
    """How many entries are NaN."""
    return sum(int(part.isnan().sum()) for part in value.detach().reshape(-1).split(_CHUNK))


def _widest(scores: Mapping[str, Tensor]) -> torch.dtype:
    """float32, or float64 where a score does not fit it."""
    narrow = (torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int16, torch.bool)
    return torch.float32 if all(value.dtype in narrow for value in scores.values()) else torch.float64


def _parts(value: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    for part in value.detach().reshape(-1).split(_CHUNK):
        yield part.to(dtype)


def _kth_highest(scores: Mapping[str, Tensor], k: int, dtype: torch.dtype) -> tuple[float, int]:
    """The k-th highest score, and how many scores equal to it are among the k highest.

    A radix selection: each pass counts the next 16 bits of the scores that share the bits found so far, until few
    enough are left to be sorted. At most two passes for float32 and four for float64, whatever the scores are.
    """
    bits = torch.finfo(dtype).bits
    prefix, rank = 0, k
    for shift in range(bits - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(1 << _DIGIT, dtype=torch.int64)
        for keys in _keys(scores, dtype):
            counts += torch.bincount(_next_digit(keys, prefix, shift, bits), minlength=1 << _DIGIT).cpu()
        from_top = counts.flip(0).cumsum(0)
        place = int(torch.searchsorted(from_top, rank))
        digit = len(counts) - 1 - place
        rank -= int(from_top[place]) - int(counts[digit])
        prefix = digit - len(counts) // 2 if shift == bits - _DIGIT else prefix << _DIGIT | digit
        if shift and counts[digit] <= _FEW:
            few = np.empty(int(counts[digit]), dtype=f"int{bits}")
            filled = 0
            for keys in _keys(scores, dtype):
                found = keys[keys >> shift == prefix]
                few[filled : filled + len(found)] = found.cpu()
                filled += len(found)
            few.partition(len(few) - rank)
            prefix = int(few[-rank])
            rank -= int((few > prefix).sum())
            break
    threshold = _number(prefix, dtype)
    if threshold == -math.inf:
        total = sum(value.numel() for value in scores.values())
        name = f" of {next(iter(scores))!r}" if len(scores) == 1 else ""
        raise ValueError(
            f"select: {k} weights{name} have to be kept, but only {k - rank} of {total} have a score above -inf"
        )
    return threshold, rank


def _keys(scores: Mapping[str, Tensor], dtype: torch.dtype) -> Iterator[Tensor]:
    for value in scores.values():
        for part in _parts(value, dtype):
            yield _ordered(part)


def _next_digit(keys: Tensor, prefix: int, shift: int, bits: int) -> Tensor:
    """16 bits from ``shift`` up, of the keys whose higher bits are ``prefix``, as numbers in [0, 2^16)."""
    if shift == bits - _DIGIT:  # there are no higher bits, but a sign
        return (keys >> shift) + (1 << _DIGIT - 1)
    return keys[keys >> shift + _DIGIT == prefix] >> shift & (1 << _DIGIT) - 1


def _ordered(part: Tensor) -> Tensor:
    """Signed integers in the order of the numbers: the bits of negative ones are reversed. Both zeros are one."""
    integer = torch.int32 if part.dtype == torch.float32 else torch.int64
    keys = (part + 0.0).view(integer)
    return keys ^ ((keys >> torch.iinfo(integer).bits - 1) & torch.iinfo(integer).max)


def _number(key: int, dtype: torch.dtype) -> float:
    integer = torch.int32 if dtype == torch.float32 else torch.int64
    bits = key if key >= 0 else key ^ torch.iinfo(integer).max
    return torch.tensor(bits, dtype=integer).view(dtype).item()
