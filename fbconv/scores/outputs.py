"""What a model returns: a tensor, or a dataclass that has it as ``logits``, as models of ``transformers`` do."""

from __future__ import annotations

import dataclasses

from torch import Tensor
from torch.nn import functional as F


def logits_of(op: str, outputs: object, expected: str = "a tensor, or have one as logits") -> Tensor:
    """The tensor among the outputs.

    Raises:
        ValueError: naming the score, if there is none.
    """
    logits = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(f"{op}: the model must return {expected}, got {type(outputs).__name__}")
    return logits


def with_logits(outputs: object, logits: Tensor) -> object:
    """The same outputs with other logits."""
    return logits if isinstance(outputs, Tensor) else dataclasses.replace(outputs, logits=logits)


def cross_entropy(outputs: object, targets: Tensor) -> Tensor:
    """Of the logits."""
    return F.cross_entropy(logits_of("score", outputs), targets)
