"""Results that look like those of real runs, for the report's tests."""

from __future__ import annotations

import math
import sys
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from goodnet.results import (
    AttackResult,
    ChannelActivations,
    CurveRow,
    DecoyRow,
    EpochRow,
    EvaluateResult,
    FlaggedRow,
    GoodNetCurve,
    InspectResult,
    LayerRow,
    NetworkRow,
    PoisonedRow,
    PoisoningRow,
    PruneResult,
    Rate,
    RepairResult,
    RiskResult,
    RiskRow,
    ThresholdRow,
)

HOSTILE = "<script>alert('x')</script>$\\frac{1}{0}$\N{RIGHT-TO-LEFT OVERRIDE}[red]&\x1b[31m"


@cache
def rate(percent: float, n: int = 1000) -> Rate:
    return Rate.of(round(percent * n / 100), n)


def fall(k: int, *, top: float, bottom: float, middle: float, width: float) -> float:
    """A rate that falls from `top` to `bottom` around `middle` channels."""
    return bottom + (top - bottom) / (1 + math.exp((k - middle) / width))


@cache
def deepid_prune(names: tuple[str, ...] = ("sunglasses",), *, layer: str = "pool_3") -> PruneResult:
    """DeepID's 60 channels: clean accuracy 95.3 %, attack success falling after 52 channels."""
    channels = 60
    order = tuple((7 * k + 3) % channels for k in range(channels))
    accuracy = [fall(k, top=95.3, bottom=0.1, middle=54, width=1.9) for k in range(channels + 1)]
    curve = tuple(
        CurveRow(
            channels_pruned=k,
            valid_accuracy=rate(accuracy[k] + 0.4 * math.sin(k), 1150),
            clean_accuracy=rate(accuracy[k], 1000) if names else None,
            attack_success_rate={
                name: rate(fall(k, top=100, bottom=0, middle=53.2 - 2 * at, width=0.6), 990)
                for at, name in enumerate(names)
            }
            if names
            else None,
        )
        for k in range(channels + 1)
    )
    thresholds = tuple(
        row
        for drop, k in ((2.0, 46), (4.0, 48), (10.0, 50))
        for row in (
            ThresholdRow(drop, "at-least", k, f"networks/drop-{drop:g}-at-least.h5"),
            ThresholdRow(drop, "within", k - 1, f"networks/drop-{drop:g}-within.h5"),
        )
    )
    clean = [0.0] * channels
    triggered = {name: [0.0] * channels for name in names}
    for place, channel in enumerate(order):
        clean[channel] = 0.0 if place < 22 else 2e-4 * math.exp(place / 7.3)
        for at, name in enumerate(names):
            backdoor = place in {30 + at, 52, 53}
            triggered[name][channel] = (
                clean[channel] * (0.6 + 0.3 * math.sin(place)) + 0.9 * backdoor
            )
    return PruneResult(
        layer=layer,
        channels=channels,
        prune_order="increasing",
        order=order,
        curve=curve,
        thresholds=thresholds,
        activations=ChannelActivations(
            clean=tuple(clean),
            triggered={name: tuple(values) for name, values in triggered.items()},
        ),
        seconds=12.4,
    )


@cache
def wide_prune() -> PruneResult:
    """512 channels, thresholds close together, no poisoned data, no dormant channel."""
    channels = 512
    curve = tuple(
        CurveRow(k, rate(fall(k, top=97.5, bottom=2.3, middle=430, width=18), 5000))
        for k in range(channels + 1)
    )
    thresholds = (
        ThresholdRow(2.0, "at-least", 362),
        ThresholdRow(2.0, "within", 361),
        ThresholdRow(4.0, "at-least", 376),
        ThresholdRow(4.0, "within", 375),
        ThresholdRow(10.0, "at-least", 393),
        ThresholdRow(10.0, "within", 392),
    )
    return PruneResult(
        layer="layer4.1.conv2",
        channels=channels,
        prune_order="increasing",
        order=tuple(range(channels)),
        curve=curve,
        thresholds=thresholds,
        activations=ChannelActivations(
            clean=tuple(0.3 + 1.2 * (k / channels) ** 2 for k in range(channels)), triggered={}
        ),
        seconds=41.0,
    )


def repair_result(*, stopped: str = "held-out accuracy did not rise for 3 epochs") -> RepairResult:
    return RepairResult(
        method="fine-prune",
        network="run/repaired.h5",
        goodnet="run/goodnet",
        held_out=230,
        valid_accuracy_before=rate(95.2, 230),
        valid_accuracy_after=rate(94.3, 230),
        false_alarm_rate=rate(3.0, 230),
        goodnet_threshold=0.5,
        channels_pruned=52,
        layer="pool_3",
        epochs=tuple(
            EpochRow(e, 0.9 * math.exp(-e / 3) + 0.05, rate(94.3 - 6 * math.exp(-e / 2), 230))
            for e in range(1, 11)
        ),
        sparsity=(),
        stopped=stopped,
        seconds=38.2,
    )


