"""Scripts that run on two ranks."""

import os
import subprocess
import sys
from pathlib import Path

import torch

import fbconv


def torchrun(script: str, folder: Path, *arguments: str) -> list[dict]:
    """What the two ranks of a script save as ``folder/rank.pt``; the folder is its first argument."""
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(fbconv.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command += [str(folder / "script.py"), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
