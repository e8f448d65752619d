"""Parameters and floating-point operations of a model's layers, by the papers' formulas and exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from .convertibility import convertible_layers
from .layer_calls import LayerCall, calls_of
from .nn import Compressed, FBConv2d


@dataclass(frozen=True)
class LayerCount:
    """One call of a convolution or linear layer. FLOPs are those of its forward pass over the whole batch, two for each
    multiply-add, positions of padding included, the bias left out.

    Attributes:
        name: in the model; empty for the model itself.
        kind: class of the layer.
        input, output: shapes, batch included; empty, and no FLOPs, for a layer that the forward pass does not call.
        weights: of the plain dense layer. A weight that calls or layers share counts where it comes first, as do
            ``trained`` and ``basis``.
        trained: weights, values or coefficients; biases are not among them.
        basis: entries of the filter basis.
        dense_flops: of the plain dense layer.
        theory_flops: of this layer, by formula: ``(1 - q)`` of the dense ones when pruned, ``2 C_in K^2 h w
            (C_out (1 - q) + n)`` with ``n`` basis elements in the interspace, all when frozen.
        exact_flops: of this layer with its mask: in the interspace basis first, where only live columns (pairs of an
            input channel and a basis element that any kept coefficient uses) are convolved; with frozen coefficients
            composed. Elsewhere the formula is exact.
        composed_flops: in the interspace, of composing the filters from kept (and frozen) coefficients and a dense
            convolution; None elsewhere. A layer that is only used composes once, not in every call.
    """

    name: str
    kind: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    weights: int
    trained: int
    basis: int
    dense_flops: int
    theory_flops: int
    exact_flops: int
    composed_flops: int | None

    @property
    def flop_ratio(self) -> float | None:
        """The dense layer's FLOPs for each exact one of this layer; None if there are none."""
        return self.dense_flops / self.exact_flops if self.exact_flops else None


