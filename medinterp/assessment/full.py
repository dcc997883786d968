"""The checks of a full certificate: is the map repeatable, faithful, to scale, steady, and does it show the model?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.assessment.faithfulness import CurveOptions, Faithfulness, Measure, assess_faithfulness
from medinterp.assessment.randomisation import INSENSITIVE, SENSITIVE, CascadeStage
from medinterp.assessment.sensitivity import (
    Infidelity,
    MaxSensitivity,
    block_changes,
    infidelity,
    max_sensitivity,
    multiplier,
)
from medinterp.assessment.significance import SignificanceNumbers, sign_flip_test
from medinterp.assessment.stability import Repeats, Stability, compare_repeats, noise_draws, repeat_map
from medinterp.errors import ConfigError, MethodNotValid

OnCheck: TypeAlias = Callable[[str], None]
Found = TypeVar("Found")


@dataclass(frozen=True)
class CheckOptions:
    """How thoroughly a map is checked.

    Cost: ``explanations``, and the evaluations of the curves and changes.

    Args:
        repeats: explanations of repeated scans; at least 6, or nothing can be significant.
        curves: of deletion and insertion.
        changes: blocks that are replaced one at a time, for infidelity.
        nudges: slightly changed scans, for max-sensitivity.
        nudge: their largest change of a voxel, in noise levels of the scan.
        stages: groups of layers of the cascade.
    """

    repeats: int = 8
    curves: CurveOptions = field(default_factory=lambda: CurveOptions(steps=8))
    changes: int = 64
    nudges: int = 5
    nudge: float = 0.1
    stages: int = 5

    def __post_init__(self) -> None:
        if self.repeats < 6 or self.changes < 2 or min(self.nudges, self.stages) < 1 or not self.nudge > 0:
            raise ConfigError(
                f"{self.repeats} repeats, {self.changes} changes, {self.nudges} nudges of {self.nudge} noise levels, "
                f"{self.stages} stages: expected at least 6 repeats, 2 changes, and positive numbers"
            )

    @property
    def explanations(self) -> int:
        """How many explanations by the model's network they take: of repeats, nudged scans and random layers.

        Nudged and random ones are each compared with one of the scan as it is.
        """
        return self.repeats + (1 + self.nudges) + (1 + self.stages)

    @property
    def measurements(self) -> int:
        """How often the measurement is read off a changed scan: along the curves, and after replacing one block."""
        return self.curves.evaluations(self.curves.steps) + 1 + self.changes


@dataclass(frozen=True, eq=False)
class Subject:
    """One explanation as the checks see it, on the part of the scan around its region.

    Args:
        explain: scan to its map, channel by channel.
        measure: scans to the measurement of each.
        cascade: number of stages to the comparisons with layers made random; None where the denoiser has no network.
        scan: as it was read.
        sigma: its noise level.
        clean: the cleaned scan.
        found: the certified map.
        fill: name of what replaced blocks are filled with.
        fills: the filling, another draw at each call where it is random.
        baseline: what contributions were counted from, zeros for gradient x input; None for a gradient.
        scale: factor from the map to effects, the degree by which gradient x input was divided; 1 for others.
        no_effect: why the map's values are no effects on the measurement; empty where they are.
        context: voxels around the region.
    """

    explain: Callable[[Tensor], Tensor]
    measure: Measure
    cascade: Callable[[int], tuple[CascadeStage, ...]] | None
    scan: Float[Tensor, "1 C I J K"]
    sigma: Float[Tensor, "#B #C #I #J #K"]
    clean: Float[Tensor, "1 C I J K"]
    found: Float[Tensor, "1 C I J K"]
    fill: str
    fills: Callable[[], Tensor]
    baseline: Float[Tensor, "1 C I J K"] | None
    scale: float = 1.0
    no_effect: str = ""
    context: int = 0

    @property
    def level(self) -> float:
        """The mean noise level of the voxels that hold noise; 0 where none does."""
        noisy = self.sigma[self.sigma > 0]
        return float(noisy.mean()) if noisy.numel() else 0.0


@dataclass(frozen=True)
class FullChecks:
    """What the checks found; plain numbers, for the record.

    Args:
        context_voxels: they were repeated on the scan within so many voxels around the region.
        stability: over repeated scans.
        significance: of the map over these repeats.
        faithfulness: deletion and insertion.
        faithful: the measurement moves sooner in the map's order than in random ones, beyond chance, both ways.
        infidelity: what the map predicts against what happens.
        max_sensitivity: how far the map moves when the scan hardly does.
        cascade: the map with layers made random, from the output down.
        depends_on_model: the map with all layers random is another one; None where too few voxels are independent.
        not_made: checks that have no meaning here, each with the reason; their results are None.
        notes: what failed, or a reader should know, in words.
    """

    context_voxels: int
    stability: Stability | None
    significance: SignificanceNumbers | None
    faithfulness: Faithfulness | None
    faithful: bool | None
    infidelity: Infidelity | None
    max_sensitivity: MaxSensitivity | None
    cascade: tuple[CascadeStage, ...] | None
    depends_on_model: bool | None
    not_made: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.faithful is not False and self.depends_on_model is not False


CHECKS = ("stability", "faithfulness", "infidelity", "max_sensitivity", "cascade")


def check_fully(
    subject: Subject,
    *,
    generator: torch.Generator,
    options: CheckOptions = CheckOptions(),
    on_check: OnCheck = lambda name: None,
) -> tuple[FullChecks, Repeats | None]:
    """Make every check that has a meaning for this map; also return the map's mean and spread over repeats.

    Args:
        subject: the explanation.
        generator: of noise, random orders and places; its state moves on.
        options: how thoroughly.
        on_check: told the name of each check before it begins.
    """
    not_made: dict[str, str] = {}

    def tried(name: str, check: Callable[[], Found]) -> Found | None:
        on_check(name)
        try:
            return check()
        except MethodNotValid as refusal:  # the reason is the answer
            not_made[name] = str(refusal)
            return None

    repeated = tried("stability", lambda: _repeats(subject, options, generator))
    curves = tried("faithfulness", lambda: _curves(subject, options, generator))
    error = tried("infidelity", lambda: _infidelity(subject, options, generator))
    moved = tried("max_sensitivity", lambda: _max_sensitivity(subject, options, generator))
    stages = tried("cascade", lambda: _cascade(subject, options))
    repeats, significance = (None, None) if repeated is None else repeated
    verdict = None if stages is None else {SENSITIVE: True, INSENSITIVE: False}.get(stages[-1].comparison.verdict)
    found = FullChecks(
        context_voxels=subject.context, stability=None if repeats is None else repeats.stability,
        significance=significance, faithfulness=curves, faithful=None if curves is None else curves.faithful,
        infidelity=error, max_sensitivity=moved, cascade=stages, depends_on_model=verdict, not_made=not_made, notes=(),
    )  # fmt: skip
    return replace(found, notes=tuple(_notes(found))), repeats


def _repeats(
    subject: Subject, options: CheckOptions, generator: torch.Generator
) -> tuple[Repeats, SignificanceNumbers]:
    """Explain repeated scans; of their maps, return how alike they are and how many voxels differ from zero."""
    _require_noise(subject)
    scans = noise_draws(subject.clean, subject.sigma, draws=options.repeats, generator=generator)
    maps = list(repeat_map(subject.explain, scans))
    repeats = compare_repeats(subject.found[0], maps)
    return repeats, sign_flip_test(torch.stack(maps), generator=generator).numbers()


def _curves(subject: Subject, options: CheckOptions, generator: torch.Generator) -> Faithfulness:
    fills = (subject.fills() for _ in range(options.curves.draws))
    return assess_faithfulness(
        subject.measure, subject.scan, fills, subject.found, fill=subject.fill, generator=generator,
        options=options.curves,
    )  # fmt: skip


def _infidelity(subject: Subject, options: CheckOptions, generator: torch.Generator) -> Infidelity:
    """Replace blocks by the baseline that contributions were counted from; of other maps, by the filling."""
    if subject.no_effect:
        raise MethodNotValid(subject.no_effect)
    start = subject.baseline
    counted = start is not None and bool(start.any())
    fill = start if start is not None and counted else subject.fills()
    effect = subject.scale * multiplier(subject.found, subject.scan, start)
    changes = block_changes(
        subject.scan, fill, block=options.curves.block, changes=options.changes, batch=options.curves.batch,
        generator=generator,
    )  # fmt: skip
    return infidelity(subject.measure, subject.scan, effect, changes)


def _max_sensitivity(subject: Subject, options: CheckOptions, generator: torch.Generator) -> MaxSensitivity:
    _require_noise(subject)
    return max_sensitivity(
        subject.explain, subject.scan, subject.explain(subject.scan), radius=options.nudge * subject.level,
        changes=options.nudges, generator=generator, sigma=subject.level,
    )  # fmt: skip


def _cascade(subject: Subject, options: CheckOptions) -> tuple[CascadeStage, ...]:
    if subject.cascade is None:
        raise MethodNotValid("the denoiser has no network whose weights could be made random")
    return subject.cascade(options.stages)


def _require_noise(subject: Subject) -> None:
    if not subject.level:
        raise MethodNotValid("the scan is taken as free of noise here: measured again, it would be the same")


def _notes(found: FullChecks) -> list[str]:
    """Return what failed, and what a reader would otherwise miss."""
    notes = []
    stability, curves = found.stability, found.faithfulness
    if stability is not None and stability.relative_sd is not None and stability.relative_sd > 1:
        notes.append(
            "measured again, the map would change by more than it shows: read its large structures only "
            f"(spread {100 * stability.relative_sd:.0f} % of the mean)"
        )
    if curves is not None and not found.faithful:
        notes.append(
            f"replacing blocks by their {curves.fill} version in the map's order moves the number no sooner than in "
            "random orders, beyond chance"
        )
    if found.depends_on_model is False and found.cascade is not None:
        last = found.cascade[-1].comparison
        notes.append(f"with all layers random the map still resembles itself: correlation {last.correlation:.2f}")
    return notes
