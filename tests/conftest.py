"""Fixtures every test file shares."""

import os
from collections import OrderedDict

# Read when torch loads OpenMP. Threads that spin while waiting make tiny shapes ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import few
import pytest
import torch
from torch import nn

from fbconv import data
from fbconv.models import MODELS, Architecture

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240229)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _strict_float32():
    """Dense passes on a GPU would else round float32 to TF32, far outside the tolerances."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def one_thread():
    """Tensors this small are slower on two threads, and far slower where another process has the second core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seeded():
    """torch's own random numbers, for layers that draw their weights."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        yield


@pytest.fixture
def few_digits(monkeypatch, normed):
    """270 training images of the digits, for the network ``normed``, and no pictures."""
    images = few.few_digits()
    monkeypatch.setitem(data.DATA_SETS, "digits", lambda _: images)
    monkeypatch.setattr("fbconv.train.plot_curves", lambda *_: None)  # takes longer than the training


@pytest.fixture
def normed(monkeypatch):
    """A small network with batch norm and two convolutions, by the name ``normed``."""

    def layers(channels, size, classes):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 6, 5, stride=2),
                norm=nn.BatchNorm2d(6),
                relu=nn.ReLU(),
                conv2=nn.Conv2d(6, 8, 5, stride=2),
                flatten=nn.Flatten(),
                fc=nn.Linear(8 * 4 * 4, classes),
            )
        )

    monkeypatch.setitem(MODELS, "normed", Architecture(layers, "kaiming_normal", lr=0.1, smallest=28))
