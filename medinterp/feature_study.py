"""A look inside the network: scan in; a block's features, components, concepts or a stimulus as volumes out."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from medinterp import io
from medinterp.attribution.block_reader import BlockInfo
from medinterp.attribution.by_name import parse_measure
from medinterp.attribution.gradient import Saliency
from medinterp.catalogue import find_bundle, versions
from medinterp.denoisers.tiled import BYTES_PER_VOXEL
from medinterp.errors import ConfigError, InputError
from medinterp.explanation import Explanation
from medinterp.export.feature_files import write_features
from medinterp.export.run_record import RunFacts
from medinterp.feature_kinds import CAUTIONS, COMPUTE
from medinterp.feature_look import Look
from medinterp.feature_options import FeatureOptions
from medinterp.options import RunOptions
from medinterp.pipeline import Pipeline
from medinterp.preparation import (
    build_pipeline,
    check_output,
    choose_bundle,
    name_inputs,
    read_inputs,
    sampler_word,
)
from medinterp.progress import OnStep, StepInfo, ignore
from medinterp.resources import check_device, memory_budget, memory_errors, peak_memory_gb
from medinterp.results import FeatureResult
from medinterp.target_text import AUTO, parse_target, without_path
from medinterp.volume import Grid, Region, Volume, region_from_mask

_READ = ("series", "frame", "use_form", "force", "bundle", "seed", "device", "max_memory_gb", "sampler", "steps")
"""What of a run's options matters here."""
_OWN = frozenset(field.name for field in fields(FeatureOptions))


@dataclass(frozen=True)
class FeatureStudy:
    """A finished folder, what was found, and the seconds it took."""

    folder: Path
    result: FeatureResult
    seconds: float
    peak_memory_gb: float

    def summary(self) -> str:
        """Return what the command line prints at the end."""
        found, about = self.result, self.result.about
        size = about["voxel_mm"]
        voxel = "" if size is None else f", voxels of {' x '.join(f'{mm:.3g}' for mm in size)} mm"
        lines = [f"{found.kind} of the block {found.block} ({about['module']}, {about['channels']} channels{voxel})"]
        lines += [_row_words(row) for row in found.rows]
        lines += [*found.notes, found.caution]
        lines.append(
            f"{self.seconds:.1f} s, peak memory {self.peak_memory_gb:.2f} GB. For research use only, not for diagnosis."
        )
        places = [("picture", "features.png"), ("table", "features.tsv"), ("volumes", "nifti")]
        return "\n".join([*lines, *(f"{label:<10}{self.folder / place}" for label, place in places)])


def features(
    scan: str | Path,
    output: str | Path,
    *,
    options: RunOptions | None = None,
    asked: FeatureOptions | None = None,
    on_step: OnStep = ignore,
    **changes: Any,
) -> FeatureStudy:
    """Look inside the network at one scan, and write what is there as volumes, a table and a picture.

    Args:
        scan: a NIfTI file or a DICOM folder.
        output: folder to make.
        options: of the run: target, measure, bundle, seed and the like; there is no target unless one is given.
        asked: what is looked at; single fields of both may be given as keywords instead.
        on_step: progress callback.
        **changes: fields of ``FeatureOptions`` and ``RunOptions``.

    Raises:
        MedinterpError: see ``medinterp.errors``; nothing half-written is left in ``output``.
    """
    begun = time.perf_counter()
    own = {key: value for key, value in changes.items() if key in _OWN}
    question = replace(asked or FeatureOptions(), **own)
    chosen = replace(options or RunOptions(targets=()), **{k: v for k, v in changes.items() if k not in _OWN})
    place = check_output(output, _files(scan, question), chosen)
    explanation = _explanation(chosen)
    look, pipeline, bundle = _open(scan, chosen, question, explanation, on_step)
    with memory_errors():
        maps, rows = COMPUTE[question.kind](look)
    result = FeatureResult(
        question.kind, look.name, look.input, look.block, _about(look), maps, rows, look.region,
        CAUTIONS[question.kind], _notes(look, rows), chosen.seed,
    )  # fmt: skip
    facts = _facts(bundle, pipeline, chosen, question, time.perf_counter() - begun)
    on_step(StepInfo("export", 0, 1))
    written = write_features(result, facts, place, overwrite=chosen.overwrite)
    on_step(StepInfo("export", 1, 1))
    return FeatureStudy(written, result, time.perf_counter() - begun, peak_memory_gb())


def list_blocks(scan: str | Path, *, options: RunOptions | None = None, **changes: Any) -> str:
    """Return the blocks of the network that a scan would be given to, as a table for people.

    Args:
        scan: a NIfTI file or a DICOM folder.
        options: of the run; with a target whose measure asks a network, that one's blocks are listed too.
        **changes: fields of ``RunOptions``.
    """
    chosen = replace(options or RunOptions(targets=()), **changes)
    look, _, _ = _open(scan, chosen, FeatureOptions(), _explanation(chosen), ignore)
    rows = [("block", "module", "channels", "voxel (mm)", "calls", "place")]
    for block in filter(lambda b: b.name, look.reader.blocks()):  # the network itself returns the image
        size = _voxel_mm(block, look.input.scan.grid)
        voxel = "?" if size is None else " x ".join(f"{mm:.3g}" for mm in size)
        known = "exact" if block.exact else "unknown" if size is None else "equal cells"
        rows.append((block.name, block.module, str(block.channels), voxel, str(block.calls), known))
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def features_bundle(bundle_root: str, scan: str, output: str, **options: Any) -> FeatureStudy:
    """Look inside a bundle's network from ``python -m monai.bundle run``: the same path, with its own values."""
    for name in ("targets", "channels", "concepts"):
        options[name] = tuple(options.get(name, ()))
    return features(scan, output, bundle=bundle_root, **options)


