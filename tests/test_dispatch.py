"""Every instruction set gives the reference's numbers, and the number of threads changes nothing but rounding."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import CONV_CASES, fb_conv2d_call, frozen_conv2d_call, sparse_conv2d_call, with_grad

import fbconv

TESTS = Path(__file__).parent
CAPABILITIES = ["default", "avx2", "avx512"]
NAMES = {"DEFAULT": "default", "AVX2": "avx2", "AVX512": "avx512"}
# What this CPU has, told by torch rather than by the code under test.
SUPPORTED = CAPABILITIES[: CAPABILITIES.index(NAMES.get(torch.backends.cpu.get_cpu_capability(), "default")) + 1]


def python(*arguments: str, capability: str) -> subprocess.CompletedProcess:
    # One thread: the kernels are the point, and waiting threads would slow small shapes down on a busy machine.
    environment = os.environ | {"FBCONV_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set_matches_reference(capability):
    if capability not in SUPPORTED:
        pytest.skip(f"this CPU lacks {capability}")
    script = f"""
import sys, fbconv._C, pytest
assert fbconv._C.capability() == "{capability}", fbconv._C.capability()
selection = ["{TESTS / "test_ops.py"}", "-k", "matches_reference and cpu"]
sys.exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *selection]))
"""
    result = python("-c", script, capability=capability)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout


@pytest.mark.parametrize("capability", SUPPORTED)
def test_every_instruction_set_has_a_peak(capability):
    result = python("-c", "import fbconv; print(fbconv._C.fma_gflops(0.01))", capability=capability)
    assert float(result.stdout) > 0, result.stderr


def test_the_best_instruction_set_is_chosen():
    if "FBCONV_CPU_CAPABILITY" in os.environ:
        pytest.skip("FBCONV_CPU_CAPABILITY forces another one")
    assert fbconv._C.capability() == SUPPORTED[-1]


def test_unknown_instruction_set_is_refused():
    result = python("-c", "import fbconv; print(fbconv._C.capability())", capability="avx3")
    assert result.returncode != 0
    assert "FBCONV_CPU_CAPABILITY" in result.stderr
    assert "avx3" in result.stderr


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("make", [sparse_conv2d_call, fb_conv2d_call, frozen_conv2d_call])
def test_threads(make, threads, generator):
    """One and two threads agree within rounding; the same number of threads to the last bit."""
    for case in CONV_CASES:
        call = make(case, generator, torch.device("cpu"))
        runs = {}
        for run, count in enumerate((1, 2, 1, 2)):
            threads(count)
            operands = with_grad(call.on(torch.device("cpu"), torch.float32))
            output = call.run(**operands)
            output.square().sum().backward()
            runs[run] = [output.detach(), *(operand.grad for operand in operands.values())]
        for one, two in ((0, 2), (1, 3)):
            assert all(torch.equal(a, b) for a, b in zip(runs[one], runs[two], strict=True)), case.name
        for a, b in zip(runs[0], runs[1], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()) if a.numel() else 0.0)
