"""The states that a reverse diffusion goes through, kept while it runs."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32
from torch import Tensor

OnState = Callable[[float, Tensor], None]
"""Told the fraction of the scan's noise that is left, and the state x, after every step; 1 is the scan, 0 the image."""

MOST_STATES = 20
"""Between the scan and the image: what a viewer steps through, and what memory and disk have room for."""


def forget(fraction: float, state: Tensor) -> None:
    """Keep nothing of a state."""
    del fraction, state


@dataclass
class KeptStates:
    """Keeps states between the scan and the image, evenly over the steps; the two ends are the caller's own.

    Args:
        steps: of the sampler.
        most: states to keep at most, in the computer's memory.
        states: those kept so far, by the fraction of the noise that is left.
    """

    steps: int
    most: int = MOST_STATES
    states: dict[float, Float32[np.ndarray, "C I J K"]] = field(default_factory=dict)
    _seen: int = 0

    def __post_init__(self) -> None:
        inner = max(0, self.steps - 1)
        self._chosen = set(np.linspace(1, inner, min(inner, self.most)).round().astype(int).tolist())

    def __call__(self, fraction: float, state: Float[Tensor, "B C I J K"]) -> None:
        """Keep the first image of a batch, if it is one of the chosen steps."""
        if self._seen in self._chosen and 0.0 < fraction < 1.0:
            self.states[fraction] = state[0].detach().float().cpu().numpy().copy()
        self._seen += 1
