"""The paper's own game, games known by heart, and what holds of every game."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from goodnet.errors import SettingsError
from goodnet.game import Game, game_of, mixed_equilibrium, solve, utility
from goodnet.results import Rate, from_json, to_json

# Liu et al. 2018, speech: clean accuracy and attack success in thousandths.
SPEECH = {
    ("baseline", "fine-tune"): (990, 435),
    ("baseline", "fine-prune"): (988, 20),
    ("pruning-aware", "fine-tune"): (988, 520),
    ("pruning-aware", "fine-prune"): (986, 0),
}


def speech() -> Game:
    return game_of(
        {
            pair: (Rate.of(accuracy, 1000), Rate.of(success, 1000))
            for pair, (accuracy, success) in SPEECH.items()
        }
    )


def game(table: NDArray[np.float64]) -> Game:
    rows, columns = table.shape
    return Game(
        tuple(f"a{row}" for row in range(rows)),
        tuple(f"d{column}" for column in range(columns)),
        tuple(map(tuple, table.tolist())),
    )


def test_the_papers_speech_game() -> None:
    found = solve(speech())
    assert found.game.attacks == ("baseline", "pruning-aware")
    assert found.game.defenses == ("fine-tune", "fine-prune")
    assert np.allclose(found.game.utility, [[0.555, 0.968], [0.468, 0.986]], rtol=0, atol=1e-12)
    # Fine-pruning is better whatever the attacker does, who then does best not to be aware of it.
    assert set(found.best_defenses.values()) == {("fine-prune",)}
    assert found.best_attacks == {"fine-tune": ("pruning-aware",), "fine-prune": ("baseline",)}
    assert found.pure == (("baseline", "fine-prune"),)
    assert found.mixed.attack == pytest.approx((1, 0), abs=1e-9)
    assert found.mixed.defense == pytest.approx((0, 1), abs=1e-9)
    assert found.mixed.value == pytest.approx(0.968, abs=1e-9)
    assert found.maximin == found.minimax == pytest.approx(0.968)


def test_matching_pennies_is_played_half_and_half() -> None:
    found = solve(Game(("heads", "tails"), ("heads", "tails"), ((1, -1), (-1, 1))))
    assert found.pure == ()
    assert found.mixed.attack == pytest.approx((0.5, 0.5))
    assert found.mixed.defense == pytest.approx((0.5, 0.5))
    assert found.mixed.value == pytest.approx(0, abs=1e-12)
    assert (found.maximin, found.minimax) == (-1, 1)


def test_a_game_without_pure_equilibrium_worked_out_by_hand() -> None:
    # The defender makes both rows worth the same: 3q + (1 - q) = 4 (1 - q), so q = 1/2.
    found = mixed_equilibrium(Game(("a", "b"), ("c", "d"), ((3, 1), (0, 4))))
    assert found.defense == pytest.approx((1 / 2, 1 / 2))
    assert found.attack == pytest.approx((2 / 3, 1 / 3))
    assert found.value == pytest.approx(2)


def test_equal_strategies_are_all_told() -> None:
    found = solve(Game(("a", "b"), ("c", "d"), ((1, 1), (1, 1))))
    assert found.best_defenses == {"a": ("c", "d"), "b": ("c", "d")}
    assert len(found.pure) == 4
    assert found.mixed.value == 1


TABLES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=6),
    elements=st.floats(-1, 1) | st.integers(-1, 1).map(float),
)


@given(TABLES)
def test_no_side_gains_by_leaving_the_equilibrium(table: NDArray[np.float64]) -> None:
    found = solve(game(table))
    attack, defense = np.array(found.mixed.attack), np.array(found.mixed.defense)
    for mixture in (attack, defense):
        assert mixture.min() >= 0
        assert mixture.sum() == pytest.approx(1, abs=1e-12)
    assert (attack @ table).max() <= found.mixed.value + 1e-9
    assert (table @ defense).min() >= found.mixed.value - 1e-9
    assert found.maximin - 1e-9 <= found.mixed.value <= found.minimax + 1e-9
    assert bool(found.pure) == (found.maximin == found.minimax)
    for row, column in found.pure:
        where = found.game.attacks.index(row), found.game.defenses.index(column)
        assert table[where] == pytest.approx(found.mixed.value, abs=1e-9)


@given(TABLES)
def test_the_sides_changed_over_the_value_changes_its_sign(table: NDArray[np.float64]) -> None:
    value = mixed_equilibrium(game(table)).value
    assert mixed_equilibrium(game(-table.T)).value == pytest.approx(-value, abs=1e-9)


def test_utility_is_accuracy_less_attack_success() -> None:
    assert utility(Rate.of(9, 10), Rate.of(4, 10)) == pytest.approx(0.5)
    assert utility(Rate.of(0, 10), Rate.of(10, 10)) == -1


def test_a_solution_goes_to_json_and_back() -> None:
    found = solve(speech())
    assert from_json(type(found), to_json(found), "here") == found


@pytest.mark.parametrize(
    ("attacks", "defenses", "table", "text"),
    [
        ((), ("c",), (), "attacks is .*give at least one name"),
        (("a",), ("c", "c"), ((1, 1),), "defenses is .*each of them once"),
        (("a",), ("c", "d"), ((1,),), "utility is .*a row for each attack"),
        (("a",), ("c",), ((float("nan"),),), "utility is nan; give finite numbers"),
    ],
)
def test_what_is_no_game_is_refused(
    attacks: tuple[str, ...],
    defenses: tuple[str, ...],
    table: tuple[tuple[float, ...], ...],
    text: str,
) -> None:
    with pytest.raises(SettingsError, match=text):
        Game(attacks, defenses, table)


def test_a_pair_that_was_not_measured_is_named() -> None:
    measured = {("a", "c"): (Rate.of(1, 1), Rate.of(0, 1)), ("b", "d"): (Rate.of(1, 1),) * 2}
    with pytest.raises(SettingsError, match=r"measured is \('a', 'd'\)"):
        game_of(measured)
