"""What makes a run repeatable: its configuration, its random streams, its environment and its files."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _C
from ._files.torch_files import load_torch
from ._version import __version__
from .data import DATA_SETS
from .densities import DISTRIBUTIONS
from .initialisation import INITS
from .models import MODELS
from .schedules import COMBINATIONS
from .scores import SCORES, is_score

SPACES = ("spatial", "interspace")
MODES = ("dense", "prune", "freeze")
BACKENDS = ("auto", "sparse", "dense")
META = "meta"  # the name of the score in Config.meta
DYNAMICS = ("none", "set", "rigl", "gmp", "lth", "ft")


@dataclass(frozen=True)
class Config:
    """Everything that decides how a run ends.

    The options are orthogonal: any model, on any data, in either space, dense, pruned or frozen by any score.

    Attributes:
        data, data_dir: see :func:`fbconv.data.load`.
        model: see :func:`fbconv.models.build`.
        space: ``"spatial"``, or ``"interspace"`` for trained filter bases, shared as ``sharing`` says.
        sharing: ``"coarse"``, ``"medium"``, ``"fine"``, ``"in:N"`` or ``"out:N"``.
        mode: ``"dense"`` trains all weights; ``"prune"`` and ``"freeze"`` train the best-scored ones only, the others
            being zero or staying as they were initialised.
        score: see :func:`fbconv.score`, stacks too; one training batch. Unused when dense.
        meta: file of a learned score (:mod:`fbconv.scores.learned`), which is then ``"meta"``, in stacks too; or None.
        control, alpha, combine: a second score or None, the balance of the two, and whether ``"cops"`` or the naive
            ``"linear"`` mix makes one mask of them (:func:`fbconv.prune_masks`).
        rounds: of scoring and pruning before training (:func:`fbconv.prune_masks`).
        shots: rounds of scoring at each pruning step of ``"lth"``; more than one is iterative multi-shot.
        distribution: density of the layers, ``"uniform"``, ``"er"`` or ``"erk"``, which are then ranked on their own;
            None ranks all together.
        sparsity: share of weights that are not trained. In the interspace the bases' entries are paid from the same
            budget. Unused when dense.
        epochs, batch_size: length of training and images per step.
        patience: epochs without a better validation accuracy after which a training ends; 0 trains all epochs.
        lr: first learning rate; None takes the model's own (.1, and .03 for ``lenet5``, which diverges above).
        dynamic: ``"none"`` keeps the masks of the score; ``"set"`` and ``"rigl"`` regrow them, every ``interval`` steps
            up to three quarters of the training (:class:`fbconv.dynamic.RegrowingMasks`); ``"gmp"`` begins dense and
            prunes by magnitude until then (:class:`fbconv.dynamic.GradualPruning`); ``"ft"`` trains dense, then scores,
            and trains on with the whole schedule; ``"lth"`` finds a lottery ticket in ``rounds`` trainings from step
            ``rewind`` on (:func:`fbconv.iterative_masks`).
        interval, drop_fraction, rewind: of these.
        init: distribution of the weights (:class:`fbconv.initialisation.Draw`); None takes the model's own.
        weights_from: a score whose values, times the weights' signs, the network starts from
            (:func:`fbconv.scores.weights_from_scores`), or None.
        reinit: draw other weights from the same distribution once the mask is found. Unused when dense.
        frozen_decay: weight decay of frozen weights (:func:`fbconv.decay_frozen`); those that have vanished at the end
            are pruned. Only with ``"freeze"``.
        seed: of the weights, the split, the scoring batch and the data's order.
        device: ``"auto"`` is CUDA where there is one.
        backend: of the compressed modules.

    Raises:
        ValueError: naming the field, what it may be and what it is.

    Example:
        >>> Config(mode="freeze", sparsity=0.99).lr
        0.03
    """

    data: str = "digits"
    data_dir: str = "data"
    model: str = "lenet5"
    space: str = "spatial"
    sharing: str = "coarse"
    mode: str = "prune"
    score: str = "snip"
    meta: str | None = None
    control: str | None = None
    alpha: float = 0.5
    combine: str = "cops"
    rounds: int = 1
    shots: int = 1
    distribution: str | None = None
    sparsity: float = 0.9
    dynamic: str = "none"
    interval: int = 100
    drop_fraction: float = 0.3
    rewind: int = 500
    init: str | None = None
    weights_from: str | None = None
    reinit: bool = False
    frozen_decay: float = 0.0
    epochs: int = 30
    patience: int = 0
    batch_size: int = 100
    lr: float | None = None
    seed: int = 0
    device: str = "auto"
    backend: str = "auto"

    def __post_init__(self) -> None:
        choices = {
            "data": DATA_SETS,
            "model": MODELS,
            "space": SPACES,
            "mode": MODES,
            "combine": COMBINATIONS,
            "dynamic": DYNAMICS,
            "backend": BACKENDS,
        }
        choices |= {} if self.init is None else {"init": INITS}
        choices |= {} if self.distribution is None else {"distribution": DISTRIBUTIONS}
        for name, known in choices.items():
            self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")
        learned = () if self.meta is None else (META,)
        known = f"one of {', '.join(SCORES)}, meta (with the file of a learned score), or a stack like snip/magnitude"
        for name in ("score", "control", "weights_from"):
            absent = getattr(self, name) is None and name != "score"
            self._require(name, absent or is_score(getattr(self, name), learned), known)
        sharing = re.fullmatch(r"coarse|medium|fine|(in|out):[1-9]\d*", self.sharing) is not None
        self._require("sharing", sharing, "coarse, medium, fine, in:N or out:N")
        self._require("alpha", 0 <= self.alpha < 1, "in [0, 1)")
        self._require("sparsity", 0 <= self.sparsity <= 1, "in [0, 1]")
        self._require("dynamic", self.dynamic == "none" or self.mode != "dense", "none with mode dense")
        self._require("drop_fraction", 0 < self.drop_fraction <= 1, "in (0, 1]")
        for name in ("rewind", "patience"):
            self._require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("rounds", "shots", "epochs", "batch_size", "interval"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("frozen_decay", 0 <= self.frozen_decay < math.inf, "finite and not negative")
        self._require("frozen_decay", self.frozen_decay == 0 or self.mode == "freeze", "0 unless mode is freeze")
        self._require("seed", 0 <= self.seed < 2**32, "in [0, 2^32)")
        if self.lr is None:
            object.__setattr__(self, "lr", MODELS[self.model].lr)
        self._require("lr", 0 < self.lr < math.inf, "positive and finite")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ValueError(f"config: {name} must be {expected}, got {getattr(self, name)!r}")

    def differences(self, other: dict[str, object]) -> str:
        """What differs from a stored configuration, as ``field ours (theirs there)``; empty if nothing does. Where the
        data lies decides nothing."""
        ours = dataclasses.asdict(self)
        names = [name for name in {**ours, **other} if name != "data_dir" and ours.get(name) != other.get(name)]
        return ", ".join(f"{name} {ours.get(name)!r} ({other.get(name)!r} there)" for name in names)


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for each purpose, so that drawing more for one never moves another.

    Example:
        >>> int(torch.randint(100, (), generator=stream(0, "init"))) == int(
        ...     torch.randint(100, (), generator=stream(0, "init"))
        ... )
        True
    """
    return torch.Generator().manual_seed(int.from_bytes(_digest(seed, purpose)[:8], "big") >> 1)


