"""What the report is told: the run in words, a section for every input and explanation, the certificate as checks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE
from medinterp.export.canvas import Picture
from medinterp.export.certificate_words import full_checks
from medinterp.export.curves import curves_caption, draw_certificate
from medinterp.export.drawn import Drawn
from medinterp.export.fusion_section import fusion_section, weight_words
from medinterp.export.report import Check, ExplainedMap, ExplanationSection, InputSection, ReportContext
from medinterp.export.run_record import RunFacts
from medinterp.export.words import measure_words, quantity
from medinterp.results import ExplanationResult, FusionResult, InputResult, Result
from medinterp.volume import Region


def report_context(
    result: Result, facts: RunFacts, drawn: Sequence[Drawn], record: Mapping[str, Any], notes: Sequence[str]
) -> ReportContext:
    """Return everything the report shows.

    Args:
        result: what the run found.
        facts: what else there is to say.
        drawn: every map, ready to be shown.
        record: what ``run.json`` holds.
        notes: what could not be written, in words.
    """
    names = ", ".join(result.inputs)
    steps = facts.parameters["steps"]
    kind = "the posterior mean" if steps == 1 else f"sampler '{facts.parameters['sampler']}' with {steps} steps"
    done = "removed" if facts.parameters["whole"] else "removed where the explained measurements need it"
    summary = (
        f"The noise of {names} was estimated from the scan itself and {done} with the diffusion prior "
        f"'{facts.bundle}' ({kind}, started at the scan's own noise level)."
    )
    if result.fusion is not None:
        summary += f" {_fused_words(result.fusion)}"
    sections = tuple(_input_section(n, o, facts) for n, o in result.inputs.items())
    units = {name: one.scan.unit for name, one in result.inputs.items()}
    explained = tuple(
        _explanation_section(e, tuple(d for d in drawn if d.explanation is e), units) for e in result.explanations
    )
    return ReportContext(summary, sections, explained, record, tuple(notes), fusion=fusion_section(result))


def _fused_words(fusion: FusionResult) -> str:
    """Return how the fused image came about, in a sentence or two."""
    found = {a.registration.kind for a in fusion.alignments.values()}
    kinds = [word for kind, word in (("rigid", "rigid registration"), ("affine", "affine registration"),
                                     ("given", "the transform given")) if kind in found]  # fmt: skip
    placed = f", placed by {' and '.join(kinds)}," if kinds else ""
    moved = "interpolated once onto the first one's grid and fused" if fusion.on_own_grids else "fused on their grid"
    return f"The denoised images{placed} were {moved}: {weight_words(fusion)}."


def _input_section(name: str, one: InputResult, facts: RunFacts) -> InputSection:
    notes = list(one.scan.provenance.source.notes)
    if one.scan.modality not in facts.trained_on:
        notes.append(
            f"This prior was trained on {', '.join(facts.trained_on)}, not on {one.scan.modality}: treat the result "
            "as a trial."
        )
    if one.noise.colour is not None and one.noise.colour.is_coloured:
        notes.append(one.noise.colour.describe(told=one.noise.model == "coloured"))
    noise = one.noise
    silent = 0.0 if noise.map is None else float((noise.map.voxels == 0).mean())
    if silent:
        notes.append(
            f"{silent:.0%} of the voxels hold the scan's fill value in blocks (a mask, or padding): taken as free of "
            "noise, and left as they are."
        )
    return InputSection(
        name, one.scan, one.denoised, one.removed, noise.sigma, noise.low, noise.high, noise.model, noise.method,
        rows=_spectrum_rows(one), notes=tuple(notes),
    )  # fmt: skip


def _spectrum_rows(one: InputResult) -> tuple[tuple[str, str], ...]:
    """Return the in-plane noise power spectrum as three figures with their 95 % intervals: low, largest, high."""
    if one.noise.spectrum is None or one.noise.colour is None:
        return ()
    radial = one.noise.spectrum.radial()
    unit = "a.u." if one.scan.unit == "1" else one.scan.unit
    peak = int(radial.power.argmax())
    chosen = {"lowest frequency": 0, "largest": peak, "highest frequency": len(radial.power) - 1}
    rows = [
        (
            f"Noise power, {label}",
            f"{radial.power[n]:.3g} ± {radial.error[n]:.2g} {unit}² mm² at {radial.frequency_per_mm[n]:.2f}/mm",
        )
        for label, n in chosen.items()
    ]
    return (*rows, ("Noise power, measured in", f"{one.noise.spectrum.windows} windows of flat tissue"))


def _explanation_section(
    explained: ExplanationResult, drawn: tuple[Drawn, ...], scan_units: Mapping[str, str]
) -> ExplanationSection:
    checks: list[Check] = []
    rows: list[tuple[str, str]] = []
    pictures: list[tuple[Picture, str]] = []
    for name in explained.maps:
        label = f"{name}: " if len(explained.maps) > 1 else ""
        checks += _checks(label, explained, name)
        full = explained.certificates[name].full
        if full is not None:
            units = explained.unit, explained.maps[name].unit, scan_units[name]
            checks += full_checks(label, full, *units)
            made = draw_certificate(full, explained.unit)
            pictures += [] if made is None else [(made, f"{label}{curves_caption(full)}")]
        attribution = explained.attributions[name]
        exact = attribution.statistics.get("halo_error") == 0.0
        if attribution.baseline:
            change = attribution.value - attribution.baseline_value
            rows += [
                (f"{label}Compared with the baseline", measure_words(attribution.baseline)),
                (f"{label}The number on the baseline", quantity(attribution.baseline_value, explained.unit)),
                (f"{label}What the map divides", quantity(change, explained.unit)),
            ]
        rows += [
            (f"{label}{key.replace('_', ' ')}", f"{value:.4g}")
            for key, value in attribution.statistics.items()
            if not (exact and key.startswith("halo"))
        ]
    if explained.offset_share:
        rows.append(("Share of the intensity mapping's offset", quantity(explained.offset_share, explained.unit)))
    rows += [(f"Ledger: credit of {m}", quantity(credit, explained.unit)) for m, credit in explained.credits.items()]
    return ExplanationSection(
        target=f"{measure_words(explained.measure)} of {explained.region.name} at {_place(explained.region)}",
        method=explained.method,
        unit=explained.unit,
        value_before=explained.value_before,
        value_after=explained.value_after,
        maps=tuple(_explained_map(d) for d in drawn),
        checks=tuple(checks),
        pictures=tuple(pictures),
        rows=tuple(rows),
        notes=tuple(note for certificate in explained.certificates.values() for note in certificate.notes),
    )


def _place(region: Region) -> str:
    """Return where a region is, in letters and millimetres, and how large."""
    pairs = zip(("LR", "PA", "IS"), region.centre_mm, strict=True)
    sides = ", ".join(f"{letters[p >= 0]} {abs(p):.0f}" for letters, p in pairs)
    return f"{sides} mm ({int(region.mask.sum())} voxels)"


def _explained_map(drawn: Drawn) -> ExplainedMap:
    """Draw the region's outline where the map is on the region's own grid."""
    region = drawn.explanation.region
    same = region.grid.mismatch(drawn.overlay.map.grid) is None
    return ExplainedMap(drawn.input_name, drawn.overlay, drawn.clusters, region if same else None)


def _checks(label: str, explained: ExplanationResult, name: str) -> Iterator[Check]:
    certificate, attribution = explained.certificates[name], explained.attributions[name]
    divided = "the measurement's change from the baseline" if attribution.baseline else "the measurement"
    bound = "reported" if certificate.complete is None else "at most 1 %"
    yield Check(
        f"{label}Completeness residual", f"{certificate.residual:.1e}", bound, certificate.complete,
        f"How much of {divided} the map and the noise level's share leave unexplained.",
    )  # fmt: skip
    share = attribution.noise_share[name]
    if share or not attribution.baseline:  # on a path from a scan with the same noise level it has none
        yield Check(
            f"{label}Share of the assumed noise level", f"{share:.4g} {explained.unit}", "reported", None,
            "The part of the measurement that is owed to the noise level the model was told, not to any voxel.",
        )  # fmt: skip
    if certificate.convergence is not None:
        yield Check(
            f"{label}Convergence", f"{certificate.convergence:.1e}", "at most 10 %", certificate.converged,
            "How much the map changed when the number of path points, or of draws, was last doubled.",
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
            {SENSITIVE: True, INSENSITIVE: False}.get(random.verdict),
            f"Whether the map depends on what the model learned: {random.verdict}.",
        )  # fmt: skip
    by_value = "halo_error" not in attribution.statistics
    error = attribution.statistics.get("halo_value_error" if by_value else "halo_error")
    if error is not None:
        yield Check(
            f"{label}Crop error", f"{error:.1e}", "0 for the exact crop", None,
            f"How far the {'measurement' if by_value else 'map'} on the chosen crop is from the one with more context.",
        )  # fmt: skip
