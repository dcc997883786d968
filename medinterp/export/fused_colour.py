"""Maps in colour over their scan, slice by slice, as Secondary Captures with legend and warning burned in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from medinterp.export.canvas import DISCLAIMER, Window
from medinterp.export.contents import StudyContents
from medinterp.export.dicom_files import DICOM
from medinterp.export.mosaic import display_window, unit_words
from medinterp.export.slices import orientation
from medinterp.io import colours
from medinterp.io.dicom_sc import write_secondary_capture
from medinterp.volume import Grid, Overlay

_SHORTEST_PX = 512  # of a picture's width: less leaves no room for the words
_LINE, _BAR = 16, 12
_OPPOSITE = dict(zip("LRAPIS", "RLPASI", strict=True))
_TABLE_SIZE = colours.SIZE


def write_fused_colours(contents: StudyContents, folder: Path) -> list[str]:
    """Write every map over its scan as one Secondary Capture series."""
    notes: list[str] = []
    for name, _, headers in contents.in_dicom(notes):
        for first, d in contents.numbered(name):
            write_secondary_capture(
                painter(d.overlay), headers, folder / DICOM / f"{name}-{d.overlay.name}-colour",
                description=f"Colour: {d.overlay.description}", series_number=first + 3,
            )  # fmt: skip
    return notes


def painter(overlay: Overlay) -> Callable[[int], UInt8[np.ndarray, "rows columns 3"]]:
    """Return what draws the picture of slice K: rows follow J and columns I, as in the scan's own DICOM images.

    Voxels are drawn as squares of whole pixels, or rectangles where they are not square, without interpolation. Under
    them stand the colour bar with unit and ends, the number of the slice, and that it is for research only; at the
    edges the letters of the sides.
    """
    window, table = display_window(overlay.base), _table(overlay)
    size = _size(overlay.base.grid)

    def picture(k: int) -> UInt8[np.ndarray, "rows columns 3"]:
        grey, values = overlay.base.voxels[0, :, :, k].T, overlay.map.voxels[0, :, :, k].T
        blended = _blend(grey.astype(np.float64), values.astype(np.float64), window, overlay, table)
        scaled = Image.fromarray(blended).resize(size, Image.Resampling.NEAREST)
        return _lettered(scaled, overlay, table, k)

    return picture


def _table(overlay: Overlay) -> Float64[np.ndarray, "n 4"]:
    return colours.diverging() if overlay.signed else colours.sequential()


def _blend(
    grey: Float64[np.ndarray, "rows columns"],
    values: Float64[np.ndarray, "rows columns"],
    window: Window,
    overlay: Overlay,
    table: Float64[np.ndarray, "n 4"],
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Lay the map's colours over the scan's grey, as opaque as the table says."""
    base = np.clip((grey - window.low) / (window.high - window.low), 0, 1)[..., None]
    low = -overlay.limit if overlay.signed else 0.0
    entry = np.clip((values - low) / (overlay.limit - low), 0, 1) * (_TABLE_SIZE - 1)
    colour = table[np.rint(entry).astype(int)]
    alpha = colour[..., 3:]
    return np.rint(255 * (alpha * colour[..., :3] + (1 - alpha) * base)).astype(np.uint8)


def _size(grid: Grid) -> tuple[int, int]:
    """Return width and height in pixels that keep the slice's proportions and leave room for the words."""
    (across, down), (columns, rows) = grid.spacing_mm[:2], grid.shape[:2]
    finest = min(across, down)
    scale = max(1, round(_SHORTEST_PX * finest / (columns * across)))
    while round(columns * across / finest) * scale < _SHORTEST_PX:
        scale += 1
    return round(columns * across / finest) * scale, round(rows * down / finest) * scale


def _lettered(
    scaled: Image.Image, overlay: Overlay, table: Float64[np.ndarray, "n 4"], k: int
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return a picture with the letters of its sides, and a strip of words and colours beneath."""
    width, height = scaled.size
    sheet = Image.new("RGB", (width, height + 3 * _LINE + _BAR + 8))
    sheet.paste(scaled, (0, 0))
    pen = ImageDraw.Draw(sheet)
    towards = orientation(overlay.map.grid)
    rightwards, downwards = towards[0], towards[1]
    middle = (width // 2, height // 2)
    for letter, place, anchor in (
        (_OPPOSITE[rightwards], (3, middle[1]), "lm"), (rightwards, (width - 3, middle[1]), "rm"),
        (_OPPOSITE[downwards], (middle[0], 3), "ma"), (downwards, (middle[0], height - 3), "md"),
    ):  # fmt: skip
        pen.text(place, letter, fill="white", anchor=anchor, stroke_width=1, stroke_fill="black")
    ramp = np.rint(255 * (table[:, :3] * table[:, 3:] + 0.32 * (1 - table[:, 3:]))).astype(np.uint8)
    bar = Image.fromarray(np.tile(ramp[None], (_BAR, 1, 1))).resize((width - 8, _BAR), Image.Resampling.NEAREST)
    sheet.paste(bar, (4, height + 4))
    low = -overlay.limit if overlay.signed else 0.0
    unit, below = unit_words(overlay.map.unit), height + _BAR + 6
    pen.text((4, below), f"{low:.3g} {unit}", fill="white")
    pen.text((width - 4, below), f"{overlay.limit:.3g} {unit}", fill="white", anchor="ra")
    words = f"{overlay.name}, slice {k + 1} of {overlay.map.grid.shape[2]}"
    pen.text((4, below + _LINE), _ascii(words), fill="white")
    pen.text((4, below + 2 * _LINE), DISCLAIMER.upper(), fill="#ffd060")
    return np.asarray(sheet)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
