"""Writing clusters as overlay planes (groups 6000 and 6002) of a derived copy of the scan."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from pydicom.dataset import Dataset

from medinterp.errors import EmptyRegion, GridMismatch
from medinterp.io.dicom_derived import derived_images, write_images
from medinterp.volume import Segmentation, Volume

_FIRST_GROUP = 0x6000
_WORDS = {1: "positive", -1: "negative"}


def write_overlay_planes(
    segmentation: Segmentation,
    scan: Volume,
    folder: Path,
    *,
    description: str,
    series_number: int,
    headers: Sequence[Dataset] | None = None,
) -> tuple[Path, ...]:
    """Write a copy of the scan whose slices carry the clusters as one-bit planes, for workstations without SEG.

    Positive clusters have the first plane and negative ones the next; its label says which. Slices without a cluster
    have no plane, all others have the plane of every sign there is. The pixels are those of a derived series
    (``write_dicom_series``); planes lie beside them and change none.

    Args:
        segmentation: clusters, on the scan's grid.
        scan: one channel.
        folder: where the files go, one a slice, named 0001.dcm onwards in ascending order along row x column.
        description: what the clusters are; "(research use only)" is appended.
        series_number: number of the new series in its study.
        headers: ``template_headers(scan)``, where they are at hand.

    Returns:
        The files, in the order of their names.

    Raises:
        EmptyRegion: there is no cluster.
        GridMismatch: the clusters are not on the scan's grid.
        InputError: as ``write_dicom_series``.
    """
    if not segmentation.segments:
        raise EmptyRegion("there is no cluster to write as an overlay plane; lower the threshold, or leave it out")
    why = scan.grid.mismatch(segmentation.grid)
    if why is not None:
        raise GridMismatch(f"the clusters are on another grid than the scan: {why}; find them on a map of this scan")
    images = derived_images(scan, scan, description=description, series_number=series_number, headers=headers)
    return write_images(_with_planes(images, segmentation), folder)


def _with_planes(images: Iterator[tuple[int, Dataset]], segmentation: Segmentation) -> Iterator[Dataset]:
    """Yield the images, each with the planes of the clusters on its slice."""
    sign_of = np.array([0, *(segment.sign for segment in segmentation.segments)])
    present = sorted({segment.sign for segment in segmentation.segments}, reverse=True)
    for k, image in images:
        signs = sign_of[segmentation.labels[:, :, k].T]
        for number, sign in enumerate(present if signs.any() else ()):
            _add_plane(image, _FIRST_GROUP + 2 * number, signs == sign, f"{_WORDS[sign]} clusters")
        yield image


def _add_plane(image: Dataset, group: int, bits: Bool[np.ndarray, "rows columns"], words: str) -> None:
    """Add one overlay plane: bits packed row by row, the first in the lowest place."""
    packed = np.packbits(bits, axis=None, bitorder="little").tobytes()
    for element, vr, value in (
        (0x0010, "US", bits.shape[0]),
        (0x0011, "US", bits.shape[1]),
        (0x0022, "LO", words),
        # A drawing, not a region: DCMTK shows what lies outside a region at 6 % of its brightness, and outside two
        # regions, as the clusters of two signs are, hardly anything.
        (0x0040, "CS", "G"),
        (0x0050, "SS", [1, 1]),
        (0x0100, "US", 1),
        (0x0102, "US", 0),
        (0x1500, "LO", words),
        (0x3000, "OW", packed + b"\0" * (len(packed) % 2)),
    ):
        image.add_new((group, element), vr, value)
