"""What a run returns: volumes, numbers and certificates, ready for export."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from medinterp.assessment.certificate import Certificate
from medinterp.attribution.result import Attribution
from medinterp.noise.estimate import NoiseEstimate
from medinterp.volume import Region, Volume


@dataclass(frozen=True)
class InputResult:
    """One input: the scan, its noise, what the model made of it and what it took away.

    The last two are None where only a region was explained and the whole volume was never denoised.
    """

    scan: Volume
    noise: NoiseEstimate
    sigma: Volume
    denoised: Volume | None
    removed: Volume | None

    @property
    def shown(self) -> Volume:
        """The volume that maps are laid over: the denoised one where there is one."""
        return self.scan if self.denoised is None else self.denoised


@dataclass(frozen=True)
class FusionResult:
    """The fused image and what each input adds to it; the contributions sum to the image."""

    fused: Volume
    contributions: Mapping[str, Volume]


@dataclass(frozen=True)
class ExplanationResult:
    """One explained measurement: maps on each input's own grid, the number before and after, the proof.

    ``asked`` is the method with its options, as the user wrote it. What is no property of an image, such as what
    was removed, has no number before. For a fused image there is one map, attribution and certificate per input,
    and their sums add up to the number. A full certificate brings the map's "mean" and "sd" over repeated scans.
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
