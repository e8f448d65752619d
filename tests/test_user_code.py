"""A user's own file: what runs, what it may do, and what is said when it does not work."""

import sys

import pytest

from fbconv.user_code import call, load_function


def test_the_function_is_found_and_the_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "helper_of_test.py").write_text("VALUE = 7\n")
    (tmp_path / "net.py").write_text(
        "import dataclasses\n"
        "from helper_of_test import VALUE\n"
        "@dataclasses.dataclass\n"
        "class Point:\n"
        "    x: int\n"
        "def make():\n"
        "    return Point(VALUE)\n"
        "if __name__ == '__main__':\n"
        "    raise RuntimeError('run as a script')\n"
    )
    before = list(sys.path)
    assert call(f"{tmp_path}/net.py:make", object, "anything").x == 7
    assert sys.path == before
    sys.modules.pop("helper_of_test")


@pytest.mark.parametrize("place", ["net.py", "net:make", "net.py:", ":make", "net.py:a b", "net.txt:make"])
def test_the_form(place):
    with pytest.raises(ValueError, match=f"must be given as FILE.py:NAME, got '{place}'"):
        load_function(place)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("def f(:\n", "f", r"net\.py: SyntaxError: "),
        ("import no_such_package\n", "f", r"net\.py: ModuleNotFoundError: No module named 'no_such_package'"),
        ("1 / 0\n", "f", r"net\.py: ZeroDivisionError: division by zero"),
        ("def g(): pass\nh = 3\n", "f", r"net\.py: there must be a function f, got g"),
        ("f = 3\n", "f", r"net\.py: there must be a function f, got none"),
        ("def f(): raise KeyError('x')\n", "f", r"net\.py:f\(\) raised KeyError: 'x'"),
        ("def f(a): pass\n", "f", r"net\.py:f\(\) raised TypeError: .*missing 1 required positional argument"),
        ("def f(): return 3\n", "f", r"net\.py:f\(\) must return a list, got int"),
    ],
)
def test_what_does_not_work_is_named(tmp_path, text, name, message):
    path = tmp_path / "net.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        call(f"{path}:{name}", list, "a list")


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"net\.py: no such file"):
        load_function(f"{tmp_path}/net.py:make")
