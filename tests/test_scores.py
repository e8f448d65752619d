"""Scores: SNIP and the passive ones by their definitions, masks, inputs and errors."""

import copy

import numpy as np
import pytest
import torch
from score_cases import NAMES, generator, make_batches, random_masks, small_net
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import fbconv.nn as fnn
from fbconv.convert import freeze, interspace, sparsify
from fbconv.masks import select
from fbconv.models import build
from fbconv.schedules import prune_masks
from fbconv.scores import SCORES, register, score

pytestmark = pytest.mark.usefixtures("one_thread")


def connection_sensitivity(model, key, batches, step=1e-6):
    """SNIP by its definition: |dL/dc_i| at c = 1 where c_i multiplies weight i, by central differences."""
    model = copy.deepcopy(model).train()
    weight = model.get_parameter(key)
    original = weight.detach().clone()
    sensitivity = torch.zeros_like(original)
    with torch.no_grad():
        for i in range(weight.numel()):
            losses = []
            for sign in (1, -1):
                weight.copy_(original)
                weight.view(-1)[i] *= 1 + sign * step
                losses.append(sum(F.cross_entropy(model(x), y) for x, y in batches))
            sensitivity.view(-1)[i] = ((losses[0] - losses[1]) / (2 * step)).abs()
    return sensitivity


@pytest.mark.parametrize("count", [1, 3])
def test_snip_is_the_connection_sensitivity(count):
    model, batches = small_net(), make_batches(count)
    scores = score(model, "snip", batches)
    assert list(scores) == ["0.weight", "4.weight", "6.weight"]
    for key, value in scores.items():
        expected = connection_sensitivity(model, key, batches)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)


def test_gradients_are_summed_before_the_absolute_value():
    model, batches = small_net(), make_batches(2)
    both = score(model, "snip", batches)
    apart = [score(model, "snip", [batch]) for batch in batches]
    for key in both:
        assert (both[key] <= apart[0][key] + apart[1][key] + 1e-12).all()
        assert not torch.allclose(both[key], apart[0][key] + apart[1][key])


def test_snip_on_lenet5_matches_autograd():
    model = build("lenet5", seed=1).double()
    images = torch.randn(8, 1, 28, 28, generator=generator(2), dtype=torch.float64)
    labels = torch.arange(8)
    F.cross_entropy(model(images), labels).backward()
    for key, value in score(model, "snip", [(images, labels)]).items():
        weight = model.get_parameter(key)
        torch.testing.assert_close(value, (weight * weight.grad).abs().detach())


def test_snip_uses_the_given_loss():
    model, batches = small_net(), make_batches(1)
    scores = score(model, "snip", batches, loss_fn=lambda outputs, _: outputs.square().sum())
    twice = score(model, "snip", batches, loss_fn=lambda outputs, _: 2 * outputs.square().sum())
    for key in scores:
        torch.testing.assert_close(twice[key], 2 * scores[key])
        assert not torch.allclose(scores[key], score(model, "snip", batches)[key])


def test_snip_scores_in_training_mode():
    model, batches = small_net(), make_batches(1)
    expected = score(model, "snip", batches)
    model(batches[0][0])  # other running statistics, same batch statistics
    for key, value in score(model.eval(), "snip", batches).items():
        assert torch.equal(value, expected[key])


def test_snip_under_no_grad_and_of_parameters_that_need_none():
    model, batches = small_net(), make_batches(1)
    expected = score(model, "snip", batches)
    model.requires_grad_(False)
    with torch.no_grad():
        scores = score(model, "snip", batches)
    for key, value in scores.items():
        assert torch.equal(value, expected[key])
        assert not value.requires_grad
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_weight_that_the_output_ignores_scores_zero():
    class Ignoring(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x)

    scores = score(Ignoring(), "snip", [(torch.ones(2, 4), torch.tensor([0, 1]))])
    assert not scores["unused.weight"].any()
    assert scores["used.weight"].any()


def test_magnitude():
    model = small_net()
    for key, value in score(model, "magnitude").items():
        assert torch.equal(value, model.get_parameter(key).detach().abs())


