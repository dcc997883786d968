"""The files of a look inside the network: volumes with sidecars, a table, a picture and the run record."""

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medinterp.export.canvas import Colours, Legend, Picture, Tile, Window, draw, grey
from medinterp.export.mosaic import centre_of, display_window, unit_words
from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import colour_limit
from medinterp.export.record import write_dataset_description, write_run_json
from medinterp.export.room import expected_bytes
from medinterp.export.run_record import RunFacts, facts_record, input_record
from medinterp.export.slices import own_plane
from medinterp.export.study import StudyFolder
from medinterp.io import colours as tables
from medinterp.io.nifti import write_nifti
from medinterp.results import FeatureMap, FeatureResult
from medinterp.volume import Volume

STIMULUS = "stimulus-not-anatomy"
"""Begins the name of every file that shows what no scan holds."""
_COLUMNS = 5
_STIMULUS_PX = 360


def write_features(result: FeatureResult, facts: RunFacts, folder: Path, *, overwrite: bool) -> Path:
    """Write what was found inside the network into one folder, which appears only when it is complete.

    Args:
        result: what was found.
        facts: about the run.
        folder: to make.
        overwrite: replace a folder that medinterp wrote.

    Raises:
        OutputError: the folder exists, or cannot be written.
    """
    voxels = sum(v.voxels.size for m in result.maps for v in (m.on_block, m.on_scan) if v is not None)
    with StudyFolder(folder, overwrite=overwrite, expected_bytes=expected_bytes(0, voxels)) as study:
        for one in result.maps:
            _write_map(result, one, study.path / "nifti")
        _write_table(result, study.path / "features.tsv")
        (study.path / "features.png").write_bytes(picture(result).png)
        write_dataset_description(study.path, version=facts.versions["medinterp"])
        write_run_json(study.path, feature_record(result, facts))
    return folder


def feature_record(result: FeatureResult, facts: RunFacts) -> dict[str, Any]:
    """Return what ``run.json`` holds, but for the list of files."""
    region = result.region
    return {
        **facts_record(facts),
        "inputs": {result.name: input_record(result.input)},
        "features": {
            "kind": result.kind,
            "block": {"name": result.block, **result.about},
            "target": None if region is None else {
                "name": region.name, "voxels": int(region.mask.sum()),
                "centre_ras_mm": [round(p, 3) for p in region.centre_mm],
            },
            "rows": [dict(row) for row in result.rows],
            "does_not_mean": result.caution,
        },
        "seed": result.seed,
        "notes": list(result.notes),
    }  # fmt: skip


def _write_map(result: FeatureResult, one: FeatureMap, folder: Path) -> None:
    """Write one map on the scan's grid and on the block's, each with its sidecar."""
    said: dict[str, Any] = {
        "ResearchUseOnly": True, "Method": result.kind, "Block": result.block, **_camel(result.about),
        "Seed": result.seed, "Numbers": dict(one.numbers), "DoesNotMean": result.caution,
    }  # fmt: skip
    if one.on_scan is None:
        path = folder / bids_name(STIMULUS, desc=one.name, suffix="stimulus")
        write_nifti(one.on_block, path, description=one.title, sidecar={**said, "Label": one.title}, signed=one.signed)
        return
    stem, _ = stem_and_suffix(result.name, one.on_scan.modality)
    words = f"{one.title} of the block {result.block}"
    for volume, space, grid in ((one.on_scan, None, "the scan's"), (one.on_block, "block", "the block's own")):
        path = folder / bids_name(stem, desc=f"{result.kind}{one.name}", suffix="map", space=space)
        write_nifti(volume, path, description=f"{words}, on {grid} grid", sidecar={**said, "Grid": grid},
                    signed=one.signed)  # fmt: skip


def _camel(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"Block" + "".join(part.title() for part in key.split("_")): value for key, value in about.items()}


def _write_table(result: FeatureResult, path: Path) -> None:
    """Write one row for each thing asked about as tab-separated values."""
    columns = list(dict.fromkeys(key for row in result.rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(columns)
        for row in result.rows:
            table.writerow([_cell(row.get(key)) for key in columns])


def _cell(value: float | int | str | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def picture(result: FeatureResult) -> Picture:
    """Draw every map in one slice of the scan's own plane, or the middle of every stimulus."""
    if all(one.on_scan is None for one in result.maps):
        return _stimulus_picture(result)
    scan = result.input.scan
    window = display_window(scan)
    at = _slice_of(result, window)
    tiles = [_scan_tile(result, at, window), *(_tile(result, one, at, window) for one in result.maps)]
    rows = [tiles[n : n + _COLUMNS] for n in range(0, len(tiles), _COLUMNS)]
    signed = any(one.signed for one in result.maps)
    words = "each map on its own scale: warm above zero, cool below" if signed else "each map on its own scale"
    colours = (
        Colours(tables.diverging(), Window(-1.0, 1.0)) if signed else Colours(tables.sequential(), Window(0.0, 1.0))
    )
    legends = (Legend(f"scan, {unit_words(scan.unit)}", grey(window)), Legend(f"{result.kind}, {words}", colours))
    alt = f"{result.kind} of the block {result.block}: {', '.join(one.title for one in result.maps)}, in one slice"
    return draw(rows, legends, alt)


def _slice_of(result: FeatureResult, window: Window) -> tuple[int, int, int]:
    """Return the voxel through which the slice goes: the centre of the target, or of the anatomy."""
    scan = result.input.scan
    if result.region is None:
        return centre_of(scan, window)
    i, j, k = np.rint(scan.grid.to_index(np.array(result.region.centre_mm))).astype(int)
    return int(i), int(j), int(k)


def _scan_tile(result: FeatureResult, at: tuple[int, int, int], window: Window) -> Tile:
    """Return the scan alone, with the outline of the target."""
    scan, region = result.input.scan, result.region
    plane = own_plane(scan.grid)
    index = at[plane.normal]
    outline = None if region is None else plane.cut(region.mask, index)
    image = plane.cut(scan.voxels[0], index)
    return Tile(image, window, plane.pixel_mm, plane.letters, "scan", outline=outline)


def _tile(result: FeatureResult, one: FeatureMap, at: tuple[int, int, int], window: Window) -> Tile:
    shown: Volume = one.on_scan  # type: ignore[assignment]
    limit = colour_limit(shown)
    table = tables.diverging() if one.signed else tables.sequential()
    colours = Colours(table, Window(-limit if one.signed else 0.0, limit))
    plane = own_plane(result.input.scan.grid)
    map_ = plane.cut(shown.voxels[0], at[plane.normal])
    return replace(_scan_tile(result, at, window), title=one.title, map=map_, colours=colours)


def _stimulus_picture(result: FeatureResult) -> Picture:
    tiles = []
    for one in result.maps:
        volume = one.on_block
        plane, window = own_plane(volume.grid), Window(float(volume.voxels.min()), float(volume.voxels.max()))
        image = plane.cut(volume.voxels[0], volume.grid.shape[plane.normal] // 2)
        tiles.append(Tile(image, window, plane.pixel_mm, ("", "", "", ""), one.title))
    rows = [tiles[n : n + _COLUMNS] for n in range(0, len(tiles), _COLUMNS)]
    legend = Legend("stimulus, not anatomy: each from its least (0) to its largest value (1)", grey(Window(0.0, 1.0)))
    alt = f"Stimuli, not anatomy, of the block {result.block}"
    return draw(rows, [legend], alt, width_px=_STIMULUS_PX * len(rows[0]))
