"""Sparsity patterns: which weights of a layer exist."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index

import torch
from torch import Tensor

from ._ops.call import call

_MAGIC = 0x46424331  # csrc/core/pattern.h describes the words
_HEADER = 8
_INT32_MAX = 2**31 - 1


def packed_nnz(words: int, shape: Sequence[int]) -> int:
    """Entries of a packed pattern of ``words`` int32 words for a weight of this shape; negative or fractional lengths
    give -1."""
    rest = words - _HEADER - (shape[0] + 1) - (shape[1] + 1)
    return rest // 3 if rest >= 0 and rest % 3 == 0 else -1


class SparsePattern:
    """The positions of a layer's trained (kept) weights, packed for the kernels.

    A pattern belongs to a dense shape: ``(C_out, C_in / groups, KH, KW)`` for convolutions, ``(out, in)`` for linear
    layers, ``(C_out, C_in / groups, n_elements)`` for filter-basis coefficients. Values are one vector ``(nnz,)`` in
    row-major order of the mask; gradients come out in the same order.

    Attributes:
        packed: int32 vector with the row lists and their transpose (layout: ``csrc/core/pattern.h``).
        shape: the dense shape, a tuple of ints.
        nnz: number of kept weights.

    Example:
        >>> p = SparsePattern.from_mask(torch.tensor([[True, False], [True, True]]))
        >>> p.nnz, p.density
        (3, 0.75)
        >>> p.scatter(torch.tensor([1.0, 2.0, 3.0]))
        tensor([[1., 0.],
                [2., 3.]])
    """

    __slots__ = ("nnz", "packed", "shape")

    def __init__(self, packed: Tensor, shape: Sequence[int]) -> None:
        self.shape = _sizes(shape)
        _check_shape(self.shape)
        _check_words(packed, self.shape)
        self.packed = packed
        self.nnz = packed_nnz(packed.numel(), self.shape)

    @classmethod
    def from_mask(cls, mask: Tensor) -> SparsePattern:
        """Packs a mask.

        Args:
            mask: two or more dimensions; bool, or numbers that are all exactly 0 or 1 (as the ``weight_mask`` of
                ``torch.nn.utils.prune``). True or 1 = trained/kept.

        Raises:
            ValueError: a mask of another kind, a NaN in it, or one whose indices would exceed 32 bits.
        """
        if not isinstance(mask, Tensor):
            raise ValueError(f"SparsePattern: mask must be a tensor, got {type(mask).__name__}")
        if mask.is_meta:
            raise ValueError("SparsePattern: mask must have data, got one on the meta device")
        shape = tuple(mask.shape)
        _check_shape(shape)
        kept = _as_bool(mask).reshape(shape[0], -1)
        taps = prod(shape[2:])
        row, index = kept.nonzero(as_tuple=True)
        channel = index // taps
        by_channel = torch.argsort(channel, stable=True)
        header = torch.tensor([_MAGIC, shape[0], shape[1], taps, row.numel(), 0, 0, 0], device=mask.device)
        words = [
            header,
            _pointers(row, shape[0]),
            index,
            _pointers(channel, shape[1]),
            row[by_channel] * taps + index[by_channel] % taps,
            by_channel,
        ]
        return cls(torch.cat(words).to(torch.int32), shape)

    @classmethod
    def from_packed(cls, packed: Tensor, shape: Sequence[int]) -> SparsePattern:
        """A pattern from packed words of unknown origin, checked word for word.

        Raises:
            ValueError: if the words are not exactly those that :meth:`from_mask` makes for some mask of this shape.
        """
        pattern = cls(packed, shape)
        header = packed[:_HEADER].tolist()
        expected = [_MAGIC, pattern.shape[0], pattern.shape[1], prod(pattern.shape[2:]), pattern.nnz, 0, 0, 0]
        if header != expected:
            raise ValueError(f"SparsePattern: packed must have the header {expected}, got {header}")
        if not torch.equal(cls.from_mask(pattern.mask()).packed, packed):
            raise ValueError("SparsePattern: packed has a transposed half that does not belong to its rows")
        return pattern

    @property
    def density(self) -> float:
        """Kept share of the weights, from 0 to 1."""
        return self.nnz / prod(self.shape)

    @property
    def device(self) -> torch.device:
        return self.packed.device

    @property
    def positions(self) -> Tensor:
        """Where the values lie in the flattened dense weight: int64 ``(nnz,)``, rising.

        Raises:
            ValueError: if the packed rows are damaged.
        """
        pointers = self.packed[_HEADER : _HEADER + self.shape[0] + 1].long()
        _check_pointers(pointers, self.nnz)
        _check_indices(self._index, pointers, prod(self.shape[1:]))
        rows = torch.arange(self.shape[0], device=self.device).repeat_interleave(pointers.diff(), output_size=self.nnz)
        return rows * prod(self.shape[1:]) + self._index.long()

    @property
    def _index(self) -> Tensor:
        start = _HEADER + self.shape[0] + 1
        return self.packed[start : start + self.nnz]

    def mask(self) -> Tensor:
        """The bool mask of :attr:`shape`."""
        flat = torch.zeros(prod(self.shape), dtype=torch.bool, device=self.device)
        flat[self.positions] = True
        return flat.view(self.shape)

    def gather(self, dense: Tensor) -> Tensor:
        """The entries of ``dense`` (of :attr:`shape`) at the pattern: ``(nnz,)``, differentiable."""
        if not isinstance(dense, Tensor):
            raise TypeError(f"SparsePattern.gather: dense must be a tensor, got {type(dense).__name__}")
        if tuple(dense.shape) != self.shape:
            raise ValueError(f"SparsePattern.gather: dense must have shape {self.shape}, got {tuple(dense.shape)}")
        return call(torch.ops.fbconv.gather.default, (dense,), (self.packed,))

    def scatter(self, values: Tensor, frozen: Tensor | None = None) -> Tensor:
        """The dense weight: ``values`` ``(nnz,)`` at the pattern, zeros (or ``frozen``'s entries) elsewhere;
        differentiable in ``values``."""
        for name, tensor in (("values", values), ("frozen", frozen)):
            if not isinstance(tensor, Tensor) and (tensor is not None or name == "values"):
                raise TypeError(f"SparsePattern.scatter: {name} must be a tensor, got {type(tensor).__name__}")
        return call(torch.ops.fbconv.embed.default, (values, frozen), (self.packed, self.shape))

    def to(self, device: torch.device | str) -> SparsePattern:
        """The same pattern on another device."""
        return SparsePattern(self.packed.to(device), self.shape)

    def __repr__(self) -> str:
        return f"SparsePattern(shape={self.shape}, nnz={self.nnz}, density={self.density:.4g}, device='{self.device}')"


def _sizes(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(index(size) for size in shape)
    except (TypeError, ValueError):
        raise TypeError(f"SparsePattern: shape must be a sequence of ints, got {shape!r}") from None


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) < 2 or min(shape) < 1:
        raise ValueError(f"SparsePattern: a mask needs two or more dimensions of size 1 or more, got shape {shape}")
    taps = prod(shape[2:])
    if max(shape[0], shape[1]) * taps > _INT32_MAX or prod(shape) > _INT32_MAX:
        raise ValueError(f"SparsePattern: a mask may have up to 2^31 - 1 entries, got shape {shape}")


def _check_words(packed: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(packed, Tensor):
        raise TypeError(f"SparsePattern: packed must be a tensor, got {type(packed).__name__}")
    if packed.dtype != torch.int32 or packed.dim() != 1:
        raise ValueError(
            f"SparsePattern: packed must be an int32 vector, got {packed.dtype} of shape {tuple(packed.shape)}"
        )
    if packed_nnz(packed.numel(), shape) < 0:
        raise ValueError(f"SparsePattern: packed has {packed.numel()} words, which no pattern of shape {shape} has")


def _as_bool(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    kept = mask == 1
    if not bool((kept | (mask == 0)).all()):
        wrong = mask[~(kept | (mask == 0))][0].item()
        raise ValueError(f"SparsePattern: mask must be bool or hold only 0 and 1, got {wrong} in a {mask.dtype} mask")
    return kept


def _pointers(numbers: Tensor, count: int) -> Tensor:
    """Where each of ``count`` lists starts when ``numbers`` says which list an entry belongs to."""
    ends = torch.bincount(numbers, minlength=count).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends])


def _check_pointers(pointers: Tensor, nnz: int) -> None:
    if pointers[0] != 0 or pointers[-1] != nnz or bool((pointers.diff() < 0).any()):
        raise ValueError(f"SparsePattern: packed must have row pointers that rise from 0 to nnz = {nnz}")


def _check_indices(index: Tensor, pointers: Tensor, bound: int) -> None:
    starts_row = torch.zeros(index.numel() + 1, dtype=torch.bool, device=index.device)
    starts_row[pointers[:-1]] = True
    rising = (index.diff() > 0) | starts_row[1 : index.numel()]
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= bound or not bool(rising.all())):
        raise ValueError(f"SparsePattern: packed must have indices that rise strictly within [0, {bound}) in each row")
