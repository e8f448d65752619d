"""SynFlow against its definition: products of matrices, finite differences, conservation."""

import copy
import itertools

import pytest
import torch
from score_cases import flatten, generator, random_masks, tiny_batches, tiny_net
from torch import nn

from fbconv.convert import freeze, interspace, sparsify
from fbconv.masks import LayerCollapseWarning
from fbconv.schedules import prune_masks
from fbconv.scores import score

pytestmark = pytest.mark.usefixtures("one_thread")


def linear_net(widths, seed=0, bias=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*[nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths)])


def test_synflow_of_a_linear_net_is_the_flow_through_each_weight():
    """``|w_ij|`` times all that arrives at j times all that leaves from i, each a product of matrices."""
    net = linear_net((5, 7, 4, 3))
    matrices = [layer.weight.detach().double().abs() for layer in net]
    for i, value in enumerate(score(net, "synflow", input_shape=(5,)).values()):
        arriving = torch.ones(5, dtype=torch.float64)
        for matrix in matrices[:i]:
            arriving = matrix @ arriving
        leaving = torch.ones(3, dtype=torch.float64)
        for matrix in matrices[:i:-1]:
            leaving = leaving @ matrix
        torch.testing.assert_close(value, matrices[i] * torch.outer(leaving, arriving), rtol=1e-12, atol=0)


def test_synflow_is_conserved_from_layer_to_layer():
    totals = [float(value.sum()) for value in score(linear_net((5, 7, 4, 3)), "synflow", input_shape=(5,)).values()]
    assert totals == pytest.approx([totals[0]] * 3, rel=1e-12)


def absolute_flow(net, overrides):
    """R by its definition, without touching the statistics of batch norm."""
    state = {name: p.detach().double().abs() for name, p in net.named_parameters()}
    state |= {name: b.double() if b.is_floating_point() else b for name, b in net.named_buffers()}
    ones = torch.ones(1, 1, 6, 6, dtype=torch.float64)
    return float(torch.func.functional_call(copy.deepcopy(net).eval(), state | overrides, (ones,)).sum())


def test_synflow_by_finite_differences_with_statistics_as_they_are():
    net, step = tiny_net().float(), 1e-6
    with torch.no_grad():
        net[1].running_mean.copy_(torch.tensor([-0.3, 0.2, -0.1]))
        net[1].running_var.copy_(torch.tensor([0.5, 2.0, 1.5]))
        net[1].weight.mul_(-1)
    values = score(net, "synflow", tiny_batches(1))
    for key, value in values.items():
        assert value.dtype == torch.float64
        weight = net.get_parameter(key).detach().double().abs()
        for index in range(weight.numel()):
            flows = []
            for sign in (1, -1):
                scaled = weight.clone()
                scaled.view(-1)[index] *= 1 + sign * step
                flows.append(absolute_flow(net, {key: scaled}))
            expected = abs(flows[0] - flows[1]) / (2 * step)
            assert float(value.flatten()[index]) == pytest.approx(expected, rel=1e-4, abs=1e-8)
    with torch.no_grad():
        net[1].running_mean.abs_()
    assert not torch.equal(score(net, "synflow", tiny_batches(1))["0.weight"], values["0.weight"])


def test_synflow_reads_no_data_and_no_training_flag():
    net, batches = tiny_net(), tiny_batches(1)
    net.insert(2, nn.Dropout(0.5))
    expected = score(net, "synflow", input_shape=(1, 6, 6))
    others = [
        score(net.train(), "synflow", batches),
        score(net.eval(), "synflow", batches, generator=generator(9)),
        score(net, "synflow", [100 * batches[0][0]]),
    ]
    for other in others:
        assert all(torch.equal(other[key], expected[key]) for key in expected)


