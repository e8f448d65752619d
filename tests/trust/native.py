"""The native tests under every sanitizer and valgrind, and the fuzzers for as long as they are given.

    python tests/trust/native.py [--fuzz-seconds 240] [--report counts.json]

Seconds are shared between the fuzz targets, of which two run at a time. With Clang these are libFuzzer's, with atheris
the one of files is guided by coverage; without them inputs are changed at random. What cannot run here is skipped, and
said. An input that breaks a promise is left in ``build/fuzz/runs``; mended, it belongs into the corpus, which tests
replay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
NATIVE_TARGETS = ("decode_positions", "encode_positions", "pattern")


def built(preset: str, *targets: str, env: dict[str, str] | None = None) -> None:
    """Configures and builds a preset."""
    options = [option for target in targets for option in ("--target", target)]
    for command in (["cmake", "--preset", preset], ["cmake", "--build", "--preset", preset, *options]):
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=env)


def ctest(preset: str, *options: str) -> int:
    """Runs tests of a preset; how many passed.

    Raises:
        CalledProcessError: if one failed.
    """
    report = BUILD / f"{preset}.xml"
    subprocess.run(["ctest", "--preset", preset, "--output-junit", report, *options], cwd=ROOT, check=True)
    cases = ElementTree.parse(report).findall("testcase")
    return sum(case.get("status") == "run" for case in cases)


def fuzz_environment() -> dict[str, str]:
    """Clang has libFuzzer, and is taken where there is one and no other compiler was asked for."""
    clang = shutil.which("clang++")
    if clang is None:
        print("clang++ was not found: native inputs are changed at random, blind to coverage")
    environment = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return ({"CXX": clang} if clang else {}) | os.environ | environment


def executions(command: list[object], env: dict[str, str], folder: Path) -> int:
    """Runs a fuzzer in a folder, where it leaves what it finds; how many inputs it tried.

    Raises:
        CalledProcessError: if one broke a promise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        list(map(str, command)), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if run.returncode:
        print(run.stdout[-8000:])
        raise subprocess.CalledProcessError(run.returncode, command)
    for line in re.findall("(?m)^.*(?:guided|blind).*$", run.stdout):
        print(f"{folder.name}: {line}")
    return int(re.search(r"number_of_executed_units:\s*(\d+)", run.stdout)[1])


def fuzzed_natively(target: str, seconds: int, env: dict[str, str]) -> int:
    folder = BUILD / "fuzz" / "runs" / target
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    binary = BUILD / "fuzz" / "tests" / "native" / "fuzz" / f"fuzz_{target}"
    kept = ROOT / "tests" / "native" / "fuzz" / "corpus" / target
    return executions([binary, f"-max_total_time={seconds}", "-print_final_stats=1", found, kept], env, folder)


def fuzzed_files(seconds: int) -> int:
    folder = BUILD / "fuzz" / "runs" / "files"
    script = Path(__file__).with_name("fuzz_files.py")
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, script, "--seconds", seconds, "--kept", folder / "kept"]
    return executions(command, os.environ | {"PYTHONPATH": path}, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fuzz-seconds", type=int, default=240, help="of all fuzz targets together")
    parser.add_argument("--report", type=Path, help="JSON file for the counts")
    options = parser.parse_args()
    each = max(1, options.fuzz_seconds // (len(NATIVE_TARGETS) + 1))
    counts = {}
    for preset in ("memory", "thread"):
        built(preset)
        counts[f"native tests under the {preset} sanitizer"] = ctest(preset)
    built("release", "each_kernel")
    counts["valgrind runs of a case of each kernel"] = ctest("release", "-L", "valgrind")
    env = fuzz_environment()
    built("fuzz", env=env)
    with ThreadPoolExecutor(2) as pool:  # a fuzzer takes one core
        runs = {target: pool.submit(fuzzed_natively, target, each, env) for target in NATIVE_TARGETS}
        runs["files"] = pool.submit(fuzzed_files, each)
    counts |= {f"inputs fuzzed: {target}": run.result() for target, run in runs.items()}
    for what, count in counts.items():
        print(f"{count:>11,}  {what}")
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()
