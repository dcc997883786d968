"""The bundle's metadata against MONAI's schema and MONAI's own checks, without a network connection.

The schema's address answers only online; ``SCHEMA`` states what version 20240725 requires and of which type, in our
own words, and MONAI's ``verify_metadata`` finds it in the place where it would have stored the download. The full file
(draft 2019-09) was checked by hand against monai 1.6.1 and jsonschema 4.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import verify_metadata, verify_net_in_out

from medinterp.catalogue import bundle_folders

_TEXT, _TABLE = {"type": "string"}, {"type": "object"}
_IMAGE = {
    "type": "object",
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
    "properties": {
        "type": _TEXT,
        "format": _TEXT,
        "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}},
        "dtype": _TEXT,
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": _TABLE,
    },
}
_REQUIRED_TEXT = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
    "copyright",
)  # fmt: skip
_OTHER_TEXT = ("data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use")
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "required": [*_REQUIRED_TEXT, "required_packages_version", "network_data_format"],
    "properties": {
        **dict.fromkeys((*_REQUIRED_TEXT, *_OTHER_TEXT), _TEXT),
        **dict.fromkeys(("required_packages_version", "changelog", "eval_metrics", "supported_apps"), _TABLE),
        "references": {"type": "array", "items": _TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {key: {"type": "object", "additionalProperties": _IMAGE} for key in ("inputs", "outputs")},
        },
    },
}
BUNDLES = sorted(bundle_folders().values())


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    return path


@pytest.mark.filterwarnings("ignore")  # MONAI's own deprecation notes are not ours to judge
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_metadata_passes_monais_own_check(bundle: Path, schema: Path) -> None:
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(schema))


def _without(key: str) -> Any:
    def change(metadata: dict[str, Any]) -> None:
        del metadata[key]

    return change


def _channels_as_text(metadata: dict[str, Any]) -> None:
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = "one"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [_without("task"), _without("network_data_format"), _channels_as_text])
def test_the_check_finds_what_is_wrong(change: Any, schema: Path, tmp_path: Path) -> None:
    metadata = json.loads((BUNDLES[0] / "configs" / "metadata.json").read_text(encoding="utf-8"))
    change(metadata)
    spoilt = tmp_path / "metadata.json"
    spoilt.write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="against schema"):
        verify_metadata(meta_file=str(spoilt), filepath=str(schema))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_network_takes_and_gives_what_the_metadata_says(bundle: Path) -> None:
    configs = bundle / "configs"
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out("network_def", **files, device="cpu", n=1)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_schema_address_is_the_one_that_was_checked(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["schema"].endswith("/meta_schema_20240725.json")
