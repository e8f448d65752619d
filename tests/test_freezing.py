"""FreezeNet: frozen weights that no optimizer reaches, their seeds, their decay, and the pruned end of it."""

import copy

import pytest
import torch
from torch import nn

import fbconv
from fbconv.initialisation import INITS, Draw
from fbconv.models import build
from fbconv.nn import FBConv2d, FrozenConv2d, FrozenLinear, SparseConv2d, SparseLinear

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9, weight_decay=1e-2),
}


def batch(n=8):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 28, 28, generator=generator)
    return images, torch.randint(10, (n,), generator=generator)


def masks_of(model, sparsity=0.9, score="snip"):
    return fbconv.select(fbconv.score(model, score, batches=[batch()]), sparsity)


def frozen_lenet(sparsity=0.9, seed=3, interspace=False, **options):
    model = build("lenet5", seed=3)
    model = fbconv.interspace(model) if interspace else model
    return fbconv.freeze(model, masks_of(model, sparsity), seed, **options)


def layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, FrozenConv2d | FrozenLinear | FBConv2d)}


def train_step(model, optimizer, *, amp=False, clip=False, scaler=None):
    images, labels = batch()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss = nn.functional.cross_entropy(model(images), labels)
    if scaler is None:
        loss.backward()
    else:
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return loss.item()


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interspace", [False, True])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("amp", ["off", "autocast", "scaler"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_weights_are_bit_identical_after_training(optimizer, amp, clip, interspace):
    model = frozen_lenet(interspace=interspace)
    before = copy.deepcopy(model)
    chosen = OPTIMIZERS[optimizer](model.parameters())
    scaler = torch.amp.GradScaler("cpu") if amp == "scaler" else None
    for _ in range(4):
        train_step(model, chosen, amp=amp != "off", clip=clip, scaler=scaler)
    for name, layer in layers(model).items():
        old, mask = before.get_submodule(name), layer.pattern.mask()
        assert torch.equal(layer.frozen, old.frozen)
        assert torch.equal(layer.dense_values()[~mask], Draw("xavier_normal", 3, name).tensor(mask.shape)[~mask])
        assert not torch.equal(layer.values, old.values)


@pytest.mark.parametrize("interspace", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_parameters_gradients_and_optimizer_state_have_nnz_entries(optimizer, interspace):
    model = frozen_lenet(0.99, interspace=interspace)
    chosen = OPTIMIZERS[optimizer](model.parameters())
    train_step(model, chosen)
    kept = 4305
    values = [layer.values for layer in layers(model).values()]
    assert sum(v.numel() for v in values) == sum(v.grad.numel() for v in values) == kept
    others = 580 + (625 if interspace else 0)
    assert sum(p.numel() for p in model.parameters()) == kept + others
    entries = sum(
        t.numel() for state in chosen.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()
    )
    copies = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2}[optimizer]
    assert entries == copies * (kept + others)


# --- which weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("interspace", [False, True])
def test_the_seed_of_the_initialisation_changes_nothing(init, interspace):
    model = build("lenet5", init=init, seed=11)
    model = fbconv.interspace(model) if interspace else model
    frozen = fbconv.freeze(model, masks_of(model), seed=11, init=init)
    for name, layer in layers(frozen).items():
        dense = model.get_submodule(name)
        assert torch.equal(layer.weight, dense.weight)
        assert layer.draw == Draw(init, 11, name)
    images, _ = batch()
    torch.testing.assert_close(frozen(images), model(images))


def test_another_seed_draws_new_weights_under_the_same_mask():
    model = build("lenet5", seed=11)
    masks = masks_of(model)
    one, other = fbconv.freeze(model, masks, seed=11), fbconv.freeze(model, masks, seed=12)
    for name, layer in layers(one).items():
        assert torch.equal(layer.indices, other.get_submodule(name).indices)
        assert not (layer.weight == other.get_submodule(name).weight).any()
    assert torch.equal(model.fc1.weight, build("lenet5", seed=11).fc1.weight)


def test_without_a_seed_present_weights_freeze():
    model = build("lenet5", seed=11)
    with torch.no_grad():
        model.fc1.weight.mul_(2)
    frozen = fbconv.freeze(model, masks_of(model))
    assert torch.equal(frozen.fc1.weight, model.fc1.weight)
    assert {layer.draw for layer in layers(frozen).values()} == {None}


