"""Oracles 10 and 19: who supplied what, against closed forms, with controls that must fail."""

import math

import pytest
import torch
from torch import Tensor

from medinterp.attribution.displacement import displacement_sensitivity, shift_voxels
from medinterp.attribution.modality import Ledger, Subset, information_ledger, modality_ledger, subsets
from medinterp.errors import ConfigError, InputError, NonFinite
from medinterp.fusion.fusers import Fuser, VarianceWeighted
from medinterp.fusion.gradient_domain import GradientDomain
from medinterp.fusion.joining import Carried
from medinterp.testing.fusion_oracles import BilinearGame, JointWiener

SHAPE = (1, 1, 5, 6, 4)
FUSERS = [VarianceWeighted(), GradientDomain()]


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(*names: str, shape: tuple[int, ...] = SHAPE) -> dict[str, Tensor]:
    generator = draw(3)
    return {m: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5 for m in names}


def carried(images: dict[str, Tensor], fuser: Fuser) -> Carried:
    sigmas = {m: torch.full((1, 1, 1, 1, 1), 0.05, dtype=torch.float64) for m in images}
    return Carried(fuser, images, sigmas, {m: torch.ones_like(x) for m, x in images.items()}, (1.0, 1.0, 1.0))


def test_bilinear_credits_are_exact_and_sum_in_sixteen_evaluations() -> None:
    images = fields("a", "b", "c", "d")
    weights = {"a": 1.0, "b": -2.0, "c": 0.5, "d": 0.0}
    game = BilinearGame(images, weights, {("a", "b"): 0.7, ("b", "c"): -1.1, ("a", "c"): 0.3})
    found = modality_ledger(game, list(images), generator=draw())
    assert found.evaluations == 16
    assert found.gap <= 1e-6
    for m in images:
        assert float((found.credits[m] - game.shapley(m)).abs().max()) < 1e-12
    assert float(found.credits["d"].abs().max()) < 1e-12  # the dummy brings nothing
    expected = 0.7 * images["a"] * images["b"]
    assert float((found.interactions["a", "b"] - expected).abs().max()) < 1e-12
    assert float(found.interactions["a", "d"].abs().max()) < 1e-12
    # control: leave-one-out, which people use instead, does not add up where modalities interact
    alone = sum(game(frozenset(images), draw()) - game(frozenset(images) - {m}, draw()) for m in images)
    assert float((alone - found.total).abs().max()) > 0.1


def test_efficiency_holds_at_every_voxel_in_single_precision_too() -> None:
    images = {m: x.float() for m, x in fields("a", "b", "c", "d", shape=(1, 1, 12, 12, 12)).items()}
    ledger = modality_ledger(
        lambda s, _: carried(images, GradientDomain()).fuse(s).image, list(images), generator=draw()
    )
    assert ledger.evaluations == 16
    assert ledger.gap <= 1e-6


def test_symmetric_modalities_share_alike_and_a_target_is_shared_as_well() -> None:
    x = fields("a")["a"]
    game = BilinearGame({"a": x, "b": x}, {"a": 1.0, "b": 1.0}, {("a", "b"): 0.4})

    def square_of_mean(image: Tensor) -> Tensor:  # a nonlinear measurement
        return image.mean(dim=(1, 2, 3, 4)) ** 2

    found = modality_ledger(game, ["a", "b"], generator=draw(), target=square_of_mean)
    assert torch.equal(found.credits["a"], found.credits["b"])
    assert found.target_credits["a"] == pytest.approx(found.target_credits["b"], abs=1e-12)
    assert sum(found.target_credits.values()) == pytest.approx(found.target_total, rel=1e-12)
    assert found.target_total == pytest.approx(float(square_of_mean(game(frozenset("ab"), draw()))[0]), rel=1e-12)


