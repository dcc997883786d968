"""``python -m benchmarks.attribution``: completeness, evaluations, memory and time, beside Captum called directly."""

import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from captum import attr
from torch import Tensor

from benchmarks import scans
from benchmarks.isolated import Run, measure
from benchmarks.report import table, versions, write_section
from medinterp.attribution import (
    Blurred,
    EquivalentFilter,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Ray,
    RegionMean,
    Saliency,
    SmoothGrad,
)
from medinterp.attribution.crop import CropOptions, explain_region
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.denoisers.base import evaluate
from medinterp.explanation import OneInput
from medinterp.noise.masked import silent_where_masked
from medinterp.pipeline import Pipeline, sigma_tensor
from medinterp.volume import Volume

REAL = ("adult_T1w_brain", "colin27_T1w", "stroke_T1", "stroke_T2")
SAMPLES = Path(__file__).parents[1] / "sample_data" / "head"
TARGETS = 10
CAPTUM_STEPS = 50
HALO = 8
LARGE = (256, 256, 256)
NEAR = 32
"""Voxels of surroundings beyond which the map does not change by more than float32 rounding."""
EDGE = 96
METHODS = (
    "saliency", "equivalent_filter", "input_x_gradient", "integrated_gradients", "smoothgrad", "gradient_shap"
)  # fmt: skip


def cases() -> list[tuple[str, Volume]]:
    """Return four scans: kept-back real ones, or the synthetic head's three and a clean one without them."""
    found = [(scans.stem(path), scans.read(path)) for path in scans.named_scans(REAL)]
    if len(found) == len(REAL):
        return found
    named = [(f"sample {name}", scans.read(SAMPLES / f"{name}.nii.gz")) for name in ("t1", "t2", "ct")]
    return [*named, (scans.SYNTHETIC.name, scans.with_rician(scans.read(scans.SYNTHETIC), 20.0, seed=0))]


