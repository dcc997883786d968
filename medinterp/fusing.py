"""The fused image of a run as volumes: the image on every grid, contributions, weights, registration and the ledger."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from medinterp.attribution.displacement import Sensitivity, Shift, displacement_sensitivity, shift_voxels
from medinterp.attribution.modality import Ledger, Subset, modality_ledger
from medinterp.fusion.fusers import Fused, Fuser, Scale
from medinterp.fusion.joining import Carried, Joining, Ready
from medinterp.fusion.registration import Registration
from medinterp.fusion.warp import Warp
from medinterp.results import Alignment, FusionResult, LedgerResult
from medinterp.volume import Grid, Provenance, Step, Volume

AIR_HU = 1000.0
"""Added to CT before it is fused: air is nothing, as it is in MR."""
_FEW = 4
"""Up to so many scans the images of all subsets are kept while the ledger is made: 16 volumes."""


@dataclass(frozen=True, eq=False)
class Fusing:
    """One run's way from denoised images to the fused one.

    Args:
        joining: where the images lie and how they are joined.
        scans: as read, by name.
        registrations: of those that were registered.
        seed: of the ledger's random numbers.
    """

    joining: Joining
    scans: Mapping[str, Volume]
    registrations: Mapping[str, Registration]
    seed: int

    def result(self, cleaned: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], *, ledger: bool) -> FusionResult:
        """Return the fused image and everything that is to be known of it."""
        carried = self.joining.carried(cleaned, sigmas)
        fused = carried.fuse()
        _, *others = self.scans
        names = {m: f"what {m} adds" for m in self.scans}
        own = {m: self._on_own_grid(m, cleaned, sigmas, fused) for m in others if self._moved(m)}
        return FusionResult(
            fused=self._volume(fused.image, self._step(fused)),
            contributions={m: self._volume(p, self._step(fused, names[m])) for m, p in fused.contributions.items()},
            weights={m: self._volume(w, Step("fusion weight", {"of": m})) for m, w in fused.weights.items()},
            scales=fused.scales,
            fuser=type(self.joining.fuser).__name__,
            options=_options(self.joining.fuser),
            on_own_grids=own,
            alignments={m: self._alignment(m, cleaned[m], carried, fused) for m in self.registrations},
            carried={m: self._carried(m, carried, fused) for m in self.scans},
            ledger=self._ledger(carried, fused) if ledger else None,
        )

    def _step(self, fused: Fused, name: str = "fuse") -> Step:
        """Return what was done: the fuser, the intensity mapping, and by which matrix each was carried, once."""
        parameters: dict[str, Any] = {
            "fuser": type(self.joining.fuser).__name__,
            **_options(self.joining.fuser),
            "scales": {m: {"offset": s.offset, "level": s.level} for m, s in fused.scales.items()},
            "carried": {m: self._carrying(m) for m in self.scans},
        }
        return Step(name, parameters)

    def _carrying(self, name: str) -> dict[str, Any]:
        found = self.registrations.get(name)
        how = "trilinear, once" if self._moved(name) else "none, same grid"
        if found is None:
            return {"interpolation": how, "transform": "same patient space"}
        return {"interpolation": how, "transform": found.transform.step.name, **found.transform.step.parameters}

    def _moved(self, name: str) -> bool:
        return self.joining.grids[name].mismatch(self.joining.reference) is not None

    def _volume(self, image: Tensor, step: Step) -> Volume:
        return next(iter(self.scans.values())).derive(image[0].cpu().numpy(), step, unit="1")

    def _carried(self, name: str, carried: Carried, fused: Fused) -> Volume:
        """Return one denoised image on the first one's grid; where it was not measured there is air."""
        reference, scan = next(iter(self.scans.values())), self.scans[name]
        image = _aired(carried.images[name], carried.coverage[name], fused.scales[name])
        if not self._moved(name):
            return scan.derive(image[0].cpu().numpy(), Step("denoised"))
        provenance = scan.provenance.then(Step("carry", self._carrying(name)))
        return Volume(image[0].cpu().numpy(), reference.grid, scan.unit, scan.modality, provenance)

    def _on_own_grid(
        self, name: str, cleaned: Mapping[str, Tensor], sigmas: Mapping[str, Tensor], fused: Fused
    ) -> Volume:
        """Return the image fused anew on another input's own grid: still one interpolation of each image."""
        there = self.joining.carried(cleaned, sigmas, onto=self.joining.grids[name]).fuse(scales=fused.scales)
        return self.scans[name].derive(there.image[0].cpu().numpy(), self._step(fused), unit="1")

    def _alignment(self, name: str, image: Tensor, carried: Carried, fused: Fused) -> Alignment:
        scan, reference = self.scans[name], next(iter(self.scans.values()))
        warp = Warp(scan.grid, reference.grid)
        before = _aired(warp(image), warp.coverage(image), fused.scales[name])
        provenance = Provenance(scan.provenance.source, (Step("as the files place it"),))
        placed = Volume(before[0].cpu().numpy(), reference.grid, scan.unit, scan.modality, provenance)
        return Alignment(self.registrations[name], placed, self._carried(name, carried, fused))

    def _ledger(self, carried: Carried, fused: Fused) -> LedgerResult:
        """Return the ledger of the fused image, and what one voxel of displacement would do to it."""
        nothing, names = torch.zeros_like(fused.image), list(self.scans)
        known: dict[Subset, Tensor] = {}

        def play(ready: Ready, moved: str | None = None) -> Ledger:
            """Join every subset; one without the moved scan is joined but once, for few scans."""

            def game(subset: Subset, _draw: torch.Generator) -> Tensor:
                if moved not in subset and subset in known:
                    return known[subset]
                image = ready.image(subset) if subset else nothing
                if moved is None and len(names) <= _FEW:
                    known[subset] = image
                return image

            return modality_ledger(game, names, generator=torch.Generator().manual_seed(self.seed))

        ready = carried.prepare(fused.scales)

        def shifted(name: str, shift: Shift) -> Ledger:
            images = {name: shift_voxels(carried.images[name], shift)}
            part = replace(carried, images=images).prepare(fused.scales).parts
            return play(replace(ready, parts={**ready.parts, **part}), name)

        moved = [m for m in self.scans if self._moved(m)] or names[1:]
        found = play(ready)
        return self._ledger_result(found, displacement_sensitivity(found, shifted, moved))

    def _ledger_result(self, found: Ledger, sensitivity: Sensitivity) -> LedgerResult:
        about = {"game": "the fuser over the modalities present", "evaluations": found.evaluations}
        whole = sum(float(c.abs().sum()) for c in found.credits.values())
        return LedgerResult(
            credits={m: self._volume(c, Step("modality credit", {"of": m, **about})) for m, c in found.credits.items()},
            interactions={
                pair: self._volume(c, Step("modality interaction", {"of": list(pair), **about}))
                for pair, c in found.interactions.items()
            },
            sensitivity={
                m: self._volume(c, Step("credit change at one voxel of displacement", {"of": m}))
                for m, c in sensitivity.maps.items()
            },
            shares={m: float(c.abs().sum()) / max(whole, 1e-300) for m, c in found.credits.items()},
            gap=found.gap,
            evaluations=found.evaluations,
            displaced_share=sensitivity.share,
            worst_displacement=sensitivity.worst,
            warning=sensitivity.warning,
        )


