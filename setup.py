"""Builds fbconv._C for CPU-only torch, for CPU-only torch beside nvcc (a compile check), and for CUDA torch."""

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# ninja is a wheel: it lies beside the interpreter, which may have been called without its PATH.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])

try:
    import pybind11
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"fbconv: the build needs {missing.name} in this environment. Install torch>=2.11 and pybind11, "
        "then run: pip install --no-build-isolation ."
    ) from missing

ROOT = Path(__file__).resolve().parent
X86 = platform.machine().lower() in {"x86_64", "amd64"}
# Kernels are compiled once per instruction set and chosen at run time, so the rest stays at the baseline.
VARIANTS = {"csrc/cpu/kernels_default.cpp": []}
if X86:
    VARIANTS |= {
        "csrc/cpu/kernels_avx2.cpp": ["-mavx2", "-mfma"],
        "csrc/cpu/kernels_avx512.cpp": ["-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mfma"],
    }
CXX_FLAGS = ["-O3", "-g0", "-Wall", "-fvisibility=hidden"]
# Only kernels may fuse multiplications with additions: csrc/core/draw.h promises its bits.
EXACT, FUSED = "-ffp-contract=off", "-ffp-contract=fast"
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11: one binary serves it and later ones
DEFAULT_ARCHES = "8.0;9.0+PTX"


def sources(*folders: str, suffix: str = ".cpp") -> list[str]:
    found = (path for folder in folders for path in (ROOT / "csrc" / folder).glob(f"*{suffix}"))
    return sorted(str(path.relative_to(ROOT)) for path in found)


