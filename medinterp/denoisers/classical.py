"""Classical filters as denoisers: baselines to beat (through other libraries) and two with a known equivalent filter.

Each is homogeneous, D(a x, a sigma) = a D(x, sigma), because its parameters are counted in units of sigma. The ones
that run in another library take one noise level, not a map, and cannot be differentiated.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medinterp.denoisers.base import one_level
from medinterp.errors import MethodNotValid, PluginError

Array = NDArray[np.floating]


def _need(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PluginError(
            f"this classical filter needs {package}, which is not installed; run: pip install 'medinterp[bench]'"
        ) from error


def _filter_volumes(
    x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], volume_filter: Callable[[Array], Array]
) -> Float[Tensor, "B C I J K"]:
    """Apply a numpy filter to each (I, J, K) in units of its noise; where sigma is 0 the image is returned as it is."""
    if x.requires_grad:
        raise MethodNotValid(
            "this filter runs in another library and has no gradient; explain HeatEquation or PeronaMalikStep instead"
        )
    levels = one_level(sigma.detach())[..., 0, 0, 0].expand(x.shape[:2]).cpu().double().numpy()
    images = x.detach().cpu().double().numpy()
    results = images.copy()
    for place in np.ndindex(*x.shape[:2]):
        level = float(levels[place])
        if level > 0:
            results[place] = level * volume_filter(images[place] / level)
    return torch.from_numpy(results).to(device=x.device, dtype=x.dtype)


def _diffuse(name: str, image: Array, edge: float, iterations: int) -> Array:
    """Run one of ITK's anisotropic diffusions; ``edge`` is the gradient (in the image's unit) above which it stops."""
    sitk = _need("SimpleITK", "SimpleITK")
    gradients = [np.gradient(image, axis=axis) for axis in range(3) if image.shape[axis] > 1]
    mean_square = float(sum(np.square(gradient).mean() for gradient in gradients))
    if mean_square == 0:
        return image
    diffusion = getattr(sitk, name)()
    diffusion.SetTimeStep(0.0625)
    diffusion.SetNumberOfIterations(iterations)
    diffusion.SetConductanceParameter(edge / mean_square**0.5)  # ITK counts the edge in units of the mean gradient
    diffusion.SetConductanceScalingUpdateInterval(iterations + 1)  # ...of the first iteration: the edge stays put
    result: Array = sitk.GetArrayFromImage(diffusion.Execute(sitk.GetImageFromArray(image)))
    return result


@dataclass(frozen=True)
class PeronaMalik:
    """Edge-stopping diffusion: smooths where the gradient is below ``edge`` times sigma.

    Args:
        edge: gradient, in units of sigma a voxel, above which the image is taken as an edge.
        iterations: explicit steps of 1/16.

    Source:
        Perona & Malik, IEEE PAMI 12 (1990); ITK's GradientAnisotropicDiffusionImageFilter.
    """

    edge: float = 2.5
    iterations: int = 10

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        name = "GradientAnisotropicDiffusionImageFilter"
        return _filter_volumes(x, sigma, lambda image: _diffuse(name, image, self.edge, self.iterations))


@dataclass(frozen=True)
class Curvature:
    """Edge-stopping diffusion along level sets: keeps thin structures better than PeronaMalik.

    Source:
        Whitaker & Xue, ICIP 2001; ITK's CurvatureAnisotropicDiffusionImageFilter.
    """

    edge: float = 2.0
    iterations: int = 7

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        name = "CurvatureAnisotropicDiffusionImageFilter"
        return _filter_volumes(x, sigma, lambda image: _diffuse(name, image, self.edge, self.iterations))


@dataclass(frozen=True)
class TotalVariation:
    """The image of least total variation near the noisy one; ``weight`` is in units of sigma.

    Source:
        Chambolle, J Math Imaging Vis 20 (2004); scikit-image's denoise_tv_chambolle.
    """

    weight: float = 1.0
    iterations: int = 200

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        restoration = _need("skimage.restoration", "scikit-image")

        def smooth(image: Array) -> Array:
            result: Array = restoration.denoise_tv_chambolle(image, weight=self.weight, max_num_iter=self.iterations)
            return result

        return _filter_volumes(x, sigma, smooth)


@dataclass(frozen=True)
class Wavelet:
    """Shrink wavelet coefficients towards zero.

    Args:
        threshold: noise level the shrinkage is told, in units of the true one.
        method: "BayesShrink" (a threshold for each band) or "VisuShrink" (one for all).
        wavelet: name of the wavelet.

    Source:
        Chang, Yu & Vetterli, IEEE TIP 9 (2000); scikit-image's denoise_wavelet.
    """

    threshold: float = 1.0
    method: str = "BayesShrink"
    wavelet: str = "db2"

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        restoration = _need("skimage.restoration", "scikit-image")
        _need("pywt", "PyWavelets")

        def shrink(image: Array) -> Array:
            result: Array = restoration.denoise_wavelet(
                image, sigma=self.threshold, wavelet=self.wavelet, method=self.method, rescale_sigma=False
            )
            return result

        return _filter_volumes(x, sigma, shrink)


@dataclass(frozen=True)
class NonLocalMeans:
    """Average voxels whose surroundings look alike.

    Args:
        strength: noise level the filter is told, in units of the true one.
        patch_radius: half width of the surroundings compared.
        block_radius: half width of the neighbourhood searched.

    Source:
        Coupé et al., IEEE TMI 27 (2008); dipy's nlmeans.
    """

    strength: float = 1.0
    patch_radius: int = 1
    block_radius: int = 2

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``cond`` is accepted and unused."""
        nlmeans = _need("dipy.denoise.nlmeans", "dipy")

        def average(image: Array) -> Array:
            lift = 20 - image.min()  # dipy averages squares: far above zero that is the plain average
            threads = torch.get_num_threads()
            result: Array = nlmeans.nlmeans(
                image + lift,
                self.strength,
                patch_radius=self.patch_radius,
                block_radius=self.block_radius,
                rician=False,
                num_threads=1,
            )
            torch.set_num_threads(threads)  # dipy leaves OpenMP, which torch shares, with a thread for every core
            return result - lift

        return _filter_volumes(x, sigma, average)


