"""MRML nodes of a study and of a question: needs Slicer's core, not its application."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vtk

import slicer
from MedInterpLib.study import Overlay, Scene, Study

FOREGROUND_OPACITY = 0.8


class NodeError(RuntimeError):
    """A node cannot be read, written or used; the message says why."""


@dataclass(frozen=True)
class ShownScene:
    """The nodes of one scan of a study.

    Args:
        base: volume.
        maps: volumes by the map's name.
        clusters: segmentations by the map's name.
        trajectory: sequence of the states from scan to image, with a browser; None where the study has none.
    """

    base: Any
    maps: dict[str, Any]
    clusters: dict[str, Any]
    trajectory: Any


def show_study(study: Study, mrml: Any) -> dict[str, ShownScene]:
    """Load every scan, map and cluster of a study into an MRML scene, the first map on top, centred on its peak.

    Raises:
        NodeError: a file cannot be read; what was loaded before it is taken out again.
    """
    added: list[Any] = []
    try:
        shown = {scene.name: _show_scene(scene, mrml, added) for scene in study.scenes}
    except NodeError:
        for node in reversed(added):
            mrml.RemoveNode(node)
        raise
    first = study.scenes[0]
    for overlay in first.overlays[:1]:
        set_layers(mrml, shown[first.name].base, shown[first.name].maps[overlay.name])
        if peak := study.peaks.get((first.name, overlay.name)):
            centre_views(mrml, peak)
    return shown


def set_layers(mrml: Any, base: Any, overlay: Any) -> None:
    """Show a map over a scan in every slice view."""
    for node in _nodes(mrml, "vtkMRMLSliceCompositeNode"):
        node.SetBackgroundVolumeID(base.GetID())
        node.SetForegroundVolumeID(overlay.GetID())
        node.SetForegroundOpacity(FOREGROUND_OPACITY)


def centre_views(mrml: Any, point_ras_mm: Sequence[float]) -> None:
    """Move every slice view so that a point lies in its centre."""
    for node in _nodes(mrml, "vtkMRMLSliceNode"):
        node.JumpSliceByCentering(*point_ras_mm)


def write_volume(volume: Any, path: Path) -> None:
    """Write a volume node as NIfTI for medinterp.

    Raises:
        NodeError: it is moved by a transform that is not hardened, or cannot be written.
    """
    if volume.GetParentTransformNode() is not None:
        raise NodeError(
            f"'{volume.GetName()}' is moved by a transform: harden it (right click in Data, Harden transform), so "
            "that the scan lies where it is shown"
        )
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(volume):
        raise NodeError(f"'{volume.GetName()}' cannot be written; is the disk full?")


def write_modality(volume: Any, path: Path) -> None:
    """Write what DICOM said of a volume's modality beside its NIfTI file, which has no room for it; else nothing.

    Source:
        Slicer's DICOM plug-ins: the subject hierarchy's attribute "DICOM.Modality", and HU as the unit of CT voxels.
    """
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volume.GetScene())
    item = 0 if tree is None else tree.GetItemByDataNode(volume)
    modality = tree.GetItemAttribute(item, "DICOM.Modality") if item else ""
    units = volume.GetVoxelValueUnits()
    if not modality and units is not None and "hnsf" in str(units.GetCodeValue()):
        modality = "CT"
    if modality:
        path.write_text(json.dumps({"Modality": modality}), encoding="utf-8")


def write_segment(segmentation: Any, segment: str, volume: Any, path: Path) -> None:
    """Write one segment as a mask on a volume's own grid.

    Raises:
        NodeError: there is no such segment, it holds no voxel of the volume, or it cannot be written.
    """
    if segmentation.GetSegmentation().GetSegment(segment) is None:
        raise NodeError("the segment is gone: choose another one")
    labels, chosen = slicer.vtkMRMLLabelMapVolumeNode(), vtk.vtkStringArray()
    chosen.InsertNextValue(segment)
    mrml = segmentation.GetScene()
    mrml.AddNode(labels)
    try:
        done = slicer.vtkSlicerSegmentationsModuleLogic.ExportSegmentsToLabelmapNode(
            segmentation, chosen, labels, volume
        )
        if not done or labels.GetImageData() is None or labels.GetImageData().GetScalarRange()[1] == 0:
            raise NodeError("the segment holds no voxel of the scan: draw it on this scan")
        write_volume(labels, path)
    finally:
        mrml.RemoveNode(labels)


def _show_scene(scene: Scene, mrml: Any, added: list[Any]) -> ShownScene:
    base = _load_volume(mrml, scene.base, scene.name, added)
    base.GetDisplayNode().AutoWindowLevelOn()
    tables = {name: _load_colours(mrml, path, added) for name, path in scene.colours.items()}
    maps, clusters = {}, {}
    for overlay in scene.overlays:
        maps[overlay.name] = _load_map(mrml, overlay, scene, tables, added)
        if overlay.clusters is not None:
            clusters[overlay.name] = _load_clusters(mrml, overlay, added)
    trajectory = None if scene.trajectory is None else _load_trajectory(mrml, scene.trajectory, scene.name, added)
    return ShownScene(base, maps, clusters, trajectory)


def _load_map(mrml: Any, overlay: Overlay, scene: Scene, tables: dict[str, Any], added: list[Any]) -> Any:
    """Load a map with the study's own colours: signed ones are transparent around zero, and no threshold hides half."""
    failed = "CHECK FAILED: " if overlay.doubts else ""
    node = _load_volume(mrml, overlay.path, f"{failed}{scene.name}: {overlay.title} ({overlay.unit})", added)
    node.SetDescription("; ".join(overlay.doubts))
    table, display = tables.get("diverging" if overlay.signed else "sequential"), node.GetDisplayNode()
    if table is None:
        raise NodeError(f"the colours of the map '{overlay.name}' are missing from the study")
    display.SetAndObserveColorNodeID(table.GetID())
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(-overlay.limit if overlay.signed else 0.0, overlay.limit)
    display.ApplyThresholdOff()
    display.InterpolateOff()
    return node


