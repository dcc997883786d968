"""Make the picture of attribution.md: the lesion of sample_data by every valid method; run it without arguments."""

import json
from pathlib import Path

import numpy as np

from medinterp import io
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.demo import sample_folder
from medinterp.errors import MethodNotValid
from medinterp.export.canvas import Colours, Legend, Tile, Window, draw
from medinterp.export.mosaic import display_window
from medinterp.export.overlay import colour_limit
from medinterp.export.slices import own_plane
from medinterp.io import colours as tables
from medinterp.options import RunOptions
from medinterp.preparation import build_explanations
from medinterp.registry import names
from medinterp.results import ExplanationResult
from medinterp.volume import Volume

PICTURE = Path(__file__).parent / "images" / "methods.png"
COLUMNS = 6
REACH_MM = 24.0
DIVISIONS = {"exact_shapley": "shells"}
"""At most 12 players for the exact one; the others divide the neighbourhood by SLIC."""
DRAWS = {"sampled_shapley": "orders=4", "kernel_shap": "samples=256", "lime": "samples=256"}


def main() -> None:
    """Explain the contrast of the T1 lesion by every method, and draw the maps side by side in one slice."""
    head = sample_folder()
    lesion = json.loads((head / "truth.json").read_text(encoding="utf-8"))["lesion"]
    x, y, z = lesion["centre_mm"]
    options = {"targets": (f"sphere:{x},{y},{z},{lesion['radius_mm']}",), "measure": "contrast", "halo": 8}
    pipeline, scan = load_pipeline(find_bundle("mri_denoise")), io.read(head / "t1.nii.gz")
    tiles = []
    for method in names("attributors"):
        text = f"{method}:{DRAWS[method]}" if method in DRAWS else method
        chosen = RunOptions(methods=(text,), supervoxels=DIVISIONS.get(method, "slic:size_mm=24"), **options)
        try:
            result = pipeline.run({"scan": scan}, build_explanations(chosen), whole=False)
        except MethodNotValid:  # of deconvolution behind this prior, as the page says
            continue
        tiles.append(_tile(method, scan, result.explanations[0]))
    rows = [tiles[n : n + COLUMNS] for n in range(0, len(tiles), COLUMNS)]
    legend = Legend(
        "each map on its own scale: warm above zero, cool below", Colours(tables.diverging(), Window(-1, 1))
    )
    PICTURE.write_bytes(draw(rows, [legend], "The same contrast explained by every method that is valid").png)


def _tile(method: str, scan: Volume, explained: ExplanationResult) -> Tile:
    """Return the slice through the region's centre, cut to its neighbourhood."""
    map, grid = explained.maps["scan"], scan.grid
    centre = np.rint(grid.to_index(explained.region.centre_mm)).astype(int)
    reach = [round(REACH_MM / mm) for mm in grid.spacing_mm]
    plane, box = own_plane(grid), [slice(max(0, c - r), c + r + 1) for c, r in zip(centre, reach, strict=True)]
    index = int(centre[plane.normal])
    box[plane.normal] = slice(None)
    image, found, inside = (
        plane.cut(voxels[tuple(box)], index) for voxels in (scan.voxels[0], map.voxels[0], explained.region.mask)
    )
    limit = colour_limit(map)
    colours = Colours(tables.diverging(), Window(-limit, limit))
    return Tile(
        image, display_window(scan), plane.pixel_mm, plane.letters, method, map=found, colours=colours, outline=inside
    )


if __name__ == "__main__":
    main()
