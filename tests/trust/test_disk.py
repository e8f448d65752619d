"""Full disks and read-only folders: an error that says so and names the file, and the old files as they were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bad_disks
import pytest

import fbconv

ALONE = ["unshare", "--map-root-user", "--mount"]  # mounts of its own, which need no privileges and end with it
CASES = [(writer.__name__, how) for writer in bad_disks.WRITERS for how in bad_disks.SPOILT]
SAYS = {"full": ("No space left on device", "disk is full"), "read-only": ("Read-only file system", "readonly")}
# Files that writers with several of them fail at.
FILES = {"save": "model.fbc", "checkpoint": "last.ckpt", "result": "result.json", "picture": "densities.png",
         "results": "results.sqlite", "training": "last.ckpt", "score": "masks.safetensors", "pack": "model.fbc",
         "unpack": "model.safetensors", "report": "report."}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if shutil.which(ALONE[0]) is None or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("needs file systems of its own: unshare --mount")
    folder = tmp_path_factory.mktemp("disks")
    paths = [str(Path(fbconv.__file__).parents[1]), *map(str, Path(__file__).parents[:2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [*ALONE, sys.executable, bad_disks.__file__, str(folder / "mounted")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("writer", "how"), CASES)
def test_a_spoilt_disk_is_named_and_loses_nothing(found, tried, writer, how):
    outcome = found[writer][how]
    assert outcome["error"] is not None
    assert any(words in outcome["error"] for words in SAYS[how]), outcome["error"]
    assert f"/mounted/{writer}/{FILES[writer]}" in outcome["error"]
    assert outcome["error"].startswith("OSError: ")
    assert outcome["changed"] == []
    tried("writers on a full disk or in a read-only folder", 1)
