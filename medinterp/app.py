"""The application: read inputs, run the pipeline, write the study; every door (CLI, Python, MONAI) ends here."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medinterp.attribution.by_name import division_without_path
from medinterp.catalogue import choose_writers, find_bundle, versions
from medinterp.export.fusion_section import fusion_lines
from medinterp.export.results import RunFacts, load_writers, write_study
from medinterp.io.deidentify import Deidentifier, deidentified
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.preparation import (
    Inputs,
    build_explanations,
    build_pipeline,
    check_explanations,
    check_output,
    choose_bundle,
    name_inputs,
    read_inputs,
    sampler_word,
)
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.resources import check_device, memory_budget, memory_errors, peak_memory_gb
from medinterp.results import ExplanationResult, Result
from medinterp.target_text import without_path


@dataclass(frozen=True)
class Study:
    """A finished study folder, the result it was written from, and the seconds it all took."""

    folder: Path
    result: Result
    facts: RunFacts
    seconds: float

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        lines = []
        for name, one in self.result.inputs.items():
            noise = one.noise
            lines.append(
                f"{name}: noise {noise.sigma:.4g} {one.scan.unit} ({noise.model}, 95 % interval {noise.low:.4g} to "
                f"{noise.high:.4g})"
            )
            if noise.colour is not None and noise.colour.is_coloured:
                lines.append(f"{name}: {noise.colour.describe(told=noise.model == 'coloured')}")
            if one.scan.modality not in self.facts.trained_on:
                lines.append(f"{name}: this prior was not trained on {one.scan.modality}; treat the result as a trial")
        if self.result.fusion is not None:
            lines += fusion_lines(self.result.fusion)
        for explained in self.result.explanations:
            claimed = [c.residual for c in explained.certificates.values() if c.complete is not None]
            account = f", completeness residual {max(claimed):.1e}" if claimed else ""
            lines.append(
                f"{explained.measure} of {explained.region.name}: {_before_and_after(explained)} ({explained.unit}); "
                f"{explained.method}{account}"
            )
            failed = sorted({note for c in explained.certificates.values() for note in c.notes})
            lines += [f"  check: {note}" for note in failed]
        peak = self.facts.peak_memory_gb
        lines.append(f"{self.seconds:.1f} s, peak memory {peak:.2f} GB. For research use only, not for diagnosis.")
        places = [("report", "report.html"), ("3D Slicer", "slicer"), ("volumes", "nifti"), ("DICOM", "dicom")]
        lines += [f"{label:<10}{self.folder / place}" for label, place in places if (self.folder / place).exists()]
        return "\n".join(lines)


def _before_and_after(explained: ExplanationResult) -> str:
    if explained.value_before is None:
        return f"{explained.value_after:.5g}"
    return f"{explained.value_before:.5g} before, {explained.value_after:.5g} after denoising"


def run(
    inputs: Inputs,
    output: str | Path,
    *,
    options: RunOptions | None = None,
    on_step: OnStep = ignore,
    **changes: Any,
) -> Study:
    """Denoise, fuse and explain scans, and write the study folder.

    Args:
        inputs: a path, or paths by modality name ({"t1": ..., "t2": ...}); NIfTI files or DICOM folders.
        output: folder to make.
        options: everything that can be chosen; single fields may be given as keywords instead.
        on_step: progress callback.
        **changes: fields of RunOptions.

    Raises:
        MedinterpError: see ``medinterp.errors``; nothing half-written is left in ``output``.
    """
    chosen = replace(options or RunOptions(), **changes)
    begun = time.perf_counter()
    named = name_inputs(inputs)
    place = check_output(output, named, chosen)
    device = check_device(chosen.device)
    if chosen.bundle is not None:
        find_bundle(chosen.bundle)  # what is misspelled is said before anything is read
    writers = load_writers(choose_writers(chosen.export, dicom=True))  # and so is a package that one needs
    remover = Deidentifier() if chosen.deidentify else None
    on_step(StepInfo("read", 0, len(named)))
    scans = read_inputs(named, chosen)
    if remover is not None:
        scans = deidentified(scans, remover)  # here, so that nothing after this line knows whose they are
    on_step(StepInfo("read", len(named), len(named)))
    dicom = any(scan.provenance.source.kind == "dicom" for scan in scans.values())
    writers = {name: writers[name] for name in choose_writers(chosen.export, dicom=dicom)}
    folder = choose_bundle(chosen, scans)
    pipeline = build_pipeline(folder, chosen, device)
    explanations = build_explanations(chosen)
    budget = memory_budget(chosen.max_memory_gb, device)
    check_explanations(pipeline, scans, explanations, chosen, budget)
    loaded = time.perf_counter() - begun
    with memory_errors():
        result = pipeline.run(
            scans,
            explanations,
            seed=chosen.seed,
            device=str(device),
            max_bytes=budget,
            whole=chosen.whole,
            on_step=on_step,
        )
    seconds = {"load": loaded, **result.seconds}
    facts = _facts(folder.name, pipeline, chosen, seconds)
    written = write_study(
        result, facts, place, writers=writers, overwrite=chosen.overwrite, remover=remover, on_step=on_step
    )
    return Study(written, result, facts, time.perf_counter() - begun)


def _facts(bundle: str, pipeline: Pipeline, options: RunOptions, seconds: Mapping[str, float]) -> RunFacts:
    """Return what the run record says beside the results: every choice, and no path."""
    parameters = {k: v for k, v in asdict(options).items() if k not in ("overwrite", "dry_run")}
    parameters["targets"] = [without_path(t) for t in options.targets]
    for key in ("transforms", "register_masks"):  # names of inputs, not of files
        parameters[key] = [text.partition("=")[0] for text in parameters[key]]
    parameters["supervoxels"] = division_without_path(options.supervoxels)
    parameters |= {"bundle": bundle, "sampler": sampler_word(pipeline.sampler), "steps": pipeline.steps}
    return RunFacts(
        bundle=bundle,
        weights_sha256=str(getattr(pipeline.denoiser, "weights_sha256", "")),
        trained_on=tuple(pipeline.modalities),
        parameters=parameters,
        versions=versions(),
        seconds=seconds,
        peak_memory_gb=peak_memory_gb(),
    )


def run_bundle(bundle_root: str, scan: str, output: str, **options: Any) -> Study:
    """Run a bundle from ``python -m monai.bundle run``: the same path with the bundle's own configuration."""
    listed = {name: tuple(value) for name, value in options.items() if name in ("targets", "methods")}
    return run(scan, output, bundle=bundle_root, **(options | listed))