def _load_volume(mrml: Any, path: Path, name: str, added: list[Any]) -> Any:
    node = _add(mrml, "vtkMRMLScalarVolumeNode", name, added)
    _read(mrml, node, "vtkMRMLVolumeArchetypeStorageNode", path, added)
    node.SetName(name)
    node.CreateDefaultDisplayNodes()
    added.append(node.GetDisplayNode())
    return node


def _load_colours(mrml: Any, path: Path, added: list[Any]) -> Any:
    node = _add(mrml, "vtkMRMLColorTableNode", f"medinterp {path.stem}", added)
    _read(mrml, node, "vtkMRMLColorTableStorageNode", path, added)
    return node


def _load_clusters(mrml: Any, overlay: Overlay, added: list[Any]) -> Any:
    node = _add(mrml, "vtkMRMLSegmentationNode", f"{overlay.name} clusters", added)
    _read(mrml, node, "vtkMRMLSegmentationStorageNode", Path(str(overlay.clusters)), added)
    node.CreateDefaultDisplayNodes()
    added.append(node.GetDisplayNode())
    return node


def _load_trajectory(mrml: Any, path: Path, name: str, added: list[Any]) -> Any:
    node = _add(mrml, "vtkMRMLSequenceNode", f"{name}: trajectory", added)
    _read(mrml, node, "vtkMRMLVolumeSequenceStorageNode", path, added)
    browser = _add(mrml, "vtkMRMLSequenceBrowserNode", f"{name}: trajectory browser", added)
    browser.SetAndObserveMasterSequenceNodeID(node.GetID())
    return node


def _add(mrml: Any, kind: str, name: str, added: list[Any]) -> Any:
    node = mrml.AddNewNodeByClass(kind, name)
    added.append(node)
    return node


def _read(mrml: Any, node: Any, kind: str, path: Path, added: list[Any]) -> None:
    storage = _add(mrml, kind, f"{node.GetName()} file", added)
    storage.SetFileName(str(path))
    if not path.is_file() or not storage.ReadData(node):
        raise NodeError(f"{path.name} of the study cannot be read: write the study again")
    node.SetAndObserveStorageNodeID(storage.GetID())


def _nodes(mrml: Any, kind: str) -> list[Any]:
    return [mrml.GetNthNodeByClass(number, kind) for number in range(mrml.GetNumberOfNodesByClass(kind))]
