"""Two ranks whose masks change during training, as one process that sees both their batches; and sharded models."""

import itertools

import pytest
import torch
import torch.distributed as dist
from ranks import torchrun

import fbconv
from fbconv.dynamic import set_masks

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

COMMON = """
import copy
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import cross_entropy
import fbconv

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[1]
generator = torch.Generator().manual_seed(1)
data = [(torch.randn(16, 2, 8, 8, generator=generator).double(), torch.randint(4, (16,), generator=generator))
        for _ in range(10)]
mine = [(images[rank::2], labels[rank::2]) for images, labels in data]
results = {}


def network(space="spatial"):
    "Two convolutions, which share a filter basis in the interspace."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU(), nn.Flatten(),
                          nn.Linear(216, 4)).double()
    return fbconv.interspace(model) if space == "interspace" else model


def masks_of(model, sparsity):
    generator = torch.Generator().manual_seed(2)
    return {n: torch.rand(shape, generator=generator) >= sparsity for n, shape in fbconv.prunable(model).items()}


def save():
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
"""

DYNAMIC = (
    COMMON
    + """
from fbconv.distributed import data_parallel, reduce_scores
from fbconv.dynamic import GradualPruning, RegrowingMasks, dense_gradients, set_masks
from fbconv.scores import SCORES


def train(model, method, data, seed, after_update=lambda: None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    if method == "gmp":
        masks = GradualPruning(model, optimizer, 0.9, start=1, end=8, interval=2)
    else:
        masks = RegrowingMasks(model, optimizer, 2, 9, 0.5, torch.Generator().manual_seed(seed))
    for step, (images, labels) in enumerate(data):
        optimizer.zero_grad()
        if method == "rigl" and masks.due(step):
            with dense_gradients(model) as weights:
                cross_entropy(model(images), labels).backward()
            masks.update(step, {name: weight.grad for name, weight in weights.items()})
        else:
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            if masks.due(step):
                masks.update(step)
        if masks.due(step):
            after_update()


def bits(model):
    return torch.cat([value.flatten().view(torch.uint8) for value in model.state_dict().values()])


sent = []


def counted(group, bucket):
    sent.append(bucket.buffer().nbytes)
    return allreduce_hook(group, bucket)


for method in ("set", "rigl", "gmp"):
    for space in ("spatial", "interspace"):
        for mode in ("sparsify", "freeze"):
            dense = network(space)
            model = getattr(fbconv, mode)(dense, masks_of(dense, 0 if method == "gmp" else 0.7))
            alone = copy.deepcopy(model)
            train(alone, method, data, 0)
            parallel, states = data_parallel(copy.deepcopy(model)), []
            parallel.register_comm_hook(None, counted)
            train(parallel, method, mine, rank, lambda: states.append(bits(parallel.module)))
            sent.clear()
            cross_entropy(parallel(mine[0][0]), mine[0][1]).backward()
            results[f"{method} {space} {mode}"] = {
                "begun": model.state_dict(), "alone": alone.state_dict(), "together": parallel.module.state_dict(),
                "states": states, "sent": sum(sent), "trained": sum(p.nbytes for p in parallel.parameters()),
            }

parallel.module[0].set_mask(torch.ones(6, 2, 9))
try:
    parallel(mine[0][0])
except RuntimeError as error:
    results["behind its back"] = str(error)


def ticket(score, data, wrap, **options):
    "Lottery tickets of two rounds."
    def fit(model):
        model = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for images, labels in data:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
    return list(fbconv.iterative_masks(network(), fit, 0.64, 2, score, batches=data, **options))


def reduced(*args, **options):
    return reduce_scores(SCORES["snip"](*args, **options))


results["tickets"] = {
    "alone": ticket("magnitude", data, lambda model: model),
    "magnitude": ticket("magnitude", mine, data_parallel),
    "snip": ticket(reduced, mine, data_parallel),
}
save()
"""
)

