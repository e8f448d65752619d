"""How many cases the trust tests try: few in ``make test``, the promised number in ``make trust``."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

    return lambda what, count: _add(request.config, what, count)


def _add(config: pytest.Config, what: str, count: int) -> None:
    counts = config.stash.setdefault(_TRIED, {})
    counts[what] = counts.get(what, 0) + count


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--trust-report", type=Path, help="JSON file for the counts of cases that were tried")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist, each worker hands its counts over."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = session.config.stash.get(_TRIED, {})


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    for what, count in getattr(node, "workeroutput", {}).get("tried", {}).items():
        _add(node.config, what, count)


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
