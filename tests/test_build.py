"""What the build says of itself."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import fbconv

ROOT = Path(__file__).parent.parent
KERNELS = sorted((ROOT / "csrc/cuda").glob("*.cu"))


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


VARIANT_OBJECTS = sorted((ROOT / "build").glob("*/objects/kernels_avx*.o"))


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


needs_checkout = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="no checkout around the tests")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Paths of the files that an sdist would hold."""
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return set((folder / "fbconv.egg-info/SOURCES.txt").read_text().splitlines())


@needs_checkout
def test_an_sdist_holds_all_that_a_build_needs(sdist):
    kinds = {".cpp", ".h", ".inl", ".cu", ".cuh"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.suffix in kinds}
    sources |= {str(path.relative_to(ROOT)) for path in (ROOT / "fbconv").rglob("*.py")}
    sources |= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "fbconv/py.typed", "CMakeLists.txt", "Makefile"}
    assert not sources - sdist


@needs_checkout
def test_an_sdist_holds_nothing_that_was_made(sdist):
    made = ("build/", "dist/", "runs/", ".venv/")
    assert not [path for path in sdist if path.startswith(made) or path.endswith((".so", ".o", ".pyc", ".ckpt"))]


@needs_checkout
def test_the_wheels_recipe_names_what_exists():
    recipe = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    paths = [*recipe["test-sources"], *(word for word in shlex.split(recipe["test-command"]) if "/" in word)]
    assert all((ROOT / path).exists() for path in paths)


@needs_checkout
@pytest.mark.skipif(torch.version.cuda is not None, reason="wheels are built with a torch for CPU")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump to read what the module links")
def test_wheels_leave_torchs_libraries_to_torch():
    recipe = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    head = subprocess.run(["objdump", "-p", fbconv._C.__file__], capture_output=True, text=True, check=True).stdout
    linked = re.findall(r"NEEDED +(lib(?:torch|c10)\S*)", head)
    assert linked
    assert all(f"--exclude {name}" in recipe["linux"]["repair-wheel-command"] for name in linked)
