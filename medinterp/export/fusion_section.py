"""What the report says of a fused image: who decided where, how scans were registered, and the modality ledger."""

from collections.abc import Mapping
from dataclasses import dataclass

from medinterp.export import words
from medinterp.fusion.registration import consistency_words
from medinterp.results import Alignment, FusionResult, LedgerResult, Result
from medinterp.volume import Volume

Rows = tuple[tuple[str, str], ...]

WORST_CONSISTENCY_MM = 1.0
"""Median inverse consistency above which the report warns: about a voxel of a usual scan."""

_FUSERS: Mapping[str, str] = {
    "VarianceWeighted": "Each image was brought to one scale, bright tissue at 1. The fused image is their average, "
    "weighted everywhere by the squared ratio of signal to noise: the cleaner a scan is, the more it decides, and "
    "where only one scan was measured it alone is shown.",
    "GradientDomain": "Each image was brought to one scale, bright tissue at 1. At every voxel the modality with the "
    "most contrast over noise leads, and the fused image is the one whose edges are those of the leading modalities "
    "(screened Poisson equation). Far from edges it follows their average.",
}


@dataclass(frozen=True, eq=False)
class AlignmentSection:
    """One registered scan: figures, and its denoised image on the reference's grid before and after."""

    name: str
    rows: Rows
    before: Volume
    after: Volume


@dataclass(frozen=True, eq=False)
class FusionSection:
    """The fused image in the report.

    Args:
        says: how it was made, in words.
        rows: weights and intensity mapping, label and text.
        fused: the image.
        carried: the denoised images on its grid.
        weights: what each decides.
        alignments: of the registered scans.
        reference: the first denoised image.
        ledger: who supplied what, when it was asked for.
        ledger_rows: its figures.
        notes: what the reader has to know.
    """

    says: str
    rows: Rows
    fused: Volume
    carried: Mapping[str, Volume]
    weights: Mapping[str, Volume]
    alignments: tuple[AlignmentSection, ...]
    reference: Volume
    ledger: LedgerResult | None
    ledger_rows: Rows
    notes: tuple[str, ...]


def fusion_section(result: Result) -> FusionSection | None:
    """Return what the report shows of the fused image; None where there is none."""
    fusion = result.fusion
    if fusion is None:
        return None
    return FusionSection(
        says=_FUSERS.get(fusion.fuser, f"The images were joined by the fuser {fusion.fuser}."),
        rows=_rows(fusion),
        fused=fusion.fused,
        carried=fusion.carried,
        weights=fusion.weights,
        alignments=tuple(_alignment(m, a) for m, a in fusion.alignments.items()),
        reference=next(iter(fusion.carried.values())),
        ledger=fusion.ledger,
        ledger_rows=() if fusion.ledger is None else _ledger_rows(fusion.ledger),
        notes=tuple(_notes(fusion)),
    )


def weight_words(fusion: FusionResult) -> str:
    """Return who decided how much, as one sentence."""
    shares = sorted(fusion.mean_weights.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{m} {share:.0%}" for m, share in shares) + " of the decision, mean over the tissue"


def fusion_lines(fusion: FusionResult) -> list[str]:
    """Return what the command line says of the fused image."""
    lines = [f"fused: {weight_words(fusion)}"]
    for m, alignment in fusion.alignments.items():
        found = alignment.registration
        check = "" if found.consistency is None else f", inverse consistency {consistency_words(found.consistency)}"
        lines.append(
            f"{m}: {found.kind} transform, {found.transform.angle_deg:.1f} degrees and {found.shift_mm:.1f} mm, mutual "
            f"information {found.information_before:.2f} to {found.information_after:.2f} bits{check}"
        )
    if fusion.ledger is not None:
        lines.append("ledger: " + ", ".join(f"{m} {share:.0%}" for m, share in fusion.ledger.shares.items()))
    return lines + [f"  note: {note}" for note in _notes(fusion)]


def _rows(fusion: FusionResult) -> Rows:
    rows = [("Weights", weight_words(fusion))]
    for m, scale in fusion.scales.items():
        unit = fusion.carried[m].unit
        offset = f"plus {words.quantity(scale.offset, unit)}, " if scale.offset else ""
        rows.append((f"Intensity mapping of {m}", f"{offset}divided by {words.quantity(scale.level, unit)}"))
    rows += [(f"Setting: {words.label(key)}", words.plain_text(value)) for key, value in fusion.options.items()]
    return tuple(rows)


def _alignment(name: str, alignment: Alignment) -> AlignmentSection:
    found = alignment.registration
    kind = "the transform given" if found.kind == "given" else f"{found.kind} registration, mutual information"
    rows = [
        ("Found by", kind),
        ("Turned by", f"{found.transform.angle_deg:.2f}\N{DEGREE SIGN}"),
        ("Middle of the tissue moved by", f"{found.shift_mm:.2f} mm"),
        ("Mutual information", f"{found.information_before:.3f} bits before, {found.information_after:.3f} after"),
    ]
    if found.consistency is not None:
        rows.append(("Inverse consistency", consistency_words(found.consistency)))
    return AlignmentSection(name, tuple(rows), alignment.before, alignment.after)


def _ledger_rows(ledger: LedgerResult) -> Rows:
    rows = [(f"Credit of {m}", f"{share:.1%} of all credit, by magnitude") for m, share in ledger.shares.items()]
    for (a, b), pair in ledger.interactions.items():
        rows.append((f"Interaction of {a} and {b}", f"mean {words.number(float(pair.voxels.mean()))}"))
    return (
        *rows,
        ("Efficiency gap", f"{ledger.gap:.1e} of the image, in {ledger.evaluations} evaluations"),
        ("One voxel of displacement", f"{ledger.displaced_share:.1%} of the credit changes hands at worst "
         f"({ledger.worst_displacement})"),
    )  # fmt: skip


def _notes(fusion: FusionResult) -> list[str]:
    notes = []
    for name, alignment in fusion.alignments.items():
        found = alignment.registration
        if found.information_after < found.information_before:
            notes.append(
                f"{name}: mutual information fell, from {found.information_before:.3f} to "
                f"{found.information_after:.3f} bits: the files' own placement fits better; look at the checkerboards."
            )
        if found.consistency is not None and found.consistency.median_mm > WORST_CONSISTENCY_MM:
            notes.append(
                f"{name}: there and back, the registration misses by {consistency_words(found.consistency)}; expected "
                f"at most {WORST_CONSISTENCY_MM:g} mm. Do not rely on it; give --register-mask or --transform."
            )
    if fusion.ledger is not None and fusion.ledger.warning is not None:
        notes.append(fusion.ledger.warning)
    return notes
