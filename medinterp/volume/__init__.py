"""Volumes and their geometry: numpy only, and the only place that changes a grid."""

from medinterp.volume.grid import Grid
from medinterp.volume.overlay import Overlay
from medinterp.volume.provenance import Provenance, Source, Step
from medinterp.volume.region import Region, region_from_mask, ring, sphere, voxel
from medinterp.volume.segmentation import Segment, Segmentation
from medinterp.volume.transform import Transform
from medinterp.volume.volume import Volume

__all__ = [
    "Grid",
    "Overlay",
    "Provenance",
    "Region",
    "Segment",
    "Segmentation",
    "Source",
    "Step",
    "Transform",
    "Volume",
    "region_from_mask",
    "ring",
    "sphere",
    "voxel",
]
