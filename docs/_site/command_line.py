"""The command line's page: what each command's --help prints."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "reference/command-line.md"
HEAD = """# Command line

`fbconv COMMAND` and `python -m fbconv COMMAND` are the same. Exit codes: 0 done, 2 wrong usage, 1 any other error.
"""
# As on a terminal of 80 columns without colours.
SURROUNDINGS = {"COLUMNS": "80", "TERMINAL_WIDTH": "80", "TERM": "dumb", "NO_COLOR": "1"}


def on_files(files: Files, config: Any) -> Files:
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    from typer.main import get_command  # here, as importing torch takes seconds

    from fbconv.cli import app

    commands = get_command(app).commands
    return "\n".join([HEAD, section("fbconv", []), *(section(f"fbconv {name}", [name]) for name in commands)])


def section(title: str, arguments: list[str]) -> str:
    from typer.testing import CliRunner

    from fbconv.cli import app

    result = CliRunner(env=SURROUNDINGS).invoke(app, [*arguments, "--help"], prog_name="fbconv")
    if result.exit_code:
        raise RuntimeError(f"{title} --help: exit code {result.exit_code}")
    return f"## {title}\n\n```text\n{result.output.strip()}\n```\n"
