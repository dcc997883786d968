"""What a Result becomes on disk: which files a study holds, and what each is called."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medinterp.errors import InputError
from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import Clusters, default_threshold, make_overlay, search_clusters
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.export.report import Check, ExplainedMap, ExplanationSection, InputSection, ReportContext, write_report
from medinterp.export.study import StudyFolder, expected_bytes
from medinterp.export.words import method_words
from medinterp.io.dicom_derived import write_dicom_series
from medinterp.io.dicom_pm import write_parametric_map
from medinterp.io.dicom_seg import write_segmentation
from medinterp.io.dicom_template import template_headers
from medinterp.io.nifti import write_nifti
from medinterp.io.slicer_scene import pack_mrb, write_scene
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import ExplanationResult, InputResult, Result
from medinterp.volume import Overlay, Region


@dataclass(frozen=True)
class RunFacts:
    """What the run record says beside the results.

    Args:
        bundle: its name.
        weights_sha256: hash of the weights.
        trained_on: modalities of the prior.
        parameters: everything that was chosen; no paths.
        versions: of medinterp and the packages that shape results.
        seconds: by stage, and "total".
        peak_memory_gb: of the process.
    """

    bundle: str
    weights_sha256: str
    trained_on: tuple[str, ...]
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    peak_memory_gb: float


@dataclass(frozen=True, eq=False)
class _Drawn:
    """One map of one explanation, ready to be shown: which input, which explanation, overlay and clusters."""

    input_name: str
    explanation: ExplanationResult
    overlay: Overlay
    clusters: Clusters


def write_study(result: Result, facts: RunFacts, folder: Path, *, overwrite: bool, on_step: OnStep = ignore) -> Path:
    """Write everything a run found into one folder, which appears only when it is complete.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    drawn = list(_draw(result))
    room = expected_bytes(
        sum(one.scan.voxels.size for one in result.inputs.values()),
        sum(v.voxels.size for e in result.explanations for v in e.maps.values()),
    )
    with StudyFolder(folder, overwrite=overwrite, expected_bytes=room) as study:
        notes: list[str] = []
        stages = len(result.inputs) + 1
        for number, (name, one) in enumerate(result.inputs.items()):
            on_step(StepInfo("export", number, stages, name))
            own = [d for d in drawn if d.input_name == name]
            _write_nifti(name, one, own, study.path / "nifti", result)
            _write_scene(name, one, own, study.path / "slicer")
            notes += _write_dicom(name, one, own, study.path / "dicom")
        _write_cluster_table(drawn, study.path / "clusters.tsv")
        on_step(StepInfo("export", stages - 1, stages, "report"))
        record = run_record(result, facts, notes)
        write_report(_report_context(result, facts, drawn, record, tuple(notes)), study.path / "report.html")
        write_dataset_description(study.path, version=facts.versions["medinterp"])
        write_run_json(study.path, record)
    on_step(StepInfo("export", stages, stages))
    return folder


def run_record(result: Result, facts: RunFacts, notes: list[str]) -> dict[str, Any]:
    """Return what ``run.json`` holds: inputs by hash, parameters, versions, timings, figures; no paths."""
    return {
        "research_use_only": True,
        "bundle": {"name": facts.bundle, "weights_sha256": facts.weights_sha256, "trained_on": list(facts.trained_on)},
        "inputs": {name: _input_record(one) for name, one in result.inputs.items()},
        "explanations": [_explanation_record(explained) for explained in result.explanations],
        "parameters": dict(facts.parameters),
        "seed": result.seed,
        "device": result.device,
        "tiles": {m: list(tile) if tile else None for m, tile in result.tiles.items()},
        "versions": dict(facts.versions),
        "seconds": {stage: round(seconds, 3) for stage, seconds in facts.seconds.items()},
        "peak_memory_gb": round(facts.peak_memory_gb, 3),
        "notes": notes,
    }


