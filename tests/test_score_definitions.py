"""USNIP and GraSP against their definitions: explicit Hessians and finite differences."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from score_cases import flatten, generator, random_masks, tiny_batches, tiny_net
from torch import nn
from torch.nn import functional as F

import fbconv.nn as fnn
from fbconv import scores
from fbconv.convert import freeze, sparsify
from fbconv.masks import select
from fbconv.scores import score

pytestmark = pytest.mark.usefixtures("one_thread")


def loss_of(net, weights, batches, temperature=1.0):
    """The loss as a function of a dict of weights, in plain torch and training mode."""
    state = {**dict(net.named_parameters()), **{name: b.clone() for name, b in net.named_buffers()}, **weights}
    outputs = [torch.func.functional_call(net.train(), state, (inputs,)) / temperature for inputs, _ in batches]
    return sum(F.cross_entropy(output, targets) for output, (_, targets) in zip(outputs, batches, strict=True))


def gradient_flow(net, embed, vector, batches, temperature):
    """``Theta * (H g)`` with H as an explicit matrix; ``embed`` makes the weights of ``net`` from the variables."""

    def loss(variables):
        return loss_of(net, embed(variables), batches, temperature)

    hessian = torch.autograd.functional.hessian(loss, vector)
    gradient = torch.autograd.functional.jacobian(loss, vector)
    return vector * (hessian @ gradient)


def split_like(tensors, vector):
    parts = vector.split([tensor.numel() for tensor in tensors.values()])
    return {key: part.view(tensors[key].shape) for key, part in zip(tensors, parts, strict=True)}


# --- GraSP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 200.0])
def test_grasp_is_theta_times_hessian_times_gradient(count, temperature):
    net, batches = tiny_net(), tiny_batches(count)
    weights = {key: net.get_parameter(key) for key in ("0.weight", "3.weight", "5.weight")}
    expected = gradient_flow(net, partial(split_like, weights), flatten(weights), batches, temperature)
    given = {} if temperature == 200 else {"temperature": temperature}  # 200 is the default
    values = flatten(score(net, "grasp", batches, **given))
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert (values > 0).any()
    assert (values < 0).any()


@pytest.mark.parametrize("kind", ["masked", "sparse", "frozen"])
def test_grasp_of_part_of_the_weights(kind):
    """The variables are the weights that are left: the gradient of the others must not enter H g."""
    net, batches = tiny_net(), tiny_batches(2)
    masks = random_masks(net, 0.5)
    weights = {key: net.get_parameter(key).detach() for key in masks}
    chosen = flatten(masks)

    def embed(variables):
        rest = flatten(weights) if kind == "frozen" else torch.zeros(len(chosen), dtype=torch.float64)
        return split_like(weights, rest.masked_scatter(chosen, variables))

    expected = gradient_flow(net, embed, flatten(weights)[chosen], batches, 200.0)
    if kind == "masked":
        values = flatten(score(net, "grasp", batches, masks=masks))
    else:
        values = flatten(score({"sparse": sparsify, "frozen": freeze}[kind](net, masks), "grasp", batches))
    assert (values[~chosen] == -torch.inf).all()
    torch.testing.assert_close(values[chosen], expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))


def test_grasp_goes_twice_through_attention():
    """Torch's fused kinds of attention have no second derivatives."""

    class Attention(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.project, self.head, self.fused = nn.Linear(4, 12), nn.Linear(4, 3), fused

        def forward(self, x):
            q, k, v = self.project(x).unsqueeze(1).chunk(3, -1)
            by_hand = (q @ k.mT / 2).softmax(-1) @ v
            mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else by_hand
            return self.head(mixed.squeeze(1).mean(1))

    fused, plain = Attention(fused=True).double(), Attention(fused=False).double()
    plain.load_state_dict(fused.state_dict())
    batches = [(torch.randn(5, 7, 4, generator=generator(), dtype=torch.float64), torch.arange(5) % 3)]
    values, expected = (score(model, "grasp", batches) for model in (fused, plain))
    for key in expected:
        torch.testing.assert_close(values[key], expected[key])


def test_grasp_of_a_compiled_model():
    """Compiled graphs have no second derivatives either."""
    net, batches = tiny_net(), tiny_batches(2)
    expected = score(net, "grasp", batches)
    compiled = torch.compile(net, backend="aot_eager")
    compiled(batches[0][0]).sum().backward()
    for key, value in score(compiled, "grasp", batches).items():
        torch.testing.assert_close(value, expected[key.removeprefix("_orig_mod.")])


def test_grasp_of_a_loss_without_curvature_is_zero():
    batches = [(torch.ones(2, 3), None)]
    values = score(nn.Linear(3, 2), "grasp", batches, loss_fn=lambda outputs, _: outputs.sum())
    assert torch.equal(values["weight"], torch.zeros(2, 3))


def test_grasp_of_filter_basis_coefficients():
    net, batches = tiny_net(), tiny_batches(1)
    mask = torch.rand(3, 1, 9, generator=generator(1)) < 0.6
    basis = fnn.FilterBasis(3, init="orthonormal", generator=generator(4), dtype=torch.float64)
    layer = fnn.FBConv2d.from_dense(net[0], basis, mask)
    rest = {key: net.get_parameter(key).detach() for key in ("3.weight", "5.weight")}
    elements, nnz = basis.elements.detach(), int(mask.sum())

    def embed(variables):
        dense = torch.zeros(3, 1, 9, dtype=torch.float64).masked_scatter(mask, variables[:nnz])
        composed = torch.einsum("abn,nij->abij", dense, elements)
        return {"0.weight": composed, **split_like(rest, variables[nnz:])}

    vector = torch.cat([layer.values.detach(), flatten(rest)])
    expected = gradient_flow(net, embed, vector, batches, 200.0)
    model = copy.deepcopy(net)
    model[0] = layer
    values = score(model, "grasp", batches)
    assert torch.equal(values["0.values"] == -torch.inf, ~mask)
    ours = torch.cat([values["0.values"][mask], values["3.weight"].flatten(), values["5.weight"].flatten()])
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9 * float(expected.abs().max()))


