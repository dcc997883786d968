"""Pictures of volumes for people: before and after, a map through its peak, and mosaics of its slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, Shaped

from medinterp.export.canvas import Colours, Legend, Picture, Tile, Window, draw, grey
from medinterp.export.slices import Plane, own_plane, planes
from medinterp.io import colours as tables
from medinterp.volume import Grid, Overlay, Region, Volume

Index = tuple[int, int, int]

_AXES = "IJK"
_SAMPLE = 2_000_000  # voxels that a percentile is taken from: enough for three digits
_SOFT_TISSUE = Window(-160.0, 240.0)
_CLOSE_UP_SHARE = 0.9
_CLOSE_UP_MM = (12.0, 60.0)
_MARGIN_MM = 15.0
_MOSAIC_SLICES = 10
_MOSAIC_COLUMNS = 5


@dataclass(frozen=True)
class Crop:
    """A box of voxels, first and one past the last along I, J and K."""

    start: Index
    stop: Index

    def cut(self, plane: Plane, voxels: Shaped[np.ndarray, "I J K"], index: int) -> Shaped[np.ndarray, "rows columns"]:
        """Return the part of one slice that lies in the box, as a picture."""
        box = tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return plane.cut(voxels[box], index - self.start[plane.normal])

    def place(self, plane: Plane, index: Index) -> tuple[int, int]:
        """Return the column and row of a voxel in the cropped picture."""
        i, j, k = (n - a for n, a in zip(index, self.start, strict=True))
        return plane.place((i, j, k), self.shape)

    @property
    def shape(self) -> Index:
        """Voxels along I, J and K."""
        i, j, k = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k


def display_window(volume: Volume) -> Window:
    """Return the values to show black and white: soft tissue for CT, else the 0.5th and 99.7th percentiles."""
    if volume.unit == "HU":
        return _SOFT_TISSUE
    values = volume.voxels[0].ravel()
    values = values[:: max(1, values.size // _SAMPLE)]
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.7)))
    return Window(low, high) if high > low else Window(low, low + 1.0)


def symmetric_window(volume: Volume) -> Window:
    """Return a window around zero that holds all but the largest 0.5 % of the magnitudes."""
    values = np.abs(volume.voxels[0].ravel())
    limit = float(np.percentile(values[:: max(1, values.size // _SAMPLE)], 99.5))
    return Window(-limit, limit) if limit > 0 else Window(-1.0, 1.0)


def centre_of(volume: Volume, window: Window) -> Index:
    """Return the voxel in the middle of what is brighter than a quarter of the window, or of the grid."""
    bright = volume.voxels[0] > window.low + 0.25 * (window.high - window.low)
    if not bright.any():
        i, j, k = (n // 2 for n in volume.grid.shape)
        return i, j, k
    i, j, k = (round(float(_mean_place(bright.sum(axis=tuple({0, 1, 2} - {axis}))))) for axis in range(3))
    return i, j, k


def comparison(noisy: Volume, denoised: Volume, removed: Volume, *, window: Window | None = None) -> Picture:
    """Draw noisy, denoised and removed noise side by side in three planes through the middle of the anatomy.

    Noisy and denoised share one window, taken from the denoised volume unless given; the removed noise is shown
    around zero on its own, tighter one, which its legend states: anatomy in it would be visible.
    """
    denoised.require_same_grid(noisy, "the noisy volume")
    denoised.require_same_grid(removed, "the removed noise")
    shared = display_window(denoised) if window is None else window
    around_zero = symmetric_window(removed)
    at = centre_of(denoised, shared)
    shown = (("noisy", noisy, shared), ("denoised", denoised, shared), ("removed noise", removed, around_zero))
    rows = [
        [_grey_tile(volume, plane, at, limits, words) for words, volume, limits in shown]
        for plane in planes(denoised.grid)
    ]
    legends = (
        Legend(f"noisy and denoised, {unit_words(denoised.unit)}", grey(shared)),
        Legend(f"removed noise, {unit_words(removed.unit)}", grey(around_zero)),
    )
    alt = (
        "Axial, coronal and sagittal slices, each as noisy, denoised and removed noise. Noisy and denoised are shown "
        f"from {shared.low:.3g} to {shared.high:.3g}, the removed noise from {around_zero.low:.3g} to "
        f"{around_zero.high:.3g}."
    )
    return draw(rows, legends, alt)


def before_and_after(noisy: Volume, denoised: Volume, *, window: Window | None = None) -> tuple[Picture, Picture]:
    """Draw one slice in the scan's own plane twice, noisy and denoised, pixel on pixel."""
    denoised.require_same_grid(noisy, "the noisy volume")
    shared = display_window(denoised) if window is None else window
    at, plane = centre_of(denoised, shared), own_plane(denoised.grid)
    legend = Legend(f"intensity, {unit_words(denoised.unit)}", grey(shared))
    before, after = (
        draw(
            [[_grey_tile(volume, plane, at, shared, words)]],
            [legend],
            f"{words}, {_slice_words(plane, at)}",
            width_px=820,
        )
        for words, volume in (("noisy", noisy), ("denoised", denoised))
    )
    return before, after


