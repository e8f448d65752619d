"""Reports: means, tests against a baseline, overlaps of masks, and the page they are on."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from command_line import check_wrong_usage, run_main
from scipy import stats
from torch import nn

import fbconv
from fbconv import report_plots
from fbconv.comparing import compare, corrected
from fbconv.experiment import Config, environment
from fbconv.report import report
from fbconv.results import Record, Results, run_id
from fbconv.sweep import RESULTS


def record(name, accuracy, seed, sparsity=0.9, mode="prune", **options):
    config = Config(seed=seed, sparsity=sparsity, mode=mode, **options)
    return Record(run_id(config), name, config, {"test_accuracy": accuracy})


A, B, C = (0.90, 0.91, 0.92), (0.95, 0.951, 0.949), (0.905, 0.92, 0.90)


def records():
    found = [record("a", value, seed, score="snip") for seed, value in enumerate(A)]
    found += [record("b", value, seed, score="grasp") for seed, value in enumerate(B)]
    found += [record("c", value, seed, score="magnitude") for seed, value in enumerate(C)]
    found += [record("a", 0.5, 0, 0.99, score="snip"), record("b", 0.6, 0, 0.99, score="grasp")]
    return [*found, record("dense", 0.97, 0, mode="dense")]


def test_means_deviations_and_the_papers_t_test():
    groups = {(group.name, group.sparsity): group for group in compare(records(), "a")}
    assert list(groups) == [("a", 0.9), ("a", 0.99), ("b", 0.9), ("b", 0.99), ("c", 0.9), ("dense", 0.0)]
    assert groups["a", 0.9].mean == pytest.approx(0.91)
    assert groups["a", 0.9].std == pytest.approx(0.01)
    assert groups["a", 0.99].std is None
    # t = difference of means / (pooled deviation * sqrt(2/n)), four degrees of freedom
    a, b = torch.tensor(A, dtype=torch.float64), torch.tensor(B, dtype=torch.float64)
    t = (b.mean() - a.mean()) / ((a.var() + b.var()) / 2 * 2 / 3).sqrt()
    assert groups["b", 0.9].p == pytest.approx(2 * stats.t.sf(float(t), df=4))
    assert groups["b", 0.9].significant
    assert not groups["c", 0.9].significant
    assert {key: group.p for key, group in groups.items() if group.p is None}.keys() == {
        ("a", 0.9), ("a", 0.99), ("b", 0.99), ("dense", 0.0),
    }  # fmt: skip


def test_holms_correction():
    chances = {("a", 0.9): 0.01, ("b", 0.9): 0.04, ("c", 0.9): 0.03, ("d", 0.9): 0.5}
    assert corrected(chances) == pytest.approx({("a", 0.9): 0.04, ("c", 0.9): 0.09, ("b", 0.9): 0.09, ("d", 0.9): 0.5})
    plain = {(g.name, g.sparsity): g.p for g in compare(records(), "a") if g.p is not None}
    both = {(g.name, g.sparsity): g.p for g in compare(records(), "a", holm=True) if g.p is not None}
    assert both["b", 0.9] == pytest.approx(2 * plain["b", 0.9])
    assert both["c", 0.9] == plain["c", 0.9]


def test_seeds_that_make_no_difference_are_not_tested():
    same = [record("a", 0.9, seed, score="snip") for seed in (0, 1)]
    same += [record("b", 0.8, seed, score="grasp") for seed in (0, 1)]
    assert [group.p for group in compare(same, "a")] == [None, None]


def test_of_many_runs_the_best_and_the_baseline_are_in_colour():
    found = [record(f"run {number}", 0.5 + 0.04 * number, 0, alpha=number / 20) for number in range(10)]
    axes = report_plots.accuracies(compare(found, "run 1"), "run 1").axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [f"run {n}" for n in (1, 5, 6, 7, 8, 9)]
    lowest, highest = axes.get_ylim()
    assert 50 < lowest < 54 < 86 < highest


def test_an_unknown_baseline():
    with pytest.raises(ValueError, match="baseline must be one of a, b, c, dense finished runs, got 'z'"):
        compare(records(), "z")


MASKS = {
    "one": [[1, 1, 0, 0], [0, 0, 0, 0]],
    "two": [[1, 0, 1, 0], [1, 0, 0, 0]],
}


@pytest.fixture
def folder(tmp_path):
    """A sweep of two groups, two seeds and a run that is not done, as sweep would leave it."""
    results = Results(tmp_path / RESULTS)
    scores = {"one": "snip", "two": "grasp"}
    for name, score in scores.items():
        configs = [Config(score=score, sparsity=0.625, seed=seed) for seed in (0, 1)]
        results.add({name: configs})
        for config, accuracy in zip(configs, (0.8, 0.81) if name == "one" else (0.9, 0.92), strict=True):
            layer = fbconv.sparsify(nn.Sequential(nn.Linear(4, 2)), {"0.weight": torch.tensor(MASKS[name]) == 1})
            (tmp_path / run_id(config)).mkdir()
            fbconv.save(layer, tmp_path / run_id(config) / "model.fbc")
            facts = {"test_accuracy": accuracy, "environment": environment(), "config": vars(config)}
            results.finish(run_id(config), facts)
    results.add({"<late>": [Config(mode="dense")]})
    return tmp_path


def test_overlaps_of_masks(folder):
    (found,) = report(folder).tickets
    assert found.names == ("one", "two")
    assert found.jaccard == [[1, pytest.approx(1 / 4)], [pytest.approx(1 / 4), 1]]
    assert found.similarity == [[1, pytest.approx(1 / 3)], [pytest.approx(1 / 3), 1]]
    assert {name: values.numel() for name, values in found.weights.items()} == {"one": 2, "two": 3}


class Page(HTMLParser):
    """Text of cells and headings, and pictures."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.pictures, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & {*self.open}:
            self.cells[-1] += data


def test_the_page_is_whole_and_has_the_numbers(folder, monkeypatch, capsys):
    assert run_main(monkeypatch, "report", folder, "--baseline", "one", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((folder / "report.json").read_text())
    assert [group["runs"] for group in summary["groups"]] == [2, 2]
    assert summary["unfinished"] == {"<late>": 1}
    assert summary["groups"][1]["significant"]
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert page.cells == ["run", "q = 0.625", "one", "80.50 ± 0.71", "two", "91.00* ± 1.41"]
    assert "&lt;late&gt; (1)" in text
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)  # nothing is fetched
    assert len(page.pictures) == 3
    for picture in page.pictures:
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
        assert picture["alt"]


def test_without_a_finished_run(tmp_path, monkeypatch, capsys):
    Results(tmp_path / RESULTS).add({"all": [Config()]})
    assert run_main(monkeypatch, "report", tmp_path) == 0
    assert "No run has finished" in (tmp_path / "report.html").read_text()


def test_errors(tmp_path, folder, monkeypatch, capsys):
    assert run_main(monkeypatch, "report", tmp_path / "none") == 1
    assert "results.sqlite does not exist: fbconv sweep makes it" in capsys.readouterr().err
    assert run_main(monkeypatch, "report", folder, "--baseline", "three") == 1
    assert "baseline must be one of one, two finished runs" in capsys.readouterr().err
    check_wrong_usage(monkeypatch, capsys, ["report"], "FOLDER")
