"""Low-dose CT simulated where the noise arises: in the projections, then reconstructed by filtered back-projection.

Only the noise is reconstructed: the difference between the sinogram with noise and the one without. Added to a clean
slice it leaves the anatomy as sharp as it was. The geometry is a parallel beam over half a turn, which has the noise
of a fan or cone beam after rebinning but not its growth towards the rim of the field of view.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from medinterp.errors import ConfigError, InputError

MU_WATER_PER_MM = 0.0193
"""Attenuation of water at 70 keV, the mean energy of a 120 kVp beam (NIST XCOM: 0.193/cm)."""
BODY_HU = (-300.0, 300.0)
"""Soft tissue and fat: where a noise level in HU is asked for and measured."""


@dataclass(frozen=True)
class ReconstructionKernel:
    """What the ramp filter is multiplied with: (1 + boost (f / cutoff)²) (1 + cos(pi f / cutoff)) / 2.

    Args:
        cutoff_per_mm: frequency from which on nothing passes; None for the bare ramp up to the detector's limit.
        boost: how much sharper than a Hann window; edges overshoot as with lung and bone kernels.
    """

    cutoff_per_mm: float | None = None
    boost: float = 0.0

    def __post_init__(self) -> None:
        if (self.cutoff_per_mm is not None and self.cutoff_per_mm <= 0) or self.boost < 0:
            raise ConfigError(
                f"a kernel with cutoff {self.cutoff_per_mm}/mm and boost {self.boost}: expected a positive cutoff "
                "(or None) and a boost of 0 or more"
            )

    def window(self, frequency_per_mm: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the factor on the ramp at these frequencies."""
        if self.cutoff_per_mm is None:
            return torch.ones_like(frequency_per_mm)
        share = (frequency_per_mm.abs() / self.cutoff_per_mm).clamp(max=1.0)
        return (1 + self.boost * share.square()) * (1 + torch.cos(math.pi * share)) / 2


RAMP = ReconstructionKernel()
SMOOTH = ReconstructionKernel(0.65)
STANDARD = ReconstructionKernel(0.95)
SHARP = ReconstructionKernel(1.1, 4.0)


