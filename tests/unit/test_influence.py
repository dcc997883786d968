"""Influence of training data: leave-one-out in closed form, the memorised example first, weights left alone."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from medinterp.attribution import Checkpoint, read_checkpoint, tracin
from medinterp.errors import ConfigError, MethodNotValid, WeightsMismatch
from medinterp.testing.networks import random_network


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Ridge:
    """Ridge regression by gradient descent, and what leaving each example out does, in closed form."""

    def __init__(self, count=24, features=4, penalty=1.0, steps=60):
        self.x, self.penalty = normal(count, features), penalty
        self.y = self.x @ normal(features, seed=1) + 0.5 * normal(count, seed=2)
        self.query = normal(features, seed=3)
        self.network = nn.Linear(features, 1, bias=False).double()
        rate, weights = 0.3 / count, torch.zeros(features, dtype=torch.float64)
        self.checkpoints = []
        for _ in range(steps):
            self.checkpoints.append(Checkpoint({"weight": weights[None].clone()}, rate))
            weights = weights - rate * (self.x.T @ (self.x @ weights - self.y) + penalty * weights)

    def loss(self, network, example):
        x, y = example
        return 0.5 * (network(x) - y).square().sum()

    def examples(self):
        return {f"case {n:02d}": (self.x[n], self.y[n]) for n in range(len(self.x))}

    def measured(self, network):
        return network(self.query)

    def fit(self, keep):
        x, y = self.x[keep], self.y[keep]
        return torch.linalg.solve(x.T @ x + self.penalty * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)

    def left_out(self):
        every = torch.arange(len(self.x))
        whole = self.query @ self.fit(every)
        return np.array([float(whole - self.query @ self.fit(every[every != n])) for n in every.tolist()])


def test_influence_follows_leaving_one_out_of_a_ridge_regression():
    ridge = Ridge()
    found = tracin(ridge.network, ridge.checkpoints, ridge.examples(), loss=ridge.loss, measured=ridge.measured)
    scores, truth = np.array(list(found.scores.values())), ridge.left_out()
    assert spearmanr(scores, truth).statistic > 0.8
    assert np.abs(truth[[int(name[-2:]) for name in found.ranked()[:6]]]).mean() > 2 * np.abs(truth).mean() * 0.8
    rng = np.random.default_rng(0)
    assert abs(spearmanr(rng.permutation(scores), truth).statistic) < 0.6  # the control
    assert found.checkpoints == 60
    assert found.parameters == 4


class Memory(nn.Module):
    """A denoiser that returns the training images nearest to what it sees: D(y) = sum of softmax(-|y - x|²/2s²) x."""

    def __init__(self, images, sigma):
        super().__init__()
        self.images, self.sigma = nn.Parameter(images + 0.05 * normal(*images.shape, seed=9)), sigma

    def forward(self, y):
        distance = (y[None] - self.images).square().flatten(1).sum(dim=1)
        return torch.einsum("n,nijk->ijk", torch.softmax(-distance / (2 * self.sigma**2), dim=0), self.images)


@pytest.mark.parametrize("target", range(3))
def test_of_a_memorising_denoiser_the_copied_example_ranks_first(target):
    images = normal(5, 4, 4, 4)
    network = Memory(images, 0.5)
    weights = normal(4, 4, 4, seed=7)
    found = tracin(
        network,
        [Checkpoint(dict(network.state_dict()))],
        {f"scan {n}": image for n, image in enumerate(images)},
        loss=lambda net, clean: (net(clean) - clean).square().sum(),
        measured=lambda net: (weights * net(images[target] + 0.1 * normal(4, 4, 4, seed=8))).sum(),
    )
    assert found.ranked()[0] == f"scan {target}"
    others = [abs(score) for name, score in found.scores.items() if name != f"scan {target}"]
    assert max(others) < 1e-3 * abs(found.scores[f"scan {target}"])


def test_one_gradient_step_on_an_example_changes_the_measurement_as_foretold():
    network = random_network().double()
    image, clean, sigma = 3 + normal(1, 1, 16, 16, 16), normal(1, 1, 16, 16, 16, seed=1), torch.ones(1, 1, 1, 1, 1)
    rate = 1e-7

    def loss(net, example):
        return (net(example, sigma.double()) - clean).square().mean()

    def measured(net):
        return net(image, sigma.double())[0, 0, 6:9, 6:9, 6:9].mean()

    states = [Checkpoint(dict(network.state_dict()), rate)]
    found = tracin(network, states, {"scan": image}, loss=loss, measured=measured, parameters="head")
    before = float(measured(network))
    head = network.head.weight.requires_grad_()
    (slope,) = torch.autograd.grad(loss(network, image), head)
    head.data -= rate * slope
    assert float(measured(network).detach()) - before == pytest.approx(found.scores["scan"], rel=1e-4)


def test_the_network_is_left_as_it_was():
    network = random_network().double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    other = {name: value + 1 for name, value in before.items()}
    tracin(network, [Checkpoint(other)], {"a": 1.0}, loss=lambda n, e: n.head.weight.sum() * e,
           measured=lambda n: n.head.weight.square().sum())  # fmt: skip
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():  # where MONAI runs
        tracin(network, [Checkpoint(other)], {"a": 1.0}, loss=lambda n, e: n.head.weight.sum() * e,
               measured=lambda n: n.head.weight.square().sum())  # fmt: skip


def test_wrong_questions_are_refused():
    network = random_network()
    state = Checkpoint(dict(network.state_dict()))

    def number(net, example=None):
        return net.head.weight.sum()

    with pytest.raises(ConfigError, match="0 parameters named 'tail"):
        tracin(network, [state], {"a": 1}, loss=number, measured=number, parameters="tail")
    with pytest.raises(MethodNotValid, match="does not depend"):
        tracin(network, [state], {"a": 1}, loss=number, measured=lambda n: torch.ones(()))
    with pytest.raises(WeightsMismatch, match="BiasFreeUNet"):
        tracin(network, [Checkpoint({"x": torch.ones(1)})], {"a": 1}, loss=number, measured=number)


@pytest.mark.parametrize("kind", ["bundle", "training"])
def test_checkpoints_are_read_from_bundles_and_from_training(tmp_path, kind):
    network = random_network()
    state = {name: value.half() for name, value in network.state_dict().items()}
    torch.save(state if kind == "bundle" else {"average": state, "network": {}, "step": 3}, tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt", 0.5)
    assert found.learning_rate == 0.5
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    assert set(found.state) == set(state)
    with pytest.raises(ConfigError, match=r"other\.pt"):
        read_checkpoint(tmp_path / "other.pt")
