"""The DICOM objects of a study: derived series, Parametric Maps and Segmentations in the scans' own patient space."""

from pathlib import Path

from medinterp.errors import InputError
from medinterp.export.contents import StudyContents
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_pm import write_parametric_map
from medinterp.io.dicom_seg import write_segmentation

DICOM = "dicom"
_DENOISED, _FUSED = 9001, 9501


def write_series(contents: StudyContents, folder: Path) -> list[str]:
    """Write denoised images, maps and the fused image as series of single images, for any reader."""
    notes: list[str] = []
    place = folder / DICOM
    for name, one, headers in contents.in_dicom(notes):
        if one.denoised is not None:
            write_dicom_series(
                one.denoised, one.scan, place / f"{name}-denoised",
                description=f"{name} denoised", series_number=_DENOISED, headers=headers,
            )  # fmt: skip
        for first, d in contents.numbered(name):
            write_dicom_series(
                d.overlay.map, one.scan, place / f"{name}-{d.overlay.name}",
                description=d.overlay.description, series_number=first, headers=headers, whole_hu=False,
            )  # fmt: skip
    return notes + _write_fused(contents, place)


def _write_fused(contents: StudyContents, place: Path) -> list[str]:
    """Write the fused image, if there is one, into the first input's study."""
    fusion = contents.result.fusion
    if fusion is None:
        return []
    name, one = next(iter(contents.result.inputs.items()))
    try:
        headers = contents.headers(name)
    except InputError as refusal:
        return [f"fused image: no DICOM was written: {refusal}"]
    description = f"Fused {' + '.join(contents.result.inputs)}"
    write_dicom_series(
        fusion.fused, one.scan, place / "fused", description=description, series_number=_FUSED, headers=headers
    )
    return []


def write_parametric_maps(contents: StudyContents, folder: Path) -> list[str]:
    """Write every map with its exact values as a float32 Parametric Map."""
    notes: list[str] = []
    for name, _, headers in contents.in_dicom(notes):
        for first, d in contents.numbered(name):
            write_parametric_map(
                d.overlay.map, headers, folder / DICOM / f"{name}-{d.overlay.name}-pm.dcm",
                quantity=d.explanation.method, description=d.overlay.description, series_number=first + 1,
            )  # fmt: skip
    return notes


def write_segmentations(contents: StudyContents, folder: Path) -> list[str]:
    """Write the clusters of every map as a binary Segmentation; a map without a cluster gets a note."""
    notes: list[str] = []
    for name, _, headers in contents.in_dicom(notes):
        for first, d in contents.numbered(name):
            if not d.clusters.segmentation.segments:
                notes.append(f"{name}: the {d.overlay.name} map has no cluster, so there is no segmentation")
                continue
            write_segmentation(
                d.clusters.segmentation, headers, folder / DICOM / f"{name}-{d.overlay.name}-clusters.dcm",
                description=f"Clusters of {d.overlay.description}", series_number=first + 2,
            )  # fmt: skip
    return notes
