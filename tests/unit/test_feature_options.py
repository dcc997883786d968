"""Options of a look inside the network: what has no meaning is refused before anything is read."""

import pytest

from medinterp.cli_options import FeatureKind, Featuring, chosen_options
from medinterp.errors import ConfigError
from medinterp.feature_kinds import CAUTIONS, COMPUTE
from medinterp.feature_options import KINDS, FeatureOptions


def test_every_kind_is_offered_computed_and_cautioned() -> None:
    assert tuple(kind.value for kind in FeatureKind) == KINDS
    assert set(COMPUTE) == set(CAUTIONS) == set(KINDS)


def test_the_command_line_keeps_the_defaults() -> None:
    assert FeatureOptions(**chosen_options(Featuring())) == FeatureOptions()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "svd"}, "no kind 'svd': choose activations, pca, nmf, concepts or stimulus"),
        ({"kind": "pca", "channels": (1,)}, "--channel is about activations and stimulus, not pca"),
        ({"kind": "pca", "concepts": ("a=b",)}, "--concept is about concepts"),
        ({"within": "mask.nii"}, "--within is about concepts"),
        ({"kind": "concepts"}, "at least one --concept NAME=FILE"),
        ({"kind": "stimulus"}, "needs --channel"),
        ({"count": 0}, "count 0: expected 1 or more"),
        ({"channels": (-1,)}, "expected numbers from 0"),
        ({"margin_mm": float("nan")}, "margin nan mm"),
        ({"kind": "stimulus", "channels": (0,), "size": 20}, "multiple of 8"),
        ({"kind": "concepts", "concepts": ("tumour",)}, "expected NAME=FILE"),
        ({"kind": "concepts", "concepts": ("a=1.nii", "a=2.nii")}, "each name once"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FeatureOptions(**options)  # type: ignore[arg-type]


def test_names_of_concepts_are_safe_in_file_names() -> None:
    asked = FeatureOptions(kind="concepts", concepts=("white matter=a=b.nii", "c/s/f=c.nii"))
    assert asked.named_concepts() == {"whitematter": "a=b.nii", "csf": "c.nii"}
