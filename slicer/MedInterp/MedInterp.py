"""The module that 3D Slicer shows: asks medinterp about a loaded scan, and opens any study that medinterp wrote."""

import tempfile
from pathlib import Path

import ctk
import qt
from MedInterpLib.asking import NAMES, Asking
from MedInterpLib.command import PLACES, QuestionError, sphere_target, voxel_target
from MedInterpLib.nodes import NodeError
from MedInterpLib.process import Progress
from MedInterpLib.study import StudyError, read_study
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

import slicer

METHODS = ("input_x_gradient", "saliency", "integrated_gradients", "equivalent_filter", "occlusion", "lrp")
MEASURES = ("mean", "contrast", "edge_sharpness", "removed_energy")
PROGRAM_SETTING = "MedInterp/program"
POLL_MS = 200
SEGMENTATION = slicer.vtkSegmentation  # whose events say that a segment was drawn
SAMPLES = Path(__file__).parents[2] / "sample_data" / "head"
"""Synthetic scans of the checkout that this module lies in; an installed extension has none."""


class MedInterp(ScriptedLoadableModule):
    """What Slicer's module list says."""

    def __init__(self, parent) -> None:
        super().__init__(parent)
        parent.title = "MedInterp"
        parent.categories = ["Quantification"]
        parent.contributors = ["the medinterp authors"]
        parent.helpText = (
            "Explains a measurement on a denoised scan: which voxels made it so. Choose a scan, place a point "
            "or a segment, and run; or open a study that medinterp wrote. medinterp runs beside Slicer, in its own "
            "Python. For research use only. Not for diagnosis."
        )
        parent.acknowledgementText = "Apache-2.0"
        if SAMPLES.is_dir():
            slicer.app.connect("startupCompleted()", register_samples)


def register_samples() -> None:
    """Offer the synthetic scans in Sample Data; they are read where they lie, nothing is downloaded."""
    import SampleData

    for name in ("t1", "t2", "ct"):
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category="MedInterp", sampleName=f"MedInterp synthetic head {name.upper()}",
            uris=(SAMPLES / f"{name}.nii.gz").as_uri(), fileNames=f"medinterp-{name}.nii.gz",
            nodeNames=f"synthetic {name.upper()}",
        )  # fmt: skip


