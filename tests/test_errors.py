"""Bad arguments raise an exception that names the operator and the argument; they never crash, on no device."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from raw_ops import ALL, INPUT_SHAPE, op, raw_calls
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

ERRORS = (RuntimeError, ValueError, TypeError)
CONVS = [name for name in ALL if "conv2d" in name]
BASES = [name for name in ALL if name.startswith("fb") and name != "fb_conv2d_grad_basis"]


def arguments(name: str, args: tuple) -> dict[str, Any]:
    return dict(zip([argument.name for argument in op(name)._schema.arguments], args, strict=True))


def wrong_rank(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0)


def other_float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.dtype == torch.float64 else torch.float64)


def integral(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int64)


def elsewhere(tensor: Tensor) -> Tensor:
    return tensor.to("cpu" if tensor.device.type == "cuda" else "meta")


def longer(dim: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)


def constant(value: Any) -> Callable[[Any], Any]:
    return lambda _: value


# what -> (argument to spoil, how, the operators it applies to)
BAD_ARGUMENTS: dict[str, tuple[str, Callable, list[str]]] = {
    "input of rank 5": ("input", wrong_rank, [n for n in CONVS if "grad_input" not in n]),
    "grad of rank 5": ("grad", wrong_rank, [n for n in CONVS if "grad" in n]),
    "values of rank 2": ("values", wrong_rank, ["sparse_conv2d", "fb_conv2d", "sparse_linear", "embed"]),
    "bias of rank 2": ("bias", wrong_rank, ["sparse_conv2d", "fb_conv2d", "frozen_conv2d", "sparse_linear"]),
    "basis of rank 5": ("basis", wrong_rank, BASES),
    "pattern of rank 2": ("pattern", wrong_rank, ALL),
    "integer input": ("input", integral, ["sparse_conv2d", "fb_conv2d", "frozen_conv2d", "sparse_linear"]),
    "integer dense": ("dense", integral, ["gather"]),
    "integer pattern of 64 bits": ("pattern", integral, ALL),
    "values of another dtype": ("values", other_float, [n for n in ALL if n.split("_")[-1] in {"conv2d", "linear"}]),
    "bias of another dtype": ("bias", other_float, ["sparse_conv2d", "fb_conv2d", "sparse_linear"]),
    "basis of another dtype": ("basis", other_float, BASES),
    "frozen of another dtype": ("frozen", other_float, ["embed"]),
    "one channel more": ("input", longer(1), ["sparse_conv2d", "fb_conv2d", "frozen_conv2d", "sparse_linear"]),
    "grad with one row more": ("grad", longer(2), [n for n in CONVS if "grad" in n]),
    "grad of a larger batch": ("grad", longer(0), [n for n in CONVS if "grad" in n]),
    "grad of more linear rows": ("grad", longer(0), ["sparse_linear_grad_values"]),
    "one value more": ("values", longer(0), [n for n in ALL if not n.endswith(("grad_values", "gather"))]),
    "one bias more": ("bias", longer(0), ["sparse_conv2d", "fb_conv2d", "frozen_conv2d", "sparse_linear"]),
    "one element more": ("basis", longer(1), BASES),
    "a basis more": ("basis", lambda b: b.repeat(2, 1, 1, 1), BASES),
    "basis_shape with an element more": ("basis_shape", constant([2, 6, 3, 2]), ["fb_conv2d_grad_basis"]),
    "basis_shape with a basis more": ("basis_shape", constant([4, 5, 3, 2]), ["fb_conv2d_grad_basis"]),
    "frozen of another shape": ("frozen", longer(0), ["embed"]),
    "negative padding": ("padding", constant([0, -1]), CONVS),
    "zero stride": ("stride", constant([1, 0]), CONVS),
    "zero dilation": ("dilation", constant([0, 1]), CONVS),
    "three strides": ("stride", constant([1, 1, 1]), CONVS),
    "zero groups": ("groups", constant(0), CONVS),
    "negative groups": ("groups", constant(-2), CONVS),
    "groups that do not divide": ("groups", constant(3), CONVS),
    "kernel over the padded map": ("dilation", constant([9, 1]), CONVS),
    "short weight_shape": ("weight_shape", constant([4]), ["sparse_conv2d", "sparse_linear"]),
    "negative weight_shape": ("weight_shape", constant([4, -3, 3, 2]), ["sparse_conv2d"]),
    "another basis_axis": ("basis_axis", constant("up"), [*BASES, "fb_conv2d_grad_basis"]),
    "another order": ("order", constant("sideways"), ["fb_conv2d"]),
    "negative input_shape": ("input_shape", constant([-1, *INPUT_SHAPE[1:]]), [n for n in CONVS if "grad_input" in n]),
}
BAD_CALLS = [
    pytest.param(name, argument, spoil, id=f"{name}-{what}".replace(" ", "_"))
    for what, (argument, spoil, names) in BAD_ARGUMENTS.items()
    for name in names
]
# An argument can also be blamed by the name of the one that it does not fit.
PARTNERS = {
    "dilation": "input",
    "grad": "input",
    "groups": "input|grad",
    "weight_shape": "pattern",
    "basis_shape": "basis",
    "input_shape": "input|grad",
}


def assert_raises(name: str, argument: str, args: dict[str, Any]) -> None:
    names = "|".join(filter(None, [argument, PARTNERS.get(argument)]))
    with pytest.raises(ERRORS, match=rf"{name}: (?s:.)*({names})"):
        op(name)(*args.values())


@pytest.mark.parametrize("where", ["device", "meta", "fake"])
@pytest.mark.parametrize(("name", "argument", "spoil"), BAD_CALLS)
def test_bad_argument(name, argument, spoil, where, device, generator):
    args = arguments(name, raw_calls(generator, device)[name])
    args[argument] = spoil(args[argument])
    if where == "device":
        assert_raises(name, argument, args)
    elif where == "meta":
        assert_raises(name, argument, {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in args.items()})
    else:
        with FakeTensorMode() as mode:
            fake = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in args.items()}
            assert_raises(name, argument, fake)


@pytest.mark.parametrize("name", ALL)
def test_tensors_on_two_devices(name, device, generator):
    args = arguments(name, raw_calls(generator, device)[name])
    tensors = [key for key, value in args.items() if isinstance(value, Tensor)]
    for key in tensors[1:]:
        with pytest.raises(ERRORS, match=f"{name}: .*{key}"):
            op(name)(*(args | {key: elsewhere(args[key])}).values())


def parts(pattern: Tensor, rows: int, channels: int) -> dict[str, slice]:
    """Where the arrays of a packed pattern lie."""
    nnz = (len(pattern) - 8 - (rows + 1) - (channels + 1)) // 3
    sizes = {"row_ptr": rows + 1, "index": nnz, "channel_ptr": channels + 1, "t_index": nnz, "t_value": nnz}
    start, found = 8, {}
    for part, size in sizes.items():
        found[part] = slice(start, start + size)
        start += size
    assert start == len(pattern)
    return found


def swap_first_two(entries: Tensor) -> None:
    entries[:2] = entries[:2].flip(0)


def repeat_first(entries: Tensor) -> None:
    entries[1] = entries[0]


def setter(position: int, value: int) -> Callable[[Tensor], None]:
    def change(entries: Tensor) -> None:
        entries[position] = value

    return change


CORRUPTIONS: dict[str, tuple[str, Callable[[Tensor], None]]] = {
    "row_ptr starts late": ("row_ptr", setter(0, 1)),
    "row_ptr falls": ("row_ptr", setter(1, 2**31 - 1)),
    "row_ptr negative": ("row_ptr", setter(1, -5)),
    "row_ptr ends early": ("row_ptr", setter(-1, 0)),
    "row_ptr ends late": ("row_ptr", setter(-1, 10**9)),
    "index too large": ("index", setter(-1, 10**9)),
    "index just too large": ("index", setter(-1, 3 * 3 * 2 * 2)),
    "index negative": ("index", setter(0, -1)),
    "index unsorted": ("index", swap_first_two),
    "index repeated": ("index", repeat_first),
    "channel_ptr falls": ("channel_ptr", setter(1, 2**31 - 1)),
    "channel_ptr ends late": ("channel_ptr", setter(-1, 10**9)),
    "t_index too large": ("t_index", setter(-1, 10**9)),
    "t_index negative": ("t_index", setter(0, -1)),
    "t_index unsorted": ("t_index", swap_first_two),
    "t_value too large": ("t_value", setter(0, 10**9)),
    "t_value negative": ("t_value", setter(0, -1)),
}
# The half of a packed pattern that each operator reads; what it does not read cannot hurt it.
FORWARD, TRANSPOSED = {"row_ptr", "index"}, {"channel_ptr", "t_index", "t_value"}
READS = dict.fromkeys(ALL, FORWARD)
READS |= {"sparse_conv2d_grad_input": TRANSPOSED, "sparse_linear_grad_input": TRANSPOSED}
# A frozen layer's forward pass has its whole weight; the pattern serves the gradient of its values.
READS |= {"frozen_conv2d": set(), "frozen_linear": set()}


def corrupted(packed: Tensor, shape: tuple[int, int], part: str, change: Callable[[Tensor], None]) -> Tensor:
    words = packed.cpu().clone()
    change(words[parts(words, *shape)[part]])
    return words.to(packed.device)


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("name", ALL)
def test_corrupted_pattern(name, corruption, generator):
    """On the CPU the kernels' arrays are checked before each pass; a pass may ignore the half that it never reads."""
    part, change = CORRUPTIONS[corruption]
    args = arguments(name, raw_calls(generator, torch.device("cpu"))[name])
    shape = (4, 6) if "linear" in name else (4, 3)
    args["pattern"] = corrupted(args["pattern"], shape, part, change)
    with pytest.raises(ERRORS, match=rf"{name}: .*pattern") if part in READS[name] else nullcontext():
        assert op(name)(*args.values()).isfinite().all()


