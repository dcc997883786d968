"""The checks of a full certificate as rows of the report: what was found, what was expected, what it means."""

from collections.abc import Iterator

from medinterp.assessment.full import FullChecks
from medinterp.assessment.intervals import Interval
from medinterp.export.report import Check
from medinterp.export.words import quantity

_NAMES = {
    "stability": "Repeated scans",
    "faithfulness": "Deletion and insertion",
    "infidelity": "Predicted changes",
    "max_sensitivity": "Steadiness",
    "cascade": "Random layers",
}


def full_checks(label: str, checks: FullChecks, unit: str, map_unit: str, scan_unit: str) -> Iterator[Check]:
    """Yield the rows of a full certificate.

    Args:
        label: what stands before each name.
        checks: what was found.
        unit: of the measurement.
        map_unit: of the map.
        scan_unit: of the scan.
    """
    for rows in (
        _stability(checks), _faithfulness(checks, unit), _infidelity(checks, unit),
        _max_sensitivity(checks, map_unit, scan_unit), _cascade(checks), _not_made(checks),
    ):  # fmt: skip
        for row in rows:
            yield Check(f"{label}{row.name}", row.value, row.expected, row.passed, row.meaning)


def _stability(checks: FullChecks) -> Iterator[Check]:
    found, tested = checks.stability, checks.significance
    if found is None or tested is None:
        return
    spread = "" if found.relative_sd is None else f", the spread is {_percent(found.relative_sd)} of the mean map"
    yield Check(
        _NAMES["stability"], f"{_percent(found.top_dice)} in common", f"{_percent(found.top_dice_by_chance)} by chance",
        None,
        f"Would the map come back if the patient were scanned again? {found.draws} scans with new noise of this scan's "
        f"level were explained: so much of their strongest {found.top_voxels} voxels is the same. Signs agree in "
        f"{_percent(found.sign_agreement)} (50 % by chance){spread}.",
    )  # fmt: skip
    size = (
        ""
        if tested.median_effect is None
        else f" Their median effect (mean over spread) is {tested.median_effect:.1f}."
    )
    yield Check(
        "Voxels beyond noise", f"{tested.familywise_voxels} of {tested.voxels}",
        f"0 in {_percent(1 - tested.alpha)} of maps without effect", None,
        "How many voxels differ from zero over these repeats, when errors are counted over the whole map; "
        f"{tested.false_discovery_voxels} where {_percent(tested.alpha)} of those found may be false. It says 'not "
        f"zero for this scan', never 'important', and grows with the number of repeats.{size}",
    )  # fmt: skip


def _faithfulness(checks: FullChecks, unit: str) -> Iterator[Check]:
    found = checks.faithfulness
    if found is None:
        return
    for name, done, margin, edges, chance in (
        ("Deletion", f"replaced by their {found.fill.replace('_', ' ')} version", found.deletion_over_random,
         found.deletion_over_edges, found.deletion_p),
        ("Insertion", "put back into a scan of such blocks", found.insertion_over_random, found.insertion_over_edges,
         found.insertion_p),
    ):  # fmt: skip
        yield Check(
            name, f"ahead by {_with_interval(margin, unit)}, p = {chance:.3f}", "p at most 0.05", chance <= 0.05,
            f"Blocks of {found.block_voxels} voxels an edge are {done}, the map's strongest first: by so much sooner "
            f"than in {found.orders} random orders the number moves, on average over the way (95 % interval), and so "
            f"often a random order does as well. Ahead of the scan's own edges by {_with_interval(edges, unit)}.",
        )  # fmt: skip


def _infidelity(checks: FullChecks, unit: str) -> Iterator[Check]:
    found = checks.infidelity
    if found is None:
        return
    share = "" if found.relative is None else f" ({_percent(found.relative)} of the change, by mean square)"
    scale = "" if found.best_scale is None else f" Times {found.best_scale:.2g} the map would predict best."
    yield Check(
        _NAMES["infidelity"], f"off by {quantity(found.rms, unit)}{share}", "reported; 100 % predicts nothing", None,
        f"{found.changes} blocks were replaced one at a time: so far the change that the map predicts is from the "
        f"change that happens (root mean square). Large changes leave the straight line of a gradient.{scale}",
    )  # fmt: skip


def _max_sensitivity(checks: FullChecks, map_unit: str, scan_unit: str) -> Iterator[Check]:
    found = checks.max_sensitivity
    if found is None:
        return
    of_map = "" if found.relative is None else f"{_percent(found.relative)} of the map, "
    yield Check(
        _NAMES["max_sensitivity"], f"{of_map}{quantity(found.value, map_unit)}", "reported", None,
        f"The largest change of the map found when every voxel of the scan changes by at most "
        f"{quantity(found.radius, scan_unit)}, in {found.changes} tries (max-sensitivity, Euclidean norm). A map that "
        "jumps at changes nobody can see should not be read in detail.",
    )  # fmt: skip


def _cascade(checks: FullChecks) -> Iterator[Check]:
    if checks.cascade is None:
        return
    last = checks.cascade[-1].comparison
    steps = ", ".join(f"{s.comparison.correlation:.2f} with {s.layers} of {s.of}" for s in checks.cascade)
    yield Check(
        _NAMES["cascade"], f"r = {last.correlation:.2f} with all", f"|r| at most {last.threshold:.2f}",
        checks.depends_on_model,
        "The network's layers are made random from its output down. A map that explains the model loses its "
        f"resemblance (correlation) to itself; one that keeps it shows the scan alone: {steps} layers.",
    )  # fmt: skip


def _not_made(checks: FullChecks) -> Iterator[Check]:
    for name, why in checks.not_made.items():
        yield Check(_NAMES[name], "not made", "has no meaning here", None, f"{why[:1].upper()}{why[1:]}.")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.2g} %"


def _with_interval(found: Interval, unit: str) -> str:
    return f"{quantity(found.value, unit, 3)} ({quantity(found.low, unit, 3)} to {quantity(found.high, unit, 3)})"
