"""Concept sensitivity (TCAV): does the measurement rise when a block's features move towards a concept?"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from medinterp.attribution.activations import BlockMap, calls_of, capture, coarsest_block, place
from medinterp.attribution.result import Forward
from medinterp.attribution.targets import Target
from medinterp.attribution.trace import trace
from medinterp.errors import ConfigError, EmptyRegion, MethodNotValid

LEAST_VOXELS = 8
"""Fewest voxels of a block inside and outside a concept; with fewer, its direction is noise."""
COVERED = 0.5
"""Part of a block's voxel that a concept must cover to count as inside."""
RIDGE = 1e-2
"""Added to the features' covariance, over its mean diagonal, so that it can be inverted."""


@dataclass(frozen=True)
class ConceptScore:
    """How a measurement answers to a concept, against the same concept moved to random places.

    Args:
        concept: its name.
        block: where it was looked for.
        sensitivity: change of the measurement, to first order, when the features of every voxel move from the mean of
            the others to the mean of the concept's; in the measurement's unit.
        positive_share: TCAV's score: of the voxels that the measurement depends on, the part where that raises it.
        separability: area under the ROC curve with which a linear rule tells the concept's voxels from the others,
            learned on one half of the concept and tried on the other; 0.5 is chance.
        p_sensitivity: part of the moved concepts, itself included, with at least its absolute sensitivity.
        p_separability: part of the moved concepts, itself included, at least as separable.
        null: sensitivities of the moved concepts.
        inside: voxels of the block in the concept.
    """

    concept: str
    block: str
    sensitivity: float
    positive_share: float
    separability: float
    p_sensitivity: float
    p_separability: float
    null: tuple[float, ...]
    inside: int

    @property
    def found(self) -> bool:
        """Whether the block knows the concept and the measurement depends on it, both at 5 %."""
        return self.p_sensitivity <= 0.05 and self.p_separability <= 0.05


