"""Filter bases: the shared, trained K x K elements that filters are combined from."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


class FilterBasis(nn.Module):
    """A trainable filter basis, to be shared by any number of :class:`FBConv2d`.

    Args:
        kernel_size: K or (KH, KW).
        n_elements: number of elements; ``KH * KW`` (a basis) if None. Fewer are allowed with every ``init``, more (an
            overcomplete dictionary) with "random".
        init: "standard" (unit filters: the layer starts as the spatial one), "orthonormal" (a random orthonormal basis)
            or "random" (independent N(0, 1) entries, then mean 0 and mean square 1 / n_elements at every position, so
            that composed filters have the variance of their coefficients).
        n_bases: number of bases for blocks of channels; None for one.
        generator: random numbers for "orthonormal" and "random".

    Attributes:
        elements: parameter ``(n_elements, KH, KW)``, or ``(n_bases, n_elements, KH, KW)``.

    Example:
        >>> FilterBasis(3).elements.shape
        torch.Size([9, 3, 3])

    Source: interspace pruning, initialisation of filter bases.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        n_elements: int | None = None,
        init: str = "standard",
        *,
        n_bases: int | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = _pair(kernel_size)
        size = prod(self.kernel_size)
        count = size if n_elements is None else n_elements
        _check_init(init, count, size)
        self.init = init
        bases = [_initial(init, count, size, generator) for _ in range(n_bases or 1)]
        elements = (
            torch.stack(bases).view(-1, count, *self.kernel_size).to(device=device, dtype=dtype or bases[0].dtype)
        )
        self.elements = nn.Parameter(elements if n_bases is not None else elements[0])

    @property
    def n_elements(self) -> int:
        """Elements of each basis."""
        return self.elements.shape[-3]

    @property
    def n_bases(self) -> int:
        """Number of bases."""
        return self.elements.shape[0] if self.elements.dim() == 4 else 1

    def stacked(self) -> Tensor:
        """The elements with the leading dimension of bases: ``(n_bases, n_elements, KH, KW)``."""
        return self.elements if self.elements.dim() == 4 else self.elements[None]

    def extra_repr(self) -> str:
        bases = f"{self.n_bases} bases of " if self.n_bases > 1 else ""
        return f"{bases}{self.n_elements} elements, kernel_size={self.kernel_size}, init={self.init!r}"


def _check_init(init: str, count: int, size: int) -> None:
    if init not in ("standard", "orthonormal", "random"):
        raise ValueError(f"FilterBasis: init must be standard, orthonormal or random, got {init!r}")
    if count < 1 or (init != "random" and count > size):
        bound = "at least 1" if init == "random" else f"from 1 to {size} with init={init!r}"
        raise ValueError(f"FilterBasis: n_elements must be {bound}, got {count}")


def _initial(init: str, count: int, size: int, generator: torch.Generator | None) -> Tensor:
    if init == "standard":
        return torch.eye(size)[:count]
    # Made in float64 so that the elements are orthonormal, or of mean 0, to float32's last bit.
    drawn = torch.randn(
        max(count, size) if init == "orthonormal" else count, size, generator=generator, dtype=torch.float64
    )
    if init == "orthonormal":
        return torch.linalg.qr(drawn).Q.T[:count].float()
    if count > 1:
        drawn -= drawn.mean(0)
    drawn *= (drawn.square().sum(0)).rsqrt()
    return drawn.float()
