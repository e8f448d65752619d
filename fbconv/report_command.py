"""``fbconv report``: a page about the runs of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .experiment import replacing, write_json
from .plots import require_matplotlib
from .report import report as read_report
from .report_page import page
from .train_command import Json

EPILOG = "Example: fbconv report runs/sweep --baseline snip --holm"
PAGE, SUMMARY = "report.html", "report.json"


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of fbconv sweep.")],
    baseline: Annotated[
        str | None, typer.Option(help="Test the other groups against this one, at the same sparsity.")
    ] = None,
    holm: Annotated[bool, typer.Option("--holm", help="Correct p-values for the number of tests (Holm).")] = False,
    as_json: Json = False,
) -> None:
    """Compare the runs of a sweep: accuracies with t-tests, overlaps of masks, sizes of kept weights.

    Writes FOLDER/report.html, a page that needs no other file, and FOLDER/report.json. Runs that are not done are named
    and left out.
    """
    require_matplotlib()
    found = read_report(folder, baseline, holm)
    write_json(folder / SUMMARY, found.as_json())
    with replacing(folder / PAGE) as temporary:
        temporary.write_text(page(found, folder.resolve().name), encoding="utf-8")
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        print(f"page: {folder / PAGE}\nresults: {folder / SUMMARY}")
