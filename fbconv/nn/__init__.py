"""Drop-in modules: sparse, frozen and filter-basis layers."""

from .compressed import Compressed
from .conv import FrozenConv2d, SparseConv2d
from .fb_conv import FBConv2d
from .fb_linear import FBLinear
from .filter_basis import FilterBasis
from .linear import FrozenLinear, SparseLinear

__all__ = [
    "Compressed",
    "FBConv2d",
    "FBLinear",
    "FilterBasis",
    "FrozenConv2d",
    "FrozenLinear",
    "SparseConv2d",
    "SparseLinear",
]
