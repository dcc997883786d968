"""What the run record of a study says: inputs by hash, choices, versions, timings and figures; no paths."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medinterp.attribution import RegionAttribution
from medinterp.noise.estimate import NoiseEstimate
from medinterp.results import ExplanationResult, FusionResult, InputResult, Result


@dataclass(frozen=True)
class RunFacts:
    """What the run record says beside the results.

    Args:
        bundle: its name.
        weights_sha256: hash of the weights.
        trained_on: modalities of the prior.
        parameters: everything that was chosen; no paths.
        versions: of medinterp and the packages that shape results.
        seconds: by stage, up to the export.
        peak_memory_gb: of the process.
    """

    bundle: str
    weights_sha256: str
    trained_on: tuple[str, ...]
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    peak_memory_gb: float


def run_record(result: Result, facts: RunFacts, notes: Sequence[str]) -> dict[str, Any]:
    """Return what ``run.json`` holds, but for the list of files.

    Args:
        result: what the run found.
        facts: what else there is to say.
        notes: what could not be written, in words.
    """
    return {
        **facts_record(facts),
        "inputs": {name: input_record(one) for name, one in result.inputs.items()},
        **({} if result.fusion is None else {"fusion": fusion_record(result.fusion, next(iter(result.inputs)))}),
        "explanations": [explanation_record(explained) for explained in result.explanations],
        "seed": result.seed,
        "device": result.device,
        "tiles": {m: list(tile) if tile else None for m, tile in result.tiles.items()},
        "notes": list(notes),
    }


def facts_record(facts: RunFacts) -> dict[str, Any]:
    """Return what every record says about its run, beside the results."""
    return {
        "research_use_only": True,
        "bundle": {"name": facts.bundle, "weights_sha256": facts.weights_sha256, "trained_on": list(facts.trained_on)},
        "parameters": dict(facts.parameters),
        "versions": dict(facts.versions),
        "seconds": {stage: round(seconds, 3) for stage, seconds in facts.seconds.items()},
        "peak_memory_gb": round(facts.peak_memory_gb, 3),
    }


def input_record(one: InputResult) -> dict[str, Any]:
    """Return what the record says of one input: its hash, grid, noise and steps; no path."""
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
                  "method": noise.method,
                  "noise_free_share": 0.0 if noise.map is None else float((noise.map.voxels == 0).mean()),
                  **_colour_record(noise)},
        "steps": [{"name": s.name, **s.parameters} for s in one.shown.provenance.steps],
    }  # fmt: skip


def fusion_record(fusion: FusionResult, reference: str) -> dict[str, Any]:
    """Return what the run record and the sidecars say of the fused image: how it came about, in numbers.

    Args:
        fusion: what was fused.
        reference: name of the input on whose grid it lies.
    """
    record: dict[str, Any] = {
        "reference": reference,
        "fuser": fusion.fuser,
        "options": dict(fusion.options),
        "intensity_mapping": {
            m: {"offset": s.offset, "level": s.level, "formula": "(value + offset) / level"}
            for m, s in fusion.scales.items()
        },
        "mean_weight": dict(fusion.mean_weights),
        "registration": {m: _registration_record(fusion, m) for m in fusion.alignments},
    }
    if fusion.ledger is not None:
        found = fusion.ledger
        record["ledger"] = {
            "shares": dict(found.shares), "efficiency_gap": found.gap, "evaluations": found.evaluations,
            "displaced_share": found.displaced_share, "worst_displacement": found.worst_displacement,
            "warning": found.warning,
        }  # fmt: skip
    return record


def _registration_record(fusion: FusionResult, name: str) -> dict[str, Any]:
    found = fusion.alignments[name].registration
    consistency = found.consistency
    return {
        "kind": found.kind,
        "matrix_reference_to_scan_ras_mm": found.transform.matrix.tolist(),
        "angle_deg": found.transform.angle_deg,
        "shift_mm": found.shift_mm,
        "mutual_information_bits": {"before": found.information_before, "after": found.information_after},
        "inverse_consistency_mm": None if consistency is None else
        {"median": consistency.median_mm, "largest": consistency.largest_mm},
    }  # fmt: skip


def _colour_record(noise: NoiseEstimate) -> dict[str, Any]:
    """Return what is known of the colour of a scan's noise; nothing where it could not be measured."""
    if noise.colour is None or noise.spectrum is None:
        return {}
    colour = noise.colour
    return {
        "coloured": colour.is_coloured,
        "spectrum_used": noise.model == "coloured",
        "power_spectrum": noise.spectrum.as_record(),
        "correlation_length_mm": [round(mm, 3) for mm in colour.width_mm],
        "neighbour_correlation": [round(r, 3) for r in colour.neighbours],
        "interpolated": list(colour.interpolated),
        "colour": colour.describe(told=noise.model == "coloured"),
    }


def explanation_record(explained: ExplanationResult) -> dict[str, Any]:
    """Return what the record says of one explanation: target, numbers, and every map's account and certificate."""
    return {
        "target": explained.region.name,
        "measure": explained.measure,
        "method": explained.method,
        "asked": explained.asked,
        "unit": explained.unit,
        "value_before": explained.value_before,
        "value_after": explained.value_after,
        **({"offset_share": explained.offset_share} if explained.offset_share else {}),
        **({"ledger": dict(explained.credits)} if explained.credits else {}),
        "region_voxels": int(explained.region.mask.sum()),
        "region_centre_ras_mm": [round(p, 3) for p in explained.region.centre_mm],
        "maps": {
            name: {
                "kind": attribution.kind,
                "residual": attribution.residual,
                "noise_share": dict(attribution.noise_share),
                "convergence": attribution.convergence,
                "baseline": attribution.baseline or None,
                "baseline_value": attribution.baseline_value if attribution.baseline else None,
                "evaluations": attribution.evaluations,
                **({"divided_by": attribution.divided_by} if isinstance(attribution, RegionAttribution) else {}),
                "statistics": dict(attribution.statistics),
                "certificate": asdict(explained.certificates[name]),
            }
            for name, attribution in explained.attributions.items()
        },
    }
