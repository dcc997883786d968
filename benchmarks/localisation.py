"""``python -m benchmarks.localisation``: do maps lie where the number is made? The planted lesion of sample_data.

Mass is the share of a map's magnitude that lies in the causal region. Behind a network of known reach that region is
known exactly: the lesion, and the voxels the network can look at from there. Behind the shipped prior it is found by
intervention, without a gradient: the number's surroundings beyond which other noise hardly moves it.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from benchmarks.report import table, versions, write_section
from medinterp import io
from medinterp.assessment.faithfulness import edge_magnitude
from medinterp.assessment.localisation import Localisation, localisation
from medinterp.attribution.crop import CropOptions, explain_region
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.demo import sample_folder
from medinterp.errors import MethodNotValid
from medinterp.explaining import require_map_in_place
from medinterp.explanation import Case, Kept
from medinterp.noise.masked import silent_where_masked
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline, sigma_tensor
from medinterp.preparation import build_explanations
from medinterp.registry import names
from medinterp.volume import Volume

BUNDLES = {"t1": "mri_denoise", "t2": "mri_denoise", "ct": "ct_denoise"}
HALO = 16
"""Voxels of context of gradient methods: all but 1e-4 of the gradient of a region's mean lies within."""
REACH = 2
"""Voxels around an output voxel that the network of known reach looks at."""
SHELLS_MM = (5.0, 17.0)
"""Outer edges, from the causal region, of the shells that methods over regions divide the rest into."""
OPTIONS = {"occlusion": "window_mm=5", "lime": "samples=256"}
METHODS = tuple(f"{m}:{OPTIONS[m]}" if m in OPTIONS else m for m in names("attributors"))
NETWORKS = ("known", "prior")
REDRAWN, MOVES = 16, 0.01
"""Times that the noise is exchanged, and how much exchanging it outside the cause may move the number, as a share of
what exchanging all of it does, root mean square."""
STEP_MM, FARTHEST_MM = 1.0, 24.0
"""Distances from the measured voxels at which the cause may end."""
GOOD, CHANCE = 0.8, 0.3
"""Mass that a map's must reach, and that of the controls must not."""


class TwoConvolutions(nn.Module):
    """Random weights without bias, a ReLU between: its reach is known, whatever it does with what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rectify = nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.ReLU()
        self.second = nn.Conv3d(8, 1, 3, padding=1, bias=False)
        generator = torch.Generator().manual_seed(0)
        for weights in self.parameters():
            weights.data = torch.randn(weights.shape, generator=generator) / weights[0].numel() ** 0.5
        self.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return what it makes of a scan; the noise level is not used."""
        made: Tensor = self.second(self.rectify(self.first(x)))
        return made


class KnownReach:
    """The network above as a denoiser."""

    def __init__(self) -> None:
        self.network = TwoConvolutions()

    def __call__(self, x: Tensor, sigma: Tensor, *, cond: Tensor | None = None) -> Tensor:
        """Return the network's image."""
        image: Tensor = self.network(x, sigma)
        return image


@dataclass(frozen=True, eq=False)
class Question:
    """A number, its explanation by every method, and the voxels (I, J, K) that make it."""

    title: str
    cases: Mapping[str, Case]
    cause: Tensor


