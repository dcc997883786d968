"""The one path of a scan: estimate noise, denoise, fuse, explain, certify. Only this file knows the order."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.attribution import Attribution, Target, WeightedSum
from medinterp.denoisers.base import Denoiser
from medinterp.denoisers.tiled import Tiled, choose_tile
from medinterp.errors import ConfigError
from medinterp.explanation import Case, Explanation
from medinterp.fusion.fusers import VarianceWeighted
from medinterp.fusion.warp import Warp
from medinterp.noise.estimate import Estimator, NoiseEstimate
from medinterp.noise.masked import silent_where_masked
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import ExplanationResult, FusionResult, InputResult, Result
from medinterp.sampling.samplers import Sampler
from medinterp.sampling.schedules import Schedule
from medinterp.volume import Grid, Region, Step, Volume


@dataclass(frozen=True)
class Pipeline:
    """Denoise, fuse and explain scans.

    Args:
        estimator: finds a scan's noise level.
        denoiser: the prior.
        schedule: noise levels between the scan's own and zero.
        sampler: how the reverse diffusion is walked; one posterior-mean step by default.
        fuser: joins several modalities.
        steps: steps of the schedule.
        modalities: what the prior was trained on; another modality is run, and the results say so.
    """

    estimator: Estimator
    denoiser: Denoiser
    schedule: Schedule
    sampler: Sampler
    fuser: VarianceWeighted
    steps: int = 1
    modalities: Sequence[str] = ("MR",)

    @property
    def radius(self) -> int | None:
        """Voxels around an output voxel that can influence it; None when all of them can."""
        reach = getattr(self.denoiser, "radius", None)
        if reach is None or self.sampler.stochastic:  # a crop would draw other noise than the whole volume
            return None
        return int(reach) * self.sampler.evaluations(self.steps)

    @property
    def halo(self) -> int | None:
        """Voxels of surroundings that a tile needs; None for a denoiser that sees the whole volume."""
        reach = getattr(self.denoiser, "radius", None)
        return getattr(self.denoiser, "halo", reach)

    def told(self, noise: NoiseEstimate) -> "Pipeline":
        """Return the pipeline for a scan of this noise: a denoiser that asks for a coloured one's spectrum is told."""
        tell = getattr(self.denoiser, "told", None)
        if tell is None or noise.spectrum is None or noise.model != "coloured":
            return self
        return replace(self, denoiser=tell(noise.spectrum))

    def tile(self, shape: tuple[int, int, int], max_voxels: int | None) -> tuple[int, int, int] | None:
        """Return the tile in which the denoiser sees a volume of this shape, None for all at once."""
        return choose_tile(shape, max_voxels, self.halo)

    def denoise(
        self,
        image: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        seed: int,
        tile: tuple[int, int, int] | None = None,
        graph: bool = True,
        on_step: OnStep = ignore,
    ) -> Float[Tensor, "B C I J K"]:
        """Denoise one modality: pure, differentiable, the same bits for the same seed.

        Args:
            image: the scan.
            sigma: its noise level.
            seed: of the sampler.
            tile: what the network sees at a time, with its receptive field around it; the result is the same.
            graph: whether the result shall be differentiable; without it, it is the same to rounding and costs less.
            on_step: told after every step and tile.
        """
        denoiser: Denoiser = self.denoiser
        if not graph and not self.sampler.stochastic:  # stochastic samplers take Jacobian products
            denoiser = getattr(denoiser, "without_graph", lambda: self.denoiser)()
        if tile is not None:
            tiled = getattr(denoiser, "in_tiles", None)
            halo = self.halo or 0
            denoiser = (
                Tiled(denoiser, tile, halo, on_tile=on_step) if tiled is None else tiled(tile, halo, on_tile=on_step)
            )
        generator = torch.Generator(device=image.device).manual_seed(seed)
        fractions = self.schedule(self.steps, start=1.0)
        return self.sampler(denoiser, image, sigma, fractions, generator=generator, on_step=on_step)

    def forward(
        self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], grids: Mapping[str, Grid], *, seed: int
    ) -> Tensor:
        """Return the final image: the denoised one, or for several inputs the fused one on the first input's grid.

        All inputs' noise has the one colour that the pipeline was ``told``, if any.
        """
        denoised = {m: self.denoise(image, sigmas[m], seed=seed) for m, image in inputs.items()}
        return next(iter(denoised.values())) if len(denoised) == 1 else self._fuse(denoised, sigmas, grids)[0]

    def _fuse(
        self, denoised: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], grids: Mapping[str, Grid]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        reference = next(iter(grids.values()))
        warps = {m: Warp(grid, reference) for m, grid in grids.items()}
        warped = {m: warps[m](image) for m, image in denoised.items()}
        coverage = {m: warps[m].coverage(image) for m, image in denoised.items()}
        contributions = self.fuser.contributions(warped, sigmas, coverage)
        return torch.stack(list(contributions.values())).sum(dim=0), contributions

    def run(
        self,
        inputs: Mapping[str, Volume],
        explanations: tuple[Explanation, ...] = (),
        *,
        seed: int = 0,
        device: str = "cpu",
        max_voxels: int | None = None,
        whole: bool = True,
        on_step: OnStep = ignore,
    ) -> Result:
        """Run the whole path on scans.

        Args:
            inputs: scans by modality name; several are fused on the first one's grid, which must share its patient
                space with the others.
            explanations: what to explain on the final image.
            seed: of every random number.
            device: torch device of the computation; results come back as volumes.
            max_voxels: largest number of voxels the network may see at once; larger scans are tiled, exactly.
            whole: denoise the whole volume; without it (one input only) just the explanations are made, each on the
                crop that matters to it.
            on_step: progress callback.

        Raises:
            ConfigError: several inputs are to be explained without being denoised, or by a measure that is not linear.
        """
        if not whole and len(inputs) != 1:
            raise ConfigError(f"explaining alone takes one scan, not {len(inputs)}; run the whole path to fuse them")
        if self.sampler.stochastic and any(e.halo is not None for e in explanations):
            raise ConfigError(
                "a halo with a random sampler: a crop would draw other noise than the image; leave it out"
            )
        bent = [e.measure.name for e in explanations if not e.measure.linear]
        if bent and len(inputs) > 1:
            raise ConfigError(
                f"the measure '{bent[0]}' of a fused image does not divide exactly over its inputs; measure mean or "
                "contrast, or explain one scan"
            )
        clock = _Clock()
        on_step(StepInfo("noise", 0, len(inputs)))
        noise = {m: silent_where_masked(self.estimator(scan), scan) for m, scan in inputs.items()}
        on_step(StepInfo("noise", len(inputs), len(inputs)))
        clock.lap("noise")
        images = {m: torch.as_tensor(scan.voxels.copy(), device=device)[None] for m, scan in inputs.items()}
        sigmas = {m: sigma_tensor(noise[m], images[m]) for m in inputs}
        grids = {m: scan.grid for m, scan in inputs.items()}
        tiles = {m: self.tile(grid.shape, max_voxels) for m, grid in grids.items()}
        with torch.no_grad():  # the one place: whole volumes are made without a graph, explanations make their own
            cleaned = {
                m: self.told(noise[m]).denoise(image, sigmas[m], seed=seed, tile=tiles[m], graph=False, on_step=on_step)
                for m, image in (images.items() if whole else ())
            }
            clock.lap("denoise")
            results = {m: self._input_result(inputs[m], noise[m], cleaned.get(m), seed) for m in inputs}
            fusion = self._fusion_result(results, cleaned, sigmas, grids) if len(inputs) > 1 else None
            clock.lap("fuse")
        explained = []
        for number, explanation in enumerate(explanations):
            on_step(StepInfo("explain", number, len(explanations), explanation.method.name))
            explained.append(self._explain(explanation, results, fusion, images, sigmas, seed=seed))
        on_step(StepInfo("explain", len(explanations), len(explanations)))
        clock.lap("explain")
        return Result(results, fusion, tuple(explained), clock.seconds, seed, device, tiles)

    def _input_result(self, scan: Volume, noise: NoiseEstimate, cleaned: Tensor | None, seed: int) -> InputResult:
        level = noise.map.voxels if noise.map is not None else np.full_like(scan.voxels, noise.sigma)
        spectrum = {} if noise.spectrum is None else {"power_spectrum": noise.spectrum.as_record()}
        sigma = scan.derive(level, Step("noise standard deviation", {"method": noise.method, **spectrum}))
        if cleaned is None:
            return InputResult(scan, noise, sigma, None, None)
        parameters = {
            "steps": self.steps, "sampler": type(self.sampler).__name__, "seed": seed, "sigma": noise.sigma,
            "noise_model": noise.model, "trained_on": list(self.modalities),
            **(spectrum if noise.model == "coloured" else {}),
        }  # fmt: skip
        step = Step("denoise", parameters)
        denoised = scan.derive(cleaned[0].cpu().numpy(), step)
        removed = scan.derive(scan.voxels - denoised.voxels, Step("removed noise", parameters))
        return InputResult(scan, noise, sigma, denoised, removed)

    def _fusion_result(
        self,
        results: Mapping[str, InputResult],
        cleaned: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        grids: Mapping[str, Grid],
    ) -> FusionResult:
        fused, contributions = self._fuse(cleaned, sigmas, grids)
        reference = next(iter(results.values())).scan
        step = Step("fuse", {"fuser": type(self.fuser).__name__, "inputs": list(results)})
        return FusionResult(
            reference.derive(fused[0].cpu().numpy(), step, unit="1"),
            {
                m: reference.derive(part[0].cpu().numpy(), Step("contribution", {"of": m}), unit="1")
                for m, part in contributions.items()
            },
        )

    def _explain(
        self,
        explanation: Explanation,
        results: Mapping[str, InputResult],
        fusion: FusionResult | None,
        images: Mapping[str, Tensor],
        sigmas: Mapping[str, Tensor],
        *,
        seed: int,
    ) -> ExplanationResult:
        """Explain one measurement, modality by modality; for linear measurements of a fused image this is exact."""
        first, reference = next(iter(results.items()))
        measure, region = explanation.measure, explanation.locate(reference.scan, reference.removed)
        target = measure.target(region)
        targets: Mapping[str, Target] = {first: target}
        regions = {first: region}
        if fusion is not None:
            weighted = self._pull_back(target, results, sigmas)
            targets, regions = weighted, {m: _weighted_region(w, results[m].scan) for m, w in weighted.items()}
        attributions, certificates = {}, {}
        for m, own_target in targets.items():
            method = explanation.attributor(results[m].scan, regions[m], seed)
            path = self.told(results[m].noise)
            case = Case(
                method, measure, m, images[m], sigmas[m], own_target, path.denoiser, path.radius, self._sampled(seed),
                seed, single=self.sampler.evaluations(self.steps) == 1 and not self.sampler.stochastic,
            )  # fmt: skip
            halo = explanation.halo
            if halo is None and not self.sampler.stochastic:
                halo = case.usual_halo()
            attributions[m] = case.explain(halo=halo)
            certificates[m] = case.certify(attributions[m])
        if fusion is None:
            shown = reference.denoised if measure.of_image else None
            before = _measure(target, reference.scan) if measure.of_image else None
            after = attributions[first].value if shown is None else _measure(target, shown)
            unit = measure.unit(reference.scan.unit)
        else:  # the fused image is linear in the denoised ones, so what was removed is what the number changed by
            after, unit = _measure(target, fusion.fused), fusion.fused.unit
            removed = {m: results[m].removed for m in targets}
            before = after + sum(_measure(targets[m], volume) for m, volume in removed.items() if volume is not None)
        return ExplanationResult(
            region=region,
            measure=measure.name,
            method=explanation.method.name,
            asked=getattr(explanation.method, "text", explanation.method.name),
            maps={m: _map_volume(a, m, results[m].scan, unit, measure.name) for m, a in attributions.items()},
            attributions=attributions,
            certificates=certificates,
            value_before=before,
            value_after=after,
            unit=unit,
        )

    def _sampled(self, seed: int) -> Callable[[Denoiser, Tensor, Tensor], Tensor]:
        """Return the path of one image as a function of the denoiser: the very one that made the result."""
        return lambda denoiser, image, sigma: replace(self, denoiser=denoiser).denoise(image, sigma, seed=seed)

    def _pull_back(
        self, target: Target, results: Mapping[str, InputResult], sigmas: Mapping[str, Tensor]
    ) -> dict[str, WeightedSum]:
        """Turn a linear measurement of the fused image into one of each denoised image that it looks at."""
        leaves = {m: torch.from_numpy(r.shown.voxels.copy())[None].requires_grad_() for m, r in results.items()}
        levels = {m: sigma.cpu() for m, sigma in sigmas.items()}
        fused, _ = self._fuse(leaves, levels, {m: r.scan.grid for m, r in results.items()})
        weights = torch.autograd.grad(target(fused).sum(), list(leaves.values()))
        found = {m: w[0, 0] for m, w in zip(leaves, weights, strict=True) if bool(w.any())}
        return {m: WeightedSum(w, target.name) for m, w in found.items()}


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = now - self._last, now


def sigma_tensor(noise: NoiseEstimate, image: Tensor) -> Tensor:
    """Return a noise estimate as a denoiser wants it: a map on the image's grid where there is one, else a scalar."""
    if noise.map is None:
        return image.new_full((1, 1, 1, 1, 1), noise.sigma)
    return torch.as_tensor(noise.map.voxels.copy(), device=image.device)[None]


def _measure(target: Target, volume: Volume) -> float:
    return float(target(torch.from_numpy(volume.voxels.copy())[None])[0])


def _weighted_region(target: WeightedSum, scan: Volume) -> Region:
    """Return the voxels of a scan that a measurement of the fused image weighs."""
    return Region((target.weights != 0).cpu().numpy(), scan.grid, target.name)


def _map_volume(attribution: Attribution, name: str, scan: Volume, unit: str, measure: str) -> Volume:
    per_input = attribution.kind == "gradient"
    map_unit = unit if not per_input else ("1" if unit == scan.unit else f"{unit} / {scan.unit}")
    step = Step("explain", {"method": attribution.method, "target": attribution.target, "measure": measure})
    return scan.derive(attribution.maps[name][0].detach().cpu().numpy(), step, unit=map_unit)