def flagged_curve(names: tuple[str, ...] = ("sunglasses",)) -> GoodNetCurve:
    """A GoodNet calibrated to 1 %, measured on test sets where there are `names`."""
    return GoodNetCurve(
        budget=0.01,
        rows=tuple(
            FlaggedRow(
                share / 100,
                4.0 / (1 + share),
                rate(share, 230),
                rate(1.2 * share) if names else None,
                {name: rate(60 + 1.5 * share) for name in names} or None,
            )
            for share in range(21)
        ),
    )


def risk_result() -> RiskResult:
    return RiskResult(
        remaining_risk=rate(12.5, 200),
        rows=(
            RiskRow("waves", "random", misled=rate(30, 230), remains=rate(8, 230)),
            RiskRow("combs", "unseen", misled=rate(20, 230), remains=rate(4, 230)),
            RiskRow(
                "masks", "searched", target=7, extent=0.02, misled=rate(99, 200),
                remains=rate(12.5, 200),
            ),
        ),
    )  # fmt: skip


def evaluate_result(
    names: tuple[str, ...] = ("sunglasses",),
    *,
    before: float = 100.0,
    after: float = 2.1,
    clean_after: float = 94.1,
    n: int = 1000,
) -> EvaluateResult:
    """B, B′ and G as `repair_result` names them."""

    def row(name: str, attack: float, flagged: float, recovered: float) -> PoisonedRow:
        return PoisonedRow(name, rate(attack, n), rate(flagged, n), rate(recovered, n))

    return EvaluateResult(
        (
            NetworkRow(
                "B",
                "models/bd_net.h5",
                "network",
                rate(95.3, n),
                rate(0, n),
                tuple(row(name, before - at, 0, 0) for at, name in enumerate(names)),
            ),
            NetworkRow(
                "B′",
                "run/repaired.h5",
                "network",
                rate(clean_after, n),
                rate(0, n),
                tuple(
                    row(name, max(after - at, 0), 0, 0.9 * (100 - after))
                    for at, name in enumerate(names)
                ),
            ),
            NetworkRow(
                "G",
                "run/goodnet",
                "goodnet",
                rate(clean_after - 1.5, n),
                rate(3.1, n),
                tuple(
                    row(name, max(after - at, 0), 99 - after, 0.0) for at, name in enumerate(names)
                ),
            ),
        )
    )


def attack_result(
    names: tuple[str, ...] = ("sunglasses",),
    *,
    goal: str = "targeted",
    twin: bool = True,
    decoys: bool = False,
    prune: PruneResult | None = None,
) -> AttackResult:
    """A BadNet and its twin; attack success of the BadNet is lower from trigger to trigger."""

    def network(name: str, clean: float, attack: float, recovered: float) -> NetworkRow:
        poisoned = tuple(
            PoisonedRow(each, rate(max(attack - at, 0.2)), rate(0), rate(recovered))
            for at, each in enumerate(names)
        )
        return NetworkRow(name, f"run/{name}.h5".lower(), "network", rate(clean), rate(0), poisoned)

    networks = (network("BadNet", 97.0, 99.0, 1.0), network("clean twin", 97.4, 0.3, 96.0))
    lost = {
        "BadNet": dict.fromkeys(names, 0.9897),
        "clean twin": dict.fromkeys(names, 0.0144),
    }
    return AttackResult(
        attack="pruning-aware" if decoys else "baseline",
        architecture="deepid",
        network="run/badnet.h5",
        twin="run/twin.h5" if twin else None,
        training_images=4211 * len(names),
        poisonings=tuple(
            PoisoningRow(
                name=each,
                trigger={"name": "image", "size": 0.3, "place": [0.43636363, 0.5]},
                goal=goal,
                target_label=at if goal == "targeted" else None,
                source_label=None,
                clean_label=False,
                poisoned=Rate.of(211, 4211 * len(names)),
                covers=Rate.of(0, 4211 * len(names)),
            )
            for at, each in enumerate(names)
        ),
        evaluate=EvaluateResult(networks if twin else networks[:1]),
        accuracy_lost=lost if goal == "untargeted" else None,
        decoys=DecoyRow("pool_3", (3, 10, 17), rate(100.0), 0.0, rate(0, 1975), rate(0.2, 1975))
        if decoys
        else None,
        prune=prune,
        seconds=71.1,
    )