@dataclass(frozen=True, eq=False)
class Planted:
    """One scan of the synthetic head, the file of its lesion, and what ``truth.json`` compares it with."""

    name: str
    scan: Volume
    clean: Volume
    lesion: Path
    gap_mm: float
    width_mm: float
    folder: Path

    @classmethod
    def read(cls, name: str, folder: Path) -> "Planted":
        """Read a scan of sample_data and its truth; atlases go to the folder."""
        head = sample_folder()
        ring = json.loads((head / "truth.json").read_text(encoding="utf-8"))["ring"]
        lesion = head / "truth" / f"{name}_lesion.nii.gz"
        scan, clean = io.read(head / f"{name}.nii.gz"), io.read(head / "truth" / f"{name}_truth.nii.gz")
        return cls(name, scan, clean, lesion, ring["gap_mm"], ring["width_mm"], folder)

    def questions(self, behind: Sequence[str]) -> list[Question]:
        """Return the lesion's mean behind the network of known reach; its mean and contrast behind the prior."""
        pipeline = load_pipeline(find_bundle(BUNDLES[self.name]))
        inside = io.read(self.lesion).voxels[0] > 0
        found = []
        if "known" in behind:
            near = ndimage.binary_dilation(inside, np.ones((3, 3, 3)), iterations=REACH)
            known = {m: replace(case, denoiser=KnownReach()) for m, case in self._cases(pipeline, "mean", near).items()}
            found.append(Question("known reach, mean", known, torch.from_numpy(near)))
        if "prior" in behind:
            contrast = f"contrast:gap_mm={self.gap_mm},width_mm={self.width_mm}"
            for word, measure in (("mean", "mean"), ("contrast", contrast)):
                cause = self._moving(next(iter(self._cases(pipeline, measure, inside).values())))
                title = f"prior, {word}"
                found.append(Question(title, self._cases(pipeline, measure, cause), torch.from_numpy(cause)))
        return found

    def _cases(self, pipeline: Pipeline, measure: str, cause: np.ndarray) -> dict[str, Case]:
        """Return the explanation by every method, as the command line makes it."""
        options = RunOptions(
            targets=(str(self.lesion),), methods=METHODS, measure=measure, supervoxels=str(self._atlas(cause))
        )
        noise = silent_where_masked(pipeline.estimator(self.scan), self.scan)
        image = torch.from_numpy(self.scan.voxels.copy())[None]
        sigma, told = sigma_tensor(noise, image), pipeline.told(noise)
        made = (told.case(self.name, self.scan, one, seed=0, whole=False)[0] for one in build_explanations(options))
        return {m: replace(case, image=image, sigma=sigma) for m, case in zip(METHODS, made, strict=True)}

    def _moving(self, case: Case) -> np.ndarray:
        """Return the voxels up to the distance from the lesion beyond which other noise hardly moves the number.

        Other noise is the scan's own, moved elsewhere, so that it is as correlated.
        """
        distance = self._distance_mm(io.read(self.lesion).voxels[0] > 0)
        generator = np.random.default_rng(0)
        noise = self.scan.voxels[0] - self.clean.voxels[0]
        others = [
            self.clean.voxels[0] + np.roll(noise, generator.integers(8, 40, size=3), axis=(0, 1, 2))
            for _ in range(REDRAWN)
        ]
        number = partial(self._number, case)
        before, cause = number(self.scan.voxels[0]), np.ones(self.scan.grid.shape, dtype=bool)
        limit = MOVES**2 * sum((number(other) - before) ** 2 for other in others)
        for reach in np.arange(FARTHEST_MM, 0, -STEP_MM):
            kept = distance <= reach
            moved = sum((number(np.where(kept, self.scan.voxels[0], other)) - before) ** 2 for other in others)
            if moved > limit:
                break
            cause = kept
        print(f"{self.name} {case.measure.name}: the cause ends at {reach + STEP_MM:.0f} mm", flush=True)
        return cause

    def _number(self, case: Case, voxels: np.ndarray) -> float:
        """Return what is measured of a scan with other voxels, on the crop that gradient methods are given."""
        box = case.crop(HALO)
        image = torch.from_numpy(voxels[box.slices].copy())[None, None]
        sigma = case.sigma if max(case.sigma.shape[2:]) == 1 else case.sigma[(..., *box.slices)]
        with torch.no_grad():  # an intervention, not a gradient
            made = case.forward(case.denoiser)({case.name: image}, {case.name: sigma})
        return float(case.target.crop(box)(made)[0])

    def _atlas(self, cause: np.ndarray) -> Path:
        """Write the regions that can be told apart by what is known: lesion, rest of the cause, shells beyond."""
        inside = io.read(self.lesion).voxels[0] > 0
        labels = np.where(cause, 2, 3 + np.searchsorted(SHELLS_MM, self._distance_mm(cause)))
        labels[inside] = 1
        path = self.folder / f"{self.name}-{int(cause.sum())}.nii"
        image = nibabel.Nifti1Image(labels.astype(np.int16), self.scan.grid.affine)
        image.set_sform(self.scan.grid.affine, code=1)
        image.to_filename(path)
        return path

    def _distance_mm(self, region: np.ndarray) -> np.ndarray:
        return ndimage.distance_transform_edt(~region, sampling=self.scan.grid.spacing_mm)


