"""Run options are checked when they are made, long before a network runs; sampler and steps fit each other."""

from pathlib import Path

import pytest
import torch

from medinterp.catalogue import find_bundle
from medinterp.errors import ConfigError
from medinterp.options import RunOptions
from medinterp.preparation import build_pipeline, sampler_word


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sampler": "magic"}, "choose mean, ode or sde"),
        ({"steps": 0}, "steps 0: expected 1 or more"),
        ({"halo": -1}, "halo -1"),
        ({"series": 0}, "series 0"),
        ({"frame": -1}, "frame -1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "below 2"),
        ({"trajectory": True, "whole": False}, "'medinterp run'"),
        ({"max_memory_gb": 0.0}, "positive number of GB"),
        ({"max_memory_gb": float("nan")}, "positive number of GB"),
        ({"max_memory_gb": float("inf")}, "positive number of GB"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_value(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RunOptions(**wrong)  # type: ignore[arg-type]


@pytest.fixture
def bundle() -> Path:
    return find_bundle("mri_denoise")


@pytest.mark.parametrize(
    ("sampler", "steps", "expected"),
    [(None, None, ("mean", 1)), ("mean", None, ("mean", 1)), ("ode", None, ("ode", 10)), ("sde", 4, ("sde", 4))],
)
def test_a_sampler_has_its_usual_steps_unless_told(
    bundle: Path, sampler: str | None, steps: int | None, expected: tuple[str, int]
) -> None:
    pipeline = build_pipeline(bundle, RunOptions(sampler=sampler, steps=steps), torch.device("cpu"))
    assert (sampler_word(pipeline.sampler), pipeline.steps) == expected


@pytest.mark.parametrize(("sampler", "steps"), [(None, 3), ("mean", 3), ("ode", 1), ("sde", 1)])
def test_steps_that_would_be_ignored_or_make_another_image_are_refused(
    bundle: Path, sampler: str | None, steps: int
) -> None:
    with pytest.raises(ConfigError, match="posterior mean"):
        build_pipeline(bundle, RunOptions(sampler=sampler, steps=steps), torch.device("cpu"))