def through_peak(overlay: Overlay, *, method: str, region: Region | None = None) -> Picture:
    """Draw the map over its scan in three planes through its peak, the whole field, with a crosshair."""
    whole = Crop((0, 0, 0), overlay.base.grid.shape)
    at, window = _peak(overlay), display_window(overlay.base)
    row = [_map_tile(overlay, plane, at, whole, window, region, crossed=True) for plane in planes(overlay.base.grid)]
    alt = f"{method}: axial, coronal and sagittal slices through the strongest voxel, at {point_words(overlay.peak_mm)}"
    return draw([row], _legends(overlay, window, method), alt)


def close_up(overlay: Overlay, *, method: str, region: Region | None = None) -> Picture:
    """Draw the neighbourhood of the peak in three planes, the base alone above and with the map below."""
    at, window = _peak(overlay), display_window(overlay.base)
    crop = _around(overlay, at)
    bare = [_map_tile(overlay, plane, at, crop, window, region, with_map=False) for plane in planes(overlay.base.grid)]
    shown = [_map_tile(overlay, plane, at, crop, window, region) for plane in planes(overlay.base.grid)]
    alt = f"{method}, close-up around {point_words(overlay.peak_mm)}: the image alone above, with the map below"
    return draw([bare, shown], _legends(overlay, window, method), alt)


def slice_mosaic(overlay: Overlay, *, method: str, region: Region | None = None) -> Picture:
    """Draw the slices, in the scan's own plane, over which the map extends, cropped to the map and a margin."""
    plane, at, window = own_plane(overlay.base.grid), _peak(overlay), display_window(overlay.base)
    crop = _map_box(overlay)
    normal = plane.normal
    span = crop.stop[normal] - crop.start[normal]
    chosen = np.unique(
        np.linspace(crop.start[normal], crop.stop[normal] - 1, min(span, _MOSAIC_SLICES)).round().astype(int)
    )
    chosen[np.abs(chosen - at[normal]).argmin()] = at[normal]
    places = [tuple(int(n) if axis == normal else at[axis] for axis in range(3)) for n in chosen]
    tiles = [_map_tile(overlay, plane, (i, j, k), crop, window, region) for i, j, k in places]
    rows = [tiles[n : n + _MOSAIC_COLUMNS] for n in range(0, len(tiles), _MOSAIC_COLUMNS)]
    extent = f"from {_AXES[normal]} = {chosen[0]} to {chosen[-1]}"
    alt = f"{method}: {len(tiles)} {plane.name} slices {extent} with the map in colour"
    return draw(rows, _legends(overlay, window, method), alt)


def point_words(point_mm: tuple[float, float, float]) -> str:
    """Name a RAS point the way people do, for example "R 12.0, P 3.5, S 40.1 mm"."""
    sides = zip(point_mm, ("LR", "PA", "IS"), strict=True)
    return ", ".join(f"{letters[int(value >= 0)]} {abs(value):.1f}" for value, letters in sides) + " mm"


def unit_words(unit: str) -> str:
    """Write a unit for people: a pure number has no unit to show."""
    return "no unit" if unit in ("1", "") else unit


def _mean_place(counts: Integer[np.ndarray, " n"]) -> float:
    return float((counts * np.arange(counts.size)).sum() / counts.sum())


