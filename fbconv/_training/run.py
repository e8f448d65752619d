"""Training epoch by epoch, with checkpoints."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..convert import prunable
from ..data import DataSet, Split
from ..decay import parameter_groups
from ..dynamic import GradualPruning, RegrowingMasks, dense_gradients
from ..dynamic.changing import layers_by_values
from ..experiment import Config, clear_leftovers, load_checkpoint, save_checkpoint, seed32, stream
from ..freezing import decay_frozen, frozen_layers
from .model import bases_of

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CHECKPOINT = "last.ckpt"
NORMS = ("gradient_norm", "basis_gradient_norm")  # in a history; the second with filter bases only
MASKS_UNTIL = 0.75  # of all steps, where masks change
_EVALUATION_BATCH = 500

# (steps done, steps in all, the last finished epoch's figures)
Progress = Callable[[int, int, dict[str, float] | None], None]
Log = Callable[[dict[str, float]], None]  # of a finished epoch's figures


def make_optimizer(model: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD with momentum .9; weight decay 5e-4 on weights and values, none on biases, normalisation and bases."""
    return torch.optim.SGD(parameter_groups(model, WEIGHT_DECAY), lr=lr, momentum=MOMENTUM)


def gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of the last gradient of all trained weights together; biases, normalisation and bases do not count."""
    return _norm([model.get_parameter(name).grad for name in prunable(model)])


def basis_gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of the last gradient of all filter bases together; the model must have some."""
    return _norm([elements.grad for elements in bases_of(model)])


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]))


def learning_rate(config: Config, epoch: int) -> float:
    """The rate of an epoch (counted from 0): a tenth after half of the epochs, a hundredth after three quarters.

    Example:
        >>> [learning_rate(Config(model="lenet300", epochs=4), epoch) for epoch in range(4)]
        [0.1, 0.1, 0.01, 0.001]
    """
    drops = (2 * epoch >= config.epochs) + (4 * epoch >= 3 * config.epochs)
    return config.lr / 10**drops


