"""Ask medinterp from Slicer's core with the module's own logic and show the answer; runs in a process of its own.

Usage: python slicer_module_probe.py MEDINTERP SCAN SECOND MASK STUDY WORK; writes WORK/answer.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vtk.util.numpy_support import vtk_to_numpy

import slicer
from tests.clients.slicer_probe import describe_volume
from tests.slicer_library import importable

importable()
from MedInterpLib.asking import Asking  # noqa: E402
from MedInterpLib.command import sphere_target  # noqa: E402
from MedInterpLib.nodes import NodeError  # noqa: E402


def new_scene() -> Any:
    scene = slicer.vtkMRMLScene()
    for name in dir(slicer):
        if name.startswith("vtkMRML") and name.endswith("Node"):
            try:
                node = getattr(slicer, name)()
            except TypeError:  # abstract
                continue
            if not scene.IsNodeClassRegistered(name):
                scene.RegisterNodeClass(node)
    scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    return scene


def load(scene: Any, path: str, kind: str) -> Any:
    node = scene.AddNewNodeByClass(kind, "given")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(path)
    if not storage.ReadData(node):
        raise SystemExit(f"{path} cannot be read")
    return node


def segmentation_of(scene: Any, mask: str) -> tuple[Any, str]:
    labels = load(scene, mask, "vtkMRMLLabelMapVolumeNode")
    found = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, found)
    return found, found.GetSegmentation().GetNthSegmentID(0)


def voxels(node: Any) -> list[float]:
    return vtk_to_numpy(node.GetImageData().GetPointData().GetScalars()).astype(float).tolist()


def answer(asking: Asking, scan: Any, target: Any, output: Path, program: str) -> dict[str, Any]:
    said, code = asking.ask([scan], target, output, program=program, methods=("saliency",), halo=8).wait()
    asking.finish()
    if code:
        raise SystemExit(str(said))
    (scene,) = asking.open(output, scan).values()
    (shown,) = scene.maps.values()
    view = asking.mrml.GetFirstNodeByClass("vtkMRMLSliceNode").GetSliceToRAS()
    layers = asking.mrml.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    return {
        "map": {**describe_volume(shown), "name": shown.GetName(), "voxels": voxels(shown)},
        "clusters": [node.GetSegmentation().GetNumberOfSegments() for node in scene.clusters.values()],
        "view": [view.GetElement(axis, 3) for axis in range(3)],
        "on_top": layers.GetForegroundVolumeID() == shown.GetID(),
    }


def fused(asking: Asking, scans: list[Any], output: Path, program: str) -> dict[str, Any]:
    options = {"methods": ("saliency",), "halo": 8, "place": "as they lie", "ledger": True}
    said, code = asking.ask(scans, sphere_target((0, 0, 0), 4), output, program=program, **options).wait()
    asking.finish()
    if code:
        raise SystemExit(str(said))
    return {name: sorted(scene.maps) for name, scene in asking.open(output, scans[0]).items()}


def trajectory(asking: Asking, study: Path) -> dict[str, Any]:
    (scene,) = asking.open(study).values()
    count = scene.trajectory.GetNumberOfDataNodes()
    browser = asking.mrml.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode")
    return {
        "index": [float(scene.trajectory.GetNthIndexValue(n)) for n in range(count)],
        "states": [voxels(scene.trajectory.GetNthDataNode(n)) for n in range(count)],
        "played": browser.GetMasterSequenceNode().GetID() == scene.trajectory.GetID(),
    }


def main() -> None:
    """Ask about a sphere, the same voxels as a segment, and two scans fused; then with a scan that is moved."""
    program, scan_file, second_file, mask, study, work = sys.argv[1:]
    mrml = new_scene()
    asking, scan = Asking(mrml), load(mrml, scan_file, "vtkMRMLScalarVolumeNode")
    found = {"sphere": answer(asking, scan, sphere_target((0, 0, 0), 4), Path(work) / "sphere", program)}
    found["segment"] = answer(asking, scan, segmentation_of(mrml, mask), Path(work) / "segment", program)
    second = load(mrml, second_file, "vtkMRMLScalarVolumeNode")
    found["fused"] = fused(asking, [scan, second], Path(work) / "fused", program)
    found["trajectory"] = trajectory(asking, Path(study))
    moved = mrml.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    scan.SetAndObserveTransformNodeID(moved.GetID())
    try:
        asking.ask([scan], "auto", Path(work) / "moved", program=program)
    except NodeError as error:
        found["moved"] = str(error)
    count = mrml.GetNumberOfNodes()
    (Path(work) / "sphere" / "slicer" / "scan" / "saliency-mean.nii.gz").unlink()
    try:
        asking.open(Path(work) / "sphere")
    except NodeError as error:
        found["broken"] = str(error)
    found["left"] = mrml.GetNumberOfNodes() - count
    (Path(work) / "answer.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
