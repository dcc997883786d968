"""Real coloured noise, a scan with two kernels: ``python -m benchmarks.kernels --sharp PATH --smooth PATH``.

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

FLAT = 7
"""Edge in voxels, in the plane, of the places where noise is read."""
PROTOCOL = """Noise: standard deviation within 7 x 7 pixels after a plane is taken out, at 400 of the flattest places of
soft tissue (0 to 100 HU), chosen on the smooth kernel blurred by 1.5 pixels, more than 8 mm from bone, fat and air; the
median over places. Mean HU: that of the places against the smooth kernel's, averaged with its standard error, and root
mean square. Edge width: distance from 10 to 90 % of the profile, in the plane, across borders of lung and soft tissue
and of fat and muscle; profiles along the gradient of the smooth kernel are averaged in groups of 40 before they are
read, so that noise does not widen them; median over groups. NPS: where the in-plane power is largest, and how large, by
the estimator that the pipeline uses; for a denoised scan, of what is left in the flat places."""
HEAD = (
    "scan", "noise, HU", "against sharp", "lung edge, mm", "against sharp", "fat edge, mm", "against sharp",
    "mean HU, bias and rms", "NPS peak",
)  # fmt: skip


@dataclass(frozen=True)
class EdgeKind:
    """A border of two tissues: the value where it is placed, the ranges on either side, how steep, how far read."""

    middle: float
    near: float
    low: tuple[float, float]
    high: tuple[float, float]
    steepest_hu: float
    reach_mm: float


LUNG = EdgeKind(-400, 60, (-1000, -700), (-100, 150), 120, 8.0)
FAT = EdgeKind(-25, 15, (-140, -60), (10, 100), 15, 5.0)


@dataclass(frozen=True)
class Places:
    """Where noise and edges are read, chosen once: middles of flat squares, and points of edges with their normals."""

    flat: np.ndarray
    edges: dict[EdgeKind, tuple[np.ndarray, np.ndarray]]


def choose_places(smooth: Volume, count: int = 400) -> Places:
    """Choose flat squares and edges on the smooth kernel."""
    hu = smooth.voxels[0].astype(np.float64)
    pixel = smooth.grid.spacing_mm[0]
    calm = np.stack([ndimage.gaussian_filter(part, 1.5) for part in np.moveaxis(hu, 2, 0)], axis=2)
    tissue = (calm > 0) & (calm < 100)
    size = 2 * round(8 / pixel) + 1
    inside = ndimage.minimum_filter(tissue.astype(np.uint8), (size, size, 1)) > 0
    inside[:FLAT], inside[-FLAT:], inside[:, :FLAT], inside[:, -FLAT:] = False, False, False, False
    slopes = np.stack([ndimage.sobel(calm, axis) / 8 for axis in (0, 1)])
    roughness = ndimage.maximum_filter(np.hypot(*slopes), (FLAT, FLAT, 1))
    order = np.argsort(roughness[inside])[: 8 * count]
    flat = np.random.default_rng(0).permutation(np.argwhere(inside)[order])[:count]
    return Places(flat, {kind: _edges(kind, calm, slopes, pixel) for kind in (LUNG, FAT)})


def _edges(kind: EdgeKind, calm: np.ndarray, slopes: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Return points where the calm image crosses a border of this kind, and the direction of its gradient."""
    size = np.hypot(*slopes)
    reach = kind.reach_mm / pixel
    kept, normals = [], []
    for i, j, k in np.argwhere((np.abs(calm - kind.middle) < kind.near) & (size > kind.steepest_hu)):
        n = slopes[:, i, j, k] / size[i, j, k]
        ends = [np.rint(np.array([i, j]) + side * n * reach).astype(int) for side in (-1, -0.7, -0.4, 0.4, 0.7, 1)]
        if any(min(e) < 1 or e[0] > calm.shape[0] - 2 or e[1] > calm.shape[1] - 2 for e in ends):
            continue
        values = [calm[e[0], e[1], k] for e in ends]
        low, high = values[:3], values[3:]
        if (
            min(low) > kind.low[0] - 200
            and max(low) < kind.low[1]
            and min(high) > kind.high[0]
            and max(high) < kind.high[1]
        ):
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


