"""Pruning in rounds: exact counts, nothing that comes back, rewinding, and no empty layer with SynFlow."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fbconv
from fbconv import prunable, score, select, sparsify
from fbconv.masks import LayerCollapseWarning, kept_count
from fbconv.schedules import iterative_masks, prune_masks

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("random", "magnitude", "snip", "usnip", "grasp", "synflow")


def make_net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(96, 10),
        )  # fmt: skip


def make_batches(count=2):
    source = torch.Generator().manual_seed(5)
    return [
        (torch.randn(8, 1, 8, 8, generator=source), torch.randint(10, (8,), generator=source)) for _ in range(count)
    ]


def total(model):
    return sum(shape.numel() for shape in prunable(model).values())


def kept(masks):
    return sum(int(mask.sum()) for mask in masks.values())


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def within(inner, outer):
    """No weight of ``inner`` is missing in ``outer``."""
    return all((inner[name] <= outer[name]).all() for name in inner)


class Watching:
    """A score that remembers which weights of the plain model were there in each round."""

    def __init__(self, function):
        self.function, self.rounds = function, []

    def __call__(self, model, weights, *arguments):
        self.rounds.append({name: weight.detach() != 0 for name, weight in weights.items()})
        return self.function(model, weights, *arguments)


# --- before training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_one_round_is_scoring_and_selecting(name):
    net, batches = make_net(), make_batches()
    masks = prune_masks(net, name, 0.8, rounds=1, batches=batches)
    assert equal(masks, select(score(net, name, batches), 0.8))


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
def test_every_round_keeps_its_share_and_revives_nothing(name, schedule):
    net, batches, rounds, sparsity = make_net(), make_batches(), 7, 0.93
    watching = Watching(getattr(fbconv.scores, name))
    masks = prune_masks(net, watching, sparsity, rounds, schedule, batches=batches)
    seen = [*watching.rounds, masks]
    for k, found in enumerate(seen):
        density = 0.07 ** (k / rounds) if schedule == "exponential" else 1 - 0.93 * k / rounds
        assert kept(found) == kept_count(total(net), 1 - density)
    for before, after in itertools.pairwise(seen):
        assert within(after, before)


def test_what_is_pruned_stays_pruned_though_its_score_would_be_best():
    """GraSP's score of a zero weight is 0 and that of many others negative; here all others are."""
    net = make_net()

    def negative(model, weights, *_):
        return {name: -1 - weight.abs() for name, weight in weights.items()}

    watching = Watching(negative)
    masks = prune_masks(net, watching, 0.9, rounds=5)
    seen = [*watching.rounds, masks]
    for before, after in itertools.pairwise(seen):
        assert within(after, before)
    assert kept(masks) == kept_count(total(net), 0.9)


def test_later_rounds_score_the_pruned_network():
    net, batches = make_net(), make_batches()
    half = 1 - 0.1**0.5
    first = select(score(net, "snip", batches), half)
    second = score(sparsify(net, first), "snip", batches)
    expected = {name.replace("values", "weight"): mask for name, mask in select(second, 0.9).items()}
    masks = prune_masks(net, "snip", 0.9, rounds=2, batches=batches)
    assert equal(masks, expected)
    assert not equal(masks, prune_masks(net, "snip", 0.9, rounds=1, batches=batches))


