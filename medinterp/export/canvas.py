"""Tiles of slices drawn to scale into one PNG, with letters, colour legends and "Research use only" burned in."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

WIDTH_PX = 1440
TALLEST_PX = 1500
DISCLAIMER = "Research use only. Not for diagnosis."
_DPI = 100
_GAP = 10.0
_TITLE = 26.0
_LEGEND = 62.0
_FOOTER = 26.0
_GROUND = "#0c0e12"
_TEXT = "#d7dce2"
_FAINT = "#98a2ae"
_CROSS = "#7ee0c0"
_UNDER_LEGEND = 0.32  # grey under legends, so that the transparent part of a table shows as such
_OUTLINE = (withStroke(linewidth=2.2, foreground="black"),)


@dataclass(frozen=True)
class Window:
    """The values shown as black and as white."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Colours:
    """A colour table (red, green, blue, alpha) and the values at its two ends."""

    table: Float[np.ndarray, "n 4"]
    window: Window


@dataclass(frozen=True, eq=False)
class Tile:
    """One slice to draw.

    Args:
        image: grey values, rows down and columns to the right.
        window: values shown black and white.
        pixel_mm: width and height of a pixel.
        letters: what lies left, right, top and bottom.
        title: a few words above the tile.
        map: values drawn over the image, same pixels.
        colours: how the map is coloured.
        cross: column and row of a crosshair.
        outline: pixels whose border is drawn as a line.
    """

    image: Float[np.ndarray, "rows columns"]
    window: Window
    pixel_mm: tuple[float, float]
    letters: tuple[str, str, str, str]
    title: str = ""
    map: Float[np.ndarray, "rows columns"] | None = None
    colours: Colours | None = None
    cross: tuple[int, int] | None = None
    outline: Bool[np.ndarray, "rows columns"] | None = None

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height of the whole tile."""
        rows, columns = self.image.shape
        return columns * self.pixel_mm[0], rows * self.pixel_mm[1]


@dataclass(frozen=True, eq=False)
class Legend:
    """A colour bar: what its values are, with unit, what its ends say, and whether some values lie beyond them."""

    label: str
    colours: Colours
    saturated: bool = False


@dataclass(frozen=True)
class Picture:
    """A finished PNG and what it shows in words."""

    png: bytes = field(repr=False)
    width: int
    height: int
    alt: str


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    width: float
    height: float


def grey(window: Window) -> Colours:
    """Return the grey table over a window."""
    ramp = np.linspace(0.0, 1.0, 256)
    return Colours(np.stack([ramp, ramp, ramp, np.ones(256)], axis=1), window)


def draw(rows: Sequence[Sequence[Tile]], legends: Sequence[Legend], alt: str, *, width_px: int = WIDTH_PX) -> Picture:
    """Draw rows of tiles on one scale in millimetres, legends beneath them, and the disclaimer."""
    widths = [max(row[n].size_mm[0] for row in rows if n < len(row)) for n in range(max(len(row) for row in rows))]
    heights = [max(tile.size_mm[1] for tile in row) for row in rows]
    furniture = len(rows) * _TITLE + (len(rows) + 1) * _GAP + (_LEGEND if legends else 0) + _FOOTER
    scale = min((width_px - (len(widths) + 1) * _GAP) / sum(widths), (TALLEST_PX - furniture) / sum(heights))
    height_px = round(furniture + scale * sum(heights))
    ax = _sheet(width_px, height_px)
    # Tall tiles leave room at the sides: the columns are spread over it evenly.
    spare = (width_px - (len(widths) + 1) * _GAP - scale * sum(widths)) / len(widths)
    top = float(_GAP)
    for row, row_mm in zip(rows, heights, strict=True):
        left = float(_GAP)
        for tile, column_mm in zip(row, widths, strict=False):
            cell = _Box(left, top + _TITLE, scale * column_mm + spare, scale * row_mm)
            _draw_tile(ax, tile, cell, scale)
            left += cell.width + _GAP
        top += _TITLE + scale * row_mm + _GAP
    _draw_legends(ax, legends, top, width_px)
    _write(ax, width_px - _GAP, height_px - _FOOTER / 2, DISCLAIMER, at="right")
    _write(ax, _GAP, height_px - _FOOTER / 2, "Radiological convention: R is the patient's right", colour=_FAINT)
    coloured = any(tile.map is not None for row in rows for tile in row)
    return Picture(_png(ax, coloured=coloured), width_px, height_px, alt)


def _sheet(width_px: int, height_px: int) -> Axes:
    """Return axes that fill a new figure and count in pixels from the upper left corner."""
    figure = Figure(figsize=(width_px / _DPI, height_px / _DPI), dpi=_DPI, facecolor=_GROUND)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    ax.set_autoscale_on(False)
    ax.set_xlim(0, width_px)
    ax.set_ylim(height_px, 0)
    return ax


def _draw_tile(ax: Axes, tile: Tile, cell: _Box, scale: float) -> None:
    width, height = (scale * mm for mm in tile.size_mm)
    box = _Box(cell.left + (cell.width - width) / 2, cell.top + (cell.height - height) / 2, width, height)
    _paint(ax, tile.image, grey(tile.window), box)
    if tile.map is not None and tile.colours is not None:
        _paint(ax, tile.map, tile.colours, box)
    if tile.outline is not None:
        _draw_outline(ax, tile.outline, box)
    if tile.cross is not None:
        _draw_cross(ax, tile.cross, tile.image.shape, box)
    _write(ax, box.left, box.top - _TITLE / 2, tile.title)
    left, right, top, bottom = tile.letters
    middle, centre = box.left + width / 2, box.top + height / 2
    for x, y, letter in (
        (box.left + 11, centre, left),
        (box.left + width - 11, centre, right),
        (middle, box.top + 12, top),
        (middle, box.top + height - 12, bottom),
    ):
        _write(ax, x, y, letter, at="center", size=12, outlined=True)


def _paint(ax: Axes, image: Float[np.ndarray, "rows columns"], colours: Colours, box: _Box) -> None:
    """Paint values through a colour table into a box."""
    ax.imshow(
        image,
        cmap=ListedColormap(colours.table),
        vmin=colours.window.low,
        vmax=colours.window.high,
        extent=(box.left, box.left + box.width, box.top + box.height, box.top),
        aspect="auto",
        interpolation="antialiased",
        interpolation_stage="data",
    )


def _draw_outline(ax: Axes, inside: Bool[np.ndarray, "rows columns"], box: _Box) -> None:
    """Draw the border of a region along its voxels' edges."""
    rows, columns = inside.shape
    # The border at the picture's edge is closed by a frame of outside pixels.
    framed = np.pad(inside, 1)
    down, right = np.nonzero(framed[1:, :] != framed[:-1, :]), np.nonzero(framed[:, 1:] != framed[:, :-1])
    across = [((c - 1, c), (r, r)) for r, c in zip(*down, strict=True)]
    along = [((c, c), (r - 1, r)) for r, c in zip(*right, strict=True)]
    width, height = box.width / columns, box.height / rows
    lines = [
        [(box.left + x * width, box.top + y * height) for x, y in zip(xs, ys, strict=True)] for xs, ys in across + along
    ]
    ax.add_collection(LineCollection(lines, colors="black", linewidths=2.0, alpha=0.5))
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.9))


