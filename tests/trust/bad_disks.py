"""Every writer of the package on a disk of its own, which is then full, and then read-only.

    unshare --map-root-user --mount python bad_disks.py FOLDER

mounts small disks below FOLDER, which vanish with the process, lets each writer write, spoils the disk, lets it write
again, and prints writer -> how it was spoilt -> {error, changed} as JSON.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import small_runs
import torch
from torch import nn

import fbconv
from fbconv import cli
from fbconv.data import load
from fbconv.experiment import Config, save_checkpoint, write_json
from fbconv.mask_plots import plot_densities
from fbconv.results import Results, run_id
from fbconv.sweep import RESULTS
from fbconv.train import train_on

SIZE, LEFT = 4 << 20, 2 * 4096  # bytes of a disk; what is left of a full one, so that writing begins
FILLER = "filler"


def save(folder: Path) -> None:
    fbconv.save(nn.Linear(400, 400), folder / "model.fbc")


def checkpoint(folder: Path) -> None:
    save_checkpoint(folder / "last.ckpt", {"weights": torch.rand(100_000)})


def result(folder: Path) -> None:
    write_json(folder / "result.json", torch.rand(5000).tolist())


def picture(folder: Path) -> None:
    layer = {"name": "fc", "weights": 100, "kept": 10, "density": 0.1, "excluded": False}
    plot_densities([layer], folder / "densities.png", "densities")


def results(folder: Path) -> None:
    config = Config(epochs=1)
    database = Results(folder / RESULTS)
    database.add({"all": [config]})
    database.finish(run_id(config), {"history": torch.rand(5000).tolist()})


def training(folder: Path) -> None:
    """One that goes on where it was stopped, two epochs further each time."""
    steps = iter(range(13))

    def stop(*_: object) -> None:
        if next(steps, None) is None:
            raise InterruptedError

    config = Config(**small_runs.COMMON | {"epochs": 100})
    with contextlib.suppress(InterruptedError):
        train_on(load("digits", "", 0), config, folder, stop, pictures=False)


def score(folder: Path) -> None:
    command("score", "net.py:make", "--score", "magnitude", "--out", folder)


def pack(folder: Path) -> None:
    command("pack", Path("plain.safetensors").absolute(), folder / "model.fbc")


def unpack(folder: Path) -> None:
    command("unpack", Path("packed.fbc").absolute(), folder / "model.safetensors")


def report(folder: Path) -> None:
    if not (folder / RESULTS).exists():
        configs = [Config(**small_runs.COMMON | {"epochs": 1, "seed": seed}) for seed in (0, 1)]
        database = Results(folder / RESULTS)
        database.add({"all": configs})
        for config in configs:
            trained = train_on(load("digits", "", config.seed), config, folder / run_id(config), pictures=False)
            database.finish(run_id(config), trained)
    command("report", folder)


WRITERS: list[Callable[[Path], None]] = [
    save, checkpoint, result, picture, results, training, score, pack, unpack, report,
]  # fmt: skip


def command(*arguments: object) -> None:
    """``fbconv`` with these; a failure's message is the error."""
    sys.argv = ["fbconv", *map(str, arguments)]
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    if code:
        raise OSError(errors.getvalue())


def fill(disk: Path) -> None:
    filler = disk / FILLER
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - LEFT)


def make_read_only(disk: Path) -> None:
    (disk / FILLER).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


SPOILT = {"full": fill, "read-only": make_read_only}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != FILLER}


def attempt(writer: Callable[[Path], None], disk: Path) -> dict[str, object]:
    """What becomes of another attempt: its error, and the files that are not as before."""
    before = contents(disk)
    try:
        writer(disk)
        error = None
    except Exception as caught:  # which kind it is, is the question
        error = f"{type(caught).__name__}: {caught}"
    after = contents(disk)
    return {"error": error, "changed": [name for name in {**before, **after} if before.get(name) != after.get(name)]}


def main(folder: Path) -> None:
    small_runs.install()
    Path("net.py").write_text("import torch\ndef make():\n    return torch.nn.Linear(400, 400)\n")
    weights = {"weight": torch.rand(400, 400), "bias": torch.rand(400)}
    torch.save(weights, "plain.pt")
    command("pack", "plain.pt", "packed.fbc")
    command("unpack", "packed.fbc", "plain.safetensors")
    found: dict[str, dict[str, object]] = {}
    for writer in WRITERS:
        disk = folder / writer.__name__
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
        writer(disk)
        found[writer.__name__] = {}
        for how, spoil in SPOILT.items():
            spoil(disk)
            found[writer.__name__][how] = attempt(writer, disk)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