class MedInterpLogic(ScriptedLoadableModuleLogic, Asking):
    """What the module does, without its widgets."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        Asking.__init__(self, slicer.mrmlScene, slicer.util.startupEnvironment())


class MedInterpWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The module's panel."""

    def __init__(self, parent=None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)

    def setup(self) -> None:
        """Build the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = MedInterpLogic()
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.timeout.connect(self.onTimer)
        self._build_question()
        self._build_running()
        self.layout.addStretch(1)

    def cleanup(self) -> None:
        """End what runs when the module is unloaded."""
        self.timer.stop()
        self.logic.finish()
        self.removeObservers()

    def _build_question(self) -> None:
        box = ctk.ctkCollapsibleButton()
        box.text = "Question"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        self.scan = self._node_box(["vtkMRMLScalarVolumeNode"])
        self.place = self._node_box(["vtkMRMLMarkupsFiducialNode", "vtkMRMLSegmentationNode"])
        self.segment = qt.QComboBox()
        self.place.currentNodeChanged.connect(self.onPlace)
        self.radius = ctk.ctkDoubleSpinBox()
        self.radius.minimum, self.radius.maximum, self.radius.value, self.radius.suffix = 0.0, 100.0, 5.0, " mm"
        self.radius.toolTip = "0 asks about the one voxel at the point"
        self.measure, self.method, self.bundle = qt.QComboBox(), qt.QComboBox(), qt.QLineEdit()
        self.measure.addItems(list(MEASURES))
        self.method.addItems(list(METHODS))
        self.bundle.placeholderText = "chosen by the modality"
        self.whole = qt.QCheckBox("denoise the whole scan too")
        self.others = slicer.qMRMLCheckableNodeComboBox()
        self.others.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self.others.addEnabled = self.others.removeEnabled = False
        self.others.setMRMLScene(slicer.mrmlScene)
        self.others.toolTip = "further scans of the same subject; the fused image is explained, scan by scan"
        self.bringing, self.ledger = qt.QComboBox(), qt.QCheckBox("share the image among the scans")
        self.bringing.addItems(list(PLACES))
        for label, widget in (
            ("Scan", self.scan), ("Point or segmentation", self.place), ("Segment", self.segment),
            ("Radius", self.radius), ("Measure", self.measure), ("Method", self.method), ("Bundle", self.bundle),
            ("", self.whole), ("Fuse with", self.others), ("Register", self.bringing), ("", self.ledger),
        ):  # fmt: skip
            form.addRow(label, widget)

    def _build_running(self) -> None:
        box = ctk.ctkCollapsibleButton()
        box.text = "Run"
        self.layout.addWidget(box)
        form = qt.QFormLayout(box)
        self.program = ctk.ctkPathLineEdit()
        self.program.filters = ctk.ctkPathLineEdit.Files | ctk.ctkPathLineEdit.Executable
        self.program.currentPath = qt.QSettings().value(PROGRAM_SETTING, "")
        self.program.toolTip = "medinterp in its own environment; empty for the one on the path"
        self.output = ctk.ctkPathLineEdit()
        self.output.filters = ctk.ctkPathLineEdit.Dirs
        self.run, self.stop = qt.QPushButton("Explain"), qt.QPushButton("Cancel")
        self.stop.enabled = False
        self.bar, self.log = qt.QProgressBar(), qt.QPlainTextEdit()
        self.log.readOnly = True
        self.open = qt.QPushButton("Open study folder...")
        for label, widget in (
            ("medinterp", self.program), ("Study folder", self.output), ("", self.run), ("", self.stop),
            ("", self.bar), ("", self.log), ("", self.open), ("", qt.QLabel("Research use only. Not for diagnosis.")),
        ):  # fmt: skip
            form.addRow(label, widget)
        self.run.clicked.connect(self.onRun)
        self.stop.clicked.connect(self.onCancel)
        self.open.clicked.connect(self.onOpen)

    def _node_box(self, kinds):
        found = slicer.qMRMLNodeComboBox()
        found.nodeTypes = kinds
        found.addEnabled = found.removeEnabled = False
        found.setMRMLScene(slicer.mrmlScene)
        return found

    def onPlace(self, node) -> None:
        """List the segments of a segmentation, and go on listing them as they are drawn."""
        self.removeObservers(self.onSegments)
        if node is not None and node.IsA("vtkMRMLSegmentationNode"):
            for event in (SEGMENTATION.SegmentAdded, SEGMENTATION.SegmentRemoved, SEGMENTATION.SegmentModified):
                self.addObserver(node, event, self.onSegments)
        self.listSegments(node)

    def onSegments(self, node, _event) -> None:
        """List them anew, and keep the choice while its segment is there."""
        chosen = self.segment.currentData
        self.listSegments(node)
        self.segment.currentIndex = max(0, self.segment.findData(chosen))

    def listSegments(self, node) -> None:
        """List the segments of a segmentation; of anything else, none."""
        self.segment.clear()
        found = node is not None and node.IsA("vtkMRMLSegmentationNode")
        self.segment.enabled, self.radius.enabled = found, not found
        segments = node.GetSegmentation() if found else None
        for number in range(segments.GetNumberOfSegments() if found else 0):
            identifier = segments.GetNthSegmentID(number)
            self.segment.addItem(segments.GetSegment(identifier).GetName(), identifier)

    def target(self):
        """Return what was chosen as target.

        Raises:
            QuestionError: nothing was.
        """
        node = self.place.currentNode()
        if node is None:
            raise QuestionError("place a point on the scan, or draw a segment, and choose it")
        if node.IsA("vtkMRMLSegmentationNode"):
            return node, self.segment.currentData
        if node.GetNumberOfControlPoints() == 0:
            raise QuestionError("the markup holds no point: place one on the scan")
        point = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(0, point)
        return sphere_target(point, self.radius.value) if self.radius.value > 0 else voxel_target(point)

    def scans(self) -> list:
        """Return the chosen scan, and those that it is to be fused with."""
        first = self.scan.currentNode()
        return [first, *(node for node in self.others.checkedNodes() if node is not first)]

    def onRun(self) -> None:
        """Start medinterp."""
        options = {"methods": (self.method.currentText,), "measure": self.measure.currentText}
        options |= {"bundle": self.bundle.text or None, "whole": self.whole.checked}
        options |= {"place": self.bringing.currentText, "ledger": self.ledger.checked}
        try:
            if self.scan.currentNode() is None or not self.output.currentPath:
                raise QuestionError("choose a scan and a study folder to make")
            output, program = Path(self.output.currentPath), self.program.currentPath
            self.logic.ask(self.scans(), self.target(), output, program=program, **options)
        except (QuestionError, NodeError) as error:
            slicer.util.errorDisplay(str(error))
            return
        qt.QSettings().setValue(PROGRAM_SETTING, self.program.currentPath)
        self.log.clear()
        for name, node in zip(NAMES, self.scans()):
            self.log.appendPlainText(f"{name}: {node.GetName()}")
        self._running(True)
        self.timer.start()

    def onCancel(self) -> None:
        """Ask medinterp to end; Slicer stays usable until it has."""
        self.stop.enabled = False
        self.bar.format = "cancelling"
        self.logic.cancel()

    def onTimer(self) -> None:
        """Show what medinterp said, and its study when it is done."""
        said, code = self.logic.process.poll()
        for one in said:
            if isinstance(one, Progress):
                self.bar.maximum, self.bar.value = max(1, one.total), one.done
                self.bar.format = f"{one.stage} {one.detail}"
            else:
                self.log.appendPlainText(one.text)
        if code is None:
            return
        self.timer.stop()
        self._running(False)
        cancelled = self.logic.process.cancelled
        self.logic.finish()
        if code == 0:
            self._open(self.output.currentPath)
        elif not cancelled:
            slicer.util.errorDisplay("medinterp could not answer; the last line of the log says why")

    def onOpen(self) -> None:
        """Ask for a study folder and show it."""
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), "Study folder of medinterp")
        if folder:
            self._open(folder)

    def _open(self, folder) -> None:
        try:
            self.logic.open(Path(folder), self.scan.currentNode())
            doubts = read_study(Path(folder)).doubts
        except (StudyError, NodeError) as error:
            slicer.util.errorDisplay(str(error))
            return
        for doubt in doubts:
            self.log.appendPlainText(f"CHECK FAILED: {doubt}")
        if doubts:
            slicer.util.warningDisplay("a map failed a check of its certificate; the log says which and why")

    def _running(self, yes) -> None:
        self.run.enabled, self.stop.enabled = not yes, yes


class MedInterpTest(ScriptedLoadableModuleTest):
    """The self-test, for the full application: Reload and Test in developer mode."""

    def runTest(self) -> None:
        """Run every test."""
        slicer.mrmlScene.Clear()
        self.test_a_folder_that_is_no_study_is_refused()
        slicer.mrmlScene.Clear()
        self.test_a_question_is_answered_in_place()

    def test_a_folder_that_is_no_study_is_refused(self) -> None:
        """Nothing is loaded, and the error says why."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                MedInterpLogic().open(Path(folder))
            except StudyError:
                return
        raise AssertionError("an empty folder was opened as a study")

    def test_a_question_is_answered_in_place(self) -> None:
        """A bright ball in noise is asked about, and the views end up on it."""
        import numpy as np

        shape, spacing = (40, 40, 40), 2.0
        place = np.indices(shape)
        ball = ((place - 20.0) ** 2).sum(axis=0) < 16
        values = (100.0 + 80.0 * ball + np.random.default_rng(0).normal(0, 4, shape)).astype(np.float32)
        scan = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "ball")
        scan.SetSpacing(spacing, spacing, spacing)
        slicer.util.updateVolumeFromArray(scan, values)
        logic = MedInterpLogic()
        with tempfile.TemporaryDirectory() as folder:
            logic.ask([scan], sphere_target((40.0, 40.0, 40.0), 6.0), Path(folder) / "study", halo=8)
            said, code = logic.process.wait()
            logic.finish()
            assert code == 0, said
            shown = logic.open(Path(folder) / "study", scan)
        (scene,) = shown.values()
        (map_node,) = scene.maps.values()
        found = np.unravel_index(np.abs(slicer.util.arrayFromVolume(map_node)).argmax(), shape)
        assert max(abs(a - 20) for a in found) <= 4, found
