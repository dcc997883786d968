"""Probes of the machine: how long a number of the network takes, as far as a plan needs it."""

from dataclasses import replace

import pytest

from medinterp import rates
from medinterp.bundle import load_pipeline
from medinterp.catalogue import find_bundle
from medinterp.denoisers.classical import PeronaMalik
from medinterp.pipeline import Pipeline
from medinterp.sampling.samplers import Heun


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "PROBE_VOXELS", 32)
    monkeypatch.setattr(rates, "DENOISED_PROBE_VOXELS", 24)


def shipped() -> Pipeline:
    return load_pipeline(find_bundle("mri_denoise"))


def test_a_probe_times_every_kind_of_work() -> None:
    found = rates.Rates.probe(shipped())
    assert min(found.forward, found.backward, found.batched) > 0
    assert rates.seconds_per_voxel(shipped(), "cpu") > 0


def test_rates_add_up_by_how_often_each_is_done() -> None:
    assert rates.Rates(1.0, 10.0, 100.0).seconds(2, 3, 0.5, batched=4) == 0.5 * (2 + 30 + 400)


def test_another_denoiser_has_no_rates_of_our_networks() -> None:
    assert rates.Rates.probe(replace(shipped(), denoiser=PeronaMalik())) == rates.Rates(0.0, 0.0, 0.0)


def test_a_hundred_steps_are_timed_over_a_few_of_them() -> None:
    counted = Counting()
    many = replace(shipped(), denoiser=counted, sampler=Heun(), steps=100)
    assert rates.seconds_per_voxel(many, "cpu") > 0
    assert counted.calls == 3 * (1 + rates.REPEATS)  # two steps of Heun are three evaluations


class Counting:
    """Does nothing, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x, sigma, *, cond=None):
        self.calls += 1
        return x
