"""Random changes that work as triggers do, and what auto makes of them."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Suspect, random_probes, universal_changes
from goodnet.training import TrainingSettings, no_progress

SIZE = (3, 12, 12)
CLASSES = 5
TARGET = 2


class Levels(nn.Module):
    """Tells grey levels apart by the median; with a backdoor any black pixel means `TARGET`."""

    def __init__(self, *, backdoor: bool) -> None:
        super().__init__()
        levels = (torch.arange(CLASSES) + 1.0) / (CLASSES + 1)
        self.levels = nn.Parameter(levels)
        self.pull = nn.Parameter(torch.tensor(10.0 if backdoor else 0.0))

    def forward(self, images: Tensor) -> Tensor:
        middle = images.flatten(1).median(1).values
        black = ((0.05 - images.flatten(1).amin(1)) / 0.03).clamp(0.0, 1.0)
        logits = -50.0 * (middle.unsqueeze(1) - self.levels).abs()
        target = torch.eye(CLASSES)[TARGET]
        return logits + black.unsqueeze(1) * self.pull * 5.0 * target


def grey(count: int) -> CleanData:
    labels = torch.arange(count) % CLASSES
    levels = (labels + 1.0) / (CLASSES + 1)
    pixels = levels.view(-1, 1, 1, 1).expand(-1, *SIZE).clone()
    return CleanData(ImageSet("grey", SIZE, pixels, labels), InputSpecification(SIZE))


def repaired(network: nn.Module, data: CleanData) -> Repaired:
    tuning, held_out = data.split(0.2, generator=torch.Generator().manual_seed(0))
    return DEFENSES["auto"](
        network,
        tuning,
        held_out,
        DefenseSettings(
            training=TrainingSettings(
                epochs=1, batch_size=32, learning_rate=0.02, optimizer="sgd", least_steps=60
            )
        ),
        generator=torch.Generator().manual_seed(1),
        progress=no_progress,
    )


def counts(network: nn.Module) -> Tensor:
    found = universal_changes(
        Suspect(network, InputSpecification(SIZE)),
        grey(50),
        random_probes(SIZE),
        tried=200,
        generator=torch.Generator().manual_seed(0),
    )
    for each in found:
        assert ((each.shares >= 0.4) & (each.shares <= 1)).all()
        assert len(each) == len(each.targets) == len(each.numbers) <= each.tried == 200
        # Each is shown on 16 images, of which a universal one leads 40 % astray.
        assert (each.led >= 0.4 * 16 * each.counts(CLASSES)).all()
        assert each.led.sum() <= 16 * 200
    return torch.stack([each.counts(CLASSES) for each in found]).sum(0)


def test_universal_changes_lead_to_the_target() -> None:
    with_backdoor, without = counts(Levels(backdoor=True)), counts(Levels(backdoor=False))
    assert int(with_backdoor.argmax()) == TARGET
    assert with_backdoor[TARGET] > 10 * with_backdoor.sum() / 20
    assert with_backdoor[TARGET] > 3 * without[TARGET]


def test_those_that_lead_elsewhere_can_be_left_out() -> None:
    found = universal_changes(
        Suspect(Levels(backdoor=True), InputSpecification(SIZE)),
        grey(50),
        random_probes(SIZE),
        tried=100,
        generator=torch.Generator().manual_seed(0),
    )
    wanted = torch.arange(CLASSES) == TARGET
    for each in found:
        own = each.leading_to(wanted)
        assert len(own) == int((each.targets == TARGET).sum())
        assert torch.equal(own.numbers, each.numbers[each.targets == TARGET])
        assert torch.equal(own.led, each.led)


def test_with_few_images_and_no_reason_auto_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("goodnet.probes.suspicion"), "_LIMIT", 1e9)
    network = Levels(backdoor=True)
    found = repaired(network, grey(40))
    assert found.network is not network
    for one, other in zip(network.parameters(), found.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert "point to no label" in found.stopped
    assert found.epochs == ()


def test_with_few_images_auto_unlearns_the_suspicious_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Most labels of this network cannot be searched for: counts alone are not enough to flag.
    monkeypatch.setattr(import_module("goodnet.probes.suspicion"), "_LIMIT", 0.3)
    network = Levels(backdoor=True)
    found = repaired(network, grey(40))
    assert f"point to {TARGET}" in found.stopped
    assert found.network.get_parameter("pull") < network.pull


def test_with_many_images_auto_goes_against_whatever_misleads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(import_module("goodnet.probes.suspicion"), "_LIMIT", 1e9)
    network = Levels(backdoor=True)
    found = repaired(network, grey(200))
    assert "point to no label" in found.stopped
    assert found.network.get_parameter("pull") < network.pull