def test_a_compressed_model_is_pruned_further_from_where_it_stands():
    net, batches = make_net(), make_batches()
    outer = select(score(net, "random"), 0.6)
    compressed = sparsify(net, outer)
    seen = []

    def watching(model, weights, *_):
        seen.append(sum(int((weight != 0).sum()) for weight in weights.values()))
        return {name: weight.abs() for name, weight in weights.items()}

    masks = prune_masks(compressed, watching, 0.9, rounds=2, batches=batches)
    start = kept(outer) / total(net)
    assert seen == [kept(outer), kept_count(total(net), 1 - (start * 0.1) ** 0.5)]
    assert kept(masks) == kept_count(total(net), 0.9)
    assert within({name.replace("values", "weight"): mask for name, mask in masks.items()}, outer)
    with pytest.raises(ValueError, match="have to be kept, but only"):
        prune_masks(compressed, "magnitude", 0.5, rounds=1)


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was(name):
    net = make_net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    prune_masks(net, name, 0.9, rounds=3, batches=make_batches())
    assert equal(net.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_the_generator_decides_and_iterators_of_batches_last():
    net, batches = make_net(), make_batches()
    for name in ("random", "usnip", "snip"):
        one, again, other = (
            prune_masks(net, name, 0.9, 3, batches=given, generator=torch.Generator().manual_seed(seed))
            for seed, given in ((1, batches), (1, iter(batches)), (2, batches))
        )
        assert equal(one, again)
        assert equal(one, other) == (name == "snip")


@pytest.mark.parametrize("distribution", ["uniform", "er", "erk"])
def test_layer_densities_in_rounds(distribution):
    net = make_net()
    watching = Watching(fbconv.scores.magnitude)
    masks = prune_masks(net, watching, 0.9, rounds=9, distribution=distribution)
    expected = select(score(net, "magnitude"), 0.9, distribution=distribution)
    # Magnitudes do not change from round to round, so the rounds make no difference.
    assert equal(masks, expected)
    assert len(watching.rounds) == 9


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
def test_excluded_layers_stay_whole():
    watching = Watching(fbconv.scores.magnitude)
    masks = prune_masks(make_net(), watching, 0.9, rounds=3, exclude=["6"])
    assert list(masks) == ["0.weight", "3.weight"]
    assert all(found["6.weight"].all() for found in watching.rounds)
    assert kept(masks) == kept_count(54 + 162, 0.9)


def test_options_reach_the_score():
    net, batches = make_net(), make_batches()
    assert equal(
        prune_masks(net, "synflow", 0.9, 3, input_shape=(1, 8, 8)), prune_masks(net, "synflow", 0.9, 3, batches=batches)
    )
    hot, cold = (prune_masks(net, "grasp", 0.9, 1, batches=batches, temperature=t) for t in (1.0, 200.0))
    assert not equal(hot, cold)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
def test_all_or_nothing(sparsity):
    masks = prune_masks(make_net(), "magnitude", sparsity, rounds=4)
    assert all(bool(mask.all()) == (sparsity == 0) and bool(mask.any()) == (sparsity == 0) for mask in masks.values())


@pytest.mark.parametrize("control", [None, "random"])
def test_collapse_is_reported_once_and_where_the_caller_is(control):
    net = make_net()
    with torch.no_grad():
        net[3].weight.mul_(1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prune_masks(net, "magnitude", 0.95, rounds=6, control=control, alpha=0.05)
    assert [str(warning.message) for warning in caught] == ["no weight of '3.weight' is kept"]
    assert caught[0].category is LayerCollapseWarning
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"schedule": "cosine"}, "schedule must be one of exponential, linear, got 'cosine'"),
        ({"sparsity": 2.0}, r"sparsity must be in \[0, 1\], got 2.0"),
        ({"control": "magnitude", "scope": "layer"}, "cops chooses over all layers, got scope 'layer'"),
        ({"control": "magnitude", "distribution": "erk"}, "cops chooses over all layers, got .* distribution 'erk'"),
        ({"control": "magnitude", "combine": "sum"}, "combine must be one of cops, linear, got 'sum'"),
        ({"control": "magnitude", "combine": "linear", "alpha": 1.0}, r"alpha must be in \[0, 1\), got 1.0"),
        ({"exclude": ["nothing"]}, "exclude pattern 'nothing' must match"),
    ],
)
def test_bad_arguments_before_anything_is_scored(options, message):
    def never(*_):
        pytest.fail("it scored")

    with pytest.raises(ValueError, match=message):
        prune_masks(make_net(), never, **{"sparsity": 0.5, **options})


# --- under control ----------------------------------------------------------------------------------------------------


def test_one_round_under_control_is_cops():
    net, batches = make_net(), make_batches()
    target, control = score(net, "snip", batches), score(net, "grasp", batches)
    expected = fbconv.cops(target, control, sparsity=0.9, alpha=0.7).masks
    masks = prune_masks(net, "snip", 0.9, rounds=1, batches=batches, control="grasp", alpha=0.7)
    assert equal(masks, expected)
    assert not equal(masks, select(target, 0.9))


def test_the_naive_mix():
    net, batches = make_net(), make_batches()
    target, control = score(net, "snip", batches), score(net, "grasp", batches)
    for alpha, weight in ((0.0, 0.0), (0.5, 1.0), (0.8, 4.0)):
        for selection in ({}, {"distribution": "erk"}):
            expected = select(fbconv.linear_mix(target, control, weight), 0.9, **selection)
            mixing = {"control": "grasp", "alpha": alpha, "combine": "linear", **selection}
            assert equal(prune_masks(net, "snip", 0.9, rounds=1, batches=batches, **mixing), expected)