@pytest.mark.parametrize("score", ["random", "magnitude", "snip", "usnip", "grasp", "synflow"])
@pytest.mark.parametrize("kind", ["conv", "grouped", "nested"])
def test_any_model_and_any_score(score, kind):
    convs = {
        "conv": lambda: nn.Conv2d(1, 8, 3, stride=2, padding=1),
        "grouped": lambda: nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=1, groups=4)),
        "nested": lambda: nn.Sequential(nn.ModuleDict({"a": nn.Conv2d(1, 8, 3, stride=2, bias=False)})["a"]),
    }
    model = nn.Sequential(convs[kind](), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    model.append(nn.Linear(72, 10))
    masks = masks_of(model, 0.7, score)
    frozen = fbconv.freeze(model, masks, seed=1, init="kaiming_uniform")
    assert sum(layer.values.numel() for layer in layers(frozen).values()) == sum(int(m.sum()) for m in masks.values())
    optimizer = torch.optim.SGD(frozen.parameters(), lr=0.05)
    losses = [train_step(frozen, optimizer) for _ in range(8)]
    assert losses[-1] < losses[0]


def test_cops_masks():
    model = build("lenet5", seed=3)
    snip, grasp = (fbconv.score(model, name, batches=[batch()]) for name in ("snip", "grasp"))
    frozen = fbconv.freeze(model, fbconv.cops(snip, grasp, sparsity=0.99, alpha=0.5).masks, seed=3)
    assert sum(layer.values.numel() for layer in layers(frozen).values()) == 4305
    train_step(frozen, torch.optim.SGD(frozen.parameters(), lr=0.1))


def test_all_frozen_trains_biases_and_norms_alone():
    model = build("vgg16", in_channels=1, image_size=28)
    masks = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in fbconv.prunable(model).items()}
    frozen = fbconv.freeze(model, masks, seed=0, init="kaiming_normal")
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.numel()], lr=0.01, momentum=0.9)
    before = copy.deepcopy(frozen)
    losses = [train_step(frozen, optimizer) for _ in range(6)]
    assert min(losses[2:]) < losses[0]
    for name, parameter in frozen.named_parameters():
        changed = not torch.equal(parameter, before.get_parameter(name))
        assert changed == (not name.endswith("values")) or ("conv" in name and name.endswith("bias"))
    for name, layer in layers(frozen).items():
        assert torch.equal(layer.weight, model.get_submodule(name).weight)


# --- FreezeNet-WD ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=wd),
        lambda p, wd: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=wd, nesterov=True, dampening=0),
        lambda p, wd: torch.optim.SGD(p, lr=0.1, weight_decay=wd),
        lambda p, wd: torch.optim.AdamW(p, lr=0.1, weight_decay=wd),
    ],
    ids=["momentum", "nesterov", "plain", "adamw"],
)
def test_decay_is_what_the_optimizer_does_to_weights_without_gradient(make):
    """One number a layer stands for the same optimizer on all frozen weights, schedule included."""
    model = frozen_lenet()
    whole = nn.Parameter(model.fc1.frozen.double())
    naive = make([whole], 0.3)
    optimizer = make(model.parameters(), 0.0)
    fbconv.decay_frozen(model, optimizer, 0.3)
    schedules = [torch.optim.lr_scheduler.StepLR(o, 5, 0.3) for o in (naive, optimizer)]
    for _ in range(12):
        whole.grad = torch.zeros_like(whole)
        naive.step()
        train_step(model, optimizer)
        for schedule in schedules:
            schedule.step()
    scaled = model.fc1.frozen.double() * model.fc1.frozen_scale
    torch.testing.assert_close(scaled, whole.detach(), rtol=1e-5, atol=0)
    assert torch.equal(model.fc1.frozen, Draw("xavier_normal", 3, "fc1").tensor((500, 800)))
    mask = model.fc1.pattern.mask()
    torch.testing.assert_close(model.fc1.weight[~mask], scaled[~mask].float())


def test_decay_reaches_the_forward_pass_of_every_frozen_layer():
    for interspace in (False, True):
        model = frozen_lenet(interspace=interspace)
        fbconv.decay_frozen(model, torch.optim.SGD(model.parameters(), lr=0.1), 1e-2)
        for layer in layers(model).values():
            layer.frozen_scale.fill_(0.25)
        images, _ = batch()
        torch.testing.assert_close(model(images), fbconv.densify(model)(images), rtol=1e-4, atol=1e-5)
        mask = model.fc1.pattern.mask()
        assert torch.equal(model.fc1.weight[~mask], 0.25 * model.fc1.frozen[~mask])