def test_random_is_the_absolute_value_of_normal_numbers_from_the_generator():
    model = build("lenet300")
    one, again, other = (score(model, "random", generator=generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert not torch.equal(one["fc1.weight"], other["fc1.weight"])
    assert one["fc1.weight"].mean().item() == pytest.approx((2 / torch.pi) ** 0.5, rel=0.01)
    assert one["fc1.weight"].square().mean().item() == pytest.approx(1, rel=0.02)
    torch.manual_seed(9)
    assert torch.equal(score(model, "random")["fc1.weight"], score(model, "random")["fc1.weight"])


@pytest.mark.parametrize("compress", [sparsify, freeze])
def test_compressed_modules_score_only_their_pattern(compress):
    model, batches = small_net(), make_batches(2)
    masks = random_masks(model, 0.4)
    compressed = compress(model, masks)
    scores = score(compressed, "snip", batches)
    assert list(scores) == ["0.values", "4.values", "6.values"]
    # The same forward with plain modules holding the effective weights has the same gradients at the mask.
    plain = small_net()
    with torch.no_grad():
        for key, mask in masks.items():
            if compress is sparsify:
                plain.get_parameter(key).mul_(mask)
    expected = score(plain, "snip", batches)
    for key, mask in masks.items():
        value = scores[key.replace("weight", "values")]
        assert value.shape == mask.shape
        assert (value[~mask] == -torch.inf).all()
        torch.testing.assert_close(value[mask], expected[key][mask], rtol=1e-7, atol=1e-12)


def test_snip_of_filter_basis_coefficients_is_the_connection_sensitivity():
    basis = fnn.FilterBasis(3, init="orthonormal", generator=generator(4), dtype=torch.float64)
    model, batches = small_net(), make_batches(1)
    mask = torch.rand(4, 2, 9, generator=generator(1)) < 0.5
    model[0] = fnn.FBConv2d.from_dense(model[0], basis, mask)
    model[4] = fnn.FBConv2d.from_dense(model[4], basis)
    scores = score(model, "snip", batches)
    assert scores["0.values"].shape == mask.shape
    assert torch.equal(scores["0.values"] == -torch.inf, ~mask)
    expected = connection_sensitivity(model, "0.values", batches)
    torch.testing.assert_close(scores["0.values"][mask], expected, rtol=1e-5, atol=1e-8)
    expected = connection_sensitivity(model, "4.values", batches).view(4, 2, 9)
    torch.testing.assert_close(scores["4.values"], expected, rtol=1e-5, atol=1e-8)


def test_spatial_and_standard_interspace_scores_agree():
    model, batches = small_net(), make_batches(1)
    spatial, coefficients = score(model, "snip", batches), score(interspace(model), "snip", batches)
    for key in ("0", "4"):
        torch.testing.assert_close(coefficients[f"{key}.values"], spatial[f"{key}.weight"].flatten(2))


def test_pruning_in_rounds_stays_within_the_pattern():
    model, batches = small_net(), make_batches(1)
    total, previous = sum(value.numel() for value in score(model, "magnitude").values()), None
    for sparsity in (0.5, 0.75, 0.9):
        masks = select(score(model, "snip", batches), sparsity)
        model = sparsify(model, masks)
        masks = {key.rpartition(".")[0]: mask for key, mask in masks.items()}
        assert sum(int(mask.sum()) for mask in masks.values()) == int((1 - sparsity) * total + 1e-6)
        if previous:
            assert all((mask <= previous[key]).all() for key, mask in masks.items())
        previous = masks


def test_callables_and_registered_functions():
    model = small_net()
    assert torch.equal(score(model, lambda m, w, b, f, g: {k: 2 * v for k, v in w.items()})["0.weight"],
                       2 * model[0].weight.detach())  # fmt: skip
    try:

        @register("negative")
        def negative(model, weights, batches, loss_fn, generator):
            return {key: -weight for key, weight in weights.items()}

        assert torch.equal(score(model, "negative")["0.weight"], -model[0].weight.detach())
    finally:
        SCORES.pop("negative")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("snap", None), "name must be one of .*snip.* or a callable, got 'snap'"),
        (("snip", None), "needs batches, an iterable of .* got None"),
        (("snip", []), "at least one .* pair, got none"),
        (("snip", make_batches(1)[0]), "must yield .* pairs, got Tensor"),
        (("snip", [(torch.ones(1),)]), "must yield .* pairs, got tuple"),
        *((((name, None), "needs batches, an iterable of .* got None")) for name in ("usnip", "grasp")),
        *((((name, []), "at least one .* pair, got none")) for name in ("usnip", "grasp")),
        ((lambda *_: {}, None), "'0.weight' must be scored, got scores of nothing"),
        (
            (lambda *_: {"0.weight": torch.ones(3)}, None),
            r"'0.weight' must be scored in shape \(4, 2, 3, 3\), got \(3,\)",
        ),
        ((lambda *_: None, None), "must return name -> score, got NoneType"),
        ((lambda *_: {"0.weight": np.ones(3)}, None), "'0.weight' must be scored by a tensor, got ndarray"),
        (("snip", 3), "batches must be an iterable of .* got int"),
        (("grasp", 3), "batches must be an iterable of .* got int"),
        (("snip", make_batches(1), lambda outputs, _: outputs), r"loss must be a scalar .* got shape \(6, 3\)"),
        (("usnip", make_batches(1), lambda *_: 0.5), "loss must be a scalar .* got float"),
        (("grasp", make_batches(1), lambda outputs, _: outputs.detach().sum()), "got shape .* without a gradient"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        score(small_net(), *arguments)


def test_a_model_without_prunable_weights():
    with pytest.raises(ValueError, match="must have a Conv2d, a Linear or a compressed layer"):
        score(nn.Sequential(nn.BatchNorm2d(3)), "magnitude")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "wrap", [nn.utils.weight_norm, lambda module: prune.random_unstructured(module, "weight", 0.5)]
)
def test_weights_that_are_no_parameters_are_named(wrap):
    model = small_net()
    wrap(model[4])
    for call in (lambda: score(model, "magnitude"), lambda: prune_masks(model, "magnitude", 0.5)):
        with pytest.raises(ValueError, match=r"'4\.weight' must be a parameter, but is computed from others"):
            call()


def test_a_loss_that_is_not_finite_is_found_at_selection():
    model, batches = small_net(), make_batches(1)
    scores = score(model, "snip", batches, loss_fn=lambda outputs, _: outputs.sum() * torch.nan)
    with pytest.raises(ValueError, match=r"'0\.weight' must not be NaN"):
        select(scores, 0.5)


# --- masks: what is pruned takes no part ------------------------------------------------------------------------------


def snip_without_data(model, weights, batches, loss_fn, generator):
    """A data-driven score that looks at nothing but ``backward`` and ``.grad``."""
    loss_fn(model(batches[0][0]), batches[0][1]).backward()
    return {key: weight * weight.grad for key, weight in weights.items()}


@pytest.mark.parametrize("name", [*NAMES[1:], snip_without_data])
def test_masked_weights_score_worst_and_the_rest_as_in_the_pruned_network(name):
    model, batches = small_net(), make_batches(2)
    masks = random_masks(model, 0.4)
    scores, expected = score(model, name, batches, masks=masks), score(sparsify(model, masks), name, batches)
    for key, mask in masks.items():
        theirs = expected[key.replace("weight", "values")]
        assert (scores[key][~mask] == -torch.inf).all()
        torch.testing.assert_close(scores[key], theirs, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("compress", [sparsify, freeze])
def test_masks_of_compressed_layers(compress, name):
    """Masks within the patterns act as smaller patterns do; frozen layers keep their weights."""
    model, batches = small_net(), make_batches(1)
    outer = random_masks(model, 0.7)
    inner = {key: mask & (torch.rand(mask.shape, generator=generator(8)) < 0.5) for key, mask in outer.items()}
    masks = {key.replace("weight", "values"): mask for key, mask in inner.items()}
    scores = score(compress(model, outer), name, batches, masks=masks)
    for key, value in score(compress(model, inner), name, batches).items():
        torch.testing.assert_close(scores[key], value, rtol=1e-9, atol=1e-14)


def test_layers_without_a_mask_are_whole():
    model, batches = small_net(), make_batches(1)
    mask = random_masks(model, 0.5)["4.weight"]
    scores = score(model, "snip", batches, masks={"4.weight": mask})
    assert torch.equal(scores["4.weight"] == -torch.inf, ~mask)
    assert scores["0.weight"].isfinite().all()
    assert not torch.equal(scores["0.weight"], score(model, "snip", batches)["0.weight"])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"1.weight": torch.ones(4, dtype=torch.bool)}, r"masks must be of 0\.weight, 4\.weight, 6\.weight, got '1\.w"),
        ({"0.weight": torch.ones(4, 2, 3, 3)}, r"'0.weight' must be bool of shape \(4, 2, 3, 3\), got torch.float32"),
        ({"6.weight": torch.ones(3, dtype=torch.bool)}, r"must be bool of shape \(3, 64\), got .* of shape \(3,\)"),
    ],
)
def test_masks_that_do_not_fit(masks, message):
    with pytest.raises(ValueError, match=message):
        score(small_net(), "magnitude", masks=masks)


