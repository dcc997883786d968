"""The files of a fused image: NIfTI volumes with its own account beside them, transforms, a 3D Slicer scene, DICOM."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from medinterp.errors import InputError
from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import make_overlay, no_clusters
from medinterp.export.run_record import fusion_record
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_template import template_headers
from medinterp.io.nifti import write_nifti
from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.io.transform_files import write_transform
from medinterp.results import FusionResult, Result
from medinterp.volume import Volume

_SERIES = 9501


def write_fused_images(result: Result, fusion: FusionResult, folder: Path, exports: Collection[str]) -> None:
    """Write what is wanted of the fused image but DICOM below a study folder: volumes, its scene, and transforms."""
    written = _write_volumes(result, fusion, folder / "nifti") if "nifti" in exports else {}
    first = next(iter(result.inputs))
    for m, alignment in fusion.alignments.items():
        (folder / "transforms").mkdir(exist_ok=True)
        write_transform(alignment.registration.transform, folder / "transforms" / f"{m}_to-{_label(first)}.tfm")
    if "slicer" in exports:
        _write_scene(fusion, folder / "slicer", written)


def _write_volumes(result: Result, fusion: FusionResult, folder: Path) -> dict[Volume, Path]:
    folder.mkdir(exist_ok=True)
    account = fusion_record(fusion, next(iter(result.inputs)))
    about = {"ResearchUseOnly": True, "Seed": result.seed, "Fusion": account}
    written = {}
    for name, volume, description, signed in fusion_volumes(result, fusion):
        written[volume] = folder / name
        write_nifti(volume, written[volume], description=description, sidecar=about, signed=signed)
    return written


def fusion_volumes(result: Result, fusion: FusionResult) -> Iterator[tuple[str, Volume, str, bool]]:
    """Yield file name, volume, description and whether it is signed."""
    first = next(iter(result.inputs))
    stems = {m: stem_and_suffix(m, one.scan.modality) for m, one in result.inputs.items()}

    def named(m: str, desc: str) -> str:
        """Name a volume of one input that lies on the first one's grid."""
        stem, suffix = stems[m]
        return bids_name(stem, desc=desc, suffix=suffix, space=None if m == first else _label(first))

    yield named(first, "fused"), fusion.fused, "fused image", False
    for m, volume in fusion.on_own_grids.items():
        stem, suffix = stems[m]
        yield bids_name(stem, desc="fused", suffix=suffix), volume, f"fused image on the grid of {m}", False
        yield named(m, "denoised"), fusion.carried[m], f"denoised {m} on the grid of {first}", False
    for m in result.inputs:
        yield named(m, "contribution"), fusion.contributions[m], f"what {m} adds to the fused image", True
        yield named(m, "weight"), fusion.weights[m], f"share of {m} in the fusion's decision", False
    if fusion.ledger is not None:
        for m, credit in fusion.ledger.credits.items():
            yield named(m, "credit"), credit, f"exact Shapley share of {m} in the fused image", True
            change = fusion.ledger.sensitivity[m]
            yield named(m, "creditchange"), change, f"change of {m}'s share at one voxel of displacement", False
        for (a, b), pair in fusion.ledger.interactions.items():
            yield named(a, f"interaction{_label(b)}"), pair, f"what {a} and {b} reach only together", True


def _write_scene(fusion: FusionResult, folder: Path, written: Mapping[Volume, Path]) -> None:
    """Write a scene of the fused image with what each input decides in it."""
    overlays = []
    for m, weight in fusion.weights.items():
        overlays.append(
            make_overlay(fusion.fused, weight, name=f"weight-{m}", signed=False, clusters=no_clusters(weight),
                         description=f"share of {m} in the fusion's decision")
        )  # fmt: skip
    write_scene(fusion.fused, overlays, folder / "fused", written=written)
    pack_mrb(folder / "fused", folder / "fused.mrb")


def write_fused_dicom(result: Result, folder: Path) -> list[str]:
    """Write the fused image, if there is one, as a series in the first input's study.

    Returns:
        What was not written and why, in words.
    """
    if result.fusion is None:
        return []
    _, one = next(iter(result.inputs.items()))
    try:
        headers = template_headers(one.scan)
    except InputError as refusal:
        return [f"fused image: no DICOM was written: {refusal}"]
    folder.mkdir(exist_ok=True)
    names = " + ".join(result.inputs)
    write_dicom_series(
        result.fusion.fused,
        one.scan,
        folder / "fused",
        description=f"Fused {names}",
        series_number=_SERIES,
        headers=headers,
    )
    return []


def _label(name: str) -> str:
    """Return a name as a BIDS entity holds it: letters and digits."""
    return re.sub(r"[^A-Za-z0-9+]", "", name) or "first"
