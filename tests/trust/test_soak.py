"""A long life: calls whose shapes and masks always change, and models that come and go, in memory that stays flat."""

import gc
import multiprocessing
import os
import random
from pathlib import Path

import pytest
import torch
from torch import nn

import fbconv
from fbconv import SparsePattern, functional

MB = 1 << 20
# Of growth after the first half, when all that has a limit has reached it. Plans at rest may take 256 MB of the whole,
# and those that the last 1,024 calls looked for come on top.
MOST_GROWTH, MOST_PLANS = 64 * MB, 400 * MB
MOST_AFTER_MODELS = 900 * MB  # above what the process took before the first

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from /proc")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def call(rng: random.Random) -> None:
    """One forward and backward pass of a shape, a mask and a mode that were drawn."""
    kind = rng.choice(("sparse_conv2d", "frozen_conv2d", "fb_conv2d", "sparse_linear", "frozen_linear"))
    large = rng.random() < 0.003
    channels, outputs = ((rng.choice((64, 128, 256)) if large else rng.randint(1, 16)) for _ in range(2))
    kernel = 3 if large else rng.choice((1, 2, 3, 5))
    batch, size = rng.randint(1, 3), kernel + rng.randint(0, 7)
    linear = kind.endswith("linear")
    taps = () if linear else (kernel * kernel,) if kind == "fb_conv2d" else (kernel, kernel)
    mask = torch.rand(outputs, channels, *taps) < rng.choice((0.05, 0.2, 0.5))
    pattern = SparsePattern.from_mask(mask)
    input = torch.randn(batch, channels, *(() if linear else (size, size)), requires_grad=True)
    arguments = [torch.randn(pattern.nnz, requires_grad=True), pattern, torch.randn(outputs, requires_grad=True)]
    if kind == "fb_conv2d":
        arguments.insert(0, torch.randn(kernel * kernel, kernel, kernel, requires_grad=True))
    elif kind.startswith("frozen"):
        arguments.insert(0, torch.randn(mask.shape))
    geometry = {} if linear else {"stride": rng.choice((1, 2)), "padding": rng.choice((0, kernel // 2))}
    function = getattr(functional, kind)
    options = {"backend": rng.choice(("sparse", "auto", "dense"))} | geometry
    function(input, *arguments, **options).square().sum().backward()
    with torch.no_grad():
        function(input, *arguments, **options)


def network() -> nn.Sequential:
    """Two million weights."""
    layers = []
    for channels, outputs in ((3, 64), (64, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))


def live(number: int) -> None:
    """A model of other masks is made, trained on two sizes of batches, used, and forgotten."""
    model = network()
    weights = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    density = (0.02, 0.1, 0.3)[number % 3]
    model = fbconv.sparsify(model, {name: torch.rand_like(weight) < density for name, weight in weights.items()})
    for layer in model.modules():
        if hasattr(layer, "backend"):
            layer.backend = "sparse"
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    for batch in (4, 8 + number % 4):
        optimizer.zero_grad()
        model(torch.randn(batch, 3, 32, 32)).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))


def measured(body: str, count: int, samples: int, sender) -> None:
    """Resident memory and bytes of plans, at the start and after each of so many parts."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng, found = random.Random(0), [(resident(), fbconv._C.plan_bytes())]
    for number in range(count):
        call(rng) if body == "call" else live(number)
        if (number + 1) % (count // samples) == 0:
            gc.collect()
            found.append((resident(), fbconv._C.plan_bytes()))
    sender.send(found)


def of_process(*arguments) -> list[tuple[int, int]]:
    context = multiprocessing.get_context("spawn")  # its memory is its own
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(*arguments, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def test_memory_is_flat_over_calls_that_always_change(cases, tried):
    count = cases(1000, 100_000)
    found = of_process("call", count, 10)
    print([(memory // MB, plans // MB) for memory, plans in found])
    assert max(memory for memory, _ in found[6:]) - found[5][0] <= MOST_GROWTH, found
    assert max(plans for _, plans in found) <= MOST_PLANS, found
    tried("forward and backward calls in flat memory", count)


def test_memory_is_flat_over_models_that_come_and_go(cases, tried):
    count = cases(5, 200)
    found = of_process("live", count, cases(5, 10))
    print([(memory // MB, plans // MB) for memory, plans in found])
    assert found[-1][0] - found[0][0] <= MOST_AFTER_MODELS, found
    if cases(False, True):
        assert max(memory for memory, _ in found[6:]) - found[5][0] <= MOST_GROWTH, found
    assert max(plans for _, plans in found) <= MOST_PLANS, found
    tried("models made, trained and forgotten", count)