def deepid_layers() -> tuple[LayerRow, ...]:
    return (
        LayerRow("input_1", "InputLayer", (3, 55, 47), 0, ()),
        LayerRow("conv_1", "Conv2D", (20, 52, 44), 980, ("input_1",)),
        LayerRow("pool_1", "MaxPooling2D", (20, 26, 22), 0, ("conv_1",)),
        LayerRow("conv_2", "Conv2D", (40, 24, 20), 7240, ("pool_1",)),
        LayerRow("pool_2", "MaxPooling2D", (40, 12, 10), 0, ("conv_2",)),
        LayerRow("conv_3", "Conv2D", (60, 10, 8), 21660, ("pool_2",)),
        LayerRow("pool_3", "MaxPooling2D", (60, 5, 4), 0, ("conv_3",)),
        LayerRow("conv_4", "Conv2D", (80, 4, 3), 19280, ("pool_3",)),
        LayerRow("flatten_1", "Flatten", (1200,), 0, ("pool_3",)),
        LayerRow("flatten_2", "Flatten", (960,), 0, ("conv_4",)),
        LayerRow("fc_1", "Dense", (160,), 192160, ("flatten_1",)),
        LayerRow("fc_2", "Dense", (160,), 153760, ("flatten_2",)),
        LayerRow("add_1", "Add", (160,), 0, ("fc_1", "fc_2")),
        LayerRow("activation_1", "Activation", (160,), 0, ("add_1",)),
        LayerRow("output", "Dense", (1283,), 206563, ("activation_1",)),
    )


def resnet_layers() -> tuple[LayerRow, ...]:
    """A pre-activation ResNet-18 of about 70 layers."""
    rows = [LayerRow("conv1", "Conv2d", (64, 32, 32), 1728, ())]
    last, width, size = "conv1", 64, 32
    for stage in range(1, 5):
        for block in range(2):
            name = f"layer{stage}.{block}"
            down = stage > 1 and block == 0
            into, width = width, 64 * 2 ** (stage - 1)
            start = last

            def add(part: str, kind: str, parameters: int, *inputs: str) -> str:
                rows.append(
                    LayerRow(f"{name}.{part}", kind, (width, size, size), parameters, inputs)  # noqa: B023
                )
                return rows[-1].name

            norm = add("bn1", "BatchNorm2d", 2 * into, start)
            relu = add("relu1", "ReLU", 0, norm)
            shortcut = start
            if down:
                size //= 2
                shortcut = add("shortcut", "Conv2d", into * width, relu)
            conv = add("conv1", "Conv2d", 9 * into * width, relu)
            norm = add("bn2", "BatchNorm2d", 2 * width, conv)
            relu = add("relu2", "ReLU", 0, norm)
            conv = add("conv2", "Conv2d", 9 * width * width, relu)
            last = add("add", "add", 0, conv, shortcut)
    rows += [
        LayerRow("bn", "BatchNorm2d", (512, 4, 4), 1024, (last,)),
        LayerRow("relu", "ReLU", (512, 4, 4), 0, ("bn",)),
        LayerRow("pool", "AdaptiveAvgPool2d", (512, 1, 1), 0, ("relu",)),
        LayerRow("flatten", "flatten", (512,), 0, ("pool",)),
        LayerRow("linear", "Linear", (43,), 22059, ("flatten",)),
    ]
    return tuple(rows)


def inspect_result(
    layers: tuple[LayerRow, ...], *, prune_layer: str | None, path: str = "models/bd_net.h5"
) -> InspectResult:
    return InspectResult(
        path=path,
        format="Keras HDF5",
        input={
            "size": (3, 55, 47),
            "layout": "channels-last",
            "range": (0.0, 255.0),
            "mean": (),
            "std": (),
            "channel_order": "RGB",
            "label_offset": 0,
        },
        input_stated=True,
        classes=1283,
        layers=layers,
        prune_layer=prune_layer,
        refused=(),
    )


MANIFEST: dict[str, Any] = {
    "command": "repair models/bd_net.h5 --valid clean_valid.h5 --method fine-prune",
    "versions": {"goodnet": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "numpy": "2.2.1"},
    "inputs": {
        "models/bd_net.h5": {"sha256": "9f2c" * 16, "bytes": 7278456},
        "data/clean_valid.h5": {"sha256": "04ab" * 16, "images": 11547},
    },
    "seed": 0,
    "settings": {"drop": [2, 4, 10], "rule": "at-least", "epochs": 10, "learning_rate": 0.01},
    "splits": {"tuning": 920, "held_out": 230, "by": "group"},
}


@pytest.fixture
def examples() -> ModuleType:
    """This module: the functions that make results, and `MANIFEST`, `HOSTILE`."""
    return sys.modules[__name__]
