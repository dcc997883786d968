"""The picture of a full certificate: deletion and insertion curves, and the map under random layers."""

from io import BytesIO
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medinterp.assessment.faithfulness import Faithfulness
from medinterp.assessment.full import FullChecks
from medinterp.assessment.randomisation import CascadeStage
from medinterp.export.canvas import DISCLAIMER, Picture

_DPI = 100
_WIDTH_PX, _HEIGHT_PX = 1440, 460
_GROUND, _TEXT, _FAINT = "#0c0e12", "#d7dce2", "#5b6570"
_ORDERS = (("map", "the map's order", "#f2a65a", "-"), ("random", "random order", "#98a2ae", "--"),
           ("edges", "order of the scan's edges", "#7ee0c0", ":"))  # fmt: skip


def draw_certificate(checks: FullChecks, unit: str) -> Picture | None:
    """Return the curves of a full certificate as one picture; None where there is neither a curve nor a cascade."""
    panels = 2 * (checks.faithfulness is not None) + (checks.cascade is not None)
    if not panels:
        return None
    figure = Figure(figsize=(_WIDTH_PX / _DPI, _HEIGHT_PX / _DPI), dpi=_DPI, facecolor=_GROUND, layout="constrained")
    axes = [figure.add_subplot(1, panels, n + 1) for n in range(panels)]
    for ax in axes:
        _dress(ax)
    if checks.faithfulness is not None:
        _draw_curves(axes[0], axes[1], checks.faithfulness, unit)
    if checks.cascade is not None:
        _draw_cascade(axes[-1], checks.cascade)
    figure.supxlabel(DISCLAIMER, color=_TEXT, fontsize=9)
    stream = BytesIO()
    canvas: Any = FigureCanvasAgg(figure)
    canvas.print_png(stream)
    return Picture(stream.getvalue(), _WIDTH_PX, _HEIGHT_PX, _alt(checks, unit))


def curves_caption(checks: FullChecks) -> str:
    """Return what stands beneath the picture."""
    said = [f"The full certificate's checks, made with {checks.context_voxels} voxels of context around the region."]
    if checks.faithfulness is not None:
        said.append(
            "Deletion and insertion: a map that knows what the number depends on moves it early, sooner than random "
            "orders and the order of the scan's edges."
        )
    if checks.cascade is not None:
        said.append("Random layers: a map that shows the model falls between the lines of chance.")
    return " ".join(said)


def _draw_curves(deletion: Axes, insertion: Axes, found: Faithfulness, unit: str) -> None:
    percent = [100 * share for share in found.shares]
    for name, words, colour, style in _ORDERS:
        curves = getattr(found, name)
        deletion.plot(percent, curves.deleted, style, color=colour, label=words, linewidth=2)
        insertion.plot(percent, curves.inserted, style, color=colour, linewidth=2)
    value = "the number" if unit in ("1", "") else f"the number, {unit}"
    _label(deletion, "Deletion: the strongest blocks replaced first", "blocks replaced, %", value)
    _label(insertion, "Insertion: the strongest blocks put back first", "blocks put back, %", value)
    deletion.legend(facecolor=_GROUND, edgecolor=_FAINT, labelcolor=_TEXT, fontsize=9)


def _draw_cascade(ax: Axes, stages: tuple[CascadeStage, ...]) -> None:
    places = range(len(stages))
    ax.bar(places, [s.comparison.correlation for s in stages], color="#f2a65a", width=0.5)
    for sign in (1, -1):
        limits = [sign * s.comparison.threshold for s in stages]
        ax.step([-0.5, *places, len(stages) - 0.5], [limits[0], *limits, limits[-1]], where="mid", color="#7ee0c0",
                label="chance" if sign == 1 else None)  # fmt: skip
    ax.set_xticks(list(places), [str(s.layers) for s in stages])
    ax.axhline(0, color=_FAINT, linewidth=0.8)
    ax.set_ylim(-1, 1)
    _label(ax, "Random layers: is it still the same map?", f"layers made random, of {stages[0].of}", "correlation")
    ax.legend(facecolor=_GROUND, edgecolor=_FAINT, labelcolor=_TEXT, fontsize=9)


def _dress(ax: Axes) -> None:
    ax.set_facecolor(_GROUND)
    ax.tick_params(colors=_TEXT, labelsize=9)
    for spine in ax.spines.values():
        spine.set_color(_FAINT)


def _label(ax: Axes, title: str, across: str, up: str) -> None:
    plain: dict[str, Any] = {"usetex": False, "parse_math": False, "color": _TEXT}
    ax.set_title(title, fontsize=11, **plain)
    ax.set_xlabel(across, fontsize=9, **plain)
    ax.set_ylabel(up, fontsize=9, **plain)


def _alt(checks: FullChecks, unit: str) -> str:
    said = []
    found = checks.faithfulness
    if found is not None:
        said.append(
            f"When blocks are replaced, the number moves on average by {found.map.deletion_area.value:.3g} {unit} in "
            f"the map's order, by {found.random.deletion_area.value:.3g} in random order and by "
            f"{found.edges.deletion_area.value:.3g} in the order of the scan's edges."
        )
    if checks.cascade is not None:
        last = checks.cascade[-1].comparison.correlation
        said.append(f"With all layers random the map correlates with itself by {last:.2f}.")
    return " ".join(said)
