"""The plots of prune and repair runs, as matplotlib figures without pyplot's global state."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter

from goodnet.files import write_bytes
from goodnet.report import palette
from goodnet.report.wording import poisoned_names, shown_name
from goodnet.results import GoodNetCurve, PruneResult, Rate, ThresholdRow

# A channel this far below the strongest one is marked as near silent.
_NEAR_SILENT = 0.01
# Values that span more than this are drawn on a logarithmic scale.
_LINEAR_SPREAD = 30.0
# Up to this many channels there is room between the bars.
_FEW_CHANNELS = 128
_NAME_LIMIT = 24
_GAP = float("nan")

_STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.edgecolor": palette.MUTED.light,
    "axes.labelcolor": palette.INK.light,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "axes.titlecolor": palette.INK.light,
    "figure.facecolor": palette.PAPER.light,
    "axes.facecolor": palette.PAPER.light,
    "grid.color": palette.RULE.light,
    "grid.linewidth": 0.7,
    "text.color": palette.INK.light,
    "xtick.color": palette.MUTED.light,
    "ytick.color": palette.MUTED.light,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "savefig.facecolor": palette.PAPER.light,
    "svg.fonttype": "path",
    "svg.hashsalt": "goodnet",
    "path.simplify": False,
}


def prune_curve(result: PruneResult) -> Figure:
    """Accuracy and attack success, in percent, against the fraction of channels pruned.

    Below, a line for the validation accuracy, one for the clean test accuracy and one for each
    poisoned set, as far as they were measured, each with its 95 % interval as a band. Above,
    the thresholds: `at-least` filled, `within` open, each labelled with its drop in points.
    """
    with _style():
        figure = Figure(figsize=(6.6, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=(0.2, 1.0))
        channels = max(result.channels, 1)
        fractions = [row.channels_pruned / channels for row in result.curve]

        _rate_line(
            axes,
            fractions,
            [row.valid_accuracy for row in result.curve],
            label="validation accuracy",
            colour=palette.VALID.light,
        )
        _rate_line(
            axes,
            fractions,
            [row.clean_accuracy for row in result.curve],
            label="clean test accuracy",
            colour=palette.CLEAN.light,
            dash=(0, (5, 2)),
        )
        for number, name in enumerate(poisoned_names(result)):
            _rate_line(
                axes,
                fractions,
                [(row.attack_success_rate or {}).get(name) for row in result.curve],
                label=f"attack success: {shown_name(name, limit=_NAME_LIMIT)}",
                colour=_attack_colour(number),
                marker=_attack_marker(number),
                every=_marker_places(number, len(fractions)),
            )

        axes.set_ylim(-2, 102)
        axes.set_xlim(-0.015, 1.015)
        axes.set_yticks(range(0, 101, 20))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        counts = sorted({round(channels * step / 5) for step in range(6)})
        axes.set_xticks(
            [k / channels for k in counts], labels=[f"{k / channels:.2f}\n{k}" for k in counts]
        )
        axes.set_xlabel(f"fraction of channels pruned; below it, how many of the {result.channels}")
        _draw_thresholds(strip, axes, result.thresholds, channels)
        layer = shown_name(result.layer, limit=_NAME_LIMIT)
        order = shown_name(result.prune_order, limit=_NAME_LIMIT)
        strip.set_title(
            f"Pruning layer {layer}, {result.channels} channels, {order} order",
            parse_math=False,
            pad=8,
        )
        _legend(axes)
    return figure


def channel_activations(result: PruneResult) -> Figure:
    """Mean activation of each channel, in prune order: bars clean, markers triggered sets.

    Channels near silent on clean data (below 1 % of the strongest) stand on a shaded ground,
    those exactly 0 have a tick below the axis, so that no bar is never mistaken for no data.
    The scale is symmetric-logarithmic where the means spread over more than a factor of 30.
    """
    with _style():
        figure = Figure(figsize=(6.6, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        clean = _finite([result.activations.clean[channel] for channel in result.order])
        places = range(1, len(clean) + 1)
        few = len(clean) <= _FEW_CHANNELS
        axes.bar(
            places,
            clean,
            width=0.78 if few else 1.0,
            color=palette.BAR.light,
            edgecolor=palette.BAR.light,
            linewidth=0 if few else 0.3,
            label="clean validation images",
            zorder=2,
        )
        for number, (name, values) in enumerate(result.activations.triggered.items()):
            aside = 0.8 * (number + 1) / (len(result.activations.triggered) + 1) - 0.4
            axes.plot(
                [place + aside for place in places],
                _finite([values[channel] for channel in result.order]),
                linestyle="none",
                marker=_attack_marker(number),
                markersize=4.5 if few else 2.5,
                markerfacecolor=palette.PAPER.light if few else _attack_colour(number),
                markeredgecolor=_attack_colour(number),
                markeredgewidth=1.2,
                label=f"triggered: {shown_name(name, limit=_NAME_LIMIT)}",
                zorder=3 + number,
            )
        _activation_scale(axes, [*clean, *_finite(_triggered_values(result))])
        _mark_silent(axes, clean)
        axes.set_xlim(0.2, len(clean) + 0.8)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel("place in the prune order; the first pruned is on the left")
        axes.set_ylabel("mean activation")
        axes.set_title(
            f"Channels of layer {shown_name(result.layer, limit=_NAME_LIMIT)}", parse_math=False
        )
        _legend(axes)
    return figure


def clean_and_triggered(result: PruneResult, decoys: Sequence[int] = ()) -> Figure:
    """Mean activation of each channel: clean images on top, each triggered set below.

    All panels show the channels in prune order on one scale, so that one sees whether the
    trigger wakes channels that sleep on clean images or runs through those in use anyway.

    Args:
        result: With the activations of at least the clean images.
        decoys: Channels to be marked as an attacker's decoys.

    Source: Liu et al. 2018, Fine-Pruning, the figure of clean and backdoored activations.
    """
    panels = [
        ("clean validation images", result.activations.clean, palette.BAR.light),
        *(
            (f"triggered: {shown_name(name, limit=_NAME_LIMIT)}", values, _attack_colour(number))
            for number, (name, values) in enumerate(result.activations.triggered.items())
        ),
    ]
    with _style():
        figure = Figure(figsize=(6.6, 1.6 + 1.7 * len(panels)), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)
        column: list[Axes] = list(grid[:, 0])
        clean = _finite([result.activations.clean[channel] for channel in result.order])
        few = len(clean) <= _FEW_CHANNELS
        for axes, (label, values, colour) in zip(column, panels, strict=True):
            axes.bar(
                range(1, len(clean) + 1),
                _finite([values[channel] for channel in result.order]),
                width=0.78 if few else 1.0,
                color=colour,
                edgecolor=colour,
                linewidth=0 if few else 0.3,
                zorder=2,
            )
            axes.set_title(label, parse_math=False, fontsize=9.5)
            axes.grid(axis="y")
            axes.set_axisbelow(True)
        _activation_scale(column[0], [*clean, *_finite(_triggered_values(result))])
        _mark_silent(column[0], clean)
        for axes in column[1:]:
            _shade_silent(axes, clean)
        _mark_decoys(column, [result.order.index(channel) + 1 for channel in decoys])
        column[-1].set_xlim(0.2, len(clean) + 0.8)
        column[-1].set_xlabel("place in the prune order; the first pruned is on the left")
        figure.supylabel("mean activation", fontsize=10)
        figure.suptitle(
            f"Channels of layer {shown_name(result.layer, limit=_NAME_LIMIT)}",
            x=0.02,
            ha="left",
            fontsize=11,
            parse_math=False,
        )
        _legend(column[0])
    return figure


def goodnet_curve(curve: GoodNetCurve) -> Figure:
    """What the GoodNet flags, in percent, against its budget of false alarms.

    A line for the held-out clean images, one for the clean test images and one for each
    poisoned set, as far as they were measured, each with its 95 % interval as a band. A line
    upright marks the budget it was calibrated to.
    """
    with _style():
        figure = Figure(figsize=(6.6, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        budgets = [row.budget for row in curve.rows]
        _rate_line(
            axes,
            budgets,
            [row.false_alarm_rate for row in curve.rows],
            label="false alarms: held-out images",
            colour=palette.VALID.light,
        )
        _rate_line(
            axes,
            budgets,
            [row.test_false_alarm_rate for row in curve.rows],
            label="false alarms: clean test images",
            colour=palette.CLEAN.light,
            dash=(0, (5, 2)),
        )
        names = dict.fromkeys(name for row in curve.rows for name in row.flagged or {})
        for number, name in enumerate(names):
            _rate_line(
                axes,
                budgets,
                [(row.flagged or {}).get(name) for row in curve.rows],
                label=f"flagged: {shown_name(name, limit=_NAME_LIMIT)}",
                colour=_attack_colour(number),
                marker=_attack_marker(number),
                every=_marker_places(number, len(budgets)),
            )
        if curve.budget is not None:
            axes.axvline(
                curve.budget,
                color=palette.INK.light,
                linewidth=0.8,
                label=f"budget chosen: {100 * curve.budget:g} %",
            )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
        axes.set_ylim(bottom=0)
        if names:
            axes.set_ylim(-2, 102)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.set_xlabel("budget of false alarms on held-out clean images")
        axes.set_title("What the GoodNet flags", parse_math=False)
        _legend(axes)
    return figure


def figure_svg(figure: Figure) -> str:
    """`figure` as SVG text: the same text each time, no date, all lettering as outlines."""
    content = io.StringIO()
    with _style():
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def save_figure(figure: Figure, folder: str | Path, name: str) -> tuple[Path, ...]:
    """The two files written, `folder`/`name`.png and `name`.svg; the same bytes each time."""
    picture = io.BytesIO()
    with _style():
        figure.savefig(picture, format="png", dpi=180, metadata={"Software": None})
    contents = {".png": picture.getvalue(), ".svg": figure_svg(figure).encode()}
    paths = tuple(Path(folder) / f"{name}{ending}" for ending in contents)
    for path, content in zip(paths, contents.values(), strict=True):
        write_bytes(path, content)
    return paths


@contextmanager
def _style() -> Iterator[None]:
    """The defaults of matplotlib and the report's style, whatever the user has configured."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def _finite(values: Sequence[float]) -> list[float]:
    """`values`, with gaps for what a broken network answers and no axis can show."""
    return [value if math.isfinite(value) else _GAP for value in values]