@dataclass(frozen=True)
class LowDose:
    """A scanner that measures a slice at a fraction of its full dose.

    Args:
        kernel: of the reconstruction.
        photons: detected by one detector cell per mm of slice at full dose, where nothing is in the beam. The default
            gives 10 HU in the middle of 300 mm of water, 5 mm slices, standard kernel, 0.8 mm pixels.
        electronic_sd: of the readout, in photons.
        views: over half a turn.
        thickness_mm: of a slice; None for as thick as slices are apart. Thicker ones overlap, so that their noise is
            correlated from slice to slice.
        coarsening: the line integrals, which only set how many photons arrive, are taken on pixels this many times
            larger.

    Source:
        Massoumzadeh et al., Med Phys 36 (2009) (noise insertion in the projections, electronic noise);
        Kak & Slaney, "Principles of computerized tomographic imaging", 1988, eqs. 3.29, 3.39 (reconstruction).
    """

    kernel: ReconstructionKernel = STANDARD
    photons: float = 2.5e5
    electronic_sd: float = 10.0
    views: int = 360
    thickness_mm: float | None = None
    coarsening: int = 2

    def __post_init__(self) -> None:
        if min(self.photons, self.views, self.coarsening) <= 0 or self.electronic_sd < 0:
            raise ConfigError(
                f"{self.photons} photons, {self.views} views, coarsening {self.coarsening} and electronic noise "
                f"{self.electronic_sd}: expected positive numbers, and electronic noise of 0 or more"
            )

    def project(self, hu: Float[Tensor, "I J K"], spacing_mm: tuple[float, float, float]) -> "Projected":
        """Project slices (I, J) stacked along K: once for all the noise that is drawn for them.

        Args:
            hu: the slices.
            spacing_mm: of the voxels; I and J equal.

        Raises:
            InputError: pixels that are not square.
        """
        if abs(spacing_mm[0] - spacing_mm[1]) > 0.01 * spacing_mm[0]:
            raise InputError(f"pixels of {spacing_mm[0]} x {spacing_mm[1]} mm: projections need square ones along I, J")
        geometry = Geometry((hu.shape[0], hu.shape[1]), float(spacing_mm[0]), self.views)
        mu = (MU_WATER_PER_MM * (1 + hu / 1000)).clamp_min(0)
        lines = geometry.line_integrals(mu, self.coarsening)
        body = (hu > BODY_HU[0]) & (hu < BODY_HU[1])
        return Projected(geometry, lines, body, float(spacing_mm[2]))

    def noise(self, slices: "Projected", *, dose: float, generator: torch.Generator) -> Float[Tensor, "I J K"]:
        """Draw the noise, in HU, that this dose adds to the slices.

        Unbiased while a cell detects some tens of photons; with fewer, the logarithm brightens the streaks behind the
        thickest bone as it does in a real scanner.

        Args:
            slices: from ``project``.
            dose: as a fraction of full dose.
            generator: source of the photons.

        Raises:
            ConfigError: the dose is not positive.
        """
        expected = self._expected(slices, dose)
        counts = torch.poisson(expected, generator=generator)
        counts += self.electronic_sd * torch.randn(counts.shape, generator=generator)
        deviation = torch.log(expected) - torch.log(counts.clamp_min(1.0))
        filtered = slices.geometry.filtered(deviation, self.kernel)
        drawn = slices.geometry.back_projected(filtered) * (1000 / MU_WATER_PER_MM)
        count = self._overlap(slices)
        return torch.stack([drawn.roll(n, dims=2) for n in range(count)]).mean(dim=0) if count > 1 else drawn

    def level(self, slices: "Projected", *, dose: float, stride: int = 8) -> Float[Tensor, "I J K"]:
        """Return the noise standard deviation, in HU, that ``noise`` draws: from the photons, without drawing any.

        Args:
            slices: from ``project``.
            dose: as a fraction of full dose.
            stride: computed at every so many pixels and interpolated, since it is smooth.

        Raises:
            ConfigError: the dose is not positive.
        """
        expected = self._expected(slices, dose)
        variance = 1 / expected + (self.electronic_sd / expected).square()
        filtered = slices.geometry.filtered_variance(variance, self.kernel)
        coarse = slices.geometry.back_projected(filtered, stride=stride) * (math.pi / self.views)
        coarse = coarse.clamp_min(0).sqrt() * (1000 / MU_WATER_PER_MM)
        size = list(slices.geometry.shape)
        fine = functional.interpolate(coarse.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=False)
        return fine[0].permute(1, 2, 0) / self._overlap(slices) ** 0.5

    def dose_for(self, slices: "Projected", *, sigma_hu: float) -> float:
        """Return the dose at which the median noise level of soft tissue is ``sigma_hu``.

        Raises:
            ConfigError: no soft tissue in the slices, or a level that is not positive.
        """
        if sigma_hu <= 0 or not bool(slices.body.any()):
            raise ConfigError(f"noise of {sigma_hu} HU asked for in {int(slices.body.sum())} voxels of soft tissue")
        some = slices.some(4)  # the level changes slowly from slice to slice
        dose = 1.0
        for _ in range(4):  # variance is 1/dose but for the electronic noise, so this converges at once
            reached = float(self.level(some, dose=dose)[some.body].median())
            dose *= (reached / sigma_hu) ** 2
        return dose

    def _overlap(self, slices: "Projected") -> int:
        return 1 if self.thickness_mm is None else max(1, round(self.thickness_mm / slices.slice_mm))

    def _expected(self, slices: "Projected", dose: float) -> Float[Tensor, "A D K"]:
        """Return how many photons each cell should detect."""
        if dose <= 0:
            raise ConfigError(f"a dose of {dose}: expected a positive fraction of full dose")
        return (self.photons * slices.slice_mm * dose * torch.exp(-slices.lines)).clamp_min(1e-3)


@dataclass(frozen=True, eq=False)
class Projected:
    """Slices as the beam sees them.

    Args:
        geometry: of the beam.
        lines: attenuation along every ray, (views, cells, K).
        body: where the slices hold soft tissue, (I, J, K).
        slice_mm: distance of slices.
    """

    geometry: "Geometry"
    lines: Float[Tensor, "A D K"]
    body: Bool[Tensor, "I J K"]
    slice_mm: float

    def some(self, count: int) -> "Projected":
        """Return about ``count`` of the slices that hold the most soft tissue, or all where there are fewer."""
        most = self.body.sum(dim=(0, 1)).topk(min(count, self.body.shape[2])).indices
        return Projected(self.geometry, self.lines[..., most].contiguous(), self.body[..., most], self.slice_mm)