SHARDED = (
    COMMON
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from fbconv.dynamic import set_masks

mesh = init_device_mesh("cpu", (2,))


def train(model, data):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for images, labels in data:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()


def refusal(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


for mode in ("sparsify", "freeze"):
    for space, by_layer in (("spatial", True), ("spatial", False), ("interspace", False)):
        dense = network(space)
        model = getattr(fbconv, mode)(dense, masks_of(dense, 0.7))
        begun, alone, sharded = model.state_dict(), copy.deepcopy(model), copy.deepcopy(model)
        train(alone, data[:3])
        for layer in [*filter(lambda layer: [*layer.parameters()], sharded)] * by_layer + [sharded]:
            fully_shard(layer, mesh=mesh)
        train(sharded, mine[:3])
        here = {name: value.to_local().numel() for name, value in sharded.named_parameters()}
        whole = {n: v.full_tensor() if hasattr(v, "full_tensor") else v for n, v in sharded.state_dict().items()}
        results[f"{space} {mode} {by_layer}"] = {"begun": begun, "alone": alone.state_dict(), "here": here,
                                                "together": whole}

masks = masks_of(sharded, 0.5)
results["masks"] = refusal(lambda: set_masks(sharded, masks))
shared = network("interspace")
fully_shard(shared[0], mesh=mesh)
results["basis"] = refusal(lambda: fully_shard(shared[2], mesh=mesh))
empty = fbconv.freeze(network(), {name: torch.zeros(shape) for name, shape in fbconv.prunable(network()).items()})
fully_shard(empty, mesh=mesh)
results["empty"] = refusal(lambda: train(empty, mine[:1]))
save()
"""
)

METHODS = [f"{method} {space} {mode}" for method in ("set", "rigl", "gmp") for space in ("spatial", "interspace")
           for mode in ("sparsify", "freeze")]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return torchrun(DYNAMIC, tmp_path_factory.mktemp("dynamic"))


@pytest.mark.parametrize("name", METHODS)
def test_changing_masks_of_two_ranks_are_those_of_one(trained, name):
    """The ranks' generators have other seeds; that of the first one has the single process's."""
    for results in trained:
        begun, alone, together = (results[name][key] for key in ("begun", "alone", "together"))
        for key, value in alone.items():
            assert value.shape == together[key].shape
            torch.testing.assert_close(together[key], value, rtol=1e-10, atol=1e-12)
            if key.endswith("indices"):
                assert not torch.equal(value, begun[key]) if value.shape == begun[key].shape else "gmp" in name
    assert results[name]["trained"] == results[name]["sent"]


@pytest.mark.parametrize("name", METHODS)
def test_ranks_have_the_same_bits_after_every_update(trained, name):
    ours, theirs = (results[name]["states"] for results in trained)
    assert len(ours) == (5 if "gmp" in name else 4)
    assert all(map(torch.equal, ours, theirs))
    assert not any(a.shape == b.shape and torch.equal(a, b) for a, b in itertools.pairwise(ours))


def test_a_mask_changed_behind_the_wrapper_is_an_error(trained):
    for results in trained:
        assert "0.values must be the parameter that was wrapped, got another" in results["behind its back"]


@pytest.mark.parametrize("score", ["magnitude", "snip"])
def test_lottery_tickets_are_the_same_on_both_ranks(trained, score):
    for masks in trained[0]["tickets"], trained[1]["tickets"]:
        assert [sum(int(mask.sum()) for mask in found.values()) for found in masks[score]] == [777, 466]
    for round in range(2):
        for name, mask in trained[0]["tickets"][score][round].items():
            assert torch.equal(mask, trained[1]["tickets"][score][round][name])
            if score == "magnitude":
                assert torch.equal(mask, trained[0]["tickets"]["alone"][round][name])


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return torchrun(SHARDED, tmp_path_factory.mktemp("sharded"))


@pytest.mark.parametrize("mode", ["sparsify", "freeze"])
@pytest.mark.parametrize("how", [("spatial", True), ("spatial", False), ("interspace", False)])
def test_fully_sharded_ranks_train_as_one(sharded, mode, how):
    """Each rank holds half of the values; with a basis that layers share, the model is sharded as a whole."""
    name = f"{how[0]} {mode} {how[1]}"
    for results in sharded:
        begun, alone, together = (results[name][key] for key in ("begun", "alone", "together"))
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=1e-10, atol=1e-12)
        assert not torch.equal(alone["0.values"], begun["0.values"])
    for key, there in sharded[0][name]["here"].items():
        assert there + sharded[1][name]["here"][key] == sharded[0][name]["alone"][key].numel()
        assert there < sharded[0][name]["alone"][key].numel()


def test_what_sharding_cannot_do_is_an_error(sharded):
    for results in sharded:
        assert results["masks"] == (
            "ValueError: set_masks: 0.values must be whole on every rank, got a DTensor: masks of a model that "
            "fully_shard has distributed cannot change"
        )
        assert results["basis"].startswith("TypeError")
        assert "non-empty" in results["empty"]


def test_parameters_that_stay_need_no_new_wrapper():
    """With as many values as before the parameter is the old one, for whoever holds it."""
    model = fbconv.sparsify(torch.nn.Sequential(torch.nn.Linear(3, 1)), {"0.weight": torch.tensor([[1, 1, 0]])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    values, kept = model[0].values, model[0].values[1].item()
    set_masks(model, {"0.values": torch.tensor([[False, True, True]])}, optimizer)
    assert model[0].values is values
    assert values.grad is None
    assert values.tolist() == [kept, 0]
    assert optimizer.state[values]["momentum_buffer"].tolist() == [1, 0]
