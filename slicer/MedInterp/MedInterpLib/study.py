"""A finished study folder of medinterp, as far as Slicer shows it: scans, signed maps and clusters."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class StudyError(ValueError):
    """The folder is no finished study with something to show; the message says why."""


@dataclass(frozen=True)
class Overlay:
    """One map over a scan.

    Args:
        name: of the map, such as "saliency-mean".
        path: NIfTI file.
        title: a sentence for people.
        unit: of its values.
        signed: whether below zero has a meaning.
        limit: value at which its colours end; of a signed map, below zero too.
        clusters: segmentation file; None where no cluster was found.
        doubts: the checks that it failed, a sentence each.
    """

    name: str
    path: Path
    title: str
    unit: str
    signed: bool
    limit: float
    clusters: Path | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """One scan of a study and the maps over it.

    Args:
        name: of the scan.
        base: NIfTI file: denoised where it was, else as it was read.
        unit: of its values.
        overlays: the maps.
        colours: colour tables by name.
        trajectory: sequence file of the states from scan to image; None where none were kept.
    """

    name: str
    base: Path
    unit: str
    overlays: tuple[Overlay, ...]
    colours: dict[str, Path]
    trajectory: Path | None


@dataclass(frozen=True)
class Study:
    """A finished study folder.

    Args:
        folder: the whole of it.
        scenes: one a scan.
        peaks: by scan and map: where its strongest cluster is strongest, RAS mm.
    """

    folder: Path
    scenes: tuple[Scene, ...]
    peaks: dict[tuple[str, str], tuple[float, float, float]]

    @property
    def doubts(self) -> list[str]:
        """What failed, map by map."""
        return [f"{s.name}, {o.title}: {doubt}" for s in self.scenes for o in s.overlays for doubt in o.doubts]


def read_study(folder: Path) -> Study:
    """Read what there is to show.

    Raises:
        StudyError: it is no study folder, or was written without ``--export slicer``.
    """
    if not (folder / "run.json").is_file():
        raise StudyError("this is no finished study folder of medinterp: it holds no run.json")
    scenes = tuple(_scene(path.parent) for path in sorted((folder / "slicer").glob("*/base.json")))
    if not scenes:
        raise StudyError("this study holds nothing for Slicer: run medinterp with --export slicer among the writers")
    return Study(folder, scenes, dict(_peaks(folder / "clusters.tsv")))


def _scene(folder: Path) -> Scene:
    about = _read(folder / "base.json")
    sidecars = [path for path in sorted(folder.glob("*.json")) if path.name != "base.json"]
    colours = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    unit = str(about.get("Unit", ""))
    states = folder / "trajectory.seq.nrrd"
    return Scene(
        folder.name, folder / "base.nii.gz", unit, tuple(map(_overlay, sidecars)), colours,
        states if states.is_file() else None,
    )  # fmt: skip


def _overlay(sidecar: Path) -> Overlay:
    about, name = _read(sidecar), sidecar.stem
    clusters = sidecar.with_name(f"{name}-clusters.seg.nrrd")
    try:
        return Overlay(
            name, sidecar.with_name(f"{name}.nii.gz"), str(about["Description"]), str(about["Unit"]),
            bool(about["Signed"]), float(about["Limit"]), clusters if clusters.is_file() else None,
            tuple(map(str, about.get("FailedChecks", ()))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"the map '{name}' of this study has no valid {error}: write the study again") from None


def _peaks(table: Path) -> Iterator[tuple[tuple[str, str], tuple[float, float, float]]]:
    """Give the peak of the strongest cluster of every map; the table lists them by strength within a sign."""
    if not table.is_file():
        return
    strongest: dict[tuple[str, str], float] = {}
    try:
        head, *rows = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
        for cells in rows:
            row = dict(zip(head, cells, strict=True))
            key, size = (row["input"], row["map"]), abs(float(row["peak_value"]))
            if size > strongest.get(key, 0.0):
                strongest[key] = size
                yield key, (float(row["peak_x_mm"]), float(row["peak_y_mm"]), float(row["peak_z_mm"]))
    except (OSError, KeyError, ValueError):
        raise StudyError("clusters.tsv of this study is damaged: write the study again") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"{path.name} of this study cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise StudyError(f"{path.name} of this study is damaged: write the study again")
    return found
