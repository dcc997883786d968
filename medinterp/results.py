"""What a run returns: volumes, numbers and certificates, ready for export."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float32

from medinterp.assessment.certificate import Certificate
from medinterp.attribution.result import Attribution
from medinterp.fusion.fusers import Scale
from medinterp.fusion.registration import Registration
from medinterp.noise.estimate import NoiseEstimate
from medinterp.volume import Region, Step, Volume

TISSUE = 0.1
"""Of the bright tissue's level, in the fused image's scale: what is darker is background."""


@dataclass(frozen=True)
class InputResult:
    """One input: the scan, its noise, what the model made of it and what it took away.

    The image and what was removed are None where only a region was explained and the whole volume was never denoised.
    The trajectory, where it was asked for, is the reverse diffusion's own: the scan, the states between, and the
    image, by the fraction of the noise that is left, from 1 to 0.
    """

    scan: Volume
    noise: NoiseEstimate
    sigma: Volume
    denoised: Volume | None
    removed: Volume | None
    trajectory: Mapping[float, Volume] = field(default_factory=dict)

    @property
    def shown(self) -> Volume:
        """The volume that maps are laid over: the denoised one where there is one."""
        return self.scan if self.denoised is None else self.denoised

    def with_states(self, states: Mapping[float, Float32[np.ndarray, "C I J K"]]) -> "InputResult":
        """Return this with its trajectory: the scan, these states in order, and the image."""
        if self.denoised is None:
            return self
        between = {
            left: self.scan.derive(x, Step("state of the reverse diffusion", {"noise_left": left}))
            for left, x in sorted(states.items(), reverse=True)
        }
        return replace(self, trajectory={1.0: self.scan, **between, 0.0: self.denoised})


@dataclass(frozen=True)
class Alignment:
    """One registered scan: the registration, and its denoised image on the first one's grid before and after."""

    registration: Registration
    before: Volume
    after: Volume


@dataclass(frozen=True)
class LedgerResult:
    """Who supplied what to the fused image, voxel by voxel.

    Args:
        credits: each modality's exact Shapley share; they sum to the fused image.
        interactions: for each pair what they reach together beyond what each adds alone.
        sensitivity: the largest change of each credit at one voxel of displacement.
        shares: each modality's part of all credit, by magnitude.
        gap: largest part of the image that the credits leave out.
        evaluations: subsets that were fused.
        displaced_share: part of the credit that changes hands at the worst displacement of one voxel.
        worst_displacement: which that is.
        warning: what the reader has to know of it, if anything.
    """

    credits: Mapping[str, Volume]
    interactions: Mapping[tuple[str, str], Volume]
    sensitivity: Mapping[str, Volume]
    shares: Mapping[str, float]
    gap: float
    evaluations: int
    displaced_share: float
    worst_displacement: str
    warning: str | None


@dataclass(frozen=True)
class FusionResult:
    """The fused image and its account.

    Args:
        fused: on the first input's grid.
        contributions: what each input adds; they sum to the image.
        weights: the share of the decision each input had at every voxel.
        scales: how each input's unit was mapped.
        fuser: name of the fuser.
        options: its settings.
        on_own_grids: the image fused anew on the other inputs' own grids.
        alignments: of the inputs that were registered.
        carried: every denoised image on the first input's grid, in its own unit.
        ledger: who supplied what, when asked for.
    """

    fused: Volume
    contributions: Mapping[str, Volume]
    weights: Mapping[str, Volume]
    scales: Mapping[str, Scale]
    fuser: str
    options: Mapping[str, Any]
    on_own_grids: Mapping[str, Volume]
    alignments: Mapping[str, Alignment]
    carried: Mapping[str, Volume]
    ledger: LedgerResult | None = None

    @property
    def mean_weights(self) -> Mapping[str, float]:
        """Each input's mean weight over the tissue: where the fused image exceeds a tenth of the bright level."""
        tissue = self.fused.voxels > TISSUE
        return {m: float(w.voxels[tissue].mean()) if tissue.any() else 0.0 for m, w in self.weights.items()}


@dataclass(frozen=True)
class ExplanationResult:
    """One explained measurement: maps on each input's own grid, the number before and after, the proof.

    ``asked`` is the method with its options, as the user wrote it. What is no property of an image, such as what
    was removed, has no number before. For a fused image there is one map, attribution and certificate per input,
    and their sums add up to the number, but for ``offset_share``: what the intensity mapping added (CT counts from
    air). ``credits`` is the number divided by the modality ledger, when there is one. A full
    certificate brings the map's "mean" and "sd" over repeated scans.
    """

    region: Region
    measure: str
    method: str
    asked: str
    maps: Mapping[str, Volume]
    attributions: Mapping[str, Attribution]
    certificates: Mapping[str, Certificate]
    value_before: float | None
    value_after: float
    unit: str
    offset_share: float = 0.0
    credits: Mapping[str, float] = field(default_factory=dict)
    repeats: Mapping[str, Mapping[str, Volume]] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """Everything a run found, as volumes."""

    inputs: Mapping[str, InputResult]
    fusion: FusionResult | None
    explanations: tuple[ExplanationResult, ...]
    seconds: Mapping[str, float]
    seed: int
    device: str
    tiles: Mapping[str, tuple[int, int, int] | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """One volume made of a block's features.

    Args:
        name: for file names, letters and digits.
        title: for people.
        on_block: on the block's own grid; of a stimulus, on its own, which is no place in the patient.
        on_scan: interpolated onto the scan's grid, zero where it was not computed; None for a stimulus.
        signed: whether its sign has a meaning.
        numbers: what is known of it, for the table and the sidecar.
    """

    name: str
    title: str
    on_block: Volume
    on_scan: Volume | None
    signed: bool
    numbers: Mapping[str, float | int | str | None]


@dataclass(frozen=True, eq=False)
class FeatureResult:
    """What was found inside the network.

    Args:
        kind: "activations", "pca", "nmf", "concepts" or "stimulus".
        name: of the scan.
        input: the scan and its noise.
        block: name of the module.
        about: of the block: class, channels, voxel size in mm, whether its place is exact.
        maps: the volumes.
        rows: the table, one row for each thing asked about, refused ones included.
        region: the target; None without.
        caution: what the volumes do not mean.
        notes: what a reader should know.
        seed: of every random number.
    """

    kind: str
    name: str
    input: InputResult
    block: str
    about: Mapping[str, Any]
    maps: tuple[FeatureMap, ...]
    rows: tuple[Mapping[str, float | int | str | None], ...]
    region: Region | None
    caution: str
    notes: tuple[str, ...]
    seed: int
