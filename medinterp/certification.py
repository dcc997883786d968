"""The full certificate of a map: the checks of ``assessment.full``, made on the scan around its region."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from medinterp.assessment.certificate import Certificate, with_checks
from medinterp.assessment.full import CheckOptions, Subject, check_fully
from medinterp.assessment.randomisation import check_cascade
from medinterp.attribution import Attribution, Blurred, InputXGradient, Zero
from medinterp.attribution.baselines import Baseline, NoiseResampled, Point, Ray
from medinterp.attribution.capabilities import capabilities
from medinterp.attribution.inpainting import Inpainted
from medinterp.attribution.measurement import seen_by
from medinterp.attribution.result import degree_of
from medinterp.explanation import PROOF_HALO, Case
from medinterp.volume import Step, Volume

_PATTERN = (
    "the size of this map is no effect on the number: it shows a pattern, or where a block's features are, so it "
    "predicts no change"
)
_MANY = "its contributions are counted from many baselines at once, so that none of them says what one change does"


@dataclass(frozen=True)
class Effort:
    """What a full certificate takes, on the scan around its region.

    Args:
        explanations: maps made anew.
        evaluations: of the model, beside those of the maps.
    """

    explanations: int
    evaluations: int


@dataclass(frozen=True, eq=False)
class RepeatMaps:
    """Mean and standard deviation of a map over repeated scans, on the scan's grid; 0 where it was not repeated."""

    mean: Tensor
    sd: Tensor
    draws: int

    def volumes(self, shown: Volume) -> dict[str, Volume]:
        """Return them as volumes beside the map that was certified."""
        words = {"mean": "mean over repeated scans", "sd": "standard deviation over repeated scans"}
        return {
            name: shown.derive(getattr(self, name).cpu().numpy(), Step(words[name], {"repeats": self.draws}))
            for name in words
        }


def full_effort(near: Case, options: CheckOptions) -> Effort:
    """Return what the checks of a full certificate take, said before they are made.

    Args:
        near: the case on the scan around its region.
        options: how thoroughly.
    """
    fill = _filling(near)
    each = int(isinstance(fill, NoiseResampled))
    if isinstance(fill, Inpainted):
        each = len(fill.supervoxels) * fill.evaluations
    fillings = options.curves.draws + 1  # the one more is what single blocks are replaced by
    return Effort(options.explanations, options.measurements + fillings * each + 1)  # and the cleaned scan


def certify_fully(
    case: Case,
    attribution: Attribution,
    certificate: Certificate,
    options: CheckOptions,
    *,
    exact: bool = True,
    on_check: Callable[[str], None] = lambda name: None,
) -> tuple[Certificate, RepeatMaps | None]:
    """Add every further check to a map's certificate; also return its mean and spread over repeated scans.

    They are made with 8 voxels of context, in which 99.5 % of a region's gradient lies: on the exact crop they would
    take minutes.

    Args:
        case: what was explained.
        attribution: the map.
        certificate: what is known of it.
        options: how thoroughly.
        exact: whether a crop gives the map of the whole volume; where it does not (a random sampler draws other noise
            there), the crop's own map is checked.
        on_check: told the name of each check before it begins.
    """
    generator = torch.Generator().manual_seed(case.seed)
    box, near = case.around(PROOF_HALO)
    whole = attribution.maps[case.name]
    found = whole[(..., *box.slices)] if exact else _map(near)
    subject = _subject(near, attribution, found, generator)
    checks, repeats = check_fully(subject, generator=generator, options=options, on_check=on_check)
    if repeats is None:
        return with_checks(certificate, checks), None
    embedded = {name: torch.zeros_like(whole[0]) for name in ("mean", "sd")}
    for name, image in embedded.items():
        image[(..., *box.slices)] = getattr(repeats, name)
    return with_checks(certificate, checks), RepeatMaps(**embedded, draws=repeats.stability.draws)


def _subject(near: Case, attribution: Attribution, found: Tensor, generator: torch.Generator) -> Subject:
    forward = near.forward(near.denoiser)
    watched = seen_by(near.target, forward)
    inputs, sigmas = {near.name: near.image}, {near.name: near.sigma}
    fill = _filling(near)

    def measure(scans: Tensor) -> Tensor:
        with torch.no_grad():  # numbers are read off; the graph would only cost memory
            return near.target(watched({near.name: scans}, sigmas))

    def draw() -> Tensor:
        again = fill
        if isinstance(fill, NoiseResampled):  # its copy of a generator would draw the same noise each time
            seed = int(torch.randint(2**31, (1,), generator=generator))
            again = replace(fill, generator=torch.Generator().manual_seed(seed))
        return _image(again(forward, inputs, sigmas), near.name)

    with torch.no_grad():
        clean = near.sample(near.denoiser, near.image, near.sigma)
    network = getattr(near.denoiser, "network", None)
    explain = partial(near.explain_or_plain, attribution.kind)
    by_products = isinstance(near.attributor, InputXGradient)
    degree = degree_of(near.target, forward) or 1
    return Subject(
        explain=lambda scan: _map(replace(near, image=scan))[0], measure=measure,
        cascade=None if network is None else lambda stages: check_cascade(
            explain, network, generator=generator, stages=stages
        ),
        scan=near.image, sigma=near.sigma, clean=clean, found=found, fill=fill.name, fills=draw,
        baseline=None if attribution.kind == "gradient" else _image(_start(near)(forward, inputs, sigmas), near.name),
        scale=float(degree) if by_products else 1.0, no_effect=_why_no_effect(near, attribution), context=PROOF_HALO,
    )  # fmt: skip


def _map(case: Case) -> Tensor:
    """Return the map of a case, which is small enough to be explained whole."""
    return case.explain(halo=None).maps[case.name]


def _image(point: Point, name: str) -> Tensor:
    return point[0][name].detach()


def _start(case: Case) -> Baseline:
    """Return what contributions are counted from; methods without a baseline count from zero."""
    baseline: Baseline = getattr(case.attributor, "baseline", Zero())
    return baseline


def _filling(case: Case) -> Baseline:
    """Return what blocks are replaced by: the method's own baseline, or the blurred scan where it has none.

    A ray from zero is none: a scan with blocks of zeros is nothing the model has seen.
    """
    baseline: Baseline = getattr(case.attributor, "baseline", Blurred())
    return Blurred() if isinstance(baseline, Ray) else baseline


def _why_no_effect(case: Case, attribution: Attribution) -> str:
    """Return why a map's values do not say what a change of the scan does to the number; empty where they do."""
    declared = capabilities(case.attributor)
    if declared is None:
        return ""
    if declared.rule == "block" or (declared.rule == "activation rule" and not declared.complete):
        return _PATTERN
    many = declared.rule == "gradient" and declared.random and attribution.kind == "contribution"
    return _MANY if many else ""
