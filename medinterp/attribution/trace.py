"""What a forward does: every operation the scan goes through, the module it ran in, and where features lie."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from medinterp.attribution.lattice import Lattice, follow
from medinterp.attribution.modules import ModuleWatch
from medinterp.attribution.operations import Kind, kind_of
from medinterp.attribution.result import Forward
from medinterp.attribution.targets import Target
from medinterp.denoisers.convolution import in_one_piece


@dataclass(frozen=True)
class Operation:
    """One operation on something that depends on the scan.

    Args:
        name: as PyTorch's dispatcher calls it ("convolution", "silu").
        kind: how it treats the scan.
        path: module it ran in, "" for the network itself or outside of any.
        in_module: whether that module is nothing but this operation (``nn.ReLU``), so that a module hook sees it.
        in_place: whether it overwrites its argument.
    """

    name: str
    kind: Kind
    path: str
    in_module: bool
    in_place: bool


@dataclass(frozen=True)
class Block:
    """One call of a module whose output is a feature map.

    Args:
        path: name of the module.
        module: class of the module.
        shape: of the feature map, (B, C, I, J, K).
        lattice: where its voxels lie in the input's voxels, None where that could not be followed.
    """

    path: str
    module: str
    shape: tuple[int, ...]
    lattice: Lattice | None


@dataclass(frozen=True)
class Trace:
    """What one evaluation of a forward did.

    Args:
        operations: those that the scan or its noise level went through, in order.
        blocks: calls of modules that returned a feature map of the scan, in order.
        calls: how often each module ran.
        input_shape: voxels of the first input.
        output: the image.
        measured: the target's number, None without a target.
        output_lattice: where the image's voxels lie in the first input's, None where that could not be followed.
        depends: whether the image depends on the inputs at all.
    """

    operations: tuple[Operation, ...]
    blocks: tuple[Block, ...]
    calls: Mapping[str, int]
    input_shape: tuple[int, ...]
    output: Tensor
    measured: float | None
    output_lattice: Lattice | None
    depends: bool

    def of_kind(self, *kinds: Kind) -> tuple[Operation, ...]:
        """Return the operations of some kinds."""
        return tuple(operation for operation in self.operations if operation.kind in kinds)

    def names(self, *kinds: Kind) -> str:
        """Return the operations of some kinds in words, such as "6 silu, 2 gelu"."""
        counts = Counter(operation.name for operation in self.of_kind(*kinds))
        return ", ".join(f"{count} {name}" for name, count in counts.items())


_SHAPE_ONLY = frozenset(
    {f"{what}_like" for what in ("zeros", "ones", "empty", "full", "rand", "randn", "randint")}
    | {f"new_{what}" for what in ("zeros", "ones", "empty", "full", "empty_strided")}
)
"""Operations that take nothing but the shape of their argument."""


@dataclass(frozen=True)
class _Mark:
    """What is known of a tensor that depends on the scan: where it lies, and the step that made it."""

    lattice: Lattice | None
    step: int | None = None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records each operation below autograd and Python, where none is missed, whatever API it was called through."""

    def __init__(self, marked: Sequence[tuple[Tensor, Lattice | None]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks: list[Block] = []
        self.calls: Counter[str] = Counter()
        self.measuring = False
        self.watch = ModuleWatch(self._leave)
        self._marks = WeakTensorKeyDictionary()
        self._written: dict[int, tuple[Any, _Mark]] = {}
        self._steps: list[tuple[Operation | None, frozenset[int]]] = []
        for tensor, lattice in marked:
            self._marks[tensor] = _Mark(lattice)

    def __enter__(self) -> "_Recorder":
        self.watch.__enter__()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        self.watch.__exit__(kind, error, traceback)

    def mark(self, tensor: Tensor) -> _Mark | None:
        """Return what is known of a tensor, None if it does not depend on the scan."""
        found: _Mark | None = self._marks.get(tensor, None)  # type: ignore[no-untyped-call]
        if found is None and self._written:
            found = self._written.get(tensor.untyped_storage().data_ptr(), (None, None))[1]
        return found

    def behind(self, *results: Tensor) -> tuple[Operation, ...]:
        """Return the operations that some results were made by, in order; not those of checks on the way."""
        waiting = [mark.step for mark in map(self.mark, results) if mark is not None and mark.step is not None]
        seen: set[int] = set()
        while waiting:
            step = waiting.pop()
            if step not in seen:
                seen.add(step)
                waiting.extend(self._steps[step][1])
        return tuple(operation for step in sorted(seen) if (operation := self._steps[step][0]) is not None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        dependents = {tensor: mark for tensor in tensors if (mark := self.mark(tensor)) is not None}
        result, name = func(*args, **kwargs), func.overloadpacket.__name__
        if dependents and name not in _SHAPE_ONLY:
            self._follow(name, args, dependents, result)
        return result

    def _follow(self, full: str, args: tuple[Any, ...], dependents: dict[Tensor, _Mark], result: Any) -> None:
        """Mark what depends on the scan, and note the operation unless it is the target's own arithmetic."""
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not outputs:
            return  # a comparison, a shape: nothing that carries a gradient
        name = full.rstrip("_")
        parents = frozenset(mark.step for mark in dependents.values() if mark.step is not None)
        self._steps.append((self._operation(name, full, args, list(dependents)), parents))
        for output in outputs:
            lattice = self._lattice(name, args, dependents, tuple(output.shape))
            self._marks[output] = mark = _Mark(lattice, len(self._steps) - 1)
            if output._is_view() and full.endswith("_"):  # a part of a larger tensor was overwritten
                storage = output.untyped_storage()  # kept, so that its address is not used again
                self._written[storage.data_ptr()] = storage, _Mark(None, mark.step)

    def _operation(self, name: str, full: str, args: tuple[Any, ...], dependents: list[Tensor]) -> Operation | None:
        running = self.watch.running
        if running is None and self.measuring:
            return None
        path, module = running or ("", None)
        alone = module is not None and next(module.children(), None) is None and _is_activation(module)
        kind = kind_of(name, args, dependents)
        word = "instance_norm" if kind is Kind.NORM and "batch_norm" in name else name  # the user's word for it
        return Operation(word, kind, path, alone, full.endswith("_"))

    def _lattice(
        self, name: str, args: tuple[Any, ...], dependents: Mapping[Tensor, _Mark], shape: tuple[int, ...]
    ) -> Lattice | None:
        """Follow the main argument; where several feature maps of one size meet, merge what is known of them."""
        known = [(tensor, mark.lattice) for tensor, mark in dependents.items() if mark.lattice is not None]
        first = args[0] if args else None
        if isinstance(first, Tensor) and len(known) == 1 and known[0][0] is first:
            return follow(name, args, known[0][1], shape)
        same = [lattice for tensor, lattice in known if tensor.shape[2:] == shape[2:] and len(shape) == 5]
        merged = same[0] if same else None
        for lattice in same[1:]:
            merged = merged.merged(lattice) if merged is not None else None
        return merged

    def _leave(self, path: str, module: nn.Module, output: Any) -> None:
        self.calls[path] += 1
        if isinstance(output, Tensor) and output.ndim == 5 and (mark := self.mark(output)) is not None:
            self.blocks.append(Block(path, type(module).__name__, tuple(output.shape), mark.lattice))


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ in ("torch.nn.modules.activation", "torch.nn.modules.pooling")


def trace(
    forward: Forward, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], target: Target | None = None
) -> Trace:
    """Evaluate a forward once, without a graph, and return what it did.

    PyTorch's dispatcher is listened to, and not the modules or a symbolic trace (``torch.fx``): it sees functional
    calls, reused modules, samplers' loops and branches alike, as they ran on this scan. Nothing is kept of the
    features but their places, so that the memory is that of one evaluation.

    Args:
        forward: the function that makes the image.
        inputs: scans by name, on one grid.
        sigmas: their noise levels.
        target: what is measured; a network inside it is followed like the forward's own, its arithmetic is not noted.
    """
    first = next(iter(inputs.values()))
    fresh = {name: image.detach().clone() for name, image in inputs.items()}
    levels = {name: sigma.detach().clone() for name, sigma in sigmas.items()}
    marked: list[tuple[Tensor, Lattice | None]] = [(image, Lattice()) for image in fresh.values()]
    marked += [(level, None if max(level.shape[2:]) == 1 else Lattice()) for level in levels.values()]
    # only what runs matters here, not its gradient
    with torch.no_grad(), in_one_piece(), _Recorder(marked) as recorder:
        output = forward(fresh, levels)
        recorder.measuring = True
        measured = None if target is None else target(output)
    mark = recorder.mark(output)
    return Trace(
        operations=recorder.behind(output if measured is None else measured),
        blocks=tuple(recorder.blocks),
        calls=dict(recorder.calls),
        input_shape=tuple(first.shape[2:]),
        output=output,
        measured=None if measured is None else float(measured[0]),
        output_lattice=mark.lattice if mark is not None else None,
        depends=mark is not None,
    )