def _open(
    path: str | Path, options: RunOptions, asked: FeatureOptions, explanation: Explanation | None, on_step: OnStep
) -> tuple[Look, Pipeline, str]:
    """Read the scan and its masks, load the network, and return the look at it, with the bundle's name."""
    device = check_device(options.device)
    if options.bundle is not None:
        find_bundle(options.bundle)  # what is misspelled is said before anything is read
    on_step(StepInfo("read", 0, 1))
    scans = read_inputs(name_inputs(path), options)
    (name, scan), *_ = scans.items()
    masks = {concept: _mask(file, scan, concept) for concept, file in asked.named_concepts().items()}
    within = None if asked.within is None else _mask(asked.within, scan, "within")
    on_step(StepInfo("read", 1, 1))
    folder = choose_bundle(options, scans)
    pipeline = build_pipeline(folder, options, device)
    if explanation is not None:
        pipeline.check(scans, (explanation,), whole=False)
    budget = memory_budget(options.max_memory_gb, device)
    opened = replace(pipeline.open(name, scan, seed=options.seed, device=str(device)), limit=budget)
    at_once = budget // BYTES_PER_VOXEL  # a block is watched where it runs as a module, which no streaming shortens
    return Look(opened, asked, explanation, masks, within, at_once, on_step), pipeline, folder.name


def _explanation(options: RunOptions) -> Explanation | None:
    """Return the measurement that a target asks for; its text is read here, before the work."""
    if len(options.targets) > 1 or AUTO in options.targets:
        raise ConfigError("features take one --target: sphere:X,Y,Z,R or voxel:X,Y,Z in RAS mm, or a mask file")
    if not options.targets:
        return None
    return Explanation(Saliency(), parse_target(options.targets[0]), parse_measure(options.measure))


def _mask(path: str, scan: Volume, name: str) -> Region:
    """Read a mask; an error says which one it is about, not what its file is called."""
    try:
        return region_from_mask(io.read(Path(path)), scan, name)
    except InputError as error:
        raise type(error)(f"the mask of '{name}': {error}") from error


def _files(scan: str | Path, asked: FeatureOptions) -> Mapping[str, Path]:
    """Return every file that is read, by a name free of patient data."""
    within = {} if asked.within is None else {"within": Path(asked.within)}
    return {**name_inputs(scan), **{name: Path(path) for name, path in asked.named_concepts().items()}, **within}


def _about(look: Look) -> dict[str, Any]:
    """Return what there is to know of the block."""
    block = next(info for info in look.reader.blocks() if info.name == look.block)
    size = _voxel_mm(block, look.input.scan.grid)
    return {
        "module": block.module,
        "channels": block.channels,
        "call": look.options.call % block.calls,
        "calls": block.calls,
        "voxel_mm": None if size is None else [round(mm, 6) for mm in size],
        "place_exact": block.exact,
    }


def _voxel_mm(block: BlockInfo, grid: Grid) -> tuple[float, float, float] | None:
    if block.voxels is None:
        return None
    i, j, k = (voxels * mm for voxels, mm in zip(block.voxels, grid.spacing_mm, strict=True))
    return i, j, k


def _notes(look: Look, rows: tuple[Mapping[str, Any], ...]) -> tuple[str, ...]:
    notes = [str(row["refused"]) for row in rows if row.get("refused")]
    whole = look.box == look.reader.whole
    if not whole and look.options.kind != "stimulus":
        notes.append(
            f"computed within {look.options.margin_mm:g} mm of the target; zero elsewhere in the scan's volumes"
        )
    notes += [
        f"channel {row['channel']}: plain noise excites it no less, so the denoiser keeps nothing that does"
        for row in rows
        if look.options.kind == "stimulus" and row["activation"] <= row["activation_of_noise"]
    ]
    return tuple(notes)


def _facts(bundle: str, pipeline: Pipeline, options: RunOptions, asked: FeatureOptions, seconds: float) -> RunFacts:
    """Return what the run record says beside the results: every choice, and no path."""
    parameters: dict[str, Any] = {key: getattr(options, key) for key in _READ}
    parameters |= asdict(asked) | {"bundle": bundle, "measure": options.measure}
    parameters |= {"targets": [without_path(t) for t in options.targets], "concepts": list(asked.named_concepts())}
    parameters |= {"within": None if asked.within is None else "mask file"}
    parameters |= {"sampler": sampler_word(pipeline.sampler), "steps": pipeline.steps}
    digest = str(getattr(pipeline.denoiser, "weights_sha256", ""))
    return RunFacts(
        bundle, digest, tuple(pipeline.modalities), parameters, versions(), {"compute": seconds}, peak_memory_gb()
    )


def _row_words(row: Mapping[str, Any]) -> str:
    """Return one row of the table as one line."""
    shown = {key: value for key, value in row.items() if value is not None and key not in ("refused", "label")}
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    )
