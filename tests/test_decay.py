"""Weight decay reaches weights, values and nothing else."""

import copy

import pytest
import torch
from torch import nn

import fbconv

DECAY = 0.1


class Net(nn.Module):
    """One of each kind of parameter; two convolutions share a basis, two linear layers a weight."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.layer_norm = nn.LayerNorm((4, 5, 5))
        self.point = nn.Conv2d(4, 2, 1)
        self.act = nn.PReLU(2)
        self.up = nn.ConvTranspose2d(2, 2, 1)
        self.lstm = nn.LSTM(10, 10)
        self.attention = nn.MultiheadAttention(10, 2, add_bias_kv=True)
        self.head, self.tied = nn.Linear(10, 10), nn.Linear(10, 10)
        self.tied.weight = self.head.weight

    def forward(self, x):
        x = self.layer_norm(self.again(self.norm(self.conv(x))))
        x = self.up(self.act(self.point(x))).flatten(2).flatten(1).view(5, -1, 10)
        x = self.lstm(x)[0]
        return self.tied(self.head(self.attention(x, x, x)[0]))


LAYERS = {"conv", "again", "point", "head"}
OTHER_WEIGHTS = {"up.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "attention.in_proj_weight",
                 "attention.out_proj.weight"}  # fmt: skip


def dense(model, masks):
    return model


def pruned(model, masks):
    return fbconv.sparsify(model, masks)


def frozen(model, masks):
    return fbconv.freeze(model, masks)


def interspace(model, masks):
    return fbconv.interspace(model)


def frozen_interspace(model, masks):
    model = fbconv.interspace(model)
    return fbconv.freeze(model, {name: torch.rand(shape) < 0.5 for name, shape in fbconv.prunable(model).items()})


def made(convert):
    torch.manual_seed(1)
    model = Net()
    model.tied = model.head if convert in (pruned, frozen, frozen_interspace) else model.tied
    masks = {name: torch.rand(shape) < 0.5 for name, shape in fbconv.prunable(model).items()}
    return convert(model, masks)


@pytest.mark.parametrize("convert", [dense, pruned, frozen, interspace, frozen_interspace])
def test_who_decays(convert):
    model = made(convert)
    decayed, rest = fbconv.parameter_groups(model, DECAY)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (DECAY, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    expected = {name for name in names.values() if name.rpartition(".")[0] in LAYERS
                and name.rpartition(".")[2] in ("weight", "values")} | OTHER_WEIGHTS  # fmt: skip
    assert {names[id(parameter)] for parameter in decayed["params"]} == expected
    everything = [names[id(parameter)] for group in (decayed, rest) for parameter in group["params"]]
    assert sorted(everything) == sorted(names.values()), "every parameter exactly once"


@pytest.mark.parametrize("convert", [pruned, interspace])
def test_the_order_is_that_of_the_model(convert):
    model = made(convert)
    order = {id(parameter): i for i, parameter in enumerate(model.parameters())}
    for group in fbconv.parameter_groups(model, DECAY):
        places = [order[id(parameter)] for parameter in group["params"]]
        assert places == sorted(places)


@pytest.mark.parametrize("convert", [dense, pruned, frozen, interspace, frozen_interspace])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=lambda kind: kind.__name__)
def test_a_step_without_gradients_shrinks_what_decays(convert, optimizer):
    model = made(convert)
    before = copy.deepcopy(dict(model.named_parameters()))
    buffers = copy.deepcopy(dict(model.named_buffers()))
    groups = fbconv.parameter_groups(model, DECAY)
    decayed = {id(parameter) for parameter in groups[0]["params"]}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer(groups, lr=0.5).step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * DECAY if id(parameter) in decayed else 1
        torch.testing.assert_close(parameter, before[name] * factor, msg=name)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def test_groups_train(generator):
    model = made(interspace)
    optimizer = torch.optim.AdamW(fbconv.parameter_groups(model, DECAY), lr=0.01)
    x = torch.randn(5, 2, 5, 5, generator=generator)
    losses = []
    for _ in range(20):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("decay", [-0.1, float("nan")])
def test_refuses_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match="weight_decay must be 0 or more"):
        fbconv.parameter_groups(nn.Linear(1, 1), decay)