def plan_fusing(
    fuser: Fuser, scans: Mapping[str, Volume], registrations: Mapping[str, Registration], seed: int
) -> Fusing:
    """Return the way to the fused image: every scan's grid placed in the first one's space, CT counted from air."""
    reference = next(iter(scans.values())).grid
    grids: dict[str, Grid] = {}
    for name, scan in scans.items():
        found = registrations.get(name)
        grids[name] = scan.grid if found is None else found.transform.place(scan.grid, reference.frame_uid)
    offsets = {m: AIR_HU for m, scan in scans.items() if scan.unit == "HU"}
    offsets |= getattr(fuser, "offsets", {})
    if is_dataclass(fuser) and offsets and "offsets" in {f.name for f in fields(fuser)}:
        fuser = replace(fuser, offsets=offsets)
    return Fusing(Joining(fuser, grids), scans, registrations, seed)


def _aired(image: Tensor, coverage: Tensor, scale: Scale) -> Tensor:
    """Return an image whose unmeasured voxels hold what counts as nothing: 0 HU would be water."""
    return image - scale.offset * (1 - coverage)


def _options(fuser: Fuser) -> dict[str, Any]:
    """Return a fuser's own settings, but for the offsets, which stand with the scales."""
    if not is_dataclass(fuser):
        return {}
    return {f.name: getattr(fuser, f.name) for f in fields(fuser) if f.name != "offsets"}
