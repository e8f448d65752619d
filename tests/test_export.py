"""torch.export, AOTInductor and ONNX: a model leaves the process and computes the same elsewhere."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compressed_models import KINDS, images, mixed, network
from torch import Tensor, nn

import fbconv
import fbconv.nn as fnn

BATCH = torch.export.Dim("batch", min=1, max=64)
SIZES = (1, 7, 40)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime",
)


def exported(model: nn.Module, x: Tensor, strict: bool = False) -> torch.export.ExportedProgram:
    return torch.export.export(model, (x,), dynamic_shapes=({0: BATCH},), strict=strict)


def run_elsewhere(load: str, path: Path, folder: Path, cases: dict[Tensor, Tensor]) -> None:
    """Runs what lies at ``path`` in a process that imports only torch and fbconv."""
    torch.save(list(cases.items()), folder / "cases.pt")
    script = f"""
import torch, fbconv
model = {load}
for x, expected in torch.load({str(folder / "cases.pt")!r}):
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
"""
    root = str(Path(fbconv.__file__).parent.parent)
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{script}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("strict", [False, True], ids=["non_strict", "strict"])
@pytest.mark.parametrize("kind", KINDS)
def test_export_with_a_dynamic_batch(kind, strict, gradients, generator):
    model = network(kind, generator).eval()
    with torch.set_grad_enabled(gradients):
        program = exported(model, images(generator, 4), strict)
    for size in SIZES:
        x = images(generator, size)
        torch.testing.assert_close(program.module()(x), model(x))


def test_a_saved_program_runs_in_a_fresh_process(generator, tmp_path):
    model, x = mixed(generator).eval(), images(generator, 4)
    with torch.no_grad():
        torch.export.save(exported(model, x), tmp_path / "mixed.pt2")
        cases = {x: model(x) for x in (images(generator, size) for size in SIZES)}
    run_elsewhere("torch.export.load(sys.argv[1]).module()", tmp_path / "mixed.pt2", tmp_path, cases)


def test_an_exported_program_trains_if_it_was_exported_with_gradients(generator):
    model, x = network("interspace", generator, "dense").eval(), images(generator, 4)
    program = exported(model, x).module()
    program(x).sum().backward()
    model(x).sum().backward()
    for (name, one), two in zip(program.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)


def test_a_program_without_gradients_says_so(generator):
    model, x = network("interspace", generator, "dense").eval(), images(generator, 4)
    with torch.no_grad():
        program = exported(model, x).module()
    output = program(x)
    torch.testing.assert_close(output, model(x))
    with pytest.raises(RuntimeError, match="traced without gradients"):
        output.sum().backward()


def test_an_exported_program_takes_the_plan_for_its_example(generator, monkeypatch):
    monkeypatch.setattr(fbconv.planner, "sparse_costs", lambda shape, *_: {"sparse": shape.batch, "dense": 10})
    layer = fnn.SparseConv2d(3, 4, 3, mask=torch.rand(4, 3, 3, 3, generator=generator) < 0.3)
    for batch, operator in ((4, "sparse_conv2d"), (12, "dense_conv2d")):
        for strict in (False, True):
            with torch.no_grad():
                program = exported(layer, images(generator, batch), strict)
            targets = [str(node.target) for node in program.graph.nodes]
            assert [name for name in targets if "fbconv" in name] == [f"fbconv.{operator}.default"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.usefixtures("one_thread")
def test_aot_inductor(generator, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    model, x = mixed(generator).eval(), images(generator, 4)
    with torch.no_grad():
        path = torch._inductor.aoti_compile_and_package(exported(model, x), package_path=str(tmp_path / "mixed.pt2"))
        cases = {x: model(x) for x in (images(generator, size) for size in SIZES)}
    run_elsewhere("torch._inductor.aoti_load_package(sys.argv[1])", Path(path), tmp_path, cases)


@needs_onnx
@pytest.mark.parametrize("kind", KINDS)
def test_onnx(kind, generator, tmp_path):
    import onnxruntime

    model = network(kind, generator)  # in training mode: the file is for inference
    path = tmp_path / "model.onnx"
    size = fbconv.onnx.export(
        model, (images(generator, 4),), path, dynamic_shapes=({0: BATCH},), input_names=["images"], verbose=False
    )
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert size == path.stat().st_size > 4 * (8 * 3 * 9 + 16 * 8 * 9 + 5 * 16)  # every weight, pruned ones too
    assert model.training
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model.eval()
    for batch in SIZES:
        x = images(generator, batch)
        (output,) = session.run(None, {"images": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.parametrize("backend", ["sparse", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_onnx_of_sparse_layers_says_what_to_do(kind, backend, generator, tmp_path):
    model = network(kind, generator, backend).eval()
    with torch.no_grad(), pytest.raises(Exception, match=r"fbconv\.densify\(model\)"):
        torch.onnx.export(model, (images(generator, 4),), tmp_path / "model.onnx", dynamo=True, verbose=False)


@needs_onnx
def test_a_failed_onnx_export_leaves_the_old_file(generator, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(Exception, match="export"):
        fbconv.onnx.export(network("pruned", generator), (torch.zeros(1, 2, 3, 3),), path, verbose=False)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_onnx_without_its_packages(missing, generator, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ModuleNotFoundError, match=rf"{missing}: pip install 'fbconv\[onnx\]"):
        fbconv.onnx.export(network("pruned", generator), (images(generator, 1),), tmp_path / "model.onnx")
