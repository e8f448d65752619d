"""What the build says of itself."""

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import fbconv

KERNELS = sorted((Path(__file__).parent.parent / "csrc/cuda").glob("*.cu"))


def test_version_is_the_same_everywhere():
    assert fbconv._C.build_info()["version"] == fbconv.__version__
    try:
        assert version("fbconv") == fbconv.__version__
    except PackageNotFoundError:
        assert re.fullmatch(r"\d+\.\d+\.\d+", fbconv.__version__)


def test_built_for_this_torch():
    info = fbconv._C.build_info()
    assert info["torch"] == torch.__version__
    assert info["compiler"]


@pytest.mark.skipif(torch.version.cuda is not None, reason="torch has CUDA: the kernels are built, not just checked")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the CUDA kernels")
def test_cuda_kernels_compile():
    assert fbconv._C.build_info()["cuda_check"] == f"passed: {len(KERNELS)} files for sm_80 and sm_90"


@pytest.mark.skipif(torch.version.cuda is None, reason="torch has no CUDA")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the CUDA kernels")
def test_cuda_operators_are_built():
    assert fbconv._C.build_info()["cuda_check"] == "built"
    assert torch._C._dispatch_has_kernel_for_dispatch_key("fbconv::sparse_conv2d", "CUDA")


VARIANT_OBJECTS = sorted((Path(__file__).parent.parent / "build").glob("*/objects/kernels_avx*.o"))


@pytest.mark.skipif(not VARIANT_OBJECTS, reason="no build folder beside the sources")
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm to read symbols with")
@pytest.mark.parametrize("path", VARIANT_OBJECTS, ids=lambda path: path.stem)
def test_no_code_for_one_instruction_set_can_serve_another(path):
    """A weak symbol (an inline function of a header, say) could be the copy that the linker keeps for every CPU."""
    symbols = subprocess.run(["nm", "--defined-only", path], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[1] for line in symbols.splitlines()}
    assert kinds <= set("tdrbTDRB")
    exported = [line.split()[2] for line in symbols.splitlines() if line.split()[1] in "TDRB"]
    variant = path.name.removeprefix("kernels_").split(".")[0]
    assert exported
    assert all(variant in name for name in exported)
