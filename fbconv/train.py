"""The training run: a model, made dense, pruned or frozen in either space, trained and measured."""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import save
from .convert import freeze, initialise, interspace, prunable, sparsify
from .data import DataSet, Split, load
from .experiment import (
    Config,
    choose_device,
    environment,
    load_checkpoint,
    save_checkpoint,
    seed32,
    stream,
    write_json,
)
from .freezing import decay_frozen, finish, frozen_layers, remaining
from .masks import LayerCollapseWarning
from .models import MODELS, build
from .nn import FilterBasis
from .plots import plot_curves, require_matplotlib
from .schedules import prune_masks

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
CHECKPOINT = "last.ckpt"
RESULT = "result.json"
MODEL = "model.fbc"
VANISHED = 1e-3  # of their initial size: frozen weights that may be pruned
_EVALUATION_BATCH = 500

# (steps done, steps in all, the last finished epoch's figures)
Progress = Callable[[int, int, dict[str, float] | None], None]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model ready to train, and what it is to be compared with.

    Attributes:
        model: dense, pruned or frozen, in either space.
        weights: number of weights of the plain dense network (D).
        parameters: number of all its parameters.
    """

    model: nn.Module
    weights: int
    parameters: int

    @property
    def trained_weights(self) -> int:
        """Trained weights or coefficients, and all entries of filter bases."""
        model = self.model
        return sum(model.get_parameter(name).numel() for name in prunable(model)) + _basis_entries(model)

    @property
    def sparsity(self) -> float:
        """``1 - trained_weights / weights``: q, and in the interspace q_IP, which is negative when dense."""
        return 1 - self.trained_weights / self.weights

    @property
    def real_sparsity(self) -> float:
        """The same over all parameters: biases and normalisation, which are always trained, included."""
        return 1 - sum(parameter.numel() for parameter in self.model.parameters()) / self.parameters


def prepare(config: Config, data: DataSet) -> Prepared:
    """Build the model that ``config`` describes: network, then space, then mask, then perhaps other weights.

    Raises:
        ValueError: if the filter bases alone have more entries than the sparsity leaves, or the model has nothing to
            put into the interspace.

    Example:
        >>> config = Config(mode="freeze", sparsity=0.99)
        >>> prepare(config, load("digits")).trained_weights
        4305
    """
    device = data.train.images.device
    init = config.init or MODELS[config.model].init
    _, channels, size, _ = data.train.images.shape
    model = build(
        config.model,
        in_channels=channels,
        image_size=size,
        num_classes=data.num_classes,
        init=init,
        seed=config.seed,
    ).to(device)
    weights = sum(shape.numel() for shape in prunable(model).values())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if config.space == "interspace":
        model = interspace(model, sharing=config.sharing, generator=stream(config.seed, "bases"))
        if not _basis_entries(model):
            raise ValueError(f"train: space interspace needs a convolution larger than 1x1, {config.model} has none")
    if config.mode != "dense":
        masks = _masks(config, model, data, weights)
        model = sparsify(model, masks) if config.mode == "prune" else freeze(model, masks, config.seed, init)
        if config.reinit:
            model = initialise(model, init, seed32(config.seed, "reinit"), inplace=True)
    for module in model.modules():
        if hasattr(module, "backend"):
            module.backend = config.backend
    # What is dense trains faster so, on CPU and CUDA; compressed weights have no memory format.
    return Prepared(model.to(memory_format=torch.channels_last), weights, parameters)


def _masks(config: Config, model: nn.Module, data: DataSet, weights: int) -> dict[str, Tensor]:
    generator = stream(config.seed, "score")
    batch = next(data.training_batches(config.batch_size, generator))
    candidates = sum(shape.numel() for shape in prunable(model).values())
    # Bases are paid from the same budget, so that both spaces compare at equal memory.
    budget = (1 - config.sparsity) * weights - _basis_entries(model)
    if budget < 0:
        raise ValueError(
            f"train: sparsity must leave room for the {_basis_entries(model)} entries of the filter bases, "
            f"got {config.sparsity} of {weights} weights"
        )
    with warnings.catch_warnings():
        if config.mode == "freeze":  # a layer without a trained weight still passes signals on
            warnings.simplefilter("ignore", LayerCollapseWarning)
        return prune_masks(
            model,
            config.score,
            1 - budget / candidates,
            config.rounds,
            batches=[batch],
            generator=generator,
            control=config.control,
            alpha=config.alpha,
            combine=config.combine,
        )


def _bases(model: nn.Module) -> list[nn.Parameter]:
    return [module.elements for module in model.modules() if isinstance(module, FilterBasis)]


def _basis_entries(model: nn.Module) -> int:
    return sum(elements.numel() for elements in _bases(model))


def make_optimizer(model: nn.Module, lr: float) -> torch.optim.SGD:
    """SGD with momentum .9; weight decay 5e-4 on weights and values, none on biases, normalisation and bases."""
    decayed = [model.get_parameter(name) for name in prunable(model)]
    others = {id(p) for p in model.parameters()} - {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if id(p) in others], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM)


def gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of the last gradient of all trained weights together; biases, normalisation and bases do not count."""
    return _gradient_norm([model.get_parameter(name) for name in prunable(model)])


