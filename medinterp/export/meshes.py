"""The target and the clusters of every map as surfaces: GIFTI for neuroimaging, mz3 for NiiVue, glb for the web."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from medinterp.export.contents import StudyContents
from medinterp.export.drawn import Drawn
from medinterp.io.colours import sign_colour
from medinterp.io.mesh_files import write_gifti, write_glb, write_mz3
from medinterp.volume.surface import Surface, enclose

if find_spec("skimage") is None or find_spec("trimesh") is None:  # said when the writer is loaded, before the work
    raise ImportError("meshes need scikit-image and trimesh; run: pip install 'medinterp[meshes]'")

MESHES = "meshes"
_TARGET_COLOUR = (0.95, 0.95, 0.95, 0.35)  # lets the clusters inside it be seen


def write_meshes(contents: StudyContents, folder: Path) -> list[str]:
    """Write target and clusters of every map: all in one glb and one mz3, and one GIFTI each; a note if no cluster."""
    notes: list[str] = []
    for d in contents.drawn:
        surfaces, place = list(_surfaces(d)), folder / MESHES
        stem, about = f"{d.input_name}-{d.overlay.name}", d.overlay.description
        if not d.clusters.segmentation.segments:
            notes.append(
                f"{d.input_name}: the {d.overlay.name} map has no cluster, so its meshes show the target alone"
            )
        write_glb(surfaces, place / f"{stem}.glb", description=about)
        write_mz3(surfaces, place / f"{stem}.mz3")
        for surface in surfaces:
            part = surface.name.replace(" ", "-")
            write_gifti(surface, place / stem / f"{part}.surf.gii", description=f"{surface.name}: {about}")
    return notes


def _surfaces(d: Drawn) -> Iterator[Surface]:
    """Yield the target, then the clusters in the colours of their signs."""
    region, clusters = d.explanation.region, d.clusters.segmentation
    yield enclose(region.mask, region.grid, "target", _TARGET_COLOUR)
    for segment in clusters.segments:
        colour = (*sign_colour(segment.sign), 1.0)
        yield enclose(clusters.labels == segment.label, clusters.grid, segment.name, colour)
