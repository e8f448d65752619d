"""Random calls of all operators and functions, forward and backward, on all instruction sets, one or two threads."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from test_dispatch import SUPPORTED, python

SCRIPT = Path(__file__).with_name("random_calls.py")


def test_random_calls_match_the_reference(cases, tried):
    """A process for each instruction set, which a process chooses once; a failure names the seed that repeats it."""
    each = -(-cases(200, 10_000) // len(SUPPORTED))

    def calls_of(number: int) -> str:
        capability = SUPPORTED[number]
        done = python(str(SCRIPT), str(number * each), str(each), capability=capability)
        return "" if done.returncode == 0 else f"{capability}: {done.stdout[-3000:]}{done.stderr[-3000:]}"

    with ThreadPoolExecutor(2) as pool:
        failures = list(filter(None, pool.map(calls_of, range(len(SUPPORTED)))))
    assert not failures, "\n".join(failures)
    tried("random calls against the reference, forward and backward", each * len(SUPPORTED))
