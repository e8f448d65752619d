"""Learned scores: what regressors see, that torch predicts what scikit-learn does, and files that lie."""

import dataclasses

import pytest
import torch
from torch import nn

import fbconv
from fbconv._files.container import sealed
from fbconv.meta import Examples, fit, quality
from fbconv.scores.base import parameters_of
from fbconv.scores.learned import LearnedScore, load, save
from fbconv.scores.learned.features import EXTENDED, SCORED, features_of, names_of
from fbconv.scores.learned.regressors import Linear, Perceptron, Trees


def net():
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


@pytest.fixture
def batch(generator):
    return torch.randn(8, 4, 4, 4, generator=generator), torch.randint(3, (8,), generator=generator)


@pytest.fixture
def examples(generator):
    features = torch.rand(3000, 4, generator=generator)
    return Examples(features, (features[:, 0] * features[:, 1] + 0.1 * features[:, 2]).clamp(0, 1))


def read(model, batch, extended):
    """All features of a model's weights, as a score function gets to see them."""
    found = {}

    def reading(model, weights, *args):
        found.update(features_of(model, weights, *args, extended=extended))
        return {key: weight.abs() for key, weight in weights.items()}

    fbconv.score(model, reading, [batch])
    return found


@pytest.mark.usefixtures("seeded")
def test_features_are_the_four_scores_between_0_and_1(batch):
    model = net()
    found = read(model, batch, extended=False)
    for column, name in enumerate(SCORED):
        scores = fbconv.score(model, name, [batch])
        together = torch.cat([score.double().flatten() for score in scores.values()])
        low, high = together.min(), together.max()
        for key, score in scores.items():
            torch.testing.assert_close(found[key][:, column], ((score.double().flatten() - low) / (high - low)).float())


