"""Writing surfaces as GIFTI (neuroimaging), mz3 (NiiVue, Surfice) and glb (web, AR)."""

import gzip
import importlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from medinterp.errors import InputError, PluginError
from medinterp.volume.surface import Surface

_MZ3_MAGIC, _MZ3_FACES_VERTICES_COLOURS = 0x5A4D, 1 | 2 | 4
_SRGB_KNEE = 0.04045


def write_gifti(surface: Surface, path: Path, *, description: str) -> Path:
    """Write one surface as GIFTI, vertices in the scanner's RAS mm.

    Source:
        GIFTI Surface Data Format, version 1.0.
    """
    from nibabel import gifti, nifti1

    scanner = nifti1.xform_codes["NIFTI_XFORM_SCANNER_ANAT"]
    points = gifti.GiftiDataArray(
        surface.vertices, "NIFTI_INTENT_POINTSET", "NIFTI_TYPE_FLOAT32",
        coordsys=gifti.GiftiCoordSystem(scanner, scanner), meta={"Name": surface.name, "GeometricType": "Anatomical"},
    )  # fmt: skip
    triangles = gifti.GiftiDataArray(surface.faces, "NIFTI_INTENT_TRIANGLE", "NIFTI_TYPE_INT32")
    about = gifti.GiftiMetaData({"Description": f"{description}; research use only"})
    image = gifti.GiftiImage(meta=about, darrays=[points, triangles])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image.to_bytes())
    return path


def write_mz3(surfaces: Sequence[Surface], path: Path) -> Path:
    """Write surfaces as one mesh in RAS mm, every vertex in its surface's colour; gzipped, as its readers expect.

    Raises:
        InputError: no surface.

    Source:
        https://github.com/neurolabusc/surf-ice/tree/master/mz3
    """
    _require_some(surfaces)
    first = np.cumsum([0, *(len(s.vertices) for s in surfaces)])
    faces = np.concatenate([s.faces + start for s, start in zip(surfaces, first[:-1], strict=True)])
    vertices = np.concatenate([s.vertices for s in surfaces])
    colours = np.concatenate([np.tile(_bytes(s.colour), (len(s.vertices), 1)) for s in surfaces])
    header = struct.pack("<HHIII", _MZ3_MAGIC, _MZ3_FACES_VERTICES_COLOURS, len(faces), len(vertices), 0)
    body = faces.astype("<i4").tobytes() + vertices.astype("<f4").tobytes() + colours.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + body, mtime=0))
    return path


def write_glb(surfaces: Sequence[Surface], path: Path, *, description: str) -> Path:
    """Write surfaces as one binary glTF 2.0, a named and coloured node each, in metres with Y up.

    Right of the patient is +x, superior +y, anterior -z, so that the head stands upright and looks away from a viewer
    on the z axis. Surfaces that are not opaque are blended.

    Raises:
        InputError: no surface.
        PluginError: trimesh is not installed.

    Source:
        glTF 2.0 specification, section 3.4 (coordinate system and units).
    """
    _require_some(surfaces)
    trimesh = _trimesh()
    scene = trimesh.Scene(metadata={"description": f"{description}; research use only"})
    for surface in surfaces:
        look = trimesh.visual.TextureVisuals(material=_material(trimesh, surface))
        mesh = trimesh.Trimesh(_metres(surface), surface.faces, visual=look, process=False)
        mesh.vertex_normals  # noqa: B018 - computed here, so that they are exported
        scene.add_geometry(mesh, node_name=surface.name, geom_name=surface.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(scene.export(file_type="glb", include_normals=True))
    return path


def _require_some(surfaces: Sequence[Surface]) -> None:
    if not surfaces:
        raise InputError("no surface to write: expected one or more")


def _metres(surface: Surface) -> Float64[np.ndarray, "n 3"]:
    """Return the vertices as glTF wants them: RAS mm (x, y, z) becomes (x, z, -y) in metres, a rotation."""
    x, y, z = surface.vertices.astype(np.float64).T
    return np.stack([x, z, -y], axis=1) * 1e-3


def _material(trimesh: Any, surface: Surface) -> Any:
    """Return a matt material of the surface's colour; glTF's factors are linear, the colours of our tables sRGB."""
    srgb = np.array(surface.colour[:3])
    linear = np.where(srgb <= _SRGB_KNEE, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return trimesh.visual.material.PBRMaterial(
        name=surface.name, baseColorFactor=_bytes((*linear.tolist(), surface.colour[3])), metallicFactor=0.0,
        roughnessFactor=0.8, alphaMode="OPAQUE" if surface.colour[3] == 1 else "BLEND",
    )  # fmt: skip


def _bytes(colour: Sequence[float]) -> Any:
    return np.rint(255 * np.array(colour)).astype(np.uint8)


def _trimesh() -> Any:
    try:
        return importlib.import_module("trimesh")
    except ImportError as error:
        raise PluginError(
            "glb files need trimesh, which is not installed; run: pip install 'medinterp[meshes]'"
        ) from error
