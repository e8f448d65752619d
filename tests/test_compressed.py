"""What must hold for every compressed layer over its life: masks, parameters and states that do not mix."""

import pytest
import torch
from cases import random_mask
from torch import nn

import fbconv
import fbconv.nn as fnn

LAYERS = [
    (fnn.SparseConv2d, lambda: nn.Conv2d(3, 4, 3)),
    (fnn.FrozenConv2d, lambda: nn.Conv2d(3, 4, 3)),
    (fnn.FBConv2d, lambda: nn.Conv2d(3, 4, 3)),
    (fnn.SparseLinear, lambda: nn.Linear(6, 5)),
    (fnn.FrozenLinear, lambda: nn.Linear(6, 5)),
]
every_layer = pytest.mark.parametrize(("kind", "dense"), LAYERS, ids=lambda layer: getattr(layer, "__name__", ""))


@pytest.mark.parametrize(("word", "value"), [(9, 2**31 - 1), (9, -5), (8, 3), (14, 99), (14, -1)])
def test_a_damaged_pattern_gives_no_mask(word, value):
    packed = fbconv.SparsePattern.from_mask(torch.ones(4, 4, dtype=torch.bool)).packed.clone()
    packed[word] = value
    with pytest.raises(ValueError, match="SparsePattern: packed must have"):
        fbconv.SparsePattern(packed, (4, 4)).mask()


@every_layer
def test_frozen_parameters_stay_frozen_in_conversion(kind, dense):
    layer = kind.from_dense(dense().requires_grad_(False))
    own = [layer.values, layer.bias]
    assert not any(parameter.requires_grad for parameter in [*own, *layer.to_dense().parameters()])


@every_layer
def test_another_mask_of_the_same_size_is_another_parameter(kind, dense, generator):
    layer = kind.from_dense(dense())
    mask = random_mask(generator, layer.pattern.shape, 0.5)
    layer.set_mask(mask)
    values = layer.values
    layer.set_mask(mask)
    assert layer.values is values
    layer.set_mask(mask.flatten().roll(1).view(mask.shape))
    assert layer.values is not values
    assert layer.values.shape == values.shape


@every_layer
def test_a_loaded_state_leaves_a_kept_pattern_alone(kind, dense, generator):
    layer, other = kind.from_dense(dense()), kind.from_dense(dense())
    mask = random_mask(generator, layer.pattern.shape, 0.5)
    layer.set_mask(mask)
    other.set_mask(mask.flatten().roll(1).view(mask.shape))
    kept = layer.pattern
    layer.load_state_dict(other.state_dict())
    assert torch.equal(kept.mask(), mask)
    assert torch.equal(layer.pattern.mask(), other.pattern.mask())


def models():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, 2))
    return {"spatial": plain, "interspace": fbconv.interspace(plain)}


@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_pruning_a_frozen_model_makes_its_frozen_weights_zero(space, generator):
    model = models()[space]
    masks = {name: random_mask(generator, shape, 0.3) for name, shape in fbconv.prunable(model).items()}
    frozen = fbconv.freeze(model, masks)
    again = dict(zip(fbconv.prunable(frozen), masks.values(), strict=True))
    pruned = fbconv.sparsify(frozen, again)
    for name, mask in zip(fbconv.prunable(pruned), masks.values(), strict=True):
        layer = pruned.get_submodule(name.rpartition(".")[0])
        assert layer.frozen is None
        assert torch.equal(layer.dense_values() != 0, mask)


@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_freezing_a_pruned_model_keeps_its_function(space, generator):
    model = models()[space]
    masks = {name: random_mask(generator, shape, 0.3) for name, shape in fbconv.prunable(model).items()}
    pruned = fbconv.sparsify(model, masks)
    smaller = {name: random_mask(generator, shape, 0.1) for name, shape in fbconv.prunable(pruned).items()}
    frozen = fbconv.freeze(pruned, smaller)
    x = torch.randn(2, 3, 6, 6, generator=generator)
    torch.testing.assert_close(frozen(x), pruned(x))
    assert sum(m.values.numel() for m in frozen.modules() if isinstance(m, fnn.Compressed)) == sum(
        int(mask.sum()) for mask in smaller.values()
    )


@every_layer
def test_made_and_converted_on_the_meta_device(kind, dense):
    layer = kind.from_dense(dense().to("meta"))
    assert layer.values.is_meta
    sizes = (3, 4, 3) if isinstance(dense(), nn.Conv2d) else (6, 5)
    assert kind(*sizes, device="meta").values.is_meta
