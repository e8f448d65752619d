"""How many cases the trust tests try: few in ``make test``, the promised number in ``make trust``."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

FULL = os.environ.get("FBCONV_TRUST") == "full"
_TRIED = pytest.StashKey[dict[str, int]]()


@pytest.fixture
def cases() -> Callable[[int, int], int]:
    """``cases(short, full)``: how many to try."""
    return lambda short, full: full if FULL else short


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """``tried(what, count)`` adds so many cases to those that the summary counts."""

    def add(what: str, count: int) -> None:
        counts = request.config.stash.setdefault(_TRIED, {})
        counts[what] = counts.get(what, 0) + count

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trust-report", type=Path, help="JSON file for the counts of cases that were tried")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash.get(_TRIED, {})
    if counts:
        terminalreporter.section("cases tried")
    for what, count in counts.items():
        terminalreporter.write_line(f"{count:>9,}  {what}")
    path = config.getoption("trust_report", None)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(counts, indent=2) + "\n")
