"""Threads that call the operators at once, workers of data loaders that call them too, and Ctrl-C."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import small_runs
import torch
from torch.utils.data import DataLoader, Dataset

import fbconv
from fbconv import SparsePattern, functional

THREADS = 8
WAIT = 120  # seconds that nothing here takes unless it hangs
ENDED = (130, -2)  # by Ctrl-C: as the command says it, or, before it has begun, as Python does


def problem(seed, share=None):
    """Inputs, values and a pattern; with ``share``, the pattern of that seed."""
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed if share is None else share)
    channels, outputs, kernel = rng.randint(1, 24), rng.randint(1, 40), rng.choice((1, 3))
    pattern_generator = torch.Generator().manual_seed(seed if share is None else share)
    mask = torch.rand(outputs, channels, kernel, kernel, generator=pattern_generator) < 0.3
    pattern = SparsePattern.from_mask(mask)
    input = torch.randn(2, channels, 9, 9, generator=generator)
    return input, torch.randn(pattern.nnz, generator=generator), torch.randn(mask.shape, generator=generator), pattern


def passes(input, values, frozen, pattern):
    """Output and gradients, pruned and frozen, with gradients and without."""
    found = []
    for arguments in ((), (frozen,)):
        name = "frozen_conv2d" if arguments else "sparse_conv2d"
        learned = [input.clone().requires_grad_(), values.clone().requires_grad_()]
        output = getattr(functional, name)(learned[0], *arguments, learned[1], pattern, padding=1, backend="sparse")
        found += [output.detach(), *torch.autograd.grad(output.square().sum(), learned)]
        with torch.no_grad():
            found.append(getattr(functional, name)(input, *arguments, values, pattern, padding=1, backend="dense"))
    return found


@pytest.mark.parametrize("share", [None, 1], ids=["many patterns", "one pattern"])
def test_threads_compute_what_one_alone_does(share, cases, tried):
    count = cases(400, 4000)
    kinds = [(seed, share) for seed in range(100)]
    alone = {kind: passes(*problem(*kind)) for kind in kinds}
    start = threading.Barrier(THREADS)

    def work(number):
        rng = random.Random(number)
        start.wait()
        for _ in range(count // THREADS):
            kind = rng.choice(kinds)
            assert small_runs.same(passes(*problem(*kind)), alone[kind])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    tried("rounds of calls in 8 threads at once", count)


class Computed(Dataset):
    """Items that workers compute with the operators."""

    def __len__(self):
        return 24

    def __getitem__(self, number):
        return passes(*problem(number))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_data_loaders_compute_what_the_parent_does(one_thread, method, cases, tried):
    rounds = cases(int(method == "fork"), 5)  # spawned ones import torch for seconds
    if not rounds:
        pytest.skip("in the full form only")
    whole = [passes(*problem(number)) for number in range(24)]
    for _ in range(rounds):
        items = DataLoader(Computed(), None, num_workers=2, multiprocessing_context=method, timeout=WAIT)
        assert all(small_runs.same(item, alone) for item, alone in zip(items, whole, strict=True))
    tried("data loaders whose workers call the operators", rounds)


def forked(body):
    """The exit code of a fork that calls it, or None if it hangs."""
    child = os.fork()
    if child == 0:
        try:
            body()
            os._exit(0)
        except BaseException:
            os._exit(1)
    for _ in range(10 * WAIT):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def test_forks_while_threads_call(one_thread, cases, tried):
    expected, over, count = passes(*problem(3)), threading.Event(), cases(10, 200)

    def work(number):
        for seed in range(number, 1 << 30, THREADS):  # always another pattern: the locks are held most of the time
            if over.is_set():
                return
            passes(*problem(seed))

    def child():
        torch.set_num_threads(1)
        assert small_runs.same(passes(*problem(3)), expected)

    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(work, number) for number in range(THREADS)]
        try:
            for _ in range(count):
                assert forked(child) == 0
        finally:
            over.set()
        for thread in running:
            thread.result()
    tried("forks while 8 threads call", count)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


def members(session):
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, own = stat.read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(stat.parent.name))
    return found


def interrupted(arguments, ready, delay, everybody):
    """The exit code of ``fbconv`` after SIGINT, to all of its processes as from a terminal or to the first alone."""
    environment = os.environ | {"PYTHONPATH": str(Path(fbconv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fbconv", *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    try:
        until = time.monotonic() + WAIT
        while not ready(process) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        time.sleep(delay)
        (os.killpg if everybody else os.kill)(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=WAIT)
        assert b"Traceback" not in errors, errors.decode()
        until = time.monotonic() + 10  # Python's tracker of resources ends when it sees that the others have
        while members(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert members(process.pid) == []
        return process.returncode
    finally:
        for left in members(process.pid):
            os.kill(left, signal.SIGKILL)
        process.wait()


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")


@linux
def test_ctrl_c_leaves_a_training_that_resumes(tmp_path, cases, tried):
    count, rng = cases(1, 6), random.Random(0)
    for number in range(count):
        folder = tmp_path / str(number // 2)  # every other one resumes
        done = epochs(folder)
        arguments = ["train", "--model", "lenet300", "--epochs", 2000, "--out", folder]

        def ready(_, folder=folder, done=done):
            return epochs(folder) > done

        assert interrupted(arguments, ready, rng.uniform(0, 0.5), number % 2) in ENDED
        assert {path.name for path in folder.iterdir() if "tfevents" not in path.name} == {"last.ckpt"}
    tried("Ctrl-C in trainings", count)


def epochs(folder):
    """How many a checkpoint has behind it."""
    path = folder / "last.ckpt"
    return len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0


@linux
def test_ctrl_c_leaves_a_sweep_without_workers_that_resumes(tmp_path, cases, tried):
    file, folder, count, rng = tmp_path / "sweep.toml", tmp_path / "out", cases(1, 6), random.Random(0)
    file.write_text('[options]\nmodel = "lenet300"\nepochs = 2000\nseed = [0, 1, 2, 3]\n')
    for number in range(count):
        arguments = ["sweep", file, "--out", folder, "--jobs", 2]
        # As soon as workers are started, while these import, or while they train.
        ready = (lambda p: len(members(p.pid)) > 2) if number % 3 else (lambda _: list(folder.glob("*/last.ckpt")))
        assert interrupted(arguments, ready, rng.uniform(0, 1.5) if number % 3 == 2 else 0, number % 2) in ENDED
    small_runs.start(small_runs.run_sweep, _short(tmp_path), folder, 2).join()
    records = fbconv.results.Results(folder / "results.sqlite").records()
    assert [record.result is not None for record in records] == [False] * 4 + [True] * 2
    tried("Ctrl-C in sweeps", count)


def _short(folder):
    path = folder / "short.toml"
    path.write_text('[options]\nmodel = "lenet300"\nepochs = 1\nseed = [0, 1]\n')
    return path
