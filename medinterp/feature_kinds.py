"""The kinds of looks inside the network: activations, their components, concepts, a stimulus; each as volumes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import numpy as np
import torch
from torch import Tensor

from medinterp.attribution import (
    Ascent,
    BlockMap,
    Components,
    ConceptProbe,
    ConceptScore,
    non_negative_parts,
    principal_components,
    probe_concepts,
    visualise_feature,
)
from medinterp.attribution.feature_visualisation import INPUT, Stimulus
from medinterp.attribution.measurement import seen_by
from medinterp.errors import ConfigError, MethodNotValid
from medinterp.explanation import Explanation, OneInput
from medinterp.feature_look import Look
from medinterp.progress import StepInfo
from medinterp.results import FeatureMap
from medinterp.volume import Grid, Provenance, Region, Source, Step, Volume

MOST_VALUES = 20_000_000
"""Voxels times channels that are factorised, or asked about concepts, in reasonable time: both go over them often."""
LEVEL = 0.05
"""A concept that random places reach as often as this is not told from them."""
Row = Mapping[str, float | int | str | None]


def activations(look: Look) -> tuple[tuple[FeatureMap, ...], tuple[Row, ...]]:
    """Return channels of a block: those asked for, or those that stand out in the target, else over the scan.

    Raises:
        ConfigError: the block has fewer channels.
    """
    features = look.features()
    chosen = look.options.channels or _standing_out(features, look.region, look.options.count)
    maps = []
    for channel in chosen:
        one = features.channel(channel)
        numbers = {"channel": channel, **_numbers(one.values[0, 0], one, look.region)}
        step = Step("activation", {"block": look.block, "channel": channel})
        maps.append(_map(look, f"channel{channel}", f"channel {channel}", one, step, "a.u.", numbers))
    return tuple(maps), tuple(m.numbers for m in maps)


def components(look: Look) -> tuple[tuple[FeatureMap, ...], tuple[Row, ...]]:
    """Return principal components, or non-negative parts, of a block's features.

    Raises:
        ConfigError: more components than channels or voxels, or too many values to factorise.
        InputError: the features are the same everywhere, or some are negative.
    """
    features, count, parts = look.features(), look.options.count, look.options.kind == "nmf"
    if parts:
        _require_few(features, "non-negative parts")
        seed = look.explaining.seed
        found = non_negative_parts(features, count, seeds=(seed, seed + 1, seed + 2))
    else:
        found = principal_components(features, count, generator=look.generator)
    word = "part" if parts else "component"
    maps = []
    for number in range(count):
        step = Step(found.method, {"block": look.block, "number": number + 1})
        numbers = {word: number + 1, **_component_numbers(found, number)}
        one = found.maps.channel(number)
        maps.append(_map(look, f"{word}{number + 1}", f"{word} {number + 1}", one, step, "a.u.", numbers))
    return tuple(maps), tuple(m.numbers for m in maps)


def concepts(look: Look) -> tuple[tuple[FeatureMap, ...], tuple[Row, ...]]:
    """Return where the block shows each concept and where the measurement answers to it; refuse what is no concept.

    Raises:
        ConfigError: there is no target, or the block has too many values.
        EmptyRegion: a mask covers too few of the block's voxels, or leaves too few.
        MethodNotValid: none of the concepts is told from random places by this block.
    """
    if look.explanation is None:
        raise ConfigError("concepts need a --target, the number that may answer to them")
    features = look.features()
    _require_few(features, "concepts")
    probe = _slopes(look, look.explanation).among(features)
    within = None if look.within is None else torch.from_numpy(look.within.mask.copy())
    generator, maps, rows = look.generator, list[FeatureMap](), list[Row]()
    for number, (name, region) in enumerate(look.masks.items()):
        look.on_step(StepInfo("concepts", number, len(look.masks), name))
        mask = torch.from_numpy(region.mask.copy())
        score = probe.score(mask, name, generator=generator, permutations=look.options.permutations, within=within)
        told = score.p_separability <= LEVEL
        rows.append(_concept_row(score, told=told))
        maps += _concept_maps(look, probe, mask, within, rows[-1]) if told else []
    look.on_step(StepInfo("concepts", len(look.masks), len(look.masks)))
    if not maps:
        raise MethodNotValid("; ".join(str(row["refused"]) for row in rows))
    return tuple(maps), tuple(rows)


def stimulus(look: Look) -> tuple[tuple[FeatureMap, ...], tuple[Row, ...]]:
    """Return images made up to excite channels of a block.

    Raises:
        ConfigError: there is a target, or no such channel.
        MethodNotValid: a channel does not depend on the image.
    """
    if look.region is not None:
        raise ConfigError("a stimulus is made from noise and has no place in the scan; leave --target out")
    path, size = look.explaining.paths[look.name], look.options.size
    forward = OneInput(INPUT, path.denoiser, path.sample, path.evaluations.single)
    ascent = Ascent((size, size, size), look.options.ascent_steps, sigma=look.input.noise.sigma or 1.0)
    maps = []
    for number, channel in enumerate(look.options.channels):
        look.on_step(StepInfo("stimulus", number, len(look.options.channels), f"channel {channel}"))
        found = visualise_feature(forward, path.denoiser, look.block, channel, generator=look.generator, ascent=ascent)
        maps.append(_stimulus_map(look, found, ascent))
    return tuple(maps), tuple(m.numbers for m in maps)


COMPUTE: Mapping[str, Callable[[Look], tuple[tuple[FeatureMap, ...], tuple[Row, ...]]]] = {
    "activations": activations,
    "pca": components,
    "nmf": components,
    "concepts": concepts,
    "stimulus": stimulus,
}
CAUTIONS: Mapping[str, str] = {
    "activations": "How strongly one channel of one block answers, in a unit of its own. No tissue and no finding; a "
    "strong answer does not say that the image or a number rests on it.",
    "pca": "Along what a block's features vary most together over space. No tissue classes; the sign is a convention; "
    "components of nearly the same strength mix freely, which their stability shows.",
    "nmf": "Parts that add up to a block's features. Another number of parts gives other parts; below a stability of "
    "about 0.9 a part is no thing of its own.",
    "concepts": "How the number would answer, to first order, if features moved from what they are outside the mask to "
    "what they are inside. Not that the concept caused the number; what always lies beside a concept counts as it.",
    "stimulus": "Stimulus, not anatomy: made up from noise to excite a feature. It shows no patient and lies at no "
    "place of the scan.",
}


def _map(
    look: Look, name: str, title: str, one: BlockMap, step: Step, unit: str, numbers: Row, *, signed: bool | None = None
) -> FeatureMap:
    own, shown = look.volumes(one, step, unit)
    below = bool((own.voxels < 0).any()) if signed is None else signed
    return FeatureMap(name, title, own, shown, below, numbers)


def _standing_out(features: BlockMap, region: Region | None, count: int) -> tuple[int, ...]:
    """Return the channels that differ most between the target and the rest, in standard deviations; else vary most."""
    values = features.values[0]
    size = values.flatten(1).std(dim=1)
    if region is not None:
        inside = features.cover(torch.from_numpy(region.mask.copy())) >= _some(features, region)
        difference = values[:, inside].mean(dim=1) - values[:, ~inside].mean(dim=1)
        size = difference.abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
    order = size.argsort(descending=True, stable=True)
    return tuple(int(channel) for channel in order[:count])


def _some(features: BlockMap, region: Region) -> float:
    """Return the cover from which a voxel of the block counts as inside: half, or of a small target what there is."""
    cover = features.cover(torch.from_numpy(region.mask.copy()))
    return min(0.5, float(cover.max()))


def _numbers(values: Tensor, features: BlockMap, region: Region | None) -> Row:
    found: dict[str, float | int | str | None] = {
        "mean": float(values.mean()), "sd": float(values.std()), "largest": float(values.max()),
        "least": float(values.min()),
    }  # fmt: skip
    if region is not None:
        inside = features.cover(torch.from_numpy(region.mask.copy())) >= _some(features, region)
        within, outside = float(values[inside].mean()), float(values[~inside].mean())
        spread = float(values.std())
        found |= {
            "mean_in_target": within, "mean_around": outside, "target_voxels_of_block": int(inside.sum()),
            "standing_out_sd": (within - outside) / spread if spread > 0 else None,
        }  # fmt: skip
    return found


def _component_numbers(found: Components, number: int) -> Row:
    strongest = np.argsort(-np.abs(found.patterns[number]), kind="stable")[:5]
    return {
        "explained_share": found.explained[number],
        "explained_share_of_all": found.total_explained,
        "stability": None if found.stability is None else found.stability[number],
        "strongest_channels": " ".join(str(int(channel)) for channel in strongest),
    }


def _require_few(features: BlockMap, what: str) -> None:
    if features.values.numel() > MOST_VALUES:
        raise ConfigError(
            f"{what} of the block '{features.block}' with {features.values.shape[1]} channels and "
            f"{features.values[0, 0].numel()} voxels: expected at most {MOST_VALUES:.0e} values; name a coarser block"
            + (", or give a --target with a smaller --margin-mm" if what != "concepts" else "")
        )


def _slopes(look: Look, explanation: Explanation) -> ConceptProbe:
    """Return the measurement's slopes at the block, made on the crop that matters."""
    case, _ = look.explaining.case(explanation)
    case.require_memory(None, look.explaining.limit)
    box = case.crop(None)
    at = (..., *box.slices)
    sigma = case.sigma if max(case.sigma.shape[2:]) == 1 else case.sigma[at]
    target = case.target.crop(box)
    forward = seen_by(target, case.forward(case.denoiser))
    probe = probe_concepts(
        forward, {look.name: case.image[at]}, {look.name: sigma}, target, block=look.block, call=look.options.call
    )
    lattice = probe.features.lattice  # counted from the scan's first voxel
    i, j, k = (offset + begun for offset, begun in zip(lattice.offset, box.start, strict=True))
    moved = replace(probe.features, lattice=replace(lattice, offset=(i, j, k)))
    return ConceptProbe(moved, probe.slopes)


