"""Random weights that a 32-bit seed stands for: the same bits on every platform, in any number of threads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _C

GENERATOR = "philox4x32-10/1"


@dataclass(frozen=True)
class _Law:
    distribution: str  # of mean 0; "uniform" has variance 1/3, the others 1
    gain: float  # variance times the fans
    fans: str  # "in", or the mean of both


_LAWS = {
    "xavier_normal": _Law("normal", 1.0, "mean"),
    "kaiming_normal": _Law("normal", 2.0, "in"),
    "kaiming_uniform": _Law("uniform", 2.0, "in"),
    "pm_sigma": _Law("sign", 1.0, "mean"),
    "bimodal": _Law("two normals", 2.0, "in"),
}
INITS = tuple(_LAWS)


@dataclass(frozen=True)
class Draw:
    """Which random numbers a layer's weights are.

    Weight i of the layer (row-major) is a function of seed, layer name and i alone: Philox 4x32-10, keyed by the seed
    and counting from the name's hash and i, gives a word, and the initialisation makes a number of it. Integers and
    correctly rounded arithmetic make every bit the same on all platforms, instruction sets and thread counts;
    ``csrc/core/draw.h`` says how.

    Attributes:
        init: "xavier_normal" (variance 2 / (fan_in + fan_out)), "kaiming_normal", "kaiming_uniform" (both variance
            2 / fan_in), "pm_sigma" (both signs of Xavier's standard deviation with equal chance: one bit a weight) or
            "bimodal" (Kaiming's variance, but nothing near zero: halves of a normal distribution that begin at plus and
            minus .55 standard deviations).
        seed: from 0 to 2^32 - 1.
        name: of the layer, so that layers of one seed differ.

    Raises:
        ValueError: an unknown initialisation, or a seed outside its range.

    Example:
        >>> Draw("pm_sigma", seed=9, name="fc").tensor((2, 2))
        tensor([[ 0.7071,  0.7071],
                [-0.7071,  0.7071]])

    Source: FreezeNet (Wimmer et al. 2020), storing frozen weights as a seed, and its three initialisations; "Hitting
    the Jackpot", section 5.4, for a bi-modal one.
    """

    init: str
    seed: int
    name: str

    def __post_init__(self) -> None:
        if self.init not in _LAWS:
            raise ValueError(f"initialisation: init must be one of {', '.join(INITS)}, got {self.init!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise ValueError(f"initialisation: seed must be a number of 32 bits, got {self.seed!r}")

    def tensor(self, shape: Sequence[int]) -> Tensor:
        """The weights: float32 on the CPU, of a shape ``(out, in, ...)`` whose further dimensions are taps."""
        if 0 in shape:
            return torch.empty(*shape)
        law = _LAWS[self.init]
        if law.distribution == "two normals":
            return _parted(self._draw("normal", 1.0, shape)) * _scale(law, shape)
        return self._draw(law.distribution, _scale(law, shape), shape)

    def _draw(self, distribution: str, scale: float, shape: Sequence[int]) -> Tensor:
        numbers = _C.draw(distribution, self.seed, self.name, scale, math.prod(shape))
        return torch.from_numpy(numbers).view(*shape)


def _parted(normal: Tensor) -> Tensor:
    """Of variance 1 as before, but with a gap around zero: ``sign(z) (a + |z| / 2)``."""
    mean = math.sqrt(2 / math.pi)  # of |z|
    offset = (math.sqrt(mean**2 + 3) - mean) / 2  # a^2 + a E|z| + 1/4 = 1
    return normal.sign() * (offset + normal.abs() / 2)


def _scale(law: _Law, shape: Sequence[int]) -> float:
    taps = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * taps, shape[0] * taps
    fans = fan_in if law.fans == "in" else (fan_in + fan_out) / 2
    return math.sqrt(law.gain * (3 if law.distribution == "uniform" else 1) / fans)
