"""Fusion and modality credit with known answers: bilinear games, joint Wiener filters, edges of known place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.attribution.modality import Pair, Subset


@dataclass(frozen=True, eq=False)
class BilinearGame:
    """f = sum of w_m x_m over the present, plus v_mn x_m x_n over the present pairs; oracle 10.

    The Shapley value of m is ``w_m x_m`` and half of each of its pairs; the interaction of a pair is its product.
    """

    images: Mapping[str, Tensor]
    weights: Mapping[str, float]
    couplings: Mapping[Pair, float]

    def __call__(self, subset: Subset, _generator: torch.Generator) -> Tensor:
        """Return the volume that a subset reaches."""
        total = torch.zeros_like(next(iter(self.images.values())))
        for m in subset:
            total = total + self.weights[m] * self.images[m]
        for (m, n), v in self.couplings.items():
            if m in subset and n in subset:
                total = total + v * self.images[m] * self.images[n]
        return total

    def shapley(self, name: str) -> Tensor:
        """Return the known credit."""
        total = self.weights[name] * self.images[name]
        for (m, n), v in self.couplings.items():
            if name in (m, n):
                total = total + 0.5 * v * self.images[m] * self.images[n]
        return total


@dataclass(frozen=True, eq=False)
class JointWiener:
    """The posterior mean and variance of one of several correlated Gaussian modalities, given any subset of the scans.

    Voxels are independent of each other; the modalities of one voxel have a known covariance and white noise.

    Args:
        scans: noisy, by name.
        covariance: of the clean modalities at a voxel, in the order of the scans.
        sigmas: noise of each.
        wanted: which modality is estimated.
    """

    scans: Mapping[str, Float[Tensor, "B C I J K"]]
    covariance: Float[Tensor, "M M"]
    sigmas: Sequence[float]
    wanted: str

    def mean(self, subset: Subset, _generator: torch.Generator) -> Tensor:
        """Return the conditional mean given the scans of a subset; the prior's, zero, without any."""
        like = next(iter(self.scans.values()))
        gains = self._gains(subset)
        return torch.stack([torch.zeros_like(like)] + [g * self.scans[m] for m, g in gains.items()]).sum(dim=0)

    def variance(self, subset: Subset, _generator: torch.Generator) -> Tensor:
        """Return the conditional variance, the same at every voxel."""
        names = list(self.scans)
        own = names.index(self.wanted)
        left = self.covariance[own, own]
        for m, gain in self._gains(subset).items():
            left = left - gain * self.covariance[names.index(m), own]
        return left.expand_as(next(iter(self.scans.values())))

    def _gains(self, subset: Subset) -> dict[str, Tensor]:
        names = list(self.scans)
        chosen = [m for m in names if m in subset]
        if not chosen:
            return {}
        place = [names.index(m) for m in chosen]
        noise = torch.diag(torch.tensor([self.sigmas[p] ** 2 for p in place], dtype=self.covariance.dtype))
        shared = self.covariance[place][:, place] + noise
        gains = torch.linalg.solve(shared, self.covariance[place, names.index(self.wanted)])
        return dict(zip(chosen, gains, strict=True))


def two_boxes(size: int = 32) -> dict[str, Float[Tensor, "1 1 I J K"]]:
    """Return two modalities with edges of their own: a box that only "a" shows, another that only "b" shows."""
    images = {m: torch.full((1, 1, size, size, size), 0.4, dtype=torch.float64) for m in ("a", "b")}
    quarter, half = size // 4, size // 2
    images["a"][..., quarter : half - 2, quarter : 3 * quarter, quarter : 3 * quarter] = 0.9
    images["b"][..., half + 2 : 3 * quarter, quarter : 3 * quarter, quarter : 3 * quarter] = 0.9
    return images


def edge_recall(fused: Tensor, image: Tensor, *, share: float = 0.5) -> float:
    """Return the share of an image's edge voxels at which the fused image has an edge of at least half its strength.

    Edge voxels are those whose difference to the next voxel along some axis exceeds a quarter of the image's range.
    """
    found, wanted = _strength(fused), _strength(image)
    edges = wanted > 0.25 * float(image.max() - image.min())
    return float((found[edges] >= share * wanted[edges]).double().mean())


def _strength(image: Tensor) -> Tensor:
    steps = []
    for axis in (2, 3, 4):
        step = image.diff(dim=axis)
        last = torch.zeros_like(image.narrow(axis, 0, 1))
        steps.append(torch.cat([step, last], dim=axis).abs())
    return torch.stack(steps).amax(dim=0)