def explain(case: Case) -> Tensor | None:
    """Return a case's map, channels by voxels of the whole scan; None where it is refused."""
    usual = case.usual_halo()
    halo = HALO if usual is None else usual  # wider than what a network of known reach looks at
    found = explain_region(
        case.attributor, case.forward(case.denoiser), {case.name: case.image}, {case.name: case.sigma}, case.target,
        radius=None, halo=halo, options=CropOptions(stride=case.stride, measure_halo=False),
    )  # fmt: skip
    try:
        require_map_in_place(case, found, halo, Kept())
    except MethodNotValid:
        return None
    return found.maps[case.name][0]


def controls(case: Case) -> dict[str, Tensor]:
    """Return maps that know nothing of the model, on the crop that gradient methods are given."""
    box, near = case.around(HALO)
    noise = torch.randn(box.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, image in (("control: random", noise), ("control: edges of the scan", edge_magnitude(near.image))):
        found[name] = torch.zeros_like(case.image[0])
        found[name][(..., *box.slices)] = image
    return found


def places(name: str, folder: Path, behind: Sequence[str]) -> dict[str, dict[str, Localisation | None]]:
    """Return where the maps of every method, and the controls, lie on one scan: by question, then by method."""
    found: dict[str, dict[str, Localisation | None]] = {}
    for question in Planted.read(name, folder).questions(behind):
        one = found[f"{name}: {question.title}"] = {}
        maps = ((method, explain(case)) for method, case in question.cases.items())
        for method, image in chain(maps, controls(next(iter(question.cases.values()))).items()):
            one[method] = None if image is None else localisation(image, question.cause)
            print(name, question.title, method, _mass(one[method]), flush=True)
    return found


def _mass(where: Localisation | None) -> str:
    return "refused" if where is None else f"{where.mass:.2f}"


def rows(found: Mapping[str, Mapping[str, Localisation | None]]) -> list[list[str]]:
    """Return one row a method: its mass for each question, in bold where it is not what it must be."""
    lines = []
    for method in next(iter(found.values())):
        control, masses = method.startswith("control"), [one[method] for one in found.values()]
        right = [m is None or (m.mass < CHANCE if control else m.mass >= GOOD) for m in masses]
        lines.append([method, *(_mass(m) if ok else f"**{_mass(m)}**" for m, ok in zip(masses, right, strict=True))])
    chance = [next(filter(None, one.values())).by_chance for one in found.values()]
    return [*lines, ["share of the scan's voxels", *(f"{share:.4f}" for share in chance)]]


def main(arguments: Sequence[str] = ()) -> None:
    """Explain the planted lesion by every method and write the table."""
    parser = argparse.ArgumentParser(description="Where do maps lie, against a planted truth?")
    parser.add_argument("--scans", nargs="+", default=list(BUNDLES), choices=list(BUNDLES))
    parser.add_argument("--behind", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    chosen = parser.parse_args(arguments)
    asked = "" if chosen.scans == list(BUNDLES) else f" --scans {' '.join(chosen.scans)}"
    asked += "" if chosen.behind == list(NETWORKS) else f" --behind {' '.join(chosen.behind)}"
    with tempfile.TemporaryDirectory() as folder:
        found = {t: one for name in chosen.scans for t, one in places(name, Path(folder), chosen.behind).items()}
    text = "\n".join(
        [
            "## Localisation: the planted lesion of sample_data",
            "",
            f"`python -m benchmarks.localisation{asked}`",
            "",
            "Share of each map's magnitude (its mass) in the causal region. *Known reach*: mean of the lesion behind "
            f"two random convolutions with a ReLU between, which can look {REACH} voxels around it and nowhere else. "
            "*Prior*: mean of the lesion, and its contrast to the ring 2 to 7 mm around it, on the denoised scan; the "
            "region goes so far from the lesion that exchanging the noise beyond moves the number by at most "
            f"{MOVES:.0%} of what exchanging all of it does ({REDRAWN} draws, root mean square; no gradient is used). "
            f"Expected: at least {GOOD}; of the controls, which know nothing of the model and are taken on the crop "
            f"of {HALO} voxels around the region that gradient methods are given, less than {CHANCE}; bold where it "
            "is not. Methods over regions divide lesion, rest of the causal region, and shells beyond.",
            "",
            table(["method", *found], rows(found)),
            "",
            versions("medinterp", "torch", "captum"),
        ]
    )
    write_section("localisation", text)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