def test_control_off_is_the_target():
    net, batches = make_net(), make_batches()
    masks = prune_masks(net, "snip", 0.9, rounds=3, batches=batches, control="grasp", alpha=0.0)
    assert equal(masks, prune_masks(net, "snip", 0.9, rounds=3, batches=batches))


def test_rounds_under_control():
    net, batches = make_net(), make_batches()
    watching = Watching(fbconv.scores.snip)
    masks = prune_masks(net, watching, 0.95, rounds=5, batches=batches, control="magnitude", alpha=0.5)
    seen = [*watching.rounds, masks]
    for k, found in enumerate(seen):
        assert kept(found) == kept_count(total(net), 1 - 0.05 ** (k / 5))
    for before, after in itertools.pairwise(seen):
        assert within(after, before)


def test_rounds_go_on_where_cops_keeps_fewer_than_asked():
    net, batches = make_net(), make_batches()
    watching = Watching(fbconv.scores.grasp)
    masks = prune_masks(net, watching, 0.4, rounds=4, batches=batches, control="grasp", alpha=0.9)
    seen = [*watching.rounds, masks]
    # Scores of both signs: about half of the weights speak for themselves, fewer than the first round may keep.
    assert kept(seen[1]) < kept_count(total(net), 1 - 0.6 ** (3 / 4))
    assert kept(masks) > 0
    for before, after in itertools.pairwise(seen):
        assert within(after, before)


def test_control_with_exclusions_and_compressed_layers():
    net, batches = make_net(), make_batches()
    masks = prune_masks(net, "snip", 0.8, 1, batches=batches, control="magnitude", exclude=["6"])
    assert list(masks) == ["0.weight", "3.weight"]
    assert kept(masks) == kept_count(54 + 162, 0.8)
    outer = select(score(net, "random"), 0.5)
    masks = prune_masks(sparsify(net, outer), "snip", 0.8, 2, batches=batches, control="magnitude")
    assert kept(masks) == kept_count(total(net), 0.8)
    assert within({name.replace("values", "weight"): mask for name, mask in masks.items()}, outer)
    with pytest.raises(ValueError, match="have to be kept, but only"):
        prune_masks(sparsify(net, outer), "snip", 0.1, 1, batches=batches, control="magnitude")


# --- SynFlow against layer collapse -----------------------------------------------------------------------------------


def deep_net():
    """Layers of 16 to 4,096 weights, so that single-shot scores starve some of them."""
    widths = (4, 4, 8, 16, 32, 64, 64, 8, 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1])