def test_synflow_does_not_underflow():
    """Forty layers of small weights: in float32 every score would be 0, a tie of everything with everything."""
    net = linear_net([4] * 41)
    with torch.no_grad():
        for layer in net:
            layer.weight.mul_(0.05)
    values = flatten(score(net, "synflow", input_shape=(4,)))
    assert 0 < values.max() < torch.finfo(torch.float32).smallest_normal / 1e6
    assert (values > 0).all()
    assert len(values.unique()) > 600
    assert (values.float() == 0).all()


def test_synflow_of_compressed_layers():
    net = tiny_net()
    masks = random_masks(net, 0.5)
    pruned = copy.deepcopy(net)
    with torch.no_grad():
        for key, mask in masks.items():
            pruned.get_parameter(key).mul_(mask)
    of_pruned, of_dense = (score(model, "synflow", input_shape=(1, 6, 6)) for model in (pruned, net))
    for compress, expected in ((sparsify, of_pruned), (freeze, of_dense)):
        values = score(compress(net, masks), "synflow", input_shape=(1, 6, 6))
        for key, mask in masks.items():
            value = values[key.replace("weight", "values")]
            assert (value[~mask] == -torch.inf).all()
            torch.testing.assert_close(value[mask], expected[key][mask], rtol=1e-10, atol=1e-14)


def test_synflow_of_filter_bases_takes_absolute_coefficients_and_absolute_bases():
    net = tiny_net()
    standard = score(interspace(net), "synflow", input_shape=(1, 6, 6))["0.values"]
    torch.testing.assert_close(standard.view(3, 1, 3, 3), score(net, "synflow", input_shape=(1, 6, 6))["0.weight"])
    model = interspace(net, init="orthonormal", generator=generator(3))
    leaves = {key: model.get_submodule(key).dense_values().detach().abs().requires_grad_() for key in ("0", "3")}
    bases = {key: model.get_submodule(key).basis.elements.detach().abs() for key in leaves}
    composed = {f"{key}.weight": torch.einsum("abn,nij->abij", leaves[key], bases[key]) for key in leaves}
    state = {name: p.detach().abs() for name, p in net.named_parameters()} | dict(net.named_buffers()) | composed
    flow = torch.func.functional_call(net.eval(), state, (torch.ones(1, 1, 6, 6, dtype=torch.float64),)).sum()
    gradients = torch.autograd.grad(flow, list(leaves.values()))
    values = score(model, "synflow", input_shape=(1, 6, 6))
    for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        torch.testing.assert_close(values[f"{key}.values"], leaf.detach() * gradient, rtol=1e-10, atol=1e-14)


def test_synflow_needs_a_shape_from_somewhere():
    for batches in (None, [], [({"image": torch.ones(1)}, None)]):
        with pytest.raises(
            ValueError, match="synflow: input_shape, or batches whose inputs are tensors, must be given"
        ):
            score(tiny_net(), "synflow", batches)


class Residual(nn.Module):
    """A block with a 1x1 shortcut, as at the beginning of a stage of a ResNet."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1, self.conv2 = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
            self.shortcut = nn.Conv2d(8, 16, 1)
            self.fc = nn.Linear(16, 4)
            nn.init.normal_(self.shortcut.weight, std=0.01)

    def forward(self, x):
        return self.fc((self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x)).relu().mean((2, 3)))


def test_synflow_cuts_the_shortcut_with_a_warning_unless_it_is_excluded():
    """Of two ways, SynFlow keeps the one with the larger products; where that empties the shortcut, it must be said."""
    with pytest.warns(LayerCollapseWarning, match=r"'shortcut\.weight'"):
        masks = prune_masks(Residual(), "synflow", 0.9, rounds=20, input_shape=(8, 8, 8))
    assert all(mask.any() for key, mask in masks.items() if key != "shortcut.weight")
    masks = prune_masks(Residual(), "synflow", 0.9, rounds=20, input_shape=(8, 8, 8), exclude=["shortcut"])
    assert list(masks) == ["conv1.weight", "conv2.weight", "fc.weight"]
    assert all(mask.any() for mask in masks.values())
