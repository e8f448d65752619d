"""The drop-in modules behave as a torch.nn.Module is expected to, and keep nothing dense."""

import copy
import gc
import io
import pickle

import pytest
import torch
from cases import random_mask
from torch import Tensor, nn

import fbconv.nn as fnn
from fbconv import SparsePattern, reference

CONV = {"in_channels": 4, "out_channels": 6, "kernel_size": (3, 2), "stride": (1, 2), "padding": 1, "groups": 2}
CONV_MASK = (6, 2, 3, 2)
MODULES = ["SparseConv2d", "FrozenConv2d", "SparseLinear", "FrozenLinear", "FBConv2d"]


def build(kind: str, generator: torch.Generator, density: float = 0.4) -> tuple[nn.Module, nn.Module, Tensor]:
    """The module, the dense one it was made from, and its mask."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        dense = nn.Linear(5, 7) if kind.endswith("Linear") else nn.Conv2d(**CONV)
    if kind == "FBConv2d":
        mask = random_mask(generator, (6, 2, 6), density)
        basis = fnn.FilterBasis((3, 2), init="orthonormal", generator=generator)
        return fnn.FBConv2d.from_dense(dense, basis=basis, mask=mask), dense, mask
    mask = random_mask(generator, dense.weight.shape, density)
    return getattr(fnn, kind).from_dense(dense, mask), dense, mask


def sample(module: nn.Module, generator: torch.Generator, batch: int = 3) -> Tensor:
    shape = (batch, 5) if "Linear" in type(module).__name__ else (batch, 4, 7, 6)
    return torch.randn(shape, generator=generator)


@pytest.fixture(params=MODULES)
def kind(request):
    return request.param


@pytest.fixture
def built(kind, generator):
    return build(kind, generator)


@pytest.fixture
def module(built):
    return built[0]


@pytest.fixture
def x(module, generator):
    return sample(module, generator)


def test_from_dense_is_the_masked_layer(kind, built, x):
    module, dense, mask = built
    expected = copy.deepcopy(dense)
    if kind.startswith("Sparse"):
        expected.weight.data *= mask
    if kind == "FBConv2d":
        coefficients = reference.embed(module.values, mask)
        expected.weight.data = torch.einsum("abn,nij->abij", coefficients, module.basis.elements).detach()
    torch.testing.assert_close(module(x), expected(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module.weight, expected.weight.data)
    assert torch.equal(module.bias, dense.bias)


def test_full_mask_keeps_the_function(kind, generator):
    module, dense, _ = build(kind, generator, density=1.1)
    x = sample(module, generator)
    torch.testing.assert_close(module(x), dense(x), rtol=1e-4, atol=1e-5)


def test_to_dense_is_the_same_function(module, x):
    dense = module.to_dense()
    assert type(dense) in (nn.Conv2d, nn.Linear)
    torch.testing.assert_close(dense(x), module(x), rtol=1e-4, atol=1e-5)
    assert dense.weight.requires_grad
    assert dense.weight.data_ptr() != module.weight.data_ptr()


def test_pattern_is_the_mask(built):
    module, _, mask = built
    assert torch.equal(module.pattern.mask(), mask)
    assert module.values.shape == (int(mask.sum()),)


def test_parameters_and_buffers(kind, module):
    parameters = {"values", "bias"} | ({"basis.elements"} if kind == "FBConv2d" else set())
    assert {name for name, _ in module.named_parameters()} == parameters
    assert set(dict(module.named_buffers())) == {"indices"} | ({"frozen"} if kind.startswith("Frozen") else set())


def test_no_bias(kind, generator):
    dense = nn.Linear(5, 7, bias=False) if kind.endswith("Linear") else nn.Conv2d(**CONV, bias=False)
    shape = (6, 2, 6) if kind == "FBConv2d" else dense.weight.shape
    module = getattr(fnn, kind).from_dense(dense, mask=random_mask(generator, shape, 0.5))
    assert module.bias is None
    assert module(sample(module, generator)).isfinite().all()
    assert module.to_dense().bias is None


def test_set_mask_keeps_common_values_and_starts_others_at_zero_or_frozen(kind, built, generator):
    module, _, mask = built
    before = module.pattern.scatter(module.values.detach())
    frozen = module.frozen.clone() if kind.startswith("Frozen") else torch.zeros(mask.shape)
    other = random_mask(generator, mask.shape, 0.5)
    module.set_mask(other)
    after = module.pattern.scatter(module.values.detach())
    assert torch.equal(module.pattern.mask(), other)
    assert torch.equal(after[mask & other], before[mask & other])
    assert torch.equal(after[other & ~mask], frozen[other & ~mask])
    assert module(sample(module, generator)).isfinite().all()


def test_training_moves_only_what_is_trained(kind, module, x):
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    before = module.weight.detach().clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())
    if kind != "FBConv2d":
        outside = ~module.pattern.mask()
        assert torch.equal(module.weight[outside], before[outside])
        assert not torch.equal(module.weight, before)


def test_gradients_have_the_parameters_shapes(module, x):
    module(x).sum().backward()
    assert all(parameter.grad.shape == parameter.shape for parameter in module.parameters())


def test_deepcopy_is_independent(module, x):
    twin = copy.deepcopy(module)
    expected = module(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    torch.testing.assert_close(twin(x), expected)


def test_pickle(module, x):
    torch.testing.assert_close(pickle.loads(pickle.dumps(module))(x), module(x))


def test_state_dict_round_trip_through_a_file(kind, module, x, generator):
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = build(kind, generator)[0]
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("density", [0.0, 0.15, 1.1])
def test_load_state_dict_adopts_another_mask(kind, module, x, density, generator):
    other = build(kind, generator, density)[0]
    assert other.values.shape != module.values.shape
    result = other.load_state_dict(module.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(other.pattern.mask(), module.pattern.mask())
    assert torch.equal(other(x), module(x))
    other(x).sum().backward()
    assert other.values.grad.shape == module.values.shape


def test_load_state_dict_within_a_model(kind, generator):
    def model(density):
        return nn.Sequential(build(kind, generator, density)[0], nn.ReLU())

    one, two = model(0.3), model(0.8)
    x = sample(one[0], generator)
    two.load_state_dict(one.state_dict())
    assert torch.equal(two(x), one(x))


def test_load_state_dict_refuses_a_corrupted_pattern(kind, module, generator):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    state["indices"][-1] = 10**6
    with pytest.raises((RuntimeError, ValueError), match="indices|packed"):
        build(kind, generator)[0].load_state_dict(state)


def test_double(module, x):
    expected = module(x)
    module.double()
    assert module.values.dtype == torch.float64
    assert module.indices.dtype == torch.int32
    torch.testing.assert_close(module(x.double()).float(), expected, rtol=1e-4, atol=1e-5)


def test_to_device_and_dtype(module, x, device):
    moved = copy.deepcopy(module).to(device, torch.float64)
    output = moved(x.to(device, torch.float64))
    assert output.device.type == device.type
    torch.testing.assert_close(output.cpu().float(), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
def test_autocast(module, x, dtype, device):
    module, x = module.to(device), x.to(device)
    with torch.autocast(device.type, dtype=dtype):
        output = module(x)
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), module(x), rtol=5e-2, atol=5e-2)
    output.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


def test_half_precision_module(module, x):
    expected = module(x)
    output = module.to(torch.bfloat16)(x.bfloat16())
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=5e-2, atol=5e-2)


def test_compile_fullgraph(module, x):
    eager = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for batch in (x, x[:2]):
        output, expected = compiled(batch), eager(batch)
        torch.testing.assert_close(output, expected)
        output.square().sum().backward()
        expected.square().sum().backward()
    for one, two in zip(module.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_compile_inductor(generator):
    module, *_ = build("SparseConv2d", generator)
    x = sample(module, generator)
    compiled = torch.compile(nn.Sequential(module, nn.ReLU()), fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x).relu())


def test_export_with_a_dynamic_batch(module, generator):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (sample(module, generator),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        x = sample(module, generator, size)
        torch.testing.assert_close(program.module()(x), module(x))


def test_meta(module, x):
    expected = module(x)
    output = module.to("meta")(x.to("meta"))
    assert output.device.type == "meta"
    assert output.shape == expected.shape


def test_requires_grad_false_is_inference(module, x):
    expected = module(x)
    module.requires_grad_(False)
    output = module(x)
    assert not output.requires_grad
    assert torch.equal(output, expected)
    with torch.no_grad():
        assert torch.equal(module(x), expected)


def test_repr_tells_how_many_weights_are_kept(kind, module):
    assert repr(module).startswith(kind)
    assert f"{module.pattern.nnz} of {module.pattern.shape}" in repr(module)


@pytest.mark.parametrize("backend", ["auto", "sparse", "dense"])
def test_backend_attribute(backend, generator):
    module, *_ = build("SparseConv2d", generator)
    x = sample(module, generator)
    expected = module(x)
    module.backend = backend
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_shared_basis_gets_the_sum_of_the_gradients(generator):
    basis = fnn.FilterBasis(3, init="orthonormal", generator=generator)
    first, second = fnn.FBConv2d(2, 3, 3, basis=basis), fnn.FBConv2d(3, 2, 3, basis=basis)
    model = nn.Sequential(first, second)
    assert first.basis is second.basis
    assert [name for name, _ in model.named_parameters() if name.endswith("elements")] == ["0.basis.elements"]
    model(torch.randn(2, 2, 8, 8, generator=generator)).square().sum().backward()
    total = basis.elements.grad.clone()
    twin = copy.deepcopy(model)
    twin[1].basis = copy.deepcopy(twin[1].basis)
    twin.zero_grad()
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    for copy_of in (model, twin):
        copy_of.zero_grad()
        copy_of(x).square().sum().backward()
    assert total.shape == basis.elements.shape
    torch.testing.assert_close(basis.elements.grad, twin[0].basis.elements.grad + twin[1].basis.elements.grad)


def nbytes(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def training_bytes(layer: nn.Module) -> int:
    """Parameters, gradients and optimizer state after a step, in bytes."""
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.zeros(1, 64, 8, 8)).sum().backward()
    optimizer.step()
    parameters = list(layer.parameters())
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    return nbytes(parameters) + nbytes(parameter.grad for parameter in parameters) + nbytes(state)


def test_memory_at_99_percent_sparsity(generator, record_property):
    dense = nn.Conv2d(64, 64, 3, padding=1)
    mask = random_mask(generator, dense.weight.shape, 0.01)
    layer = fnn.SparseConv2d.from_dense(dense, mask)
    share = training_bytes(layer) / training_bytes(dense)
    indices = nbytes(layer.buffers()) / nbytes(dense.parameters())
    record_property("training_bytes_share", share)
    record_property("index_bytes_share", indices)
    assert share < 0.05
    assert indices < 0.05


def live_tensors() -> list[Tensor]:
    gc.collect()
    return [o for o in gc.get_objects() if isinstance(o, Tensor)]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # reading a deprecated name of torch.distributed, by the collector
def test_nothing_dense_is_kept(generator):
    """After forward, backward and a step no live tensor has as many elements as the weight."""
    before = live_tensors()
    dense = nn.Conv2d(24, 23, 5)
    elements = dense.weight.numel()
    layer = fnn.SparseConv2d.from_dense(dense, random_mask(generator, dense.weight.shape, 0.01))
    del dense
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.randn(1, 24, 7, 7, generator=generator)).sum().backward()
    optimizer.step()
    known = set(map(id, before))
    assert [o.shape for o in live_tensors() if id(o) not in known and o.numel() >= elements] == []


def test_constructors_take_conv2d_arguments(generator):
    mask = random_mask(generator, CONV_MASK, 0.5)
    pattern = SparsePattern.from_mask(mask)
    layer = fnn.FBConv2d(4, 6, (3, 2), stride=(1, 2), padding=1, groups=2, bias=False)
    assert layer.pattern.density == 1.0
    assert layer(torch.ones(1, 4, 7, 6)).shape == nn.Conv2d(**CONV)(torch.ones(1, 4, 7, 6)).shape
    assert pattern.shape == CONV_MASK


@pytest.mark.parametrize("kind", ["SparseConv2d", "SparseLinear"])
def test_pruned_layers_refuse_to_freeze(kind, generator):
    module, *_ = build(kind, generator)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(TypeError, match=f"{kind}: pruned layers cannot freeze"):
        module.freeze(module.pattern.mask())
    assert module.state_dict().keys() == before.keys()
