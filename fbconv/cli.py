"""The command line: every command has an example in its help, and prints nothing but JSON on request.

Exit codes: 0 done, 2 wrong usage, 1 any other error.
"""

from __future__ import annotations

import sys

import typer

from . import (
    bench_command,
    cops_command,
    info_command,
    meta_command,
    pack_command,
    report_command,
    reproduce_command,
    score_command,
    sweep_command,
    train_command,
    unpack_command,
)

app = typer.Typer(
    help="Sparse, frozen and interspace convolutions: train networks on a fraction of their weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(epilog=train_command.EPILOG)(train_command.train)
app.command(epilog=reproduce_command.EPILOG)(reproduce_command.reproduce)
app.command(epilog=score_command.EPILOG)(score_command.score)
app.command(epilog=cops_command.EPILOG)(cops_command.cops)
app.command(epilog=meta_command.EPILOG)(meta_command.meta)
app.command(epilog=sweep_command.EPILOG)(sweep_command.sweep)
app.command(epilog=report_command.EPILOG)(report_command.report)
app.command(epilog=bench_command.EPILOG)(bench_command.bench)
app.command(epilog=pack_command.EPILOG)(pack_command.pack)
app.command(epilog=unpack_command.EPILOG)(unpack_command.unpack)
app.command(epilog=info_command.EPILOG)(info_command.info)


def main() -> None:
    """Entry point of the ``fbconv`` command."""
    try:
        app(prog_name="fbconv")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"fbconv: {error}", file=sys.stderr)
        sys.exit(1)