def test_grasp_keeps_what_the_gradient_norm_loses_most_from():
    """The sign: by finite differences, removing weight i changes |g|^2 by -2 score_i in first order."""
    net, batches, step = tiny_net(), tiny_batches(1), 1e-6
    values = score(net, "grasp", batches, temperature=1.0)
    weights = {key: net.get_parameter(key).detach().clone() for key in values}

    def squared_norm(scaled):
        leaves = {key: value.requires_grad_() for key, value in scaled.items()}
        gradients = torch.autograd.grad(loss_of(net, leaves, batches), list(leaves.values()))
        return sum(float(gradient.square().sum()) for gradient in gradients)

    for key, index in (("0.weight", 4), ("3.weight", 0), ("3.weight", 7), ("5.weight", 20)):
        norms = []
        for sign in (1, -1):
            scaled = {name: weight.clone() for name, weight in weights.items()}
            scaled[key].view(-1)[index] *= 1 - sign * step
            norms.append(squared_norm(scaled))
        change = (norms[0] - norms[1]) / (2 * step)
        assert change == pytest.approx(-2 * float(values[key].flatten()[index]), rel=1e-4, abs=1e-9)


def test_grasp_masks_do_not_depend_on_the_scale_of_the_loss():
    net, batches = tiny_net(), tiny_batches(2)
    summed = score(net, "grasp", batches, loss_fn=partial(F.cross_entropy, reduction="sum"))
    mean = score(net, "grasp", batches)
    for key, mask in select(mean, 0.7).items():
        torch.testing.assert_close(summed[key], 25 * mean[key])
        assert torch.equal(select(summed, 0.7)[key], mask)


