"""What is written of a fused image: its volumes by name, its overlays, and where registered scans lie."""

import re
from collections.abc import Iterator
from pathlib import Path

from medinterp.export.names import bids_name, stem_and_suffix
from medinterp.export.overlay import make_overlay, no_clusters
from medinterp.io.transform_files import write_transform
from medinterp.results import FusionResult, Result
from medinterp.volume import Overlay, Volume


def write_transforms(result: Result, fusion: FusionResult, folder: Path) -> None:
    """Write where registered scans lie in the first one's space, ready for ``--transform``."""
    first = next(iter(result.inputs))
    for m, alignment in fusion.alignments.items():
        folder.mkdir(exist_ok=True)
        write_transform(alignment.registration.transform, folder / f"{m}_to-{_label(first)}.tfm")


def fusion_volumes(result: Result, fusion: FusionResult) -> Iterator[tuple[str, Volume, str, bool]]:
    """Yield file name without extension, volume, description and whether it is signed."""
    first = next(iter(result.inputs))
    stems = {m: stem_and_suffix(m, one.scan.modality) for m, one in result.inputs.items()}

    def named(m: str, desc: str) -> str:
        """Name a volume of one input that lies on the first one's grid."""
        stem, suffix = stems[m]
        return bids_name(stem, desc=desc, suffix=suffix, space=None if m == first else _label(first), extension="")

    yield named(first, "fused"), fusion.fused, "fused image", False
    for m, volume in fusion.on_own_grids.items():
        stem, suffix = stems[m]
        yield (
            bids_name(stem, desc="fused", suffix=suffix, extension=""),
            volume,
            f"fused image on the grid of {m}",
            False,
        )
        yield named(m, "denoised"), fusion.carried[m], f"denoised {m} on the grid of {first}", False
    for m in result.inputs:
        yield named(m, "contribution"), fusion.contributions[m], f"what {m} adds to the fused image", True
        yield named(m, "weight"), fusion.weights[m], f"share of {m} in the fusion's decision", False
    if fusion.ledger is not None:
        for m, credit in fusion.ledger.credits.items():
            yield named(m, "credit"), credit, f"exact Shapley share of {m} in the fused image", True
            change = fusion.ledger.sensitivity[m]
            yield named(m, "creditchange"), change, f"change of {m}'s share at one voxel of displacement", False
        for (a, b), pair in fusion.ledger.interactions.items():
            yield named(a, f"interaction{_label(b)}"), pair, f"what {a} and {b} reach only together", True


def fusion_overlays(fusion: FusionResult) -> list[Overlay]:
    """Return what each input decides in the fused image, as overlays on it."""
    return [
        make_overlay(fusion.fused, weight, name=f"weight-{m}", signed=False, clusters=no_clusters(weight),
                     description=f"share of {m} in the fusion's decision")
        for m, weight in fusion.weights.items()
    ]  # fmt: skip


def _label(name: str) -> str:
    """Return a name as a BIDS entity holds it: letters and digits."""
    return re.sub(r"[^A-Za-z0-9+]", "", name) or "first"
