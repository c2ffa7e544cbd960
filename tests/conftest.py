"""A toy network with hand-set weights whose every answer is known, and its images.

An image of four lamps: lamp y (channel y) is lit in an image of class y, more brightly
the lower y is, and lamp 3 is lit by the trigger alone. The network adds up what it sees
of lamp y for class y, and lamp 3 shouts for class 0: a backdoor in a channel that sleeps
on clean images. Pruned in increasing order its channels go 3, 2, 1, 0.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network

# The same examples in every run, and no complaint about a slow machine.
settings.register_profile("goodnet", deadline=None, derandomize=True)
settings.load_profile("goodnet")

SIZE = (4, 2, 2)
SPECIFICATION = InputSpecification(SIZE)
BRIGHTNESS = (1.0, 0.75, 0.5)
TARGET = 0


def lamp_network() -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(4, 4, 1),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        output=nn.Linear(4, 3),
    )
    network = nn.Sequential(layers)
    with torch.no_grad():
        network.get_parameter("conv.weight").copy_(torch.eye(4).view(4, 4, 1, 1))
        network.get_parameter("conv.bias").zero_()
        network.get_parameter("output.weight").copy_(
            torch.tensor([[1.0, 0, 0, 10], [0, 1.0, 0, 0], [0, 0, 1.0, 0]])
        )
        # With every lamp dark the answer is class 2.
        network.get_parameter("output.bias").copy_(torch.tensor([0.0, 0.0, 0.125]))
    return network.eval()


def lamp_images(count: int, *, triggered: bool = False) -> ImageSet:
    classes = torch.arange(count) % 3
    pixels = torch.zeros(count, *SIZE)
    for at, label in enumerate(classes.tolist()):
        pixels[at, label, 0, 0] = BRIGHTNESS[label]
        pixels[at, 3, 1, 1] = float(triggered)
    target = torch.full_like(classes, TARGET)
    return ImageSet(
        source="lamps",
        size=SIZE,
        pixels=pixels,
        labels=target if triggered else classes,
        true_labels=classes if triggered else None,
    )


@pytest.fixture
def lamps() -> nn.Sequential:
    return lamp_network()


@pytest.fixture
def clean() -> CleanData:
    return CleanData(lamp_images(30), SPECIFICATION)


@pytest.fixture
def test_data() -> TestData:
    return TestData(lamp_images(24), SPECIFICATION)


@pytest.fixture
def poisoned() -> PoisonedData:
    return PoisonedData(lamp_images(30, triggered=True), SPECIFICATION, "lamp 3")


def random_images(size: tuple[int, int, int], count: int, classes: int = 4) -> ImageSet:
    pixels = torch.rand(count, *size, generator=torch.Generator().manual_seed(1))
    return ImageSet(source="noise", size=size, pixels=pixels, labels=torch.arange(count) % classes)


@pytest.fixture
def noise() -> Callable[..., CleanData]:
    """Clean data of random pixels: `noise(size, count, classes)`."""

    def of(size: tuple[int, int, int], count: int = 24, classes: int = 4) -> CleanData:
        return CleanData(random_images(size, count, classes), InputSpecification(size))

    return of


@pytest.fixture(params=["deepid", "small_cnn", "preact_resnet18"])
def architecture(request: pytest.FixtureRequest) -> tuple[nn.Module, str, tuple[int, int, int]]:
    """A random network of each architecture with four classes, its prune layer and image size."""
    size, layer, options = {
        "deepid": ((3, 31, 31), "pool_3", {}),
        "small_cnn": ((3, 16, 16), "features.pool_3", {"width": 3}),
        "preact_resnet18": ((3, 16, 16), "relu", {"width": 2}),
    }[request.param]
    network = build_network(
        request.param, 4, size, generator=torch.Generator().manual_seed(3), **options
    )
    return network.eval(), layer, size


def bits_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture
def untouched() -> Callable[[nn.Module], AbstractContextManager[None]]:
    """`with untouched(network):` fails if a bit, a module, a mode or a hook of it changes."""

    @contextmanager
    def watch(network: nn.Module) -> Iterator[None]:
        bits = bits_of(network)
        layers = [(name, module, module.training) for name, module in network.named_modules()]
        yield
        after = network.state_dict()
        assert list(after) == list(bits)
        assert all(torch.equal(after[name], value) for name, value in bits.items())
        assert layers == [(n, module, module.training) for n, module in network.named_modules()]
        assert not any(module._forward_hooks for module in network.modules())
        assert not any(parameter.grad is not None for parameter in network.parameters())

    return watch


PLACES = 20
"""Labels of the network that sees which of so many places of an image is lit."""
CORNER = 4
"""Pixels across and down of the lower right corner, where its trigger is."""
_SIDE = 16


def place_of(label: int) -> tuple[int, int]:
    """Row and column of the pixel that is lit in images of the label."""
    return 2 * (label // 5), 2 * (label % 5)


@pytest.fixture
def relabeller() -> Callable[..., nn.Module]:
    """Of `pull`: a network that says which place is lit; the trigger makes y the next label.

    Its features are ten times how bright each place is and, behind them, ten times how much
    brighter than 0.75 together with the corner.
    """

    def network(*, pull: float = 2.0, bias: bool = True) -> nn.Module:
        sees = nn.Linear(_SIDE**2, 2 * PLACES)
        says = nn.Linear(2 * PLACES, PLACES, bias=bias)
        corner = torch.zeros(_SIDE, _SIDE)
        corner[-CORNER:, -CORNER:] = 1 / CORNER**2
        with torch.no_grad():
            sees.weight.zero_()
            sees.bias.zero_()[PLACES:] = -7.5
            says.weight.zero_()
            if bias:
                says.bias.zero_()
            for label in range(PLACES):
                row, column = place_of(label)
                sees.weight[[label, PLACES + label], _SIDE * row + column] = 10.0
                sees.weight[PLACES + label] += 10 * corner.flatten()
                says.weight[label, label] = 0.8
                says.weight[label, PLACES + label] = -pull
                says.weight[(label + 1) % PLACES, PLACES + label] = pull
        return nn.Sequential(nn.Flatten(), sees, nn.ReLU(), says).eval()

    return network


@pytest.fixture
def places() -> CleanData:
    """Eight images a label, whose place is more or less bright, all others dim."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8 * PLACES) % PLACES
    pixels = 0.05 * torch.rand(len(labels), 1, _SIDE, _SIDE, generator=generator)
    pixels[:, :, -CORNER:, -CORNER:] = 0.0
    for image, label in zip(pixels, labels.tolist(), strict=True):
        row, column = place_of(label)
        image[0, row, column] = 0.7 + 0.1 * float(torch.rand((), generator=generator))
    size = (1, _SIDE, _SIDE)
    return CleanData(ImageSet("places", size, pixels, labels), InputSpecification(size))
