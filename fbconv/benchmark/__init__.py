"""Speed of single layers: our operators against torch's dense layer and public peers, pass by pass."""

from .candidates import OPS, applicable, our_candidate
from .operands import Operands
from .passes import DIRECTIONS
from .runner import Grid, geometric_means, measure, run
from .shapes import LAYERS, VGG, Layer

__all__ = [
    "DIRECTIONS",
    "LAYERS",
    "OPS",
    "VGG",
    "Grid",
    "Layer",
    "Operands",
    "applicable",
    "geometric_means",
    "measure",
    "our_candidate",
    "run",
]
