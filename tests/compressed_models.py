"""Small networks of all kinds of compressed layers, for what works on whole models."""

import torch
from torch import Tensor, nn

import fbconv
import fbconv.nn as fnn
from fbconv.nn.compressed import compressed_layers

KINDS = ("pruned", "frozen", "interspace")


def images(generator: torch.Generator, batch: int, size: int = 12) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=generator)


def network(kind: str, generator: torch.Generator, backend: str = "auto") -> nn.Sequential:
    """Two convolutions and a linear layer of one kind, at sparsity .8."""
    dense = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip
    model = fbconv.interspace(dense) if kind == "interspace" else dense
    for module in model.modules():
        if isinstance(module, fnn.FilterBasis):
            nn.init.orthogonal_(module.elements, generator=generator)
    masks = fbconv.select(fbconv.score(model, "magnitude"), sparsity=0.8, scope="layer")
    model = (fbconv.freeze if kind == "frozen" else fbconv.sparsify)(model, masks)
    for layer in compressed_layers(model).values():
        layer.backend = backend
    return model


def mixed(generator: torch.Generator) -> nn.Sequential:
    """A layer of each kind, on its sparse and on its dense plan, in one network."""
    pruned, frozen, interspace = (network(kind, generator, "sparse") for kind in KINDS)
    composed = network("interspace", generator, "composed")
    return nn.Sequential(
        pruned[0], nn.BatchNorm2d(8), nn.ReLU(), interspace[4], nn.ReLU(), nn.MaxPool2d(2),
        fnn.FrozenConv2d(16, 3, 3, mask=torch.rand(3, 16, 3, 3, generator=generator) < 0.2), nn.ReLU(),
        composed[0], composed[4], nn.AdaptiveAvgPool2d(1), nn.Flatten(), frozen[8], nn.ReLU(),
        fnn.SparseLinear(5, 4, mask=torch.rand(4, 5, generator=generator) < 0.5),
    )  # fmt: skip
