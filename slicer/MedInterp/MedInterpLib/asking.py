"""Asking medinterp about a loaded scan and showing its answers, in Slicer's core, without widgets."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer
from MedInterpLib import nodes
from MedInterpLib.command import Question, QuestionError, find_program
from MedInterpLib.process import Process
from MedInterpLib.study import read_study


NAMES = ("scan", "second", "third", "fourth")
"""Of the scans in a study; those of Slicer's nodes may name a patient."""


class Asking:
    """One question at a time about volumes of an MRML scene.

    Args:
        mrml: the scene.
        environment: of medinterp's process; None for this process's.
    """

    def __init__(self, mrml: Any, environment: Mapping[str, str] | None = None) -> None:
        self.mrml, self.environment = mrml, environment
        self.process: Process | None = None
        self._output: Path | None = None
        self._work: tempfile.TemporaryDirectory[str] | None = None

    def ask(
        self,
        scans: Sequence[Any],
        target: str | tuple[Any, str],
        output: Path,
        *,
        program: str = "",
        **options: Any,
    ) -> Process:
        """Write the scans, and the segment asked about, where medinterp reads them, and start it.

        Args:
            scans: volume nodes, the first of them the one that the others are fused with; they get ``NAMES``.
            target: text of a target, or (segmentation node, segment ID).
            output: study folder to make.
            program: medinterp's; empty for the one on the path.
            **options: further fields of ``Question``.

        Raises:
            QuestionError: the question cannot be asked like this, or one is being answered.
            NodeError: a node cannot be written.
        """
        if self.process is not None and self.process.running:
            raise QuestionError("medinterp is still answering the last question: wait for it, or cancel it")
        found = find_program(program)
        self.finish()
        self._work = tempfile.TemporaryDirectory(prefix="medinterp-")
        try:
            arguments = self._question(scans, target, output, **options).arguments()
        except Exception:
            self.finish()
            raise
        self.process, self._output = Process([found, *arguments], self.environment), output
        return self.process

    def cancel(self) -> None:
        """Ask what runs to end, and return at once; poll the process until it has, and then ``finish``."""
        if self.process is not None:
            self.process.cancel()

    def finish(self) -> None:
        """Remove what was written for the process; one that runs is ended first, which may take seconds."""
        if self.process is not None and self.process.running:
            self.process.cancel()
            self.process.wait()
        if self.process is not None and self.process.cancelled and self._output is not None:
            self._clear_after_kill(self._output, self.process.pid)
        self.process = self._output = None
        if self._work is not None:
            self._work.cleanup()
            self._work = None

    def _clear_after_kill(self, output: Path, pid: int) -> None:
        """Remove the hidden folder in which a killed process was writing; one that ended by itself leaves none."""
        for path in output.parent.iterdir() if output.parent.is_dir() else ():
            if path.name.startswith(f".{output.name}.partial-{pid}-"):
                shutil.rmtree(path, ignore_errors=True)

    def open(self, folder: Path, beside: Any = None) -> dict[str, nodes.ShownScene]:
        """Show a study; its nodes lie in a folder of their own, in the study of a scan where one is given.

        Raises:
            StudyError: it is none.
            NodeError: a file of it cannot be read.
        """
        shown = nodes.show_study(read_study(folder), self.mrml)
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.mrml)
        if tree is not None:
            parent = tree.GetSceneItemID() if beside is None else tree.GetItemParent(tree.GetItemByDataNode(beside))
            item = tree.CreateFolderItem(parent, "medinterp: research use only")
            for scene in shown.values():
                states = [] if scene.trajectory is None else [scene.trajectory]
                for node in (scene.base, *scene.maps.values(), *scene.clusters.values(), *states):
                    tree.SetItemParent(tree.GetItemByDataNode(node), item)
        return shown

    def _question(
        self, scans: Sequence[Any], target: str | tuple[Any, str], output: Path, **options: Any
    ) -> Question:
        if not 1 <= len(set(scans)) == len(scans) <= len(NAMES):
            raise QuestionError(f"choose one scan, and up to {len(NAMES) - 1} different ones to fuse it with")
        folder, files = Path(str(self._work.name if self._work else "")), {}
        for name, scan in zip(NAMES, scans, strict=False):
            files[name] = folder / f"{name}.nii.gz"
            nodes.write_volume(scan, files[name])
            nodes.write_modality(scan, folder / f"{name}.json")
        if not isinstance(target, str):
            nodes.write_segment(*target, scans[0], folder / "target.nii.gz")
            target = str(folder / "target.nii.gz")
        return Question(files, output, target, **options)
