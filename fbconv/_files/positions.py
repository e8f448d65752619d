"""Which entries a layer keeps, in as few bytes as there are ways to choose them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _C


def encode_positions(positions: Tensor, size: int) -> bytes:
    """The code of int64 ``positions`` that rise strictly within [0, size).

    Example:
        >>> code = encode_positions(torch.tensor([3, 700]), 1000)
        >>> len(code), decode_positions(code, 2, 1000)
        (3, tensor([  3, 700]))
    """
    positions = positions.to("cpu", torch.int64).contiguous()
    return _C.encode_positions(positions.data_ptr(), positions.numel(), size)


def decode_positions(code: bytes, kept: int, size: int) -> Tensor:
    """The int64 positions that a code stands for.

    Raises:
        ValueError: if it is not the code of ``kept`` positions of ``size``.
    """
    positions = torch.empty(kept, dtype=torch.int64)
    if not _C.decode_positions(code, kept, size, positions.data_ptr()):
        raise ValueError(f"{len(code)} bytes are not the code of {kept} positions of {size}")
    return positions


def entropy_bits(kept: int, size: int) -> float:
    """``log2`` of the number of ways to keep ``kept`` of ``size``: no code can do with less for all of them.

    Example:
        >>> round(entropy_bits(2, 4), 6)  # six ways
        2.584963
    """
    logs = math.lgamma(size + 1) - math.lgamma(kept + 1) - math.lgamma(size - kept + 1)
    return max(0.0, logs / math.log(2))