def _input_record(one: InputResult) -> dict[str, Any]:
    source, noise = one.scan.provenance.source, one.noise
    return {
        "kind": source.kind,
        "sha256": source.sha256,
        "modality": one.scan.modality,
        "unit": one.scan.unit,
        "shape": list(one.scan.grid.shape),
        "spacing_mm": [round(s, 6) for s in one.scan.grid.spacing_mm],
        "affine_ras_mm": one.scan.grid.affine.tolist(),
        "notes": list(source.notes),
        "noise": {"sigma": noise.sigma, "low": noise.low, "high": noise.high, "model": noise.model,
                  "method": noise.method},
        "steps": [{"name": s.name, **s.parameters} for s in one.shown.provenance.steps],
    }  # fmt: skip


def _explanation_record(explained: ExplanationResult) -> dict[str, Any]:
    return {
        "target": explained.region.name,
        "measure": explained.measure,
        "method": explained.method,
        "unit": explained.unit,
        "value_before": explained.value_before,
        "value_after": explained.value_after,
        "region_voxels": int(explained.region.mask.sum()),
        "region_centre_ras_mm": [round(p, 3) for p in explained.region.centre_mm],
        "maps": {
            name: {
                "kind": attribution.kind,
                "residual": attribution.residual,
                "noise_share": dict(attribution.noise_share),
                "convergence": attribution.convergence,
                "evaluations": attribution.evaluations,
                "statistics": dict(attribution.statistics),
                "certificate": asdict(explained.certificates[name]),
            }
            for name, attribution in explained.attributions.items()
        },
    }


def _draw(result: Result) -> Iterator[_Drawn]:
    seen: dict[str, int] = {}
    for explained in result.explanations:
        words = f"{explained.method.replace('_', '')}-{explained.measure}"
        seen[words] = seen.get(words, 0) + 1
        name = words if seen[words] == 1 else f"{words}-{seen[words]}"
        for input_name, volume in explained.maps.items():
            clusters = search_clusters(volume, threshold=default_threshold(volume))
            title = method_words(explained.method).title
            overlay = make_overlay(
                result.inputs[input_name].shown, volume, name=name, signed=True, clusters=clusters,
                description=f"{title} of the {explained.measure} in {explained.region.name}",
            )  # fmt: skip
            yield _Drawn(input_name, explained, overlay, clusters)


def _write_nifti(name: str, one: InputResult, drawn: list[_Drawn], folder: Path, result: Result) -> None:
    folder.mkdir(exist_ok=True)
    stem, suffix = stem_and_suffix(name, one.scan.modality)
    noise = one.noise
    about = {"ResearchUseOnly": True, "Sigma": noise.sigma, "NoiseModel": noise.model, "Seed": result.seed}
    images = [("sigma", one.sigma, "noise standard deviation", False)]
    if one.denoised is not None and one.removed is not None:
        images.append(("denoised", one.denoised, "denoised image", False))
        images.append(("removednoise", one.removed, "scan minus denoised image", True))
    if result.fusion is not None:
        images.append(("contribution", result.fusion.contributions[name], f"what {name} adds to the fused image", True))
        if name == next(iter(result.inputs)):
            images.append(("fused", result.fusion.fused, "fused image", False))
    for desc, volume, description, signed in images:
        path = folder / bids_name(stem, desc=desc, suffix=suffix)
        write_nifti(volume, path, description=description, sidecar=about, signed=signed)
    for d in drawn:
        sidecar = {**about, **_explanation_record(d.explanation)["maps"][name], "Method": d.explanation.method}
        path = folder / bids_name(stem, desc=d.overlay.name.replace("-", ""), suffix="map")
        write_nifti(d.overlay.map, path, description=d.overlay.description, sidecar=sidecar, signed=True)


