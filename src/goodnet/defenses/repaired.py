"""What every defense returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from goodnet.activations import PruneOrder, check_order
from goodnet.data.roles import CleanData
from goodnet.errors import SettingsError
from goodnet.results import EpochRow, LayerChannels, LayerSparsity
from goodnet.training import Augmentation, Progress, TrainingSettings


@dataclass(frozen=True, eq=False)
class Repaired:
    """A repaired network and how it came to be.

    Attributes:
        network: B', new; the network handed in is unchanged.
        pruned: The layers whose channels were pruned, with their indices.
        epochs: Fine-tuning, epoch by epoch.
        sparsity: Of each layer, where single weights were pruned.
        stopped: Why the defense stopped.
    """

    network: nn.Module
    stopped: str
    pruned: tuple[LayerChannels, ...] = ()
    epochs: tuple[EpochRow, ...] = ()
    sparsity: tuple[LayerSparsity, ...] = ()


# A high rate and changed images shake a backdoor off that gentle fine-tuning leaves in
# place. Chosen on the demo's BadNet; see docs/results.md for what that says of others.
FINE_TUNING = TrainingSettings(
    epochs=20, batch_size=64, learning_rate=3e-3, patience=10, augmentation=Augmentation()
)


@dataclass(frozen=True)
class DefenseSettings:
    """Settings of all defenses; each reads those it has a use for.

    Fine-pruning may prune deeper than pruning alone, since tuning wins accuracy back.

    Attributes:
        layer: Layer to prune; None finds it.
        drop: Points of clean accuracy that pruning may cost.
        order: Order in which channels are pruned.
        held_out: Share of D_valid that is not tuned on.
        training: How to fine-tune.
        fst_shift: alpha, the weight of the last layer's likeness to the old one.
        sau_perturbation: Largest change of a pixel, in [0, 1].
        anp_perturbation: epsilon, the largest change of a channel's scale and shift.
        anp_trade_off: alpha, the weight of the loss without that change.
        clp_deviations: u, how many standard deviations above its layer's mean a channel's
            Lipschitz bound may be.
        inversion_deviations: How many deviations below the median a label's mask stands out.
        i_bau_perturbation: Largest root mean square of the shared change, in [0, 1].
        d3_weight: lambda, the weight of the clean loss above its bound.
        d3_bound: epsilon, the clean loss of an image that is let pass.
    """

    layer: str | None = None
    drop: float = 10.0
    order: PruneOrder = "increasing"
    held_out: float = 0.2
    training: TrainingSettings = FINE_TUNING
    fst_shift: float = 0.1
    sau_perturbation: float = 0.2
    anp_perturbation: float = 0.4
    anp_trade_off: float = 0.2
    clp_deviations: float = 3.0
    inversion_deviations: float = 2.0
    i_bau_perturbation: float = 0.18
    d3_weight: float = 10.0
    d3_bound: float = 0.1

    def __post_init__(self) -> None:
        check_drop(self.drop)
        check_order(self.order)
        if not 0.0 < self.held_out < 1.0:
            raise SettingsError("held_out", self.held_out, "give a share between 0 and 1")
        for name in (
            "fst_shift",
            "sau_perturbation",
            "anp_perturbation",
            "clp_deviations",
            "inversion_deviations",
            "i_bau_perturbation",
            "d3_weight",
            "d3_bound",
        ):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise SettingsError(name, getattr(self, name), "give a number from 0 up")
        if not 0.0 <= self.anp_trade_off <= 1.0:
            raise SettingsError("anp_trade_off", self.anp_trade_off, "give a share from 0 to 1")


def check_drop(drop: float) -> None:
    """Refuse a drop that is no number of points of accuracy."""
    if not 0 <= drop <= 100:
        raise SettingsError("drop", drop, "give points of accuracy between 0 and 100")


class Defense(Protocol):
    """A method that repairs a network with clean data alone."""

    def __call__(
        self,
        network: nn.Module,
        tuning: CleanData,
        held_out: CleanData,
        settings: DefenseSettings,
        *,
        generator: torch.Generator,
        progress: Progress,
    ) -> Repaired:
        """The repaired network; the one handed in stays bit-identical."""
        ...