def _grey_tile(volume: Volume, plane: Plane, at: Index, window: Window, words: str) -> Tile:
    image = plane.cut(volume.voxels[0], at[plane.normal])
    title = f"{words} · {_slice_words(plane, at)}"
    return Tile(image, window, plane.pixel_mm, plane.letters, title)


def _map_tile(
    overlay: Overlay,
    plane: Plane,
    at: Index,
    crop: Crop,
    window: Window,
    region: Region | None,
    *,
    crossed: bool = False,
    with_map: bool = True,
) -> Tile:
    index = at[plane.normal]
    return Tile(
        crop.cut(plane, overlay.base.voxels[0], index),
        window,
        plane.pixel_mm,
        plane.letters,
        _slice_words(plane, at),
        map=crop.cut(plane, overlay.map.voxels[0], index) if with_map else None,
        colours=_colours(overlay),
        cross=crop.place(plane, at) if crossed else None,
        outline=None if region is None else crop.cut(plane, region.mask, index),
    )


def _slice_words(plane: Plane, at: Index) -> str:
    return f"{plane.name}, {_AXES[plane.normal]} = {at[plane.normal]}"


def _colours(overlay: Overlay) -> Colours:
    if overlay.signed:
        return Colours(tables.diverging(), Window(-overlay.limit, overlay.limit))
    return Colours(tables.sequential(), Window(0.0, overlay.limit))


def _legends(overlay: Overlay, window: Window, method: str) -> Sequence[Legend]:
    signs = "warm above zero, cool below" if overlay.signed else "magnitude"
    denoised = any(step.name == "denoise" for step in overlay.base.provenance.steps)
    return (
        Legend(f"{'denoised image' if denoised else 'scan'}, {unit_words(overlay.base.unit)}", grey(window)),
        Legend(f"{method}, {unit_words(overlay.map.unit)}: {signs}", _colours(overlay), overlay.saturated),
    )


def _peak(overlay: Overlay) -> Index:
    i, j, k = np.rint(overlay.map.grid.to_index(np.array(overlay.peak_mm))).astype(int)
    return int(i), int(j), int(k)


def _around(overlay: Overlay, at: Index) -> Crop:
    """Return the box around the peak within which most of the map lies."""
    grid, magnitude = overlay.map.grid, np.abs(overlay.map.voxels[0])
    reaches = np.arange(1, int(_CLOSE_UP_MM[1]) + 1)  # mm
    i, j, k = (
        (np.abs(np.arange(n) - a) * mm < reaches[:, None]).astype(magnitude.dtype)
        for n, a, mm in zip(grid.shape, at, grid.spacing_mm, strict=True)
    )
    held = np.einsum("ri,rj,ijr->r", i, j, magnitude @ k.T)  # of the map in the cube of each reach
    enough = held >= _CLOSE_UP_SHARE * magnitude.sum(dtype=np.float64)
    reach = float(reaches[enough.argmax()] if enough.any() else reaches[-1])
    return _box(grid, at, at, float(np.clip(1.15 * reach, *_CLOSE_UP_MM)))


def _map_box(overlay: Overlay) -> Crop:
    """Return the box that holds the middle 99 % of the map's magnitude along each axis, and a margin in plane."""
    magnitude = np.abs(overlay.map.voxels[0])
    low, high = [], []
    for axis in range(3):
        profile = np.cumsum(magnitude.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64))
        low.append(int(np.searchsorted(profile, 0.005 * profile[-1])))
        high.append(int(np.searchsorted(profile, 0.995 * profile[-1])))
    box = _box(overlay.map.grid, (low[0], low[1], low[2]), (high[0], high[1], high[2]), _MARGIN_MM)
    normal = own_plane(overlay.map.grid).normal
    start, stop = list(box.start), list(box.stop)
    start[normal], stop[normal] = low[normal], high[normal] + 1
    return Crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _box(grid: Grid, low: Index, high: Index, margin_mm: float) -> Crop:
    """Return the box from ``low`` to ``high``, grown by a margin and cut at the border of the grid."""
    margin = [round(margin_mm / spacing) for spacing in grid.spacing_mm]
    start = [max(0, a - m) for a, m in zip(low, margin, strict=True)]
    stop = [min(n, b + m + 1) for n, b, m in zip(grid.shape, high, margin, strict=True)]
    return Crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
