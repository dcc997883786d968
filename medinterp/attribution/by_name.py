"""Measures, baselines, divisions, methods and fusers by name, as users write them: "contrast:gap_mm=2,width_mm=5"."""

import importlib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medinterp import io, registry
from medinterp.attribution import baselines, inpainting, supervoxels
from medinterp.attribution.baselines import Baseline
from medinterp.attribution.measures import READ, Measure
from medinterp.attribution.result import Attributor
from medinterp.attribution.supervoxels import Supervoxels
from medinterp.errors import ConfigError, PluginError
from medinterp.fusion.fusers import Fuser
from medinterp.volume import Region, Volume

BASELINES: Mapping[str, Callable[..., Baseline]] = {
    "noise_resampled": baselines.NoiseResampled,
    "inpainted": inpainting.Inpainted,
    "blurred": baselines.Blurred,
    "local_mean": baselines.LocalMean,
    "zero": baselines.Zero,
    "ray": baselines.Ray,
}
"""Every baseline that text can ask for; a modality null is given its values in Python or a configuration."""
DIVISIONS: Mapping[str, Callable[..., Supervoxels]] = {
    "slic": supervoxels.slic_supervoxels,
    "blocks": supervoxels.block_supervoxels,
    "shells": supervoxels.shell_supervoxels,
}
USUAL_BASELINE = "noise_resampled"
USUAL_DIVISION = "slic"
_SETTINGS = ("spacing_mm", "grid", "supervoxels", "baseline", "generator")
_DIVIDED = ("scan", "grid", "region")
_NO_DIVISION = f"the supervoxels are neither {', '.join(DIVISIONS)} nor an existing file with an atlas"
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FIXED = ("name", "reach", "part")


def parse_measure(text: str) -> Measure:
    """Turn "name" or "name:option=value,option=value" into a measure of the registry's group ``targets``.

    Options are the fields of the measure. A function or a network is written ``package.module:attribute`` and imported:
    for what a user types, not for text that came with a bundle. A reference denoiser is written by its name.

    Raises:
        PluginError: there is no measure, denoiser or function of that name.
        ConfigError: an option is unknown, given twice, missing, or not of its type.
    """
    name, _, rest = text.partition(":")
    measure = _call(registry.load("targets", name), rest, f"measure '{text}'", {})
    if not isinstance(measure, Measure):
        raise PluginError(f"the target '{name}' of the registry is no Measure but a {type(measure).__name__}")
    return measure


def parse_fuser(text: str) -> Fuser:
    """Turn "name" or "name:option=value" into a fuser of the registry.

    Raises:
        PluginError: there is no fuser of that name.
        ConfigError: an option is unknown, given twice, or not of its type.
    """
    name, _, rest = text.partition(":")
    fuser = _call(registry.load("fusers", name), rest, f"fuser '{text}'", {})
    if not isinstance(fuser, Fuser):
        raise PluginError(f"the fuser '{name}' of the registry is no Fuser but a {type(fuser).__name__}")
    return fuser


def parse_baseline(text: str, *, generator: torch.Generator, supervoxels: Supervoxels | None = None) -> Baseline:
    """Turn "name" or "name:option=value" into a baseline: one of ``BASELINES``.

    Args:
        text: what the user wrote.
        generator: for baselines that draw noise.
        supervoxels: for "inpainted", which fills one after another.

    Raises:
        ConfigError: there is no such baseline, it needs supervoxels, or an option is wrong.
    """
    name, _, rest = text.partition(":")
    if name not in BASELINES:
        raise ConfigError(f"no baseline '{name}': choose {', '.join(BASELINES)}")
    given: dict[str, Any] = {"generator": generator}
    if supervoxels is not None:
        given["supervoxels"] = supervoxels
    baseline: Baseline = _call(BASELINES[name], rest, f"baseline '{text}'", given)
    return baseline


def parse_supervoxels(text: str, scan: Volume, region: Region) -> Supervoxels:
    """Turn "slic:size_mm=10", "blocks:edge_mm=10", "shells" or the path of an atlas into a division of the scan.

    Args:
        text: what the user wrote.
        scan: what is divided; an atlas must be on its grid.
        region: what shells lie around.

    Raises:
        ConfigError: the text is none of these, or an option is wrong.
        GridMismatch: the atlas is on another grid.
    """
    name, _, rest = text.partition(":")
    if name in DIVISIONS:
        given = dict(zip(_DIVIDED, (scan, scan.grid, region), strict=True))
        division: Supervoxels = _call(DIVISIONS[name], rest, f"supervoxels '{text}'", given)
        return division
    if not Path(text).exists():
        raise ConfigError(_NO_DIVISION)
    return supervoxels.atlas_supervoxels(io.read(Path(text)), scan)


def division_without_path(text: str) -> str:
    """Return the text of a division as a record may keep it: an atlas's file name may hold patient data."""
    return text if text.partition(":")[0] in DIVISIONS else "atlas file"


