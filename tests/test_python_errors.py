"""What the Python layer refuses: masks, hand-made patterns, options of the functional calls and of the modules."""

import pytest
import torch
from cases import random_mask
from test_errors import CORRUPTIONS, ERRORS, corrupted

import fbconv
import fbconv.nn as fnn
from fbconv import SparsePattern
from fbconv import functional as F

SHAPE = (4, 3, 3, 2)


@pytest.fixture
def mask(generator):
    return random_mask(generator, SHAPE, 0.5)


@pytest.fixture
def pattern(mask):
    return SparsePattern.from_mask(mask)


BAD_MASKS = {
    "NaN": torch.tensor([[1.0, float("nan")], [0.0, 1.0]]),
    "fraction": torch.tensor([[1.0, 0.5], [0.0, 1.0]]),
    "integers beyond 0 and 1": torch.tensor([[2, 1], [0, 1]]),
    "vector": torch.ones(3, dtype=torch.bool),
    "scalar": torch.tensor(True),
    "no rows": torch.ones(0, 3, dtype=torch.bool),
}


@pytest.mark.parametrize("bad", BAD_MASKS.values(), ids=BAD_MASKS)
def test_bad_mask(bad):
    with pytest.raises(ERRORS, match="mask"):
        SparsePattern.from_mask(bad)


def test_mask_must_be_a_tensor():
    with pytest.raises(ERRORS, match="mask"):
        SparsePattern.from_mask([[True, False]])


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_from_packed_refuses_a_corrupted_pattern(corruption, pattern):
    part, change = CORRUPTIONS[corruption]
    with pytest.raises(ERRORS, match="SparsePattern: .*packed"):
        SparsePattern.from_packed(corrupted(pattern.packed, (4, 3), part, change), SHAPE)


@pytest.mark.parametrize("word", range(8))
def test_from_packed_refuses_a_wrong_header(word, pattern):
    packed = pattern.packed.clone()
    packed[word] += 1
    with pytest.raises(ERRORS, match="SparsePattern: .*packed"):
        SparsePattern.from_packed(packed, SHAPE)


def test_from_packed_refuses_halves_that_disagree(pattern):
    packed = pattern.packed.clone()
    packed[-2:] = packed[-2:].flip(0)
    with pytest.raises(ERRORS, match="SparsePattern: .*packed"):
        SparsePattern.from_packed(packed, SHAPE)


@pytest.mark.parametrize("shape", [(4, 3, 2, 3, 2), (4, 3), (3, 4, 3, 2), (4, 3, 3, 3), (4, -3, 3, 2), ()])
def test_from_packed_refuses_another_shape(shape, pattern):
    with pytest.raises(ERRORS, match="SparsePattern: .*(shape|packed)"):
        SparsePattern.from_packed(pattern.packed, shape)


def test_gather_and_scatter_check_their_argument(pattern):
    with pytest.raises(ERRORS, match="dense"):
        pattern.gather(torch.zeros(4, 3, 3, 3))
    with pytest.raises(ERRORS, match="values"):
        pattern.scatter(torch.zeros(pattern.nnz + 1))


BAD_OPTIONS = {
    "zero stride": ({"stride": 0}, "stride"),
    "negative stride": ({"stride": (1, -1)}, "stride"),
    "three strides": ({"stride": (1, 1, 1)}, "stride"),
    "negative padding": ({"padding": -1}, "padding"),
    "fractional padding": ({"padding": 0.5}, "padding"),
    "zero dilation": ({"dilation": 0}, "dilation"),
    "zero groups": ({"groups": 0}, "groups"),
    "groups that do not divide": ({"groups": 3}, "groups|input"),
    "unknown backend": ({"backend": "magic"}, "backend"),
}