def test_grasp_draws_the_same_dropout_in_both_passes():
    """With the outputs linear in the weights and a square loss, Theta * (H g) is known for any one dropout mask."""
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 1, bias=False)).double()
    inputs = torch.randn(4, 6, generator=generator(3), dtype=torch.float64)
    seen = []
    net[0].register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    loss_fn = lambda outputs, _: outputs.square().sum()  # noqa: E731
    values = score(net, "grasp", [(inputs, torch.zeros(4))], loss_fn, temperature=1.0)
    assert len(seen) == 2
    assert torch.equal(*seen)
    gram, weight = 2 * seen[0].T @ seen[0], net[1].weight.detach()
    torch.testing.assert_close(values["1.weight"], weight * (weight @ gram @ gram))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_grasp_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="grasp: temperature must be positive, got"):
        score(tiny_net(), "grasp", tiny_batches(1), temperature=temperature)


# --- USNIP ------------------------------------------------------------------------------------------------------------


def test_usnip_is_the_connection_sensitivity_for_the_labels_it_draws():
    net, batches, step = tiny_net(), tiny_batches(2), 1e-6
    drawn = []

    def recording(outputs, labels):
        drawn.append(labels)
        return F.cross_entropy(outputs, labels)

    values = score(net, "usnip", batches, recording, generator(3))
    relabelled = [(inputs, labels) for (inputs, _), labels in zip(batches, drawn, strict=True)]
    for key, value in values.items():
        weight = net.get_parameter(key).detach()
        for index in range(weight.numel()):
            losses = []
            for sign in (1, -1):
                scaled = weight.clone()
                scaled.view(-1)[index] *= 1 + sign * step
                losses.append(loss_of(net, {key: scaled}, relabelled).item())
            expected = abs(losses[0] - losses[1]) / (2 * step)
            assert float(value.flatten()[index]) == pytest.approx(expected, rel=1e-4, abs=1e-8)


def test_usnip_labels_are_uniform_and_from_the_generator():
    net = nn.Sequential(nn.Linear(2, 4))
    drawn = []

    def recording(outputs, labels):
        drawn.append(labels)
        return F.cross_entropy(outputs, labels)

    for seed in (1, 1, 2):
        score(net, "usnip", [torch.zeros(20_000, 2)], recording, generator(seed))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    counts = Counter(drawn[0].tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert all(abs(count - 5000) < 300 for count in counts.values())


def test_usnip_ignores_targets_and_takes_unlabelled_batches():
    net, batches = tiny_net(), tiny_batches(2)
    expected = score(net, "usnip", batches)
    for other in (
        [inputs for inputs, _ in batches],
        [(inputs, None) for inputs, _ in batches],
        [(x,) for x, _ in batches],
    ):
        values = score(net, "usnip", other)
        assert all(torch.equal(values[key], expected[key]) for key in expected)
    assert not torch.equal(score(net, "snip", batches)["0.weight"], expected["0.weight"])


def test_usnip_labels_of_dense_predictions():
    net = nn.Conv2d(1, 3, 3, padding=1)
    shapes = []

    def recording(outputs, labels):
        shapes.append(labels.shape)
        return F.cross_entropy(outputs, labels)

    score(nn.Sequential(net), "usnip", [torch.zeros(2, 1, 5, 6)], recording)
    assert shapes == [(2, 5, 6)]
    with pytest.raises(
        ValueError, match=r"usnip: the model's outputs must have shape \(batch, classes, \*\), got \(4,\)"
    ):
        score(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), "usnip", [torch.zeros(4, 3)])


def test_score_functions_are_public():
    net, batches = tiny_net(), tiny_batches(1)
    for name in ("random", "magnitude", "snip", "usnip", "grasp", "synflow"):
        by_name, by_function = score(net, name, batches), score(net, getattr(scores, name), batches)
        assert all(torch.equal(by_name[key], by_function[key]) for key in by_name)
    hot = score(net, partial(scores.grasp, temperature=1.0), batches)
    assert torch.equal(hot["0.weight"], score(net, "grasp", batches, temperature=1.0)["0.weight"])
