"""Real coloured noise, one scan with a sharp and a smooth kernel: ``python -m benchmarks.kernels --sharp P --smooth P``.

No truth exists; what can be measured is the noise in flat tissue, the width of edges and the noise power spectrum.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from benchmarks import report, scans
from medinterp.bundle import load_pipeline
from medinterp.noise.spectrum import NoiseSpectrum, spectrum_of
from medinterp.noise.spectrum_estimate import estimate_spectrum
from medinterp.pipeline import sigma_tensor
from medinterp.volume import Volume

EDGE_WINDOW_MM = 8.0
"""How far on either side of a body-air or lung edge a profile is read."""
FLAT = 7
"""Edge in voxels, in the plane, of the places where noise is read."""
PROTOCOL = """Noise: standard deviation within 7 x 7 pixels after a plane is taken out, at the 400 flattest places of soft
tissue (0 to 100 HU), chosen on the smooth kernel blurred by 1.5 pixels and more than 8 mm from bone, fat and air; the
median over places. Shift: change of the mean HU there, root mean square and largest. Edge width: distance over which
the profile across the border of lung and soft tissue goes from 10 to 90 %, in the plane; profiles along the gradient of
the smooth kernel are averaged in groups of 40 before they are read, so that noise does not widen them; median over
groups. NPS: in-plane power by the same estimator that the pipeline uses, peak frequency and power there; for a denoised
scan, of what is left in the same places."""
HEAD = ("scan", "noise, HU", "against sharp", "edge 10-90 %, mm", "against sharp", "HU shift, rms / largest", "NPS peak")


@dataclass(frozen=True)
class Places:
    """Where noise and edges are read, chosen once for all scans: middles of flat squares, and edge points with normals."""

    flat: np.ndarray
    edges: np.ndarray
    normals: np.ndarray


def choose_places(smooth: Volume, count: int = 400) -> Places:
    """Choose flat squares and edges on the smooth kernel."""
    hu = smooth.voxels[0].astype(np.float64)
    pixel = smooth.grid.spacing_mm[0]
    calm = np.stack([ndimage.gaussian_filter(part, 1.5) for part in np.moveaxis(hu, 2, 0)], axis=2)
    tissue = (calm > 0) & (calm < 100)
    reach = round(8 / pixel) if tissue.mean() > 0.05 else FLAT // 2 + 1
    inside = ndimage.minimum_filter(tissue.astype(np.uint8), (2 * reach // 2 + 1, 2 * reach // 2 + 1, 1)) > 0
    steep = np.hypot(*(ndimage.sobel(calm, axis) for axis in (0, 1)))
    roughness = ndimage.maximum_filter(steep, (FLAT, FLAT, 1))
    inside[:FLAT], inside[-FLAT:], inside[:, :FLAT], inside[:, -FLAT:] = False, False, False, False
    candidates = np.argwhere(inside)
    order = np.argsort(roughness[inside])[: 8 * count]
    flat = np.random.default_rng(0).permutation(candidates[order])[:count]
    return Places(flat, *_edges(calm, hu, pixel))


def _edges(calm: np.ndarray, hu: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points where the calm image crosses -400 HU between lung and tissue, and the direction of its gradient."""
    slopes = np.stack([ndimage.sobel(calm, axis) / 8 for axis in (0, 1)])
    size = np.hypot(*slopes)
    reach = round(EDGE_WINDOW_MM / pixel)
    points = np.argwhere((np.abs(calm + 400) < 60) & (size > 120))
    kept, normals = [], []
    for i, j, k in points:
        n = slopes[:, i, j, k] / size[i, j, k]
        ends = [np.array([i, j]) + side * n * reach * share for side in (-1, 1) for share in (0.4, 0.7, 1.0)]
        if any(min(e) < 1 or e[0] > hu.shape[0] - 2 or e[1] > hu.shape[1] - 2 for e in ends):
            continue
        values = [calm[round(e[0]), round(e[1]), k] for e in ends]
        if max(values[:3]) < -700 and min(values[3:]) > -100 and max(values[3:]) < 150:
            kept.append((i, j, k))
            normals.append(n)
    return np.array(kept).reshape(-1, 3), np.array(normals).reshape(-1, 2)


