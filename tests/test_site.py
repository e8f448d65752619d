"""The documentation's site: it builds without a warning, holds every public name, and its links hold."""

import os
import re
import subprocess
import sys
import zlib
from functools import cache
from html.parser import HTMLParser
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from typer.main import get_command

import fbconv
from fbconv.cli import app

for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
    pytest.importorskip(module, reason='the site needs: pip install "fbconv[docs]"')

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    return folder


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.add(given.get("id") or "")
        target = given.get("href") or given.get("src")
        if target is not None:
            (self.links if tag == "a" else self.loaded).append(target)


page = cache(Page)


def dangling(path):
    """Links of a page within the site that lead nowhere."""
    for link in page(path).links + page(path).loaded:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        html = target.suffix == ".html"
        if not target.is_file() or (html and unquote(parts.fragment) not in page(target).anchors):
            yield f"{path.name}: {link}"


def test_links_within_the_site_hold(site):
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]  # whose links are the server's
    assert len(pages) > 20
    assert [link for path in pages for link in dangling(path)] == []


def test_nothing_is_loaded_from_elsewhere(site):
    pages = [page(path) for path in site.rglob("*.html")]
    assert [url for found in pages for url in found.loaded if urlsplit(url).netloc] == []
    styles = [path.read_text() for path in site.rglob("*.css")]
    assert [url for text in styles for url in re.findall(r"url\(['\"]?(?:https?:)?//[^)]+", text)] == []


def public_names():
    for name in fbconv.__all__:
        if name != "__version__" and not ismodule(getattr(fbconv, name)):
            yield f"fbconv.{name}"
    yield from (f"fbconv.nn.{name}" for name in fbconv.nn.__all__)
    yield from (f"fbconv.functional.{name}" for name in fbconv.functional.__all__)
    yield from (f"fbconv.dynamic.{name}" for name in fbconv.dynamic.__all__)
    yield from (f"fbconv.distributed.{name}" for name in fbconv.distributed.__all__)
    yield from (f"fbconv.interop.{name}" for name in fbconv.interop.__all__)
    yield from (f"fbconv.scores.{name}" for name in fbconv.scores.__all__ if name not in ("SCORES", "score"))


def test_every_public_name_is_in_the_reference(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    entries = {line.split()[0] for line in zlib.decompress(inventory).decode().splitlines()}
    assert sorted(set(public_names()) - entries) == []  # a line "::: NAME" in docs/reference is missing


def test_every_option_is_on_the_page_of_the_command_line(site):
    text = (site / "reference/command-line.html").read_text()
    for name, command in get_command(app).commands.items():
        assert f"fbconv {name}</h2>" in re.sub(r"<a .*?</a>", "", text)
        assert all(option in text for parameter in command.params for option in parameter.opts if option[:2] == "--")


def test_tables_come_from_the_results(site):
    text = (site / "benchmarks.html").read_text()
    assert "<!-- " not in re.sub(r"<head>.*?</head>", "", text, flags=re.DOTALL)
    assert text.count("<p>Measured on ") == (ROOT / "docs/benchmarks.md").read_text().count("<!-- measured ")
