"""What a Result becomes on disk: the study folder, written as a whole."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medinterp.export.drawn import Drawn, draw_maps, write_cluster_table, write_region_table
from medinterp.export.fusion_files import fusion_volumes, write_fused_dicom, write_fused_images
from medinterp.export.input_files import write_dicom, write_slicer_scene, write_volumes
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.export.report import write_report
from medinterp.export.run_record import RunFacts, run_record
from medinterp.export.sections import report_context
from medinterp.export.study import StudyFolder, expected_bytes
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import Result

__all__ = ["RunFacts", "write_study"]


def write_study(
    result: Result,
    facts: RunFacts,
    folder: Path,
    *,
    exports: Collection[str],
    overwrite: bool,
    on_step: OnStep = ignore,
) -> Path:
    """Write what a run found into one folder, which appears only when it is complete.

    Args:
        result: of the run.
        facts: about the run.
        folder: to make.
        exports: which kinds of files: "nifti", "dicom", "slicer", "report". The run's record and the tables are always
            written.
        overwrite: replace a folder that is there.
        on_step: progress callback.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    drawn = list(draw_maps(result))
    fused = 0 if result.fusion is None else sum(v.voxels.size for _, v, _, _ in fusion_volumes(result, result.fusion))
    room = expected_bytes(
        sum(one.scan.voxels.size for one in result.inputs.values()),
        sum(
            v.voxels.size
            for e in result.explanations
            for group in (e.maps, *e.repeats.values())
            for v in group.values()
        )
        + fused,
    )
    stages = len(result.inputs) + 1
    with StudyFolder(folder, overwrite=overwrite, expected_bytes=room) as study:
        notes: list[str] = []
        with ThreadPoolExecutor(max_workers=1) as beside:  # compressing needs no interpreter, DICOM headers need it all
            images = []
            for number, name in enumerate(result.inputs):
                on_step(StepInfo("export", number, stages, name))
                own = [d for d in drawn if d.input_name == name]
                images.append(beside.submit(_write_images, name, result, own, study.path, exports))
                if "dicom" in exports:
                    notes += write_dicom(name, result.inputs[name], own, study.path / "dicom")
            if result.fusion is not None:
                images.append(beside.submit(write_fused_images, result, result.fusion, study.path, exports))
                notes += write_fused_dicom(result, study.path / "dicom") if "dicom" in exports else []
            on_step(StepInfo("export", stages - 1, stages, "report"))
            record = run_record(result, facts, notes)
            if "report" in exports:
                write_report(report_context(result, facts, drawn, record, notes), study.path / "report.html")
            for image in images:
                image.result()
        write_cluster_table(drawn, study.path / "clusters.tsv")
        write_region_table(drawn, study.path / "regions.tsv")
        write_dataset_description(study.path, version=facts.versions["medinterp"])
        write_run_json(study.path, record)
    on_step(StepInfo("export", stages, stages))
    return folder


def _write_images(name: str, result: Result, drawn: list[Drawn], folder: Path, exports: Collection[str]) -> None:
    """Write the volumes and the scene of one input, as far as they are wanted."""
    written = write_volumes(name, result, drawn, folder / "nifti") if "nifti" in exports else {}
    if "slicer" in exports:
        write_slicer_scene(name, result.inputs[name], drawn, folder / "slicer", written)