def test_synflow_in_rounds_keeps_a_path_with_one_weight_a_layer():
    net = deep_net()
    layers = len(prunable(net))
    sparsity = 1 - (layers + 0.5) / total(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = prune_masks(net, "synflow", sparsity, rounds=100, input_shape=(4,))
    assert [int(mask.sum()) for mask in masks.values()] == [1] * layers
    with torch.no_grad():
        path = sparsify(net, masks)
        for parameter in path.parameters():
            parameter.abs_()
        assert path(torch.ones(1, 4)).sum() > 0


@pytest.mark.parametrize("name", ["random", "magnitude", "snip", "grasp", "synflow"])
def test_single_shot_collapses_far_earlier(name):
    net = deep_net()
    batches = [(torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 4)]
    with pytest.warns(LayerCollapseWarning):
        prune_masks(net, name, 1 - 8.5 / total(net), rounds=1, batches=batches)


# --- between trainings ------------------------------------------------------------------------------------------------


class Trainer:
    """A few steps of SGD from a fresh optimizer; remembers what it was given."""

    def __init__(self):
        self.started = []

    def __call__(self, network):
        self.started.append({key: value.clone() for key, value in fbconv.densify(network).state_dict().items()})
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for inputs, targets in make_batches(3):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()


def test_imp_removes_a_fifth_of_what_is_left_each_time():
    net, trainer = make_net(), Trainer()
    found = list(iterative_masks(net, trainer, 1 - 0.8**4, rounds=4))
    assert [kept(masks) for masks in found] == [kept_count(total(net), 1 - 0.8**k) for k in range(1, 5)]
    for before, after in itertools.pairwise(found):
        assert within(after, before)
    assert len(trainer.started) == 4


def test_every_round_starts_from_the_same_weights_biases_and_statistics():
    net, trainer = make_net(), Trainer()
    net(make_batches(1)[0][0])  # statistics of a step t0 > 0
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = list(iterative_masks(net, trainer, 0.9, rounds=3))
    assert equal(net.state_dict(), before)
    for masks, state in zip(({}, *found[:-1]), trainer.started, strict=True):
        for key, value in state.items():
            mask = masks.get(key)
            assert torch.equal(value, before[key] if mask is None else before[key] * mask)


def test_masks_follow_the_trained_magnitudes():
    net, trained = make_net(), []

    def train(network):
        Trainer()(network)
        trained.append(fbconv.densify(network))

    first, second = iterative_masks(net, train, 0.75, rounds=2)
    assert equal(first, select(score(trained[0], "magnitude"), 0.5))
    assert equal(second, select(score(trained[1], "magnitude"), 0.75))
    assert not equal(first, select(score(net, "magnitude"), 0.5))


def test_the_output_layer_can_be_excluded():
    net, trainer = make_net(), Trainer()
    found = list(iterative_masks(net, trainer, 0.75, rounds=2, exclude=["6"]))
    assert all(list(masks) == ["0.weight", "3.weight"] for masks in found)
    assert [kept(masks) for masks in found] == [108, 54]
    assert all(torch.equal(state["6.weight"], net[6].weight) for state in trainer.started)


@pytest.mark.filterwarnings("ignore::fbconv.masks.LayerCollapseWarning")
@pytest.mark.parametrize("name", ["grasp", "synflow"])
def test_multi_shot_at_each_pruning_step(name):
    net, counts = make_net(), []

    def counting(model, weights, *arguments):
        counts.append(sum(int((weight != 0).sum()) for weight in weights.values()))
        return getattr(fbconv.scores, name)(model, weights, *arguments)

    found = list(
        iterative_masks(net, Trainer(), 0.96, 2, counting, shots=3, batches=make_batches(), schedule="exponential")
    )
    size = total(net)
    assert counts == [kept_count(size, 1 - 0.2 ** (k / 3)) for k in range(3)] + [
        kept_count(size, 1 - kept(found[0]) / size * (0.04 * size / kept(found[0])) ** (k / 3)) for k in range(3)
    ]
    assert [kept(masks) for masks in found] == [kept_count(size, 0.8), kept_count(size, 0.96)]
    assert within(found[1], found[0])


def test_masks_survive_a_checkpoint(tmp_path):
    net = make_net()
    *_, masks = iterative_masks(net, Trainer(), 0.9, rounds=2)
    ticket = sparsify(net, masks)
    torch.save(ticket.state_dict(), tmp_path / "ticket.pt")
    other = sparsify(make_net(), {name: torch.ones_like(mask) for name, mask in masks.items()})
    other.load_state_dict(torch.load(tmp_path / "ticket.pt", weights_only=True))
    for name, mask in masks.items():
        assert torch.equal(other.get_submodule(name.partition(".")[0]).pattern.mask(), mask)


def test_iterations_under_control_go_on_with_what_is_left():
    net, batches = make_net(), make_batches()
    options = {"batches": batches, "control": "grasp", "alpha": 0.9}
    found = list(iterative_masks(net, lambda network: None, 0.4, rounds=3, score="grasp", **options))
    assert kept(found[0]) < kept_count(total(net), 1 - 0.6 ** (2 / 3))  # fewer than the second round may keep
    for before, after in itertools.pairwise(found):
        assert within(after, before)
    assert kept(found[-1]) > 0


def test_interspace_models_have_their_own_names():
    net = fbconv.interspace(make_net())
    found = list(iterative_masks(net, Trainer(), 0.9, rounds=2))
    assert all(list(masks) == ["0.values", "3.values", "6.weight"] for masks in found)
    assert kept(found[1]) == kept_count(total(net), 0.9)


def test_bad_arguments_of_iterative_masks():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        next(iterative_masks(make_net(), Trainer(), 0.5, rounds=0))
    with pytest.raises(ValueError, match="schedule must be one of"):
        next(iterative_masks(make_net(), Trainer(), 0.5, rounds=1, schedule="step"))
