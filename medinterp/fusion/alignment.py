"""The search itself: two scans aligned by Mattes mutual information over a pyramid of resolutions, with SimpleITK."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its own documentation's name
from numpy.typing import NDArray

from medinterp.errors import InputError
from medinterp.io.transform_files import itk_matrix
from medinterp.volume import Transform, Volume

Kind: TypeAlias = Literal["rigid", "affine"]
_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Level:
    """One resolution: voxels of about this size, so many steps at most, the first step this long."""

    size_mm: float
    iterations: int
    step_mm: float


_COARSE = Level(8.0, 60, 4.0)
_FINE = (Level(4.0, 80, 2.0), Level(2.0, 100, 1.0), Level(1.0, 60, 0.25))
# from the rigid optimum; a first step of millimetres in nine shape parameters flattens the scan and never comes back
_AFFINE = (Level(4.0, 80, 0.5), Level(2.0, 100, 0.25), Level(1.0, 60, 0.1))
_BINS = 32
_SAMPLES = 150_000  # voxels that the metric is taken from: at full resolution a share, drawn with the seed
_TURNS_DEG = 15.0
_FINALISTS = 2


def align(
    reference: Volume, scan: Volume, kind: Kind, *, masks: tuple[Volume | None, Volume | None], seed: int
) -> Transform:
    """Return the transform from reference to scan that maximises mutual information.

    Starts are the files' own placement and the centres of mass laid on each other, each as they are and turned by 15°
    about each axis; the best two at the coarsest resolution go on, the better one wins.

    Raises:
        InputError: no start led anywhere.
    """
    with _one_thread():
        return _align(reference, scan, kind, masks, seed)


def _align(
    reference: Volume, scan: Volume, kind: Kind, masks: tuple[Volume | None, Volume | None], seed: int
) -> Transform:
    fixed, moving = _image(reference), _image(scan)
    areas = tuple(None if mask is None else _mask(mask) for mask in masks)
    search = _Search(fixed, moving, areas, seed)
    tried = sorted((search(start, [_COARSE]) for start in _starts(fixed, moving)), key=lambda found: found[1])
    finalists = [search(transform, _FINE[:1]) for transform, value in tried[:_FINALISTS] if np.isfinite(value)]
    if not finalists:
        raise InputError(
            "the scans could not be registered: from no start do they overlap enough; check that they are of one body "
            "part, give --register-mask, or bring your own --transform"
        )
    best = min(finalists, key=lambda found: found[1])[0]
    best = search(best, _FINE[1:])[0]
    if kind == "affine":
        best = search(_as_affine(best), _AFFINE)[0]
    return Transform(itk_matrix(best))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep ITK to one thread: the metric adds its threads' sums in the order in which they end, which moves bits.

    The metric does not heed its method's own number of threads, so the process's is set and put back.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


@dataclass(frozen=True, eq=False)
class _Search:
    """Gradient descent on mutual information, from a start through some resolutions."""

    fixed: Any
    moving: Any
    areas: tuple[Any, ...]
    seed: int
    shrunk: dict[float, tuple[Any, Any]] = field(default_factory=dict)

    def __call__(self, start: Any, levels: list[Level] | tuple[Level, ...]) -> tuple[Any, float]:
        """Return the transform found and the metric there, smaller is better; infinite where nothing overlaps."""
        transform, value = type(start)(start), np.inf
        for level in levels:
            if level.size_mm < 0.75 * min(max(self.fixed.GetSpacing()), max(self.moving.GetSpacing())):
                continue  # finer than what was measured
            method = self._method(level)
            try:
                fixed, moving = self._images(level.size_mm)
                self._sample(method, fixed)
                method.SetInitialTransform(transform, inPlace=True)
                method.Execute(fixed, moving)
                value = float(method.GetMetricValue())
            except RuntimeError:  # ITK: "all samples map outside the moving image"
                return transform, np.inf
        return transform, value

    def _images(self, size_mm: float) -> tuple[Any, Any]:
        if size_mm not in self.shrunk:
            self.shrunk[size_mm] = _shrunk(self.fixed, size_mm), _shrunk(self.moving, size_mm)
        return self.shrunk[size_mm]

    def _method(self, level: Level) -> Any:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=_BINS)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=level.step_mm,
            minStep=level.step_mm / 64,
            numberOfIterations=level.iterations,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-8,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        for area, use in zip(self.areas, (method.SetMetricFixedMask, method.SetMetricMovingMask), strict=True):
            if area is not None:
                use(area)
        return method

    def _sample(self, method: Any, fixed: Any) -> None:
        voxels = fixed.GetNumberOfPixels()
        if voxels <= _SAMPLES:
            method.SetMetricSamplingStrategy(method.NONE)
            return
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(_SAMPLES / voxels, 1 + self.seed % (1 << 31))  # ITK takes 0 for the clock


def _starts(fixed: Any, moving: Any) -> Iterator[Any]:
    """Yield rigid transforms around the middle of the fixed image's tissue."""
    centre, other = _centre_of_mass(fixed), _centre_of_mass(moving)
    turns = [np.zeros(3)] + [sign * row for row in np.eye(3) * np.radians(_TURNS_DEG) for sign in (1, -1)]
    shifts = [np.zeros(3)]
    if np.linalg.norm(other - centre) > 5.0:
        shifts.append(other - centre)
    for shift in shifts:
        for turn in turns:
            start = sitk.Euler3DTransform()
            start.SetCenter(centre.tolist())
            start.SetRotation(*turn.tolist())
            start.SetTranslation(shift.tolist())
            yield start


