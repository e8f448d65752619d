"""Masks of several ranks: computed once, or from scores of all, and the same everywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import fbconv
from fbconv.distributed import broadcast_masks, reduce_scores

RANK = """
import sys
import torch
import torch.distributed as dist
import fbconv
from fbconv.distributed import broadcast_masks, reduce_scores

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.ReLU(), torch.nn.Linear(10, 3))
generator = torch.Generator().manual_seed(rank)  # another seed, and other batches, on every rank
batches = [(torch.randn(8, 20, generator=generator), torch.randint(3, (8,), generator=generator))]
own = fbconv.prune_masks(model, "snip", 0.8, 1, batches=batches, generator=generator)
scores = fbconv.score(model, "snip", batches, masks={"0.weight": torch.arange(200).view(10, 20) > 30})
result = {
    "own": own,
    "from0": broadcast_masks(own),
    "from1": broadcast_masks(own if rank == 1 else None, source=1),
    "scores": scores,
    "sum": reduce_scores(scores),
}
torch.save(result, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_ranks_with_other_seeds_end_with_the_same_masks(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(fbconv.__file__).parents[1])}
    commands = [[sys.executable, "-c", RANK, str(rank), str(tmp_path)] for rank in range(2)]
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    for process in ranks:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, mask in one["own"].items():
        assert not torch.equal(mask, two["own"][name])
        for received in (one["from0"], two["from0"]):
            assert received[name].dtype == torch.bool
            assert torch.equal(received[name], mask)
        assert torch.equal(one["from1"][name], two["own"][name])
        assert torch.equal(two["from1"][name], two["own"][name])
        assert torch.equal(one["sum"][name], two["sum"][name])
        assert torch.equal(one["sum"][name], one["scores"][name] + two["scores"][name])
    assert (one["sum"]["0.weight"].flatten()[:31] == -torch.inf).all()


def test_without_a_process_group():
    for call in (lambda: broadcast_masks({}), lambda: reduce_scores({})):
        with pytest.raises(ValueError, match=r"torch\.distributed must be initialised .*, got no process group"):
            call()
