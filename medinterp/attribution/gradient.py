"""Saliency by Captum, and gradient x input, which is read off it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from captum import attr
from torch import Tensor

from medinterp.attribution.measurement import Measurement, seen_by
from medinterp.attribution.result import Attribution, Forward, degree_of
from medinterp.attribution.targets import Target
from medinterp.errors import MethodNotValid


@dataclass(frozen=True)
class Saliency:
    """The signed gradient: how much the measurement moves when one voxel of the scan rises by one unit."""

    name: str = "saliency"

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement by its gradient.

        Raises:
            MethodNotValid: there is no gradient, or it is zero everywhere.

        Source:
            Simonyan et al., "Deep inside convolutional networks", ICLR workshop 2014.
        """
        measurement = Measurement(seen_by(target, forward), target, inputs, sigmas)
        gradients = attr.Saliency(measurement).attribute(measurement.leaves(), abs=False)
        return measurement.attribution(gradients, "gradient", self.name, value=measurement.last_value)

    def of_gradient(
        self, gradient: Attribution, inputs: Mapping[str, Tensor], target: Target, forward: Forward
    ) -> Attribution:
        """Return a gradient that was found already: the arguments are as elsewhere."""
        return gradient


@dataclass(frozen=True)
class InputXGradient:
    """The gradient times the scan: how much of the measurement each voxel carries.

    Complete (nothing left over) on a network that is piecewise linear through the origin in scan and noise level
    together; elsewhere the residual says how much is missing. A measurement that grows with a power of the image, such
    as an energy, is divided by that power, so that the parts sum to it (Euler's theorem).
    """

    name: str = "input_x_gradient"

    def __call__(
        self, forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target
    ) -> Attribution:
        """Explain the measurement by gradient x input.

        Raises:
            MethodNotValid: there is no gradient, every product is zero, or the measurement does not change with the
                scale of scan and noise level, so that the products sum to zero instead of to it.

        Source:
            Shrikumar et al., "Not just a black box", 2016, section 3.
        """
        self.refuse(target, forward)  # before the work
        return self.of_gradient(Saliency()(forward, inputs, sigmas, target), inputs, target, forward)

    def refuse(self, target: Target, forward: Forward) -> None:
        """Refuse a measurement that its gradient does not account for; costs nothing.

        Raises:
            MethodNotValid: it does not change with the scale of scan and noise level.
        """
        if degree_of(target, forward) == 0:
            raise MethodNotValid(
                f"{self.name}: the measurement does not change when scan and noise level are scaled together, so its "
                "parts sum to zero; ask for integrated_gradients with a baseline, such as --baseline blurred"
            )

    def of_gradient(
        self, gradient: Attribution, inputs: Mapping[str, Tensor], target: Target, forward: Forward
    ) -> Attribution:
        """Return the contributions that a gradient stands for; its noise shares and residual are theirs.

        Args:
            gradient: what Saliency found.
            inputs: where, on the same grid.
            target: of which measurement.
            forward: of which model.

        Raises:
            MethodNotValid: as of a call.
        """
        self.refuse(target, forward)
        share = 1 / (degree_of(target, forward) or 1)
        maps = {name: image * inputs[name].detach() * share for name, image in gradient.maps.items()}
        if not any(bool(image.any()) for image in maps.values()):
            raise MethodNotValid(f"the {self.name} of '{target.name}' is exactly zero everywhere: the scan is, there")
        return replace(gradient, maps=maps, kind="contribution", method=self.name)