def _concept_row(score: ConceptScore, *, told: bool) -> Row:
    row: dict[str, float | int | str | None] = {"concept": score.concept, "voxels_of_block": score.inside}
    row |= {"separability": score.separability, "p_separability": score.p_separability}
    refused = (
        f"the block '{score.block}' does not tell the concept '{score.concept}' from the same mask at random places "
        f"(area under the curve {score.separability:.2f}, p = {score.p_separability:.3g}): its score would mean "
        "nothing; take another block, or compare within a mask of the tissue (--within)"
    )
    if not told:
        return row | {"sensitivity": None, "positive_share": None, "p_sensitivity": None, "null_sd": None,
                      "refused": refused}  # fmt: skip
    numbers = {key: asdict(score)[key] for key in ("sensitivity", "positive_share", "p_sensitivity")}
    return row | numbers | {"null_sd": float(np.std(score.null)), "refused": None}


def _concept_maps(look: Look, probe: ConceptProbe, mask: Tensor, within: Tensor | None, row: Row) -> list[FeatureMap]:
    shown, moved = probe.maps(mask, within=within)
    name, unit = str(row["concept"]), _unit(look)
    about = {"block": look.block, "concept": name}
    return [
        _map(look, f"{name}shown", f"{name}: shown", shown, Step("concept shown", about), "1", row, signed=True),
        _map(look, f"{name}sensitivity", f"{name}: sensitivity", moved, Step("concept sensitivity", about), unit, row,
             signed=True),
    ]  # fmt: skip


def _unit(look: Look) -> str:
    return "a.u." if look.explanation is None else look.explanation.measure.unit(look.input.scan.unit)


def _stimulus_map(look: Look, found: Stimulus, ascent: Ascent) -> FeatureMap:
    scan, channel = look.input.scan, found.channel
    spacing, size = scan.grid.spacing_mm, ascent.shape
    affine = np.diag([*spacing, 1.0])  # the scan's voxel size, no place in the patient
    step = Step("stimulus, not anatomy", {"block": found.block, "channel": channel, "sigma": ascent.sigma})
    source = Provenance(Source("memory", notes=(Stimulus.label,)), (step,))
    volume = Volume(found.image[0].detach().cpu().numpy(), Grid(size, affine), scan.unit, scan.modality, source)
    numbers: Row = {
        "channel": channel, "activation_of_noise": found.activation[0], "activation": found.activation[-1],
        "steps": ascent.steps, "sigma": ascent.sigma, "label": Stimulus.label,
    }  # fmt: skip
    return FeatureMap(f"channel{channel}", f"stimulus, not anatomy: channel {channel}", volume, None, True, numbers)
