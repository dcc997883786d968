"""What is being explained: one number of the output image, measured in a region."""

from medinterp.attribution.targets.base import Target
from medinterp.attribution.targets.box import Box
from medinterp.attribution.targets.linear import RegionContrast, RegionMean, WeightedSum
from medinterp.attribution.targets.network import ClassLogit, ClassRegionScore
from medinterp.attribution.targets.nonlinear import EdgeSharpness, RegionEnergy, RegionFunction, edge_sharpness

__all__ = [
    "Box",
    "ClassLogit",
    "ClassRegionScore",
    "EdgeSharpness",
    "RegionContrast",
    "RegionEnergy",
    "RegionFunction",
    "RegionMean",
    "Target",
    "WeightedSum",
    "edge_sharpness",
]