def basis_gradient_norm(model: nn.Module) -> Tensor:
    """L2 norm of the last gradient of all filter bases together; the model must have some."""
    return _gradient_norm(_bases(model))


def _gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    norms = [torch.linalg.vector_norm(parameter.grad) for parameter in parameters]
    return torch.linalg.vector_norm(torch.stack(norms))


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


def train(config: Config, out: str | Path, progress: Progress | None = None) -> dict[str, object]:
    """Train as ``config`` says and report the best validation epoch on the test set.

    SGD with momentum .9, cross entropy, weight decay 5e-4 on weights and values only (not on biases, normalisation
    and filter bases). Learning rate: ``lr`` for the first half of the epochs, a tenth of it up to three quarters, a
    hundredth after that. The best epoch has the highest validation accuracy and, among equals, the lowest validation
    loss. ``out/last.ckpt`` is written after every epoch: the same call takes up a killed run there and, on the same
    machine, ends bit-identical to one that was not killed.

    Args:
        config: what to train, on what.
        out: folder for ``result.json``, ``curves.png``, ``model.fbc`` (the best weights, for :func:`fbconv.load`),
            ``last.ckpt`` (the latest and the best ones) and TensorBoard events; made if need be.
        progress: called after every step with the steps done, the steps in all, and the last epoch's figures.

    Returns:
        what ``result.json`` holds; accuracies and sparsities as fractions, ``seconds`` of wall time over all sittings,
        ``steps_per_second`` of the training steps alone. ``frozen_size`` is how large frozen weights still are at the
        best epoch, as a share of their initial size: where it is small enough for them to have vanished, the tested
        model is the pruned one. ``file_bytes`` is the size of ``model.fbc``. The history's ``gradient_norm`` is the
        mean of :func:`gradient_norm` over an epoch; in the interspace there is ``basis_gradient_norm`` too.

    Raises:
        ValueError: if ``out`` holds a run of another configuration, or the configuration cannot be met.
        FileNotFoundError: if the data set's files are missing.
        RuntimeError: if the loss is no longer finite.
        ModuleNotFoundError: without matplotlib or TensorBoard.

    Source:
        setups of Wimmer et al., with a schedule that scales to any number of epochs.

    Example:
        >>> train(Config(epochs=2), "runs/short")["best_epoch"]  # doctest: +SKIP
        2
    """
    require_matplotlib()  # now rather than after an hour of training
    started = time.perf_counter()
    out = Path(out)
    checkpoint = load_checkpoint(out / CHECKPOINT, config)
    data = load(config.data, config.data_dir, config.seed).to(choose_device(config.device))
    prepared = prepare(config, data)
    optimizer = make_optimizer(prepared.model, config.lr)
    if config.frozen_decay:
        decay_frozen(prepared.model, optimizer, config.frozen_decay)
    run = _Run(config, data, prepared.model, optimizer)
    if checkpoint is not None:
        run.restore(checkpoint)
    started -= run.seconds
    with _event_writer(out, first_epoch=len(run.history)) as events:
        while len(run.history) < config.epochs:
            run.epoch(progress)
            run.seconds = time.perf_counter() - started
            save_checkpoint(out / CHECKPOINT, run.state())
            _write_events(events, run.history[-1])
    model, frozen_size = _finished(run)
    result = _report(run, prepared, model) | {"frozen_size": frozen_size, "file_bytes": save(model, out / MODEL)}
    result["seconds"] = time.perf_counter() - started
    plot_curves(result, out / "curves.png")
    write_json(out / RESULT, result)
    return result


