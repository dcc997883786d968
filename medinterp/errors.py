"""Every error medinterp raises on purpose, in one tree.

MedinterpError
├── InputError (ValueError)      what was given cannot be used
│   ├── GridMismatch             two volumes do not share one grid
│   ├── UnsupportedSeries        files that cannot be read as one volume without guessing
│   ├── UnitMismatch             numbers of different units would meet
│   ├── NonFiniteInput           NaN or infinity in a scan
│   ├── TooFewVoxels             not enough voxels for a trustworthy estimate
│   └── EmptyRegion              a target region that holds no voxel of the scan
├── ConfigError                  a bundle, a plugin or an option is wrong
│   ├── BundleError
│   └── PluginError
├── ModelError                   the model or a method cannot do what was asked
│   ├── WeightsMismatch
│   ├── NonFinite                the network returned NaN or infinity
│   └── MethodNotValid           the method is degenerate on this network
├── DeviceError                  a device that was asked for is absent, or memory does not suffice
├── OutputError                  the result could not be written; nothing half-written was left
└── TransferError                objects did not all get to or from an image archive
    ├── Unreachable              no answer, a dropped connection or a busy server: may work later
    ├── AccessDenied             the server wants other credentials
    └── ObjectRefused            the server will not take or give this one object
"""


class MedinterpError(Exception):
    """Base of every error raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(MedinterpError, ValueError):
    """What was given cannot be used."""

    exit_code = 3


class GridMismatch(InputError):
    """Two volumes do not share one grid."""


class UnsupportedSeries(InputError):
    """Files that cannot be read as one volume without guessing."""


class UnitMismatch(InputError):
    """Numbers of different units would meet."""


class NonFiniteInput(InputError):
    """NaN or infinity in a scan."""


class TooFewVoxels(InputError):
    """Not enough voxels for a trustworthy estimate."""


class EmptyRegion(InputError):
    """A target region that holds no voxel of the scan."""


class ConfigError(MedinterpError):
    """A bundle, a plugin or an option is wrong."""

    exit_code = 4


class BundleError(ConfigError):
    """A bundle is incomplete, or its configuration asks for something that is not allowed."""


class PluginError(ConfigError):
    """A plugin is missing, cannot be loaded, or claims a name that is taken."""


class ModelError(MedinterpError):
    """The model or a method cannot do what was asked."""

    exit_code = 5


class WeightsMismatch(ModelError):
    """Weights that do not belong to this network, or a file whose hash differs from the model card's."""


class NonFinite(ModelError):
    """The network returned NaN or infinity."""


class MethodNotValid(ModelError):
    """The method is degenerate on this network."""


class DeviceError(MedinterpError):
    """A device that was asked for is absent, or memory does not suffice."""

    exit_code = 6


class OutputError(MedinterpError):
    """The result could not be written; nothing half-written was left."""

    exit_code = 7


class TransferError(MedinterpError):
    """Objects did not all get to or from an image archive; the same command goes on where it stopped."""

    exit_code = 8


class Unreachable(TransferError):
    """No answer, a dropped connection or a busy server: the same request may work later.

    Args:
        message: what happened.
        wait_s: how long the server asks to be left alone, if it said so.
    """

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class AccessDenied(TransferError):
    """The server wants other credentials, or none would do."""


class ObjectRefused(TransferError):
    """The server will not take or give this one object; others may go through."""
