"""Weights from a seed: Philox against an independent NumPy version, laws, moments, and no dependence on threads."""

import zlib

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import ndtri

import fbconv
from fbconv import _C
from fbconv.initialisation import INITS, Draw
from fbconv.models import build

COUNT = 1 << 20


def fnv1a(name: str) -> int:
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return value


def philox_words(seed: int, name: str, count: int) -> np.ndarray:
    """Philox 4x32-10 by its definition, a counter in each column."""
    key = fnv1a(name)
    blocks = -(-count // 4)
    c = np.zeros((4, blocks), np.uint64)
    c[0], c[2], c[3] = np.arange(blocks), key % 2**32, key >> 32
    k0, k1, mask = seed, 1, np.uint64(2**32 - 1)
    for _ in range(10):
        left, right = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = np.stack([(right >> shift) ^ c[1] ^ np.uint64(k0), right & mask,
                      (left >> shift) ^ c[3] ^ np.uint64(k1), left & mask])  # fmt: skip
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c.T.reshape(-1)[:count]


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
@pytest.mark.parametrize("name", ["", "conv1", "layer.ä"])
def test_numbers_against_numpy(seed, name):
    words = philox_words(seed, name, 10_001)
    odd = 2 * (words >> np.uint64(8)).astype(np.int64) + 1 - 2**24
    assert np.array_equal(_C.draw("uniform", seed, name, 0.5, 10_001), (odd * 2.0**-25).astype(np.float32))
    assert np.array_equal(_C.draw("sign", seed, name, 0.5, 10_001), np.where(words >> np.uint64(31), -0.5, 0.5))
    normal = ndtri((words.astype(np.float64) + 0.5) / 2**32)
    np.testing.assert_allclose(_C.draw("normal", seed, name, 1.0, 10_001), normal, rtol=3e-7)


def test_known_bits():
    """Files in the world hold seeds: these sums may never change."""
    known = {"uniform": 0x3C9C261A, "sign": 0x719D5CC1, "normal": 0x3C182C3D}
    assert {d: zlib.crc32(_C.draw(d, 7, "conv1", 1.0, COUNT).tobytes()) for d in known} == known


def test_known_weights():
    known = {
        "xavier_normal": 1607256857,
        "kaiming_normal": 3331955670,
        "kaiming_uniform": 1519261147,
        "pm_sigma": 3701127710,
        "bimodal": 790248255,
    }
    sums = {init: zlib.crc32(Draw(init, 7, "conv1").tensor((50, 20, 5, 5)).numpy().tobytes()) for init in known}
    assert sums == known


@pytest.mark.parametrize("distribution", ["uniform", "sign", "normal"])
def test_threads_do_not_matter(distribution):
    before = torch.get_num_threads()
    try:
        drawn = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            drawn.append(_C.draw(distribution, 3, "fc", 1.0, 100_003).tobytes())
        assert len(set(drawn)) == 1
    finally:
        torch.set_num_threads(before)


def test_laws():
    assert stats.kstest(_C.draw("normal", 1, "x", 1.0, COUNT), "norm").pvalue > 1e-3
    assert stats.kstest(_C.draw("uniform", 1, "x", 1.0, COUNT), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert abs(_C.draw("sign", 1, "x", 1.0, COUNT).mean()) < 5e-3


@pytest.mark.parametrize(
    ("init", "variance"),
    [("xavier_normal", 2 / (500 + 1250)), ("pm_sigma", 2 / (500 + 1250)), ("kaiming_normal", 2 / 500),
     ("kaiming_uniform", 2 / 500), ("bimodal", 2 / 500)],
)  # fmt: skip
def test_variance_scales(init, variance):
    weight = Draw(init, 0, "conv").tensor((50, 20, 5, 5)).double()
    assert weight.mean().abs() < 4 * (variance / weight.numel()) ** 0.5
    assert weight.var() == pytest.approx(variance, rel=0.04)
    if init == "kaiming_uniform":
        assert weight.abs().max() < (3 * variance) ** 0.5
    if init == "pm_sigma":
        assert weight.abs().unique().numel() == 1
    if init == "bimodal":
        assert weight.abs().min() > 0.55 * variance**0.5
        assert 0.48 < (weight > 0).double().mean() < 0.52


def test_layers_and_seeds_differ():
    drawn = [Draw("pm_sigma", seed, name).tensor((64, 64)) for seed in (0, 1) for name in ("a", "b")]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert 0.4 < (one == other).double().mean() < 0.6


@pytest.mark.parametrize("init", INITS)
def test_initialise_draws_prunable_weights_only(init):
    model = build("vgg16", in_channels=3, image_size=32)
    drawn = fbconv.initialise(model, init, seed=4)
    assert torch.equal(drawn.conv1_2.weight, Draw(init, 4, "conv1_2").tensor((64, 64, 3, 3)))
    prunable = fbconv.prunable(model)
    for name, value in model.state_dict().items():
        assert torch.equal(drawn.state_dict()[name], value) == (name not in prunable)


def test_initialise_in_the_interspace():
    model = fbconv.interspace(build("lenet5"))
    drawn = fbconv.initialise(model, seed=4)
    assert torch.equal(drawn.conv2.dense_values(), Draw("xavier_normal", 4, "conv2").tensor((50, 20, 25)))
    masks = {name: torch.rand(shape) < 0.1 for name, shape in fbconv.prunable(drawn).items()}
    frozen = fbconv.freeze(drawn, masks, seed=4)
    x = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(frozen(x), drawn(x))


def test_wrappers_and_empty_layers_draw_the_same():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    compiled = fbconv.initialise(torch.compile(model), seed=4)
    plain = fbconv.initialise(model, seed=4)
    assert torch.equal(compiled.get_parameter("_orig_mod.0.weight"), plain[0].weight)
    with pytest.warns(UserWarning, match="zero-element"):
        empty = torch.nn.Linear(0, 3)
    assert fbconv.initialise(empty, "kaiming_uniform").weight.shape == (3, 0)


@pytest.mark.parametrize(
    ("init", "seed", "message"),
    [("normal", 0, "init must be one of"), ("pm_sigma", -1, "32 bits"), ("pm_sigma", 2**32, "32 bits"),
     ("pm_sigma", 0.5, "32 bits")],
)  # fmt: skip
def test_errors(init, seed, message):
    with pytest.raises(ValueError, match=message):
        fbconv.initialise(torch.nn.Linear(2, 2), init, seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("gauss", 0, "", 1.0, 4), "must be uniform, sign or normal"), (("sign", 0, "", 1.0, -1), "must not be negative")],
)
def test_errors_of_the_extension(arguments, message):
    with pytest.raises(ValueError, match=message):
        _C.draw(*arguments)
