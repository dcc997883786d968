"""Diffusion denoising of medical volumes, explained. For research, not diagnosis."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "run": "medinterp.app",
    "features": "medinterp.feature_study",
    "plan": "medinterp.planning",
    "RunOptions": "medinterp.options",
    "FeatureOptions": "medinterp.feature_options",
    "read": "medinterp.io",
    "inspect": "medinterp.io",
    "Volume": "medinterp.volume",
    "Step": "medinterp.volume",
    "Grid": "medinterp.volume",
    "load_pipeline": "medinterp.bundle",
    "find_bundle": "medinterp.catalogue",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that ``import medinterp`` stays light (no torch)."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medinterp' has no attribute '{name}'")
