"""Open scenes in the core of 3D Slicer and say what they show; runs in a process of its own, without a screen.

Usage: python slicer_probe.py SCENE.mrml|SCENE.mrb OUTPUT_FOLDER [R,A,S ...] [-- SCENE OUTPUT_FOLDER [R,A,S ...] ...]

Writes OUTPUT_FOLDER/answer.json, and for every view and every point (none: as the scene opens) the picture that
Slicer's own slice pipeline blends from scan and map, as PNG and as an array with the map's layer alone beside it.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

VIEWS = ("Red", "Green", "Yellow")


def open_scene(path: Path, folder: Path) -> Any:
    import slicer

    scene = slicer.vtkMRMLScene()
    for name in dir(slicer):
        if name.startswith("vtkMRML") and name.endswith("Node"):
            try:
                node = getattr(slicer, name)()
            except TypeError:  # abstract
                continue
            if not scene.IsNodeClassRegistered(name):
                scene.RegisterNodeClass(node)
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)  # Slicer's own tables, grey among them
    application = slicer.vtkMRMLApplicationLogic()
    application.SetMRMLScene(scene)
    if path.suffix == ".mrb":
        opened = application.OpenSlicerDataBundle(str(path), str(folder))
    else:
        scene.SetURL(str(path))
        opened = scene.Connect()
    return scene, bool(opened), (colours, application)


def matrix_of(vtk_matrix: Any) -> list[list[float]]:
    return [[vtk_matrix.GetElement(row, column) for column in range(4)] for row in range(4)]


def describe_volume(node: Any) -> dict[str, Any]:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    display = node.GetDisplayNode()
    shown = {"window": display.GetWindow(), "level": display.GetLevel(), "threshold": display.GetApplyThreshold()}
    shape, kind = list(node.GetImageData().GetDimensions()), node.GetImageData().GetScalarTypeAsString()
    colour = display.GetColorNode().GetName() if display.GetColorNode() else None
    return {"shape": shape, "type": kind, "affine": matrix_of(matrix), "colour": colour, **shown}


def describe_segments(node: Any) -> list[dict[str, Any]]:
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    found = []
    for number in range(node.GetSegmentation().GetNumberOfSegments()):
        segment = node.GetSegmentation().GetNthSegment(number)
        labels = segment.GetRepresentation("Binary labelmap")
        matrix, extent = vtk.vtkMatrix4x4(), labels.GetExtent()
        labels.GetImageToWorldMatrix(matrix)
        shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in range(3)]
        values = vtk_to_numpy(labels.GetPointData().GetScalars()).reshape(shape, order="F")
        index = np.argwhere(values == segment.GetLabelValue()) + np.array(extent[::2])
        affine = np.array(matrix_of(matrix))
        points = (index @ affine[:3, :3].T + affine[:3, 3]).tolist()
        found.append({"name": segment.GetName(), "colour": list(segment.GetColor()), "points": points})
    return found


def describe_rendering(node: Any) -> dict[str, Any]:
    preset = node.GetVolumePropertyNode()
    opacity, colour = preset.GetVolumeProperty().GetScalarOpacity(), preset.GetVolumeProperty().GetRGBTransferFunction()
    ends = opacity.GetRange()
    return {
        "visible": bool(node.GetVisibility()), "volume": node.GetVolumeNode().GetName(), "range": list(ends),
        "opacity": [opacity.GetValue(value) for value in ends], "bright": list(colour.GetColor(ends[1])),
    }  # fmt: skip


def describe_sequence(node: Any) -> dict[str, Any]:
    from vtk.util.numpy_support import vtk_to_numpy

    states = [node.GetNthDataNode(number) for number in range(node.GetNumberOfDataNodes())]
    first = [float(vtk_to_numpy(s.GetImageData().GetPointData().GetScalars()).max()) for s in states]
    index = [float(node.GetNthIndexValue(number)) for number in range(len(states))]
    return {"name": node.GetName(), "index": index, "highest": first, "unit": node.GetIndexName()}


def image_of(connection: Any) -> np.ndarray:
    """Return an RGBA image, first axis x, second axis y, y upwards."""
    from vtk.util.numpy_support import vtk_to_numpy

    connection.GetProducer().Update()
    image = connection.GetProducer().GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1).transpose(1, 0, 2)


def picture(scene: Any, view: str, point: list[float] | None, stem: Path) -> dict[str, Any]:
    import slicer

    node = scene.GetNodeByID(f"vtkMRMLSliceNode{view}")
    if point is not None:
        node.JumpSliceByCentering(*point)
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceNode(node)
    logic.SetSliceCompositeNode(scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{view}"))
    logic.UpdatePipeline()
    blended = image_of(logic.GetImageDataConnection())
    layer = image_of(logic.GetForegroundLayer().GetImageDataConnection())
    np.savez(stem.with_suffix(".npz"), blended=blended, layer=layer)
    save_png(blended, stem.with_suffix(".png"))
    return {"xy_to_ras": matrix_of(node.GetXYToRAS()), "orientation": node.GetOrientation(), "file": f"{stem.name}.npz"}


def save_png(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    rows = np.ascontiguousarray(image[..., :3].transpose(1, 0, 2)[::-1])
    Image.fromarray(rows).save(path)


def main(path: Path, folder: Path, points: list[list[float] | None]) -> None:
    scene, opened, _alive = open_scene(path, folder)
    nodes = [scene.GetNthNode(number) for number in range(scene.GetNumberOfNodes())]
    answer: dict[str, Any] = {"opened": opened, "views": []}
    answer["volumes"] = {n.GetName(): describe_volume(n) for n in nodes if n.IsA("vtkMRMLScalarVolumeNode")}
    answer["segments"] = [s for n in nodes if n.IsA("vtkMRMLSegmentationNode") for s in describe_segments(n)]
    answer["renderings"] = [describe_rendering(n) for n in nodes if n.IsA("vtkMRMLVolumeRenderingDisplayNode")]
    answer["sequences"] = [describe_sequence(n) for n in nodes if n.IsA("vtkMRMLSequenceNode")]
    browsers = [n for n in nodes if n.IsA("vtkMRMLSequenceBrowserNode")]
    answer["played"] = [n.GetMasterSequenceNode().GetName() for n in browsers]
    for number, point in enumerate(points):
        for view in VIEWS:
            answer["views"].append({"view": view, "point": point})
            answer["views"][-1] |= picture(scene, view, point, folder / f"{view}{number}")
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    for _, job in (pair for pair in itertools.groupby(sys.argv[1:], "--".__ne__) if pair[0]):
        scene, folder, *points = job
        main(Path(scene), Path(folder), [None, *([float(v) for v in point.split(",")] for point in points)])
