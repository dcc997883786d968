"""Every attributor keeps the protocol, and the suite catches those that do not."""

from dataclasses import dataclass, replace

import pytest
import torch

from medinterp.attribution import (
    Attributor,
    Blurred,
    Deconvolution,
    DeepLift,
    EquivalentFilter,
    GradCam,
    GradientShap,
    GuidedBackprop,
    GuidedGradCam,
    InputXGradient,
    IntegratedGradients,
    LayerwiseRelevance,
    Ray,
    Saliency,
    SmoothGrad,
)
from medinterp.testing.attribution_oracles import EdgeDetector
from medinterp.testing.attributor_conformance import (
    ATTRIBUTOR_CHECKS,
    check_leaves_its_arguments_alone,
    check_refuses_a_batch,
    check_refuses_a_dead_model,
    check_repeats_to_the_bit,
    check_residual_is_honest,
    check_unused_input_gets_nothing,
)

ATTRIBUTORS = (
    Saliency(),
    InputXGradient(),
    EquivalentFilter((1.0, 0.5, 3.0)),
    IntegratedGradients(),
    IntegratedGradients(Blurred(1.0), steps=4),
    IntegratedGradients(Ray()),
    SmoothGrad(draws=3),
    GradientShap(draws=3),
    GuidedBackprop(),
    Deconvolution(),
    DeepLift(),
    LayerwiseRelevance(),
    GradCam(),
    GradCam("first"),
    GuidedGradCam(),
)


@pytest.mark.parametrize("check", ATTRIBUTOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("attributor", ATTRIBUTORS, ids=lambda a: f"{a.name}-{getattr(a, 'steps', '')}")
def test_attributor_keeps_the_protocol(attributor, check):
    assert isinstance(attributor, Attributor)
    check(attributor)


@dataclass(frozen=True)
class Careless:
    """An attributor that claims completeness, adds global noise and leaves gradients switched on."""

    name: str = "careless"

    def __call__(self, forward, inputs, sigmas, target):
        for image in inputs.values():
            image.requires_grad_()
        found = Saliency()(forward, inputs, sigmas, target)
        noisy = {name: image + torch.randn_like(image) for name, image in found.maps.items()}
        return replace(found, maps=noisy, residual=0.0)


@pytest.mark.parametrize(
    "check",
    [
        check_leaves_its_arguments_alone,
        check_repeats_to_the_bit,
        check_residual_is_honest,
        check_unused_input_gets_nothing,
    ],
)
def test_the_suite_rejects_a_careless_attributor(check):
    with pytest.raises(AssertionError):
        check(Careless())


@pytest.mark.parametrize("check", [check_refuses_a_dead_model, check_unused_input_gets_nothing, check_refuses_a_batch])
def test_the_suite_rejects_an_edge_detector(check):
    with pytest.raises((AssertionError, RuntimeError)):
        check(EdgeDetector())