@pytest.mark.parametrize(("options", "argument"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
@pytest.mark.parametrize("op", ["sparse_conv2d", "fb_conv2d", "frozen_conv2d"])
@pytest.mark.parametrize("needs_grad", [False, True], ids=["inference", "training"])
def test_bad_options(op, options, argument, needs_grad, generator, mask):
    input = torch.randn(2, 3, 6, 6, generator=generator).requires_grad_(needs_grad)
    with pytest.raises(ERRORS, match=f"{op}: .*({argument})"):
        call(op, input, mask, **options)


def call(op, input, mask, **options):
    if op == "fb_conv2d":
        mask = mask.flatten(2)
        pattern = SparsePattern.from_mask(mask)
        return F.fb_conv2d(input, torch.ones(6, 3, 3), torch.ones(pattern.nnz), pattern, **options)
    pattern = SparsePattern.from_mask(mask)
    values = torch.ones(pattern.nnz)
    if op == "sparse_conv2d":
        return F.sparse_conv2d(input, values, pattern, **options)
    return F.frozen_conv2d(input, torch.ones(mask.shape), values, pattern, **options)


BAD_INPUTS = {
    "rank 2": torch.ones(3, 6),
    "rank 5": torch.ones(1, 2, 3, 6, 6),
    "channels": torch.ones(2, 4, 6, 6),
    "integers": torch.ones(2, 3, 6, 6, dtype=torch.int64),
    "complex": torch.ones(2, 3, 6, 6, dtype=torch.complex64),
    "another dtype": torch.ones(2, 3, 6, 6, dtype=torch.float64),
    "smaller than the kernel": torch.ones(2, 3, 1, 1),
    "empty map": torch.ones(2, 3, 0, 6),
}


@pytest.mark.parametrize("input", BAD_INPUTS.values(), ids=BAD_INPUTS)
@pytest.mark.parametrize("op", ["sparse_conv2d", "fb_conv2d", "frozen_conv2d"])
def test_bad_input(op, input, mask):
    with pytest.raises(ERRORS, match="input|values|weight|frozen"):
        call(op, input, mask)


def test_functional_wants_a_sparse_pattern(mask):
    with pytest.raises(ERRORS, match="pattern"):
        F.sparse_conv2d(torch.ones(2, 3, 6, 6), torch.ones(int(mask.sum())), mask)


def test_functional_checks_the_basis(generator):
    pattern = SparsePattern.from_mask(random_mask(generator, (4, 3, 5), 0.5))
    values, input = torch.ones(pattern.nnz), torch.ones(2, 3, 6, 6)
    for basis in (torch.ones(4, 3, 3), torch.ones(5, 3), torch.ones(2, 5, 3, 3)):
        with pytest.raises(ERRORS, match="fb_conv2d: .*basis"):
            F.fb_conv2d(input, basis, values, pattern)
    with pytest.raises(ERRORS, match="fb_conv2d: .*basis_axis"):
        F.fb_conv2d(input, torch.ones(1, 5, 3, 3), values, pattern, basis_axis="up")


@pytest.mark.parametrize("bad", [None, 2.5, "nonsense", [1.0]], ids=str)
def test_what_is_no_tensor(bad, generator):
    mask = random_mask(generator, SHAPE, 0.5)
    pattern, image, weight = SparsePattern.from_mask(mask), torch.ones(2, 3, 6, 6), torch.ones(SHAPE)
    with pytest.raises(TypeError, match="sparse_conv2d: input must be a tensor"):
        F.sparse_conv2d(bad, torch.ones(pattern.nnz), pattern)
    with pytest.raises(TypeError, match="frozen_conv2d: values must be a tensor"):
        F.frozen_conv2d(image, weight, bad, pattern)
    with pytest.raises(TypeError, match="gather: dense must be a tensor"):
        pattern.gather(bad)
    with pytest.raises(TypeError, match="scatter: values must be a tensor"):
        pattern.scatter(bad)
    with pytest.raises(TypeError, match="compose_filters: basis must be a tensor"):
        F.compose_filters(torch.ones(4, 3, 5), bad)
    with pytest.raises(TypeError, match="SparsePattern: packed must be a tensor"):
        SparsePattern.from_packed(bad, SHAPE)


@pytest.mark.parametrize("backend", ["sparse", "dense", "auto"])
def test_tensors_on_two_devices(backend, pattern):
    """torch's convolution takes an input without data and a weight with it."""
    values = torch.ones(pattern.nnz)
    with pytest.raises(ERRORS, match="sparse_conv2d: (values|pattern) must be on input's device meta, got cpu"):
        F.sparse_conv2d(torch.ones(2, 3, 6, 6, device="meta"), values, pattern, backend=backend)


@pytest.mark.parametrize("groups", [0, -1, 3, 2.0, "2", None, 2**31, 2**70])
def test_compose_filters_checks_its_groups(groups):
    with pytest.raises(ERRORS, match="compose_filters: groups must"):
        F.compose_filters(torch.ones(4, 3, 5), torch.ones(1, 5, 3, 3), groups=groups)


def test_linear_errors(generator):
    pattern = SparsePattern.from_mask(random_mask(generator, (4, 6), 0.5))
    values = torch.ones(pattern.nnz)
    for op, frozen in (("sparse_linear", ()), ("frozen_linear", (torch.ones(4, 6),))):
        run = getattr(F, op)
        with pytest.raises(ERRORS, match=f"{op}: .*input"):
            run(torch.ones(2, 5), *frozen, values, pattern)
        with pytest.raises(ERRORS, match=f"{op}: .*input"):
            run(torch.tensor(1.0), *frozen, values, pattern)
        with pytest.raises(ERRORS, match=f"{op}: .*values"):
            run(torch.ones(2, 6), *frozen, values[:-1], pattern)
        with pytest.raises(ERRORS, match=f"{op}: .*bias"):
            run(torch.ones(2, 6), *frozen, values, pattern, torch.ones(5))
        with pytest.raises(ERRORS, match=f"{op}: .*backend"):
            run(torch.ones(2, 6), *frozen, values, pattern, backend="magic")


@pytest.mark.parametrize("make", [fnn.SparseConv2d, fnn.FrozenConv2d], ids=lambda m: m.__name__)
def test_modules_check_the_mask(make):
    conv = torch.nn.Conv2d(3, 4, 3)
    good = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    for bad in (good[:3], good.float() * float("nan"), good[0]):
        with pytest.raises(ERRORS, match="mask"):
            make.from_dense(conv, bad)
        with pytest.raises(ERRORS, match="mask"):
            make.from_dense(conv, good).set_mask(bad)
    with pytest.raises(ERRORS, match="Linear|Conv2d"):
        make.from_dense(torch.nn.Linear(3, 4), torch.ones(4, 3, dtype=torch.bool))


def test_fb_conv2d_module_checks_mask_and_basis():
    conv = torch.nn.Conv2d(3, 4, 3)
    with pytest.raises(ERRORS, match="mask"):
        fnn.FBConv2d.from_dense(conv, mask=torch.ones(4, 3, 3, 3, dtype=torch.bool))
    with pytest.raises(ERRORS, match="basis|kernel"):
        fnn.FBConv2d.from_dense(conv, basis=fnn.FilterBasis(5))
    with pytest.raises(ERRORS, match="init"):
        fnn.FilterBasis(3, init="magic")


@pytest.mark.parametrize("convert", [fbconv.sparsify, fbconv.freeze], ids=lambda f: f.__name__)
def test_model_masks_are_checked(convert):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises((*ERRORS, KeyError), match="1.weight"):
        convert(model, {"1.weight": torch.ones(4, 3, 3, 3, dtype=torch.bool)})
    with pytest.raises(ERRORS, match="mask"):
        convert(model, {"0.weight": torch.ones(4, 3, dtype=torch.bool)})


def test_interspace_checks_sharing():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    for bad in ("everywhere", "in:0", "out:x", "in"):
        with pytest.raises(ERRORS, match="sharing"):
            fbconv.interspace(model, sharing=bad)
