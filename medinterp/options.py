"""What a user can choose about a run; the command line's options and the keywords of ``medinterp.run`` are these."""

import math
from dataclasses import dataclass
from typing import Literal

from medinterp.catalogue import USUAL_EXPORT, choose_writers
from medinterp.errors import ConfigError

CERTIFICATES = ("basic", "full")
SAMPLERS = ("mean", "ode", "sde")
REGISTRATIONS = ("rigid", "affine")
Form = Literal["qform", "sform"]  # as in io.nifti_header, which is slow to import
MOST_STEPS = 10_000
_SEEDS = 1 << 63


@dataclass(frozen=True)
class RunOptions:
    """What a user can choose.

    Args:
        bundle: name or folder; by default the one for the scan's modality: ct_denoise for CT, else mri_denoise.
        targets: "sphere:X,Y,Z,R", "voxel:X,Y,Z" (RAS mm), a mask file, or "auto" (where the model took most away).
        methods: attribution methods, each applied to every target; with options: "occlusion:window_mm=8".
        measure: "mean", "contrast", or another by name, with options: "contrast:gap_mm=1,width_mm=3".
        baseline: what stands for absence in methods that compare with it: "noise_resampled", "blurred", "local_mean",
            "inpainted", "zero", "ray", with options; by default each method's own.
        supervoxels: how methods over regions divide the scan: "slic:size_mm=10", "blocks:edge_mm=10", "shells" around
            the region, or an atlas file on the scan's grid.
        halo: voxels of context in an explanation instead of all that matter; methods over regions take 8 by default.
        certificate: "basic" (completeness, convergence, random weights) or "full", which also repeats the map over new
            noise, tests its order and its predictions, and makes the network random layer by layer; some 20
            explanations more.
        sampler: "mean", "ode" or "sde"; by default the bundle's own, which for ours is "mean".
        steps: steps of the reverse diffusion; by default 1 for "mean", 10 for the others.
        trajectory: keep the states between the scan and the image, for viewers to step through.
        series: which series of a DICOM folder, from 1.
        frame: which time point of a 4D scan, from 0.
        use_form: "qform" or "sform" where a NIfTI file's disagree.
        force: also read DICOM files that lack the preamble.
        resample: allow inputs on different grids to be fused on the first one's.
        register: find where the other inputs lie in the first one's space: "rigid" or "affine".
        transforms: where they lie, when it is known: "t2=FILE" (ITK .tfm or .h5, or a text with a 4x4 matrix).
        register_masks: where registration looks: "t2=FILE", a mask on that input's grid.
        fuser: how denoised inputs are joined, with options: "gradient_domain:power=1"; by default the bundle's.
        ledger: share the fused image among the inputs by the exact Shapley value, voxel by voxel.
        seed: of every random number.
        device: torch device.
        max_memory_gb: memory the computation may take; the default is three quarters of what is free.
        export: what the study folder holds beside ``run.json`` and the tables: names of writers and groups of them, a
            comma between, such as "nifti,report"; ``medinterp info`` lists them.
        deidentify: take out of everything written what identifies the patient (DICOM PS3.15, Basic Profile); pixels
            stay as they are.
        overwrite: replace an existing study folder.
        dry_run: only plan (the command line's; ``run`` ignores it).
        whole: denoise the whole volume; without it only the targets are explained, each on the crop that matters.

    Raises:
        ConfigError: a value is out of range, or none of the known words.
    """

    bundle: str | None = None
    targets: tuple[str, ...] = ("auto",)
    methods: tuple[str, ...] = ("input_x_gradient",)
    measure: str = "mean"
    baseline: str | None = None
    supervoxels: str = "slic"
    halo: int | None = None
    certificate: str = "basic"
    sampler: str | None = None
    steps: int | None = None
    trajectory: bool = False
    series: int | None = None
    frame: int | None = None
    use_form: Form | None = None
    force: bool = False
    resample: bool = False
    register: str | None = None
    transforms: tuple[str, ...] = ()
    register_masks: tuple[str, ...] = ()
    fuser: str | None = None
    ledger: bool = False
    seed: int = 0
    device: str = "cpu"
    max_memory_gb: float | None = None
    export: str = USUAL_EXPORT
    deidentify: bool = False
    overwrite: bool = False
    dry_run: bool = False
    whole: bool = True

    def __post_init__(self) -> None:
        _require_word("certificate", self.certificate, CERTIFICATES)
        _require_word("sampler", self.sampler, SAMPLERS)
        _require_word("registration", self.register, REGISTRATIONS)
        choose_writers(self.export)  # what is misspelled is said before anything is read
        if self.trajectory and not self.whole:
            raise ConfigError("a trajectory is that of a whole scan: use 'medinterp run', which denoises it")
        if self.register_masks and self.register is None:
            raise ConfigError("a register-mask without a registration: ask for --register rigid or affine")
        _require_number("steps", self.steps, least=1)
        if self.steps is not None and self.steps > MOST_STEPS:
            raise ConfigError(f"steps {self.steps}: expected at most {MOST_STEPS}")
        _require_number("halo", self.halo, least=0)
        _require_number("series", self.series, least=1)
        _require_number("frame", self.frame, least=0)
        _require_number("seed", self.seed, least=0)
        if self.seed >= _SEEDS:
            raise ConfigError(f"seed {self.seed}: expected a number below 2^63")
        memory = self.max_memory_gb
        if memory is not None and not (math.isfinite(memory) and memory > 0):
            raise ConfigError(f"max-memory {memory}: expected a positive number of GB")


def _require_word(what: str, word: str | None, known: tuple[str, ...]) -> None:
    if word is not None and word not in known:
        raise ConfigError(f"no {what} '{word}': choose {', '.join(known[:-1])} or {known[-1]}")


def _require_number(what: str, number: int | None, *, least: int) -> None:
    if number is not None and number < least:
        raise ConfigError(f"{what} {number}: expected {least} or more")
