"""A report as one HTML page that needs nothing else: pictures are in it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape

from . import report_plots
from .comparing import Group
from .mask_plots import similarity_figure
from .report import Report

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.best { font-weight: 700; }
img { max-width: 100%; height: auto; }
small, .note { color: #666; }
@media (prefers-color-scheme: dark) {
  body { background: #181818; color: #ddd; }
  th, td { border-color: #444; }
  img { background: white; }
}
"""


def page(report: Report, title: str) -> str:
    """The page's text."""
    body = "\n".join(_sections(report, title))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _sections(report: Report, title: str) -> Iterator[str]:
    yield f"<h1>{escape(title)}</h1>"
    if report.unfinished:
        missing = ", ".join(f"{escape(name)} ({count})" for name, count in report.unfinished.items())
        yield f'<p class="note">Runs without a result: {missing}.</p>'
    if not report.groups:
        yield "<p>No run has finished.</p>"
        return
    yield "<h2>Test accuracy in %</h2>"
    yield _accuracies(report.groups)
    yield f'<p class="note">{_legend(report)}</p>'
    yield _picture(
        report_plots.accuracies(report.groups, report.baseline), "Mean test accuracy over the weights that remain"
    )
    for found in report.tickets:
        share = f"{100 * (1 - found.sparsity):.3g} % of the weights"
        if len(found.names) > 1:
            yield f"<h2>Masks in common, {share}</h2>"
            matrices = {"Jaccard index": found.jaccard, "similarity": found.similarity}
            yield _picture(similarity_figure(found.names, matrices), f"Overlap of masks, {share}")
        yield f"<h2>Kept weights after training, {share}</h2>"
        yield _picture(report_plots.histograms(found.weights), f"Histograms of kept weights, {share}")
    yield "<h2>All runs</h2>"
    yield _options(report)


def _legend(report: Report) -> str:
    text = "Mean and standard deviation over seeds; the best mean of a column is bold."
    if report.baseline is None:
        return text
    return f"{text} * differs from {escape(report.baseline)} at the same sparsity ({report.test})."


def _accuracies(groups: Sequence[Group]) -> str:
    sparsities = sorted({group.sparsity for group in groups})
    best = {q: max(group.mean for group in groups if group.sparsity == q) for q in sparsities}
    cells = {(group.name, group.sparsity): group for group in groups}
    heads = "".join(f"<th>{f'q = {q:g}' if q else 'dense'}</th>" for q in sparsities)
    rows = [f"<tr><th>run</th>{heads}</tr>"]
    for name in dict.fromkeys(group.name for group in groups):
        row = "".join(_cell(cells.get((name, q)), best[q]) for q in sparsities)
        rows.append(f"<tr><td>{escape(name)}</td>{row}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _cell(group: Group | None, best: float) -> str:
    if group is None:
        return "<td></td>"
    spread = f" <small>± {100 * group.std:.2f}</small>" if group.std is not None else ""
    runs = f"{len(group.accuracies)} run{'s' if len(group.accuracies) > 1 else ''}"
    title = runs if group.p is None else f"{runs}, p = {group.p:.3g}"
    emphasis = ' class="best"' if group.mean == best else ""
    return f'<td{emphasis} title="{title}">{100 * group.mean:.2f}{"*" if group.significant else ""}{spread}</td>'


def _picture(figure, alternative: str) -> str:
    data = base64.b64encode(report_plots.png(figure)).decode()
    return f'<p><img alt="{escape(alternative)}" src="data:image/png;base64,{data}"></p>'


def _options(report: Report) -> str:
    options = ", ".join(f"{name} {value}" for name, value in report.options.items() if value is not None)
    machines = "".join(
        f"<li>fbconv {escape(str(e['fbconv']))} (commit {escape(str(e['commit']))}), torch {escape(str(e['torch']))}, "
        f"{escape(str(e['processor']))}, threads of a run: {e['threads']}</li>"
        for e in report.environments
    )
    return f"<p>The same in all of them: {escape(options)}.</p><ul>{machines}</ul>"
