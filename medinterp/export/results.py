"""What a Result becomes on disk: the study folder, written as a whole by the writers that were chosen."""

from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medinterp import registry
from medinterp.export.contents import StudyContents, Writer
from medinterp.export.deidentified import REMAINS, finish_deidentified
from medinterp.export.drawn import draw_maps, write_cluster_table, write_region_table
from medinterp.export.fusion_files import fusion_volumes, write_transforms
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.export.report import write_report
from medinterp.export.room import expected_bytes
from medinterp.export.run_record import RunFacts
from medinterp.export.sections import report_context
from medinterp.export.study import StudyFolder
from medinterp.io.deidentify import Deidentifier
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import Result

__all__ = ["RunFacts", "load_writers", "write_html_report", "write_study"]

_COMPRESSING = ("nifti", "nrrd", "slicer")  # needs no interpreter, so it runs beside DICOM headers, which need it all
_REPORT = "report"


def load_writers(names: Collection[str]) -> dict[str, Writer]:
    """Return writers by their registered names, in this order.

    Raises:
        PluginError: there is no such writer, or it needs a package that is not installed.
    """
    return {name: registry.load("writers", name) for name in names}


def write_study(
    result: Result,
    facts: RunFacts,
    folder: Path,
    *,
    writers: Mapping[str, Writer],
    overwrite: bool,
    remover: Deidentifier | None = None,
    on_step: OnStep = ignore,
) -> Path:
    """Write what a run found into one folder, which appears only when it is complete.

    Args:
        result: what the run found.
        facts: what else the record says.
        folder: where to.
        writers: those that write, by name; tables, transforms and records are always written.
        overwrite: replace a study that is there.
        remover: what took the patients out of the scans; their images are then copied beside the derived objects.
        on_step: told of every writer.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    contents = StudyContents(result, facts, tuple(draw_maps(result)))
    with StudyFolder(folder, overwrite=overwrite, expected_bytes=_room(result, writers, remover)) as study:
        if remover is not None:
            contents.notes.append(REMAINS)
        _run_writers(writers, contents, study.path, on_step)
        if remover is not None:
            finish_deidentified(result.inputs, study.path, remover)
        write_cluster_table(contents.drawn, study.path / "clusters.tsv")
        write_region_table(contents.drawn, study.path / "regions.tsv")
        if result.fusion is not None:
            write_transforms(result, result.fusion, study.path / "transforms")
        write_dataset_description(study.path, version=facts.versions["medinterp"])
        write_run_json(study.path, contents.record())
    on_step(StepInfo("export", len(writers), len(writers)))
    return folder


def write_html_report(contents: StudyContents, folder: Path) -> list[str]:
    """Write everything as one page; it lists the notes of the writers before it."""
    context = report_context(contents.result, contents.facts, contents.drawn, contents.record(), contents.notes)
    write_report(context, folder / "report.html")
    return []


def _run_writers(writers: Mapping[str, Writer], contents: StudyContents, folder: Path, on_step: OnStep) -> None:
    """Run the writers, those that compress beside the others, and the report when their notes are known."""
    beside = [writer for name, writer in writers.items() if name in _COMPRESSING]
    order = [name for name in writers if name not in (*_COMPRESSING, _REPORT)]
    with ThreadPoolExecutor(max_workers=1) as pool:
        compressed = pool.submit(lambda: [note for writer in beside for note in writer(contents, folder)])
        notes: list[str] = []
        for number, name in enumerate(order):
            on_step(StepInfo("export", number, len(writers), name))
            notes += writers[name](contents, folder)
        on_step(StepInfo("export", len(order), len(writers)))
        notes = [*compressed.result(), *notes]
    contents.notes.extend(dict.fromkeys(notes))  # what DICOM cannot tell, each of its writers says
    if _REPORT in writers:
        on_step(StepInfo("export", len(writers) - 1, len(writers), _REPORT))
        contents.notes.extend(writers[_REPORT](contents, folder))


def _room(result: Result, writers: Collection[str], remover: Deidentifier | None) -> int:
    """Return how many bytes the study may take; the files of a de-identified scan are copied."""
    read = [path for one in result.inputs.values() for path in one.scan.provenance.source.paths]
    copies = 0 if remover is None else sum(path.stat().st_size for path in read if path.exists())
    scans = sum(one.scan.voxels.size for one in result.inputs.values())
    maps = sum(
        volume.voxels.size
        for explained in result.explanations
        for group in (explained.maps, *explained.repeats.values())
        for volume in group.values()
    )
    fused = [] if result.fusion is None else [v.voxels.size for _, v, _, _ in fusion_volumes(result, result.fusion)]
    states = sum(state.voxels.size for one in result.inputs.values() for state in one.trajectory.values())
    return copies + expected_bytes(scans, maps + sum(fused) + states, writers)