def seed32(seed: int, purpose: str) -> int:
    """A seed of 32 bits for each purpose, for what is drawn by :func:`fbconv.initialise`."""
    return int.from_bytes(_digest(seed, purpose)[:4], "big")


def _digest(seed: int, purpose: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}".encode()).digest()


def choose_device(name: str) -> torch.device:
    """The device that an option names; ``auto`` is CUDA where there is one.

    Raises:
        ValueError: for a device that torch does not know or this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be auto or a device of this machine, got {name!r}: {error}") from error
    return device


def environment() -> dict[str, object]:
    """Versions, machine, build, commit (None outside a repository) and command line of this process."""
    return {
        "fbconv": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "capability": _C.capability(),
        "build": _C.build_info(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cuda_device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(),
        "command": shlex.join(sys.argv),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    # An installed copy may lie inside a repository of something else, which does not track it.
    if not _git("ls-files", Path(__file__).name):
        return None
    return _git("describe", "--always", "--dirty", "--exclude=*", "--abbrev=40")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place at the end: readers never see half a file.

    Raises:
        OSError: naming ``path``, if it cannot be written; an older file is still there then.

    Example:
        >>> with replacing(Path("notes.txt")) as temporary:  # doctest: +SKIP
        ...     temporary.write_text("whole or not at all")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written has none
            temporary.unlink()


def clear_leftovers(*paths: Path) -> None:
    """Removes what killed processes had begun to write in the places of files that this one alone writes."""
    for path in paths:
        for leftover in path.parent.glob(f".{path.name}.*"):
            if leftover.suffix[1:].isdecimal():
                leftover.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically; NaN and infinity, which JSON lacks, are a ValueError."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text)


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Write a checkpoint atomically."""
    content = io.BytesIO()  # torch's own writer would call a full disk an unexpected position
    torch.save(state, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


_CHECKPOINT_PARTS = {"config", "model", "optimizer", "history", "best", "seconds", "training_seconds"}


def load_checkpoint(path: Path, config: Config) -> dict[str, object] | None:
    """The checkpoint at ``path``, its tensors on the CPU, or None if there is none; runs no code from the file.

    Raises:
        ValueError: if the file is no checkpoint, or belongs to a run with another configuration (naming what differs).
    """
    if not path.exists():
        return None
    try:
        state = load_torch(path)
        stored = state["config"]
        missing = sorted(_CHECKPOINT_PARTS - state.keys())
        if missing:
            raise KeyError(missing[0])
    except Exception as error:  # whatever a broken file makes torch raise
        raise ValueError(f"{path}: not a checkpoint of a run: {error!r}") from error
    differences = config.differences(stored)
    if differences:
        raise ValueError(f"{path.parent} holds a run with another configuration: {differences}; choose another folder")
    return state
