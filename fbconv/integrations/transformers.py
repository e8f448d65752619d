"""A callback for Hugging Face's Trainer that prunes or freezes, and changes masks while the trainer trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from .batches import first_batches
from .conversion import convert
from .plan import Plan
from .training import Loss, MaskedTraining

try:
    from transformers import TrainerCallback
except ImportError:
    TrainerCallback = None


class SparseTraining(TrainerCallback or object):
    """Prune, freeze, SET, RigL and gradual pruning in a ``transformers.Trainer``.

    When the trainer is made, all convolutions and linear layers of the model become compressed ones, before it makes
    its optimizer or loads a checkpoint; so the callback has to be among the ``callbacks`` that ``Trainer`` is made
    with. When training starts, the score chooses the masks on the first batches of the train loader, and the optimizer
    gets the values that are kept. Checkpoints have everything: ``train(resume_from_checkpoint=...)`` goes on with the
    masks of that moment. :func:`fbconv.integrations.conversion.load_state` reads them without a trainer.

    RigL needs the dense gradient in the steps that change masks. Layers then run on their dense weights in all batches
    of an accumulation, and the optimizer's step finds no gradients: it does nothing, while the step counts and the
    learning rate moves on. A loss scaler (fp16) wants to have seen gradients before: keep ``max_grad_norm`` above 0, or
    torch raises an AssertionError.

    In several processes ``Trainer`` does not say which wrapper holds the model. There, ``batches`` have to be given,
    masks are chosen when the trainer is made, and "gmp", which changes the number of values during training, is an
    error.

    Args:
        loss: of the model and a batch, what the score differentiates; by default ``model(**batch)``'s own loss.
        options: of :class:`fbconv.integrations.plan.Plan`.

    Raises:
        ImportError: without transformers. TypeError, ValueError: options that do not exist or are out of range.

    Example: ::

        callback = SparseTraining(score="snip", sparsity=0.9, exclude=["classifier"])
        trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback])
        trainer.train()
        fbconv.save(model, "model.fbc")
    """

    def __init__(self, loss: Loss | None = None, **options: Any) -> None:
        if TrainerCallback is None:
            raise ImportError("SparseTraining: needs transformers, which is not installed: pip install "
                              "fbconv[transformers]")  # fmt: skip
        self.plan, self.loss = Plan(**options), loss or _own_loss
        self.training = MaskedTraining(self.plan)
        self._model: nn.Module | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: object) -> None:
        if model is not self._model:  # that another one has its masks says nothing about this one
            self.training, self._model = MaskedTraining(self.plan), model
        convert(model, self.plan)
        model.register_state_dict_post_hook(_without_sharing)
        if args.world_size > 1:
            self._check_for_several_processes()
            self.training.prune(model, self.plan.batches, self.loss, group=dist.group.WORLD)

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: nn.Module, optimizer: Any, train_dataloader: Any, **_: object
    ) -> None:
        if model is not self._model:
            raise ValueError("SparseTraining: the callback must be one of those that Trainer is made with, before its "
                             "optimizer; got one that was added later")  # fmt: skip
        if state.global_step == 0 and self.plan.prunes_first and not self.training.pruned:
            self.training.prune(model, self._batches(train_dataloader, model), self.loss, optimizer)
        self.training.pruned = True
        group = dist.group.WORLD if args.world_size > 1 else None
        self.training.begin(model, optimizer, state.max_steps, group)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.training.before_batch(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.training.before_step(state.global_step)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.training.after_step(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        self.training.close()

    def _batches(self, loader: object, model: nn.Module) -> list[object]:
        if isinstance(self.plan.batches, int):
            return first_batches(loader, self.plan.batches, model)
        return list(self.plan.batches)

    def _check_for_several_processes(self) -> None:
        plan = self.plan
        if plan.dynamic == "gmp":
            raise ValueError("SparseTraining: dynamic must not be gmp in several processes of a transformers.Trainer, "
                             "got 'gmp'")  # fmt: skip
        if plan.prunes_first and isinstance(plan.batches, int):
            raise ValueError("SparseTraining: batches must be given in several processes of a transformers.Trainer, "
                             f"got their number {plan.batches}")  # fmt: skip


def _own_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    output = model(**batch)
    return output["loss"] if isinstance(output, Mapping) else output[0]


def _without_sharing(module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
    """Safetensors refuses tensors that have several names, as filter bases of several layers do."""
    seen: set[int] = set()
    for name, tensor in state.items():
        if name.endswith(".basis.elements") and tensor.data_ptr() in seen:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
