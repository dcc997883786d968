"""Does each verdict of the preflight hold? Every method is run, and its map compared with what was promised."""

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from captum import attr
from torch import Tensor, nn

from medinterp.attribution import (
    Attribution,
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
    KernelShap,
    LayerwiseRelevance,
    Occlusion,
    Saliency,
    SmoothGrad,
    Verdict,
    WeightedSum,
    block_supervoxels,
)
from medinterp.attribution.targets import Target
from medinterp.errors import MethodNotValid
from medinterp.testing.attribution_oracles import SCAN
from medinterp.testing.monai_networks import NetworkCase
from medinterp.volume import Grid

SAME = 1e-4
"""Relative difference of two maps below which one is no other method than the other; float32 rounding is 1e-6."""


def quick_attributors(shape: tuple[int, int, int]) -> Mapping[str, Attributor]:
    """Return every method of the preflight, at settings that take a second on a small network."""
    grid, start = Grid(shape, np.diag([1.0, 0.125, 0.125, 1.0])), Blurred(1.0)
    half = shape[0] / 2  # two regions, one beyond the other along I: the other axes are flat in mm
    return {
        "saliency": Saliency(),
        "input_x_gradient": InputXGradient(),
        "integrated_gradients": IntegratedGradients(start, steps=2),
        "smoothgrad": SmoothGrad(draws=1),
        "gradient_shap": GradientShap(start, draws=1),
        "deep_lift": DeepLift(start),
        "lrp": LayerwiseRelevance(),
        "guided_backprop": GuidedBackprop(),
        "guided_grad_cam": GuidedGradCam(),
        "grad_cam": GradCam(),
        "deconvolution": Deconvolution(),
        "occlusion": Occlusion(grid, start, window_mm=half),
        "kernel_shap": KernelShap(block_supervoxels(grid, half), start, torch.Generator().manual_seed(0), 8),
        "equivalent_filter": EquivalentFilter(),
    }


def measurement_of(image: Tensor) -> Target:
    """Return a measurement on an output that no symmetry of a random network can cancel."""
    shape = image.shape[2:]
    weights = torch.cos(1.7 * torch.arange(shape.numel(), dtype=image.dtype)).reshape(shape)
    return WeightedSum(weights, "weighted sum")


class VerdictCheck:
    """Runs methods on one network and compares what comes out with what the preflight promised.

    Args:
        case: the network.
    """

    def __init__(self, case: NetworkCase) -> None:
        self.case = case
        self.inputs, self.sigmas = case.scan()
        self.target = measurement_of(case(self.inputs, self.sigmas))
        self.methods = quick_attributors(case.shape)
        self._found: dict[str, Attribution] = {}

    def explain(self, method: str) -> Attribution:
        """Return what a method says, made once."""
        if method not in self._found:
            self._found[method] = self.methods[method](self.case, self.inputs, self.sigmas, self.target)
        return self._found[method]

    def contradiction(self, verdict: Verdict) -> str | None:
        """Return what is wrong with a verdict, None if the method does what was promised.

        Valid: it gives a map, and one that is not the plain gradient's under another name. Refused, or equal to another
        method because its rule finds nothing to act on: the method itself refuses too, so that nobody who skips the
        preflight gets a wrong map. Equal by definition: it is the same map.
        """
        try:
            found = self.explain(verdict.method)
        except MethodNotValid as error:
            return f"called valid, but: {error}" if verdict.status == "valid" else None
        if verdict.status == "refused":
            return "refused, but it gives a map"
        plain = verdict.instead if verdict.status == "equal" else _PLAIN.get(verdict.method)
        if plain is None:
            return None
        same = relative_difference(found.maps[SCAN], self._plain_map(plain)) < SAME
        if same and verdict.status == "valid":
            return f"called valid, but it is the map of {plain}"
        return f"called equal to {plain}, but it is not" if not same and verdict.status == "equal" else None

    def captum_alone(self, method: str) -> str:
        """Return what Captum does when it is called directly on the network: "raises", "as ours", or what is wrong."""
        make, plain = _CAPTUM[method]
        module, scan = _Measured(self.case, self.sigmas, self.target), self.inputs[SCAN].clone()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its hooks, and what PyTorch says of hooks on views
                found = make(module, scan, self._start())
        except (RuntimeError, TypeError, AssertionError, AttributeError, ValueError) as error:
            return f"raises {type(error).__name__}"
        if relative_difference(found, self._plain_map(plain)) < SAME:
            return f"silently {plain}"
        try:
            ours = self.explain(method)
        except MethodNotValid:
            return "a map, its rule in part undefined"
        return "as ours" if relative_difference(found, ours.maps[SCAN]) < SAME else "silently another map"

    def _start(self) -> Tensor:
        return Blurred(1.0)(self.case, self.inputs, self.sigmas)[0][SCAN]

    def _plain_map(self, plain: str) -> Tensor:
        """Return the map a method gives where its rule is never applied."""
        gradient = self.explain("saliency").maps[SCAN]
        if plain == "gradient x difference":
            return gradient * (self.inputs[SCAN] - self._start())
        return gradient if plain == "saliency" else self.explain(plain).maps[SCAN]


class _Measured(nn.Module):
    """A network and a measurement as the one module that Captum asks for."""

    def __init__(self, case: NetworkCase, sigmas: Mapping[str, Tensor], target: Target) -> None:
        super().__init__()
        self.network, self._case, self._sigmas, self._target = case.network, case, sigmas, target

    def forward(self, image: Tensor) -> Tensor:
        """Measure each sample."""
        return self._target(self._case({SCAN: image}, self._sigmas))


_PLAIN = {
    "guided_backprop": "saliency",
    "deconvolution": "saliency",
    "guided_grad_cam": "saliency",
    "smoothgrad": "saliency",
    "lrp": "input_x_gradient",
    "deep_lift": "gradient x difference",
}
"""What a method would be if its rule were never applied."""
_CAPTUM: Mapping[str, tuple[Callable[[nn.Module, Tensor, Tensor], Tensor], str]] = {
    "guided_backprop": (lambda module, x, start: attr.GuidedBackprop(module).attribute(x), "saliency"),
    "deconvolution": (lambda module, x, start: attr.Deconvolution(module).attribute(x), "saliency"),
    "deep_lift": (lambda module, x, start: attr.DeepLift(module).attribute(x, start).detach(), "gradient x difference"),
    "lrp": (lambda module, x, start: attr.LRP(module).attribute(x), "input_x_gradient"),
}
RULES_IN_CAPTUM = tuple(_CAPTUM)
"""Methods whose hooks can miss a network's activations."""


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Return ||a - b|| / ||b||."""
    return float((a - b).detach().norm() / b.norm().clamp_min(torch.finfo(b.dtype).tiny))
