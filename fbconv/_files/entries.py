"""What a file holds: tensors, and compressed layers whose positions are still coded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..initialisation import Draw
from ..nn.compressed import key_of
from .positions import decode_positions, encode_positions


@dataclass(frozen=True)
class Plain:
    """A tensor of a state dict; ``init`` is that of a filter basis."""

    name: str
    tensor: Tensor
    init: str | None = None


@dataclass(frozen=True)
class Same:
    """Another name of an earlier tensor, or (``layer``) of a compressed layer that occurs twice."""

    name: str
    of: str
    layer: bool


@dataclass(frozen=True)
class Layer:
    """A compressed layer but for its bias.

    Attributes:
        name: of the module; empty if it is the model itself.
        shape: ``(out, in)``, ``(C_out, C_in / groups, KH, KW)`` or, for coefficients, ``(C_out, C_in / groups,
            n_elements)``.
        code: of the positions of the values.
        values: one for each position.
        frozen: what stands elsewhere: a tensor of the shape, random numbers (of the values' dtype), or None for zeros.
        basis: for coefficients, the name of the :class:`Plain` with the elements.
        axis, groups: for coefficients, what the basis' blocks belong to, and the groups of the convolution.
        linear: the coefficients are a linear layer's, whose rows are cut into blocks.
    """

    name: str
    shape: tuple[int, ...]
    code: bytes
    values: Tensor
    frozen: Tensor | Draw | None = None
    basis: str | None = None
    axis: str = "in"
    groups: int = 1
    linear: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def kept(self) -> int:
        return self.values.numel()

    def key(self, part: str) -> str:
        """The name of one of its tensors in the state dict of the model."""
        return key_of(self.name, part)

    def positions(self) -> Tensor:
        """Where the values lie in the flattened dense tensor: int64, rising.

        Raises:
            ValueError: naming the layer, if the code is damaged.
        """
        try:
            return decode_positions(self.code, self.kept, self.size)
        except ValueError as error:
            raise ValueError(f"positions of layer {self.name!r}: {error}") from error

    def mask(self) -> Tensor:
        """The bool mask of the shape, True at the positions."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        mask[self.positions()] = True
        return mask.view(self.shape)


Entry = Plain | Same | Layer


def coded(name: str, shape: Sequence[int], positions: Tensor, values: Tensor, **rest: object) -> Layer:
    """A layer whose ``values`` lie at ``positions``."""
    return Layer(name, tuple(shape), encode_positions(positions, prod(shape)), values, **rest)


def tensors(entry: Entry) -> Iterator[Tensor]:
    """The stored tensors of an entry, in the order of the file."""
    if isinstance(entry, Plain):
        yield entry.tensor
    if isinstance(entry, Layer):
        yield entry.values
        if isinstance(entry.frozen, Tensor):
            yield entry.frozen


def changed(entry: Entry, change: Callable[[Tensor], Tensor]) -> Entry:
    """The entry with ``change`` of each of its stored tensors."""
    if isinstance(entry, Plain):
        return replace(entry, tensor=change(entry.tensor))
    if isinstance(entry, Layer):
        frozen = change(entry.frozen) if isinstance(entry.frozen, Tensor) else entry.frozen
        return replace(entry, values=change(entry.values), frozen=frozen)
    return entry


def cast(entries: Sequence[Entry], dtype: torch.dtype | None) -> list[Entry]:
    """The entries with floating-point tensors of another dtype, or (None) as they are.

    Raises:
        ValueError: naming the entry, if a finite number would become infinite.
    """

    def convert(entry: Entry, tensor: Tensor) -> Tensor:
        if dtype is None or not tensor.is_floating_point():
            return tensor
        result = tensor.to(dtype)
        lost = tensor.isfinite() & ~result.isfinite()
        if bool(lost.any()):
            raise ValueError(f"{entry.name}: {dtype} cannot hold {tensor[lost][0].item():g}")
        return result

    return [changed(_fixed(entry, dtype), lambda tensor, entry=entry: convert(entry, tensor)) for entry in entries]


def _fixed(entry: Entry, dtype: torch.dtype | None) -> Entry:
    """The entry, its frozen weights no longer drawn if ``dtype`` would give back what rounding had taken from them."""
    if not isinstance(entry, Layer) or not isinstance(entry.frozen, Draw) or dtype is None:
        return entry
    if dtype == entry.values.dtype or entry.values.dtype in (torch.float32, torch.float64):  # nothing was taken
        return entry
    drawn = entry.frozen.tensor(entry.shape)
    rounded = drawn.to(entry.values.dtype)
    return entry if same_bits(rounded.to(dtype), drawn.to(dtype)) else replace(entry, frozen=rounded)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype are equal bit for bit, NaN and signed zeros included."""
    return a.shape == b.shape and torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
