"""Every score has a page, and what the pages show runs."""

import re
from pathlib import Path

import pytest
import torch

from fbconv.scores import SCORES

PAGES = {path.stem: path.read_text() for path in (Path(__file__).parent.parent / "docs/scores").glob("*.md")}

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_score_has_a_page_with_formula_sign_cost_and_source():
    assert {*SCORES, "cops"} == set(PAGES)
    for text in PAGES.values():
        for row in ("| data |", "| cost |", "| source |", "sign |"):
            assert row in text


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_example_runs(name):
    blocks = re.findall(r"```python\n(.*?)```", PAGES[name], re.DOTALL)
    assert blocks
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks:
            exec(block, {})
