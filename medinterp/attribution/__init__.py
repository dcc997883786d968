"""Which voxels of which input made a measurement what it is."""

from medinterp.attribution.baselines import Baseline, Blurred, Given, NoiseResampled, Ray
from medinterp.attribution.crop import CropOptions, explain_region
from medinterp.attribution.equivalent_filter import EquivalentFilter
from medinterp.attribution.gradient import InputXGradient, IntegratedGradients, Saliency
from medinterp.attribution.result import Attribution, Attributor, Forward
from medinterp.attribution.targets import Box, RegionContrast, RegionMean, Target, WeightedSum

__all__ = [
    "Attribution",
    "Attributor",
    "Baseline",
    "Blurred",
    "Box",
    "CropOptions",
    "EquivalentFilter",
    "Forward",
    "Given",
    "InputXGradient",
    "IntegratedGradients",
    "NoiseResampled",
    "Ray",
    "RegionContrast",
    "RegionMean",
    "Saliency",
    "Target",
    "WeightedSum",
    "explain_region",
]
