"""Whether a map lies where its measurement's gradient does: rules at activations may put it anywhere."""

import torch
from jaxtyping import Float
from torch import Tensor

from medinterp.assessment.localisation import localisation
from medinterp.errors import MethodNotValid

MOST = 0.95
"""Share of the gradient's magnitude that marks what the measurement depends on."""
LEAST = 0.5
"""Share of a map's magnitude that must lie there."""


def require_in_place(found: Float[Tensor, "C I J K"], gradient: Float[Tensor, "C I J K"], method: str) -> None:
    """Refuse a map most of which lies where the measurement hardly depends on the scan.

    The smallest set of voxels that holds 95 % of the gradient's magnitude says on what it depends, to first order. A
    map or gradient that is zero everywhere is not judged here.

    Args:
        found: the map.
        gradient: of the same measurement of the same model on the same scan.
        method: that made the map, for the message.

    Raises:
        MethodNotValid: less than half of the map lies in that set.
    """
    slopes = gradient.detach().abs().sum(dim=0)
    if not bool(slopes.any()) or not bool(found.any()):
        return
    size, order = slopes.flatten().sort(descending=True)
    count = int((size.double().cumsum(0) < MOST * float(size.double().sum())).sum()) + 1
    matters = slopes.new_zeros(slopes.numel(), dtype=torch.bool)
    matters[order[:count]] = True
    where = localisation(found, matters.reshape(slopes.shape))
    if where.mass < LEAST:
        raise MethodNotValid(
            f"{1 - where.mass:.0%} of the map by {method} lies outside of the {where.by_chance:.1%} of the voxels that "
            f"hold {MOST:.0%} of the measurement's gradient: it would show what the number does not depend on; use "
            "saliency or input_x_gradient"
        )
