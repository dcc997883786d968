"""The clusters of a study's maps for workstations without segmentations: outlines, and overlay planes."""

from pathlib import Path

from medinterp.errors import UnsupportedSeries
from medinterp.export.contents import StudyContents
from medinterp.export.dicom_files import DICOM
from medinterp.io.dicom_overlay_planes import write_overlay_planes
from medinterp.io.dicom_pr import write_presentation_state


def write_presentation_states(contents: StudyContents, folder: Path) -> list[str]:
    """Write one presentation state for every map that has clusters; what has no images of its own gets a note."""
    notes: list[str] = []
    for name, one, headers in contents.in_dicom(notes):
        for first, d in contents.numbered(name):
            if not d.clusters.segmentation.segments:
                notes.append(f"{name}: the {d.overlay.name} map has no cluster, so there is no presentation state")
                continue
            path = folder / DICOM / f"{name}-{d.overlay.name}-contours.dcm"
            try:
                write_presentation_state(
                    d.clusters.segmentation, one.scan, headers, path, description=f"Contours: {d.overlay.description}",
                    note=d.overlay.description, series_number=first + 4,
                )  # fmt: skip
            except UnsupportedSeries as refusal:
                notes.append(f"{name}: no presentation state was written: {refusal}")
                break
    return notes


def write_planes(contents: StudyContents, folder: Path) -> list[str]:
    """Write a copy of the scan for every map that has clusters, with the clusters in its overlay planes."""
    notes: list[str] = []
    for name, one, headers in contents.in_dicom(notes):
        for first, d in contents.numbered(name):
            if not d.clusters.segmentation.segments:
                notes.append(f"{name}: the {d.overlay.name} map has no cluster, so there are no overlay planes")
                continue
            write_overlay_planes(
                d.clusters.segmentation, one.scan, folder / DICOM / f"{name}-{d.overlay.name}-planes",
                description=f"Planes: {d.overlay.description}", series_number=first + 5, headers=headers,
            )  # fmt: skip
    return notes