@pytest.mark.usefixtures("seeded")
def test_further_features(batch):
    model = net()
    inputs, conv = batch[0], model[0](batch[0])
    found = dict(zip(names_of(True), read(model, batch, extended=True)["0.weight"].unbind(1), strict=True))
    raw = {
        "weight": model[0].weight,
        "max_input": torch.stack([inputs.amax((0, 2, 3)).view(2, 2)[out // 3] for out in range(6)])[:, :, None, None],
        "mean_output": conv.mean((0, 2, 3))[:, None, None, None],
    }
    for name, expected in raw.items():
        # Scaling over both layers is affine and increasing: compare in the same units.
        expected, values = expected.detach().expand(6, 2, 3, 3).flatten(), found[name]
        slope = (values.max() - values.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(values - values.min(), slope * (expected - expected.min()), msg=name)
    assert len(found["layer_norm"].unique()) == 1


@pytest.mark.usefixtures("seeded")
def test_compressed_layers_have_the_features_of_what_they_keep(batch):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    masks = {"1.weight": (torch.rand(3, 64) < 0.4) | (torch.arange(3) == 0)[:, None]}  # some weight for every neuron
    with torch.no_grad():
        model[1].weight.mul_(masks["1.weight"])
    sparse = fbconv.sparsify(model, masks)
    whole, kept = (read(network, batch, extended=True) for network in (model, sparse))
    for column, name in enumerate(EXTENDED[2:], start=len(SCORED) + 2):
        expected = whole["1.weight"][:, column].view(3, 64)[masks["1.weight"]]
        torch.testing.assert_close(kept["1.values"][:, column], expected, msg=name)


def test_a_layer_of_blocks_sees_its_blocks(batch):
    model = nn.Sequential(nn.Flatten(), fbconv.nn.FBLinear(64, 3, block=8))
    found = read(model, batch, extended=True)["1.values"]
    assert found.shape == (3 * 8 * 8, 10)
    largest = batch[0].flatten(1).view(8, 8, 8).amax((0, 2))
    column = found[:, names_of(True).index("max_input")].view(3, 8, 8)
    torch.testing.assert_close(
        column, ((largest - largest.min()) / (largest.max() - largest.min()))[None, :, None].expand(3, 8, 8)
    )


@pytest.mark.parametrize("name", ["linear", "sgd", "tree", "forest"])
def test_torch_predicts_what_scikit_learn_does(name, examples):
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.linear_model import LinearRegression, SGDRegressor
    from sklearn.tree import DecisionTreeRegressor

    theirs = {
        "linear": LinearRegression(),
        "sgd": SGDRegressor(random_state=3),
        "tree": DecisionTreeRegressor(random_state=3),
        "forest": RandomForestRegressor(max_samples=0.1, random_state=3),
    }[name].fit(examples.features.numpy(), examples.target.numpy())
    others = torch.rand(500, 4)
    expected = torch.from_numpy(theirs.predict(others.numpy())).float()
    torch.testing.assert_close(fit(name, examples, seed=3)(others), expected, rtol=1e-5, atol=1e-6)


def test_the_perceptron_learns(examples):
    many = Examples(examples.features.repeat(40, 1), examples.target.repeat(40))
    learned = fit("mlp", many)
    assert quality(learned, examples).r2 > 0.8
    assert torch.equal(learned(examples.features), fit("mlp", many)(examples.features))
    assert not torch.equal(learned(examples.features), fit("mlp", many, seed=1)(examples.features))


def test_quality():
    features = torch.tensor([[0.0], [0.5], [1.0], [0.25]])
    halves = Linear(torch.ones(1).double(), torch.zeros(1).double())
    found = quality(halves, Examples(features, torch.tensor([0.0, 0.5, 0.5, 0.0])))
    assert found.mse == pytest.approx((0.25 + 0.0625) / 4)
    assert found.r2 == pytest.approx(1 - (0.25 + 0.0625) / 0.25)
    assert found.overlap == 1.0


def test_unknown_regressors(examples):
    with pytest.raises(ValueError, match="a regressor is one of linear, sgd, tree, forest, mlp, got 'boosting'"):
        fit("boosting", examples)


@pytest.mark.parametrize("name", ["linear", "tree", "forest", "mlp"])
def test_files_hold_what_was_learned(name, examples, tmp_path):
    learned = LearnedScore(fit(name, examples))
    save(learned, tmp_path / "a.safetensors")
    found = load(tmp_path / "a.safetensors")
    assert found.extended is False
    assert torch.equal(found.regressor(examples.features), learned.regressor(examples.features))


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("space", ["spatial", "interspace"])
def test_a_learned_score_is_a_score(batch, space, tmp_path):
    model = net() if space == "spatial" else fbconv.interspace(net())
    only_snip = LearnedScore(Linear(torch.tensor([0, 1.0, 0, 0]).double(), torch.zeros(1).double()))
    masks = fbconv.prune_masks(model, only_snip, 0.7, rounds=1, batches=[batch])
    expected = fbconv.prune_masks(model, "snip", 0.7, rounds=1, batches=[batch])
    assert all(torch.equal(mask, expected[key]) for key, mask in masks.items())
    sparse = fbconv.sparsify(model, masks)
    again = fbconv.prune_masks(sparse, only_snip, 0.9, rounds=3, batches=iter([batch]))
    assert sum(int(mask.sum()) for mask in again.values()) == int(
        0.1 * sum(mask.numel() for mask in again.values()) + 1e-9
    )
    stacked = fbconv.score(model, ["magnitude", only_snip], [batch])
    assert stacked.keys() == masks.keys()


def trees(**changes):
    whole = {
        "roots": torch.tensor([0]),
        "feature": torch.tensor([1, 0, 0]),
        "threshold": torch.tensor([0.5, 0, 0]).double(),
        "left": torch.tensor([1, 1, 2]),
        "right": torch.tensor([2, 1, 2]),
        "value": torch.tensor([0, 0.25, 0.75]).double(),
    }
    return {**whole, **changes}


def written(path, tensors, **metadata):
    header = {"format": "fbconv learned score 1", "kind": "trees", "features": " ".join(SCORED)}
    path.write_bytes(sealed(tensors, {**header, **metadata}))
    return path


def test_a_tree_by_hand(tmp_path):
    found = load(written(tmp_path / "a", trees()))
    assert found.regressor(torch.tensor([[9, 0.5, 9, 9], [9, 0.6, 9, 9.0]])).tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"roots": torch.tensor([3])}, r"roots must lie in \[0, 3\), got 3 to 3"),
        ({"left": torch.tensor([-1, 1, 2])}, r"left must lie in \[0, 3\), got -1"),
        ({"feature": torch.tensor([4, 0, 0])}, r"feature must lie in \[0, 4\), got 0 to 4"),
        ({"left": torch.tensor([1, 0, 2])}, "lead to later nodes"),
        ({"right": torch.tensor([0, 1, 2])}, "lead to later nodes"),
        ({"value": torch.tensor([0, torch.nan, 0]).double()}, "value must be finite"),
        ({"value": torch.tensor([0, 1, 0])}, "value must be torch.float64 of shape"),
        ({"threshold": torch.zeros(2).double()}, r"threshold must be torch.float64 of shape \(3,\)"),
        ({"roots": torch.zeros(0).long()}, r"roots must be torch.int64 of shape \(1,\)"),
        ({"more": torch.zeros(1)}, "it must hold feature, left"),
    ],
)
def test_trees_that_lead_astray(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"a: not a learned score: .*{message}"):
        load(written(tmp_path / "a", trees(**changes)))


def test_no_learned_scores(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(ValueError, match="text: not a learned score"):
        load(tmp_path / "text")
    with pytest.raises(ValueError, match="its header must say"):
        load(written(tmp_path / "a", trees(), kind="forest"))
    with pytest.raises(ValueError, match="unknown features 'snip'"):
        load(written(tmp_path / "a", trees(), features="snip"))
    whole = written(tmp_path / "a", trees()).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a learned score"):
            load(tmp_path / "cut")
    for place in range(len(whole)):
        (tmp_path / "altered").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="not a learned score"):
            load(tmp_path / "altered")


def test_regressors_move_as_a_whole():
    perceptron = Perceptron(*(torch.zeros(1) for _ in dataclasses.fields(Perceptron)))
    assert perceptron.to(torch.device("meta")).weight2.is_meta
    assert Trees(**trees()).to(torch.device("meta")).roots.is_meta


def test_features_need_data_and_finite_scores(batch, seeded):
    model = net()
    zero = LearnedScore(Linear(torch.zeros(4).double(), torch.zeros(1).double()))
    with pytest.raises(ValueError, match="needs batches"):
        fbconv.score(model, zero)
    parameters_of(model, ["0.weight"])["0.weight"].data.fill_(torch.inf)
    with pytest.raises(ValueError, match="meta: magnitude must be finite"):
        fbconv.score(model, zero, [batch])
