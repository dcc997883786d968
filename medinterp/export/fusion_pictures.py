"""Pictures of a fusion: the modalities beside the fused image, its slices, weights, credits, and checkerboards."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float32

from medinterp.export.canvas import Colours, Legend, Picture, Tile, Window, draw, grey
from medinterp.export.mosaic import Index, centre_of, display_window, unit_words
from medinterp.export.slices import Plane, own_plane, planes
from medinterp.io import colours as tables
from medinterp.volume import Grid, Volume

_SQUARE_MM = 25.0
_SLICES = 12
_COLUMNS = 6
_SHARE = Window(0.0, 1.0)


def side_by_side(fused: Volume, carried: Mapping[str, Volume]) -> Picture:
    """Draw every denoised modality and the fused image in three planes through the middle of the anatomy.

    Args:
        fused: the fused image.
        carried: the modalities on its grid, each shown on its own window.
    """
    shown = {**carried, "fused": fused}
    windows = {m: display_window(volume) for m, volume in shown.items()}
    at = centre_of(fused, windows["fused"])
    rows = [[_tile(v, plane, at, windows[m], m) for m, v in shown.items()] for plane in planes(fused.grid)]
    legends = [Legend(f"{m}, {unit_words(v.unit)}", grey(windows[m])) for m, v in shown.items()]
    alt = f"Axial, coronal and sagittal slices of {', '.join(carried)} and the fused image, at the same places."
    return draw(rows, legends, alt)


def fused_slices(fused: Volume) -> Picture:
    """Draw slices of the fused image in the first scan's own plane, evenly over its extent."""
    plane, window = own_plane(fused.grid), display_window(fused)
    at, length = centre_of(fused, window), fused.grid.shape[plane.normal]
    bright = (fused.voxels[0] > window.low + 0.25 * (window.high - window.low)).any(
        axis=tuple({0, 1, 2} - {plane.normal})
    )
    held = np.flatnonzero(bright) if bright.any() else np.arange(length)
    chosen = np.unique(np.linspace(held[0], held[-1], min(_SLICES, len(held))).round().astype(int))
    tiles = []
    for number in chosen:
        i, j, k = (int(number) if axis == plane.normal else at[axis] for axis in range(3))
        tiles.append(_tile(fused, plane, (i, j, k), window, ""))
    rows = [tiles[n : n + _COLUMNS] for n in range(0, len(tiles), _COLUMNS)]
    return draw(rows, [Legend("fused image, no unit", grey(window))], f"{len(tiles)} {plane.name} slices, fused image")


def weight_maps(fused: Volume, weights: Mapping[str, Volume]) -> Picture:
    """Draw each modality's weight over the fused image: transparent where it decides nothing, strong where all."""
    window = display_window(fused)
    colours = Colours(tables.sequential(), _SHARE)
    at = centre_of(fused, window)
    rows = [
        [_tile(fused, plane, at, window, f"weight of {m}", over=w, colours=colours) for plane in planes(fused.grid)]
        for m, w in weights.items()
    ]
    legends = (Legend("fused image, no unit", grey(window)), Legend("weight, 0 to 1", colours))
    return draw(rows, legends, f"Weight of {', '.join(weights)} over the fused image in three planes.")


def credit_maps(fused: Volume, credits: Mapping[str, Volume], label: str) -> Picture:
    """Draw signed volumes of the modalities, such as their credits, over the fused image on one colour scale."""
    window = display_window(fused)
    values = np.abs(np.stack([c.voxels[0] for c in credits.values()])).ravel()
    limit = float(np.percentile(values[:: max(1, values.size // 2_000_000)], 99.5)) or 1.0
    colours = Colours(tables.diverging(), Window(-limit, limit))
    at = centre_of(fused, window)
    rows = [
        [_tile(fused, plane, at, window, m, over=c, colours=colours) for plane in planes(fused.grid)]
        for m, c in credits.items()
    ]
    saturated = bool((values > limit).any())
    legends = (Legend("fused image, no unit", grey(window)), Legend(f"{label}, no unit", colours, saturated))
    return draw(rows, legends, f"{label} of {', '.join(credits)} over the fused image in three planes.")


def checkerboards(reference: Volume, before: Volume, after: Volume) -> Picture:
    """Draw the reference and a registered scan in alternate squares: as the files place it above, registered below.

    Borders of the anatomy run on from square to square where the scans agree.
    """
    at = centre_of(reference, display_window(reference))
    board, own = _board(reference.grid), _shown(reference)
    rows = []
    for words, scan in (("as the files place it", before), ("registered", after)):
        mixed = np.where(board, own, _shown(scan))
        rows.append([_board_tile(mixed, plane, at, words) for plane in planes(reference.grid)])
    legend = Legend("each scan from black to white on its own window", grey(_SHARE))
    return draw(rows, [legend], "Checkerboards of the reference and the scan in three planes, before and after.")


def _shown(volume: Volume) -> Float32[np.ndarray, "I J K"]:
    """Return a volume from 0, black on its own window, to 1, white."""
    window = display_window(volume)
    return np.clip((volume.voxels[0] - window.low) / (window.high - window.low), 0, 1).astype(np.float32)


def _board(grid: Grid) -> Bool[np.ndarray, "I J K"]:
    """Return alternate cubes of 25 mm."""
    i, j, k = ((np.arange(n) * mm // _SQUARE_MM).astype(int) for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    return np.asarray((i[:, None, None] + j[:, None] + k) % 2 == 0)


def _board_tile(mixed: Float32[np.ndarray, "I J K"], plane: Plane, at: Index, words: str) -> Tile:
    index = at[plane.normal]
    title = f"{words} \u00b7 {plane.name}, {'IJK'[plane.normal]} = {index}"
    return Tile(plane.cut(mixed, index), _SHARE, plane.pixel_mm, plane.letters, title)


def _tile(
    volume: Volume,
    plane: Plane,
    at: Index,
    window: Window,
    words: str,
    *,
    over: Volume | None = None,
    colours: Colours | None = None,
) -> Tile:
    index = at[plane.normal]
    place = f"{plane.name}, {'IJK'[plane.normal]} = {index}"
    return Tile(
        plane.cut(volume.voxels[0], index),
        window,
        plane.pixel_mm,
        plane.letters,
        f"{words} \u00b7 {place}" if words else place,
        map=None if over is None else plane.cut(over.voxels[0], index),
        colours=colours,
    )
