"""Data sets so small that a training takes a moment."""

from pathlib import Path

import torch

from fbconv import data


def few_digits() -> tuple[data.Split, data.Split]:
    """300 images of the digits for training and validation, 60 to test on."""
    whole, test = data.DATA_SETS["digits"](Path())
    return whole.subset(torch.arange(300)), test.subset(torch.arange(60))
