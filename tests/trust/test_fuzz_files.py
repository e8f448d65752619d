"""What the fuzzer of files found before stays mended, and a few inputs more are tried, the same ones each time."""

import pytest
from fuzz_files import CORPUS, Mutator, closed, decode, seeds, whole_files

from fbconv._files import state_dicts


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    monkeypatch.setattr(state_dicts, "_ROOM", 1 << 16)


def test_inputs_stand_for_files():
    for data in seeds():
        assert decode(data)
    assert [closed(b"\0" + data) for data in whole_files()] == list(whole_files())


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*")), ids=lambda path: path.name)
def test_kept_inputs(path):
    decode(path.read_bytes())


def test_changed_inputs(cases, tried):
    mutator, count = Mutator(seeds(), seed=1), cases(500, 5_000)
    read = sum(decode(mutator.next()) for _ in range(count))
    assert 0 < read < count
    tried("changed files decoded", count)
