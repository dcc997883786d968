"""The report: one self-contained HTML file with pictures, figures and the certificate of every map."""

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from medinterp.errors import GridMismatch, OutputError
from medinterp.export import fusion_pictures, mosaic, words
from medinterp.export.canvas import DISCLAIMER, Picture, Window
from medinterp.export.fusion_section import FusionSection
from medinterp.export.method_words import MethodWords, method_words
from medinterp.export.overlay import Clusters
from medinterp.export.privacy import source_names, without_paths
from medinterp.io.colours import sign_colour
from medinterp.volume import Overlay, Region, Volume

Rows = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class InputSection:
    """One scan before and after.

    Args:
        name: the input's name as the user gave it ("t1"), never a file name.
        noisy: the scan as read.
        denoised: the result, on the same grid; None where the whole scan was not denoised.
        removed: noisy minus denoised.
        sigma: estimated noise, in the scan's unit.
        sigma_low: lower end of its interval.
        sigma_high: upper end of its interval.
        sigma_model: distribution assumed, for example "rician".
        sigma_method: how it was estimated, in a few words.
        rows: further figures to list, label and text.
        notes: what a reader should know about this scan.
        window: values shown black and white; chosen from the denoised volume when left out.
    """

    name: str
    noisy: Volume
    denoised: Volume | None
    removed: Volume | None
    sigma: float
    sigma_low: float
    sigma_high: float
    sigma_model: str
    sigma_method: str
    rows: Rows = ()
    notes: tuple[str, ...] = ()
    window: Window | None = None


@dataclass(frozen=True)
class Check:
    """One row of a certificate.

    Args:
        name: what was checked, for example "Completeness residual".
        value: what was found, as text with unit.
        expected: what it should be, for example "at most 1 × 10⁻⁵".
        passed: the verdict; None where the row informs and has no bound.
        meaning: one sentence in plain words.
    """

    name: str
    value: str
    expected: str
    passed: bool | None
    meaning: str


@dataclass(frozen=True, eq=False)
class ExplainedMap:
    """The map of one input.

    Args:
        input_name: name of the input the map lies on.
        overlay: what to draw.
        clusters: what to list.
        region: the voxels that were measured, outlined in the pictures, when they are on the map's grid.

    Raises:
        GridMismatch: the region is on another grid.
    """

    input_name: str
    overlay: Overlay
    clusters: Clusters
    region: Region | None = None

    def __post_init__(self) -> None:
        why = None if self.region is None else self.overlay.map.grid.mismatch(self.region.grid)
        if why is not None:
            raise GridMismatch(f"the region measured is on another grid than the map of {self.input_name}: {why}")

    @property
    def peak_value(self) -> float:
        """The map where its magnitude is largest, in its own unit."""
        values = self.overlay.map.voxels[0].ravel()
        return float(values[np.abs(values).argmax()])


@dataclass(frozen=True, eq=False)
class ExplanationSection:
    """One target explained by one method.

    Args:
        target: what was measured, in words, for example "mean inside the sphere of 5 mm at L 36, P 19, S 31".
        method: registered name of the method.
        unit: unit of the number.
        value_before: the number on the scan as read, None where a scan has no such number.
        value_after: the number on the result: what the maps explain.
        maps: one map per input.
        checks: the certificate.
        pictures: of the certificate, with their captions.
        rows: further figures to list, label and text.
        notes: what a reader should know about this explanation.
    """

    target: str
    method: str
    unit: str
    value_before: float | None
    value_after: float
    maps: tuple[ExplainedMap, ...]
    checks: tuple[Check, ...] = ()
    pictures: tuple[tuple[Picture, str], ...] = ()
    rows: Rows = ()
    notes: tuple[str, ...] = ()

    def numbers(self) -> Rows:
        """Return the number before, after and its change, as rows of a table."""
        after = ("After, on the result", words.quantity(self.value_after, self.unit))
        if self.value_before is None:
            return (after,)
        before = ("Before, on the scan as read", words.quantity(self.value_before, self.unit))
        return (before, after, ("Change", words.quantity(self.value_after - self.value_before, self.unit)))

    @property
    def words(self) -> MethodWords:
        """What the method is called and what its map says."""
        return method_words(self.method)


@dataclass(frozen=True, eq=False)
class ReportContext:
    """Everything a report shows; texts may name no patient, and paths in them are left out.

    Args:
        summary: what was done, one paragraph.
        inputs: one section per scan.
        explanations: one section per target and method.
        run: the run record: versions, seed, parameters, input hashes, timings, peak memory.
        notes: warnings and notes on the whole run.
        title: heading of the page.
        fusion: the fused image, where several scans were joined.
    """

    summary: str
    inputs: tuple[InputSection, ...]
    explanations: tuple[ExplanationSection, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    title: str = "Denoised and explained"
    fusion: FusionSection | None = None

    @property
    def measured(self) -> Mapping[ExplanationSection, str]:
        """One explanation for each measurement, and the titles of all methods that explain the same one."""
        titles: dict[tuple[str, float | None, float], list[str]] = {}
        first: dict[tuple[str, float | None, float], ExplanationSection] = {}
        for e in self.explanations:
            key = (e.target, e.value_before, e.value_after)
            first.setdefault(key, e)
            titles.setdefault(key, []).append(e.words.title.lower())
        return {first[key]: ", ".join(titles[key]) for key in first}

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every certificate row that has a verdict."""
        return tuple(c for e in self.explanations for c in e.checks if c.passed is not None)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(not check.passed for check in self.checks)


def write_report(context: ReportContext, path: Path) -> Path:
    """Write the report as one HTML file that asks nothing of a network, and return its path.

    Raises:
        OutputError: the file could not be written; no part of it is left.
    """
    html = render_report(context)
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OutputError(f"the report could not be written: {error.strerror}; choose another folder") from error
    return path


def render_report(context: ReportContext) -> str:
    """Return the report as HTML text."""
    names = source_names(_volumes(context))
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html: str = (
        _environment()
        .get_template("report.html.j2")
        .render(
            context=context,
            disclaimer=DISCLAIMER,
            script=script,
            script_hash=f"sha256-{digest}",
            style=_asset("report.css"),
            record=words.record_tables(without_paths(context.run, names)),
            hide=lambda text: without_paths(text, names),
        )
    )
    return html.lstrip()


def _volumes(context: ReportContext) -> Iterator[Volume]:
    for section in context.inputs:
        yield from (v for v in (section.noisy, section.denoised, section.removed) if v is not None)
    for explained in (m for e in context.explanations for m in e.maps):
        yield from (explained.overlay.base, explained.overlay.map)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medinterp.export", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=words.number, quantity=words.quantity, point=mosaic.point_words, unit=mosaic.unit_words, data=_data_uri
    )
    environment.globals.update(
        comparison=mosaic.comparison,
        before_and_after=mosaic.before_and_after,
        through_peak=mosaic.through_peak,
        close_up=mosaic.close_up,
        slice_mosaic=mosaic.slice_mosaic,
        side_by_side=fusion_pictures.side_by_side,
        fused_slices=fusion_pictures.fused_slices,
        weight_maps=fusion_pictures.weight_maps,
        credit_maps=fusion_pictures.credit_maps,
        checkerboards=fusion_pictures.checkerboards,
        grid_rows=words.grid_rows,
        sign_colour=_rgb,
    )
    return environment


def _rgb(sign: int) -> str:
    red, green, blue = (round(255 * part) for part in sign_colour(sign))
    return f"rgb({red} {green} {blue})"


def _asset(name: str) -> str:
    return files("medinterp.export").joinpath("templates", name).read_text(encoding="utf-8")


def _data_uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