@dataclass(frozen=True)
class Geometry:
    """A parallel beam through square slices: detector cells as wide as pixels, turning about the slice's middle."""

    shape: tuple[int, int]
    pixel_mm: float
    views: int

    @property
    def cells(self) -> int:
        """Cells of the detector: enough for the slice's diagonal."""
        return math.ceil(math.hypot(*self.shape)) + 2

    @property
    def angles(self) -> Float[Tensor, " A"]:
        """Angle of each view in radians."""
        return torch.arange(self.views) * (math.pi / self.views)

    def line_integrals(self, mu: Float[Tensor, "I J K"], coarsening: int) -> Float[Tensor, "A D K"]:
        """Return the integral of the attenuation along every ray: rotated slices, summed."""
        step = self.pixel_mm * coarsening
        coarse = functional.avg_pool2d(mu.permute(2, 0, 1)[None], coarsening, ceil_mode=True, count_include_pad=False)
        count = math.ceil(self.cells / coarsening)
        along = (torch.arange(count) - (count - 1) / 2) * (2 * coarsening)
        lines = []
        for angle in self.angles.tolist():  # t to the detector cell, s along the ray
            t, s = along[:, None], along[None, :]
            i, j = t * math.cos(angle) - s * math.sin(angle), t * math.sin(angle) + s * math.cos(angle)
            place = torch.stack([j / self.shape[1], i / self.shape[0]], dim=-1)[None]
            rays = functional.grid_sample(coarse, place, align_corners=False)
            lines.append(rays[0].sum(dim=-1) * step)
        sinogram = torch.stack(lines, dim=1)  # (K, A, coarse cells)
        fine = functional.interpolate(sinogram, size=coarsening * count, mode="linear", align_corners=False)
        first = (coarsening * count - self.cells) // 2
        return fine[..., first : first + self.cells].permute(1, 2, 0).contiguous()

    def filtered(self, sinogram: Float[Tensor, "A D K"], kernel: ReconstructionKernel) -> Float[Tensor, "A D K"]:
        """Convolve every view with the ramp and the kernel's window, in 1/mm."""
        size, response = self._response(kernel)
        spectrum = torch.fft.rfft(sinogram, n=size, dim=1) * response[:, None]
        return torch.fft.irfft(spectrum, n=size, dim=1)[:, : self.cells] * (math.pi / self.views)

    def filtered_variance(self, variance: Float[Tensor, "A D K"], kernel: ReconstructionKernel) -> Tensor:
        """Return the variance of filtered views, averaged over where between two cells it is read."""
        size, response = self._response(kernel)
        line = torch.fft.irfft(response.to(torch.complex64), n=size)
        neighbours = line * line.roll(1)
        weights = line.square() * (2 / 3) + (neighbours + neighbours.roll(-1)) / 6
        spectrum = torch.fft.rfft(variance, n=size, dim=1) * torch.fft.rfft(weights)[:, None]
        return torch.fft.irfft(spectrum, n=size, dim=1)[:, : self.cells] * (math.pi / self.views)

    def _response(self, kernel: ReconstructionKernel) -> tuple[int, Tensor]:
        """Return the ramp's band-limited response, whose value at zero frequency is right, times the window."""
        size = 2 ** math.ceil(math.log2(2 * self.cells))
        n = torch.fft.fftfreq(size, 1 / size)
        odd = n.remainder(2) == 1
        line = torch.where(odd, -1 / (math.pi * torch.where(odd, n, 1.0)).square(), 0.0)
        line[0] = 0.25
        frequency = torch.fft.rfftfreq(size, self.pixel_mm)
        return size, torch.fft.rfft(line).real / self.pixel_mm * kernel.window(frequency)

    def back_projected(self, filtered: Float[Tensor, "A D K"], stride: int = 1) -> Float[Tensor, "i j K"]:
        """Sum the filtered views over the rays through every pixel, or every ``stride``-th.

        A weighted sum of table rows, one row a cell of a view, is what ``embedding_bag`` computes without storing the
        interpolated views: ten times faster here than gathering view by view.
        """
        rows, columns = (torch.arange((stride - 1) / 2, n, stride) - (n - 1) / 2 for n in self.shape)
        table = filtered.reshape(-1, filtered.shape[2])
        offsets = torch.arange(self.views) * self.cells
        cosine, sine = torch.cos(self.angles), torch.sin(self.angles)
        parts = []
        for row in rows.tolist():
            t = row * cosine + columns[:, None] * sine + (self.cells - 1) / 2
            left = t.floor()
            place = left.long() + offsets
            share = t - left
            indices, weights = torch.cat([place, place + 1], dim=1), torch.cat([1 - share, share], dim=1)
            parts.append(functional.embedding_bag(indices, table, mode="sum", per_sample_weights=weights))
        return torch.stack(parts)
