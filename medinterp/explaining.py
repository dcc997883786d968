"""The explanations of one run: every measurement located once, its gradient shared by the methods that read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from medinterp.assessment.certificate import Certificate
from medinterp.assessment.full import CHECKS
from medinterp.assessment.place import require_in_place
from medinterp.attribution import Attribution, Saliency, Target, WeightedSum
from medinterp.attribution.capabilities import capabilities
from medinterp.certification import RepeatMaps, certify_fully
from medinterp.denoisers.base import Denoiser
from medinterp.errors import ConfigError
from medinterp.explanation import Case, Evaluations, Explanation, Kept
from medinterp.fusion.joining import Joining
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.results import ExplanationResult, FusionResult, InputResult
from medinterp.volume import Region, Step, Volume


@dataclass(frozen=True, eq=False)
class ImagePath:
    """How one image is made, as far as explaining it needs to know.

    Args:
        denoiser: the prior.
        sample: denoiser, image and noise level to image.
        radius: voxels around an output voxel that can influence it; None when all of them can.
        evaluations: of the prior.
    """

    denoiser: Denoiser
    sample: Callable[[Denoiser, Tensor, Tensor], Tensor]
    radius: int | None
    evaluations: Evaluations


@dataclass(frozen=True, eq=False)
class _Question:
    """One measurement: its region and its target on the final image, and what it means on each input's image."""

    region: Region
    target: Target
    targets: Mapping[str, Target]
    regions: Mapping[str, Region]


@dataclass(frozen=True, eq=False)
class Explaining:
    """What explanations are made from: the images and noise levels of a run, and how its results came of them.

    Args:
        paths: how each input's image is made.
        results: by input.
        fusion: the fused image, None for one input.
        joining: how the images are fused.
        images: the scans as tensors, by input.
        sigmas: their noise levels.
        seed: of every random number.
        limit: bytes that a gradient may take; None for no limit.
    """

    paths: Mapping[str, ImagePath]
    results: Mapping[str, InputResult]
    fusion: FusionResult | None
    joining: Joining
    images: Mapping[str, Tensor]
    sigmas: Mapping[str, Tensor]
    seed: int
    limit: int | None = None

    def __call__(self, explanations: Sequence[Explanation], on_step: OnStep = ignore) -> list[ExplanationResult]:
        """Make every explanation, in their order.

        Raises:
            ConfigError: a halo is asked for where the image is drawn at random.
            MethodNotValid: a method does not apply to its measurement.
            DeviceError: a gradient would take more memory than there is.
        """
        require_no_halo(explanations, random=self._random)
        done: list[ExplanationResult] = []
        for _, together in groupby(explanations, key=lambda e: (id(e.locate), id(e.measure), e.halo)):
            alike = list(together)
            question = self._question(alike[0])
            kept = {name: Kept() for name in question.targets}
            for explanation in alike:
                on_step(StepInfo("explain", len(done), len(explanations), explanation.method.name))
                done.append(self._explain(explanation, question, kept, on_step))
        on_step(StepInfo("explain", len(done), len(explanations)))
        return done

    def case(self, explanation: Explanation) -> tuple[Case, int | None]:
        """Return what an explanation comes down to for the first input, and its halo."""
        question = self._question(explanation)
        return self._case(explanation, question, next(iter(question.targets)))

    @property
    def _random(self) -> bool:
        return any(path.evaluations.random for path in self.paths.values())

    def _question(self, explanation: Explanation) -> _Question:
        first, reference = next(iter(self.results.items()))
        region = explanation.locate(reference.scan, reference.removed)
        target = explanation.measure.target(region)
        if self.fusion is None:
            return _Question(region, target, {first: target}, {first: region})
        weighted = self._pull_back(target, explanation.measure.taken_off)
        regions = {m: _weighted_region(w, self.results[m].scan) for m, w in weighted.items()}
        return _Question(region, target, weighted, regions)

    def _case(self, explanation: Explanation, question: _Question, name: str) -> tuple[Case, int | None]:
        path = self.paths[name]
        method = explanation.attributor(self.results[name].scan, question.regions[name], self.seed)
        case = Case(
            method, explanation.measure, name, self.images[name], self.sigmas[name], question.targets[name],
            path.denoiser, path.radius, path.sample, self.seed, path.evaluations,
        )  # fmt: skip
        halo = explanation.halo
        return case, case.usual_halo() if halo is None and not path.evaluations.random else halo

    def _explain(
        self,
        explanation: Explanation,
        question: _Question,
        kept: Mapping[str, Kept],
        on_step: OnStep,
    ) -> ExplanationResult:
        """Explain one measurement, input by input; for linear measurements of a fused image this is exact."""
        attributions: dict[str, Attribution] = {}
        certificates: dict[str, Certificate] = {}
        repeats: dict[str, RepeatMaps] = {}
        for name in question.targets:
            case, halo = self._case(explanation, question, name)
            case.require_memory(halo, self.limit)
            attributions[name] = case.explain(halo=halo, gradients=kept[name].gradients)
            require_map_in_place(case, attributions[name], halo, kept[name])
            certificates[name] = case.certify(attributions[name], kept[name])
            if explanation.checks is not None:
                certificates[name], found = certify_fully(
                    case, attributions[name], certificates[name], explanation.checks, exact=not self._random,
                    on_check=lambda name: on_step(StepInfo("certify", CHECKS.index(name), len(CHECKS), name)),
                )  # fmt: skip
                repeats |= {} if found is None else {name: found}
                on_step(StepInfo("certify", len(CHECKS), len(CHECKS)))
        return self._result(explanation, question, attributions, certificates, repeats)

    def _result(
        self,
        explanation: Explanation,
        question: _Question,
        attributions: Mapping[str, Attribution],
        certificates: Mapping[str, Certificate],
        repeats: Mapping[str, RepeatMaps],
    ) -> ExplanationResult:
        fusion = self.fusion
        off = explanation.measure.taken_off
        numbers = self._fused(question, fusion, off) if fusion else self._alone(explanation, question, attributions)
        measure, unit = explanation.measure, numbers.unit
        maps = {m: _map_volume(a, m, self.results[m].scan, unit, measure.name) for m, a in attributions.items()}
        return ExplanationResult(
            region=question.region,
            measure=measure.name,
            method=explanation.method.name,
            asked=getattr(explanation.method, "text", explanation.method.name),
            maps=maps,
            attributions=attributions,
            certificates=certificates,
            value_before=numbers.before,
            value_after=numbers.after,
            unit=unit,
            offset_share=numbers.offset_share,
            credits=numbers.credits,
            repeats={m: found.volumes(maps[m]) for m, found in repeats.items()},
        )

    def _alone(
        self, explanation: Explanation, question: _Question, attributions: Mapping[str, Attribution]
    ) -> "_Numbers":
        name, reference = next(iter(self.results.items()))
        measure = explanation.measure
        shown = reference.denoised if measure.of_image else None
        before = _measure(question.target, reference.scan) if measure.of_image else None
        after = attributions[name].value if shown is None else _measure(question.target, shown)
        return _Numbers(before, after, measure.unit(reference.scan.unit), 0.0, {})

    def _fused(self, question: _Question, fusion: FusionResult, taken_off: str | None) -> "_Numbers":
        """Return the numbers of a fused image, which is linear in the denoised ones: so its removed parts add up."""
        after = _measure(question.target, fusion.fused)
        if taken_off is not None:
            shown = {m: torch.from_numpy(r.shown.voxels.copy())[None] for m, r in self.results.items()}
            after = float(question.target(self._joined(shown, taken_off))[0])
        of = {m: self.results[m] for m in question.targets}
        offset = after - sum(_measure(question.targets[m], result.shown) for m, result in of.items())
        removed = (_measure(question.targets[m], r.removed) for m, r in of.items() if r.removed is not None)
        ledger = {} if fusion.ledger is None or taken_off else fusion.ledger.credits  # credits are the fused image's
        credits = {m: _measure(question.target, credit) for m, credit in ledger.items()}
        return _Numbers(after + sum(removed), after, fusion.fused.unit, offset, credits)

    def _pull_back(self, target: Target, taken_off: str | None) -> dict[str, WeightedSum]:
        """Turn a linear measurement of the fused image into one of each denoised image that it looks at."""
        leaves = {m: torch.from_numpy(r.shown.voxels.copy())[None].requires_grad_() for m, r in self.results.items()}
        weights = torch.autograd.grad(target(self._joined(leaves, taken_off)).sum(), list(leaves.values()))
        found = {m: w[0, 0] for m, w in zip(leaves, weights, strict=True) if bool(w.any())}
        return {m: WeightedSum(w, target.name) for m, w in found.items()}

    def _joined(self, images: Mapping[str, Tensor], taken_off: str | None) -> Tensor:
        """Return the fused image, less the one of a single scan if there is one to take off."""
        ready = self.joining.carried(images, {m: sigma.cpu() for m, sigma in self.sigmas.items()}).prepare()
        fused = ready.join(images).image
        return fused if taken_off is None else fused - ready.join([taken_off]).image