@dataclass(frozen=True)
class HeatEquation:
    """The heat equation run for a fixed time: a Gaussian filter, linear and differentiable.

    Its equivalent filter is known, ``kernel`` along each axis, so attributions can be checked against it. The noise
    level is not used. Values beyond the border repeat the border's.

    Args:
        width_voxels: standard deviation of the Gaussian, sqrt(2 time), in voxels.

    Source:
        Koenderink, Biol Cybern 50 (1984).
    """

    width_voxels: float = 1.0

    def kernel(self, *, dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """Return the filter along one axis; it sums to 1."""
        radius = max(1, round(4 * self.width_voxels))
        place = torch.arange(-radius, radius + 1, dtype=torch.float64)
        weights = torch.exp(-0.5 * (place / self.width_voxels).square())
        return (weights / weights.sum()).to(dtype)

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; ``sigma`` and ``cond`` are accepted and unused."""
        weights = self.kernel(dtype=x.dtype).to(x.device)
        radius, image = len(weights) // 2, x.flatten(0, 1)[:, None]
        for axis in range(3):
            pad, shape = [0] * 6, [1] * 3
            pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
            shape[axis] = len(weights)
            image = functional.conv3d(
                functional.pad(image, pad, mode="replicate"), weights.reshape(1, 1, shape[0], shape[1], shape[2])
            )
        return image[:, 0].reshape(x.shape)


@dataclass(frozen=True)
class PeronaMalikStep:
    """One explicit step of edge-stopping diffusion, differentiable, with zero flux through the border.

    y = x + step * sum over the six neighbours of exp(-(d / (edge sigma))²) d, with d the neighbour's value minus the
    voxel's. Its Jacobian is known in closed form, so attributions can be checked against it.

    Args:
        edge: difference between neighbours, in units of sigma, at which diffusion fades.
        step: size of the step; stable up to 1/6.

    Source:
        Perona & Malik, IEEE PAMI 12 (1990), eqs 7 and 10.
    """

    edge: float = 2.0
    step: float = 0.125

    def __call__(
        self, x: Float[Tensor, "B C I J K"], sigma: Float[Tensor, "#B #C #I #J #K"], *, cond: Tensor | None = None
    ) -> Float[Tensor, "B C I J K"]:
        """Return the filtered image, in the unit of ``x``; a noise map is averaged over each pair of neighbours."""
        level = self.edge * sigma.expand(x.shape)
        change = torch.zeros_like(x)
        for axis in (2, 3, 4):
            before, after = x.narrow(axis, 0, x.shape[axis] - 1), x.narrow(axis, 1, x.shape[axis] - 1)
            low, high = level.narrow(axis, 0, x.shape[axis] - 1), level.narrow(axis, 1, x.shape[axis] - 1)
            fade = ((low + high) / 2).clamp_min(torch.finfo(x.dtype).tiny)  # without noise nothing is smoothed
            flux = (after - before) * torch.exp(-((after - before) / fade).square())
            pad = [0] * 6
            pad[9 - 2 * axis] = 1  # the flux out of each voxel towards the next; none leaves through the border
            outward = functional.pad(flux, pad)
            pad[9 - 2 * axis], pad[8 - 2 * axis] = 0, 1
            change = change + outward - functional.pad(flux, pad)
        return x + self.step * change
