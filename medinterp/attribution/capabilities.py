"""What each attribution method needs and costs, said before it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from medinterp.attribution.result import Attributor

Rule: TypeAlias = Literal["gradient", "activation rule", "layer rule", "block", "perturbation"]
"""How a method looks into the model: by plain gradients, by gradients with another rule at activations or at layers, by
the features of one block, or from outside."""


@dataclass(frozen=True)
class Cost:
    """What one map costs, in evaluations and in the memory of one saliency map.

    Args:
        forward: evaluations of the forward.
        backward: gradients through it.
        memory: peak memory over that of one saliency of the same measurement; without a gradient, well below 1.
        usual: gradients it usually takes, where it stops as soon as the map is right; None where it never does.
    """

    forward: int
    backward: int
    memory: float = 1.0
    usual: int | None = None


@dataclass(frozen=True)
class Capabilities:
    """What a method can do, and what it takes.

    Args:
        rule: how it looks into the model.
        complete: its maps and noise shares sum to the measurement's change from the baseline, by construction.
        random: it draws random numbers.
        cost: at its settings.
    """

    rule: Rule
    complete: bool
    random: bool
    cost: Cost

    @property
    def accounts(self) -> bool:
        """Whether the parts of its maps are to sum to the measurement; of plain gradients, times the input, they are.

        By Euler's theorem on a homogeneous model. Of other methods, such as occlusion, the sum says nothing.
        """
        return self.complete or (self.rule == "gradient" and not self.random)

    @property
    def may_stray(self) -> bool:
        """Whether its map may lie elsewhere than the gradient, so that it is compared with that before it is shown."""
        return self.rule in ("activation rule", "layer rule")


def _constant(rule: Rule, cost: Cost, *, complete: bool = False) -> Callable[[Attributor], Capabilities]:
    return lambda attributor: Capabilities(rule, complete, random=False, cost=cost)


_KNOWN: Mapping[str, Callable[[Attributor], Capabilities]] = {
    "saliency": _constant("gradient", Cost(1, 1)),
    "input_x_gradient": _constant("gradient", Cost(1, 1)),
    "equivalent_filter": _constant("gradient", Cost(1, 1)),
}


def capabilities(attributor: Attributor) -> Capabilities | None:
    """Return what an attributor declares in an attribute ``capabilities``; None where one says nothing."""
    declared = getattr(attributor, "capabilities", None)
    if isinstance(declared, Capabilities):
        return declared
    known = _KNOWN.get(attributor.name)
    return known(attributor) if known is not None else None
