"""To and from others: pruned models of torch, dense checkpoints and optimizers, sparse matrices."""

from .dense_states import LoadedKeys, dense_state_dict, load_dense_state_dict, without_prefix
from .matrices import load_matrix, sparse_matrices, sparse_matrix
from .optimizers import carry_optimizer_state
from .torch_pruning import (
    Pruned,
    from_pruned_state_dict,
    from_torch_pruning,
    is_pruned,
    mask_others,
    to_torch_pruning,
)
from .zeros import masks_of_zeros

__all__ = [
    "LoadedKeys",
    "Pruned",
    "carry_optimizer_state",
    "dense_state_dict",
    "from_pruned_state_dict",
    "from_torch_pruning",
    "is_pruned",
    "load_dense_state_dict",
    "load_matrix",
    "mask_others",
    "masks_of_zeros",
    "sparse_matrices",
    "sparse_matrix",
    "to_torch_pruning",
    "without_prefix",
]
