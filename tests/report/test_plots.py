from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from goodnet.report.plots import (
    channel_activations,
    clean_and_triggered,
    figure_svg,
    goodnet_curve,
    prune_curve,
    save_figure,
)
from goodnet.results import GoodNetCurve, PruneResult, Rate


def lines(axes: Axes) -> dict[str, Line2D]:
    return {
        str(line.get_label()): line
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def xs(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_xdata(), dtype=np.float64)


def ys(line: Line2D) -> NDArray[np.float64]:
    return np.asarray(line.get_ydata(), dtype=np.float64)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curve_has_a_line_for_each_rate_with_the_record_s_values(examples: ModuleType) -> None:
    result: PruneResult = examples.deepid_prune(("sunglasses", "eyebrows"))
    drawn = lines(prune_curve(result).axes[1])
    assert list(drawn) == [
        "validation accuracy",
        "clean test accuracy",
        "attack success: sunglasses",
        "attack success: eyebrows",
    ]
    for line in drawn.values():
        np.testing.assert_allclose(xs(line), np.arange(61) / 60)
    expected: dict[str, list[Rate | None]] = {
        "validation accuracy": [row.valid_accuracy for row in result.curve],
        "clean test accuracy": [row.clean_accuracy for row in result.curve],
        "attack success: eyebrows": [
            (row.attack_success_rate or {})["eyebrows"] for row in result.curve
        ],
    }
    for label, rates in expected.items():
        np.testing.assert_allclose(ys(drawn[label]), [100 * rate.value for rate in rates if rate])


def test_goodnet_curve_has_a_line_for_each_set(examples: ModuleType) -> None:
    curve: GoodNetCurve = examples.flagged_curve(("sunglasses",))
    drawn = lines(goodnet_curve(curve).axes[0])
    assert list(drawn) == [
        "false alarms: held-out images",
        "false alarms: clean test images",
        "flagged: sunglasses",
        "budget chosen: 1 %",
    ]
    flagged = drawn["flagged: sunglasses"]
    np.testing.assert_allclose(xs(flagged), [row.budget for row in curve.rows])
    np.testing.assert_allclose(
        ys(flagged), [100 * (row.flagged or {})["sunglasses"].value for row in curve.rows]
    )
    assert set(xs(drawn["budget chosen: 1 %"])) == {0.01}


def test_goodnet_curve_of_the_plain_rule_and_held_out_images_alone(examples: ModuleType) -> None:
    curve = dataclasses.replace(examples.flagged_curve(()), budget=None)
    assert list(lines(goodnet_curve(curve).axes[0])) == ["false alarms: held-out images"]


def test_curve_bands_are_the_intervals(examples: ModuleType) -> None:
    result = examples.deepid_prune(())
    (band,) = prune_curve(result).axes[1].collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    for row in result.curve:
        for bound in row.valid_accuracy.interval:
            assert np.isclose(heights, 100 * bound).any()


def test_curve_leaves_out_what_was_not_measured(examples: ModuleType) -> None:
    result = examples.deepid_prune(())
    nothing = Rate.of(0, 0)
    curve = tuple(dataclasses.replace(row, clean_accuracy=nothing) for row in result.curve)
    drawn = lines(prune_curve(dataclasses.replace(result, curve=curve)).axes[1])
    assert list(drawn) == ["validation accuracy"]


def test_thresholds_are_marked_and_the_rules_look_different(examples: ModuleType) -> None:
    result = examples.deepid_prune()
    strip, axes = prune_curve(result).axes
    marks = {
        (round(float(xs(line)[0]) * 60), float(ys(line)[0])): line
        for line in strip.get_lines()
        if line.get_marker() == "v"
    }
    assert set(marks) == {(46, 1), (48, 1), (50, 1), (45, 0), (47, 0), (49, 0)}
    assert marks[46, 1].get_markerfacecolor() != marks[45, 0].get_markerfacecolor()
    assert [tick.get_text() for tick in strip.get_yticklabels()] == ["at-least", "within"]
    assert sorted(text.get_text() for text in strip.texts[:-1]) == ["10", "10", "2", "2", "4", "4"]
    down = [line for line in axes.get_lines() if len(xs(line)) == 2]
    assert sorted(round(float(xs(line)[0]) * 60) for line in down) == [
        45,
        46,
        47,
        48,
        49,
        50,
    ]
    assert len({line.get_linestyle() for line in down}) == 2


def test_threshold_labels_do_not_touch_where_thresholds_nearly_meet(examples: ModuleType) -> None:
    result = examples.wide_prune()
    near = tuple(
        dataclasses.replace(row, channels_pruned=400 + at // 2)
        for at, row in enumerate(result.thresholds)
    )
    figure = prune_curve(dataclasses.replace(result, thresholds=near))
    figure_svg(figure)  # draws, and so settles the layout
    labels = [text for text in figure.axes[0].texts if re.fullmatch(r"[\d, ]+", text.get_text())]
    boxes = [text.get_window_extent() for text in labels]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[at + 1 :])


def test_ticks_name_fraction_and_count(examples: ModuleType) -> None:
    axes = prune_curve(examples.deepid_prune()).axes[1]
    assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ["0.00\n0", "0.20\n12"]
    assert "of the 60" in axes.get_xlabel()
    assert axes.yaxis.get_major_formatter()(40, 0) == "40 %"


def test_activations_stand_in_prune_order(examples: ModuleType) -> None:
    result = examples.deepid_prune(("sunglasses", "eyebrows"))
    axes = channel_activations(result).axes[0]
    (bars,) = (each for each in axes.containers if isinstance(each, BarContainer))
    heights = [bar.get_height() for bar in bars]
    assert heights == [result.activations.clean[channel] for channel in result.order]
    drawn = lines(axes)
    for name, values in result.activations.triggered.items():
        line = drawn[f"triggered: {name}"]
        assert list(ys(line)) == [values[channel] for channel in result.order]
        np.testing.assert_array_equal(np.round(xs(line)), np.arange(1, 61))
    assert axes.get_yscale() == "symlog"


def test_clean_and_triggered_stand_in_one_order_on_one_scale(examples: ModuleType) -> None:
    result = examples.deepid_prune(("sunglasses", "eyebrows"))
    figure = clean_and_triggered(result)
    values = [result.activations.clean, *result.activations.triggered.values()]
    titles = ["clean validation images", "triggered: sunglasses", "triggered: eyebrows"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == titles
    for axes, own in zip(figure.axes, values, strict=True):
        (bars,) = (each for each in axes.containers if isinstance(each, BarContainer))
        assert [bar.get_height() for bar in bars] == [own[channel] for channel in result.order]
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        assert axes.get_ylim() == figure.axes[0].get_ylim()
        assert axes.get_yscale() == "symlog"


def test_decoys_are_marked_where_they_stand_in_the_order(examples: ModuleType) -> None:
    result = examples.deepid_prune()
    decoys = (result.order[4], result.order[0])
    figure = clean_and_triggered(result, decoys)
    assert "the attacker's decoys: 2" in legend_texts(figure)
    for axes in figure.axes:
        assert sorted(xs(lines(axes)["the attacker's decoys: 2"])) == [1, 5]
    assert not any("decoys" in text for text in legend_texts(clean_and_triggered(result)))


def test_clean_and_triggered_takes_any_values_and_names(examples: ModuleType) -> None:
    result = examples.deepid_prune((examples.HOSTILE,), layer=examples.HOSTILE)
    broken = dataclasses.replace(
        result.activations, clean=(float("nan"), *result.activations.clean[1:])
    )
    svg = figure_svg(clean_and_triggered(dataclasses.replace(result, activations=broken)))
    assert svg.startswith("<?xml")
    assert figure_svg(clean_and_triggered(examples.wide_prune())).startswith("<?xml")


def test_dormant_channels_are_marked(examples: ModuleType) -> None:
    result = examples.deepid_prune()
    figure = channel_activations(result)
    clean = [result.activations.clean[channel] for channel in result.order]
    zeros = [place for place, value in enumerate(clean, 1) if value == 0]
    silent = [place for place, value in enumerate(clean, 1) if value < 0.01 * max(clean)]
    assert 0 < len(zeros) < len(silent) < 60
    ticks = lines(figure.axes[0])[f"exactly 0 on clean images: {len(zeros)}"]
    assert list(xs(ticks)) == zeros
    assert f"near silent, below 1 % of the strongest: {len(silent)}" in legend_texts(figure)


def test_even_activations_stay_on_a_linear_scale(examples: ModuleType) -> None:
    figure = channel_activations(examples.wide_prune())
    assert figure.axes[0].get_yscale() == "linear"
    assert legend_texts(figure) == ["clean validation images"]


def test_hostile_names_are_text_not_formulas(examples: ModuleType) -> None:
    result = examples.deepid_prune((examples.HOSTILE, "_hidden", "$\\frac$"), layer="$\\frac$")
    for figure in (prune_curve(result), channel_activations(result)):
        svg = figure_svg(figure)  # as a formula, \frac without its parts is an error
        assert "<script" not in svg
        assert any("$\\frac$" in text for text in legend_texts(figure))
        assert any("_hidden" in text for text in legend_texts(figure))
        assert not any("\x1b" in text for text in legend_texts(figure))


def test_saved_bytes_are_the_same_twice(examples: ModuleType, tmp_path: Path) -> None:
    result = examples.deepid_prune()
    first = save_figure(prune_curve(result), tmp_path / "one", "curve")
    with mpl.rc_context({"font.size": 20, "svg.hashsalt": "other", "axes.facecolor": "red"}):
        second = save_figure(prune_curve(result), tmp_path / "two", "curve")
    assert [path.name for path in first] == ["curve.png", "curve.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert "<dc:date>" not in first[1].read_text()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["curve.png", "curve.svg"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "curve.png").write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(Figure(figsize=(1, 1)), tmp_path, "curve")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("curve.png", b"old")
    ]


def test_drawing_leaves_global_settings_alone(examples: ModuleType) -> None:
    before = dict(mpl.rcParams)
    figure_svg(prune_curve(examples.deepid_prune()))
    assert dict(mpl.rcParams) == before


def test_network_that_answers_nonsense_is_still_drawn(examples: ModuleType) -> None:
    result = examples.deepid_prune()
    clean = (float("nan"), float("inf"), *result.activations.clean[2:])
    broken = dataclasses.replace(result.activations, clean=clean)
    figure = channel_activations(dataclasses.replace(result, activations=broken))
    assert figure_svg(figure).startswith("<?xml")
    silent = [text for text in legend_texts(figure) if text.startswith("near silent")]
    assert len(silent) == 1
