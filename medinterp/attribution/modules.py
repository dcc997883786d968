"""Which module of a network is running: paths for the blocks inside a forward that hides its network."""

import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn
from torch.nn.modules import module as hooks

from medinterp.attribution.result import Forward

OnExit: TypeAlias = Callable[[str, nn.Module, Any], Any]
"""(path, module, output) -> what the module shall return instead, or None to leave it."""


class ModuleWatch:
    """While open, knows the path of the module that runs in this thread, and reports each one's output.

    A forward is any callable, so the network it calls is found by what runs: the outermost module is the root, its path
    is "", and the parts have the names of ``root.named_modules()``. A second network's paths start with "1:", a third
    one's with "2:".

    Args:
        on_exit: called after each module.
    """

    def __init__(self, on_exit: OnExit | None = None) -> None:
        self._on_exit = on_exit
        self._thread = threading.get_ident()
        self._stack: list[nn.Module] = []
        self._roots: list[nn.Module] = []
        self._paths: dict[int, str] = {}

    @property
    def running(self) -> tuple[str, nn.Module] | None:
        """Path and module of the innermost module that is running, None outside of any."""
        return (self._paths[id(self._stack[-1])], self._stack[-1]) if self._stack else None

    @property
    def depth(self) -> int:
        """How many modules are running, one inside the other."""
        return len(self._stack)

    def __enter__(self) -> "ModuleWatch":
        self._handles = [
            hooks.register_module_forward_pre_hook(self._enter_module),
            hooks.register_module_forward_hook(self._exit_module, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._stack.clear()

    def _enter_module(self, module: nn.Module, arguments: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if id(module) not in self._paths:
            self._name_parts(module)
        self._stack.append(module)

    def _exit_module(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        if threading.get_ident() != self._thread:
            return None
        self._stack.pop()
        return None if self._on_exit is None else self._on_exit(self._paths[id(module)], module, output)

    def _name_parts(self, root: nn.Module) -> None:
        """Name a newly met network and its parts; kept, so that an id is never used again for another module."""
        prefix = f"{len(self._roots)}:" if self._roots else ""
        self._roots.append(root)
        for path, part in root.named_modules():
            self._paths.setdefault(id(part), prefix + path)


@runtime_checkable
class Phased(Protocol):
    """Something that treats the target's own arithmetic in another way than the forward."""

    measuring: bool


class Until:
    """A forward that says when the image is made.

    Args:
        forward: makes the image.
        watcher: its ``measuring`` is False while that runs, and True after it.
    """

    def __init__(self, forward: Forward, watcher: Phased) -> None:
        self._forward, self._watcher = forward, watcher
        self.explained = str(getattr(forward, "explained", "output image"))

    def __call__(self, inputs: Mapping[str, Tensor], sigmas: Mapping[str, Tensor]) -> Tensor:
        """Return the image."""
        self._watcher.measuring = False
        image = self._forward(inputs, sigmas)
        self._watcher.measuring = True
        return image
