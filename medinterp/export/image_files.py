"""The volumes of a study as NIfTI or NRRD files, and the 3D Slicer scenes that show them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medinterp.export.contents import StudyContents
from medinterp.export.drawn import Drawn
from medinterp.export.fusion_files import fusion_overlays, fusion_volumes
from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import make_overlay, no_clusters
from medinterp.export.run_record import explanation_record, fusion_record
from medinterp.io.nifti import write_nifti
from medinterp.io.nrrd import write_nrrd, write_seq_nrrd
from medinterp.io.slicer_scene import pack_mrb, write_scene, write_trajectory
from medinterp.results import InputResult, Result
from medinterp.volume import Overlay, Volume


@dataclass(frozen=True, eq=False)
class NamedVolume:
    """One volume of a study that becomes a file.

    Args:
        stem: name of the file without its extension.
        volume: one channel.
        description: what the values are.
        signed: whether values below zero mean something.
        sidecar: what else there is to say of it.
    """

    stem: str
    volume: Volume
    description: str
    signed: bool
    sidecar: Mapping[str, Any]


def named_volumes(contents: StudyContents) -> Iterator[NamedVolume]:
    """Yield every volume of a study, named as a BIDS derivative."""
    result = contents.result
    for name in result.inputs:
        yield from _volumes_of(name, result)
        for drawn in contents.drawn_on(name):
            yield from _maps(drawn, result)
    if result.fusion is not None:
        account = fusion_record(result.fusion, next(iter(result.inputs)))
        about = {"ResearchUseOnly": True, "Seed": result.seed, "Fusion": account}
        for stem, volume, description, signed in fusion_volumes(result, result.fusion):
            yield NamedVolume(stem, volume, description, signed, about)


def _about(name: str, result: Result) -> dict[str, Any]:
    noise = result.inputs[name].noise
    return {"ResearchUseOnly": True, "Sigma": noise.sigma, "NoiseModel": noise.model, "Seed": result.seed}


def _volumes_of(name: str, result: Result) -> Iterator[NamedVolume]:
    """Yield the noise level of one input and, where the whole of it was denoised, image and removed noise."""
    one = result.inputs[name]
    stem, suffix = stem_and_suffix(name, one.scan.modality)

    def named(desc: str, volume: Volume, description: str, *, signed: bool = False) -> NamedVolume:
        name_of_file = bids_name(stem, desc=desc, suffix=suffix, extension="")
        return NamedVolume(name_of_file, volume, description, signed, _about(name, result))

    yield named("sigma", one.sigma, "noise standard deviation")
    if one.denoised is not None and one.removed is not None:
        yield named("denoised", one.denoised, "denoised image")
        yield named("removednoise", one.removed, "scan minus denoised image", signed=True)


def _maps(drawn: Drawn, result: Result) -> Iterator[NamedVolume]:
    """Yield one map, and its mean and spread over repeated scans where a full certificate made them."""
    name, explained = drawn.input_name, drawn.explanation
    stem, _ = stem_and_suffix(name, result.inputs[name].scan.modality)
    desc, description = drawn.overlay.name.replace("-", ""), drawn.overlay.description
    about = _about(name, result)
    sidecar = {**about, **explanation_record(explained)["maps"][name], "Method": explained.method}
    own = bids_name(stem, desc=desc, suffix="map", extension="")
    yield NamedVolume(own, drawn.overlay.map, description, signed=True, sidecar=sidecar)
    for kind, volume in explained.repeats.get(name, {}).items():
        repeat = bids_name(stem, desc=f"{desc}repeat{kind}", suffix="map", extension="")
        words = f"{kind} over repeated scans: {description}"
        yield NamedVolume(repeat, volume, words, signed=kind == "mean", sidecar=about)


def write_nifti_files(contents: StudyContents, folder: Path) -> list[str]:
    """Write every volume as float32 NIfTI with a JSON sidecar."""
    for named in named_volumes(contents):
        path = folder / "nifti" / f"{named.stem}.nii.gz"
        write_nifti(
            named.volume, path, description=named.description, sidecar=named.sidecar, signed=named.signed
        )  # fmt: skip
        contents.images[named.volume] = path
    return []


def write_nrrd_files(contents: StudyContents, folder: Path) -> list[str]:
    """Write every volume as float32 NRRD; as sequences for 3D Slicer scan and denoised image, and any trajectory."""
    for named in named_volumes(contents):
        path = folder / "nrrd" / f"{named.stem}.nrrd"
        write_nrrd(named.volume, path, description=named.description, about=named.sidecar)
    for name, one in contents.result.inputs.items():
        stem, suffix = stem_and_suffix(name, one.scan.modality)
        if one.denoised is not None:
            path = folder / "nrrd" / bids_name(stem, desc="beforeafter", suffix=suffix, extension=".seq.nrrd")
            steps = {"scan": one.scan, "denoised": one.denoised}
            write_seq_nrrd(steps, path, description="scan before and after denoising", index="image")
        if one.trajectory:
            path = folder / "nrrd" / bids_name(stem, desc="trajectory", suffix=suffix, extension=".seq.nrrd")
            write_trajectory(one.trajectory, path)
    return []


def write_scenes(contents: StudyContents, folder: Path) -> list[str]:
    """Write a 3D Slicer scene for every input and for the fused image, each as a folder and packed."""
    for name, one in contents.result.inputs.items():
        overlays = [d.overlay for d in contents.drawn_on(name)]
        _write_scene(name, one.shown, overlays + _removed(one), contents, folder / "slicer", one.trajectory)
    fusion = contents.result.fusion
    if fusion is not None:
        _write_scene("fused", fusion.fused, fusion_overlays(fusion), contents, folder / "slicer")
    return []


def _write_scene(
    name: str,
    base: Volume,
    overlays: Sequence[Overlay],
    contents: StudyContents,
    folder: Path,
    trajectory: Mapping[float, Volume] | None = None,
) -> None:
    """Write one scene; volumes that lie in a NIfTI file already are copied."""
    write_scene(base, overlays, folder / name, written=contents.images, trajectory=trajectory)
    pack_mrb(folder / name, folder / f"{name}.mrb")


def _removed(one: InputResult) -> list[Overlay]:
    """Return what was removed as an overlay, where the whole scan was denoised."""
    if one.removed is None:
        return []
    about, nothing = "scan minus denoised image", no_clusters(one.removed)
    return [
        make_overlay(one.shown, one.removed, name="removed-noise", description=about, signed=True, clusters=nothing)
    ]