@dataclass(frozen=True)
class _Numbers:
    """The measured number before and after, its unit, what an offset holds of it, and each modality's credit."""

    before: float | None
    after: float
    unit: str
    offset_share: float
    credits: Mapping[str, float]


def require_no_halo(explanations: Sequence[Explanation], *, random: bool) -> None:
    """Refuse a halo where the image is drawn at random.

    Raises:
        ConfigError: a crop would draw other noise than the image.
    """
    if random and any(e.halo is not None for e in explanations):
        raise ConfigError("a halo with a random sampler: a crop would draw other noise than the image; leave it out")


def require_map_in_place(case: Case, found: Attribution, halo: int | None, kept: Kept) -> None:
    """Refuse the map of a rule at activations that lies elsewhere than the measurement's gradient.

    Raises:
        MethodNotValid: it does.
    """
    declared = capabilities(case.attributor)
    if declared is None or not declared.may_stray:
        return
    gradient = replace(case, attributor=Saliency()).explain(halo=halo, gradients=kept.gradients)
    seen = (..., *case.crop(halo).slices)
    require_in_place(found.maps[case.name][0][seen], gradient.maps[case.name][0][seen], found.method)


def _measure(target: Target, volume: Volume) -> float:
    return float(target(torch.from_numpy(volume.voxels.copy())[None])[0])


def _weighted_region(target: WeightedSum, scan: Volume) -> Region:
    """Return the voxels of a scan that a measurement of the fused image weighs."""
    return Region((target.weights != 0).cpu().numpy(), scan.grid, target.name)


def _map_volume(attribution: Attribution, name: str, scan: Volume, unit: str, measure: str) -> Volume:
    per_input = attribution.kind == "gradient"
    map_unit = unit if not per_input else ("1" if unit == scan.unit else f"{unit} / {scan.unit}")
    step = Step("explain", {"method": attribution.method, "target": attribution.target, "measure": measure})
    return scan.derive(attribution.maps[name][0].detach().cpu().numpy(), step, unit=map_unit)
