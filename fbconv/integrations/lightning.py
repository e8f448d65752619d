"""A Lightning callback that prunes or freezes, and changes masks while the trainer trains."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import nn

from .batches import first_batches
from .conversion import convert
from .plan import Plan
from .training import Loss, MaskedTraining

try:
    from lightning.pytorch import Callback
except ImportError:
    Callback = None


class SparseTraining(Callback or object):
    """Prune, freeze, SET, RigL and gradual pruning in a ``lightning.pytorch.Trainer``.

    When the trainer sets up, all convolutions and linear layers of the module become compressed ones, before
    ``configure_optimizers`` and before a checkpoint is loaded; when training starts, the score chooses the masks on the
    first batches of the train loader, at whose random numbers training then begins as if nothing had been drawn.
    Checkpoints have everything: ``Trainer.fit(..., ckpt_path=...)`` goes on with the masks of that moment, given the
    same callback. :func:`fbconv.integrations.conversion.load_state` reads them without a trainer.

    RigL needs the dense gradient in the steps that change masks. Layers then run on their dense weights in all batches
    of an accumulation, and the optimizer's step finds no gradients: it and gradient clipping do nothing, while the step
    counts and learning rates move on.

    Args:
        loss: of the module and a batch, what the score differentiates; by default the cross entropy of
            ``module(inputs)`` for batches ``(inputs, targets)``.
        options: of :class:`fbconv.integrations.plan.Plan`.

    Raises:
        ImportError: without lightning. TypeError, ValueError: options that do not exist or are out of range; when
            training starts, several optimizers or manual optimization.

    Example: ::

        trainer = lightning.Trainer(callbacks=[SparseTraining(score="snip", sparsity=0.98, dynamic="rigl")])
        trainer.fit(module, train_loader)
        fbconv.save(module, "module.fbc")
    """

    def __init__(self, loss: Loss | None = None, **options: Any) -> None:
        if Callback is None:
            raise ImportError("SparseTraining: needs lightning, which is not installed: pip install fbconv[lightning]")
        self.plan, self.loss = Plan(**options), loss
        self.training = MaskedTraining(self.plan)
        self._module: nn.Module | None = None
        self._step = 0

    def setup(self, trainer: Any, pl_module: nn.Module, stage: str) -> None:
        if pl_module is not self._module:  # that another one has its masks says nothing about this one
            self.training, self._module = MaskedTraining(self.plan), pl_module
        convert(pl_module, self.plan)

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise ValueError("SparseTraining: the module must have one optimizer and automatic optimization, got "
                             f"{len(trainer.optimizers)} and {pl_module.automatic_optimization}")  # fmt: skip
        model, optimizer = trainer.strategy.model, trainer.optimizers[0]
        group = dist.group.WORLD if trainer.world_size > 1 else None
        if self.plan.prunes_first and not self.training.pruned:
            self.training.prune(model, self._batches(trainer, pl_module), self.loss, optimizer, group)
        self.training.begin(model, optimizer, trainer.estimated_stepping_batches, group)
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: object, batch_idx: int) -> None:
        self.training.before_batch(trainer.global_step)

    def on_before_optimizer_step(self, trainer: Any, pl_module: nn.Module, optimizer: object) -> None:
        self.training.before_step(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *_: object) -> None:
        if trainer.global_step > self._step:  # batches of an accumulation are no steps
            self.training.after_step(self._step)
            self._step = trainer.global_step

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        self.training.close()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        self.training.close()

    def state_dict(self) -> dict[str, Any]:
        return {"pruned": self.training.pruned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.training.pruned = state_dict["pruned"]

    def _batches(self, trainer: Any, module: nn.Module) -> list[object]:
        if not isinstance(self.plan.batches, int):
            return list(self.plan.batches)
        placed = trainer.strategy.batch_to_device
        batches = first_batches(trainer.train_dataloader, self.plan.batches, module)
        return [trainer.precision_plugin.convert_input(placed(batch)) for batch in batches]