@dataclass(frozen=True)
class NamedMethod:
    """A method as text, "occlusion:window_mm=8", made once the scan and the region are known.

    Args:
        text: a name of the registry's group ``attributors``, and options.
        baseline: what stands for absence, as text; without it a method that has a baseline of its own keeps it, and
            others take ``USUAL_BASELINE``.
        division: the supervoxels of methods over regions, as text.

    Raises:
        PluginError: there is no such method.
        ConfigError: it takes no baseline and one is given, or an option is wrong.
    """

    text: str
    baseline: str | None = None
    division: str = USUAL_DIVISION

    def __post_init__(self) -> None:
        make, rest = self._parts()
        if self.baseline is not None:
            if "baseline" not in inspect.signature(make).parameters:
                raise ConfigError(f"the method '{self.name}' compares with no baseline; leave --baseline out")
            if self.baseline.partition(":")[0] not in BASELINES:
                raise ConfigError(f"no baseline '{self.baseline}': choose {', '.join(BASELINES)}")
        _bind(make, rest, f"method '{self.text}'", _SETTINGS)
        division, _, options = self.division.partition(":")
        if division in DIVISIONS:
            _bind(DIVISIONS[division], options, f"supervoxels '{self.division}'", _DIVIDED)
        elif not Path(self.division).exists():
            raise ConfigError(_NO_DIVISION)

    @property
    def name(self) -> str:
        """What the method is called."""
        return self.text.partition(":")[0]

    def on(self, scan: Volume, region: Region, seed: int) -> Attributor:
        """Return the method for one region of one scan.

        Args:
            scan: the whole scan.
            region: what is measured, on the scan's grid.
            seed: of every draw.

        Raises:
            ConfigError: baseline, division or an option is none of the known ones.
            GridMismatch: an atlas is on another grid.
        """
        make, rest = self._parts()
        takes = inspect.signature(make).parameters
        draws = torch.Generator().manual_seed(seed)
        given: dict[str, Any] = {"spacing_mm": scan.grid.spacing_mm, "grid": scan.grid, "generator": draws}
        filled = "baseline" in takes and (self.baseline or takes["baseline"].default is inspect.Parameter.empty)
        wanted = self.baseline or USUAL_BASELINE
        if "supervoxels" in takes or (filled and wanted.startswith("inpainted")):
            given["supervoxels"] = parse_supervoxels(self.division, scan, region)
        if filled:
            given["baseline"] = parse_baseline(wanted, generator=draws, supervoxels=given.get("supervoxels"))
        method: Attributor = _call(make, rest, f"method '{self.text}'", given)
        return method

    def _parts(self) -> tuple[Callable[..., Any], str]:
        """Return the method's class and the text of its options."""
        name, _, rest = self.text.partition(":")
        return registry.load("attributors", name), rest


def _call(make: Callable[..., Any], text: str, what: str, available: Mapping[str, Any]) -> Any:
    """Call with the options written in the text and those available settings that it takes."""
    given = _bind(make, text, what, tuple(available))
    takes = inspect.signature(make).parameters
    return make(**{key: value for key, value in available.items() if key in takes}, **given)


def _bind(make: Callable[..., Any], text: str, what: str, available: Collection[str]) -> dict[str, Any]:
    """Return the options written in the text, checked against those that it takes and that are not available."""
    known = {key: option for key, option in inspect.signature(make).parameters.items() if key not in _FIXED}
    writable = [key for key in known if key not in available]
    given: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or key not in writable or key in given:
            raise ConfigError(
                f"{what}: '{part}' is not an option written once as name=value; the options are "
                f"{', '.join(writable) or 'none'}"
            )
        given[key] = _read(make, known[key], value, what)
    missing = [k for k, option in known.items() if option.default is option.empty and k not in {*given, *available}]
    if missing:
        raise ConfigError(f"{what} needs {', '.join(missing)}, which was not given")
    return given


def _read(make: Callable[..., Any], option: inspect.Parameter, value: str, what: str) -> Any:
    """Return an option's value from its text."""
    field = getattr(make, "__dataclass_fields__", {}).get(option.name)
    how = field.metadata.get(READ) if field is not None else None
    if how == "denoiser":
        return _denoiser(value, what)
    if how == "import":
        return _import(value)
    kind = _plain(option.annotation)
    if kind not in (bool, int, float, str):
        raise ConfigError(f"{what}: the option {option.name} cannot be written as text; give it in Python")
    try:
        read = _BOOLEANS[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{what}: '{value}' is not a {kind.__name__} for the option {option.name}") from error
    if kind is float and not math.isfinite(read):
        raise ConfigError(f"{what}: the option {option.name} is {value}: expected a finite number")
    return read


def _denoiser(name: str, what: str) -> Any:
    make = registry.load("denoisers", name)
    needed = [key for key, option in inspect.signature(make).parameters.items() if option.default is option.empty]
    if needed:
        raise ConfigError(f"{what}: the denoiser '{name}' needs {', '.join(needed)}; make it in Python")
    return make()


def _plain(kind: Any) -> Any:
    """Return float of ``float | None``."""
    if isinstance(kind, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _import(value: str) -> Any:
    module, _, attribute = value.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginError(f"'{value}' cannot be imported: {error}; write it as package.module:attribute") from error