def test_what_only_one_modality_shows_in_a_lesion_is_its_alone() -> None:
    images, lesion = fields("a", "b"), torch.zeros(SHAPE, dtype=torch.float64)
    lesion[..., 1:3, 1:3, 1:3] = 1
    found = modality_ledger(
        lambda s, _: lesion * images["b"] if "b" in s else torch.zeros(SHAPE, dtype=torch.float64),
        ["a", "b"], generator=draw(),
    )  # fmt: skip
    assert float(found.credits["a"].abs().max()) == 0
    assert float((found.credits["b"] * (1 - lesion)).abs().max()) == 0
    # control: a game in which a leaks by a hundredth gives a its hundredth
    leaking = modality_ledger(
        lambda s, _: lesion * (images["b"] * ("b" in s) + 0.01 * images["a"] * ("a" in s)), ["a", "b"], generator=draw()
    )
    assert float(leaking.credits["a"].abs().max()) > 0.005


def test_conditional_credits_of_a_joint_wiener_filter_are_complete_and_its_bits_known() -> None:
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    oracle = JointWiener(fields("a", "b"), covariance, (0.5, 0.3), "a")
    means = modality_ledger(oracle.mean, ["a", "b"], generator=draw())
    assert means.gap < 1e-12
    bits = information_ledger(oracle.variance, ["a", "b"], generator=draw())
    # one modality alone: half the log of 1 + signal to noise, by hand
    left = {
        frozenset("a"): 1 - 1 / 1.25, frozenset("b"): 1 - 0.64 / 1.09,
        frozenset("ab"): float(oracle.variance(frozenset("ab"), draw()).flatten()[0]),
    }  # fmt: skip
    gain = {s: -0.5 * math.log2(v) for s, v in left.items()}
    expected = 0.5 * (gain[frozenset("a")] + gain[frozenset("ab")] - gain[frozenset("b")])
    assert float(bits.credits["a"].flatten()[0]) == pytest.approx(expected, abs=1e-12)
    assert float(bits.interactions["a", "b"].max()) < 0  # correlated scans tell the same: redundancy
    assert float(bits.redundancy(("a", "b")).min()) > 0
    assert float(bits.synergy(("a", "b")).max()) == 0
    # control: uncorrelated modalities have no redundancy, and the other one nothing to tell
    apart = JointWiener(fields("a", "b"), torch.eye(2, dtype=torch.float64), (0.5, 0.3), "a")
    alone = information_ledger(apart.variance, ["a", "b"], generator=draw())
    assert float(alone.interactions["a", "b"].abs().max()) < 1e-12
    assert float(alone.credits["b"].abs().max()) < 1e-12


@pytest.mark.parametrize("fuser", FUSERS, ids=lambda f: type(f).__name__)
def test_identical_modalities_get_equal_credit_and_fuse_to_themselves(fuser: Fuser) -> None:
    image = fields("a", shape=(1, 1, 10, 11, 9))["a"]
    case = carried({"a": image, "b": image, "c": image}, fuser)
    alone = case.fuse({"a"}).image
    assert float((case.fuse().image - alone).abs().max()) < 1e-8
    found = modality_ledger(lambda s, _: case.fuse(s).image, ["a", "b", "c"], generator=draw())
    for m in "abc":
        assert float((found.credits[m] - alone / 3).abs().max()) < 1e-8


def test_a_constant_modality_gets_no_credit_from_the_gradient_fuser() -> None:
    images = fields("a", shape=(1, 1, 10, 11, 9))
    images["flat"] = torch.full_like(images["a"], 0.7)
    found = modality_ledger(
        lambda s, _: carried(images, GradientDomain()).fuse(s).image * ("a" in s), ["a", "flat"], generator=draw()
    )
    assert float(found.credits["flat"].abs().max()) < 1e-8
    # control: by variance alone, a constant modality takes half of the image
    control = modality_ledger(
        lambda s, _: carried(images, VarianceWeighted()).fuse(s).image * ("a" in s), ["a", "flat"], generator=draw()
    )
    assert float(control.credits["flat"].abs().max()) > 0.05


