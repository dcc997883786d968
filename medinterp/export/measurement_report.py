"""The numbers of a study as DICOM structured reports: noise, measurements, certificates, regions, clusters."""

from collections.abc import Iterator
from pathlib import Path

from medinterp.assessment.certificate import Certificate
from medinterp.assessment.full import FullChecks
from medinterp.attribution import RegionAttribution
from medinterp.export.contents import StudyContents
from medinterp.export.dicom_files import DICOM
from medinterp.export.drawn import Drawn
from medinterp.export.words import measure_words
from medinterp.io.dicom_sr import Reading, ReadingGroup, write_measurement_report
from medinterp.results import InputResult

MOST_REGIONS = 100
"""Of a method over regions: the strongest; ``regions.tsv`` holds all."""
_SERIES = 9002


def write_structured_reports(contents: StudyContents, folder: Path) -> list[str]:
    """Write one structured report (TID 1500) for every input, with all numbers that were found on it."""
    notes: list[str] = []
    facts, result = contents.facts, contents.result
    parameters = (f"bundle: {facts.bundle}", f"weights: {facts.weights_sha256[:16]}", f"seed: {result.seed}")
    for name, one, headers in contents.in_dicom(notes):
        groups = [_noise(name, one)]
        for drawn in contents.drawn_on(name):
            groups += [_explained(drawn), *_clusters(drawn), *_regions(drawn, notes)]
        write_measurement_report(
            groups, headers, folder / DICOM / f"{name}-measurements.dcm",
            description=f"Measurements on {name}", parameters=parameters, series_number=_SERIES,
        )  # fmt: skip
    return notes


def _noise(name: str, one: InputResult) -> ReadingGroup:
    """Return the noise level with its 95 % interval."""
    noise, unit = one.noise, one.scan.unit
    reading = Reading("Noise standard deviation", noise.sigma, unit, noise.high - noise.sigma, noise.sigma - noise.low)
    return ReadingGroup(f"Noise of {name}", (reading,), (("Noise model", noise.model),), method=noise.method)


def _explained(drawn: Drawn) -> ReadingGroup:
    """Return an explained measurement with the certificate of its map."""
    explained, certificate = drawn.explanation, drawn.explanation.certificates[drawn.input_name]
    words, unit, region = measure_words(explained.measure), explained.unit, explained.region
    readings = []
    if explained.value_before is not None:
        readings.append(Reading(f"{words} before denoising", explained.value_before, unit))
    readings.append(Reading(f"{words} after denoising", explained.value_after, unit))
    readings.append(Reading("Volume", int(region.mask.sum()) * region.grid.voxel_volume_mm3, "mm3"))
    readings += _figures(certificate, drawn)
    if certificate.full is not None:
        readings += _full_figures(certificate.full, unit)
    verdicts = [("Certificate", "passed" if certificate.passed else "failed")]
    if certificate.randomisation is not None:
        verdicts.append(("Dependence on the model", certificate.randomisation.verdict))
    title = f"{words} of {region.name}: {drawn.overlay.name}"
    return ReadingGroup(title, tuple(readings), tuple(verdicts), region.centre_mm, explained.method)


def _figures(certificate: Certificate, drawn: Drawn) -> Iterator[Reading]:
    """Yield the numbers of a basic certificate."""
    yield Reading("Completeness residual", certificate.residual)
    share = drawn.explanation.attributions[drawn.input_name].noise_share[drawn.input_name]
    yield Reading("Share of the assumed noise level", share, drawn.explanation.unit)
    if certificate.convergence is not None:
        yield Reading("Convergence of the map", certificate.convergence)
    if certificate.homogeneity is not None:
        yield Reading("Homogeneity residual", certificate.homogeneity)
    if certificate.randomisation is not None:
        yield Reading("Correlation with the map of a random network", certificate.randomisation.correlation)


def _full_figures(checks: FullChecks, unit: str) -> Iterator[Reading]:
    """Yield the numbers of a full certificate; leads over random orders with their 95 % intervals."""
    if checks.stability is not None:
        yield Reading("Overlap of strongest voxels over repeats", checks.stability.top_dice)
        yield Reading("Sign agreement over repeats", checks.stability.sign_agreement)
    if checks.faithfulness is not None:
        for name, lead in (("Deletion", checks.faithfulness.deletion_over_random),
                           ("Insertion", checks.faithfulness.insertion_over_random)):  # fmt: skip
            above, below = lead.high - lead.value, lead.value - lead.low
            yield Reading(f"{name}: lead over random orders", lead.value, unit, above, below)
    if checks.infidelity is not None:
        yield Reading("Infidelity, root mean square", checks.infidelity.rms, unit)
    if checks.max_sensitivity is not None and checks.max_sensitivity.relative is not None:
        yield Reading("Max-sensitivity, relative", checks.max_sensitivity.relative)


def _clusters(drawn: Drawn) -> Iterator[ReadingGroup]:
    """Yield the clusters of a map, each at its peak."""
    unit = drawn.overlay.map.unit
    for segment in drawn.clusters.segmentation.segments:
        readings = (
            Reading("Peak of the map", segment.peak_value, unit),
            Reading("Volume", segment.volume_mm3, "mm3"),
            Reading("Sum of the map", segment.total, unit),
        )
        title = f"Cluster {segment.name}: {drawn.overlay.name}"
        yield ReadingGroup(title, readings, at_mm=segment.peak_mm, method=drawn.explanation.method)


def _regions(drawn: Drawn, notes: list[str]) -> Iterator[ReadingGroup]:
    """Yield what the strongest regions bring, with the standard error of sampled shares."""
    attribution = drawn.explanation.attributions[drawn.input_name]
    if not isinstance(attribution, RegionAttribution):
        return
    own = [row for row in attribution.regions if row.input_name == drawn.input_name]
    if len(own) > MOST_REGIONS:
        notes.append(
            f"{drawn.input_name}: the structured report holds the {MOST_REGIONS} strongest of {len(own)} regions of "
            f"the {drawn.overlay.name} map; regions.tsv holds all"
        )
    for row in sorted(own, key=lambda row: -abs(row.value))[:MOST_REGIONS]:
        error = row.standard_error
        readings = (
            Reading("Share of the measurement", row.value, drawn.explanation.unit, error, error),
            Reading("Volume", row.volume_mm3, "mm3"),
        )
        title = f"Region {row.name}: {drawn.overlay.name}"
        yield ReadingGroup(title, readings, at_mm=row.centre_mm, method=drawn.explanation.method)