def _draw_cross(ax: Axes, cross: tuple[int, int], shape: tuple[int, ...], box: _Box) -> None:
    """Draw a crosshair with an open middle, so that the voxel it points to stays visible."""
    rows, columns = shape
    x = box.left + (cross[0] + 0.5) / columns * box.width
    y = box.top + (cross[1] + 0.5) / rows * box.height
    gap = 0.05 * max(box.width, box.height)
    right, bottom = box.left + box.width, box.top + box.height
    for xs, ys in (
        ((box.left, x - gap), (y, y)),
        ((x + gap, right), (y, y)),
        ((x, x), (box.top, y - gap)),
        ((x, x), (y + gap, bottom)),
    ):
        if xs[0] < xs[1] or ys[0] < ys[1]:
            ax.plot(xs, ys, color=_CROSS, linewidth=0.8, alpha=0.85)


def _draw_legends(ax: Axes, legends: Sequence[Legend], top: float, width_px: int) -> None:
    for n, legend in enumerate(legends):
        room = (width_px - _GAP) / len(legends)
        box = _Box(_GAP + n * room, top + 24, min(330.0, room - 2 * _GAP), 11.0)
        window = legend.colours.window
        rgb, alpha = legend.colours.table[:, :3], legend.colours.table[:, 3:]
        shown = rgb * alpha + _UNDER_LEGEND * (1 - alpha)
        ax.imshow(
            shown[None],
            extent=(box.left, box.left + box.width, box.top + box.height, box.top),
            aspect="auto",
            interpolation="bilinear",
        )
        _write(ax, box.left, top + 11, legend.label)
        below = "\u2264 " if legend.saturated and window.low < 0 else ""
        above = "\u2265 " if legend.saturated else ""
        ticks = (
            (0.0, below + _figure(window.low), "left"),
            (0.5, _figure((window.low + window.high) / 2), "center"),
            (1.0, above + _figure(window.high), "right"),
        )
        for place, words, at in ticks:
            _write(ax, box.left + place * box.width, box.top + 23, words, at=at, size=9)


def _figure(value: float) -> str:
    return f"{value:.3g}".replace("-", "\u2212")


def _write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    at: str = "left",
    size: int = 10,
    colour: str = _TEXT,
    outlined: bool = False,
) -> None:
    # Spelled out, so that neither a user's matplotlib settings nor a dollar sign in a name changes what is drawn.
    ax.text(
        x,
        y,
        text,
        ha=at,
        va="center",
        fontsize=size,
        fontfamily="DejaVu Sans",
        color=colour,
        path_effects=_OUTLINE if outlined else None,
        usetex=False,
        parse_math=False,
    )


def _png(ax: Axes, *, coloured: bool) -> bytes:
    """Return what is drawn as PNG bytes: one channel instead of three where there is no colour."""
    canvas: Any = FigureCanvasAgg(ax.figure.get_figure(root=True))
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    stream = BytesIO()
    (image if coloured else image.convert("L")).save(stream, format="PNG", compress_level=7)
    return stream.getvalue()