def random_target(volume: Volume, generator: np.random.Generator) -> RegionMean:
    """Return the mean of a box of 2 to 6 voxels an edge, its centre in the head."""
    inside = np.argwhere(scans.body_mask(volume))
    centre = inside[generator.integers(len(inside))]
    mask = np.zeros(volume.grid.shape, dtype=bool)
    edges = generator.integers(2, 7, size=3)
    mask[tuple(slice(max(0, c - e // 2), c - e // 2 + e) for c, e in zip(centre, edges, strict=True))] = True
    return RegionMean(torch.from_numpy(mask), "box")


def tensors(pipeline: Pipeline, volume: Volume) -> tuple[Tensor, Tensor]:
    """Return a scan and its estimated noise level as a denoiser wants them."""
    image = torch.from_numpy(volume.voxels.copy())[None]
    return image, sigma_tensor(silent_where_masked(pipeline.estimator(volume), volume), image)


def completeness() -> list[list[str]]:
    """Return one row per scan: ours and Captum's residuals over its targets, and ours along the ray."""
    pipeline, rows, worst = bundle(), [], []
    for name, volume in cases():
        image, sigma = tensors(pipeline, volume)
        generator = np.random.default_rng(0)
        left, theirs, ray, evaluations = [], [], [], []
        for _ in range(TARGETS):
            target = random_target(volume, generator)

            residual, count = explain(IntegratedGradients(Blurred()), image, sigma, target)
            left.append(residual)
            evaluations.append(count)
            theirs.append(explain(IntegratedGradients(Blurred(), steps=CAPTUM_STEPS), image, sigma, target)[0])
            ray.append(explain(IntegratedGradients(Ray(), steps=1), image, sigma, target)[0])
        worst += left
        rows.append([name, _within(left), f"{max(left):.2%}", f"{np.mean(evaluations):.1f}", _within(theirs),
                     f"{max(theirs):.2%}", f"{max(ray):.0e}"])  # fmt: skip
        print(rows[-1], flush=True)
    return [*rows, ["all", _within(worst), f"{max(worst):.2%}", "", "", "", ""]]


def explain(method: IntegratedGradients, image: Tensor, sigma: Tensor, target: RegionMean) -> tuple[float, int]:
    """Return residual and evaluations of one explanation."""
    found = explain_region(
        method, forward(), {"scan": image}, {"scan": sigma}, target,
        radius=bundle().radius, halo=HALO, options=CropOptions(measure_halo=False),
    )  # fmt: skip
    return found.residual, found.evaluations


def _within(residuals: list[float]) -> str:
    return f"{sum(r <= 0.01 for r in residuals)} of {len(residuals)}"


@cache
def bundle() -> Pipeline:
    """Load the shipped bundle once in this process."""
    return load_pipeline(find_bundle("mri_denoise"))


def forward() -> OneInput:
    """Return the bundle's path of one scan, as the command line explains it."""
    return OneInput("scan", bundle().denoiser, evaluate, single=True)


def _box(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, RegionMean]:
    generator = torch.Generator().manual_seed(0)
    image = 100 + 20 * torch.randn(1, 1, *shape, generator=generator)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(size // 2 - 2, size // 2 + 2) for size in shape)] = True
    return image, torch.full((1, 1, 1, 1, 1), 20.0), RegionMean(mask, "box")


def captum_path(edge: int) -> np.ndarray:
    """Integrated gradients as a reader of Captum's page would write them: 50 points, all at once."""
    image, sigma, target = _box((edge, edge, edge))
    start = Blurred()(forward(), {"scan": image}, {"scan": sigma})[0]["scan"]
    method = attr.IntegratedGradients(lambda x: target(bundle().denoiser(x, sigma)))
    return method.attribute(image, start, n_steps=CAPTUM_STEPS).detach().numpy()


def ours(name: str, edge: int) -> np.ndarray:
    """Return the map of a gradient method with its defaults, of the whole cube."""
    image, sigma, target = _box((edge, edge, edge))
    method = {
        "saliency": Saliency,
        "equivalent_filter": EquivalentFilter,
        "input_x_gradient": InputXGradient,
        "integrated_gradients": IntegratedGradients,
        "smoothgrad": SmoothGrad,
        "gradient_shap": GradientShap,
    }[name]()
    return method(forward(), {"scan": image}, {"scan": sigma}, target).maps["scan"].numpy()


def ready() -> None:
    """Load all that an explanation needs, and explain once, so that only what a map takes is counted after it."""
    ours("saliency", 32)


def captum_whole(edge: int) -> np.ndarray:
    """Gradient x input of a small region on a large scan, by Captum on the whole scan."""
    image, sigma, target = _box((edge, edge, edge))
    return (
        attr.InputXGradient(lambda x: target(bundle().denoiser(x, sigma)))
        .attribute(image.requires_grad_())
        .detach()
        .numpy()
    )


def our_crop(edge: int, halo: int | None) -> np.ndarray:
    """The same by the exact crop, or by one with a smaller halo, whose error is not measured here."""
    image, sigma, target = _box((edge, edge, edge))
    found = explain_region(
        InputXGradient(), forward(), {"scan": image}, {"scan": sigma}, target, radius=bundle().radius, halo=halo,
        options=CropOptions(measure_halo=False),
    )  # fmt: skip
    return found.maps["scan"].numpy()


def memory() -> list[list[str]]:
    """Return time and memory of our gradient methods, each in a process of its own."""
    rows: list[list[str]] = []
    one = measure(ours, METHODS[0], EDGE, threads=2, repeats=1, prepare=ready)
    for name in METHODS:
        run = measure(ours, name, EDGE, threads=2, repeats=1, prepare=ready)
        rows.append([name, f"{run.seconds:.1f}", f"{run.added_gb:.2f}", f"{run.added_gb / one.added_gb:.2f}"])
        print(rows[-1], flush=True)
    return rows


def costs() -> list[list[str]]:
    """Return time and memory of ours and of Captum as it is, each in a process of its own."""
    rows: list[list[str]] = []

    def row(what: str, run: Run) -> None:
        rows.append([what, f"{run.seconds:.1f}", f"{run.added_gb:.2f}"])
        print(rows[-1], flush=True)

    def run(function: Callable[..., np.ndarray], *arguments: object, repeats: int = 1) -> Run:
        return measure(function, *arguments, threads=2, repeats=repeats, prepare=ready)

    row("one saliency, 64³", run(ours, "saliency", 64, repeats=3))
    row(f"integrated gradients, 64³, Captum with {CAPTUM_STEPS} points", run(captum_path, 64))
    row("integrated gradients, 64³, medinterp", run(ours, "integrated_gradients", 64))
    large = LARGE[0]
    whole = run(captum_whole, large)
    row(f"one region on {large}³, Captum on the whole scan", whole)
    for halo, what in ((None, "exact crop"), (NEAR, f"crop with {NEAR} voxels around it")):
        crop = run(our_crop, large, halo, repeats=3)
        row(f"one region on {large}³, medinterp's {what}", crop)
        difference = np.abs(whole.result - crop.result).max() / np.abs(whole.result).max()
        rows.append(["its largest difference to Captum's map, relative", f"{difference:.0e}", ""])
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Write both tables."""
    begun = time.perf_counter()
    text = "\n".join(
        [
            "## Integrated gradients and the exact crop",
            "",
            "`python -m benchmarks.attribution`",
            "",
            f"{TARGETS} random boxes of 2 to 6 voxels an edge in each scan, with {HALO} voxels around them, from a "
            "blurred baseline. Residual: what the parts leave unexplained of the change from the baseline. *Ray*: "
            "one evaluation on the way from zero.",
            "",
            table(["scan", "within 1 %", "worst", "evaluations", f"Captum, {CAPTUM_STEPS} points", "worst",
                   "ray, worst"], completeness()),
            "",
            f"Gradient methods on the whole of {EDGE}³ voxels, each in a process of its own; memory that it takes "
            "beyond the loaded process.",
            "",
            table(["method", "s", "GB", "of one saliency"], memory()),
            "",
            "The same, beside Captum.",
            "",
            table(["what", "s", "GB"], costs()),
            "",
            versions("torch", "captum"),
        ]
    )  # fmt: skip
    write_section("attribution", text)
    print(f"{time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
