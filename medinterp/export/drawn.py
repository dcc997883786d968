"""Maps ready to be shown: each with its name, its scan underneath, its colour limit and its clusters."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medinterp.attribution import RegionAttribution
from medinterp.export.method_words import method_words
from medinterp.export.overlay import Clusters, default_threshold, make_overlay, search_clusters
from medinterp.export.words import measure_words
from medinterp.results import ExplanationResult, Result
from medinterp.volume import Overlay


@dataclass(frozen=True, eq=False)
class Drawn:
    """One map of one explanation, ready to be shown.

    Args:
        input_name: input the map lies on.
        explanation: what it explains.
        overlay: the map over its scan.
        clusters: where it is strong.
    """

    input_name: str
    explanation: ExplanationResult
    overlay: Overlay
    clusters: Clusters


def draw_maps(result: Result) -> Iterator[Drawn]:
    """Yield every map of a result, named by method and measure, with a number where names would repeat."""
    seen: dict[str, int] = {}
    for explained in result.explanations:
        words = f"{explained.method}-{explained.measure}".replace("_", "")
        seen[words] = seen.get(words, 0) + 1
        name = words if seen[words] == 1 else f"{words}-{seen[words]}"
        for input_name, volume in explained.maps.items():
            clusters = search_clusters(volume, threshold=default_threshold(volume))
            title = method_words(explained.method).title
            overlay = make_overlay(
                result.inputs[input_name].shown, volume, name=name, signed=True, clusters=clusters,
                description=f"{title} of the {measure_words(explained.measure)} in {explained.region.name}",
            )  # fmt: skip
            certificate = explained.certificates.get(input_name)
            doubts = () if certificate is None or certificate.passed else tuple(certificate.notes)
            yield Drawn(input_name, explained, replace(overlay, doubts=doubts), clusters)


def write_cluster_table(drawn: Sequence[Drawn], path: Path) -> None:
    """Write the clusters of all maps as one table of tab-separated values."""
    columns = ["input", "map", "cluster", "name", "sign", "peak_x_mm", "peak_y_mm", "peak_z_mm", "peak_value",
               "volume_mm3", "sum", "unit"]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(columns)
        for d in drawn:
            for s in d.clusters.segmentation.segments:
                place = [f"{p:.3f}" for p in s.peak_mm]
                row = [d.input_name, d.overlay.name, s.label, s.name, f"{s.sign:+d}", *place, f"{s.peak_value:.6g}"]
                table.writerow([*row, f"{s.volume_mm3:.6g}", f"{s.total:.6g}", d.overlay.map.unit])


def write_region_table(drawn: Sequence[Drawn], path: Path) -> None:
    """Write what each region of the methods over regions brings as tab-separated values; no such method, no file."""
    rows = []
    for d in drawn:
        attribution = d.explanation.attributions[d.input_name]
        if isinstance(attribution, RegionAttribution):
            rows += [(d, row) for row in attribution.regions if row.input_name == d.input_name]
    if not rows:
        return
    columns = ["input", "map", "region", "name", "centre_x_mm", "centre_y_mm", "centre_z_mm", "volume_mm3", "value",
               "standard_error", "unit"]  # fmt: skip
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(columns)
        for d, row in rows:
            place = [f"{p:.3f}" for p in row.centre_mm]
            error = "" if row.standard_error is None else f"{row.standard_error:.6g}"
            table.writerow([d.input_name, d.overlay.name, row.label, row.name, *place, f"{row.volume_mm3:.6g}",
                            f"{row.value:.6g}", error, d.explanation.unit])  # fmt: skip