def flat_noise(hu: np.ndarray, places: Places) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the median standard deviation, every square's mean, and the squares' rests."""
    half = FLAT // 2
    squares = np.stack([hu[i - half : i + half + 1, j - half : j + half + 1, k].ravel() for i, j, k in places.flat])
    ramps = np.indices((FLAT, FLAT)).reshape(2, -1)
    basis, _ = np.linalg.qr(np.vstack([np.ones(FLAT**2), ramps]).T)
    rest = squares - (squares @ basis) @ basis.T
    return float(np.median(np.sqrt(np.square(rest).sum(axis=1) / (FLAT**2 - 3)))), squares.mean(axis=1), rest


def edge_width_mm(hu: np.ndarray, places: Places, pixel: float, group: int = 40) -> float:
    """Return the median 10-90 % width of averaged profiles across lung edges."""
    steps = np.arange(-EDGE_WINDOW_MM, EDGE_WINDOW_MM + 0.05, 0.1)
    widths = []
    for start in range(0, len(places.edges) - group + 1, group):
        points, normals = places.edges[start : start + group], places.normals[start : start + group]
        where = points[:, :2, None] + normals[:, :, None] * (steps / pixel)
        k = np.broadcast_to(points[:, 2, None], where[:, 0].shape)
        profile = ndimage.map_coordinates(hu, [where[:, 0], where[:, 1], k], order=1, mode="nearest").mean(axis=0)
        low, high = np.median(profile[:20]), np.median(profile[-20:])
        shares = (profile - low) / (high - low)
        middle = int(np.argmin(np.abs(shares - 0.5)))
        before, after = np.flatnonzero(shares[:middle] <= 0.1), np.flatnonzero(shares[middle:] >= 0.9)
        if len(before) and len(after):
            widths.append(steps[middle + after[0]] - steps[before[-1]])
    return float(np.median(widths)) if widths else float("nan")


def peak(spectrum: NoiseSpectrum) -> str:
    """Return where a spectrum has its in-plane peak, and the power there."""
    radial = spectrum.radial()
    return f"{radial.power.max():.0f} HU² mm² at {radial.peak_per_mm:.2f}/mm"


def left_over(hu: np.ndarray, places: Places, spacing: tuple[float, float, float]) -> NoiseSpectrum:
    """Return the spectrum of what is left in the flat squares."""
    _, _, rest = flat_noise(hu, places)
    kernels = [spectrum_of(r.reshape(FLAT, FLAT, 1).astype(np.float64), spacing).autocovariance for r in rest]
    return NoiseSpectrum(np.mean(kernels, axis=0), spacing)


def denoise(scan: Volume, bundle: Path, *, told: bool) -> np.ndarray:
    """Denoise a scan with a bundle; ``told`` is whether it may know the colour."""
    pipeline = load_pipeline(bundle)
    noise = pipeline.estimator(scan)
    image = torch.from_numpy(scan.voxels.copy())[None]
    path = pipeline.told(noise) if told else pipeline
    with torch.no_grad():
        return path.denoise(image, sigma_tensor(noise, image), seed=0, graph=False)[0, 0].numpy()


def crop(volume: Volume, centre: Sequence[int], shape: Sequence[int]) -> Volume:
    """Return the box of a shape around a voxel, as far as the scan reaches."""
    start = [max(0, min(c - s // 2, n - s)) for c, s, n in zip(centre, shape, volume.grid.shape, strict=True)]
    size = [min(s, n) for s, n in zip(shape, volume.grid.shape, strict=True)]
    i, j, k = (slice(a, a + s) for a, s in zip(start, size, strict=True))
    grid = volume.grid.crop((start[0], start[1], start[2]), (size[0], size[1], size[2]))
    return Volume(volume.voxels[:, i, j, k].copy(), grid, volume.unit, volume.modality, volume.provenance)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write it to docs/benchmarks.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--sharp", type=Path, required=True)
    parser.add_argument("--smooth", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=Path("pipelines/ct_denoise"))
    parser.add_argument("--centre", type=int, nargs=3, help="middle of the part that is looked at; the scan's without it")
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 512), help="voxels of that part")
    parser.add_argument("--dry", action="store_true", help="print only; leave docs/benchmarks.md alone")
    given = parser.parse_args(arguments)
    sharp, smooth = scans.read(given.sharp), scans.read(given.smooth)
    centre = given.centre or [n // 2 for n in sharp.grid.shape]
    sharp, smooth = crop(sharp, centre, given.shape), crop(smooth, centre, given.shape)
    rows = compare(sharp, smooth, given.bundle)
    size = " x ".join(map(str, sharp.grid.shape))
    where = f" --centre {' '.join(map(str, centre))} --shape {' '.join(map(str, sharp.grid.shape))}"
    command = f"python -m benchmarks.kernels --sharp {scans.stem(given.sharp)} --smooth {scans.stem(given.smooth)}{where}"
    text = "\n\n".join(
        [
            "## Real coloured noise: one CT scan, a sharp and a smooth kernel",
            f"`{command}`",
            f"{size} voxels. {' '.join(PROTOCOL.split())}",
            report.table(HEAD, rows),
            report.versions("medinterp", "torch"),
        ]
    )
    print(text, flush=True)
    if not given.dry:
        report.write_section("kernels", text)


def compare(sharp: Volume, smooth: Volume, bundle: Path) -> list[list[str]]:
    """Return the rows: both kernels, and the sharp one denoised as if its noise were white, and told its colour."""
    places, pixel = choose_places(smooth), sharp.grid.spacing_mm[0]
    hu = {
        "sharp kernel": sharp.voxels[0],
        "smooth kernel": smooth.voxels[0],
        "sharp, denoised as if white": denoise(sharp, bundle, told=False),
        "**sharp, denoised, colour told**": denoise(sharp, bundle, told=True),
        "smooth, denoised as if white": denoise(smooth, bundle, told=False),
        "**smooth, denoised, colour told**": denoise(smooth, bundle, told=True),
    }
    first_noise, before, _ = flat_noise(hu["sharp kernel"].astype(np.float64), places)
    first_width = edge_width_mm(hu["sharp kernel"].astype(np.float64), places, pixel)
    _, soft_before, _ = flat_noise(hu["smooth kernel"].astype(np.float64), places)
    rows = []
    for name, image in hu.items():
        values = image.astype(np.float64)
        noise, means, _ = flat_noise(values, places)
        width = edge_width_mm(values, places, pixel)
        shift = means - (soft_before if "smooth" in name else before)
        spectrum = left_over(values, places, sharp.grid.spacing_mm)
        if name.endswith("kernel"):
            spectrum = estimate_spectrum(sharp if name.startswith("sharp") else smooth)
        moved = f"{np.sqrt(np.square(shift).mean()):.2f} / {np.abs(shift).max():.2f}"
        rows.append(
            [name, f"{noise:.2f}", f"{first_noise / noise:.1f} times lower", f"{width:.2f}",
             f"{100 * (width / first_width - 1):+.0f} %", moved, peak(spectrum)]
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
