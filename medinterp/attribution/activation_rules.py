"""Guided backpropagation, deconvolution and DeepLift: gradients with another rule at activations, by Captum."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from captum import attr
from torch import Tensor

from medinterp.attribution.baselines import Baseline, Blurred
from medinterp.attribution.capabilities import Capabilities, Cost
from medinterp.attribution.measurement import seen_by
from medinterp.attribution.preflight import require
from medinterp.attribution.rerouted import Rerouted
from medinterp.attribution.result import Attribution, Forward
from medinterp.attribution.rules import RELUS, RESCALED
from medinterp.attribution.targets import Target


@dataclass(frozen=True)
class GuidedBackprop:
    """The gradient with only its positive part passed back at each ReLU: sharp, and hardly about the model.

    On networks that mostly copy their input it resembles an edge detector whatever the weights; the certificate's
    randomisation check says so. Refused on networks without ReLU, where it would be the plain gradient.

    Source:
        Springenberg et al., "Striving for simplicity: the all convolutional net", ICLR workshop 2015;
        Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018 (its weakness).
    """

    name: str = "guided_backprop"

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: a trace, a pass that finds the activations, and the gradient."""
        return Capabilities("activation rule", complete=False, random=False, cost=Cost(3, 1))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the modified gradient.

        Raises:
            MethodNotValid: the rule does not cover this network's activations.
        """
        return _relu_rule(attr.GuidedBackprop, self.name, forward, inputs, sigmas, target)


@dataclass(frozen=True)
class Deconvolution:
    """The gradient with each ReLU's own on-off pattern replaced by the positive part of what comes back.

    It passes through ReLUs that are off on this scan, so its size grows with depth and says nothing (measured: 1e5
    times the gradient on the shipped MRI network, where most deep ReLUs are off), and its pattern is that of the
    strided convolutions as much as the scan's. Here for comparison; guided backpropagation is the better of the two.

    Source:
        Zeiler & Fergus, "Visualizing and understanding convolutional networks", ECCV 2014, section 2.1.
    """

    name: str = "deconvolution"

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: a trace, a pass that finds the activations, and the gradient."""
        return Capabilities("activation rule", complete=False, random=False, cost=Cost(3, 1))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Return the modified gradient.

        Raises:
            MethodNotValid: the rule does not cover this network's activations.
        """
        return _relu_rule(attr.Deconvolution, self.name, forward, inputs, sigmas, target)


def _relu_rule(
    method: Any,
    name: str,
    forward: Forward,
    inputs: Mapping[str, Tensor],
    sigmas: Mapping[str, Tensor],
    target: Target,
) -> Attribution:
    forward = seen_by(target, forward)
    found = require(name, forward, inputs, sigmas, target)
    rerouted = Rerouted(forward, target, inputs, sigmas, names=RELUS, found=found)
    gradients = _attribute(method(rerouted), rerouted.measurement.leaves())
    return rerouted.measurement.attribution(gradients, "gradient", name, value=rerouted.value)


def _attribute(method: Any, *arguments: Any) -> tuple[Tensor, ...]:
    """Run one of Captum's methods that hook activations."""
    with warnings.catch_warnings():  # it announces its hooks
        warnings.filterwarnings("ignore", message="Setting .*hooks", category=UserWarning)
        found: tuple[Tensor, ...] = method.attribute(*arguments)
    return found


@dataclass(frozen=True)
class DeepLift:
    """The measurement's change from a baseline, split by the finite slopes of every activation between the two.

    One pass instead of a path; complete where every operation is linear or an elementwise activation, with the
    residual to prove it. With the ``Ray`` baseline on a bias-free ReLU network it equals gradient x input.

    Args:
        baseline: what the scan is compared with.

    Source:
        Shrikumar et al., "Learning important features through propagating activation differences", ICML 2017
        (rescale rule); Ancona et al., ICLR 2018 (as a gradient).
    """

    baseline: Baseline = Blurred()  # noqa: RUF009 - frozen, so one shared instance is safe
    name: str = "deep_lift"

    @property
    def reach(self) -> int | None:
        """Voxels around a voxel that its baseline depends on."""
        return self.baseline.reach

    @property
    def capabilities(self) -> Capabilities:
        """What it needs and costs: a trace, a pass that finds the activations, the baseline, and both at once."""
        return Capabilities("activation rule", complete=True, random=False, cost=Cost(5, 1, 3.0))

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement's change from the baseline to the scan.

        Raises:
            MethodNotValid: the rescale rule is not defined for an operation of this network.
        """
        narrowed = seen_by(target, forward)
        found = require(self.name, narrowed, inputs, sigmas, target)
        rerouted = Rerouted(narrowed, target, inputs, sigmas, names=RESCALED, found=found)
        measurement = rerouted.measurement
        images, levels = self.baseline(forward, inputs, sigmas)
        start = tuple(images[name].detach() for name in measurement.names)
        start += tuple(levels[name].detach() for name in measurement.names)
        baseline_value = measurement.value_at(start)
        contributions = _attribute(attr.DeepLift(rerouted), measurement.leaves(), start)
        return measurement.attribution(
            contributions, "contribution", self.name, value=rerouted.value, baseline_value=baseline_value,
            baseline=self.baseline.name,
        )  # fmt: skip
