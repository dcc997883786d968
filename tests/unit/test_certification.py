"""The full certificate of every method: made near the region, reproducible, and silent where a check has no meaning."""

import json
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from medinterp.assessment.certificate import certify
from medinterp.assessment.faithfulness import CurveOptions
from medinterp.assessment.full import CheckOptions
from medinterp.attribution.by_name import NamedMethod
from medinterp.attribution.measures import Mean, RemovedEnergy
from medinterp.certification import certify_fully, full_effort
from medinterp.denoisers.base import evaluate
from medinterp.errors import ConfigError
from medinterp.explanation import PROOF_HALO, Case
from medinterp.registry import names
from medinterp.testing.attribution_oracles import EdgeDetector, smooth_noise
from medinterp.testing.networks import random_network
from medinterp.volume import Grid, Provenance, Source, Volume, sphere

SHAPE = (16, 16, 16)
FEW = CheckOptions(repeats=6, curves=CurveOptions(steps=4, draws=2, block=4), changes=6, nudges=1, stages=2)
SMALLER = {
    "integrated_gradients": "integrated_gradients:steps=4",
    "gradient_shap": "gradient_shap:draws=2",
    "smoothgrad": "smoothgrad:draws=2",
    "occlusion": "occlusion:window_mm=6",
    "sampled_shapley": "sampled_shapley:orders=2",
    "kernel_shap": "kernel_shap:samples=16",
    "lime": "lime:samples=16",
}
WITHOUT_EFFECT = {"guided_backprop", "deconvolution", "grad_cam", "guided_grad_cam", "gradient_shap"}


class Tiny:
    """A denoiser with a small random network, as a bundle's is."""

    def __init__(self):
        self.network = random_network()

    def __call__(self, x, sigma, *, cond=None):
        return self.network(x, sigma)


def case(method, measure=None, sigma=0.3, denoiser=None):
    values = 3 + smooth_noise((1, *SHAPE), 1.0, torch.Generator().manual_seed(1)).float()
    scan = Volume(values.numpy(), Grid(SHAPE, np.eye(4)), "a.u.", "MR", Provenance(Source("memory")))
    region, measure = sphere(scan.grid, (7.0, 8.0, 8.0), 2.0), measure or Mean()
    attributor = NamedMethod(SMALLER.get(method, method), division="shells").on(scan, region, 0)
    level = torch.full((1, 1, 1, 1, 1), sigma)
    return Case(
        attributor, measure, "scan", values[None], level, measure.target(region), denoiser or Tiny(), None, evaluate, 0,
    )  # fmt: skip


def full(subject, options=FEW):
    attribution = subject.explain(halo=subject.usual_halo())
    return certify_fully(subject, attribution, certify(attribution), options)


@pytest.mark.parametrize("method", sorted(names("attributors")))
def test_every_method_gets_a_full_certificate_that_is_json_and_says_what_it_leaves_out(method):
    certificate, repeats = full(case(method))
    checks = certificate.full
    assert (checks.infidelity is None) == (method in WITHOUT_EFFECT)
    assert set(checks.not_made) == ({"infidelity"} if method in WITHOUT_EFFECT else set())
    assert checks.stability.draws == checks.significance.repeats == 6
    assert [stage.layers for stage in checks.cascade][-1] == checks.cascade[-1].of
    assert repeats.mean.shape == repeats.sd.shape == (1, *SHAPE)
    json.dumps(asdict(certificate), allow_nan=False)


def test_the_same_seed_gives_the_same_certificate():
    assert full(case("saliency"))[0] == full(case("saliency"))[0]
    assert full(case("saliency"))[0] != full(replace(case("saliency"), seed=1))[0]


@pytest.mark.parametrize("measure", [Mean(), RemovedEnergy()])
def test_gradients_and_their_products_with_the_scan_predict_the_same_changes(measure):
    """Products are divided by the degree of the measure, here 1 and 2, and by the scan: both must be taken back."""
    gradient, product = (full(case(m, measure))[0].full.infidelity for m in ("saliency", "input_x_gradient"))
    assert gradient.rms == pytest.approx(product.rms, rel=1e-3)  # float32: divided by the scan, and times it again
    assert gradient.best_scale == pytest.approx(product.best_scale, rel=1e-3)


def test_where_a_scan_holds_no_noise_repeats_have_no_meaning():
    certificate, repeats = full(case("saliency", sigma=0.0))
    assert repeats is None
    assert certificate.full.stability is certificate.full.significance is certificate.full.max_sensitivity is None
    assert set(certificate.full.not_made) == {"stability", "max_sensitivity"}


def test_a_denoiser_without_a_network_has_no_cascade():
    certificate, _ = full(case("saliency", denoiser=lambda x, sigma, cond=None: x * 0.5 + x.roll(1, 2) * 0.5))
    assert certificate.full.cascade is certificate.full.depends_on_model is None
    assert "no network" in certificate.full.not_made["cascade"]


def test_an_edge_detector_must_fail_the_full_certificate():
    certificate, _ = full(replace(case("saliency"), attributor=EdgeDetector()))
    assert certificate.full.depends_on_model is False
    assert not certificate.passed
    assert any("layers random" in note for note in certificate.notes)


def test_the_spread_of_repeats_is_that_of_the_noise_for_gradient_x_input_of_a_linear_model():
    subject = case("input_x_gradient", denoiser=lambda x, sigma, cond=None: x * 0.5 + x.roll(1, 2) * 0.5)
    _, repeats = full(subject, replace(FEW, repeats=60))
    gradient = replace(subject, attributor=NamedMethod("saliency").on(*_scan_and_region(), 0)).explain(halo=None)
    expected = 0.3 * float(gradient.maps["scan"].norm())
    assert float(repeats.sd.norm()) == pytest.approx(expected, rel=0.1)  # 50 voxels, 59 degrees: 1.5 %


def _scan_and_region():
    scan = Volume(np.zeros((1, *SHAPE), np.float32), Grid(SHAPE, np.eye(4)), "a.u.", "MR", Provenance(Source("memory")))
    return scan, sphere(scan.grid, (7.0, 8.0, 8.0), 2.0)


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "occlusion", "smoothgrad"])
def test_the_effort_that_is_planned_is_what_is_done(method):
    subject, counted = case(method), Counter()
    _, near = subject.around(PROOF_HALO)
    attribution = subject.explain(halo=subject.usual_halo())
    subject.denoiser.network.register_forward_hook(  # copies of the network, with random layers, keep it
        lambda module, given, made: counted.update({torch.is_grad_enabled(): len(given[0])})
    )
    near.explain(halo=None)
    each, before = counted[True] + counted[False], Counter(counted)
    certify_fully(subject, attribution, certify(attribution), FEW)
    effort = full_effort(near, FEW)
    done = counted.total() - before.total()
    assert done == effort.explanations * each + effort.evaluations


def test_too_few_repeats_are_refused():
    with pytest.raises(ConfigError, match="at least 6 repeats"):
        CheckOptions(repeats=5)