@pytest.mark.parametrize("interspace", [False, True])
def test_vanished_weights_are_pruned_at_the_end(interspace):
    model = frozen_lenet(0.95, interspace=interspace)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    fbconv.decay_frozen(model, optimizer, 1.0)
    train_step(model, optimizer)
    with pytest.raises(ValueError, match=r"finish: .* vanished to 0.001 of .* of conv1 are at 0.95; train longer"):
        fbconv.finish(model)
    for _ in range(60):
        train_step(model, optimizer)
    sparse = fbconv.finish(model, tolerance=0.1)
    assert type(sparse.fc1) is SparseLinear
    assert type(sparse.conv1) is (FBConv2d if interspace else SparseConv2d)
    for name, layer in layers(model).items():
        pruned = sparse.get_submodule(name)
        assert [pruned.frozen, pruned.frozen_scale, pruned.draw] == [None] * 3
        assert torch.equal(pruned.values, layer.values)
        assert torch.equal(pruned.indices, layer.indices)
        assert layer.frozen is not None


def test_state_round_trips_with_its_decay():
    model = frozen_lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fbconv.decay_frozen(model, optimizer, 0.5)
    train_step(model, optimizer)
    state, optimizer_state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    train_step(model, optimizer)
    other = frozen_lenet()
    again = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    fbconv.decay_frozen(other, again, 0.5)
    other.load_state_dict(state)
    again.load_state_dict(optimizer_state)
    train_step(other, again)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    plain = frozen_lenet(seed=4)
    plain.load_state_dict(state)
    assert torch.equal(plain.fc1.weight, state_weight(state, "fc1"))


def state_weight(state, name):
    """The dense weight that a state holds, without the module's help."""
    pattern = fbconv.SparsePattern.from_packed(state[f"{name}.indices"], state[f"{name}.frozen"].shape)
    weight = state[f"{name}.frozen"] * state[f"{name}.frozen_scale"]
    weight[pattern.mask()] = state[f"{name}.values"]
    return weight


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, o: fbconv.decay_frozen(nn.Linear(1, 1), o, 0.1), ValueError, "model must have frozen layers"),
        (lambda m, o: fbconv.decay_frozen(m, o, 0.0), ValueError, "weight_decay must be positive, got 0.0"),
        (lambda m, o: fbconv.decay_frozen(m, o, float("nan")), ValueError, "weight_decay must be positive, got nan"),
        (
            lambda m, o: fbconv.decay_frozen(m, torch.optim.Adam(m.parameters()), 0.1),
            TypeError,
            "SGD or AdamW, got Adam",
        ),
        (lambda m, o: fbconv.finish(nn.Linear(1, 1)), ValueError, "finish: model must have frozen layers, got none"),
        (lambda m, o: fbconv.finish(m), ValueError, "those of conv1 are at 1;"),
        (lambda m, o: fbconv.freeze(m, {"fc1.values": m.fc1.pattern.mask()}, -1), ValueError, "32 bits"),
        (
            lambda m, o: fbconv.freeze(m, {"fc1.values": m.fc1.pattern.mask()}, 1, "normal"),
            ValueError,
            "init must be one",
        ),
    ],
)
def test_errors(call, error, message):
    model = frozen_lenet()
    with pytest.raises(error, match=message):
        call(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_decay_goes_on_where_it_was():
    model = frozen_lenet()
    fbconv.decay_frozen(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5)
    model.fc1.frozen_scale.fill_(0.25)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fbconv.decay_frozen(model, optimizer, 0.5)
    train_step(model, optimizer)
    assert model.fc1.frozen_scale.item() == pytest.approx(0.25 * 0.95)
    with pytest.raises(ValueError, match="more than one parameter group"):
        fbconv.decay_frozen(model, optimizer, 0.5)


def test_weights_that_are_no_numbers_have_not_vanished():
    model = frozen_lenet()
    fbconv.decay_frozen(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.5)
    for layer in layers(model).values():
        layer.frozen_scale.fill_(float("nan"))
    with pytest.raises(ValueError, match="those of conv1 are at nan"):
        fbconv.finish(model)


def test_decay_does_not_stop_silently_in_a_model_that_was_cast():
    model = frozen_lenet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fbconv.decay_frozen(model, optimizer, 0.5)
    model.double()
    with pytest.raises(RuntimeError, match="must hold the frozen_scale of conv1, got a model that was moved or cast"):
        optimizer.step()
