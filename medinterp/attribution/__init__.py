"""Which voxels of which input made a measurement what it is."""

from medinterp.attribution.activation_rules import Deconvolution, DeepLift, GuidedBackprop
from medinterp.attribution.activations import BlockMap, block_maps
from medinterp.attribution.baselines import (
    Baseline,
    Blurred,
    Given,
    LocalMean,
    ModalityNull,
    NoiseResampled,
    Ray,
    Zero,
)
from medinterp.attribution.by_name import NamedMethod, parse_baseline, parse_measure, parse_supervoxels
from medinterp.attribution.capabilities import Capabilities, Cost, capabilities
from medinterp.attribution.components import Components, non_negative_parts, principal_components
from medinterp.attribution.concepts import ConceptProbe, ConceptScore, probe_concepts
from medinterp.attribution.crop import CropOptions, explain_region
from medinterp.attribution.equivalent_filter import EquivalentFilter
from medinterp.attribution.feature_visualisation import Ascent, Stimulus, visualise_feature
from medinterp.attribution.game import RegionAttribution, RegionShare
from medinterp.attribution.gradcam import GradCam, GuidedGradCam
from medinterp.attribution.gradient import InputXGradient, Saliency
from medinterp.attribution.influence import Checkpoint, Influence, read_checkpoint, tracin
from medinterp.attribution.inpainting import Inpainted
from medinterp.attribution.integrated import IntegratedGradients
from medinterp.attribution.lattice import Lattice
from medinterp.attribution.lrp import LayerwiseRelevance
from medinterp.attribution.measures import (
    ClassScore,
    Contrast,
    Custom,
    Mean,
    Measure,
    PosteriorVariance,
    ReferenceDifference,
    RemovedEnergy,
    Sharpness,
)
from medinterp.attribution.occlusion import Occlusion
from medinterp.attribution.perturbation import ExactShapley, FeatureAblation, KernelShap, Lime, SampledShapley
from medinterp.attribution.preflight import Preflight, preflight
from medinterp.attribution.result import Attribution, Attributor, Forward
from medinterp.attribution.rules import METHODS, Verdict
from medinterp.attribution.sampled import GradientShap, SmoothGrad
from medinterp.attribution.supervoxels import (
    Supervoxel,
    Supervoxels,
    atlas_supervoxels,
    block_supervoxels,
    label_supervoxels,
    shell_supervoxels,
    slic_supervoxels,
)
from medinterp.attribution.targets import (
    Box,
    ClassLogit,
    ClassRegionScore,
    EdgeSharpness,
    RegionContrast,
    RegionEnergy,
    RegionFunction,
    RegionMean,
    Target,
    WeightedSum,
    edge_sharpness,
)
from medinterp.attribution.views import Difference, Removed, Variance

__all__ = [
    "METHODS",
    "Ascent",
    "Attribution",
    "Attributor",
    "Baseline",
    "BlockMap",
    "Blurred",
    "Box",
    "Capabilities",
    "Checkpoint",
    "ClassLogit",
    "ClassRegionScore",
    "ClassScore",
    "Components",
    "ConceptProbe",
    "ConceptScore",
    "Contrast",
    "Cost",
    "CropOptions",
    "Custom",
    "Deconvolution",
    "DeepLift",
    "Difference",
    "EdgeSharpness",
    "EquivalentFilter",
    "ExactShapley",
    "FeatureAblation",
    "Forward",
    "Given",
    "GradCam",
    "GradientShap",
    "GuidedBackprop",
    "GuidedGradCam",
    "Influence",
    "Inpainted",
    "InputXGradient",
    "IntegratedGradients",
    "KernelShap",
    "Lattice",
    "LayerwiseRelevance",
    "Lime",
    "LocalMean",
    "Mean",
    "Measure",
    "ModalityNull",
    "NamedMethod",
    "NoiseResampled",
    "Occlusion",
    "PosteriorVariance",
    "Preflight",
    "Ray",
    "ReferenceDifference",
    "RegionAttribution",
    "RegionContrast",
    "RegionEnergy",
    "RegionFunction",
    "RegionMean",
    "RegionShare",
    "Removed",
    "RemovedEnergy",
    "Saliency",
    "SampledShapley",
    "Sharpness",
    "SmoothGrad",
    "Stimulus",
    "Supervoxel",
    "Supervoxels",
    "Target",
    "Variance",
    "Verdict",
    "WeightedSum",
    "Zero",
    "atlas_supervoxels",
    "block_maps",
    "block_supervoxels",
    "capabilities",
    "edge_sharpness",
    "explain_region",
    "label_supervoxels",
    "non_negative_parts",
    "parse_baseline",
    "parse_measure",
    "parse_supervoxels",
    "preflight",
    "principal_components",
    "probe_concepts",
    "read_checkpoint",
    "shell_supervoxels",
    "slic_supervoxels",
    "tracin",
    "visualise_feature",
]
