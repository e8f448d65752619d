"""Which parameters weight decay is for."""

from __future__ import annotations

from torch import nn

from .nn import Compressed, FilterBasis

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms of all dimensions
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """A model's parameters for any torch optimizer, with weight decay for its weights only.

    Decayed are the weights of layers and the ``values`` of compressed ones: trained weights, also between frozen ones,
    and coefficients of filter bases. Biases, normalisation, filter bases and whatever else has a single dimension are
    not. FreezeNet-WD's decay of the frozen weights themselves comes on top: :func:`fbconv.decay_frozen`.

    Args:
        model: any module.
        weight_decay: of the decayed group.

    Returns:
        Two groups, the decayed one first, each in the order of ``model.parameters()``; every parameter is in exactly
        one of them, once, wherever it is shared.

    Raises:
        ValueError: a negative weight decay.

    Example:
        >>> model = fbconv.interspace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
        >>> decayed, rest = parameter_groups(model, weight_decay=5e-4)
        >>> [tuple(parameter.shape) for parameter in decayed["params"]]
        [(216,)]
        >>> [tuple(parameter.shape) for parameter in rest["params"]]
        [(8,), (9, 3, 3), (8,), (8,)]
        >>> optimizer = torch.optim.AdamW([decayed, rest], lr=1e-3)

    Source: interspace pruning, weight decay on coefficients and none on filter bases.
    """
    if not weight_decay >= 0:
        raise ValueError(f"parameter_groups: weight_decay must be 0 or more, got {weight_decay}")
    spared = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not _decays(module, name, parameter)
    }
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]


def _decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    if isinstance(module, Compressed):
        return name == "values"
    # "bias" within the name: recurrent layers have bias_ih_l0, attention in_proj_bias and bias_k.
    return not isinstance(module, (*_NORMS, FilterBasis)) and parameter.dim() > 1 and "bias" not in name
