"""Several ranks: the same masks everywhere, and training that exchanges trained values only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import torchrun

import fbconv
from fbconv.distributed import broadcast_masks, data_parallel, reduce_scores

needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

RANK = """
import sys
import torch
import torch.distributed as dist
import fbconv
from fbconv.distributed import broadcast_masks, data_parallel, reduce_scores

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
masks = result["from0"]


def variants():
    "Each differs between the ranks, or does not."
    yield "same", fbconv.freeze(model, masks)
    yield "masks", fbconv.sparsify(model, {"0.weight": masks["0.weight"], "2.weight": own["2.weight"]})
    fewer = torch.arange(200).view(10, 20) < 100 + rank
    yield "number of weights", fbconv.freeze(model, masks | {"0.weight": fewer})
    yield "kinds", (fbconv.freeze, fbconv.sparsify)[rank](model, masks)
    yield "layers", fbconv.sparsify(model, masks if rank == 0 else {"0.weight": masks["0.weight"]})
    torch.nn.init.constant_(model[2].weight, rank)
    yield "values", fbconv.sparsify(model, masks)
    yield "frozen", fbconv.freeze(model, masks)


result["refused"] = {}
for name, variant in variants():
    try:
        data_parallel(variant)
    except ValueError as error:
        result["refused"][name] = str(error)
torch.save(result, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""

REFUSED = {"masks": "2", "number of weights": "0", "kinds": "0", "layers": "2", "frozen": "2"}

TRAINING = """
import copy
import functools
import sys
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
import fbconv
from fbconv.distributed import broadcast_masks, data_parallel
from fbconv.models import build

STEPS, BATCH, SPARSITY = 4, 32, 0.99
sent = {"reduced": 0, "broadcast": 0}


def counted_broadcast(send, group, tensors, *args):
    sent["broadcast"] += sum(tensor.nbytes for tensor in tensors)
    send(group, tensors, *args)


def counted_allreduce(group, bucket):
    sent["reduced"] += bucket.buffer().nbytes
    return allreduce_hook(group, bucket)


def train(model, batches):
    "Bytes sent in each step."
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    steps = []
    for images, labels in batches:
        sent.update(reduced=0, broadcast=0)
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        steps.append(dict(sent))
    return steps


def normed(model):
    return torch.nn.Sequential(torch.nn.BatchNorm2d(1), model)


def networks():
    "All ranks draw the same weights, and each asks for the masks of its own batch."
    dense = build("lenet5", seed=0)
    interspace = fbconv.interspace(dense)
    weights = sum(shape.numel() for shape in fbconv.prunable(dense).values())
    basis = 25 * 25  # its entries are weights too
    images, labels = next(shares())
    masks = {}
    for name, model, paid in (("spatial", dense, 0), ("interspace", interspace, basis)):
        own = fbconv.prune_masks(model, "snip", SPARSITY + paid / weights, 1, batches=[(images, labels)])
        masks[name] = broadcast_masks(own)
    yield "dense", dense
    yield "pruned", fbconv.sparsify(dense, masks["spatial"])
    yield "frozen", fbconv.freeze(dense, masks["spatial"])
    yield "interspace", fbconv.sparsify(interspace, masks["interspace"])
    yield "interspace frozen", fbconv.freeze(interspace, masks["interspace"])
    yield "normed", normed(fbconv.freeze(dense, masks["spatial"]))
    none = {name: torch.zeros_like(mask) for name, mask in masks["spatial"].items()}
    yield "no weight trained", fbconv.freeze(dense, none)
    yield "empty layers", fbconv.freeze(dense, masks["spatial"] | {n: none[n] for n in ("conv1.weight", "fc1.weight")})


def shares():
    return ((images[rank::2], labels[rank::2]) for images, labels in data)


dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[1]
torch.set_num_threads(1)
dist._broadcast_coalesced = functools.partial(counted_broadcast, dist._broadcast_coalesced)
generator = torch.Generator().manual_seed(1)
data = [(torch.randn(BATCH, 1, 28, 28, generator=generator), torch.randint(10, (BATCH,), generator=generator))
        for _ in range(STEPS)]
results = {}
for name, model in networks():
    alone = copy.deepcopy(model)
    if name != "normed":  # norms of half a batch are others
        train(alone, data)
    sent.update(broadcast=0)
    model = data_parallel(model)
    model.register_comm_hook(None, counted_allreduce)
    results[name] = {
        "at the start": sent["broadcast"],
        "steps": train(model, shares()),
        "trained": sum(parameter.nbytes for parameter in model.parameters()),
        "together": model.module.state_dict(),
        "alone": alone.state_dict(),
    }
torch.save(results, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""

NETWORKS = ["pruned", "frozen", "interspace", "interspace frozen", "no weight trained", "empty layers"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What both ranks of a ``torchrun`` have counted and trained, by network."""
    return torchrun(TRAINING, tmp_path_factory.mktemp("ranks"))


@needs_gloo
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_exchanges_trained_values_only(trained, name):
    for results in trained:
        dense, sparse = results["dense"], results[name]
        assert dense["steps"] == [{"reduced": 4 * 431_080, "broadcast": 0}] * 4
        assert sparse["steps"] == [{"reduced": sparse["trained"], "broadcast": 0}] * 4
        assert sparse["trained"] < 0.012 * 4 * 431_080
        assert sparse["at the start"] == sparse["trained"]


@needs_gloo
def test_batch_norm_statistics_are_still_broadcast(trained):
    for results in trained:
        statistics = 4 + 4 + 8  # mean, variance and number of batches of one channel
        assert {step["broadcast"] for step in results["normed"]["steps"]} == {statistics}
        assert results["normed"]["at the start"] == results["normed"]["trained"] + statistics


@needs_gloo
@pytest.mark.parametrize("name", ["dense", *NETWORKS])
def test_two_ranks_train_as_one_on_both_their_batches(trained, name):
    one, two = (results[name] for results in trained)
    assert one["together"].keys() == one["alone"].keys()
    assert one["together"]["fc2.bias"].abs().max() > 0.003  # moved from zero, far beyond rounding
    for key, value in one["together"].items():
        assert torch.equal(value, two["together"][key])
        torch.testing.assert_close(value, one["alone"][key])
        if key.endswith(("indices", "frozen")):
            assert torch.equal(value, one["alone"][key])


@needs_gloo
def test_two_ranks_with_other_seeds_end_with_the_same_masks_or_are_refused(tmp_path):
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
    messages = {
        name: "data_parallel: model must have the same compressed layers, patterns and frozen weights on all ranks, "
        f"got a layer '{layer}' on rank 1 unlike that on rank 0"
        for name, layer in REFUSED.items()
    }
    assert one["refused"] == two["refused"] == messages


def test_without_a_process_group():
    model = torch.nn.Linear(2, 2)
    for call in (lambda: broadcast_masks({}), lambda: reduce_scores({}), lambda: data_parallel(model)):
        with pytest.raises(ValueError, match=r"torch\.distributed must be initialised .*, got no process group"):
            call()
