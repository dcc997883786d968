"""Schedules: strictly decreasing float64 levels from the start to exactly zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medinterp.errors import ConfigError
from medinterp.sampling.schedules import KarrasSchedule, LinearSchedule, PowerSchedule

SCHEDULES = (PowerSchedule(), PowerSchedule(3.0), LinearSchedule(), KarrasSchedule(), KarrasSchedule(rho=1.0, end=0.3))


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(steps=st.integers(1, 200), start=st.floats(1e-6, 1e6))
def test_levels_fall_strictly_from_start_to_exactly_zero(schedule, steps, start):
    levels = schedule(steps, start=start)
    assert levels.dtype == torch.float64
    assert levels.shape == (steps + 1,)
    assert levels[0] == start
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(steps=st.integers(1, 50), start=st.floats(1e-3, 1e3))
def test_levels_scale_with_the_start(schedule, steps, start):
    assert torch.allclose(schedule(steps, start=start), start * schedule(steps, start=1.0), rtol=1e-12)


def test_karras_levels_are_even_in_the_root_and_end_at_the_given_share():
    levels = KarrasSchedule(rho=7.0, end=0.02)(6, start=2.0)
    roots = levels[:-1] ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff()[0].expand(5))
    assert levels[-2] == pytest.approx(0.04)


def test_linear_levels_are_evenly_spaced():
    assert torch.allclose(LinearSchedule()(4, start=2.0), torch.tensor([2, 1.5, 1, 0.5, 0]).double())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: PowerSchedule(0.5),
        lambda: KarrasSchedule(rho=0.0),
        lambda: KarrasSchedule(end=0.0),
        lambda: KarrasSchedule(end=1.0),
        lambda: LinearSchedule()(0, start=1.0),
        lambda: LinearSchedule()(4, start=0.0),
        lambda: LinearSchedule()(4, start=float("nan")),
        lambda: KarrasSchedule()(0, start=1.0),
    ],
)
def test_impossible_schedules_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()
