"""A training loop of one's own, for trainers to be compared with."""

import torch
from torch import nn

import fbconv
from fbconv.dynamic import GradualPruning, RegrowingMasks, dense_gradients

PLANS = {  # options of the callbacks
    "prune": {},
    "freeze": {"mode": "freeze", "seed": 3},
    "set": {"dynamic": "set"},
    "rigl": {"dynamic": "rigl"},
    "gmp": {"dynamic": "gmp"},
    "frozen rigl": {"dynamic": "rigl", "mode": "freeze"},
}


def train(model, loss, batches, optimizer, scheduler, dynamic, sparsity, interval, accumulate, clip, exclude=()):
    """Trains a compressed model on all batches, in place; returns how often the masks changed.

    ``loss`` is of the model and a batch; ``dynamic`` is as for the callbacks, masks change until 3/4 of the steps.
    """
    steps = len(batches) // accumulate
    if dynamic == "gmp":
        masks = GradualPruning(model, optimizer, sparsity, 0, int(0.75 * steps), interval, exclude)
    else:
        masks = RegrowingMasks(model, optimizer, interval, int(0.75 * steps))
    changes = 0
    for step in range(steps):
        update = dynamic != "none" and masks.due(step)
        optimizer.zero_grad()
        micro = batches[accumulate * step : accumulate * (step + 1)]
        if update and dynamic == "rigl":
            with dense_gradients(model) as weights:
                for batch in micro:
                    (loss(model, batch) / accumulate).backward()
            masks.update(step, {name: weight.grad for name, weight in weights.items()})
        else:
            for batch in micro:
                (loss(model, batch) / accumulate).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if update:
                if dynamic == "set":
                    masks.generator.manual_seed(step)
                masks.update(step)
        scheduler.step()
        changes += update
    return changes


def started(model, masks, mode, dynamic):
    """A copy of the model as the callbacks begin with it; gradual pruning begins dense."""
    if dynamic == "gmp":
        masks = {name: torch.ones(shape) for name, shape in fbconv.prunable(model).items() if name in masks}
    return (fbconv.freeze if mode == "freeze" else fbconv.sparsify)(model, masks)
