"""Why a layer runs as it does: what ``backend="auto"`` chose, what it expected, and what the clock says."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._plans import recorded_decisions
from .layer_calls import LayerCall, calls_of
from .nn.compressed import Compressed, compressed_layers


@dataclass(frozen=True)
class Explanation:
    """One layer's plan.

    Attributes:
        name: of the layer in the model; empty for the model itself.
        backend: what "auto" takes for this input.
        expected: backend -> seconds the planner expects on one core; empty where there is nothing to choose.
        measured: backend -> median seconds on this machine, with torch's current number of threads.
    """

    name: str
    backend: str
    expected: dict[str, float]
    measured: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{self.name or 'layer'}: {self.backend}"]
        for backend, seconds in self.expected.items():
            chosen = "  <- chosen" if backend == self.backend else ""
            measured = f"{self.measured[backend] * 1e3:10.3f} ms measured" if backend in self.measured else ""
            lines.append(f"  {backend:12} {seconds * 1e3:10.3f} ms expected {measured}{chosen}")
        return "\n".join(lines)


def explain(
    module: nn.Module, input_shape: Sequence[int], *, training: bool = False, rounds: int = 15
) -> list[Explanation]:
    """Prints, for every compressed layer, the algorithm that "auto" chooses and its expected and measured times.

    Args:
        module: a compressed layer, or a model with some whose ``backend`` is "auto".
        input_shape: of the model's one float input, batch included.
        training: explain a whole training step (forward and backward) instead of a forward call.
        rounds: how often each backend is timed, interleaved; medians count.

    Returns:
        One explanation for each call of a compressed layer, in the order of the calls. The model is left as it was.

    Raises:
        ValueError: a model without a compressed layer on "auto", or fewer than one round.

    Example:
        >>> layer = fbconv.nn.SparseConv2d(8, 8, 3, padding=1, mask=torch.rand(8, 8, 3, 3) < 0.1)
        >>> explanation, = fbconv.explain(layer, (1, 8, 16, 16))  # doctest: +ELLIPSIS
        layer: ...
        >>> sorted(explanation.expected)
        ['dense', 'sparse']
    """
    if rounds < 1:
        raise ValueError(f"explain: rounds must be 1 or more, got {rounds}")
    explanations = [_explain(call, training, rounds) for call in _calls(module, input_shape)]
    if not explanations:
        raise ValueError('explain: module must have a compressed layer with backend "auto", got none')
    for explanation in explanations:
        print(explanation)
    return explanations


def _calls(module: nn.Module, input_shape: Sequence[int]) -> list[LayerCall]:
    """The compressed layers on "auto" that a forward call meets."""
    automatic = {name: layer for name, layer in compressed_layers(module).items() if layer.backend == "auto"}
    first = next(module.parameters(), torch.empty(0))
    input = torch.zeros(tuple(input_shape), dtype=first.dtype, device=first.device)
    return calls_of(module, automatic, lambda: module(input))


def _explain(call: LayerCall, training: bool, rounds: int) -> Explanation:
    name, layer, input = call.name, call.layer, call.input
    run = _step if training else _forward
    with recorded_decisions() as decisions:
        run(layer, input)
    if not decisions:
        return Explanation(name, layer.backend, {}, {})
    decision = decisions[0]
    times: dict[str, list[float]] = {backend: [] for backend in decision.costs}
    try:
        for _ in range(rounds):
            for backend in times:
                layer.backend = backend
                times[backend].append(_seconds(lambda: run(layer, input)))
    finally:
        layer.backend = "auto"
    measured = {backend: statistics.median(seconds) for backend, seconds in times.items()}
    return Explanation(name, decision.backend, dict(decision.costs), measured)


def _forward(layer: Compressed, input: Tensor) -> None:
    with torch.no_grad():
        layer(input)


def _step(layer: Compressed, input: Tensor) -> None:
    with torch.enable_grad():
        output = layer(input.clone().requires_grad_())
        trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        torch.autograd.grad(output.sum(), trained, allow_unused=True)


def _seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
