"""Configurations, random streams, devices and files of a run."""

import json

import pytest
import torch

from fbconv.experiment import Config, choose_device, environment, replacing, stream, write_json


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "svhn"}, "data must be one of digits, mnist, fashion-mnist, cifar10, got 'svhn'"),
        ({"model": "alexnet"}, "model must be one of lenet300, lenet5, vgg7, vgg16, .*, got 'alexnet'"),
        ({"space": "outer"}, "space must be one of spatial, interspace, got 'outer'"),
        ({"mode": "sparse"}, "mode must be one of dense, prune, freeze, got 'sparse'"),
        ({"score": "guess"}, "score must be one of .*snip.*, got 'guess'"),
        ({"backend": "fast"}, "backend must be one of auto, sparse, dense, got 'fast'"),
        ({"sparsity": 1.5}, r"sparsity must be in \[0, 1\], got 1.5"),
        ({"sparsity": float("nan")}, "sparsity must be"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_config_names_the_field_and_its_values(options, message):
    with pytest.raises(ValueError, match=f"config: {message}"):
        Config(**options)


def test_learning_rate_is_the_models_own_by_default():
    assert (Config(model="lenet5").lr, Config(model="vgg16").lr, Config(model="vgg16", lr=0.5).lr) == (0.03, 0.1, 0.5)


def test_streams_are_decided_by_seed_and_purpose():
    draws = {(s, p): torch.rand(4, generator=stream(s, p)) for s in (0, 1) for p in ("weights", "score")}
    assert torch.equal(torch.rand(4, generator=stream(0, "weights")), draws[0, "weights"])
    assert len({tuple(draw.tolist()) for draw in draws.values()}) == 4


def test_device():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:77"):
        with pytest.raises(ValueError, match=f"device must be auto or a device of this machine, got '{name}'"):
            choose_device(name)


def test_files_are_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder" / "file"
    write_json(path, {"a": 1})

    def write_half():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write_half()
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", float("nan"))
    assert not list(tmp_path.iterdir())


def test_environment_is_json_and_names_what_matters():
    facts = json.loads(json.dumps(environment()))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["capability"] in ("default", "avx2", "avx512")
    assert facts["command"]
