"""The question that a user asks in Slicer, as a call of the medinterp command line."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


PLACES: Mapping[str, Sequence[str]] = {
    "rigid": ("--register", "rigid"),
    "affine": ("--register", "affine"),
    "as they lie": ("--resample",),
}
"""How several scans come onto the first one's grid, and what the command line calls it."""


class QuestionError(ValueError):
    """The question cannot be asked like this; the message says what to change."""


@dataclass(frozen=True)
class Question:
    """One measurement on a scan, or on the fused image of several, and how it is explained.

    Args:
        scans: NIfTI files or DICOM folders by name; several are fused on the first one's grid.
        output: study folder to make; must not exist yet, or be empty.
        target: where to measure: ``sphere_target``, ``voxel_target``, or the path of a mask file.
        methods: attribution methods, "name" or "name:option=value".
        measure: what to measure there.
        bundle: name or folder; None lets medinterp choose by the modality.
        whole: denoise the whole scan too; else only what matters to the target.
        halo: voxels of context instead of all that matter; None for all.
        seed: of every random number.
        max_memory_gb: limit; None for what is free.
        place: how several scans come onto one grid, one of ``PLACES``.
        ledger: share the fused image among the scans.
    """

    scans: Mapping[str, Path]
    output: Path
    target: str
    methods: Sequence[str] = ("input_x_gradient",)
    measure: str = "mean"
    bundle: str | None = None
    whole: bool = False
    halo: int | None = None
    seed: int = 0
    max_memory_gb: float | None = None
    place: str = "rigid"
    ledger: bool = False

    def arguments(self) -> list[str]:
        """Return the arguments after the program's name; progress comes as JSON lines on standard error.

        Raises:
            QuestionError: there is no scan, no method or no target.
        """
        if not self.scans or not self.methods or not self.target:
            raise QuestionError("choose a scan, a target and at least one method")
        several = len(self.scans) > 1  # to be fused they have to be denoised whole
        found = ["run" if self.whole or several else "explain", *(f"{m}={path}" for m, path in self.scans.items())]
        found += ["-o", str(self.output), *(self._joining() if several else ())]
        found += ["--target", self.target, "--measure", self.measure, "--seed", str(self.seed)]
        for method in self.methods:
            found += ["--method", method]
        for option, value in (
            ("--bundle", self.bundle), ("--halo", self.halo), ("--max-memory", self.max_memory_gb)
        ):  # fmt: skip
            found += [] if value is None else [option, str(value)]
        return [*found, "--progress", "json"]

    def _joining(self) -> list[str]:
        if self.place not in PLACES:
            raise QuestionError(f"scans cannot be brought together by '{self.place}': choose {', '.join(PLACES)}")
        return [*PLACES[self.place], *(["--ledger"] if self.ledger else [])]


def sphere_target(centre_ras_mm: Sequence[float], radius_mm: float) -> str:
    """Return the target of a sphere; Slicer's RAS coordinates are medinterp's.

    Raises:
        QuestionError: a number is not finite, or the radius is not positive.
    """
    if not radius_mm > 0:
        raise QuestionError(f"a sphere of {radius_mm:g} mm: give it a radius above 0")
    return "sphere:" + ",".join(map(_number, (*centre_ras_mm, radius_mm)))


def voxel_target(point_ras_mm: Sequence[float]) -> str:
    """Return the target of the voxel at a point in RAS mm.

    Raises:
        QuestionError: a number is not finite.
    """
    return "voxel:" + ",".join(map(_number, point_ras_mm))


def find_program(chosen: str = "") -> str:
    """Return the medinterp program: the one that the user chose, else the one on the path.

    Raises:
        QuestionError: there is none.
    """
    found = shutil.which(chosen or "medinterp")
    if found is None:
        where = f"'{chosen}' is no program" if chosen else "no program 'medinterp' is on the path"
        raise QuestionError(
            f"{where}: install medinterp in an environment of its own (see its README) and choose the file "
            "bin/medinterp of that environment, on Windows Scripts\\medinterp.exe"
        )
    return found


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise QuestionError(f"a coordinate is {value}: place the target inside the scan")
    return f"{value:.6f}".rstrip("0").rstrip(".")
