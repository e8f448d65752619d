"""Whether a pattern is still the one that its values belong to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


class Fingerprint:
    """Notices that other numbers were written into a tensor of integers.

    ``torch.optim.swa_utils.AveragedModel`` does: it copies or averages buffers in place, also where the masks of its
    model have changed and the averaged values still lie at the old ones.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._sum = _sum(tensor)
        self._seen = _stamp(tensor)

    def matches(self, tensor: Tensor) -> bool:
        """Whether it still holds the same numbers; they are looked at only if it is another tensor or was written."""
        if self._seen == _stamp(tensor):
            return True
        found = _sum(tensor)
        if self._sum is None:
            self._sum = found
        if found is None or found != self._sum:
            return found is None
        self._seen = _stamp(tensor)
        return True


def _stamp(tensor: Tensor) -> tuple[int, int]:
    try:
        return id(tensor), tensor._version
    except RuntimeError:  # made in inference mode: versions are not counted
        return id(tensor), -1


def _sum(tensor: Tensor) -> int | None:
    """Of the numbers, each times its place; None if they cannot be read (meta, fake and functorch tensors, modes)."""
    if type(tensor) is not Tensor or tensor.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return None
    if _get_current_dispatch_mode() is not None:
        return None
    places = torch.arange(1, tensor.numel() + 1, device=tensor.device)
    return int((tensor.detach() * places).sum())
