"""Decoys: silent, without effect, and back with their old weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn

from goodnet.attack import Material, attack
from goodnet.attacks import AttackSettings, Recipe
from goodnet.attacks.pruning_aware import with_decoys
from goodnet.data.images import ImageSet
from goodnet.data.roles import TrainingData
from goodnet.errors import SettingsError, SurgeryError
from goodnet.formats.specification import InputSpecification
from goodnet.graph import find_prune_layer, trace
from goodnet.poison import Poisoning
from goodnet.surgery import prune_channels
from goodnet.training import TrainingSettings
from goodnet.triggers import Patch

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
PATCH = Poisoning(Patch(size=(0.25, 0.25), place=(0.0, 0.0), pattern="solid"), 1, 0.3)


def noise(size: tuple[int, int, int], count: int = 12, seed: int = 0) -> ImageSet:
    pixels = torch.rand(count, *size, generator=torch.Generator().manual_seed(seed))
    return ImageSet("noise", size, pixels, torch.arange(count) % 3)


class Plain(nn.Module):
    """Convolution and ReLU without a norm; the convolution's bias is a choice."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=bias)
        self.relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.output = nn.Linear(6 * 6 * 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.output(self.flatten(self.relu(self.conv(images))))
        return answer


def networks(kind: str) -> tuple[nn.Module, nn.Module, tuple[int, int, int]]:
    """Two networks of one kind, random, with norms that have seen something."""
    size = (3, 55, 47) if kind == "deepid" else (3, 8, 8)
    made: list[nn.Module] = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        if kind.startswith("plain"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network: nn.Module = Plain(bias=kind == "plain with bias")
        else:
            recipe = Recipe(
                kind,
                InputSpecification(size),
                classes=3,
                training=TrainingSettings(),
                options={} if kind == "deepid" else {"width": 4},
            )
            network = recipe.new_network(generator=generator)
        network.train()(noise(size, seed=seed).pixels[0:12])
        made.append(network.eval())
    return made[0], made[1], size


@pytest.mark.parametrize(
    "kind", ["small_cnn", "preact_resnet18", "deepid", "plain with bias", "plain without bias"]
)
def test_decoys_are_silent_and_change_nothing(kind: str, untouched: Untouched) -> None:
    clean, other, size = networks(kind)
    layer = find_prune_layer(trace(clean), size)
    decoys = torch.tensor([0, 2, 3])
    pruned = prune_channels(other, layer, decoys)
    data = TrainingData(noise(size), InputSpecification(size))
    with untouched(pruned), untouched(clean):
        restored = with_decoys(pruned, clean, layer, decoys, data)
    fresh = noise(size, count=40, seed=9).pixels[0:40]
    seen: list[Tensor] = []
    restored.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        assert torch.equal(restored(fresh), trace(pruned)(fresh))
    assert (seen[0][:, decoys] == 0).all()
    assert not (seen[0] == 0).all()


def test_decoys_have_their_old_weights_and_the_others_their_new_ones() -> None:
    clean, other, size = networks("small_cnn")
    decoys = torch.tensor([1, 5])
    pruned = prune_channels(other, "features.pool_3", decoys)
    data = TrainingData(noise(size), InputSpecification(size))
    restored = with_decoys(pruned, clean, "features.pool_3", decoys, data).state_dict()
    old, new = clean.state_dict(), other.state_dict()
    kept = torch.tensor([i for i in range(16) if i not in (1, 5)])
    for name in ("conv_3.weight", "norm_3.weight", "norm_3.running_mean", "norm_3.running_var"):
        key = f"features.{name}"
        assert torch.equal(restored[key][decoys], old[key][decoys]), key
        assert torch.equal(restored[key][kept], new[key][kept]), key
    shift = "features.norm_3.bias"
    assert (restored[shift][decoys] < old[shift][decoys]).all()
    assert torch.equal(restored[shift][kept], new[shift][kept])
    # Low, and not so low that a glance at the weights gives it away.
    assert restored[shift].min() > -1e3


def test_the_whole_attack_keeps_its_books(material: Material, recipe: Recipe) -> None:
    made = attack(
        material,
        [PATCH],
        recipe,
        method="pruning-aware",
        settings=AttackSettings(budget=10.0),
        generator=torch.Generator().manual_seed(0),
        with_curve=True,
    )
    decoys = made.result.decoys
    assert decoys is not None
    assert len(decoys.channels) > 0
    assert decoys.largest_activation == 0
    assert (decoys.silent_images.count, decoys.silent_images.n) == (30, 30)
    assert (decoys.changed_by_putting_back.count, decoys.changed_by_putting_back.n) == (0, 50)
    assert decoys.changed_by_pruning.count == 0
    # A defender prunes the decoys first, in vain, with other channels that never speak.
    prune = made.result.prune
    assert prune is not None
    silent = [channel for channel in prune.order if prune.activations.clean[channel] == 0]
    assert set(decoys.channels) <= set(silent)
    assert set(prune.order[: len(silent)]) == set(silent)
    unpruned, without = prune.curve[0], prune.curve[len(decoys.channels)]
    assert unpruned.attack_success_rate == without.attack_success_rate


def test_a_budget_that_spares_nothing_is_named(material: Material, recipe: Recipe) -> None:
    # Each of its three channels tells one class, so none can go for nothing.
    eyes = Plain(bias=False)
    eyes.conv = nn.Conv2d(3, 3, 1, bias=False)
    eyes.output = nn.Linear(3 * 64, 3, bias=False)
    with torch.no_grad():
        eyes.conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        eyes.output.weight.copy_(torch.eye(3).repeat_interleave(64, 1))
    with pytest.raises(SettingsError, match=r"budget is 0.0; that spares no channel"):
        attack(
            material,
            [PATCH],
            recipe,
            method="pruning-aware",
            settings=AttackSettings(budget=0.0),
            generator=torch.Generator().manual_seed(0),
            clean_network=eyes,
        )


def test_a_layer_before_the_relu_cannot_be_silenced(material: Material, quick: Recipe) -> None:
    with pytest.raises(SurgeryError, match=r"choose a layer made by a convolution or norm with"):
        attack(
            material,
            [PATCH],
            quick,
            method="pruning-aware",
            settings=AttackSettings(budget=100.0, layer="features.norm_3"),
            generator=torch.Generator().manual_seed(0),
        )
