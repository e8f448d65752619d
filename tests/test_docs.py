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

README = Path(__file__).parent.parent / "README.md"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(fbconv.__path__, "fbconv.")
    if not module.name.endswith(("_C", "__main__"))
]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
def test_readme_example(block):
    exec(block, {})


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
