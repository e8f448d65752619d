"""A user's own Python file: the model or the batches that a function in it returns."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path


def load_function(place: str) -> Callable[[], object]:
    """The function that ``FILE.py:NAME`` names. Runs the file, as ``python FILE.py`` would, but for its main part.

    The file may import its neighbours.

    Raises:
        ValueError: not of that form, no such file, an error while it runs, or nothing callable by that name.

    Example:
        >>> _ = Path("net.py").write_text("import torch\\ndef make():\\n    return torch.nn.Linear(2, 1)\\n")
        >>> load_function("net.py:make")()
        Linear(in_features=2, out_features=1, bias=True)
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not file or not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"a function in a file must be given as FILE.py:NAME, got {place!r}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    module = _run(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{path}: there must be a function {name}, got {', '.join(known) or 'none'}")
    return function


def call(place: str, kind: type, meaning: str) -> object:
    """What :func:`load_function`'s function returns, which must be a ``kind``.

    Raises:
        ValueError: as :func:`load_function`, an error while the function runs, or a result of another kind.

    Example:
        >>> _ = Path("net.py").write_text("def make():\\n    return [1, 2]\\n")
        >>> call("net.py:make", list, "a list")
        [1, 2]
    """
    function = load_function(place)
    try:
        result = function()
    except Exception as error:
        raise ValueError(f"{place}() raised {type(error).__name__}: {error}") from error
    if not isinstance(result, kind):
        raise ValueError(f"{place}() must return {meaning}, got {type(result).__name__}")
    return result


def _run(path: Path) -> object:
    name = f"_fbconv_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    return module
