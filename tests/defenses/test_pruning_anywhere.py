"""ANP and CLP: what they measure by hand, what they prune and what they leave."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired
from goodnet.defenses import anp as anp_module
from goodnet.defenses.anp import _masked, _Site, _sites, _without
from goodnet.defenses.clp import lipschitz_bounds
from goodnet.errors import SettingsError, SurgeryError
from goodnet.formats.specification import InputSpecification
from goodnet.graph import trace
from goodnet.networks import build_network
from goodnet.results import LayerChannels
from goodnet.training import TrainingSettings, no_progress, train

SIZE = (3, 8, 8)


@pytest.fixture(scope="module")
def data() -> CleanData:
    labels = torch.arange(60) % 3
    pixels = torch.rand(60, *SIZE, generator=torch.Generator().manual_seed(0)) * 0.3
    pixels[torch.arange(60), labels] += 0.6
    return CleanData(ImageSet("colours", SIZE, pixels, labels), InputSpecification(SIZE))


@pytest.fixture(scope="module")
def network(data: CleanData) -> nn.Module:
    """A small CNN with norms that knows its colours."""
    generator = torch.Generator().manual_seed(0)
    new = build_network("small_cnn", 3, SIZE, generator=generator, width=4)
    how = TrainingSettings(epochs=8, batch_size=16, learning_rate=0.01)
    return train(new, data, how, generator=generator).network


def defended(
    method: str, network: nn.Module, data: CleanData, settings: DefenseSettings
) -> Repaired:
    generator = torch.Generator().manual_seed(0)
    return DEFENSES[method](
        network, data, data, settings, generator=generator, progress=no_progress
    )


def test_lipschitz_bounds_by_hand() -> None:
    convolution = nn.Conv2d(2, 2, (1, 2), bias=False)
    with torch.no_grad():
        # As matrices (inputs, width): diag(3, 4), and rank one with norm 5.
        convolution.weight.copy_(
            torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]], [[[3.0, 4.0]], [[0.0, 0.0]]]])
        )
    assert lipschitz_bounds(convolution, None).tolist() == pytest.approx([4.0, 5.0])
    norm = nn.BatchNorm2d(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-2.0, 1.0]))
        assert norm.running_var is not None
        norm.running_var.copy_(torch.tensor([4.0, 25.0]))
    assert lipschitz_bounds(convolution, norm).tolist() == pytest.approx([4.0, 1.0])


def test_clp_prunes_the_channel_that_stands_out_and_no_other(
    network: nn.Module, data: CleanData
) -> None:
    loud = train(
        network,
        data,
        TrainingSettings(epochs=1, learning_rate=1e-9),
        generator=torch.Generator().manual_seed(0),
    ).network
    with torch.no_grad():
        loud.get_parameter("features.norm_3.weight")[5] = 300.0
    repaired = defended("clp", loud, data, DefenseSettings())
    assert repaired.pruned == (LayerChannels("features.conv_3", (5,)),)
    assert repaired.network.get_parameter("features.norm_3.weight")[5] == 0
    changed = [
        name
        for name, value in repaired.network.state_dict().items()
        if not torch.equal(value, loud.state_dict()[name])
    ]
    parts = ("conv_3.weight", "norm_3.weight", "norm_3.bias")
    assert set(changed) <= {f"features.{part}" for part in parts}
    # With everything let pass, nothing goes.
    assert defended("clp", loud, data, DefenseSettings(clp_deviations=99.0)).pruned == ()


def test_a_mask_scales_what_a_norm_gives_but_for_its_shift(network: nn.Module) -> None:
    traced = trace(network)
    sites = [site for site in _sites(traced, SIZE) if site.layer == "features.norm_2"]
    norm = network.get_submodule("features.norm_2")
    assert isinstance(norm, nn.BatchNorm2d)
    value = torch.randn(2, 8, 3, 3)
    scale, change = torch.rand(8), torch.rand(8) - 0.5
    shift = norm.bias.view(1, -1, 1, 1)
    plain = norm(value)
    with _masked(traced, sites, [scale], [change]), torch.no_grad():
        masked = norm(value)
    wanted = scale.view(1, -1, 1, 1) * (plain - shift) + (1 + change.view(1, -1, 1, 1)) * shift
    assert torch.allclose(masked, wanted)
    # The hooks are gone.
    assert torch.equal(norm(value), plain)


@pytest.mark.parametrize("kind", ["norms", "no norms"])
def test_what_is_pruned_is_what_was_masked(
    kind: str, network: nn.Module, lamps: nn.Sequential
) -> None:
    plain, size = (network, SIZE) if kind == "norms" else (lamps, (4, 2, 2))
    traced = trace(plain)
    sites = _sites(traced, size)
    assert [site.layer for site in sites] == (
        [f"features.norm_{place}" for place in (1, 2, 3)] if kind == "norms" else ["relu"]
    )
    gone = [torch.arange(site.channels) % 3 == 1 for site in sites]
    images = torch.rand(5, *size)
    with torch.no_grad(), _masked(traced, sites, [(~each).float() for each in gone]):
        masked = traced(images)
    pruned = tuple(
        LayerChannels(site.layer, tuple(each.nonzero().flatten().tolist()))
        for site, each in zip(sites, gone, strict=True)
    )
    assert torch.allclose(_without(plain, pruned)(images), masked, atol=1e-5)
    assert not torch.allclose(plain(images), masked, atol=1e-3)


def test_anp_stays_inside_the_drop(network: nn.Module, data: CleanData) -> None:
    repaired = defended("anp", network, data, DefenseSettings(drop=5.0))
    right = sum(
        int((repaired.network(inputs).argmax(1) == labels).sum())
        for inputs, labels in data.batches(64)
    )
    assert right >= 57
    for each in repaired.pruned:
        weight = repaired.network.get_parameter(f"{each.layer}.weight")
        assert (weight[list(each.channels)] == 0).all()
    assert "channels with a mask of at most" in repaired.stopped


def test_anp_checks_channels_of_mask_zero_as_well(
    network: nn.Module, data: CleanData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were pruned unseen, whatever that cost."""

    def all_zero(_network: nn.Module, sites: list[_Site], *_: object, **__: object) -> list[Tensor]:
        return [torch.zeros(site.channels) for site in sites]

    monkeypatch.setattr(anp_module, "_learn_masks", all_zero)
    repaired = defended("anp", network, data, DefenseSettings(drop=5.0))
    assert repaired.pruned == ()
    assert "no channel was pruned" in repaired.stopped
    # Where any drop is allowed, they go.
    assert defended("anp", network, data, DefenseSettings(drop=100.0)).pruned


def test_without_norm_or_relu_there_is_nothing_to_mask(data: CleanData) -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3)).eval()
    with pytest.raises(SurgeryError, match="neither a norm nor a ReLU of feature maps"):
        defended("anp", bare, data, DefenseSettings())


@pytest.mark.parametrize(
    ("field", "value"), [("anp_trade_off", 1.5), ("anp_perturbation", -1.0), ("fst_shift", -0.1)]
)
def test_settings_name_their_bad_field(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{field} is {value}; give a"):
        replace(DefenseSettings(), **{field: value})  # type: ignore[arg-type]