def evaluate(model: nn.Module, data: DataSet, split: Split) -> tuple[float, float]:
    """Mean cross entropy and accuracy (both over the whole split), in evaluation mode."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        for images, labels in zip(
            split.images.split(_EVALUATION_BATCH), split.labels.split(_EVALUATION_BATCH), strict=True
        ):
            outputs = model(data.normalise(images))
            loss += F.cross_entropy(outputs, labels, reduction="sum").item()
            correct += int((outputs.argmax(1) == labels).sum())
    return loss / len(split), correct / len(split)


def changing_masks(
    config: Config, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, sparsity: float
) -> RegrowingMasks | GradualPruning | None:
    """What changes the masks of a training of so many steps; gradual pruning ends at ``sparsity``."""
    until = max(1, int(MASKS_UNTIL * steps))
    if config.dynamic in ("set", "rigl"):
        return RegrowingMasks(model, optimizer, config.interval, until, config.drop_fraction)
    if config.dynamic == "gmp":
        return GradualPruning(model, optimizer, sparsity, 0, until, config.interval)
    return None


@dataclasses.dataclass
class Run:
    """A training under way: all that a checkpoint has to hold. The data's order follows from the seed and the epoch.

    Attributes:
        start: step (counted over all epochs) of the first batch that is trained on.
        sparsity: of the prunable tensors, where masks change during training.
        before: steps of the trainings before this one, and of all of them, for the progress.
        seconds: wall time so far, of the trainings before too.
    """

    config: Config
    data: DataSet
    model: nn.Module
    start: int = 0
    sparsity: float = 0.0
    before: tuple[int, int] | None = None
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, object] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._equip()

    def _equip(self) -> None:
        """The optimizer and what changes masks, for the parameters that the model has now."""
        self.optimizer = make_optimizer(self.model, self.config.lr)
        if self.config.frozen_decay and frozen_layers(self.model):
            decay_frozen(self.model, self.optimizer, self.config.frozen_decay)
        self.masks = changing_masks(self.config, self.model, self.optimizer, self.steps, self.sparsity)

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.data.train) // self.config.batch_size)

    @property
    def steps(self) -> int:
        """Of a whole training."""
        return self.config.epochs * self.steps_per_epoch

    @property
    def steps_done(self) -> int:
        """Of this training."""
        return self.next_epoch * self.steps_per_epoch - self.start

    @property
    def next_epoch(self) -> int:
        """Counted from 0."""
        return self.start // self.steps_per_epoch + len(self.history)

    def resume(self, folder: Path) -> Run:
        """This run, or what a checkpoint in the folder holds of it."""
        clear_leftovers(folder / CHECKPOINT)
        checkpoint = load_checkpoint(folder / CHECKPOINT, self.config)
        if checkpoint is not None:
            self.restore(checkpoint)
        return self

    def fit(self, folder: Path, progress: Progress | None, log: Log | None = None) -> Run:
        """This run, trained to the end with a checkpoint in the folder after every epoch."""
        started = time.perf_counter() - self.seconds
        while self.next_epoch < self.config.epochs and not self.stalled:
            self.epoch(progress)
            self.seconds = time.perf_counter() - started
            save_checkpoint(folder / CHECKPOINT, self.state())
            if log is not None:
                log(self.history[-1])
        return self

    @property
    def stalled(self) -> bool:
        """Whether the last ``patience`` epochs have brought nothing better."""
        patience = self.config.patience
        return bool(patience and self.best) and self.history[-1]["epoch"] - self.best["epoch"] >= patience

    def warm_up(self, steps: int) -> None:
        """Train the first steps only, and measure nothing."""
        for epoch in range(-(-steps // self.steps_per_epoch)):
            self._train(epoch, None, steps)

    def epoch(self, progress: Progress | None) -> None:
        """Train for one epoch, measure, and remember the weights if they are the best so far."""
        number = self.next_epoch
        loss, accuracy, *norms = self._train(number, progress, self.steps)
        validation_loss, validation_accuracy = evaluate(self.model, self.data, self.data.validation)
        if not math.isfinite(loss + validation_loss):
            raise RuntimeError(
                f"train: the loss is no longer finite in epoch {number + 1}; lower lr ({self.config.lr})"
            )
        self.history.append(
            {
                "epoch": number + 1,
                "lr": learning_rate(self.config, number),
                "train_loss": loss,
                "train_accuracy": accuracy,
                **dict(zip(NORMS, norms, strict=False)),
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
            }
        )
        if self._is_sparse() and (not self.best or _quality(self.history[-1]) > _quality(self.best_entry)):
            weights = {name: value.clone() for name, value in changing_state(self.model).items()}
            self.best = {"epoch": number + 1, "model": weights}

    @property
    def best_entry(self) -> dict[str, float]:
        """The best epoch's line in the history."""
        return next(entry for entry in self.history if entry["epoch"] == self.best["epoch"])

    def _is_sparse(self) -> bool:
        """Whether gradual pruning has come to its end: earlier models keep more weights than was asked for."""
        return not isinstance(self.masks, GradualPruning) or self.next_epoch * self.steps_per_epoch > self.masks.end

    def _train(self, number: int, progress: Progress | None, end: int) -> list[float]:
        """One epoch, or its part between the steps ``start`` and ``end``: mean loss, accuracy and gradient norms."""
        started = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, number)
        self.model.train()
        sums = torch.zeros(4 if bases_of(self.model) else 3, dtype=torch.float64, device=self.data.mean.device)
        steps, images = 0, 0
        generator = stream(self.config.seed, f"epoch {number}")
        batches = self.data.training_batches(self.config.batch_size, generator)
        for step, (inputs, labels) in enumerate(batches, start=number * self.steps_per_epoch):
            if not self.start <= step < end:
                continue
            sums += self._step(step, inputs, labels)
            steps, images = steps + 1, images + len(labels)
            if progress:
                offset, total = self.before or (-self.start, self.steps - self.start)
                progress(offset + step + 1, total, self.history[-1] if self.history else None)
        self.training_seconds += time.perf_counter() - started
        loss, correct, *norms = sums.tolist()
        return [loss / images, correct / images, *(norm / steps for norm in norms)]

    def _step(self, step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        """One step of training: summed loss, correct ones, and norms of the gradient."""
        due = self.masks is not None and self.masks.due(step)
        self.optimizer.zero_grad()
        if due and self.config.dynamic == "rigl":
            return self._regrow_by_gradient(step, inputs, labels)
        outputs = self.model(inputs)
        loss = F.cross_entropy(outputs, labels)
        loss.backward()
        norm = gradient_norm(self.model)
        self.optimizer.step()
        if due:
            if isinstance(self.masks, RegrowingMasks):
                self.masks.generator.manual_seed(seed32(self.config.seed, f"regrow {step}"))
            self.masks.update(step)
        return self._sums(outputs, labels, loss, norm)

    def _regrow_by_gradient(self, step: int, inputs: Tensor, labels: Tensor) -> Tensor:
        """RigL's update stands in the place of the optimizer's step."""
        with dense_gradients(self.model) as weights:
            outputs = self.model(inputs)
            loss = F.cross_entropy(outputs, labels)
            loss.backward()
        gradients = {name: weight.grad for name, weight in weights.items()}
        layers = layers_by_values(self.model)
        kept = [layers[name].pattern.gather(gradient) for name, gradient in gradients.items()]
        self.masks.update(step, gradients)
        return self._sums(outputs, labels, loss, _norm(kept))

    def _sums(self, outputs: Tensor, labels: Tensor, loss: Tensor, norm: Tensor) -> Tensor:
        correct = (outputs.argmax(1) == labels).sum()
        norms = [norm, basis_gradient_norm(self.model)] if bases_of(self.model) else [norm]
        return torch.stack([loss.detach().double() * len(labels), correct.double(), *(n.double() for n in norms)])

    def state(self) -> dict[str, object]:
        """What :meth:`restore` needs to go on as if nothing had happened."""
        return {
            "config": dataclasses.asdict(self.config),
            "model": changing_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continue from a checkpoint."""
        load_changing_state(self.model, state["model"])
        self._equip()  # other masks have other parameters
        load_changing_state(self.model, state["model"])  # with the decay that frozen weights have got by now
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("history", "best", "seconds", "training_seconds"):
            setattr(self, name, state[name])


def _quality(entry: dict[str, float]) -> tuple[float, float]:
    return entry["validation_accuracy"], -entry["validation_loss"]


def changing_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without its frozen weights, which are there again before a checkpoint is loaded."""
    frozen = {f"{name}.frozen" for name in frozen_layers(model)}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_changing_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Loads what :func:`changing_state` has left of a state."""
    frozen = {f"{name}.frozen": layer.frozen for name, layer in frozen_layers(model).items()}
    model.load_state_dict({**state, **frozen})
