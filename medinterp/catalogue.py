"""What is installed: bundles, plug-ins and versions, listed without importing torch."""

import json
import platform
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from medinterp import __version__
from medinterp.errors import BundleError, ConfigError
from medinterp.registry import GROUPS, names

_INSTALLED = Path(__file__).parent / "_bundles"
_CHECKOUT = Path(__file__).parent.parent / "pipelines"
DEFAULT_BUNDLE = "mri_denoise"
_DICOM = ("dicom_series", "parametric_map", "segmentation")
EXPORT_GROUPS = {
    "usual": ("nifti", *_DICOM, "slicer", "report"),
    "dicom": _DICOM,
    "pacs": (*_DICOM, "structured_report", "secondary_capture", "presentation_state", "overlay_planes"),
}
USUAL_EXPORT = "usual"
_USUAL_OF_DICOM = ("structured_report", "presentation_state")  # a study with a patient and images to lie over
_REPORTED = ("torch", "monai", "captum", "nibabel", "pydicom", "highdicom", "SimpleITK", "numpy")


def bundle_folders() -> dict[str, Path]:
    """Return the bundles that came with medinterp, by name."""
    root = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    return {path.parent.parent.name: path.parent.parent for path in sorted(root.glob("*/configs/inference.json"))}


def find_bundle(name_or_folder: str) -> Path:
    """Return the folder of a bundle given by name or path.

    Raises:
        BundleError: there is no such bundle.
    """
    known = bundle_folders()
    if name_or_folder in known:
        return known[name_or_folder]
    folder = Path(name_or_folder)
    if (folder / "configs" / "inference.json").is_file():
        return folder.resolve()
    raise BundleError(
        f"no bundle '{folder.name}': give one of {', '.join(known) or 'none installed'}, or a folder that holds "
        "configs/inference.json"
    )


def bundle_for(modalities: Collection[str]) -> Path:
    """Return the bundle that came with medinterp for scans of one modality; the default for any other, or several.

    A bundle's modality is that of its metadata's first input.
    """
    known = bundle_folders()
    for folder in known.values() if len(set(modalities)) == 1 else ():
        inputs = bundle_metadata(folder)["network_data_format"]["inputs"]
        if next(iter(inputs.values())).get("modality") == next(iter(modalities)):
            return folder
    return find_bundle(DEFAULT_BUNDLE)


def bundle_metadata(folder: Path) -> dict[str, Any]:
    """Return a bundle's metadata.json.

    Raises:
        BundleError: it is missing or not JSON.
    """
    try:
        found: dict[str, Any] = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BundleError(f"configs/metadata.json of bundle '{folder.name}' cannot be read: {error}") from error
    return found


def choose_writers(export: str, *, dicom: bool = False) -> tuple[str, ...]:
    """Return the names of the writers that a user asked for, each once, the report last.

    Args:
        export: writers and groups of writers, joined by commas.
        dicom: a scan came from DICOM; the usual set then holds a structured report and presentation states, too.

    Raises:
        ConfigError: a word is neither a writer nor a group.
    """
    known = names("writers")
    chosen: list[str] = []
    for word in (part.strip() for part in export.split(",")):
        if word not in EXPORT_GROUPS and word not in known:
            groups = ", ".join(f"{group} ({', '.join(members)})" for group, members in EXPORT_GROUPS.items())
            raise ConfigError(f"no export '{word}': choose of {', '.join(known)}, or a group of them: {groups}")
        chosen += EXPORT_GROUPS.get(word, (word,))
        chosen += _USUAL_OF_DICOM if dicom and word == USUAL_EXPORT else ()
    return tuple(sorted(dict.fromkeys(chosen), key=lambda name: name == "report"))


def versions() -> dict[str, str]:
    """Return the versions of medinterp, Python and the packages that shape results."""
    found = {"medinterp": __version__, "python": platform.python_version()}
    return found | {package: metadata.version(package) for package in _REPORTED}


def catalogue() -> dict[str, Any]:
    """Return everything ``medinterp info --json`` prints."""
    bundles = {
        name: {"task": about.get("task", ""), "version": about.get("version", "")}
        for name, about in ((name, bundle_metadata(folder)) for name, folder in bundle_folders().items())
    }
    groups = {name: list(members) for name, members in EXPORT_GROUPS.items()}
    return {
        "versions": versions(),
        "bundles": bundles,
        **{group: list(names(group)) for group in GROUPS},
        "export_groups": groups,
    }


def describe(found: dict[str, Any]) -> str:
    """Return the catalogue as text for people."""
    lines = ["medinterp " + found["versions"]["medinterp"] + " - for research use only, not for diagnosis", ""]
    lines += ["bundles"] + [f"  {name:<24}{about['task']}" for name, about in found["bundles"].items()]
    for group in GROUPS:
        lines += ["", group, "  " + ", ".join(found[group])]
    lines += ["", "groups of writers"]
    lines += [f"  {name:<24}{', '.join(members)}" for name, members in found["export_groups"].items()]
    lines += ["", "versions", "  " + ", ".join(f"{name} {version}" for name, version in found["versions"].items())]
    return "\n".join(lines)