@dataclass(frozen=True, eq=False)
class ConceptProbe:
    """A block's features and what the measurement makes of them, ready to be asked about concepts.

    The direction of a concept is the difference of the means inside and outside (the pattern, not the filter of a
    classifier, which also cancels what is no concept). The null moves the concept's mask around the block's volume, in
    whole voxels and over its border, so that its size and smoothness stay: neighbouring voxels are alike, and a null
    that shuffles single voxels would find every compact mask significant.

    Args:
        features: of the block.
        slopes: derivative of the measurement with respect to each feature.

    Source:
        Kim et al., "Interpretability beyond feature attribution: TCAV", ICML 2018; Haufe et al., NeuroImage 87 (2014)
        96 (patterns against filters).
    """

    features: BlockMap
    slopes: Float[Tensor, "1 C i j k"]

    def score(
        self,
        mask: Bool[Tensor, "I J K"],
        concept: str,
        *,
        generator: torch.Generator,
        permutations: int = 199,
        within: Bool[Tensor, "I J K"] | None = None,
    ) -> ConceptScore:
        """Return how the measurement answers to the concept that a mask on the scan's grid shows.

        Args:
            mask: True where the concept is.
            concept: its name.
            generator: source of the random places.
            permutations: number of them; the least p-value is one over one more.
            within: voxels to compare with and to move in (the head without air); all where None.

        Raises:
            EmptyRegion: fewer than 8 of the block's voxels are inside, or outside.
            ConfigError: no permutation.
        """
        if permutations < 1:
            raise ConfigError(f"a concept score with {permutations} permutations: expected at least 1, better 199")
        inside, allowed = self._parts(mask, within)
        _require_both(inside & allowed, allowed & ~inside, concept, self.features.block)
        sensitivity, share = self._sensitivity(inside, allowed)
        separability = self._separability(inside, allowed)
        moved = [self._moved(inside, allowed, generator) for _ in range(permutations)]
        null = [self._sensitivity(other, allowed)[0] for other in moved]
        chance = [self._separability(other, allowed) for other in moved]
        return ConceptScore(
            concept=concept,
            block=self.features.block,
            sensitivity=sensitivity,
            positive_share=share,
            separability=separability,
            p_sensitivity=(1 + sum(abs(n) >= abs(sensitivity) for n in null)) / (1 + permutations),
            p_separability=(1 + sum(c >= separability for c in chance)) / (1 + permutations),
            null=tuple(null),
            inside=int((inside & allowed).sum()),
        )

    def among(self, features: BlockMap) -> "ConceptProbe":
        """Return the probe with the features of a larger part of the scan, where the measurement's slopes are zero.

        Args:
            features: of the same block; both are placed in the voxels of one scan.

        Raises:
            MethodNotValid: the voxels of the two parts do not coincide.
        """
        own, larger = self.features.lattice, features.lattice
        shift = [(a - b) / scale for a, b, scale in zip(own.offset, larger.offset, larger.scale, strict=True)]
        fits = all(
            s >= 0 and s + n <= m
            for s, n, m in zip(shift, self.slopes.shape[2:], features.values.shape[2:], strict=True)
        )
        if own.scale != larger.scale or any(s.denominator != 1 for s in shift) or not fits:
            raise MethodNotValid(
                f"the block '{features.block}' has its voxels in other places on a part of the scan; choose another"
            )
        slopes = torch.zeros_like(features.values)
        at = tuple(slice(int(s), int(s) + n) for s, n in zip(shift, self.slopes.shape[2:], strict=True))
        slopes[(slice(None), slice(None), *at)] = self.slopes
        return ConceptProbe(features, slopes)

    def maps(
        self, mask: Bool[Tensor, "I J K"], *, within: Bool[Tensor, "I J K"] | None = None
    ) -> tuple[BlockMap, BlockMap]:
        """Return where the block shows a concept, and where the measurement answers to it.

        The first is the features' component along the concept's direction, 0 at the mean of the others and 1 at the
        mean of the concept. The second is what each voxel adds to the sensitivity, which is its sum.

        Args:
            mask: True where the concept is.
            within: voxels to compare with; all where None.
        """
        inside, allowed = self._parts(mask, within)
        _require_both(inside & allowed, allowed & ~inside, "concept", self.features.block)
        others = self._rows(self.features.values, allowed & ~inside).mean(dim=0)
        towards = self._rows(self.features.values, inside & allowed).mean(dim=0) - others
        scale = towards / towards.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
        values, slopes = self.features.values, self.slopes
        shown = torch.einsum("bcijk,c->bijk", values, scale.to(values.dtype))[:, None] - float(others @ scale)
        moved = torch.einsum("bcijk,c->bijk", slopes, towards.to(slopes.dtype))[:, None]
        return replace(self.features, values=shown), replace(self.features, values=moved)

    def _parts(self, mask: Tensor, within: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the block's voxels inside the mask, and those that are looked at."""
        inside = self.features.cover(mask) >= COVERED
        return inside, torch.ones_like(inside) if within is None else self.features.cover(within) >= COVERED

    def _rows(self, tensor: Tensor, where: Tensor) -> Tensor:
        return tensor[0][:, where].T.to(torch.float64)

    def _sensitivity(self, inside: Tensor, allowed: Tensor) -> tuple[float, float]:
        values = self.features.values
        towards = self._rows(values, inside & allowed).mean(dim=0) - self._rows(values, allowed & ~inside).mean(dim=0)
        changes = torch.einsum("cijk,c->ijk", self.slopes[0].to(torch.float64), towards)
        used = changes[self.slopes[0].abs().sum(dim=0) > 0]
        return float(changes.sum()), float((used > 0).double().mean()) if len(used) else 0.0

    def _separability(self, inside: Tensor, allowed: Tensor) -> float:
        """Return the mean area under the curve of two rules, each learned on one half of the space."""
        index = (inside & allowed).nonzero()
        axis = int((index.amax(dim=0) - index.amin(dim=0)).argmax())
        middle = index[:, axis].double().median()
        position = torch.arange(inside.shape[axis], device=inside.device)
        low = (position <= middle).reshape([-1 if a == axis else 1 for a in range(3)]).expand(inside.shape)
        areas = [
            _area_under_curve(self._rule(inside & half, allowed & ~inside & half), other_in, other_out)
            for half, rest in ((low, ~low), (~low, low))
            if (other_in := self._rows(self.features.values, inside & allowed & rest)).numel()
            and (other_out := self._rows(self.features.values, allowed & ~inside & rest)).numel()
            and bool((inside & half).any())
            and bool((allowed & ~inside & half).any())
        ]
        return sum(areas) / len(areas) if areas else 0.5

    def _rule(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the weights of Fisher's linear rule."""
        a, b = self._rows(self.features.values, inside), self._rows(self.features.values, outside)
        spread = torch.cat([a - a.mean(dim=0), b - b.mean(dim=0)])
        covariance = spread.T @ spread / len(spread)
        floor = RIDGE * float(covariance.diagonal().mean()) + torch.finfo(torch.float64).tiny
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        return torch.linalg.solve(covariance + floor * eye, a.mean(dim=0) - b.mean(dim=0))

    def _moved(self, inside: Tensor, allowed: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mask somewhere else, at a place where voxels remain on both sides."""
        for _ in range(100):
            draws = [
                int(torch.randint(size, (1,), generator=generator, device=generator.device)) for size in inside.shape
            ]
            other = inside.roll(draws, dims=(0, 1, 2))
            if min(int((other & allowed).sum()), int((allowed & ~other).sum())) >= LEAST_VOXELS:
                return other
        raise EmptyRegion("in 100 random places the concept had too few voxels within the allowed ones; widen these")


def probe_concepts(
    forward: Forward,
    inputs: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    target: Target,
    *,
    block: str | None = None,
    call: int = -1,
) -> ConceptProbe:
    """Return a block's features and the measurement's slopes there, for any number of concepts; one gradient.

    Args:
        forward: the function that made the image.
        inputs: scans by name, on one grid.
        sigmas: their noise levels.
        target: what is measured.
        block: name of the module; None for the last one of the coarsest level.
        call: which of its calls.

    Raises:
        ConfigError: there is no such block or call.
        MethodNotValid: the measurement does not depend on the block.
    """
    found = trace(forward, inputs, sigmas, target)
    name = coarsest_block(found) if block is None else block
    calls = calls_of(found, name)
    if not -len(calls) <= call < len(calls):
        raise ConfigError(f"call {call} of the block '{name}', which ran {len(calls)} times")
    leaves = {key: image.detach().requires_grad_() for key, image in inputs.items()}
    with torch.enable_grad():
        measured, outputs = capture(forward, leaves, sigmas, name, target)
        if len(outputs) != len(calls) or not measured.requires_grad:
            raise MethodNotValid(f"the block '{name}' or the measurement has no gradient from the scan; choose another")
        (slopes,) = torch.autograd.grad(measured.sum(), outputs[call], allow_unused=True)
    if slopes is None or not bool(slopes.any()):
        raise MethodNotValid(f"the measurement '{target.name}' does not depend on the block '{name}'; choose another")
    return ConceptProbe(place(outputs[call].detach(), calls[call], call % len(calls), found), slopes)


def _require_both(inside: Tensor, outside: Tensor, concept: str, block: str) -> None:
    counts = int(inside.sum()), int(outside.sum())
    if min(counts) < LEAST_VOXELS:
        raise EmptyRegion(
            f"the concept '{concept}' has {counts[0]} voxels of the block '{block}' inside and {counts[1]} outside; "
            f"expected at least {LEAST_VOXELS} each: take a finer block or a larger mask"
        )


def _area_under_curve(rule: Tensor, inside: Tensor, outside: Tensor) -> float:
    """Return the chance that a voxel inside scores higher than one outside; ties count half."""
    high, low = inside @ rule, outside @ rule
    ordered = low.sort().values
    below = torch.searchsorted(ordered, high, right=False) + torch.searchsorted(ordered, high, right=True)
    return float(below.double().mean()) / (2 * len(low))
