"""The command line as users meet it."""

import sys

import pytest

from fbconv import cli


def run_main(monkeypatch, *arguments):
    """Through ``main``, which turns errors into messages; the exit code."""
    monkeypatch.setattr(sys, "argv", ["fbconv", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def check_wrong_usage(monkeypatch, capsys, arguments, message):
    """Exit code 2, and the message on the error stream alone."""
    monkeypatch.setenv("COLUMNS", "200")
    assert run_main(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out
