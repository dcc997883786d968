"""Muon: its updates are orthogonal and of the right size, and it agrees with torch's own on a matrix."""

import math
import warnings

import pytest
import torch
from torch import nn

from medinterp.errors import ConfigError
from medinterp.training.optimizers import Muon, make_optimizer, orthogonalize

LOW, HIGH = 0.65, 1.25  # Jordan's quintic leaves singular values between 0.68 and 1.14; float32 and a margin


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_gradients(*shapes, seed=0):
    source = generator(seed)
    parameters = [nn.Parameter(torch.randn(shape, generator=source)) for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=source)
    return parameters


@pytest.mark.parametrize("shape", [(3, 16, 432), (2, 432, 16), (1, 24, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator())))
    low = 0.0 if shape[1] == shape[2] else LOW  # a square random matrix has singular values next to zero
    assert low < float(values.min())
    assert float(values.max()) < HIGH


def test_orthogonalising_keeps_the_singular_vectors():
    matrix = torch.randn(1, 8, 64, generator=generator())
    u, _, v = torch.linalg.svd(matrix[0], full_matrices=False)
    core = u.T @ orthogonalize(matrix)[0] @ v.T
    # float32 rounding through five iterations
    assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-4)


def test_running_on_the_gram_matrix_is_the_plain_newton_schulz_iteration():
    matrix = torch.randn(1, 16, 200, generator=generator()) * torch.logspace(0, -2, 16)[:, None]
    plain = matrix[0] / matrix[0].norm()
    for _ in range(5):
        gram = plain @ plain.T
        plain = 3.4445 * plain + (-4.7750 * gram + 2.0315 * gram @ gram) @ plain
    # the same polynomial in another order: float32 rounding
    assert torch.allclose(orthogonalize(matrix)[0], plain, atol=1e-4)


def test_zero_gradients_give_zero_updates():
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 9)), torch.zeros(2, 4, 9))


def test_an_update_has_the_root_mean_square_of_adams_whatever_the_gradients_scale():
    for scale in (1e-6, 1.0, 1e6):
        (weight,) = with_gradients((16, 8, 3, 3, 3))
        before = weight.detach().clone()
        weight.grad *= scale
        Muon([weight], lr=0.5).step()
        moved = (weight.detach() - before).square().mean().sqrt()
        # 0.2 x learning rate for singular values of exactly 1; the quintic's mean square lies 25 % around
        assert float(moved) == pytest.approx(0.2 * 0.5, rel=0.25), scale


def test_equal_shapes_are_updated_as_if_alone():
    together, alone = (with_gradients((6, 5, 3, 3, 3), (6, 5, 3, 3, 3), (7, 6, 2, 2, 2)) for _ in range(2))
    Muon(together, lr=0.1).step()
    for parameter in alone:
        Muon([parameter], lr=0.1).step()
    for a, b in zip(together, alone, strict=True):
        # batched and single matrix products may add in another order
        assert torch.allclose(a, b, atol=1e-5)


def test_biases_and_norms_follow_adam():
    ours, theirs = with_gradients((7,))[0], with_gradients((7,))[0]
    muon, adam = Muon([ours], lr=0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(3):
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)  # float32 rounding


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_torchs_own_muon_moves_a_matrix_the_same_way():
    ours, theirs = with_gradients((16, 40))[0], with_gradients((16, 40))[0]
    before = ours.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes about itself are not ours to judge
        reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        Muon([ours], lr=0.1).step()
        reference.step()
    difference = (ours - theirs).detach().norm() / (theirs.detach() - before).norm()
    assert float(difference) < 0.03  # torch iterates in bfloat16, whose numbers have 0.4 % rounding


def test_muon_is_resumed_to_the_same_bits():
    def steps(weight, optimizer, count):
        for n in range(count):
            weight.grad = torch.randn(weight.shape, generator=generator(n))
            optimizer.step()

    (whole,), (halves,) = with_gradients((6, 5, 3, 3, 3)), with_gradients((6, 5, 3, 3, 3))
    straight, first, second = Muon([whole], 0.1), Muon([halves], 0.1), Muon([halves], 0.1)
    steps(whole, straight, 2)
    steps(halves, first, 2)
    second.load_state_dict(first.state_dict())
    steps(whole, straight, 1)
    steps(halves, second, 1)
    assert torch.equal(whole, halves)


def test_muon_finds_the_minimum_of_a_badly_scaled_quadratic():
    weight = nn.Parameter(torch.zeros(4, 4))
    goal = torch.diag(torch.tensor([1.0, 1e-1, 1e-2, 1e-2]))
    optimizer = Muon([weight], lr=0.05, momentum=0.5)
    for n in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - n / 300)
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    assert float((weight - goal).detach().norm()) < 0.01 * math.sqrt(4)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ConfigError, match="known are muon, adam"):
        make_optimizer("sgd", nn.Linear(2, 2), 0.1)
