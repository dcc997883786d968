"""How much room a study takes on the disk, estimated before anything is written."""

from collections.abc import Collection
from typing import Final

_BYTES_PER_VOXEL: Final = {  # of an input, of a map; float32 before compression, which noise resists
    "nifti": (12, 4),  # sigma, denoised and removed; the map
    "nrrd": (12, 4),
    "slicer": (4, 12),  # copies, packed once more, and labels
    "dicom_series": (2, 2),
    "parametric_map": (0, 4),
    "segmentation": (0, 1),
    "secondary_capture": (0, 16),  # of a matrix of 256 and more; pictures of smaller ones are enlarged, and few
    "overlay_planes": (0, 3),
}
_USUAL: Final = ("nifti", "slicer", "dicom_series", "parametric_map", "segmentation")


def expected_bytes(input_voxels: int, map_voxels: int, writers: Collection[str] = _USUAL) -> int:
    """Estimate the size of a study from above, uncompressed.

    Args:
        input_voxels: voxels of all scans together.
        map_voxels: voxels of all maps together.
        writers: names of what writes it; of a plug-in nothing is known, and it counts as nothing.
    """
    sizes = [_BYTES_PER_VOXEL.get(name, (0, 0)) for name in writers]
    return sum(scan * input_voxels + map_ * map_voxels for scan, map_ in sizes)
