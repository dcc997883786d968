"""A synthetic head with known truth: its image in each modality on any grid, its lesion, and its noise."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.typing import NDArray

from medinterp.errors import InputError
from medinterp.testing.anatomy import LESION, Tissue, layers, surface
from medinterp.testing.shapes import Field, waves
from medinterp.volume import Grid, Provenance, Source, Step, Volume

FRAME_UID = "2.25.72713779125774072652763835399379516365"  # the patient space of the synthetic head
UNITS: Mapping[str, str] = MappingProxyType({"T1": "a.u.", "T2": "a.u.", "FLAIR": "a.u.", "CT": "HU"})
DICOM_MODALITIES: Mapping[str, str] = MappingProxyType({"T1": "MR", "T2": "MR", "FLAIR": "MR", "CT": "CT"})

# One row a tissue: T1-weighted gradient echo, T2-weighted spin echo, FLAIR (arbitrary units), CT (HU). Calcium is in
# the CT alone: in MR it takes the value of the white matter around it, so it is a structure private to one modality.
_TABLE = {
    Tissue.AIR: (0, 0, 0, -1000),
    Tissue.SKIN: (230, 130, 140, 30),
    Tissue.FAT: (430, 300, 280, -90),
    Tissue.MUSCLE: (210, 85, 110, 40),
    Tissue.BONE: (18, 12, 12, 1100),
    Tissue.MARROW: (250, 160, 150, 700),
    Tissue.CSF: (80, 480, 30, 6),
    Tissue.GREY: (265, 265, 240, 39),
    Tissue.WHITE: (400, 180, 185, 29),
    Tissue.DEEP_GREY: (305, 225, 215, 37),
    Tissue.PALLIDUM: (355, 160, 175, 36),
    Tissue.STEM: (370, 200, 200, 30),
    Tissue.DURA: (190, 70, 110, 55),
    Tissue.BLOOD: (60, 25, 30, 50),
    Tissue.VITREOUS: (75, 490, 40, 8),
    Tissue.LESION: (310, 370, 370, 17),
    Tissue.CALCIFICATION: (400, 180, 185, 260),
}
INTENSITIES: Mapping[str, Mapping[Tissue, float]] = MappingProxyType(
    {name: MappingProxyType({t: float(row[n]) for t, row in _TABLE.items()}) for n, name in enumerate(UNITS)}
)
BIAS = 0.1
TEXTURE = 0.02
_CHUNK = 60_000


def head(modality: str, grid: Grid) -> Float32[np.ndarray, "I J K"]:
    """Return the noise-free image of the synthetic head on a grid.

    Every voxel is the mean over sub-samples at most 1.3 mm apart (but 2 to 4 along each axis), so borders carry
    partial volume.
    MR images carry a smooth receive field of up to 10 % either way and a faint texture; CT only the texture, in HU.

    Args:
        modality: "T1", "T2", "FLAIR" (a.u.) or "CT" (HU).
        grid: where to image; any orientation, spacing or shear.

    Raises:
        InputError: an unknown modality.
    """
    if modality not in INTENSITIES:
        raise InputError(f"the phantom has no modality '{modality}': expected one of {', '.join(INTENSITIES)}")
    counts = [min(4, max(2, int(np.ceil(mm / 1.3)))) for mm in grid.spacing_mm]
    width_mm = float(np.mean([mm / n for mm, n in zip(grid.spacing_mm, counts, strict=True)]))
    offsets = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in counts), indexing="ij"), axis=-1)
    offsets = offsets.reshape(-1, 3)
    image = np.full(grid.shape, INTENSITIES[modality][Tissue.AIR], dtype=np.float32)
    index = _voxels_of_the_head(grid)
    for part in np.array_split(index, max(1, len(index) * len(offsets) // _CHUNK)):
        points = grid.to_world(part[:, None] + offsets).reshape(-1, 3).astype(np.float32)
        values = _paint(modality, points, width_mm).reshape(-1, len(offsets)).mean(axis=1)
        image[tuple(part.T)] = values
    return image


def _voxels_of_the_head(grid: Grid) -> NDArray[np.intp]:
    """Indices (N, 3) of the voxels that may hold more than air: sub-sampling the rest would change nothing."""
    near_mm = 2 + 0.75 * float(np.linalg.norm(grid.spacing_mm))
    found = []
    for k in range(grid.shape[2]):
        plane = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape[:2]), [k], indexing="ij"), axis=-1)
        plane = plane.reshape(-1, 3)
        found.append(plane[surface(grid.to_world(plane).astype(np.float32)) < near_mm])
    return np.concatenate(found)


def _paint(modality: str, points: Field, width_mm: float) -> Field:
    """Lay the tissues over one another at points (N, 3), each border a ramp ``width_mm`` wide."""
    table = INTENSITIES[modality]
    image = np.full(len(points), table[Tissue.AIR], dtype=np.float32)
    for tissue, distance in layers(points):
        cover = np.clip(0.5 - distance / np.float32(width_mm), 0, 1)
        image += cover * (np.float32(table[tissue]) - image)
    texture = TEXTURE * (waves(71, 9.0, 12, spread=0.5)(points) + waves(72, 28.0, 6)(points)) / np.float32(2**0.5)
    if UNITS[modality] == "HU":
        return image + 40 * texture.astype(np.float32) * np.clip((image + 100) / 100, 0, 1)
    return image * (1 + texture) * (1 + bias_field(points))


def bias_field(points: Float32[np.ndarray, "N 3"]) -> Float32[np.ndarray, " N"]:
    """Return the relative receive field of the MR images, within ±10 %, at points in RAS mm."""
    return np.float32(BIAS) * np.tanh(waves(81, 260.0, 4)(points))


def lesion(grid: Grid) -> Bool[np.ndarray, "I J K"]:
    """Return the voxels whose centres lie in the lesion."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    return np.linalg.norm(grid.to_world(index) - np.asarray(LESION.centre_mm), axis=-1) <= LESION.radius_mm


