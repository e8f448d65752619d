"""Dense weights kept between calls without gradients: never those of other values."""

from __future__ import annotations

import copy
import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import random_mask
from torch import Tensor, nn

import fbconv
import fbconv.nn as fnn
from fbconv import _dense_weights

KINDS = {"sparse": fnn.SparseConv2d, "frozen": fnn.FrozenConv2d, "basis": fnn.FBConv2d, "linear": fnn.SparseLinear}


@pytest.fixture(params=KINDS)
def layer(request, generator) -> nn.Module:
    dense = nn.Linear(6, 5) if request.param == "linear" else nn.Conv2d(3, 4, 3, padding=1)
    layer = KINDS[request.param].from_dense(dense)
    layer.set_mask(random_mask(generator, layer.pattern.shape, 0.5))
    layer.backend = "dense"
    return layer


@pytest.fixture
def x(layer, generator) -> Tensor:
    shape = (2, 6) if isinstance(layer, fnn.SparseLinear) else (2, 3, 6, 6)
    return torch.randn(shape, generator=generator)


@pytest.fixture
def made(monkeypatch) -> list:
    """Grows by one with every weight that is scattered."""
    calls: list = []
    scatter = fbconv.SparsePattern.scatter
    monkeypatch.setattr(fbconv.SparsePattern, "scatter", lambda *args: calls.append(None) or scatter(*args))
    return calls


def expected(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.to_dense()(x)


def check(layer: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(layer(x), expected(layer, x))


def momentum_step(layer: nn.Module) -> None:
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer.values.grad = torch.ones_like(layer.values)
    optimizer.step()


@torch.no_grad()
def flip_pattern(layer: nn.Module) -> None:
    layer.indices.copy_(fbconv.SparsePattern.from_mask(layer.pattern.mask().flip(0)).packed)


@torch.no_grad()
def change_frozen(layer: nn.Module) -> None:
    if layer.frozen is not None:
        layer.frozen.mul_(2)


@torch.no_grad()
def change_basis(layer: nn.Module) -> None:
    if isinstance(layer, fnn.FBConv2d):
        layer.basis.elements.mul_(2)
        layer.basis.elements.data[0] += 1


def load_other_state(layer: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state["values"] += 1
    layer.load_state_dict(state)


CHANGES = {
    "in place": lambda layer: nn.init.constant_(layer.values, 2.0),
    "in place through data": lambda layer: layer.values.data.mul_(3),
    "one entry through data": lambda layer: layer.values.data[-1:].add_(1),
    "data assigned": lambda layer: setattr(layer.values, "data", layer.values.data + 1),
    "another parameter": lambda layer: setattr(layer, "values", nn.Parameter(layer.values.detach() + 1)),
    "state loaded": load_other_state,
    "optimizer": momentum_step,
    "mask": lambda layer: layer.set_mask(layer.pattern.mask().flip(0)),
    "frozen in place": change_frozen,
    "basis in place": change_basis,
    "pruned": lambda layer: layer.prune(layer.pattern.mask()),
    "another dtype and back": lambda layer: layer.to(torch.bfloat16).float(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_between_calls_is_seen(change, layer, x):
    check(layer, x)
    change(layer)
    check(layer, x)


def test_a_pattern_written_over_another_is_an_error(layer, x):
    check(layer, x)
    flip_pattern(layer)
    with pytest.raises(RuntimeError, match="indices must be the positions of the values"):
        layer(x)


def test_a_layer_that_is_only_used_is_scattered_once(layer, x, made):
    with torch.no_grad():
        first = layer(x)
        count = len(made)
        assert all(torch.equal(layer(x), first) for _ in range(3))
    assert len(made) == count > 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", ["sparse", "frozen", "basis"])
def test_weights_are_kept_in_either_memory_format(kind, memory_format, generator, made):
    layer = KINDS[kind].from_dense(nn.Conv2d(3, 4, 3, padding=1)).to(memory_format=memory_format)
    layer.backend = "dense"
    x = torch.randn(2, 3, 6, 6, generator=generator).contiguous(memory_format=memory_format)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
    assert len(made) == 1


@pytest.mark.parametrize("kind", ["sparse", "frozen", "basis"])
def test_memory_formats_do_not_mix(kind, generator):
    layer = KINDS[kind].from_dense(nn.Conv2d(3, 4, 3, padding=1))
    layer.backend = "dense"
    x = torch.randn(2, 3, 6, 6, generator=generator)
    with torch.no_grad():
        for memory_format in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
            output = layer(x.contiguous(memory_format=memory_format))
            assert output.is_contiguous(memory_format=memory_format)
            torch.testing.assert_close(output, expected(layer, x))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_frozen_weight_in_channels_last_decides_as_torchs_does(channels, generator):
    dense = nn.Conv2d(channels, 4, 3, padding=1).to(memory_format=torch.channels_last)
    layer = KINDS["frozen"].from_dense(nn.Conv2d(channels, 4, 3, padding=1)).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 6, 6, generator=generator)
    assert layer(x).stride() == dense(x).stride()
    assert layer(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x), expected(layer, x))


def test_training_scatters_in_every_call(layer, x, made):
    for count in (1, 2):
        layer(x).sum().backward()
        assert len(made) == count


def test_nothing_outlives_its_values(layer, x):
    gc.collect()
    before = len(_dense_weights._kept)
    check(layer, x)
    assert len(_dense_weights._kept) == before + 1
    layer.values = nn.Parameter(layer.values.detach().clone())
    gc.collect()
    assert len(_dense_weights._kept) == before


def test_memory_is_bounded(layer, x, monkeypatch):
    with torch.no_grad():
        layer(x)
        (kept,) = (entry for entry in _dense_weights._kept.values() if entry.owner() is layer.values)
        monkeypatch.setattr(_dense_weights, "_MOST_BYTES", 2 * kept.bytes)
        layers = [copy.deepcopy(layer) for _ in range(4)]
        for _ in range(2):
            for copied in layers:
                torch.testing.assert_close(copied(x), expected(layer, x))
                assert sum(entry.bytes for entry in _dense_weights._kept.values()) <= 2 * kept.bytes
        monkeypatch.setattr(_dense_weights, "_MOST_BYTES", 0)
        layer.values.mul_(2)
        check(layer, x)
        assert not _dense_weights._kept


def test_copies_are_layers_of_their_own(layer, x):
    check(layer, x)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        copied.values.data.mul_(2)
        check(copied, x)
        check(layer, x)


def test_inference_mode_leaves_nothing_that_training_cannot_use(layer, x):
    layer.requires_grad_(False)
    with torch.inference_mode():
        layer(x)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None


def test_autocast_and_float32_do_not_mix(layer, x):
    check(layer, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    check(layer, x)


def test_an_input_that_requires_a_gradient_gets_it(layer, x):
    layer.requires_grad_(False)
    check(layer, x)
    one, other = (x.clone().requires_grad_() for _ in range(2))
    layer(one).square().sum().backward()
    expected(layer, other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


def test_threads_share_layers_that_change(layer, x, one_thread):
    def run(copied: nn.Module) -> bool:
        with torch.no_grad():
            for step in range(50):
                copied.values.fill_(step)
                for used in (copied, layer):
                    if not torch.allclose(used(x), expected(used, x), rtol=1e-4, atol=1e-4):
                        return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, [copy.deepcopy(layer) for _ in range(8)]))
