"""The same seed and as many threads give the same bits, in every mode of training, whatever interrupts."""

import os
import random

import pytest
import small_runs
import torch

from fbconv import SparsePattern, functional

# Relative, of the training loss with two threads and with one. Sums are cut where threads divide the work, which rounds
# otherwise; training then amplifies the difference from step to step, and a mask that hangs on it is another mask.
FIRST_EPOCH, ANY_EPOCH = 1e-3, 0.1
# Of what one call computes, relative to the sum of the magnitudes of what is added up.
OF_A_CALL = 4 * torch.finfo(torch.float32).eps

QUICK = [{"mode": "freeze", "space": "interspace"}, {"mode": "prune", "dynamic": "lth"}]


def chosen(cases):
    modes = small_runs.modes()
    return (QUICK * len(modes))[:cases] if cases < len(modes) else modes


def trained(options, folder, *, threads=1):
    """The outcomes of two runs in processes of their own, side by side."""
    processes = [small_runs.start(small_runs.run, options, folder / name, threads) for name in ("one", "other")]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], options
    return [small_runs.outcome(folder / name) for name in ("one", "other")]


def resumed(options, folder, kills):
    """The outcome of a run that has killed itself so many times."""
    for kill_at in kills:
        process = small_runs.start(small_runs.run, options, folder, 1, kill_at)
        process.join()
        assert process.exitcode == -9
    process = small_runs.start(small_runs.run, options, folder)
    process.join()
    assert process.exitcode == 0
    return small_runs.outcome(folder)


def losses(outcome):
    """The losses of all epochs of the first training that the run went through."""
    found = next(name for name in ("dense/last.ckpt", "round-1/last.ckpt", "last.ckpt") if name in outcome)
    return [entry["train_loss"] for entry in outcome[found]["history"]]


def test_the_same_seed_gives_the_same_bits_twice_and_after_resuming(tmp_path, cases, tried):
    modes = chosen(cases(2, 26))
    for number, options in enumerate(modes):
        folder = tmp_path / str(number)
        one, other = trained(options, folder)
        assert small_runs.same(one, other), options
        assert small_runs.same(one, resumed(options, folder / "resumed", kills=(8, 5))), options
    tried("training modes run three times, once through two kills", len(modes))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_two_threads_train_twice_the_same_and_almost_like_one(tmp_path, cases, tried):
    modes = chosen(cases(1, 26))
    for number, options in enumerate(modes):
        folder = tmp_path / str(number)
        one, other = trained(options, folder, threads=2)
        assert small_runs.same(one, other), options
        alone = losses(resumed(options, folder / "alone", kills=()))
        differences = [abs(two / single - 1) for two, single in zip(losses(one), alone, strict=True)]
        assert differences[0] <= FIRST_EPOCH, (options, differences)
        assert max(differences) <= ANY_EPOCH, (options, differences)
    tried("training modes on two threads", len(modes))


def test_the_seed_decides(tmp_path):
    options = {"mode": "prune", "space": "interspace"}
    outcomes = [resumed(options | {"seed": seed}, tmp_path / str(seed), kills=()) for seed in (0, 1)]
    assert outcomes[0]["model.fbc"] != outcomes[1]["model.fbc"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_calls_on_other_numbers_of_threads_round_otherwise_and_no_more(threads, cases, tried):
    rng, generator = random.Random(5), torch.Generator().manual_seed(5)
    count = cases(20, 400)
    for _ in range(count):
        batch, channels, outputs, size, kernel = (
            rng.randint(*ends) for ends in ((1, 5), (1, 40), (1, 40), (5, 20), (1, 3))
        )
        mask = torch.rand(outputs, channels, kernel, kernel, generator=generator) < rng.choice((0.05, 0.3, 0.8))
        pattern = SparsePattern.from_mask(mask)
        input = torch.randn(batch, channels, size, size, generator=generator)
        values = torch.randn(pattern.nnz, generator=generator)
        results = {}
        for number in (1, 2, 1, 2):
            threads(number)
            result = passes(input, values, pattern)
            assert small_runs.same(results.setdefault(number, result), result)
        most = passes(input.abs(), values.abs(), pattern)
        for one, two, magnitude in zip(results[1], results[2], most, strict=True):
            assert ((one - two).abs() <= OF_A_CALL * magnitude).all()
    tried("calls on one and two threads", count)


def passes(input, values, pattern):
    """Output and gradients for a gradient of ones."""
    learned = [input.clone().requires_grad_(), values.clone().requires_grad_()]
    output = functional.sparse_conv2d(*learned, pattern, backend="sparse")
    return [output.detach(), *torch.autograd.grad(output.sum(), learned)]
