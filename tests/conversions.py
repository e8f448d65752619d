"""Ways to convert a model, and what their results are compared with."""

import copy

import torch
from cases import random_mask

import fbconv


def near(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def masks_of(model, density=0.5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {name: random_mask(generator, shape, density) for name, shape in fbconv.prunable(model).items()}


def masked(model, masks):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, mask in masks.items():
            twin.get_parameter(name).mul_(mask)
    return twin


def pruned(model):
    return fbconv.sparsify(model, masks_of(model))


def frozen(model):
    return fbconv.freeze(model, masks_of(model))


def interspace(model):
    return fbconv.interspace(model, linear_block=2)


CONVERSIONS = [pruned, frozen, interspace]
