"""Gradients of bases and coefficients against those of the filters they compose.

As matrices with a filter a column, H = F A for basis F and coefficients A, so that with G the gradient of H, dF that of
F and dA that of A (methods section 4)

    dA = mask * (F^T G)   and   dF = G A^T,

and with |.| the Frobenius norm, |.|_2 the largest and s_min the smallest singular value

    |dA| <= |F|_2 |G|,   |dF| <= |A|_2 |G| <= |A| |G|,   |dA| >= s_min(F) |G| if no coefficient is pruned.

A basis that layers share has |dF| <= sum of their |A|_2 |G|. So the spatial gradient and the weights bound both.

Source: interspace pruning (Wimmer et al. 2022), section 5.2 and equation (7); the bounds follow by Cauchy-Schwarz.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fbconv.nn import FBConv2d, FilterBasis

pytestmark = pytest.mark.usefixtures("one_thread")
SLACK = 1 + 1e-12


class Matrices(NamedTuple):
    """A layer as H = F L, with the gradients of a random loss."""

    basis: Tensor
    coefficients: Tensor
    filters_grad: Tensor
    coefficients_grad: Tensor
    basis_grad: Tensor


def layer_of(generator, init="random", elements=9, density=0.3, channels=(4, 5), basis=None):
    conv = nn.Conv2d(channels[1], channels[0], 3, padding=1, bias=False, dtype=torch.float64)
    conv.weight.data = torch.randn(conv.weight.shape, generator=generator, dtype=torch.float64)
    basis = basis or FilterBasis(3, elements, init, generator=generator, dtype=torch.float64)
    mask = torch.rand(*channels, basis.n_elements, generator=generator) < density
    return FBConv2d.from_dense(conv, basis, mask, generator=generator)


def gradients(layer, generator):
    """By the layer's own backward pass, and beside it that of a dense convolution with the composed filters."""
    layer.zero_grad()
    image = torch.randn(2, layer._shape[1], 6, 5, generator=generator, dtype=torch.float64)
    output = layer(image)
    upstream = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(upstream)
    dense = layer.to_dense()
    dense(image).backward(upstream)
    return matrices(layer, dense.weight.grad)


def matrices(layer, filters_grad):
    coefficients_grad = layer.pattern.scatter(layer.values.grad)
    columns = [
        value.flatten(0, 1).flatten(1).T for value in (layer.dense_values().detach(), filters_grad, coefficients_grad)
    ]
    basis = layer.basis.elements
    return Matrices(basis.detach().flatten(1).T, *columns, basis.grad.flatten(1).T)


def largest(matrix):
    return torch.linalg.matrix_norm(matrix, 2)


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
@pytest.mark.parametrize(("init", "elements"), [("standard", 9), ("orthonormal", 9), ("random", 5), ("random", 12)])
def test_spatial_gradients_bound_both(generator, init, elements, density):
    for _ in range(5):
        m = gradients(layer_of(generator, init, elements, density), generator)
        spatial = m.filters_grad.norm()
        assert m.coefficients_grad.norm() <= SLACK * largest(m.basis) * spatial
        assert m.basis_grad.norm() <= SLACK * largest(m.coefficients) * spatial
        assert largest(m.coefficients) <= SLACK * m.coefficients.norm()


def test_every_coefficient_is_bounded_by_its_own_filter(generator):
    m = gradients(layer_of(generator), generator)
    bound = m.basis.norm(dim=0)[:, None] * m.filters_grad.norm(dim=0)
    assert (m.coefficients_grad.abs() <= SLACK * bound).all()


def test_dense_coefficients_are_bounded_from_below(generator):
    m = gradients(layer_of(generator, density=1.0), generator)
    smallest = torch.linalg.svdvals(m.basis)[-1]
    assert smallest > 0
    assert m.coefficients_grad.norm() * SLACK >= smallest * m.filters_grad.norm()


@pytest.mark.parametrize("init", ["standard", "orthonormal"])
def test_orthonormal_bases_keep_the_norm(generator, init):
    m = gradients(layer_of(generator, init, density=1.0), generator)
    torch.testing.assert_close(m.coefficients_grad.norm(), m.filters_grad.norm(), rtol=1e-6, atol=0)


def test_one_filter_meets_the_bound_of_its_basis(generator):
    m = gradients(layer_of(generator, density=1.0, channels=(1, 1)), generator)
    torch.testing.assert_close(m.basis_grad.norm(), m.coefficients.norm() * m.filters_grad.norm())


def test_parallel_gradients_meet_the_bounds(generator):
    """Gradients along the basis' first left singular vector, of size the coefficients' first right one."""
    layer = layer_of(generator, density=1.0)
    coefficients = layer.dense_values().detach().flatten(0, 1).T
    left = torch.linalg.svd(layer.basis.elements.detach().flatten(1).T).U[:, 0]
    right = torch.linalg.svd(coefficients).Vh[0]
    filters_grad = torch.outer(right, left).view_as(layer.weight)
    layer.weight.backward(filters_grad)
    m = matrices(layer, filters_grad)
    torch.testing.assert_close(m.coefficients_grad.norm(), largest(m.basis) * filters_grad.norm())
    torch.testing.assert_close(m.basis_grad.norm(), largest(m.coefficients) * filters_grad.norm())


def test_a_shared_basis_is_bounded_by_the_sum_of_its_layers(generator):
    basis = FilterBasis(3, init="random", generator=generator, dtype=torch.float64)
    first, second = (layer_of(generator, basis=basis, channels=channels) for channels in ((4, 3), (2, 4)))
    image = torch.randn(2, 3, 6, 5, generator=generator, dtype=torch.float64)
    upstream = torch.randn(2, 2, 6, 5, generator=generator, dtype=torch.float64)
    second(first(image)).backward(upstream)
    dense = nn.Sequential(first.to_dense(), second.to_dense())
    dense(image).backward(upstream)
    pairs = [matrices(one, other.weight.grad) for one, other in zip((first, second), dense, strict=True)]
    bound = sum(largest(m.coefficients) * m.filters_grad.norm() for m in pairs)
    assert 0 < basis.elements.grad.norm() <= SLACK * bound
