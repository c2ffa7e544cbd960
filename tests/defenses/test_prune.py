"""Where pruning stops: both rules, by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from goodnet.data.roles import CleanData
from goodnet.defenses import DefenseSettings, channels_for_drop, prune
from goodnet.defenses.prune import correct_by_count
from goodnet.errors import SettingsError
from goodnet.results import LayerChannels, ThresholdRule
from goodnet.sweep import prepare_sweep
from goodnet.training import no_progress

# Of 50 images right with 0, 1, ... channels pruned: points lost 0, 0, 2, 4, 2, 10, 20.
CURVE = [50, 50, 49, 48, 49, 45, 40]


@pytest.mark.parametrize(
    ("drop", "at_least", "within"),
    [
        (0.0, 0, 1),
        (1.0, 2, 1),
        (2.0, 2, 2),  # exactly 2 is at least 2, and within 2
        (2.1, 3, 2),  # the curve comes back at 4, but has been past the drop
        (4.0, 3, 4),
        (10.0, 5, 5),
        (15.0, 6, 5),
        (20.0, 6, 6),
        (50.0, 6, 6),  # never reached
        (100.0, 6, 6),
    ],
)
def test_channels_for_a_drop(drop: float, at_least: int, within: int) -> None:
    correct = torch.tensor(CURVE)
    assert channels_for_drop(correct, 50, drop, "at-least") == at_least
    assert channels_for_drop(correct, 50, drop, "within") == within


def test_a_curve_that_only_rises_never_drops() -> None:
    correct = torch.tensor([10, 11, 12])
    assert channels_for_drop(correct, 20, 0.0, "within") == 2
    assert channels_for_drop(correct, 20, 0.5, "at-least") == 2


@pytest.mark.parametrize("n", [3, 7, 11, 300, 11547])
def test_a_drop_of_exactly_some_images_is_met_exactly(n: int) -> None:
    for lost in (1, 2):
        correct = torch.tensor([n, n - lost, n - lost - 1])
        assert channels_for_drop(correct, n, 100 * lost / n, "at-least") == 1
        assert channels_for_drop(correct, n, 100 * lost / n, "within") == 1


def test_a_drop_that_was_computed_is_met_up_to_rounding() -> None:
    correct = torch.tensor([1000, 997, 996])
    assert channels_for_drop(correct, 1000, 0.1 + 0.2, "at-least") == 1
    assert channels_for_drop(correct, 1000, 0.7 - 0.4, "within") == 1


@given(
    correct=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    drop=st.sampled_from([0.0, 2.5, 4.0, 10.0, 37.5, 100.0]),
)
def test_the_rules_hold_for_any_curve(correct: list[int], drop: float) -> None:
    counts = torch.tensor(correct)
    lost = [100 * (correct[0] - right) / 40 for right in correct]
    within = channels_for_drop(counts, 40, drop, "within")
    assert max(lost[: within + 1]) <= drop
    assert within == len(correct) - 1 or lost[within + 1] > drop
    at_least = channels_for_drop(counts, 40, drop, "at-least")
    assert all(value < drop for value in lost[:at_least])
    assert at_least == len(correct) - 1 or lost[at_least] >= drop


@pytest.mark.parametrize("rule", ["at-least", "within"])
@pytest.mark.parametrize("drop", [-1.0, 100.5, float("nan")])
def test_an_impossible_drop_is_refused(drop: float, rule: ThresholdRule) -> None:
    with pytest.raises(SettingsError, match=r"drop is .*; give points of accuracy between 0 and"):
        channels_for_drop(torch.tensor(CURVE), 50, drop, rule)


def test_correct_answers_are_counted_by_channels_pruned(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    sweep = prepare_sweep(lamps, "pool", clean)
    assert correct_by_count(sweep, clean).tolist() == [30, 30, 30, 20, 10]


@pytest.mark.parametrize(
    ("drop", "pruned", "stopped"),
    [
        (10.0, (3, 2), "one channel more would cost over 10 points of held-out accuracy"),
        (40.0, (3, 2, 1), "one channel more would cost over 40 points of held-out accuracy"),
        (70.0, (3, 2, 1, 0), "all 4 channels cost at most 70 points"),
    ],
)
def test_pruning_says_what_and_why(
    lamps: nn.Sequential, clean: CleanData, drop: float, pruned: tuple[int, ...], stopped: str
) -> None:
    repaired = prune(
        lamps,
        clean,
        clean,
        DefenseSettings(layer="pool", drop=drop),
        generator=torch.Generator(),
        progress=no_progress,
    )
    assert repaired.pruned == (LayerChannels("pool", pruned),)
    assert repaired.stopped == stopped


def test_the_order_is_the_tuning_part_s_and_the_stop_the_held_out_part_s(
    lamps: nn.Sequential, clean: CleanData
) -> None:
    """Without class 0 in the tuning part its lamp goes early, and the held-out part stops that."""
    others, zeros = (clean._part(chosen) for chosen in (clean.labels != 0, clean.labels == 0))
    settings = DefenseSettings(layer="pool", drop=10.0)
    generator = torch.Generator()
    repaired = prune(lamps, others, zeros, settings, generator=generator, progress=no_progress)
    assert repaired.pruned[0].channels == ()
    swapped = prune(lamps, zeros, others, settings, generator=generator, progress=no_progress)
    # On class 0 lamps 1, 2 and 3 are dark; lamp 1 is missed by the held-out part.
    assert swapped.pruned[0].channels == ()