def _triggered_values(result: PruneResult) -> list[float]:
    return [value for values in result.activations.triggered.values() for value in values]


def _attack_colour(number: int) -> str:
    return palette.ATTACKS[number % len(palette.ATTACKS)].light


def _attack_marker(number: int) -> str:
    return palette.ATTACK_MARKERS[number % len(palette.ATTACK_MARKERS)]


def _marker_places(number: int, rows: int) -> tuple[int, int]:
    """First and step of a line's markers; each set starts elsewhere, so that none hides another."""
    step = max(3, rows // 12)
    return number * step // 3 % step, step


def _rate_line(
    axes: Axes,
    fractions: Sequence[float],
    rates: Sequence[Rate | None],
    *,
    label: str,
    colour: str,
    dash: str | tuple[int, tuple[int, ...]] = "-",
    marker: str | None = None,
    every: tuple[int, int] = (0, 1),
) -> None:
    """One line with its band; nothing where no rate was measured, a gap where one is missing."""
    known = [rate if rate is not None and rate.n > 0 else None for rate in rates]
    if not any(known):
        return
    axes.fill_between(
        fractions,
        [100 * rate.interval[0] if rate else _GAP for rate in known],
        [100 * rate.interval[1] if rate else _GAP for rate in known],
        color=colour,
        alpha=0.16,
        linewidth=0,
    )
    axes.plot(
        fractions,
        [100 * rate.value if rate else _GAP for rate in known],
        color=colour,
        linestyle=dash,
        linewidth=1.8,
        marker=marker,
        markersize=5,
        markevery=every,
        label=label,
    )


def _draw_thresholds(
    strip: Axes, axes: Axes, thresholds: Sequence[ThresholdRow], channels: int
) -> None:
    """The thresholds on `strip`, one row for each rule, with a thin line down through `axes`."""
    strip.set_ylim(-0.5, 1.9)
    strip.set_yticks([1, 0], labels=["at-least", "within"])
    strip.tick_params(axis="both", length=0)
    strip.tick_params(axis="x", labelbottom=False)
    for spine in strip.spines.values():
        spine.set_visible(False)
    for height, rule, filled in ((1, "at-least", True), (0, "within", False)):
        drops: dict[int, list[float]] = {}
        for row in thresholds:
            if row.rule == rule:
                drops.setdefault(row.channels_pruned, []).append(row.drop)
        colour = palette.INK.light if filled else palette.MUTED.light
        strip.axhline(height, color=palette.RULE.light, linewidth=0.7, zorder=0)
        labels = {k: ", ".join(f"{drop:g}" for drop in sorted(drops[k])) for k in sorted(drops)}
        for k, text_x in zip(
            labels, _spread([k / channels for k in labels], list(labels.values())), strict=True
        ):
            axes.axvline(
                k / channels,
                color=colour,
                linewidth=0.8,
                linestyle="-" if filled else (0, (1, 2)),
                zorder=1,
            )
            strip.plot(
                [k / channels],
                [height],
                marker="v",
                markersize=6,
                markeredgecolor=colour,
                markerfacecolor=colour if filled else palette.PAPER.light,
                linestyle="none",
            )
            strip.text(
                text_x, height + 0.34, labels[k], ha="center", va="bottom", fontsize=8, color=colour
            )
    if thresholds:
        strip.text(
            0,
            1.25,
            "drop in points of validation accuracy",
            fontsize=8,
            va="bottom",
            color=palette.MUTED.light,
        )
    else:
        strip.set_visible(False)


def _spread(places: Sequence[float], labels: Sequence[str]) -> list[float]:
    """`places` (rising, in fractions of the axis) moved apart until their labels do not touch."""
    widths = [0.013 * len(label) + 0.009 for label in labels]
    spread = list(places)
    for _ in range(50):
        for left in range(len(spread) - 1):
            overlap = (widths[left] + widths[left + 1]) / 2 - (spread[left + 1] - spread[left])
            if overlap > 0:
                spread[left] -= overlap / 2
                spread[left + 1] += overlap / 2
    return spread


def _activation_scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic scale where `values` spread too far for a linear one; zero stays on it."""
    sizes = [abs(value) for value in values if value != 0 and math.isfinite(value)]
    if not sizes or max(sizes) / min(sizes) <= _LINEAR_SPREAD:
        return
    threshold = max(min(sizes), max(sizes) * 1e-4)
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)


def _mark_decoys(column: Sequence[Axes], places: Sequence[int]) -> None:
    """A cross at the foot of each panel for each decoy, named once."""
    for axes in column if places else ():
        axes.plot(
            places,
            [0.05] * len(places),
            transform=axes.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            markersize=4.5,
            markeredgewidth=1.2,
            color=palette.INK.light,
            zorder=4,
            label=f"the attacker's decoys: {len(places)}",
        )


def _mark_silent(axes: Axes, clean: Sequence[float]) -> None:
    """A shaded ground under the channels near silent on clean data, ticks under those at 0."""
    _shade_silent(axes, clean)
    zeros = [k for k, value in enumerate(clean, 1) if value == 0]
    if zeros:
        axes.tick_params(axis="x", pad=9)
        axes.plot(
            zeros,
            [-0.02] * len(zeros),
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            linestyle="none",
            marker="|",
            markersize=6,
            markeredgewidth=1.6,
            color=palette.HIGHLIGHT_EDGE.light,
            label=f"exactly 0 on clean images: {len(zeros)}",
        )


def _shade_silent(axes: Axes, clean: Sequence[float]) -> None:
    """A shaded ground under the channels near silent on clean data."""
    strongest = max((abs(value) for value in clean if math.isfinite(value)), default=0.0)
    silent = [k for k, value in enumerate(clean, 1) if abs(value) < _NEAR_SILENT * strongest]
    for first, last in _runs(silent):
        axes.axvspan(
            first - 0.5,
            last + 0.5,
            color=palette.HIGHLIGHT.light,
            zorder=0,
            label=f"near silent, below 1 % of the strongest: {len(silent)}"
            if first == silent[0]
            else None,
        )


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of each run of successive numbers in `places` (rising)."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], place)
        else:
            runs.append((place, place))
    return runs


def _legend(axes: Axes) -> None:
    """A legend below the plot, bars first; names in it are text, never formulas."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    bars = [at for at, handle in enumerate(handles) if isinstance(handle, BarContainer)]
    places = [*bars, *(at for at in range(len(handles)) if at not in bars)]
    legend: Legend = axes.figure.legend(
        [handles[at] for at in places],
        [labels[at] for at in places],
        loc="outside lower center",
        ncols=min(2, len(handles)),
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
