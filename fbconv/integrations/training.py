"""A plan at work: masks before the first step, and changes of masks around the optimizer's steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..convert import prunable
from ..dynamic import GradualPruning, RegrowingMasks, dense_gradients, set_masks
from ..dynamic.changing import layers_by_values
from ..dynamic.ranks import unwrapped
from ..masks import LayerCollapseWarning, warn_of_collapse
from ..nn.compressed import compressed_layers
from ..schedules import prune_masks
from .plan import Plan

Loss = Callable[[nn.Module, object], Tensor]  # of a model and a batch


class MaskedTraining:
    """What trainers call, in this order: :meth:`prune`, :meth:`begin`, and for every optimizer step (counted from 0)
    :meth:`before_batch` for each of its batches, :meth:`before_step` between the gradients and the step, and
    :meth:`after_step`.

    RigL's update stands in the place of the optimizer's step, which then finds no gradients and so does nothing.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pruned = False
        self._masks: RegrowingMasks | GradualPruning | None = None
        self._watching = ExitStack()
        self._weights: dict[str, Tensor] | None = None

    def prune(
        self,
        model: nn.Module,
        batches: Iterable[object] | None,
        loss: Loss | None,
        optimizer: torch.optim.Optimizer | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Once: the masks that the score asks for, at the weights that the model has now; those of the first rank.

        Args:
            model: converted, perhaps in a ``DistributedDataParallel``.
            batches: what ``loss`` takes; without a loss, pairs of inputs and targets.
            loss: None for the cross entropy of the model's output.
            optimizer, group: as for :func:`set_masks`.
        """
        if self.plan.prunes_first and not self.pruned:
            _share_weights(unwrapped(model), group)
            set_masks(model, _masks(unwrapped(model), self.plan, batches, loss), optimizer, group)
        self.pruned = True

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps: float,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Before the first step, or the first one after a resumption.

        Args:
            steps: of the optimizer, in the whole training.

        Raises:
            ValueError: an optimizer of other parameters, or with the state of other masks; an unknown number of steps.
        """
        plan, layers = self.plan, layers_by_values(unwrapped(model))
        _require_values(layers, optimizer)
        _require_state_of(layers, optimizer)
        self._model = model
        if plan.dynamic == "none":
            return
        if not 0 < steps < float("inf"):
            raise ValueError(f"SparseTraining: the number of steps must be known with dynamic {plan.dynamic!r}, got "
                             f"{steps}; give the trainer a maximum of epochs or steps")  # fmt: skip
        end = max(1, int(plan.until * steps))
        if plan.dynamic == "gmp":
            dense = _not_compressed(unwrapped(model))
            self._masks = GradualPruning(model, optimizer, plan.sparsity, 0, end, plan.interval, dense, group)
        else:
            self._masks = RegrowingMasks(model, optimizer, plan.interval, end, plan.drop_fraction, group=group)

    def before_batch(self, step: int) -> None:
        """From the first batch of the step on, collect dense gradients if the step is an update of RigL."""
        if self._is_due(step) and self.plan.dynamic == "rigl" and self._weights is None:
            self._weights = self._watching.enter_context(dense_gradients(self._model))

    def before_step(self, step: int) -> None:
        """RigL's update, with the gradients of all batches of the step, and nothing left for the optimizer to do."""
        if self._weights is None:
            return
        gradients = {name: weight.grad for name, weight in self._weights.items()}
        self.close()
        self._masks.update(step, gradients)
        for parameter in self._model.parameters():
            parameter.grad = None

    def after_step(self, step: int) -> None:
        """Updates of SET and of gradual pruning."""
        if not self._is_due(step) or self.plan.dynamic == "rigl":
            return
        if isinstance(self._masks, RegrowingMasks):
            self._masks.generator.manual_seed(step)  # a resumed training draws what the other would have drawn
        self._masks.update(step)

    def close(self) -> None:
        """The layers compute as usual again."""
        self._watching.close()
        self._weights = None

    def _is_due(self, step: int) -> bool:
        return self._masks is not None and self._masks.due(step)


class _WithLoss(nn.Module):
    """A model whose output is its loss, for scores to differentiate."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: object) -> Tensor:
        return self.loss(self.model, batch)


def _masks(model: nn.Module, plan: Plan, batches: Iterable[object] | None, loss: Loss | None) -> dict[str, Tensor]:
    scored, prefix, options = model, "", plan.selection()
    if loss is not None:
        scored, prefix = _WithLoss(model, loss), "model."
        options["loss_fn"] = lambda output, _: output
        batches = [(batch, None) for batch in batches or ()]
    with warnings.catch_warnings():  # of names with the prefix
        warnings.simplefilter("ignore", LayerCollapseWarning)
        masks = prune_masks(scored, batches=batches, exclude=_not_compressed(scored), **options)
    masks = {name.removeprefix(prefix): mask for name, mask in masks.items()}
    if plan.mode == "prune":  # a layer without a trained weight, but with frozen ones, still passes signals on
        warn_of_collapse(masks)
    return masks


def _not_compressed(model: nn.Module) -> list[str]:
    """Names of the prunable tensors that :func:`convert` has left alone."""
    layers = layers_by_values(model)
    return [name for name in prunable(model) if name not in layers]


@torch.no_grad()
def _share_weights(model: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Frozen weights are those of the moment at which the masks are chosen, and the first rank's on all ranks."""
    for layer in compressed_layers(model).values():
        if layer.frozen is not None and layer.draw is None and layer.frozen_scale is None:
            layer.frozen = layer.dense_values()
        if group is not None:
            for tensor in (layer.values.data, layer.frozen):
                if tensor is not None:
                    dist.broadcast(tensor, dist.get_global_rank(group, 0), group)


def _require_values(layers: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    trained = {name: layer.values for name, layer in layers.items() if layer.values.requires_grad}
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if trained and not any(id(values) in known for values in trained.values()):
        raise ValueError(f"SparseTraining: the optimizer must be made of the converted model's parameters, got none of "
                         f"{', '.join(trained)}; make it when the trainer asks for it")  # fmt: skip


def _require_state_of(layers: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> None:
    """Fused optimizers read beyond the ends of state that is too short."""
    for name, layer in layers.items():
        for part, value in optimizer.state.get(layer.values, {}).items():
            if isinstance(value, Tensor) and value.dim() == 1 and value.shape != layer.values.shape:
                raise ValueError(
                    f"SparseTraining: the optimizer's {part} of {name} must have {layer.values.numel()} entries, got "
                    f"{value.numel()}: the trainer has resumed its optimizer, but not the model, as happens where "
                    "checkpoints have other names than the model"
                )
