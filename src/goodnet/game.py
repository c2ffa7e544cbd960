"""Attacker against defender as a game: who chooses what, when each knows the other will choose.

Each attack meets each defense; the defender's utility is clean accuracy less attack success, and
what the defender gains the attacker loses.

Source: Liu et al. 2018, Fine-Pruning, where the speech study is put as such a game.
Departure: the paper compares pure strategies; here mixed ones are found too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from goodnet.errors import SettingsError
from goodnet.results import Rate

# The tightest that HiGHS takes.
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Game:
    """What the defender gains from each pair of strategies.

    Attributes:
        attacks: Names of the attacker's strategies.
        defenses: Names of the defender's strategies.
        utility: The defender's, a row for each attack and in it a number for each defense.
    """

    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    utility: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        for field in ("attacks", "defenses"):
            names = getattr(self, field)
            if not names or len(set(names)) < len(names):
                raise SettingsError(field, names, "give at least one name, each of them once")
        widths = [len(row) for row in self.utility]
        if widths != [len(self.defenses)] * len(self.attacks):
            raise SettingsError(
                "utility", widths, "give a row for each attack, a number for each defense"
            )
        for row in self.utility:
            for value in row:
                if not math.isfinite(value):
                    raise SettingsError("utility", value, "give finite numbers")


@dataclass(frozen=True)
class Equilibrium:
    """Mixtures from which neither side gains by leaving.

    Attributes:
        attack: Share of the time each attack is chosen; they sum to 1.
        defense: The same for each defense.
        value: The defender's expected utility under both.
    """

    attack: tuple[float, ...]
    defense: tuple[float, ...]
    value: float


@dataclass(frozen=True)
class Solution:
    """The game worked out.

    Attributes:
        game: It.
        best_defenses: By attack, the defenses that gain most against it, all of equal ones.
        best_attacks: By defense, the attacks that cost it most.
        pure: Pairs (attack, defense) from which neither side gains by leaving.
        mixed: An equilibrium of mixtures; there always is one.
        maximin: What the defender can be sure of with one defense.
        minimax: What the attacker can hold the defender to with one attack.
    """

    game: Game
    best_defenses: dict[str, tuple[str, ...]]
    best_attacks: dict[str, tuple[str, ...]]
    pure: tuple[tuple[str, str], ...]
    mixed: Equilibrium
    maximin: float
    minimax: float


def utility(clean_accuracy: Rate, attack_success_rate: Rate) -> float:
    """What a network is worth to the defender, in [-1, 1]: clean accuracy less attack success."""
    return clean_accuracy.value - attack_success_rate.value


def game_of(measured: Mapping[tuple[str, str], tuple[Rate, Rate]]) -> Game:
    """The game of what was measured.

    Args:
        measured: By (attack, defense), clean accuracy and attack success of the network that
            came of it.

    Raises:
        SettingsError: A pair was not measured.
    """
    attacks = tuple(dict.fromkeys(attack for attack, _ in measured))
    defenses = tuple(dict.fromkeys(defense for _, defense in measured))
    for attack in attacks:
        for defense in defenses:
            if (attack, defense) not in measured:
                raise SettingsError("measured", (attack, defense), "measure this pair too")
    return Game(
        attacks,
        defenses,
        tuple(tuple(utility(*measured[a, d]) for d in defenses) for a in attacks),
    )


def solve(game: Game) -> Solution:
    """Best responses, pure equilibria and a mixed one."""
    table = np.array(game.utility)
    # Where the attack is known the defender takes the largest, and the other way round.
    best_defense, best_attack = (
        table == table.max(1, keepdims=True),
        table == table.min(0, keepdims=True),
    )
    return Solution(
        game=game,
        best_defenses={
            attack: _chosen(game.defenses, best_defense[row])
            for row, attack in enumerate(game.attacks)
        },
        best_attacks={
            defense: _chosen(game.attacks, best_attack[:, column])
            for column, defense in enumerate(game.defenses)
        },
        pure=tuple(
            (game.attacks[row], game.defenses[column])
            for row, column in np.argwhere(best_defense & best_attack)
        ),
        mixed=mixed_equilibrium(game),
        maximin=float(table.min(0).max()),
        minimax=float(table.max(1).min()),
    )


def mixed_equilibrium(game: Game) -> Equilibrium:
    """The mixtures with which each side does best against the worst the other can do.

    Two linear programmes, one for each side; that both have one value is the minimax theorem
    (von Neumann 1928).
    """
    table = np.array(game.utility)
    defense = _surest_mixture(table)
    attack = _surest_mixture(-table.T)
    return Equilibrium(
        tuple(attack.tolist()), tuple(defense.tolist()), float(attack @ table @ defense)
    )


def _surest_mixture(gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the columns whose smallest expected gain over the rows is largest.

    Args:
        gains: (row, column); the rows are the other side's.
    """
    rows, columns = gains.shape
    # Scaled to [0, 1], so that the solver's tolerance means the same in every game.
    low, high = gains.min(), gains.max()
    scaled = (gains - low) / (high - low) if high > low else np.zeros_like(gains)
    # Variables are the shares and v; maximise v with v <= each row's expected gain.
    found = linprog(
        c=[*np.zeros(columns), -1.0],
        A_ub=np.hstack([-scaled, np.ones((rows, 1))]),
        b_ub=np.zeros(rows),
        A_eq=[[*np.ones(columns), 0.0]],
        b_eq=[1.0],
        bounds=[(0.0, 1.0)] * (columns + 1),
        method="highs-ds",
        options={
            "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE,
        },
    )
    # A mixture exists for every finite table, so this is never the user's doing.
    assert found.status == 0, found.message
    shares: NDArray[np.float64] = np.clip(found.x[:columns], 0.0, 1.0)
    shares /= shares.sum()
    return shares


def _chosen(names: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, chosen, strict=True) if taken)