@pytest.mark.parametrize("corruption", [what for what, (part, _) in CORRUPTIONS.items() if part in FORWARD])
@pytest.mark.parametrize("name", ["frozen_conv2d", "frozen_linear"])
def test_corrupted_pattern_of_a_frozen_layer_fails_in_backward(name, corruption, generator):
    part, change = CORRUPTIONS[corruption]
    args = arguments(name, raw_calls(generator, torch.device("cpu"))[name])
    args["pattern"] = corrupted(args["pattern"], (4, 6) if "linear" in name else (4, 3), part, change)
    args["values"].requires_grad_()
    output = op(name)(*args.values())
    with pytest.raises(ERRORS, match=r"_grad_values: .*pattern"):
        output.sum().backward()


@pytest.mark.parametrize("words", [0, 1, 7, 8, 12, -1, -3])
@pytest.mark.parametrize("name", ALL)
def test_truncated_pattern(name, words, device, generator):
    args = arguments(name, raw_calls(generator, device)[name])
    args["pattern"] = args["pattern"][:words].clone()
    with pytest.raises(ERRORS, match=rf"{name}: .*(pattern|values)"):
        op(name)(*args.values())


@pytest.mark.parametrize("name", ALL)
def test_pattern_of_another_layer(name, device, generator):
    calls = raw_calls(generator, device)
    args = arguments(name, calls[name])
    args["pattern"] = calls["sparse_conv2d" if "linear" in name else "sparse_linear"][3]
    with pytest.raises(ERRORS, match=rf"{name}: .*(pattern|values)"):
        op(name)(*args.values())
