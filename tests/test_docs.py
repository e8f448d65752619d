"""What the README and the docstrings show is what happens."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import fbconv
from fbconv.scores import SCORES

ROOT = Path(__file__).parent.parent
# Pages of scores run in test_score_pages.py.
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "scores")]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fbconv.__path__, "fbconv.")
    if not module.name.endswith(("_C", "__main__"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}  # a page's examples go on from each other
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(block, names)


@pytest.fixture
def registered():
    """An example registers a score, which no other test should meet."""
    before = dict(SCORES)
    yield
    SCORES.clear()
    SCORES.update(before)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    names = {"torch": torch, "nn": torch.nn, "fbconv": fbconv} | vars(module)
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, extraglobs=names, optionflags=options).failed == 0
