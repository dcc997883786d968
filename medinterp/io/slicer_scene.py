"""Writing a 3D Slicer scene: the scan, its maps in signed colours with alpha, and their clusters, ready to open.

A folder with scene.mrml, or the same as one .mrb file; Slicer is not needed for writing. A scene is what Slicer users
get because a second bare NIfTI file would replace the first in its views instead of lying over it.
"""

import re
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from medinterp.errors import InputError, UnsupportedSeries
from medinterp.io import colours
from medinterp.io.nifti import write_nifti, write_sidecar
from medinterp.io.nrrd import write_seg_nrrd, write_seq_nrrd
from medinterp.io.slicer_rendering import rendering_preset
from medinterp.volume import Overlay, Volume

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same scene packs to the same bytes
# Slicer draws a voxel of any alpha above zero in full: its views use alpha as a mask. So the table is cleared where the
# colours would be faint, and the layer's opacity lets the scan shine through the rest.
_FAINT_ALPHA = 0.25
_LAYER_OPACITY = "0.75"
_VIEWS = {  # Slicer's own three views: colour, orientation, and the view's axes in RAS (columns right, up, towards)
    "Red": ("Axial", ((-1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "Green": ("Coronal", ((-1, 0, 0), (0, 0, 1), (0, 1, 0))),
    "Yellow": ("Sagittal", ((0, 0, -1), (-1, 0, 0), (0, 1, 0))),
}
TRAJECTORY_INDEX = "noise_taken_off_percent"
_PIXELS = 256
_SAMPLE = 1_000_000  # voxels that a percentile for display is taken from: enough for three digits


def write_scene(
    base: Volume,
    overlays: Sequence[Overlay],
    folder: Path,
    *,
    written: Mapping[Volume, Path] | None = None,
    trajectory: Mapping[float, Volume] | None = None,
) -> tuple[Path, ...]:
    """Write scene.mrml and the files it names; the views open on the first overlay's peak.

    The first overlay is shown over the scan; the others are loaded beside it. Signed maps get the diverging table over
    ±limit and no threshold, since Slicer's lower threshold would hide the negative half. A map that failed a check
    of its certificate says so in its name. The scan has a volume rendering preset, off until a user turns it on.

    Args:
        base: the scan, one channel.
        overlays: maps on the scan's grid, with their clusters if any.
        folder: where the files go; made if it is not there.
        written: .nii.gz files that `write_nifti` made of some of these volumes, to be copied rather than made again.
        trajectory: states of the reverse diffusion by the fraction of the noise that is left, which become a sequence
            with a browser to step through it.

    Returns:
        All files written, scene.mrml first.

    Raises:
        GridMismatch: an overlay is not on the scan's grid.
        UnsupportedSeries: a sheared grid, which Slicer reads as if it were straight.
    """
    if not base.grid.is_orthogonal:
        raise UnsupportedSeries(
            "the scan's voxel axes are not perpendicular, and Slicer would read the NIfTI files of the scene out of "
            "place; resample the scan onto an orthogonal grid first"
        )
    for overlay in overlays:
        base.require_same_grid(overlay.map, f"the map '{overlay.name}'")
    folder.mkdir(parents=True, exist_ok=True)
    scene = ElementTree.Element("MRML", version="Slicer5.6.0", userTags="")
    known = {} if written is None else written
    files = _add_base(scene, base, folder, known)
    names = _file_names([overlay.name for overlay in overlays])
    for number, (overlay, name) in enumerate(zip(overlays, names, strict=True), start=1):
        files += _add_overlay(scene, overlay, name, number, folder, known)
    if trajectory:
        files.append(_add_trajectory(scene, trajectory, folder / "trajectory.seq.nrrd"))
    _add_views(scene, base, overlays)
    ElementTree.indent(scene)
    path = folder / "scene.mrml"
    ElementTree.ElementTree(scene).write(path, encoding="UTF-8", xml_declaration=True)
    return (path, *dict.fromkeys(files))


def pack_mrb(folder: Path, path: Path) -> Path:
    """Pack a scene folder into one .mrb file, Slicer's bundle: a zip with one folder inside.

    Args:
        folder: what `write_scene` wrote.
        path: file to write, its name ending in .mrb.

    Returns:
        The path.

    Raises:
        InputError: the folder holds no scene.mrml.
    """
    if not (folder / "scene.mrml").is_file():
        raise InputError("no scene.mrml in the folder to be packed as .mrb; write the scene first")
    with zipfile.ZipFile(path, "w") as bundle:
        for file in sorted(folder.iterdir()):
            if not file.is_file() or file.suffix == ".mrb":
                continue
            entry = zipfile.ZipInfo(f"{path.stem}/{file.name}", _ZIP_EPOCH)
            packed = file.suffix in (".gz", ".nrrd")
            entry.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
            entry.file_size = file.stat().st_size  # says beforehand whether the entry needs the 64-bit form
            with bundle.open(entry, "w") as packed_file, file.open("rb") as stream:
                shutil.copyfileobj(stream, packed_file, 1 << 20)
    return path


def _file_names(names: Sequence[str]) -> list[str]:
    """Return a distinct file name stem for every overlay, without '_', since '_seg' or '_label' means a label map."""
    stems: list[str] = []
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "map"
        taken = sum(other == stem or other.startswith(f"{stem}-copy") for other in ["base", *stems])
        stems.append(stem if taken == 0 else f"{stem}-copy{taken}")
    return stems


def _node(scene: ElementTree.Element, tag: str, identity: str, name: str, **attributes: str) -> str:
    """Add one MRML node and return its id."""
    ElementTree.SubElement(scene, tag, {"id": identity, "name": name, **attributes})
    return identity


def _add_base(scene: ElementTree.Element, base: Volume, folder: Path, known: Mapping[Volume, Path]) -> list[Path]:
    """Write the scan and its nodes."""
    files = _write_image(base, folder / "base.nii.gz", known.get(base), description="scan", sidecar={}, signed=False)
    shown = _display_range(base)
    rendered = _add_rendering(scene, base, shown, folder / "rendering.vp")
    _add_volume(
        scene, "Scan", 0, "base.nii.gz", "vtkMRMLColorTableNodeGrey", shown, interpolate=True, also_shown=rendered
    )
    return [*files, folder / "rendering.vp"]


def _add_rendering(scene: ElementTree.Element, base: Volume, shown: tuple[float, float], path: Path) -> str:
    """Write the scan's volume rendering preset, and return its display, which is off until a user asks for it."""
    path.write_text(rendering_preset(base, shown), encoding="ascii")
    storage = _node(
        scene, "VolumePropertyStorage", "vtkMRMLVolumePropertyStorageNode1", "preset file", fileName=path.name
    )
    preset = _node(
        scene, "VolumeProperty", "vtkMRMLVolumePropertyNode1", "medinterp preset", references=f"storage:{storage};"
    )
    return _node(
        scene, "GPURayCastVolumeRendering", "vtkMRMLGPURayCastVolumeRenderingDisplayNode1", "volume rendering",
        references=f"volumeProperty:{preset};", visibility="false", followVolumeDisplayNode="0",
    )  # fmt: skip


def _write_image(
    volume: Volume, path: Path, made: Path | None, *, description: str, sidecar: Mapping[str, Any], signed: bool
) -> list[Path]:
    """Write a volume and its sidecar; where the same NIfTI file was made before, copy it."""
    if made is None:
        return list(write_nifti(volume, path, description=description, sidecar=sidecar, signed=signed))
    shutil.copyfile(made, path)
    return [path, write_sidecar(volume, path, description=description, sidecar=sidecar)]


def _display_range(base: Volume) -> tuple[float, float]:
    """Return what the scan shows as black and as white: soft tissue for HU, else nearly all of the data."""
    if base.unit == "HU":
        return -160.0, 240.0
    values = base.voxels.ravel()[:: max(1, base.voxels.size // _SAMPLE)]
    low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def _add_volume(
    scene: ElementTree.Element,
    name: str,
    number: int,
    file_name: str,
    colour_id: str,
    shown: tuple[float, float],
    *,
    interpolate: bool,
    also_shown: str = "",
) -> None:
    """Add a volume with its storage and display nodes."""
    storage = _node(
        scene, "VolumeArchetypeStorage", f"vtkMRMLVolumeArchetypeStorageNode{number}", f"{name} file",
        fileName=file_name, useCompression="1", centerImage="0", UseOrientationFromFile="1",
    )  # fmt: skip
    low, high = shown
    display = _node(
        scene, "VolumeDisplay", f"vtkMRMLScalarVolumeDisplayNode{number}", f"{name} display",
        colorNodeID=colour_id, references=f"color:{colour_id};", window=repr(high - low), level=repr((low + high) / 2),
        autoWindowLevel="0", interpolate="1" if interpolate else "0", applyThreshold="0", autoThreshold="0",
    )  # fmt: skip
    references = f"display:{' '.join(filter(None, (display, also_shown)))};storage:{storage};"
    _node(scene, "Volume", _volume_id(number), name, references=references, selectable="true")


def _volume_id(number: int) -> str:
    return f"vtkMRMLScalarVolumeNode{number}"


def _add_overlay(
    scene: ElementTree.Element,
    overlay: Overlay,
    stem: str,
    number: int,
    folder: Path,
    known: Mapping[Volume, Path],
) -> list[Path]:
    """Write one map, its colour table and its clusters, and their nodes."""
    file_name = f"{stem}.nii.gz"
    sidecar = {"Signed": overlay.signed, "Limit": overlay.limit, "FailedChecks": list(overlay.doubts)}
    files = _write_image(
        overlay.map, folder / file_name, known.get(overlay.map),
        description=overlay.description, sidecar=sidecar, signed=overlay.signed,
    )  # fmt: skip
    colour_id, colour_file = _add_colours(scene, folder, signed=overlay.signed)
    files.append(colour_file)
    shown = (-overlay.limit if overlay.signed else 0.0, overlay.limit)
    name = f"{overlay.name} (CHECK FAILED)" if overlay.doubts else overlay.name
    _add_volume(scene, name, number, file_name, colour_id, shown, interpolate=False)
    if overlay.segmentation is not None and overlay.segmentation.segments:
        clusters = f"{stem}-clusters.seg.nrrd"
        files.append(write_seg_nrrd(overlay.segmentation, folder / clusters))
        _add_clusters(scene, f"{overlay.name} clusters", number, clusters)
    return files


def _add_colours(scene: ElementTree.Element, folder: Path, *, signed: bool) -> tuple[str, Path]:
    """Write a colour table once a scene and return its node and its file."""
    name = "diverging" if signed else "sequential"
    identity, path = f"vtkMRMLColorTableNodeMedinterp{name}", folder / f"{name}.txt"
    if scene.find(f"ColorTable[@id='{identity}']") is None:
        table = np.rint(255 * (colours.diverging() if signed else colours.sequential())).astype(int)
        table[table[:, 3] < 255 * _FAINT_ALPHA, 3] = 0
        rows = (f"{n} {name}{n} {r} {g} {b} {a}" for n, (r, g, b, a) in enumerate(table.tolist()))
        path.write_text("\n".join([f"# Color table file {path.name}", f"# {len(table)} values", *rows]) + "\n")
        storage = _node(
            scene, "ColorTableStorage", f"vtkMRMLColorTableStorageNodeMedinterp{name}", f"{name} file",
            fileName=path.name, useCompression="0",
        )  # fmt: skip
        _node(
            scene, "ColorTable", identity, f"medinterp {name}",
            type="13", numcolors=str(len(table)), references=f"storage:{storage};", selectable="true",
        )  # fmt: skip
    return identity, path


def _add_clusters(scene: ElementTree.Element, name: str, number: int, file_name: str) -> None:
    """Add a segmentation shown as outlines, so that the map's colours inside stay visible."""
    storage = _node(
        scene, "SegmentationStorage", f"vtkMRMLSegmentationStorageNode{number}", f"{name} file",
        fileName=file_name, useCompression="1", CropToMinimumExtent="false",
    )  # fmt: skip
    display = _node(
        scene, "SegmentationDisplay", f"vtkMRMLSegmentationDisplayNode{number}", f"{name} display",
        visibility="true", visibility2D="true", visibility3D="true", Visibility2DFill="false",
        Visibility2DOutline="true", Opacity3D="1", Opacity2DFill="0.5", Opacity2DOutline="1",
    )  # fmt: skip
    references = f"display:{display};storage:{storage};referenceImageGeometryRef:{_volume_id(0)};"
    _node(scene, "Segmentation", f"vtkMRMLSegmentationNode{number}", name, references=references)


def _add_trajectory(scene: ElementTree.Element, states: Mapping[float, Volume], path: Path) -> Path:
    """Write the states as a sequence, from the scan to the image, and the browser that plays it."""
    write_trajectory(states, path)
    storage = _node(
        scene, "VolumeSequenceStorage", "vtkMRMLVolumeSequenceStorageNode1", "trajectory file", fileName=path.name
    )
    sequence = _node(
        scene, "Sequence", "vtkMRMLSequenceNode1", "Trajectory",
        references=f"storage:{storage};", indexName=TRAJECTORY_INDEX, indexType="numeric", selectable="true",
    )  # fmt: skip
    _node(
        scene, "SequenceBrowser", "vtkMRMLSequenceBrowserNode1", "Trajectory browser",
        references=f"sequenceNodeRef0:{sequence};", playbackActive="false", playbackRateFps="2", playbackLooped="true",
        selectedItemNumber="0", indexDisplayMode="[indexValue]", indexDisplayFormat="%.1f", virtualNodePostfixes="0",
        SynchronizationPropertiesMap0="playback true recording false overwriteProxyName false saveChanges false",
    )  # fmt: skip
    return path


def write_trajectory(states: Mapping[float, Volume], path: Path) -> Path:
    """Write the states of a reverse diffusion as .seq.nrrd, by the percentage of the scan's noise that is taken off.

    Args:
        states: by the fraction of the noise that is left; on one grid, in one unit.
        path: file to write, its name ending in .seq.nrrd.
    """
    ordered = sorted(states.items(), reverse=True)  # Slicer sorts by rising number
    named = {f"{100 * (1 - left):.6g}": volume for left, volume in ordered}
    return write_seq_nrrd(named, path, description="states of the reverse diffusion", index=TRAJECTORY_INDEX)


def _add_views(scene: ElementTree.Element, base: Volume, overlays: Sequence[Overlay]) -> None:
    """Show scan and first overlay in the three slice views, centred on the overlay's peak."""
    corners = base.grid.corners()
    centre = np.array(overlays[0].peak_mm) if overlays else corners.mean(axis=0)
    extent = float(np.ptp(corners, axis=0).max()) + max(base.grid.spacing_mm)
    layers = f"backgroundVolume:{_volume_id(0)};" + (f"foregroundVolume:{_volume_id(1)};" if overlays else "")
    for colour, (orientation, axes) in _VIEWS.items():
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = np.array(axes), centre
        _node(
            scene, "Slice", f"vtkMRMLSliceNode{colour}", colour,
            singletonTag=colour, layoutName=colour, layoutLabel=colour[0], active="false", visibility="true",
            fieldOfView=f"{extent} {extent} 1", dimensions=f"{_PIXELS} {_PIXELS} 1", xyzOrigin="0 0 0",
            orientation=orientation, sliceToRAS=" ".join(repr(float(value)) for value in matrix.ravel()),
        )  # fmt: skip
        _node(
            scene, "SliceComposite", f"vtkMRMLSliceCompositeNode{colour}", f"{colour} layers",
            singletonTag=colour, layoutName=colour, references=layers, compositing="0",
            foregroundOpacity=_LAYER_OPACITY, labelOpacity="1", linkedControl="1",
        )  # fmt: skip
    _node(
        scene, "Crosshair", "vtkMRMLCrosshairNodedefault", "Crosshair",
        singletonTag="default", crosshairMode="ShowSmallBasic", crosshairBehavior="OffsetJumpSlice",
        crosshairRAS=" ".join(repr(float(value)) for value in centre),
    )  # fmt: skip