@dataclass(frozen=True)
class ModelCount:
    """All layers of a model, and their sums.

    Attributes:
        layers: in the order of their calls; those that are not called at the end.
        parameters: all of the model's, biases, normalisation and other kinds of layers included.
    """

    layers: tuple[LayerCount, ...]
    parameters: int

    @property
    def weights(self) -> int:
        """D, of the plain dense model."""
        return sum(layer.weights for layer in self.layers)

    @property
    def trained(self) -> int:
        """d, without filter bases."""
        return sum(layer.trained for layer in self.layers)

    @property
    def basis(self) -> int:
        """Entries of all filter bases."""
        return sum(layer.basis for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """``q = 1 - d / D``."""
        return 1 - self.trained / self.weights

    @property
    def interspace_sparsity(self) -> float:
        """``q_IP``: entries of the filter bases count as trained weights; below 0 where all coefficients are kept."""
        return 1 - (self.trained + self.basis) / self.weights

    @property
    def real_sparsity(self) -> float:
        """The same over all parameters of the model, against those of the plain dense one."""
        return 1 - self.parameters / (self.parameters - self.trained - self.basis + self.weights)

    @property
    def dense_flops(self) -> int:
        return sum(layer.dense_flops for layer in self.layers)

    @property
    def theory_flops(self) -> int:
        return sum(layer.theory_flops for layer in self.layers)

    @property
    def exact_flops(self) -> int:
        return sum(layer.exact_flops for layer in self.layers)

    @property
    def flop_ratio(self) -> float | None:
        """The dense model's FLOPs for each exact one of this model; None if there are none."""
        return self.dense_flops / self.exact_flops if self.exact_flops else None


def count(model: nn.Module, input_shape: Sequence[int]) -> ModelCount:
    """Parameters and forward FLOPs of every layer, dense, by formula and with the masks that it has.

    Counted are the layers that :func:`fbconv.prunable` finds: ``nn.Conv2d``, ``nn.Linear`` and compressed layers, each
    call on its own. The forward pass runs on fake tensors: nothing is computed, and the model is left as it was.

    Args:
        model: any module, of one float input.
        input_shape: batch included.

    Raises:
        ValueError: a shape that is none, a model without such layers, or with masks on the meta device.
        RuntimeError: a forward pass that depends on the numbers in its tensors, or what else it raises.

    Example:
        >>> model = fbconv.interspace(nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)))
        >>> counts = count(model, (1, 4, 10, 10))
        >>> counts.weights, counts.trained, counts.basis
        (864, 864, 81)
        >>> counts.dense_flops, counts.theory_flops
        (172800, 367200)

    Source: interspace pruning, cost of a filter-basis convolution, compression rates.
    """
    if not all(isinstance(size, int) and size > 0 for size in input_shape):
        raise ValueError(f"count: input_shape must be positive sizes, batch included, got {tuple(input_shape)}")
    layers = {key.rpartition(".")[0]: layer for key, layer in convertible_layers(model).items()}
    if not layers:
        raise ValueError("count: model must have a Conv2d, Linear or compressed layer, got none")
    counted: set[int] = set()
    called = [_counted(call, counted) for call in _fake_calls(model, layers, input_shape)]
    names = {layer.name for layer in called}
    idle = [_layer_count(name, layer, (), (), counted) for name, layer in layers.items() if name not in names]
    return ModelCount((*called, *idle), sum(parameter.numel() for parameter in model.parameters()))


def _fake_calls(model: nn.Module, layers: dict[str, nn.Module], input_shape: Sequence[int]) -> list[LayerCall]:
    first = next(model.parameters())
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            input = torch.empty(tuple(input_shape), dtype=first.dtype, device=first.device)
            return calls_of(model, layers, lambda: model(input))
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise RuntimeError(
            f"count: model must have a forward pass that does not depend on the numbers in tensors, got {error}"
        ) from error


def _counted(call: LayerCall, counted: set[int]) -> LayerCount:
    return _layer_count(call.name, call.layer, tuple(call.input.shape), tuple(call.output.shape), counted)


def _layer_count(
    name: str, layer: nn.Module, input: tuple[int, ...], output: tuple[int, ...], counted: set[int]
) -> LayerCount:
    """``counted`` has the ids of the parameters that earlier layers were counted with, and gets this layer's."""
    learned = layer.values if isinstance(layer, Compressed) else layer.weight
    elements = layer.basis.elements if isinstance(layer, FBConv2d) else None
    new, new_basis = id(learned) not in counted, elements is not None and id(elements) not in counted
    counted |= {id(learned), id(elements)}
    shape = _dense_shape(layer)
    return LayerCount(
        name,
        type(layer).__name__,
        input,
        output,
        weights=new * prod(shape),
        trained=new * learned.numel(),
        basis=elements.numel() if new_basis else 0,
        **_flops(name, layer, prod(output) // shape[0] if output else 0),
    )


def _dense_shape(layer: nn.Module) -> tuple[int, ...]:
    if isinstance(layer, FBConv2d):
        return (*layer.pattern.shape[:2], *layer.geometry.kernel_size)
    return layer.pattern.shape if isinstance(layer, Compressed) else tuple(layer.weight.shape)


def _flops(name: str, layer: nn.Module, positions: int) -> dict[str, int | None]:
    """FLOPs by :class:`LayerCount`'s names, at so many positions of the output map and the batch; 0 is no call."""
    dense = 2 * prod(_dense_shape(layer)) * positions
    theory = exact = dense
    composed = None
    if isinstance(layer, FBConv2d):
        taps = prod(layer.geometry.kernel_size)
        coefficients = layer.pattern.nnz if layer.frozen is None else prod(layer.pattern.shape)
        composed = dense + 2 * coefficients * taps if positions else 0
        if layer.frozen is None:
            live, connected = _columns(name, layer)
            theory, exact = (2 * (coefficients + taps * columns) * positions for columns in (connected, live))
        else:
            exact = composed
    elif isinstance(layer, Compressed) and layer.frozen is None:
        theory = exact = 2 * layer.pattern.nnz * positions
    return {"dense_flops": dense, "theory_flops": theory, "exact_flops": exact, "composed_flops": composed}


def _columns(name: str, layer: FBConv2d) -> tuple[int, int]:
    """Pairs of an input channel and an element of one of its bases: those that a kept coefficient uses, and all."""
    pattern = layer.pattern
    if pattern.packed.is_meta:
        raise ValueError(f"count: layer {name!r} must have a mask with data, got one on the meta device")
    mask = pattern.mask()
    # Outputs that see the same inputs through the same basis share columns.
    outputs = torch.arange(mask.shape[0], device=mask.device)
    peers = outputs // (mask.shape[0] // layer.geometry.groups)
    if layer.basis_axis == "out":
        peers = peers * layer.basis.n_bases + outputs // (mask.shape[0] // layer.basis.n_bases)
    _, peers = peers.unique(return_inverse=True)
    users = mask.new_zeros(int(peers.max()) + 1, *mask.shape[1:], dtype=torch.int32)
    users.index_add_(0, peers, mask.int())
    return int(users.count_nonzero()), users.numel()
