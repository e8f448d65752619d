"""What all compressed layers share: values at a pattern, and perhaps frozen weights around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..initialisation import Draw
from ..pattern import SparsePattern
from .fingerprint import Fingerprint
from .tied import successor


class Compressed(nn.Module):
    """A layer that trains only the entries of one dense tensor that its pattern keeps.

    The dense tensor is ``values`` at the pattern and, elsewhere, zero or (if the layer has a buffer ``frozen``) the
    frozen initialisation: ``psi theta`` or ``psi theta + (1 - m) Theta0``. Only ``values`` is a
    parameter, so gradients and optimizer state have nnz entries and nothing else can move.

    Attributes:
        values: parameter ``(nnz,)`` in row-major order of the mask.
        indices: int32 buffer, the packed pattern.
        frozen: buffer of the dense shape with the initialisation, or None.
        frozen_scale: 0-d buffer that the frozen weights are multiplied by, or None; only FreezeNet-WD has one
            (:func:`fbconv.decay_frozen`), so that decay leaves ``frozen`` the numbers that a seed stands for.
        draw: which random numbers ``frozen`` was drawn as, or None; files then hold the seed.
        backend: how :mod:`fbconv.functional` computes the layer; "auto" by default.
    """

    values: nn.Parameter
    indices: Tensor
    frozen: Tensor | None
    frozen_scale: Tensor | None
    draw: Draw | None
    backend: str
    _may_freeze = True

    def _compress(self, dense: Tensor, mask: Tensor | None, frozen: bool, requires_grad: bool) -> None:
        """Keeps ``dense`` at the mask as values; the rest becomes zero, or frozen as it is."""
        dense = dense.detach()
        mask = torch.ones(dense.shape, dtype=torch.bool) if mask is None else mask
        self._check_mask(mask, tuple(dense.shape))
        pattern = SparsePattern.from_mask(mask)
        self._shape = pattern.shape
        self.backend = "auto"
        self.register_buffer("indices", pattern.packed.to(dense.device))
        self.register_buffer("frozen", dense.clone() if frozen else None)
        self.register_buffer("frozen_scale", None)
        self.draw = None
        self.values = nn.Parameter(_entries(dense, pattern), requires_grad)
        self._fingerprint = Fingerprint(self.indices)
        self._pattern = pattern  # made once for its indices: its checks cost more than small calls

    @property
    def pattern(self) -> SparsePattern:
        """Which entries are trained.

        Raises:
            RuntimeError: if another pattern was written over that of the values.
        """
        indices = self.indices
        if torch.compiler.is_compiling():
            return SparsePattern(indices, self._shape)
        if not self._fingerprint.matches(indices):
            raise RuntimeError(
                f"{type(self).__name__}: indices must be the positions of the values, but others were written over "
                "them, as AveragedModel does with use_buffers=True or after the masks of its model have changed "
                "(fbconv.dynamic.match_masks before update_parameters)"
            )
        if self._pattern.packed is not indices:
            self._pattern = SparsePattern(indices, self._shape)
        return self._pattern

    def dense_values(self) -> Tensor:
        """The dense tensor that the values stand for (coefficients, for filter-basis layers); differentiable."""
        return self.pattern.scatter(self.values, self.frozen_weights())

    def frozen_weights(self) -> Tensor | None:
        """What stands where nothing is trained, of the dense shape, or None for zeros."""
        return self.frozen if self.frozen_scale is None else self.frozen * self.frozen_scale

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Trains the entries of another mask.

        Surviving values stay; grown ones start at zero, or at their frozen initialisation. ``values`` becomes a new
        parameter unless the mask is the old one, so that no gradient or momentum of a weight reaches another: give
        it to the optimizer.

        Raises:
            ValueError: a mask of another shape.
        """
        self._check_mask(mask, self._shape)
        pattern = SparsePattern.from_mask(mask)
        if not torch.equal(pattern.packed, self.indices.to(pattern.device)):
            self._adopt(pattern.packed, _entries(self.dense_values(), pattern))

    @torch.no_grad()
    def prune(self, mask: Tensor) -> None:
        """Trains only the entries of ``mask`` from now on; all others become zero, frozen ones too."""
        self._check_mask(mask, self._shape)
        pattern = SparsePattern.from_mask(mask)
        values = _entries(self.dense_values(), pattern)
        self.frozen = self.frozen_scale = self.draw = None
        self._adopt(pattern.packed, values)

    @torch.no_grad()
    def freeze(self, mask: Tensor) -> None:
        """Freezes the layer as it stands and trains only the entries of ``mask`` from now on.

        Raises:
            TypeError: a layer of a kind that is always pruned; :func:`fbconv.freeze` makes a frozen one of it.
        """
        if not self._may_freeze:
            raise TypeError(f"{type(self).__name__}: pruned layers cannot freeze; fbconv.freeze(model, masks) makes "
                            "frozen ones of them")  # fmt: skip
        self._check_mask(mask, self._shape)
        self.frozen, self.frozen_scale, self.draw = self.dense_values(), None, None
        self.set_mask(mask)

    @torch.no_grad()
    def redraw(self, draw: Draw) -> None:
        """Starts the layer anew, frozen weights too if it has them, from the weights of ``draw``; in place."""
        dense = draw.tensor(self._shape).to(self.values)
        self.values.copy_(_entries(dense, self.pattern))
        if self.frozen is not None:
            self.frozen, self.frozen_scale, self.draw = dense, None, draw

    def _adopt(self, packed: Tensor, values: Tensor) -> None:
        self.indices = packed.to(self.indices.device)
        self.values = successor(self.values, packed, values)
        self._fingerprint = Fingerprint(self.indices)

    def _check_mask(self, mask: Tensor, shape: tuple[int, ...]) -> None:
        if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"{type(self).__name__}: mask must be a tensor of shape {shape}, got {got}")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Adopts the pattern of the incoming state, whatever number of weights it keeps; ``values`` becomes a new
        parameter if the pattern is another."""
        packed, values = state_dict.get(prefix + "indices"), state_dict.get(prefix + "values")
        if packed is not None and values is not None:
            pattern = SparsePattern.from_packed(packed, self._shape)
            if tuple(values.shape) != (pattern.nnz,):
                raise ValueError(
                    f"{type(self).__name__}: {prefix}values must have shape ({pattern.nnz},) as {prefix}indices says, "
                    f"got {tuple(values.shape)}"
                )
            if self.indices.is_meta or not torch.equal(packed, self.indices.to(packed.device)):
                self._adopt(packed.clone(), self.values.detach().new_empty(pattern.nnz))
        if self.frozen_scale is None and self.frozen is not None and prefix + "frozen_scale" in state_dict:
            self.frozen_scale = self.frozen.new_ones(())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _density_text(self) -> str:
        kind = "trained, the rest frozen" if self.frozen is not None else "kept"
        return f"{self.values.numel()} of {self._shape} {kind}, backend={self.backend!r}"


def compressed_layers(model: nn.Module) -> dict[str, Compressed]:
    """Name -> layer, of all compressed layers of a model, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Compressed)}


def layers_of_state(model: nn.Module) -> dict[str, Compressed]:
    """Name -> layer, by the names in the state dict, all that a layer has: those of modules, but where a wrapper leaves
    its own name out, as ``checkpoint_wrapper`` does."""
    layers = {id(layer.indices): layer for layer in compressed_layers(model).values()}
    state = model.state_dict(keep_vars=True)
    return {key.rpartition(".")[0]: layers[id(tensor)] for key, tensor in state.items() if id(tensor) in layers}


def key_of(module: str, part: str) -> str:
    """The name of a module's tensor in the state dict of the model; the model itself has the empty name."""
    return f"{module}.{part}" if module else part


def _entries(dense: Tensor, pattern: SparsePattern) -> Tensor:
    """``dense`` at the pattern; on the meta device, room for it."""
    return dense.new_empty(pattern.nnz) if dense.is_meta else dense[pattern.mask().to(dense.device)]


def copied_parameter(source: nn.Parameter | None) -> nn.Parameter | None:
    """A parameter of its own with the same values and the same ``requires_grad``."""
    return None if source is None else nn.Parameter(source.detach().clone(), source.requires_grad)
