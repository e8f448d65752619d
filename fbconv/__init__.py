"""fbconv: sparse and frozen convolutions that are really faster.

Train and run networks on a fraction of their weights: pruned, frozen at their initialisation, or as sparse
coefficients over shared filter bases, through compiled kernels that skip what is not there.
"""

from __future__ import annotations

from . import _ops, distributed, dynamic, functional, interop, nn, onnx  # noqa: F401  (_ops loads the extension)
from ._cops import CopsResult, cops, linear_mix
from ._version import __version__
from .checkpoint import load, save
from .convert import densify, freeze, initialise, interspace, prunable, sparsify
from .convertibility import Convertible, convertible
from .counting import LayerCount, ModelCount, count
from .decay import parameter_groups
from .explaining import Explanation, explain
from .freezing import decay_frozen, finish
from .masks import LayerCollapseWarning, select
from .overlap import jaccard, mask_similarity
from .pattern import SparsePattern
from .schedules import iterative_masks, prune_masks
from .scores import score

__all__ = [
    "Convertible",
    "CopsResult",
    "Explanation",
    "LayerCollapseWarning",
    "LayerCount",
    "ModelCount",
    "SparsePattern",
    "__version__",
    "convertible",
    "cops",
    "count",
    "decay_frozen",
    "densify",
    "distributed",
    "dynamic",
    "explain",
    "finish",
    "freeze",
    "functional",
    "initialise",
    "interop",
    "interspace",
    "iterative_masks",
    "jaccard",
    "linear_mix",
    "load",
    "mask_similarity",
    "nn",
    "onnx",
    "parameter_groups",
    "prunable",
    "prune_masks",
    "save",
    "score",
    "select",
    "sparsify",
]