def edge_width_mm(hu: np.ndarray, places: Places, kind: EdgeKind, pixel: float, group: int = 40) -> float:
    """Return the median 10-90 % width of averaged profiles across edges of one kind."""
    steps = np.arange(-kind.reach_mm, kind.reach_mm + 0.05, 0.1)
    points, normals = places.edges[kind]
    widths = []
    for start in range(0, len(points) - group + 1, group):
        at, along = points[start : start + group], normals[start : start + group]
        where = at[:, :2, None] + along[:, :, None] * (steps / pixel)
        k = np.broadcast_to(at[:, 2, None], where[:, 0].shape)
        profile = ndimage.map_coordinates(hu, [where[:, 0], where[:, 1], k], order=1, mode="nearest").mean(axis=0)
        low, high = np.median(profile[: len(steps) // 8]), np.median(profile[-(len(steps) // 8) :])
        shares = (profile - low) / (high - low)
        middle = int(np.argmin(np.abs(shares - 0.5)))
        before, after = np.flatnonzero(shares[:middle] <= 0.1), np.flatnonzero(shares[middle:] >= 0.9)
        if len(before) and len(after):
            b, a = before[-1], middle + after[0]
            first = steps[b] + 0.1 * (0.1 - shares[b]) / (shares[b + 1] - shares[b])
            last = steps[a] - 0.1 * (shares[a] - 0.9) / (shares[a] - shares[a - 1])
            widths.append(last - first)
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
    parser.add_argument(
        "--centre", type=int, nargs=3, help="middle of the part that is looked at; the scan's without it"
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 512), help="voxels of that part")
    parser.add_argument("--dry", action="store_true", help="print only; leave docs/benchmarks.md alone")
    given = parser.parse_args(arguments)
    sharp, smooth = scans.read(given.sharp), scans.read(given.smooth)
    centre = given.centre or [n // 2 for n in sharp.grid.shape]
    sharp, smooth = crop(sharp, centre, given.shape), crop(smooth, centre, given.shape)
    rows = compare(sharp, smooth, given.bundle)
    size = " x ".join(map(str, sharp.grid.shape))
    where = f" --centre {' '.join(map(str, centre))} --shape {' '.join(map(str, sharp.grid.shape))}"
    command = (
        f"python -m benchmarks.kernels --sharp {scans.stem(given.sharp)} --smooth {scans.stem(given.smooth)}{where}"
    )
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
    """Return the rows: both kernels, and each denoised as if its noise were white, and told its colour."""
    places, pixel = choose_places(smooth), sharp.grid.spacing_mm[0]
    hu = {"sharp kernel": sharp.voxels[0], "smooth kernel": smooth.voxels[0]}
    for name, scan in (("sharp", sharp), ("smooth", smooth)):
        hu[f"{name}, denoised as if white"] = denoise(scan, bundle, told=False)
        hu[f"**{name}, denoised, colour told**"] = denoise(scan, bundle, told=True)
    spectra = {"sharp kernel": estimate_spectrum(sharp), "smooth kernel": estimate_spectrum(smooth)}
    reference = flat_noise(smooth.voxels[0].astype(np.float64), places)[1]
    rows, first = [], (float("nan"),) * 3
    for name, image in hu.items():
        values = image.astype(np.float64)
        noise, means, _ = flat_noise(values, places)
        found = (noise, *(edge_width_mm(values, places, kind, pixel) for kind in places.edges))
        first = found if name == "sharp kernel" else first
        shift = means - reference
        bias = f"{shift.mean():+.2f} ± {shift.std() / len(shift) ** 0.5:.2f}, {np.sqrt(np.square(shift).mean()):.2f}"
        wider = [f"{100 * (a / b - 1):+.0f} %" for a, b in zip(found[1:], first[1:], strict=True)]
        spectrum = spectra[name] if name in spectra else left_over(values, places, sharp.grid.spacing_mm)
        rows.append(
            [name, f"{noise:.2f}", f"{first[0] / noise:.1f} times lower", f"{found[1]:.2f}", wider[0],
             f"{found[2]:.2f}", wider[1], bias, peak(spectrum)]
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
