"""A whole network the way the interspace pruning paper measured it: scipy's sparse matrices times columns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._ops.checks import conv_output_shape
from ..nn import Compressed, FBConv2d, SparseConv2d
from .peers import apart, scipy_csr, side_by_side


def scipy_network(model: nn.Sequential) -> nn.Sequential:
    """The same function for inference on one thread, every pruned layer a scipy product; other layers are shared.

    Example:
        >>> sparse = fbconv.sparsify(nn.Sequential(nn.Linear(8, 4)), {"0.weight": torch.rand(4, 8) < 0.5})
        >>> torch.allclose(scipy_network(sparse)(torch.ones(2, 8)), sparse(torch.ones(2, 8)))
        True

    Source: interspace pruning, measured speed-up (scipy CSR, batch 1, one core).
    """
    return nn.Sequential(*(_Product(layer) if isinstance(layer, Compressed) else layer for layer in model))


class _Product(nn.Module):
    """A sparse matrix, made beforehand, times the columns of each input: unfolded, or convolved with a basis."""

    def __init__(self, layer: Compressed) -> None:
        super().__init__()
        self.layer = layer
        self.weight_shape = layer.weight.shape
        groups = layer.geometry.groups if len(self.weight_shape) == 4 else 1
        self.matrix = scipy_csr(layer.pattern, layer.values.detach(), groups)

    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        columns, maps = self._columns(input)
        product = torch.from_numpy(self.matrix @ side_by_side(columns).numpy())
        if self.layer.bias is not None:
            product += self.layer.bias[:, None]
        return apart(product, len(input)).view(len(input), -1, *maps)

    def _columns(self, input: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """``(images, rows, positions)``, and the sizes of the output's maps."""
        layer = self.layer
        if not isinstance(layer, SparseConv2d | FBConv2d):
            return input[..., None], ()
        input, options = layer.geometry.padded(input)
        height, width = conv_output_shape("scipy_network", input.shape, self.weight_shape, **options)[2:]
        options.pop("groups")
        if isinstance(layer, SparseConv2d):
            return nn.functional.unfold(input, layer.geometry.kernel_size, **options), (height, width)
        each_map = input.flatten(0, 1)[:, None]
        columns = torch.conv2d(each_map, layer.basis.elements[:, None], **options)
        return columns.view(len(input), -1, height * width), (height, width)
