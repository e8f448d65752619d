"""Small networks, batches and masks that the tests of scores share."""

import torch
from torch import nn

from fbconv.scores import score

NAMES = ("random", "magnitude", "snip", "usnip", "grasp", "synflow")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_batches(count=1, size=6, dtype=torch.float64, image=8):
    source = generator(5)
    return [
        (torch.randn(size, 2, image, image, generator=source, dtype=dtype), torch.randint(3, (size,), generator=source))
        for _ in range(count)
    ]


def small_net(dtype=torch.float64, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Conv2d(4, 4, 3, groups=2),
            nn.Flatten(), nn.Linear(64, 3),
        ).to(dtype)  # fmt: skip


def random_masks(model, density, seed=1):
    source = generator(seed)
    shapes = {key: value.shape for key, value in score(model, "magnitude").items()}
    return {key: torch.rand(shape, generator=source) < density for key, shape in shapes.items()}


def tiny_net():
    """78 weights, batch norm, and curvature everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 1, 2), nn.Flatten())
        net.append(nn.Linear(9, 3))
        return net.double()


def tiny_batches(count=1):
    source = generator(5)
    return [
        (torch.randn(5, 1, 6, 6, generator=source, dtype=torch.float64), torch.randint(3, (5,), generator=source))
        for _ in range(count)
    ]


def flatten(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