@dataclasses.dataclass
class _Run:
    """A run under way: all that a checkpoint has to hold. The data's order follows from the seed and the epoch."""

    config: Config
    data: DataSet
    model: nn.Module
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, object] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    training_seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.data.train) // self.config.batch_size)

    def epoch(self, progress: Progress | None) -> None:
        """Train for one epoch, measure, and remember the weights if they are the best so far."""
        number = len(self.history)
        rate = learning_rate(self.config, number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss, accuracy, norms = self._train(number, progress)
        validation_loss, validation_accuracy = evaluate(self.model, self.data, self.data.validation)
        if not math.isfinite(loss + validation_loss):
            raise RuntimeError(
                f"train: the loss is no longer finite in epoch {number + 1}; lower lr ({self.config.lr})"
            )
        self.history.append(
            {
                "epoch": number + 1,
                "lr": rate,
                "train_loss": loss,
                "train_accuracy": accuracy,
                **norms,
                "validation_loss": validation_loss,
                "validation_accuracy": validation_accuracy,
            }
        )
        if not self.best or _quality(self.history[-1]) > _quality(self.history[self.best["epoch"] - 1]):
            weights = {name: value.clone() for name, value in _changing_state(self.model).items()}
            self.best = {"epoch": number + 1, "model": weights}

    def _train(self, number: int, progress: Progress | None) -> tuple[float, float, dict[str, float]]:
        started = time.perf_counter()
        self.model.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.data.mean.device)
        correct, seen = torch.zeros_like(loss_sum), 0
        measures = {"gradient_norm": gradient_norm}
        if _bases(self.model):
            measures["basis_gradient_norm"] = basis_gradient_norm
        norms = {name: torch.zeros_like(loss_sum) for name in measures}
        generator = stream(self.config.seed, f"epoch {number}")
        for step, (images, labels) in enumerate(self.data.training_batches(self.config.batch_size, generator), start=1):
            outputs = self.model(images)
            loss = F.cross_entropy(outputs, labels)
            self.optimizer.zero_grad()
            loss.backward()
            for name, measure in measures.items():
                norms[name] += measure(self.model)
            self.optimizer.step()
            loss_sum += loss.detach() * len(labels)
            correct += (outputs.argmax(1) == labels).sum()
            seen += len(labels)
            if progress:
                done = number * self.steps_per_epoch + step
                progress(done, self.config.epochs * self.steps_per_epoch, self.history[-1] if self.history else None)
        mean_norms = {name: norm.item() / step for name, norm in norms.items()}
        means = loss_sum.item() / seen, correct.item() / seen, mean_norms
        self.training_seconds += time.perf_counter() - started
        return means

    def state(self) -> dict[str, object]:
        """What :meth:`restore` needs to go on as if nothing had happened."""
        return {
            "config": dataclasses.asdict(self.config),
            "model": _changing_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "best": self.best,
            "seconds": self.seconds,
            "training_seconds": self.training_seconds,
        }

    def restore(self, state: dict[str, object]) -> None:
        """Continue from a checkpoint."""
        _load_changing_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("history", "best", "seconds", "training_seconds"):
            setattr(self, name, state[name])


def _changing_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without its frozen weights, which the configuration gives again."""
    frozen = {f"{name}.frozen" for name in frozen_layers(model)}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _load_changing_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    frozen = {f"{name}.frozen": layer.frozen for name, layer in frozen_layers(model).items()}
    model.load_state_dict({**state, **frozen})


def _quality(entry: dict[str, float]) -> tuple[float, float]:
    return entry["validation_accuracy"], -entry["validation_loss"]


def _finished(run: _Run) -> tuple[nn.Module, float]:
    """The model of the best epoch, pruned where its frozen weights have vanished, and how large they are."""
    _load_changing_state(run.model, run.best["model"])
    frozen_size = max((remaining(layer) for layer in frozen_layers(run.model).values()), default=0.0)
    return finish(run.model, VANISHED) if 0 < frozen_size <= VANISHED else run.model, frozen_size


def _report(run: _Run, prepared: Prepared, model: nn.Module) -> dict[str, object]:
    _, test_accuracy = evaluate(model, run.data, run.data.test)
    steps = len(run.history) * run.steps_per_epoch
    return {
        "test_accuracy": test_accuracy,
        "test_images": len(run.data.test),
        "validation_accuracy": run.history[run.best["epoch"] - 1]["validation_accuracy"],
        "best_epoch": run.best["epoch"],
        "sparsity": prepared.sparsity,
        "real_sparsity": prepared.real_sparsity,
        "trained_weights": prepared.trained_weights,
        "weights": prepared.weights,
        "seconds": run.seconds,
        "steps_per_second": steps / run.training_seconds,
        "history": run.history,
        "config": dataclasses.asdict(run.config),
        "environment": environment(),
    }


def _event_writer(out: Path, first_epoch: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('training writes TensorBoard events: pip install "fbconv[train]"') from error
    # Epochs that a killed run had logged after its last checkpoint are hidden.
    return SummaryWriter(str(out), purge_step=first_epoch + 1)


def _write_events(events, entry: dict[str, float]) -> None:
    for name, value in entry.items():
        if name != "epoch":
            events.add_scalar(name.replace("_", "/"), value, entry["epoch"])
    events.flush()
