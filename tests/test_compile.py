"""torch.compile: one graph for all batch sizes, the plan that eager calls take, and the same numbers."""

import copy
import shutil
from collections.abc import Callable

import pytest
import torch
from compressed_models import KINDS, images, mixed, network
from torch import nn
from torch._dynamo import mark_dynamic
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.fx.experimental import symbolic_shapes

import fbconv.nn as fnn
from fbconv import planner

BATCHES = (4, 32, 7, 130)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")


class Graphs:
    """A backend that keeps what it compiles: forward graphs below autograd, run as they are."""

    def __init__(self) -> None:
        self.graphs: list[torch.fx.GraphModule] = []
        self.backend = aot_autograd(fw_compiler=self.take, bw_compiler=lambda graph, _: make_boxed_func(graph))

    def take(self, graph: torch.fx.GraphModule, _: object) -> Callable:
        self.graphs.append(graph)
        return make_boxed_func(graph)

    def operators(self) -> list[str]:
        """Ours, of the last graph."""
        return [str(node.target) for node in self.graphs[-1].graph.nodes if "fbconv" in str(node.target)]


@pytest.fixture
def graphs():
    torch._dynamo.reset()
    yield Graphs()
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def inductor(tmp_path_factory):
    """Neither from the cache of earlier runs nor into it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()


def compiled(model: nn.Module, graphs: Graphs, **options) -> nn.Module:
    return torch.compile(model, fullgraph=True, backend=graphs.backend, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_for_all_batch_sizes(kind, graphs, generator):
    model = network(kind, generator, "sparse" if kind == "frozen" else "auto").eval()
    traced = compiled(model, graphs)
    with torch.no_grad():
        for batch in BATCHES:
            x = images(generator, batch)
            mark_dynamic(x, 0)
            torch.testing.assert_close(traced(x), model(x))
    assert len(graphs.graphs) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_everything_dynamic(kind, graphs, generator):
    model = network(kind, generator).eval()
    traced = compiled(model, graphs, dynamic=True)
    with torch.no_grad():
        for batch, size in ((4, 12), (32, 12), (7, 20), (130, 12)):
            x = images(generator, batch, size)
            torch.testing.assert_close(traced(x), model(x))
    assert len(graphs.graphs) <= 2


def test_sizes_have_hints_in_older_torch(generator, monkeypatch):
    monkeypatch.setattr(symbolic_shapes, "size_hint", symbolic_shapes.optimization_hint, raising=False)
    monkeypatch.delattr(symbolic_shapes, "optimization_hint", raising=False)
    model, x = network("pruned", generator).eval(), images(generator, 4)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.testing.assert_close(program.module()(x), model(x))


def test_linear_rows_may_be_open_in_all_dimensions(graphs, generator):
    layer = fnn.SparseLinear(16, 8, mask=torch.rand(8, 16, generator=generator) < 0.3)
    traced = compiled(layer, graphs, dynamic=True)
    for leading in ((2, 5), (7, 3), (30, 20)):
        x = torch.randn(*leading, 16, generator=generator)
        torch.testing.assert_close(traced(x), layer(x))
    assert len(graphs.graphs) == 1


def _sparse_below(batch: int):
    def costs(shape, *_: object) -> dict[str, float]:
        return {"sparse": shape.batch / batch, "dense": 1.0}

    return costs


def test_auto_decides_by_range_of_batch(graphs, generator, monkeypatch):
    monkeypatch.setattr(planner, "sparse_costs", _sparse_below(10))
    layer = fnn.SparseConv2d(4, 4, 3, mask=torch.rand(4, 4, 3, 3, generator=generator) < 0.3)
    traced = compiled(layer, graphs)
    taken = {}
    for batch in (4, 6, 32, 100, 7, 64):
        x = torch.randn(batch, 4, 8, 8, generator=generator)
        mark_dynamic(x, 0)
        with torch.no_grad():
            before = len(graphs.graphs)
            torch.testing.assert_close(traced(x), layer(x))
        if len(graphs.graphs) > before:
            taken[batch] = graphs.operators()
    assert taken == {4: ["fbconv.sparse_conv2d.kernel"], 32: ["fbconv.dense_conv2d.kernel"]}


def test_auto_decides_for_the_very_batch_that_is_fixed(graphs, generator, monkeypatch):
    monkeypatch.setattr(planner, "sparse_costs", _sparse_below(3))
    layer = fnn.SparseConv2d(4, 4, 3, mask=torch.rand(4, 4, 3, 3, generator=generator) < 0.3)
    for batch, operator in ((2, "sparse_conv2d"), (5, "dense_conv2d")):
        torch._dynamo.reset()
        with torch.no_grad():
            compiled(layer, graphs, dynamic=False)(torch.randn(batch, 4, 8, 8))
        assert graphs.operators() == [f"fbconv.{operator}.kernel"]


@pytest.mark.parametrize("kind", KINDS)
def test_dense_plans_follow_the_values(kind, graphs, generator):
    model = network(kind, generator, "dense").eval()
    traced = compiled(model, graphs)
    x = images(generator, 3)
    with torch.no_grad():
        before = traced(x)
        names = [f"fbconv.{name}.kernel" for name in ("dense_conv2d", "dense_conv2d", "dense_linear")]
        assert graphs.operators() == names
        for parameter in model.parameters():
            parameter.data.mul_(1.5)  # as optimizers do: no version counts it
        after = traced(x)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, model(x))
    assert len(graphs.graphs) == 1


def test_dense_plans_with_gradients_show_their_parts(graphs, generator):
    model = network("pruned", generator, "dense")
    compiled(model, graphs)(images(generator, 3)).sum().backward()
    assert {"fbconv.embed.kernel"} == set(graphs.operators())


def test_channels_last_stays(graphs, generator):
    model = network("interspace", generator, "composed").eval()
    traced = compiled(model[:3], graphs)
    x = images(generator, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        output = traced(x)
        assert output.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output, model[:3](x))


@pytest.mark.parametrize("backend", ["sparse", "dense"])
def test_autocast(backend, graphs, generator):
    model = network("pruned", generator, backend).eval()
    traced = compiled(model, graphs)
    x = images(generator, 3)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output, expected = traced(x), model(x)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output, expected)


def test_errors_speak_of_the_layer(graphs, generator):
    model = network("interspace", generator, "composed")
    with torch.no_grad(), pytest.raises(Exception, match="fb_conv2d: input must have 3 channels"):
        compiled(model, graphs)(torch.randn(2, 4, 12, 12))


@needs_compiler
@pytest.mark.usefixtures("inductor", "one_thread")
def test_inductor_trains_as_eager_does(generator):
    eager = mixed(generator)
    model = copy.deepcopy(eager)
    traced = torch.compile(model, fullgraph=True, dynamic=True)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9) for each in (eager, model)]
    for batch in (8, 5, 9):
        x, labels = images(generator, batch), torch.randint(4, (batch,), generator=generator)
        losses = []
        for network_, optimizer in zip((eager, traced), optimizers, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network_(x), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(*losses)
    for one, two in zip(eager.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.usefixtures("inductor", "one_thread")
def test_inductor_infers_as_eager_does(generator):
    model = mixed(generator).eval()
    traced = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in BATCHES:
            x = images(generator, batch)
            torch.testing.assert_close(traced(x), model(x), rtol=1e-4, atol=1e-5)
