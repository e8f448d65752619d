"""Compiles one .cu file and fails if any of its kernels spills registers or keeps a stack frame.

Usage: check_ptxas.py NVCC SOURCE REPORT FLAG...   (writes REPORT, REPORT.o and, for make, REPORT.d)
"""

import os
import re
import subprocess
import sys

FUNCTION = re.compile(r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>sm_\w+)'")
COSTS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def kernels(log: str) -> list[dict[str, object]]:
    """What ptxas -v says of each kernel and architecture: stack and spills in bytes, registers."""
    found: list[dict[str, object]] = []
    for line in log.splitlines():
        if match := FUNCTION.search(line):
            found.append({**match.groupdict(), "bytes": 0})
        elif match := COSTS.search(line):
            # Functions that were not inlined have lines of their own; they count for their kernel.
            found[-1]["bytes"] += sum(map(int, match.groups()))
            found[-1]["costs"] = match.group()
        elif match := REGISTERS.search(line):
            found[-1]["registers"] = int(match.group(1))
    return found


def compile_kernels(nvcc: str, source: str, report: str, flags: list[str]) -> str:
    command = [nvcc, *flags, "-Xptxas", "-v", "-MMD", "-MF", f"{report}.d", "-MT", report]
    result = subprocess.run([*command, "-c", source, "-o", f"{report}.o"], capture_output=True, text=True)
    log = result.stdout + result.stderr
    if result.returncode != 0:
        raise SystemExit(f"{source} does not compile:\n{log}")
    return log


def main() -> None:
    nvcc, source, report, *flags = sys.argv[1:]
    log = compile_kernels(nvcc, source, report, flags)
    found = kernels(log)
    if not found or any("costs" not in kernel or "registers" not in kernel for kernel in found):
        raise SystemExit(f"{source}: ptxas -v lists no kernels, or not what they cost:\n{log}")
    lines = [f"{k['arch']} {k['registers']} registers, {k['costs']}: {k['name']}" for k in found]
    costly = [line for line, kernel in zip(lines, found, strict=True) if kernel["bytes"]]
    if costly:
        raise SystemExit(f"{source}: kernels must neither spill nor keep a stack frame:\n" + "\n".join(costly))
    with open(f"{report}.part", "w") as file:
        file.write("\n".join(lines) + "\n")
    os.replace(f"{report}.part", report)


if __name__ == "__main__":
    main()
