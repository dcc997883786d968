"""One checkpoint a step: a gradient through a sampler then keeps one image a step, and the graph of one step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_KEPT: ContextVar[bool] = ContextVar("one_checkpoint_a_step", default=False)


@contextmanager
def one_checkpoint_a_step() -> Iterator[None]:
    """Let samplers make each step's graph again on the way back instead of keeping it: the same gradient.

    It takes one more evaluation for each there is. For plain gradients only: a method that changes what happens inside
    the network (hooks, rules at activations) is not there when the graph is made again.
    """
    token = _KEPT.set(True)
    try:
        yield
    finally:
        _KEPT.reset(token)


def take_step(step: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return ``step(x)``; it must draw no random numbers."""
    if not (_KEPT.get() and torch.is_grad_enabled()):
        return step(x)
    after: Tensor = checkpoint(step, x, use_reentrant=False, preserve_rng_state=False)
    return after
