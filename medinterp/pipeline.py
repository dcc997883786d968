"""The one path of a scan: estimate noise, denoise, fuse, explain, certify. Only this file knows the order."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.denoisers.base import Denoiser
from medinterp.denoisers.tiled import BYTES_PER_VOXEL, Tiled, choose_tile
from medinterp.errors import ConfigError
from medinterp.explaining import Explaining, ImagePath, require_no_halo
from medinterp.explanation import Case, Evaluations, Explanation
from medinterp.fusing import plan_fusing
from medinterp.fusion.fusers import Fuser
from medinterp.fusion.joining import Joining
from medinterp.fusion.registration import Registrar
from medinterp.noise.estimate import Estimator, NoiseEstimate
from medinterp.noise.masked import silent_where_masked
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import InputResult, Result
from medinterp.sampling.samplers import Sampler
from medinterp.sampling.schedules import Schedule
from medinterp.sampling.trajectory import MOST_STATES, KeptStates, OnState, forget
from medinterp.volume import Grid, Step, Volume


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
        registrar: finds where the other scans lie in the first one's space; None where the files say so.
        ledger: whether a fused image gets its modality ledger.
        trajectory: whether the states between scan and image are kept.
    """

    estimator: Estimator
    denoiser: Denoiser
    schedule: Schedule
    sampler: Sampler
    fuser: Fuser
    steps: int = 1
    modalities: Sequence[str] = ("MR",)
    registrar: Registrar | None = None
    ledger: bool = False
    trajectory: bool = False

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

    @property
    def bytes_per_voxel(self) -> int:
        """Memory that denoising takes for each voxel that the denoiser sees at once."""
        if self.sampler.stochastic:  # it takes Jacobian products, a second number beside each
            return 2 * BYTES_PER_VOXEL
        return int(getattr(self.denoiser, "bytes_per_voxel", BYTES_PER_VOXEL))

    def tile(self, shape: tuple[int, int, int], max_bytes: int | None) -> tuple[int, int, int] | None:
        """Return the tile in which the denoiser sees a volume of this shape, None for all at once."""
        return choose_tile(shape, max_bytes and max_bytes // self.bytes_per_voxel, self.halo)

    def denoise(
        self,
        image: Float[Tensor, "B C I J K"],
        sigma: Float[Tensor, "#B #C #I #J #K"],
        *,
        seed: int,
        tile: tuple[int, int, int] | None = None,
        graph: bool = True,
        on_step: OnStep = ignore,
        on_state: OnState = forget,
    ) -> Float[Tensor, "B C I J K"]:
        """Denoise one modality: pure, differentiable, the same bits for the same seed.

        Args:
            image: the scan.
            sigma: its noise level.
            seed: of the sampler.
            tile: what the network sees at a time, with its receptive field around it; the result is the same.
            graph: whether the result shall be differentiable; without it, it is the same to rounding and costs less.
            on_step: told after every step and tile.
            on_state: given every state of the sampler.
        """
        denoiser: Denoiser = self.denoiser
        if not graph and not self.sampler.stochastic:  # stochastic samplers take Jacobian products
            denoiser = getattr(denoiser, "without_graph", lambda: self.denoiser)()
        if tile is not None:
            tiled = getattr(denoiser, "in_tiles", partial(Tiled, denoiser))
            denoiser = tiled(tile, self.halo or 0, on_tile=on_step)
        generator = torch.Generator(device=image.device).manual_seed(seed)
        fractions = self.schedule(self.steps, start=1.0)
        return self.sampler(denoiser, image, sigma, fractions, generator=generator, on_step=on_step, on_state=on_state)

    def forward(
        self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], grids: Mapping[str, Grid], *, seed: int
    ) -> Tensor:
        """Return the final image: the denoised one, or for several inputs the fused one on the first input's grid.

        All inputs' noise has the one colour that the pipeline was ``told``, if any.
        """
        denoised = {m: self.denoise(image, sigmas[m], seed=seed) for m, image in inputs.items()}
        if len(denoised) == 1:
            return next(iter(denoised.values()))
        return Joining(self.fuser, grids)(denoised, sigmas).image

    def check(self, scans: Collection[str], explanations: Sequence[Explanation], *, whole: bool = True) -> None:
        """Refuse explanations that do not fit the scans of these names, before any of them is read through.

        Raises:
            ConfigError: several scans are to be explained without being denoised, or by a measure that is not linear;
                a measure compares with a scan that there is not; or a random sampler is to be explained on a crop.
        """
        if not whole and len(scans) != 1:
            raise ConfigError(f"explaining alone takes one scan, not {len(scans)}; run the whole path to fuse them")
        for measure in (e.measure for e in explanations):
            if measure.taken_off is not None and (len(scans) == 1 or measure.taken_off not in scans):
                raise ConfigError(
                    f"the measure '{measure.name}' compares a fused image with the scan '{measure.taken_off}' alone; "
                    f"expected several scans, that one among them, not {', '.join(scans)}"
                )
        require_no_halo(explanations, random=self.sampler.stochastic)
        bent = [e.measure.name for e in explanations if not e.measure.linear]
        if bent and len(scans) > 1:
            raise ConfigError(
                f"the measure '{bent[0]}' of a fused image does not divide exactly over its inputs; measure mean or "
                "contrast, or explain one scan"
            )

    def run(
        self,
        inputs: Mapping[str, Volume],
        explanations: tuple[Explanation, ...] = (),
        *,
        seed: int = 0,
        device: str = "cpu",
        max_bytes: int | None = None,
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
            max_bytes: memory that the network may take; scans for which that is too little are tiled, exactly.
            whole: denoise the whole volume; without it (one input only) just the explanations are made, each on the
                crop that matters to it.
            on_step: progress callback.

        Raises:
            ConfigError: the explanations do not fit the inputs (see ``check``).
        """
        self.check(inputs, explanations, whole=whole)
        clock = _Clock()
        found = self.registrar(inputs, seed=seed, on_step=on_step) if self.registrar and len(inputs) > 1 else {}
        clock.lap("register")
        on_step(StepInfo("noise", 0, len(inputs)))
        noise = {m: silent_where_masked(self.estimator(scan), scan) for m, scan in inputs.items()}
        on_step(StepInfo("noise", len(inputs), len(inputs)))
        clock.lap("noise")
        images = {m: torch.as_tensor(scan.voxels.copy(), device=device)[None] for m, scan in inputs.items()}
        sigmas = {m: sigma_tensor(noise[m], images[m]) for m in inputs}
        tiles = {m: self.tile(scan.grid.shape, max_bytes) for m, scan in inputs.items()}
        fusing = plan_fusing(self.fuser, inputs, found, seed)
        with torch.no_grad():  # the one place: whole volumes are made without a graph, explanations make their own
            kept = {m: KeptStates(self.steps, MOST_STATES if self.trajectory else 0) for m in inputs}
            cleaned = {
                m: self.told(noise[m]).denoise(
                    image, sigmas[m], seed=seed, tile=tiles[m], graph=False, on_step=on_step, on_state=kept[m]
                )
                for m, image in (images.items() if whole else ())
            }
            clock.lap("denoise")
            results = {m: self._input_result(inputs[m], noise[m], cleaned.get(m), seed) for m in inputs}
            if self.trajectory:
                results = {m: one.with_states(kept[m].states) for m, one in results.items()}
            fusion = fusing.result(cleaned, sigmas, ledger=self.ledger) if len(inputs) > 1 else None
            clock.lap("fuse")
        explaining = Explaining(
            {m: self.told(noise[m])._path(seed) for m in inputs}, results, fusion, fusing.joining, images, sigmas, seed,
            limit=max_bytes,
        )  # fmt: skip
        explained = explaining(explanations, on_step)
        clock.lap("explain")
        return Result(results, fusion, tuple(explained), clock.seconds, seed, device, tiles)

    def open(self, name: str, scan: Volume, *, seed: int = 0, device: str = "cpu") -> Explaining:
        """Measure a scan's noise once, and return what then answers question after question about it.

        The answers are those of ``run`` with ``whole=False``: the volume is not denoised, each explanation is made on
        the crop that matters to it.

        Args:
            name: of the input.
            scan: the scan.
            seed: of every random number.
            device: torch device of the computation.
        """
        noise = silent_where_masked(self.estimator(scan), scan)
        image = torch.as_tensor(scan.voxels.copy(), device=device)[None]
        result = self._input_result(scan, noise, None, seed)
        return self.told(noise)._alone(name, result, image, sigma_tensor(noise, image), seed)

    def case(
        self, name: str, scan: Volume, explanation: Explanation, *, seed: int, whole: bool = True
    ) -> tuple[Case, int | None]:
        """Return what an explanation of one scan comes down to, before anything is computed, and its halo.

        Args:
            name: of the input.
            scan: the scan; its noise level does not matter to what an explanation costs.
            explanation: what is to be explained.
            seed: of every random number.
            whole: whether the whole volume will be denoised; a target that is found on what was removed is then
                found as if that were nothing.
        """
        sigma = torch.ones(1, 1, 1, 1, 1)
        image = sigma.expand(1, *scan.voxels.shape)  # its shape is all that is asked of it
        noise = NoiseEstimate(1.0, 1.0, 1.0, "gaussian", "none")
        removed = scan.derive(np.zeros_like(scan.voxels), Step("removed noise")) if whole else None
        return self._alone(name, InputResult(scan, noise, scan, None, removed), image, sigma, seed).case(explanation)

    def _alone(self, name: str, result: InputResult, image: Tensor, sigma: Tensor, seed: int) -> Explaining:
        """Return what explains one input's image."""
        joining = Joining(self.fuser, {name: result.scan.grid})
        return Explaining({name: self._path(seed)}, {name: result}, None, joining, {name: image}, {name: sigma}, seed)

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

    def _path(self, seed: int) -> ImagePath:
        """Return how each image is made, as a function of the denoiser: the very path that made the result."""

        def sample(denoiser: Denoiser, image: Tensor, sigma: Tensor) -> Tensor:
            return replace(self, denoiser=denoiser).denoise(image, sigma, seed=seed)

        count = self.sampler.evaluations(self.steps)
        evaluations = Evaluations(count, -(-count // self.steps), self.sampler.stochastic)
        return ImagePath(self.denoiser, sample, self.radius, evaluations)


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
