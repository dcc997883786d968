"""The files of one input: NIfTI volumes with sidecars, a 3D Slicer scene, DICOM objects."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from medinterp.errors import InputError
from medinterp.export.drawn import Drawn
from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import make_overlay, no_clusters
from medinterp.export.run_record import explanation_record
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_pm import write_parametric_map
from medinterp.io.dicom_seg import write_segmentation
from medinterp.io.dicom_template import template_headers
from medinterp.io.nifti import write_nifti
from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.results import InputResult, Result
from medinterp.volume import Volume


def write_volumes(name: str, result: Result, drawn: Sequence[Drawn], folder: Path) -> dict[Volume, Path]:
    """Write the NIfTI volumes of one input with their sidecars; return which volume lies in which file.

    Args:
        name: of the input.
        result: what the run found.
        drawn: the maps on this input.
        folder: where to; made.
    """
    folder.mkdir(exist_ok=True)
    one = result.inputs[name]
    stem, suffix = stem_and_suffix(name, one.scan.modality)
    about = {"ResearchUseOnly": True, "Sigma": one.noise.sigma, "NoiseModel": one.noise.model, "Seed": result.seed}
    written: dict[Volume, Path] = {}
    for desc, volume, description, signed in _volumes(name, result):
        written[volume] = folder / bids_name(stem, desc=desc, suffix=suffix)
        write_nifti(volume, written[volume], description=description, sidecar=about, signed=signed)
    for d in drawn:
        sidecar = {**about, **explanation_record(d.explanation)["maps"][name], "Method": d.explanation.method}
        path = folder / bids_name(stem, desc=d.overlay.name.replace("-", ""), suffix="map")
        write_nifti(d.overlay.map, path, description=d.overlay.description, sidecar=sidecar, signed=True)
        written[d.overlay.map] = path
        for kind, volume in d.explanation.repeats.get(name, {}).items():
            desc = f"{d.overlay.name.replace('-', '')}repeat{kind}"
            path = folder / bids_name(stem, desc=desc, suffix="map")
            description = f"{kind} over repeated scans: {d.overlay.description}"
            write_nifti(volume, path, description=description, sidecar=about, signed=kind == "mean")
    return written


def _volumes(name: str, result: Result) -> Iterator[tuple[str, Volume, str, bool]]:
    """Yield short name, volume, description and whether it is signed."""
    one = result.inputs[name]
    yield "sigma", one.sigma, "noise standard deviation", False
    if one.denoised is not None and one.removed is not None:
        yield "denoised", one.denoised, "denoised image", False
        yield "removednoise", one.removed, "scan minus denoised image", True


def write_slicer_scene(
    name: str, one: InputResult, drawn: Sequence[Drawn], folder: Path, written: Mapping[Volume, Path]
) -> None:
    """Write the scene of one input as a folder and packed; volumes that lie in a NIfTI file already are copied.

    Args:
        name: of the input.
        one: what the run found on it.
        drawn: the maps on it.
        folder: where to.
        written: which volume lies in which file.
    """
    overlays = [d.overlay for d in drawn]
    if one.removed is not None:
        about = "scan minus denoised image"
        nothing = no_clusters(one.removed)
        overlays.append(
            make_overlay(one.shown, one.removed, name="removed-noise", description=about, signed=True, clusters=nothing)
        )
    write_scene(one.shown, overlays, folder / name, written=written)
    pack_mrb(folder / name, folder / f"{name}.mrb")


def write_dicom(name: str, one: InputResult, drawn: Sequence[Drawn], folder: Path) -> list[str]:
    """Write the DICOM objects of one input; a scan whose place in the patient is unknown gets none, and a note.

    Args:
        name: of the input.
        one: what the run found on it.
        drawn: the maps on it.
        folder: where to; made.

    Returns:
        What was not written and why, in words.
    """
    try:
        headers = template_headers(one.scan)
    except InputError as refusal:
        return [f"{name}: no DICOM was written: {refusal}"]
    folder.mkdir(exist_ok=True)
    if one.denoised is not None:
        write_dicom_series(
            one.denoised, one.scan, folder / f"{name}-denoised",
            description=f"{name} denoised", series_number=9001, headers=headers,
        )  # fmt: skip
    for number, d in enumerate(drawn):
        _write_map(name, one, d, folder, headers, first=9100 + 10 * number)
    return [f"{name}: the {d.overlay.name} map has no cluster, so there is no segmentation"
            for d in drawn if not d.clusters.segmentation.segments]  # fmt: skip


def _write_map(
    name: str, one: InputResult, drawn: Drawn, folder: Path, headers: Sequence[Dataset], *, first: int
) -> None:
    """Write one map as a series, a Parametric Map and its clusters as a Segmentation, numbered from ``first``."""
    stem, about = folder / f"{name}-{drawn.overlay.name}", drawn.overlay.description
    write_dicom_series(
        drawn.overlay.map, one.scan, stem, description=about, series_number=first, headers=headers, whole_hu=False
    )
    write_parametric_map(
        drawn.overlay.map, headers, stem.with_name(f"{stem.name}-pm.dcm"),
        quantity=drawn.explanation.method, description=about, series_number=first + 1,
    )  # fmt: skip
    if drawn.clusters.segmentation.segments:
        write_segmentation(
            drawn.clusters.segmentation, headers, stem.with_name(f"{stem.name}-clusters.dcm"),
            description=f"Clusters of {about}", series_number=first + 2,
        )  # fmt: skip
