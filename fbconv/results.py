"""The results of many runs in one SQLite file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .experiment import Config

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY,        -- of the configuration
    name TEXT NOT NULL,         -- shared by the runs of all seeds
    config TEXT NOT NULL,       -- JSON
    result TEXT,                -- JSON, once the run is done; its environment too
    failure TEXT                -- message of the last attempt, if it failed
)
"""


@dataclass(frozen=True)
class Record:
    """A run of a sweep.

    Attributes:
        id: hash of all options that decide how it ends.
        name: what runs of other seeds are called too.
        config: its options.
        result: what :func:`fbconv.train.train` returns, or None before it is done.
        failure: why it failed, or None.
    """

    id: str
    name: str
    config: Config
    result: dict[str, object] | None = None
    failure: str | None = None


def run_id(config: Config) -> str:
    """16 hexadecimal digits that stand for the configuration, wherever the data lies.

    Of the options that are not at their default: results outlive new options.

    Example:
        >>> run_id(Config(seed=1)) == run_id(Config(seed=1, data_dir="elsewhere"))
        True
    """
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    options = {name: value for name, value in dataclasses.asdict(config).items() if value != defaults[name]}
    options.pop("data_dir", None)
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:16]


def sparsity_of(config: Config) -> float:
    """What a run is compared at: 0 for dense ones."""
    return 0.0 if config.mode == "dense" else config.sparsity


def _record(run: str, name: str, config: str, result: str | None, failure: str | None) -> Record:
    if not all(isinstance(text, str) for text in (run, name, config)):
        raise ValueError("id, name and config must be text")
    return Record(run, name, Config(**json.loads(config)), json.loads(result) if result else None, failure)


class Results:
    """Runs by their id, each written in a transaction of its own: a kill leaves whole runs behind.

    Args:
        path: of the SQLite file; made if need be.

    Raises:
        ValueError: a file that is something else.
        OSError: naming the file, where it cannot be read or written; also by the methods.

    Example:
        >>> results = Results(Path("results.sqlite"))
        >>> results.add({"dense": [Config(mode="dense", seed=seed) for seed in range(3)]})
        >>> len(results.pending())
        3
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._execute(_SCHEMA)

    def add(self, runs: Mapping[str, Iterable[Config]]) -> None:
        """Enters runs, name -> configurations; those that are there already keep what they have, but for the name."""
        rows = [(run_id(c), name, json.dumps(dataclasses.asdict(c))) for name, configs in runs.items() for c in configs]
        statement = "INSERT INTO runs (id, name, config) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET name = ?2"
        with self._transaction() as database:
            database.executemany(statement, rows)

    def finish(self, run: str, result: Mapping[str, object]) -> None:
        """Records the result of a run."""
        self._execute("UPDATE runs SET result = ?, failure = NULL WHERE id = ?", json.dumps(result), run)

    def fail(self, run: str, failure: str) -> None:
        """Records why a run failed; it stays pending."""
        self._execute("UPDATE runs SET failure = ? WHERE id = ?", failure, run)

    def records(self) -> list[Record]:
        """All runs, in the order in which they were entered."""
        return list(self._records("SELECT id, name, config, result, failure FROM runs ORDER BY rowid"))

    def pending(self) -> list[Record]:
        """The runs without a result."""
        return [record for record in self.records() if record.result is None]

    def _records(self, query: str) -> Iterator[Record]:
        for row in self._execute(query):
            try:
                yield _record(*row)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(f"{self.path}: not a file of results: run {row[0]!r}: {error}") from error

    def _execute(self, statement: str, *values: str) -> list[tuple]:
        with self._transaction() as database:
            return database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as database, database:
                yield database
        except UnicodeDecodeError as error:  # from SQLite's own messages
            raise ValueError(f"{self.path}: not a file of results: {error}") from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
            if isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR:
                raise OSError(f"{self.path}: {error}") from error
            raise ValueError(f"{self.path}: not a file of results: {error}") from error
