"""No method is silently something else on any of ten networks: each verdict is checked by running the method."""

import pytest

from medinterp.attribution import METHODS, preflight
from medinterp.testing.monai_networks import network_cases
from medinterp.testing.preflight_check import RULES_IN_CAPTUM, VerdictCheck

QUICK = ("UNet", "SegResNet", "DynUNet", "DenseNet121", "ResNet-3D", "DiffusionModelUNet", "BiasFreeUNet")
LARGE = ("BasicUNet", "VNet", "SwinUNETR")
"""Of these only the methods that can go wrong in silence are run; ``python -m benchmarks.preflight`` runs all."""
RULED = ("deep_lift", "lrp", "guided_backprop", "guided_grad_cam", "grad_cam", "deconvolution")


@pytest.mark.parametrize("name", [*QUICK, *LARGE])
def test_every_verdict_holds(name):
    (case,) = network_cases(name)
    found, check = preflight(case, *case.scan()), VerdictCheck(case)
    assert set(found.verdicts) == set(METHODS)
    for method in METHODS if name in QUICK else RULED:
        assert check.contradiction(found.verdicts[method]) is None, method


@pytest.mark.parametrize("name", ["UNet", "DynUNet", "DiffusionModelUNet"])
def test_what_is_called_equal_to_saliency_is_what_captum_gives_in_silence(name):
    """The control: hooks on modules alone do give the other method's map under this one's name."""
    (case,) = network_cases(name)
    found, check = preflight(case, *case.scan()), VerdictCheck(case)
    for method in RULES_IN_CAPTUM:
        if found.verdicts[method].status == "equal":
            assert check.captum_alone(method) == "silently saliency"
