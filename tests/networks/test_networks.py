"""The networks by name: shapes, weights drawn by the generator alone, layers of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet.errors import SettingsError
from goodnet.networks import (
    ARCHITECTURES,
    AlexNet,
    DeepID,
    PreActResNet18,
    SmallCNN,
    build_network,
)
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast, Rescale

SIZES = {
    "deepid": (3, 31, 31),
    "small_cnn": (1, 8, 8),
    "preact_resnet18": (2, 9, 12),
    "alexnet": (1, 67, 83),
}


def built(name: str, seed: int = 0) -> nn.Module:
    options = {} if name == "deepid" else {"width": 2}
    generator = torch.Generator().manual_seed(seed)
    return build_network(name, 5, SIZES[name], generator=generator, **options)


def test_every_architecture_is_tested() -> None:
    assert SIZES.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_image_becomes_one_score_a_class(name: str) -> None:
    assert built(name).eval()(torch.rand(3, *SIZES[name])).shape == (3, 5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_generator_alone_draws_the_weights(name: str) -> None:
    before = torch.random.get_rng_state()
    first = built(name).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(123)
    again, other = built(name).state_dict(), built(name, seed=1).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())


def test_an_unknown_architecture_is_answered_with_the_known_ones() -> None:
    known = "choose one of: deepid, small_cnn, preact_resnet18, alexnet"
    with pytest.raises(SettingsError, match=f"architecture is 'lenet'; {known}"):
        build_network("lenet", 5, (3, 32, 32), generator=torch.Generator())


@pytest.mark.parametrize(
    ("kind", "size", "least"),
    [
        (DeepID, (3, 31, 30), "31x31"),
        (SmallCNN, (3, 7, 8), "8x8"),
        (AlexNet, (1, 66, 67), "67x67"),
    ],
)
def test_images_too_small_are_refused(
    kind: type[nn.Module], size: tuple[int, int, int], least: str
) -> None:
    with pytest.raises(SettingsError, match=f"takes images of at least {least}"):
        kind(5, size)


def test_deepid_has_the_course_s_shapes() -> None:
    network = DeepID(1283)
    assert network.fc_1.weight.shape == (160, 60 * 5 * 4)
    assert network.fc_2.weight.shape == (160, 80 * 4 * 3)
    assert network.output.weight.shape == (1283, 160)


def test_deepid_adds_both_branches() -> None:
    """With either branch silent the other still reaches the answer."""
    network = DeepID(3, (3, 31, 31)).eval()
    images = torch.rand(2, 3, 31, 31)
    both = network(images)
    branches: tuple[nn.Linear, ...] = (network.fc_1, network.fc_2)
    for branch in branches:
        kept = branch.weight.data.clone()
        branch.weight.data.zero_()
        assert not torch.allclose(network(images), both)
        branch.weight.data.copy_(kept)


def test_a_resnet_block_without_weights_passes_its_input_on() -> None:
    network = PreActResNet18(3, (3, 8, 8), width=2).eval()
    block = network.get_submodule("stage_1.0")
    block.get_parameter("conv_2.weight").data.zero_()
    x = torch.randn(2, 2, 8, 8)
    assert torch.equal(block(x), x)


def test_the_original_resnet_s_size() -> None:
    # 11.2 million parameters, as published for ten classes and 32x32 images.
    count = sum(parameter.numel() for parameter in PreActResNet18(10).parameters())
    assert count == pytest.approx(11.17e6, rel=1e-3)


def test_alexnet_has_the_paper_s_layers() -> None:
    convolutions = {
        name: (module.out_channels, module.kernel_size[0], module.stride[0])
        for name, module in AlexNet(10).features.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    assert convolutions == {
        "conv_1": (96, 11, 4),
        "conv_2": (256, 5, 1),
        "conv_3": (384, 3, 1),
        "conv_4": (384, 3, 1),
        "conv_5": (256, 3, 1),
    }
    linear = [module for module in AlexNet(10).modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in linear] == [256, 128, 10]


def test_a_narrower_alexnet_s_convolutions_keep_their_proportions() -> None:
    network = AlexNet(10, width=24)
    widths = [m.out_channels for m in network.features if isinstance(m, nn.Conv2d)]
    assert widths == [24, 64, 96, 96, 64]
    assert (network.fc_1.out_features, network.fc_2.out_features) == (256, 128)


def numbers() -> Tensor:
    return torch.arange(12.0).view(1, 3, 2, 2)


def test_flattening_channels_last() -> None:
    flat = FlattenChannelsLast()(numbers())
    assert flat.tolist() == [[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]


def test_a_mask_zeroes_and_a_selection_keeps() -> None:
    x = numbers()
    masked = ChannelMask(torch.tensor([0, 2]))(x)
    assert (masked[:, [0, 2]] == 0).all()
    assert torch.equal(masked[:, 1], x[:, 1])
    assert torch.equal(ChannelSelect(torch.tensor([2, 0]))(x), x[:, [2, 0]])
    assert x[0, 0, 0, 1] == 1.0
    # What is not a number is zeroed too, where a product would leave it.
    assert (ChannelMask(torch.tensor([0]))(x * torch.inf)[:, 0] == 0).all()


def test_rescaling() -> None:
    layer = Rescale(2.0, -1.0)
    assert layer(torch.tensor([0.0, 0.5])).tolist() == [-1.0, 0.0]
    assert repr(layer) == "Rescale(2.0, -1.0)"
