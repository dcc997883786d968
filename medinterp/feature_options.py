"""What a user can choose about a look inside the network; ``medinterp features`` and its Python twin take these."""

import math
from dataclasses import dataclass

from medinterp.errors import ConfigError
from medinterp.export.names import input_name

KINDS = ("activations", "pca", "nmf", "concepts", "stimulus")
_LARGEST_STIMULUS = 128
_ABOUT: dict[str, tuple[str, ...]] = {
    "channels": ("activations", "stimulus"),
    "concepts": ("concepts",),
    "within": ("concepts",),
}
"""Options that have a meaning for some kinds only."""


@dataclass(frozen=True)
class FeatureOptions:
    """What is looked at inside the network.

    Args:
        kind: "activations", "pca", "nmf", "concepts" or "stimulus".
        block: name of the module (``--list-blocks`` prints them); by default the last one of the coarsest level, for
            "nmf" the last of it that ends in a ReLU.
        call: which of its calls, -1 for the last, for a block that runs several times.
        channels: of the block; needed for "stimulus"; for "activations" by default those that stand out.
        count: of activations or components, where channels are not named.
        concepts: "NAME=FILE", masks on the scan's grid.
        within: mask of what concepts are compared with; by default all of the scan.
        margin_mm: with a target, activations and components are made this far around it; without one, everywhere.
        permutations: random places of each concept.
        size: edge of a stimulus in voxels.
        ascent_steps: steps of its gradient ascent.

    Raises:
        ConfigError: a value is out of range, or an option has no meaning for this kind.
    """

    kind: str = KINDS[0]
    block: str | None = None
    call: int = -1
    channels: tuple[int, ...] = ()
    count: int = 4
    concepts: tuple[str, ...] = ()
    within: str | None = None
    margin_mm: float = 20.0
    permutations: int = 199
    size: int = 32
    ascent_steps: int = 32

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"no kind '{self.kind}': choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        for option, kinds in _ABOUT.items():
            if getattr(self, option) and self.kind not in kinds:
                raise ConfigError(
                    f"--{option.rstrip('s')} is about {' and '.join(kinds)}, not {self.kind}; leave it out"
                )
        if self.kind == "concepts" and not self.concepts:
            raise ConfigError("concepts need at least one --concept NAME=FILE with a mask on the scan's grid")
        if self.kind == "stimulus" and not self.channels:
            raise ConfigError("a stimulus needs --channel N, the feature that it shall excite")
        self._require_numbers()
        self.named_concepts()

    def _require_numbers(self) -> None:
        for what, number in (("count", self.count), ("permutations", self.permutations), ("steps", self.ascent_steps)):
            if number < 1:
                raise ConfigError(f"{what} {number}: expected 1 or more")
        if any(channel < 0 for channel in self.channels):
            raise ConfigError(f"channels {', '.join(map(str, self.channels))}: expected numbers from 0")
        if not (math.isfinite(self.margin_mm) and self.margin_mm >= 0):
            raise ConfigError(f"margin {self.margin_mm} mm: expected 0 or more")
        if not 16 <= self.size <= _LARGEST_STIMULUS or self.size % 8:
            raise ConfigError(f"a stimulus of {self.size} voxels: expected a multiple of 8, 16 to {_LARGEST_STIMULUS}")

    def named_concepts(self) -> dict[str, str]:
        """Return the mask files by the names of their concepts, made safe for file names.

        Raises:
            ConfigError: a text is not NAME=FILE, or two names are the same.
        """
        named: dict[str, str] = {}
        for text in self.concepts:
            name, equals, path = text.partition("=")
            safe = "".join(c for c in input_name(name) if c.isalnum())
            if not (name and equals and path) or safe in named:
                raise ConfigError("--concept: expected NAME=FILE with a mask, each name once")
            named[safe] = path
        return named
