"""A small network in float64, and training steps, for the tests of what comes from and goes to others."""

import torch
from torch import Tensor, nn
from torch.nn.utils import prune


def net() -> nn.Sequential:
    """Every kind of layer that compresses, and one that does not; no gradient is zero but for rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2, bias=False),
            nn.BatchNorm2d(6),
            nn.Flatten(),
            nn.Linear(6 * 16, 5),
        ).double()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(9)
    return torch.randn(4, 3, 6, 6, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 4])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x, y = batch()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def pruned_by_torch() -> nn.Sequential:
    """Twice pruned, structured, pruned biases and a pruned normalisation."""
    model = net()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_structured(model[0], "weight", amount=1, dim=1)
    prune.l1_unstructured(model[0], "bias", amount=2)
    prune.l1_unstructured(model[3], "weight", amount=1)
    prune.ln_structured(model[2], "weight", amount=2, n=2, dim=0)
    prune.global_unstructured([(model[5], "weight"), (model[5], "bias")], prune.L1Unstructured, amount=0.8)
    return model


OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05, amsgrad=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
}