def cuda_home() -> Path | None:
    """The CUDA toolkit: torch's own search gives up where torch has no CUDA."""
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates += [Path(nvcc).resolve().parent.parent if nvcc else None, "/usr/local/cuda"]
    homes = [Path(home) for home in candidates if home]
    complete = (home for home in homes if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime.h").exists())
    return next(complete, None)


def arch_flags(arches: str) -> list[str]:
    """nvcc flags for a TORCH_CUDA_ARCH_LIST such as "8.0;9.0+PTX"."""
    flags = []
    for arch in arches.replace(" ", ";").split(";"):
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


CUDA_HOME = cuda_home()
# Not torch.cuda.is_available(): a machine without a GPU may build for one that has it.
WITH_CUDA = torch.version.cuda is not None and CUDA_HOME is not None


def definitions() -> list[str]:
    defines = [STABLE_ABI]
    defines += ["-DFBCONV_X86"] if X86 else []
    defines += ["-DUSE_CUDA", "-DFBCONV_WITH_CUDA"] if WITH_CUDA else []
    return defines


def extension() -> Extension:
    plain = [source for source in sources("bind", "core", "cpu") if source not in VARIANTS]
    include_dirs = [str(ROOT / "csrc"), pybind11.get_include(), *cpp_extension.include_paths()]
    library_dirs = cpp_extension.library_paths()
    libraries = ["c10", "torch", "torch_cpu"]
    if WITH_CUDA:
        include_dirs.append(str(CUDA_HOME / "include"))
        library_dirs += [str(CUDA_HOME / folder) for folder in ("lib64", "lib", "targets/x86_64-linux/lib")]
        libraries += ["torch_cuda", "cudart"]
    return Extension(
        "fbconv._C",
        plain,
        include_dirs=include_dirs,
        library_dirs=library_dirs,
        libraries=libraries,
        extra_compile_args=[*CXX_FLAGS, EXACT, *definitions()],
        depends=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*.*"))],
        language="c++",
    )


def escaped(path: str | Path) -> str:
    return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")


class BuildExtension(cpp_extension.BuildExtension):
    """Adds what torch's class has no place for: objects with flags of their own, and the build's description."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # pip gives an editable build a new temporary folder each time, and ninja would start from nothing.
        tag = f"{sysconfig.get_platform()}-{sysconfig.get_python_version()}-torch{torch.__version__}"
        self.build_temp = str(ROOT / "build" / tag)

    def build_extension(self, ext: Extension) -> None:
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        units = [(source, self.cxx_command(flags)) for source, flags in VARIANTS.items()]
        if WITH_CUDA:
            arches = arch_flags(os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHES)
            units += [(source, self.nvcc_command(arches)) for source in sources("cuda", suffix=".cu")]
        ext.extra_objects = [*ext.extra_objects, *self.ninja("objects", units)]
        ext.include_dirs.append(str(folder))
        self.write_build_info(folder / "fbconv_build_info.h", self.check_cuda())
        super().build_extension(ext)

    def cxx(self) -> list[str]:
        # Older setuptools compile C++ with the C compiler's command.
        return list(getattr(self.compiler, "compiler_so_cxx", self.compiler.compiler_so))

    def cxx_command(self, flags: list[str]) -> list[str]:
        return [*self.cxx(), "-std=c++17", f"-I{ROOT / 'csrc'}", *CXX_FLAGS, FUSED, *definitions(), *flags]

    def nvcc_command(self, arches: list[str]) -> list[str]:
        nvcc = [str(CUDA_HOME / "bin/nvcc"), "-std=c++17", "-O3", "-DNDEBUG", f"-I{ROOT / 'csrc'}"]
        return [*nvcc, "-Xcompiler", "-fPIC,-fvisibility=hidden", *arches]

    def ninja(self, name: str, units: list[tuple[str, list[str]]]) -> list[str]:
        """Compiles (source, command) units in parallel, those whose source or headers changed; their objects."""
        if not units:
            return []
        folder = Path(self.build_temp) / name
        folder.mkdir(exist_ok=True)
        rules = "rule compile\n  command = $tool -MMD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc\n"
        objects = [str(folder / (Path(source).name + ".o")) for source, _ in units]
        for (source, command), target in zip(units, objects, strict=True):
            tool = shlex.join(command).replace("$", "$$")
            rules += f"build {escaped(target)}: compile {escaped(ROOT / source)}\n  tool = {tool}\n"
        (folder / "build.ninja").write_text(rules)
        jobs = ["-j", os.environ["MAX_JOBS"]] if os.environ.get("MAX_JOBS") else []
        subprocess.run(["ninja", *jobs], cwd=folder, check=True)
        return objects

    def check_cuda(self) -> str:
        """Compiles the CUDA kernels only to see that they compile, where nvcc is there and torch's CUDA is not."""
        if WITH_CUDA:
            return "built"
        if CUDA_HOME is None:
            if torch.version.cuda is not None:
                self.warn(f"torch has CUDA {torch.version.cuda}, but there is no nvcc: building operators for CPU only")
            return "not run: no nvcc"
        kernels = sources("cuda", suffix=".cu")
        command = self.nvcc_command(arch_flags("8.0;9.0"))
        try:
            self.ninja("cuda_check", [(kernel, command) for kernel in kernels])
        except subprocess.CalledProcessError:
            self.warn("the CUDA kernels do not compile with this nvcc; the CPU operators do not need them")
            return "failed"
        return f"passed: {len(kernels)} files for sm_80 and sm_90"

    def write_build_info(self, header: Path, cuda_check: str) -> None:
        version = subprocess.run([self.cxx()[0], "--version"], capture_output=True, text=True, check=True).stdout
        facts = {
            "FBCONV_VERSION": self.distribution.get_version(),
            "FBCONV_COMPILER": version.splitlines()[0],
            "FBCONV_TORCH_VERSION": torch.__version__,
            "FBCONV_CUDA_VERSION": torch.version.cuda if WITH_CUDA else "",
            "FBCONV_CUDA_CHECK": cuda_check,
        }
        text = "#pragma once\n" + "".join(f'#define {name} "{value}"\n' for name, value in facts.items())
        if not header.exists() or header.read_text() != text:
            header.write_text(text)


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
