"""Warm starts: read a network's size off its weights, and grow it without changing what it computes."""

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from medinterp.denoisers.network import BiasFreeUNet, Level
from medinterp.errors import WeightsMismatch

State = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Channels and residual blocks at 1/2, 1/4 and 1/8 resolution."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]

    @classmethod
    def of(cls, state: State) -> "Size":
        """Read the size off a ``BiasFreeUNet``'s state dict.

        Raises:
            WeightsMismatch: they are another network's weights.
        """
        try:
            widths, blocks, level = [state["stem.weight"].shape[0]], [], "body."
            while True:
                names = {name.removeprefix(level + "down.").split(".")[0] for name in state if f"{level}down." in name}
                blocks.append(len({name for name in names if name.isdigit()}))
                if f"{level}shrink.weight" not in state:
                    break
                widths.append(state[f"{level}shrink.weight"].shape[0])
                level += "inner."
        except KeyError as error:
            raise WeightsMismatch(f"the weights to start from are no BiasFreeUNet's: {error} is missing") from error
        return cls(tuple(widths), tuple(blocks))

    def holds(self, other: "Size") -> bool:
        """Tell whether a network of the other size can grow into this one."""
        mine, theirs = (*self.widths, *self.blocks), (*other.widths, *other.blocks)
        return len(mine) == len(theirs) and all(a >= b for a, b in zip(mine, theirs, strict=True))


def fresh(size: Size, seed: int) -> BiasFreeUNet:
    """Return a network with its seeded initial weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):  # torch.nn's initialisers know no other generator
        torch.manual_seed(seed)
        return BiasFreeUNet(size.widths, size.blocks)


def read_weights(path: Path) -> State:
    """Read float32 weights from a bundle's ``model.pt`` or the averaged ones from a training checkpoint.

    Raises:
        WeightsMismatch: the file is missing, damaged, or holds no weights.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = stored.get("average", stored)
        return {name: value.float() for name, value in state.items()}
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, AttributeError) as error:
        raise WeightsMismatch(f"the weights to start from, {path.name}, cannot be read: {error}") from error


def grown(state: State, size: Size, seed: int) -> BiasFreeUNet:
    """Return a network of this size that computes what the given weights compute.

    Further residual blocks add zero: they stand after the old ones on the way down and before them on the way up, and
    their last convolution is zero. So depth changes no bit. Further channels read the old ones with fresh weights, and
    no old channel reads them: the same function up to the order of sums. Both learn from the first step on.

    Args:
        state: weights of a network that is not larger in any of its numbers.
        size: what to grow to.
        seed: of the fresh weights.

    Raises:
        WeightsMismatch: the given network is larger somewhere, or another kind.

    Source:
        Chen, Goodfellow & Shlens, "Net2Net", ICLR 2016 (function-preserving growth; here by zeros, not copies).
    """
    old = Size.of(state)
    if not size.holds(old):
        raise WeightsMismatch(f"a network of {old} cannot grow into {size}: no number may become smaller")
    source, target = fresh(old, seed), fresh(size, seed)
    try:
        source.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsMismatch(f"the weights to start from do not fit {old}: {str(error).splitlines()[-1]}") from error
    with torch.no_grad():  # weights are copied; nothing is differentiated
        _widen(source.stem.weight, target.stem.weight)
        _grow_level(source.body, target.body)
        _widen(source.head.weight, target.head.weight)
    return target


def _grow_level(source: Level, target: Level) -> None:
    _grow_blocks(source.down, target.down, first=0)
    if source.inner is None or target.inner is None:
        return
    _widen(source.shrink.weight, target.shrink.weight)
    _widen(source.grow.weight, target.grow.weight, inputs=0)
    _grow_blocks(source.up, target.up, first=len(target.up) - len(source.up))
    _grow_level(source.inner, target.inner)


def _grow_blocks(source: nn.Sequential, target: nn.Sequential, first: int) -> None:
    """Put the old blocks at place ``first`` among the new ones, and let the others add nothing."""
    for place, block in enumerate(target.children()):
        if first <= place < first + len(source):
            for name in ("first", "second"):
                _widen(getattr(source[place - first], name).weight, getattr(block, name).weight)
        else:
            getattr(block, "second").weight.zero_()  # noqa: B009  # Sequential's children have no declared type


def _widen(old: Tensor, new: Tensor, inputs: int = 1) -> None:
    """Copy a convolution's weights into a larger one's corner; its old outputs read zero from its further inputs.

    Args:
        old: weights to keep.
        new: weights of the larger layer, changed in place.
        inputs: which axis counts the inputs: 1, or 0 in a transposed convolution.
    """
    kept, read = old.shape[1 - inputs], old.shape[inputs]
    new.narrow(1 - inputs, 0, kept).narrow(inputs, read, new.shape[inputs] - read).zero_()
    new.narrow(1 - inputs, 0, kept).narrow(inputs, 0, read).copy_(old)