@pytest.mark.parametrize("fuser", FUSERS, ids=lambda f: type(f).__name__)
def test_contributions_are_linear_maps_that_sum_to_the_image(fuser: Fuser) -> None:
    images = fields("a", "b", shape=(1, 1, 10, 11, 9))
    leaves = {m: x.clone().requires_grad_() for m, x in images.items()}
    fused = carried(leaves, fuser).fuse()
    left_over = sum(fused.contributions.values()) - fused.image
    assert float(left_over.detach().abs().max()) < 1e-8
    probe = torch.rand(fused.image.shape, generator=draw(9), dtype=torch.float64)
    rows = torch.autograd.grad((fused.image * probe).sum(), list(leaves.values()))
    accounted = sum(float((row * x).sum()) for row, x in zip(rows, images.values(), strict=True))
    # with frozen weights F = sum of L_m x_m: the gradient is L_m transposed, nothing is left over
    assert accounted == pytest.approx(float((fused.image * probe).sum().detach()), rel=1e-8)


def test_all_subsets_see_the_same_random_numbers() -> None:
    def noisy(subset: Subset, generator: torch.Generator) -> Tensor:
        noise = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        return noise + ("a" in subset)

    found = modality_ledger(noisy, ["a", "b"], generator=draw(5))
    assert float((found.credits["a"] - 1).abs().max()) < 1e-12
    assert float(found.credits["b"].abs().max()) < 1e-12
    # control: with numbers of their own for every subset the idle modality gets credit for noise
    own = torch.Generator().manual_seed(5)
    control = modality_ledger(lambda s, _: noisy(s, own), ["a", "b"], generator=draw())
    assert float(control.credits["b"].abs().max()) > 0.1


def test_a_voxel_of_displacement_warns_where_credit_hangs_on_registration() -> None:
    textured, smooth = fields("a", "b", shape=(1, 1, 12, 12, 12)), {}
    axis = torch.linspace(0, 1, 12, dtype=torch.float64)
    smooth["a"] = smooth["b"] = (1 + 0.05 * axis).expand(1, 1, 12, 12, 12)

    def ledger_of(images: dict[str, Tensor]) -> Ledger:
        return modality_ledger(
            lambda s, _: carried(images, VarianceWeighted()).fuse(s).image, list(images), generator=draw()
        )

    def judged(images: dict[str, Tensor]):
        def shifted(name: str, shift: tuple[int, int, int]) -> Ledger:
            return ledger_of({**images, name: shift_voxels(images[name], shift)})

        return displacement_sensitivity(ledger_of(images), shifted, ["b"])

    rough, steady = judged(textured), judged(smooth)
    assert rough.warning is not None
    assert "do not read the ledger finer" in rough.warning
    assert rough.maps["b"].shape == textured["a"].shape
    assert steady.share < 0.01  # the control: without texture a voxel hardly matters, and nothing is said
    assert steady.warning is None


def test_shifting_by_whole_voxels_moves_and_repeats_the_border() -> None:
    image = torch.arange(4.0).reshape(1, 1, 4, 1, 1)
    assert shift_voxels(image, (1, 0, 0)).flatten().tolist() == [0, 0, 1, 2]
    assert shift_voxels(image, (-1, 0, 0)).flatten().tolist() == [1, 2, 3, 3]


def test_subsets_run_from_none_to_all() -> None:
    listed = list(subsets(["a", "b", "c"]))
    assert listed[0] == frozenset()
    assert listed[-1] == frozenset("abc")
    assert len(set(listed)) == 8


def test_impossible_ledgers_are_refused() -> None:
    zero = torch.zeros(SHAPE)
    with pytest.raises(ConfigError, match="expected 1 to 6"):
        modality_ledger(lambda s, _: zero, [], generator=draw())
    with pytest.raises(NonFinite, match="only \\['a'\\]"):
        modality_ledger(lambda s, _: zero / 0 if s else zero, ["a"], generator=draw())
    with pytest.raises(InputError, match="not defined"):
        information_ledger(lambda s, _: zero, ["a"], generator=draw())