def oblique_grid(
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    angles_deg: tuple[float, float, float],
    centre_mm: tuple[float, float, float],
) -> Grid:
    """Return an axial grid in DICOM's order (I to the left, J to the back, K upwards), turned about x, then y, z."""
    a, b, c = np.radians(angles_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.diag([-1.0, -1.0, 1.0]) * np.asarray(spacing_mm)
    affine[:3, 3] = np.asarray(centre_mm) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, affine, FRAME_UID)


def add_rician(
    image: Float32[np.ndarray, "I J K"], sigma: float, generator: np.random.Generator
) -> Float32[np.ndarray, "I J K"]:
    """Return the magnitude of a complex signal with real part ``image`` and noise ``sigma`` in both channels.

    Source:
        Gudbjartsson & Patz, Magn Reson Med 34 (1995), eq. 1.
    """
    real, imaginary = (sigma * generator.standard_normal(image.shape) for _ in range(2))
    return np.hypot(image + real, imaginary).astype(np.float32)


def noise_power(frequency: Float64[np.ndarray, "..."], nyquist: float) -> Float64[np.ndarray, "..."]:
    """Return the in-plane noise power of filtered back-projection, up to a factor, at radial frequencies in 1/mm.

    The ramp makes it rise from nothing at zero frequency; Shepp and Logan's window bends it down towards Nyquist.

    Source:
        Riederer, Pelc & Chesler, Phys Med Biol 23 (1978), eq. 11: power = |filter|² / frequency.
    """
    return frequency * np.sinc(frequency / (2 * nyquist)) ** 2


def coloured_noise(grid: Grid, sigma: float, generator: np.random.Generator) -> Float32[np.ndarray, "I J K"]:
    """Draw noise like that of CT on a grid: filtered in the plane (I, J), independent between slices.

    Args:
        grid: gives shape and spacing; the spectrum is isotropic in mm.
        sigma: standard deviation at every voxel.
        generator: where the numbers come from.
    """
    i, j = (np.fft.fftfreq(n, mm) for n, mm in zip(grid.shape[:2], grid.spacing_mm[:2], strict=True))
    power = noise_power(np.hypot(i[:, None], j), 0.5 / max(grid.spacing_mm[:2]))
    response = np.sqrt(power / power.mean())[..., None]
    white = generator.standard_normal(grid.shape)
    shaped = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * response, axes=(0, 1)).real
    return (sigma * shaped).astype(np.float32)


def small_scan(
    shape: tuple[int, int, int] = (24, 24, 16),
    *,
    modality: str = "T1",
    sigma: float = 0.0,
    generator: np.random.Generator | None = None,
) -> Volume:
    """Return a tiny scan of the whole head on an oblique, anisotropic grid, for tests.

    Args:
        shape: voxels; the field of view stays the head, so fewer voxels are larger ones.
        modality: one of ``UNITS``.
        sigma: noise, Rician in MR and coloured in CT; zero leaves the truth.
        generator: needed when sigma is not zero.

    Raises:
        InputError: noise without a generator, or an unknown modality.
    """
    if sigma and generator is None:
        raise InputError(f"noise of sigma {sigma} without a generator: pass numpy.random.default_rng(seed)")
    across, along, up = shape
    grid = oblique_grid(shape, (158 / across, 190 / along, 150 / up), (6.0, -4.0, 9.0), (0.0, -2.0, 8.0))
    image = head(modality, grid)
    if generator is not None and sigma:
        noisy = UNITS[modality] == "HU"
        image = image + coloured_noise(grid, sigma, generator) if noisy else add_rician(image, sigma, generator)
    source = Provenance(Source("memory"), (Step("synthetic head", {"modality": modality, "sigma": sigma}),))
    return Volume(image[None], grid, UNITS[modality], DICOM_MODALITIES[modality], source)