def _as_affine(rigid: Any) -> Any:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetCenter(rigid.GetCenter())
    affine.SetTranslation(rigid.GetTranslation())
    return affine


def _image(volume: Volume) -> Any:
    """Return a volume as ITK sees it: LPS, and the slice axis first in the array."""
    values = np.ascontiguousarray(volume.voxels[0].transpose(2, 1, 0))
    # the extremes of a few voxels would leave the histogram's other bins empty
    low, high = np.percentile(values, (0.1, 99.9))
    return _placed(sitk.GetImageFromArray(np.clip(values, low, high)), volume)


def _mask(volume: Volume) -> Any:
    inside = np.ascontiguousarray((volume.voxels[0] > 0.5).transpose(2, 1, 0)).astype(np.uint8)
    return _placed(sitk.GetImageFromArray(inside), volume)


def _placed(image: Any, volume: Volume) -> Any:
    spacing = np.array(volume.grid.spacing_mm)
    direction = _LPS[:, None] * volume.grid.affine[:3, :3] / spacing
    image.SetOrigin((_LPS * volume.grid.affine[:3, 3]).tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    return image


def _shrunk(image: Any, size_mm: float) -> Any:
    """Return an image smoothed and thinned to voxels of about a size, along each axis as far as it can."""
    factors = [max(1, round(size_mm / spacing)) for spacing in image.GetSpacing()]
    factors = [min(factor, max(1, length // 8)) for factor, length in zip(factors, image.GetSize(), strict=True)]
    sigmas = [0.5 * max(size_mm, factor * mm) for factor, mm in zip(factors, image.GetSpacing(), strict=True)]
    if min(image.GetSize()) >= 4:  # the recursive filter needs four voxels along each axis
        image = sitk.SmoothingRecursiveGaussian(image, sigmas)
    return sitk.Shrink(image, factors) if max(factors) > 1 else image


def _centre_of_mass(image: Any) -> NDArray[np.float64]:
    """Return the centre of what is brighter than the darkest value, LPS mm."""
    values = sitk.GetArrayViewFromImage(image).astype(np.float64)
    weights = values - values.min()
    total = weights.sum()
    if total <= 0:
        return np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    axes = [weights.sum(axis=tuple({0, 1, 2} - {axis})) for axis in (2, 1, 0)]
    index = [float((counts * np.arange(counts.size)).sum() / total) for counts in axes]
    return np.array(image.TransformContinuousIndexToPhysicalPoint(index))