# --- inputs, devices --------------------------------------------------------------------------------------------------


class TwoHeaded(nn.Module):
    """Takes a dict, returns a dict."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 2)

    def forward(self, inputs):
        return {"left": self.left(inputs["left"]), "right": self.right(inputs["more"][0])}


def test_nested_inputs_and_a_custom_loss():
    model = TwoHeaded()
    inputs = {"left": torch.randn(6, 4, generator=generator(1)), "more": (torch.randn(6, 5, generator=generator(2)),)}
    targets = [torch.zeros(6, 3), torch.ones(6, 2)]

    def loss_fn(outputs, targets):
        return F.mse_loss(outputs["left"], targets[0]) + F.l1_loss(outputs["right"], targets[1])

    scores = score(model, "snip", [(inputs, targets)], loss_fn)
    loss_fn(model(inputs), targets).backward()
    for key, value in scores.items():
        weight = model.get_parameter(key)
        torch.testing.assert_close(value, (weight * weight.grad).abs().detach())
    with pytest.raises(ValueError, match="grasp: the model must return a tensor, unless temperature is 1, got dict"):
        score(model, "grasp", [(inputs, targets)], loss_fn)
    # The mean square of 6 x 3 linear outputs: H g by hand.
    hot = score(model, "grasp", [(inputs, targets)], loss_fn, temperature=1.0)
    x, weight = inputs["left"], model.left.weight
    ones = torch.cat([x, torch.ones(6, 1)], 1)
    residual = ones @ torch.cat([weight, model.left.bias[:, None]], 1).T
    expected = weight * (residual.T @ x @ x.T @ x) * (2 / 18) ** 2
    torch.testing.assert_close(hot["left.weight"], expected.detach())
    assert not hot["right.weight"].any()  # |.| has no curvature


@pytest.mark.parametrize("name", NAMES)
def test_the_model_may_be_on_any_device(name, device):
    model, batches = small_net(torch.float32), make_batches(2, dtype=torch.float32)
    expected = score(model, name, batches)
    for key, value in score(model.to(device), name, batches).items():
        assert value.device.type == device.type
        torch.testing.assert_close(value.cpu(), expected[key], rtol=1e-3, atol=1e-6)


def test_batches_may_be_read_only_once():
    model, batches = small_net(), make_batches(3)
    for name in ("snip", "usnip", "grasp", "synflow"):
        scores, expected = score(model, name, iter(batches)), score(model, name, batches)
        assert all(torch.equal(scores[key], expected[key]) for key in expected)


def test_tied_weights_score_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    for name in NAMES[1:]:
        assert list(score(Tied(), name, [(torch.ones(2, 4), torch.tensor([0, 3]))])) == ["one.weight"]