def _write_scene(name: str, one: InputResult, drawn: list[_Drawn], folder: Path) -> None:
    overlays = [d.overlay for d in drawn]
    if one.removed is not None:
        nothing = search_clusters(one.removed, threshold=float("inf"))
        about = "scan minus denoised image"
        overlays.append(
            make_overlay(one.shown, one.removed, name="removed-noise", description=about, signed=True, clusters=nothing)
        )
    write_scene(one.shown, overlays, folder / name)
    pack_mrb(folder / name, folder / f"{name}.mrb")


def _write_dicom(name: str, one: InputResult, drawn: list[_Drawn], folder: Path) -> list[str]:
    """Write the DICOM objects of one input; a scan whose place in the patient is unknown gets none, and a note."""
    try:
        headers = template_headers(one.scan)
    except InputError as refusal:
        return [f"{name}: no DICOM was written: {refusal}"]
    folder.mkdir(exist_ok=True)
    if one.denoised is not None:
        write_dicom_series(
            one.denoised, one.scan, folder / f"{name}-denoised", description=f"{name} denoised", series_number=9001
        )
    for number, d in enumerate(drawn):
        label, first = d.overlay.name, 9100 + 10 * number
        write_dicom_series(
            d.overlay.map, one.scan, folder / f"{name}-{label}", description=d.overlay.description, series_number=first
        )
        write_parametric_map(
            d.overlay.map, headers, folder / f"{name}-{label}-pm.dcm", quantity=d.explanation.method,
            description=d.overlay.description, series_number=first + 1,
        )  # fmt: skip
        if d.clusters.segmentation.segments:
            write_segmentation(
                d.clusters.segmentation, headers, folder / f"{name}-{label}-clusters.dcm",
                description=f"Clusters of {d.overlay.description}", series_number=first + 2,
            )  # fmt: skip
    return [f"{name}: the {d.overlay.name} map has no cluster, so there is no segmentation"
            for d in drawn if not d.clusters.segmentation.segments]  # fmt: skip


def _write_cluster_table(drawn: list[_Drawn], path: Path) -> None:
    columns = ["input", "map", "cluster", "sign", "peak_x_mm", "peak_y_mm", "peak_z_mm", "peak_value", "volume_mm3",
               "sum", "unit"]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(columns)
        for d in drawn:
            for s in d.clusters.segmentation.segments:
                place = [f"{p:.3f}" for p in s.peak_mm]
                table.writerow([d.input_name, d.overlay.name, s.label, f"{s.sign:+d}", *place, f"{s.peak_value:.6g}",
                                f"{s.volume_mm3:.6g}", f"{s.total:.6g}", d.overlay.map.unit])  # fmt: skip


def _report_context(
    result: Result, facts: RunFacts, drawn: list[_Drawn], record: Mapping[str, Any], notes: tuple[str, ...]
) -> ReportContext:
    names = ", ".join(result.inputs)
    steps = facts.parameters["steps"]
    kind = "the posterior mean" if steps == 1 else f"sampler '{facts.parameters['sampler']}' with {steps} steps"
    done = "removed" if facts.parameters["whole"] else "removed where the explained measurements need it"
    summary = (
        f"The noise of {names} was estimated from the scan itself and {done} with the diffusion prior "
        f"'{facts.bundle}' ({kind}, started at the scan's own noise level)."
    )
    if result.fusion is not None:
        summary += " The denoised images were interpolated onto the first one's grid and fused."
    sections = tuple(_input_section(n, o, facts) for n, o in result.inputs.items() if o.denoised is not None)
    explained = tuple(
        _explanation_section(e, tuple(d for d in drawn if d.explanation is e)) for e in result.explanations
    )
    return ReportContext(summary, sections, explained, record, notes)


def _input_section(name: str, one: InputResult, facts: RunFacts) -> InputSection:
    notes = list(one.scan.provenance.source.notes)
    if one.scan.modality not in facts.trained_on:
        notes.append(
            f"This prior was trained on {', '.join(facts.trained_on)}, not on {one.scan.modality}: treat the result "
            "as a trial."
        )
    noise, removed = one.noise, one.scan if one.removed is None else one.removed
    return InputSection(
        name, one.scan, one.shown, removed, noise.sigma, noise.low, noise.high, noise.model, noise.method,
        notes=tuple(notes),
    )  # fmt: skip


