"""Writing NRRD: volumes as .nrrd, several on one grid as .seq.nrrd, labelled clusters as .seg.nrrd (3D Slicer)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from medinterp.errors import InputError
from medinterp.io.colours import sign_colour
from medinterp.io.deflate import gzipped
from medinterp.volume import Grid, Segment, Segmentation, Volume

_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])  # NRRD states positions in LPS, as most readers expect


def write_nrrd(volume: Volume, path: Path, *, description: str, about: Mapping[str, Any] | None = None) -> Path:
    """Write one channel as float32 NRRD: positions in LPS mm with every digit, the unit as the format's sample unit.

    The same volume gives the same bytes. NRRD holds directions of any angle, so a sheared grid is kept as it is; ITK
    refuses such a file, 3D Slicer shows it in place.

    Args:
        volume: one channel.
        path: file to write, its name ending in .nrrd.
        description: what the values are; the format's "content".
        about: what else there is to say, kept as key and JSON value.

    Returns:
        The path.

    Raises:
        InputError: several channels.
    """
    _require_one_channel(volume)
    header = [
        "NRRD0005",
        "type: float",
        "dimension: 3",
        *_space(volume.grid),
        *_words(volume, description, about or {}),
    ]
    return _save(header, volume.voxels[0].astype("<f4", copy=False), path)


def write_seq_nrrd(volumes: Mapping[str, Volume], path: Path, *, description: str, index: str) -> Path:
    """Write volumes of one grid and one unit as a sequence of 3D Slicer, which steps through them by name.

    Args:
        volumes: one channel each, by the name of the step, in order; spaces in names become "-".
        path: file to write, its name ending in .seq.nrrd.
        description: what the values are.
        index: what the names count or tell apart, such as "step".

    Returns:
        The path.

    Raises:
        InputError: there is none, several channels, or several units.
        GridMismatch: they lie on different grids.
    """
    if not volumes:
        raise InputError("a sequence of no volume; give one or more")
    first = next(iter(volumes.values()))
    for name, volume in volumes.items():
        _require_one_channel(volume)
        first.require_same_grid(volume, f"the step '{name}'")
        if volume.unit != first.unit:
            raise InputError(
                f"the step '{name}' is in {volume.unit}, the first in {first.unit}; write one sequence each"
            )
    header = ["NRRD0005", "type: float", "dimension: 4", *_space(first.grid, steps=len(volumes))]
    header += [f'labels: "{index}" "" "" ""', *_words(first, description, {})]
    names = [name.replace(" ", "-") for name in volumes]  # Slicer splits the list at spaces
    kind = "numeric" if all(_is_number(name) for name in names) else "text"
    header += [f"axis 0 index type:={kind}", f"axis 0 index values:={' '.join(names)}"]
    header += ["DataNodeClassName:=vtkMRMLScalarVolumeNode"]
    return _save(header, np.stack([v.voxels[0] for v in volumes.values()]).astype("<f4", copy=False), path)


def _require_one_channel(volume: Volume) -> None:
    if volume.voxels.shape[0] != 1:
        raise InputError(f"{volume.voxels.shape[0]} channels: a NRRD volume holds one; write them one by one")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _words(volume: Volume, description: str, about: Mapping[str, Any]) -> list[str]:
    """Return the header lines that say what the values are; key and value pairs come last."""
    said = {"Modality": volume.modality, **about}
    return [
        f"content: {_one_line(description)}", f'sample units: "{volume.unit}"', "encoding: gzip", "endian: little",
        *(f"{key}:={_one_line(text if isinstance(text, str) else json.dumps(text))}" for key, text in said.items()),
    ]  # fmt: skip


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _save(header: list[str], values: NDArray[Any], path: Path) -> Path:
    """Write header and values, first axis fastest, compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(header) + "\n\n").encode() + gzipped(values.tobytes(order="F")))
    return path


def write_seg_nrrd(segmentation: Segmentation, path: Path) -> Path:
    """Write clusters as one label map with a name and a colour each, red for positive and blue for negative.

    The bytes depend on the clusters alone: no time stamp goes in.

    Args:
        segmentation: clusters on their grid; none at all gives an empty segmentation.
        path: file to write, its name ending in .seg.nrrd.

    Returns:
        The path.
    """
    header = ["NRRD0004", "type: int16", "dimension: 3", *_space(segmentation.grid)]
    header += ["encoding: gzip", "endian: little"]
    header += [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
    ]
    header += ["Segmentation_ReferenceImageExtentOffset:=0 0 0"]
    for number, segment in enumerate(segmentation.segments):
        header += _describe(number, segment, segmentation.grid.shape)
    return _save(header, segmentation.labels.astype("<i2", copy=False), path)


def _space(grid: Grid, *, steps: int | None = None) -> list[str]:
    """Return the header lines that say where the voxels are; steps of a sequence are an axis before theirs."""
    affine = _FLIP @ grid.affine
    before = f"{steps} " if steps else ""
    directions = " ".join(_vector(affine[:3, axis]) for axis in range(3))
    return [
        "space: left-posterior-superior",
        f"sizes: {before}{grid.shape[0]} {grid.shape[1]} {grid.shape[2]}",
        f"space directions: {'none ' if steps else ''}{directions}",
        f"kinds: {'list ' if steps else ''}domain domain domain",
        'space units: "mm" "mm" "mm"',
        f"space origin: {_vector(affine[:3, 3])}",
    ]


def _vector(values: Float64[np.ndarray, "3"]) -> str:
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _describe(number: int, segment: Segment, shape: tuple[int, int, int]) -> list[str]:
    """Return the header lines of one segment."""
    key = f"Segment{number}"
    colour = " ".join(f"{value:g}" for value in sign_colour(segment.sign))
    return [
        f"{key}_ID:=Segment_{segment.label}",
        f"{key}_Name:={segment.name}",
        f"{key}_NameAutoGenerated:=0",
        f"{key}_Color:={colour}",
        f"{key}_ColorAutoGenerated:=0",
        f"{key}_Extent:=0 {shape[0] - 1} 0 {shape[1] - 1} 0 {shape[2] - 1}",
        f"{key}_LabelValue:={segment.label}",
        f"{key}_Layer:=0",
    ]
