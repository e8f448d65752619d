"""torch.library.opcheck on every operator: schema, autograd registration, fake kernel, and tracing with any shape."""

import pytest
import torch
from raw_ops import ALL, ASKED_OF_PYTHON, DIFFERENTIABLE, TRACED_INFERENCE, op, raw_calls

import fbconv  # noqa: F401  registers the operators


def test_every_registered_operator_is_checked():
    schemas = torch._C._jit_get_all_schemas()
    registered = {schema.name.removeprefix("fbconv::") for schema in schemas if schema.name.startswith("fbconv::")}
    assert registered == {*ALL, *TRACED_INFERENCE, *ASKED_OF_PYTHON}


@pytest.mark.parametrize("name", [*ALL, *TRACED_INFERENCE])
def test_opcheck(name, dtype, device, generator):
    torch.library.opcheck(op(name), raw_calls(generator, device, dtype)[name])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_opcheck_with_gradients(name, device, generator):
    args = raw_calls(generator, device)[name]
    # A frozen conv's weight is an embedding of `values`, so it never gets a gradient of its own.
    frozen = {1} if name.startswith("frozen") or name == "embed" else set()
    leaves = tuple(
        arg.clone().requires_grad_()
        if isinstance(arg, torch.Tensor) and arg.is_floating_point() and position not in frozen
        else arg
        for position, arg in enumerate(args)
    )
    torch.library.opcheck(op(name), leaves)


@pytest.mark.parametrize("name", ALL)
def test_opcheck_without_autograd(name, device, generator):
    kernel = op(name).overloadpacket.kernel
    args = raw_calls(generator, device)[name]
    torch.library.opcheck(kernel, args, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))
    assert torch.equal(kernel(*args), op(name)(*args))


@pytest.mark.parametrize("name", [*ALL, *TRACED_INFERENCE])
def test_meta_matches_the_kernel(name, device, generator):
    args = raw_calls(generator, device)[name]
    real = op(name)(*args)
    meta = op(name)(*(arg.to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args))
    assert meta.device.type == "meta"
    assert (meta.shape, meta.dtype, meta.stride()) == (real.shape, real.dtype, real.stride())