def _explanation_section(explained: ExplanationResult, drawn: tuple[_Drawn, ...]) -> ExplanationSection:
    checks: list[Check] = []
    rows: list[tuple[str, str]] = []
    for name in explained.maps:
        label = f"{name}: " if len(explained.maps) > 1 else ""
        checks += _checks(label, explained, name)
        attribution = explained.attributions[name]
        exact = attribution.statistics.get("halo_error") == 0.0
        rows += [
            (f"{label}{key.replace('_', ' ')}", f"{value:.4g}")
            for key, value in attribution.statistics.items()
            if not (exact and key.startswith("halo"))
        ]
    return ExplanationSection(
        target=f"{explained.measure} of {explained.region.name} at {_place(explained.region)}",
        method=explained.method,
        unit=explained.unit,
        value_before=explained.value_before,
        value_after=explained.value_after,
        maps=tuple(_explained_map(d) for d in drawn),
        checks=tuple(checks),
        rows=tuple(rows),
        notes=tuple(note for certificate in explained.certificates.values() for note in certificate.notes),
    )


def _place(region: Region) -> str:
    """Return where a region is, in letters and millimetres, and how large."""
    pairs = zip(("LR", "PA", "IS"), region.centre_mm, strict=True)
    sides = ", ".join(f"{letters[p >= 0]} {abs(p):.0f}" for letters, p in pairs)
    return f"{sides} mm ({int(region.mask.sum())} voxels)"


def _explained_map(drawn: _Drawn) -> ExplainedMap:
    """Draw the region's outline where the map is on the region's own grid."""
    region = drawn.explanation.region
    same = region.grid.mismatch(drawn.overlay.map.grid) is None
    return ExplainedMap(drawn.input_name, drawn.overlay, drawn.clusters, region if same else None)


def _checks(label: str, explained: ExplanationResult, name: str) -> Iterator[Check]:
    certificate, attribution = explained.certificates[name], explained.attributions[name]
    yield Check(
        f"{label}Completeness residual", f"{certificate.residual:.1e}", "at most 1 %", certificate.complete,
        "How much of the measurement the map and the noise level's share leave unexplained.",
    )  # fmt: skip
    share = attribution.noise_share[name]
    yield Check(
        f"{label}Share of the assumed noise level", f"{share:.4g} {explained.unit}", "reported", None,
        "The part of the measurement that is owed to the noise level the model was told, not to any voxel.",
    )  # fmt: skip
    if certificate.convergence is not None:
        yield Check(
            f"{label}Convergence", f"{certificate.convergence:.1e}", "at most 1 %", certificate.converged,
            "How much the map changed when the number of path points was last doubled.",
        )  # fmt: skip
    if certificate.homogeneity is not None:
        yield Check(
            f"{label}Exact linear account", f"{certificate.homogeneity:.1e}", "at most 1e-5", certificate.homogeneous,
            "Whether the denoised image is exactly its own Jacobian applied to the scan and the noise level.",
        )  # fmt: skip
    if certificate.randomisation is not None:
        random = certificate.randomisation
        yield Check(
            f"{label}Weight randomisation", f"r = {random.correlation:.2f}", f"|r| at most {random.threshold:.2f}",
            abs(random.correlation) <= random.threshold,
            f"Whether the map depends on what the model learned: {random.verdict}.",
        )  # fmt: skip
    error = attribution.statistics.get("halo_error")
    if error is not None:
        yield Check(
            f"{label}Crop error", f"{error:.1e}", "0 for the exact crop", None,
            "How far the map on the chosen crop is from the map with more context.",
        )  # fmt: skip
