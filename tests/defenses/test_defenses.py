"""One table over all defenses: what each must hold to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from goodnet.answers import accuracy_of
from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData, PoisonedData, TestData, TrainingData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, tuning_of
from goodnet.formats.specification import InputSpecification
from goodnet.networks import build_network
from goodnet.training import TrainingSettings, no_progress, train

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
TRAINING = TrainingSettings(epochs=2, batch_size=8, learning_rate=0.01)
PRUNES = ("prune", "fine-prune")
PRUNES_ANYWHERE = (*PRUNES, "anp", "clp")
TUNES = (
    "auto",
    "fine-tune",
    "fine-prune",
    "magnitude",
    "ft-sam",
    "fst",
    "sau",
    "inversion",
    "i-bau",
    "d3",
)
KEEPS_LAST = ("magnitude", "fst", "inversion", "i-bau", "d3")


@pytest.fixture(params=DEFENSES)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def parts(clean: CleanData) -> tuple[CleanData, CleanData]:
    return clean.split(0.4, generator=torch.Generator().manual_seed(9))


def defended(
    method: str,
    network: nn.Module,
    parts: tuple[CleanData, CleanData],
    *,
    layer: str | None = "pool",
    drop: float = 4.0,
    seed: int = 0,
) -> Repaired:
    return DEFENSES[method](
        network,
        *parts,
        DefenseSettings(
            layer=layer,
            drop=drop,
            training=replace(
                tuning_of(method),
                epochs=2,
                batch_size=8,
                learning_rate=0.01,
                augmentation=None,
                least_steps=0,
            ),
        ),
        generator=torch.Generator().manual_seed(seed),
        progress=no_progress,
    )


def bits(network: nn.Module) -> dict[str, Tensor]:
    return network.state_dict()


def test_the_network_handed_in_is_untouched(
    method: str, lamps: nn.Sequential, parts: tuple[CleanData, CleanData], untouched: Untouched
) -> None:
    lamps.train()
    with untouched(lamps):
        repaired = defended(method, lamps, parts)
    own = {id(parameter) for parameter in lamps.parameters()}
    assert not own & {id(parameter) for parameter in repaired.network.parameters()}


def test_same_seed_same_bits(
    method: str, lamps: nn.Sequential, parts: tuple[CleanData, CleanData]
) -> None:
    first, again = (defended(method, lamps, parts) for _ in range(2))
    one, other = bits(first.network), bits(again.network)
    assert list(one) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert (first.pruned, first.epochs, first.stopped) == (
        again.pruned,
        again.epochs,
        again.stopped,
    )
    if method in TUNES:
        third = bits(defended(method, lamps, parts, seed=1).network)
        assert not all(torch.equal(value, third[name]) for name, value in one.items())


@pytest.mark.parametrize("role", [PoisonedData, TestData, TrainingData])
@pytest.mark.parametrize("layer", [None, "pool"])
@pytest.mark.parametrize("place", [0, 1], ids=["tuning", "held out"])
def test_only_clean_data_is_taken(
    method: str,
    lamps: nn.Sequential,
    parts: tuple[CleanData, CleanData],
    role: type,
    layer: str | None,
    place: int,
) -> None:
    given = list(parts)
    data = parts[place]
    named = ("set",) if role is PoisonedData else ()
    given[place] = role(data.images, data.specification, *named)
    with pytest.raises(TypeError, match=f"takes CleanData only, not {role.__name__}"):
        defended(method, lamps, (given[0], given[1]), layer=layer)


def test_the_record_fits_the_method(
    method: str, lamps: nn.Sequential, parts: tuple[CleanData, CleanData]
) -> None:
    repaired = defended(method, lamps, parts)
    if method not in PRUNES_ANYWHERE:
        assert repaired.pruned == ()
    if method in PRUNES:
        assert [each.layer for each in repaired.pruned] == ["pool"]
    runs = int(method in TUNES)
    if method == "auto":  # of few images it tunes none
        runs = 0
        assert "rows of the last layer are fitted anew: that of" in repaired.stopped
    assert len(repaired.epochs) == runs * TRAINING.epochs
    assert bool(repaired.sparsity) == (method == "magnitude")
    assert repaired.stopped
    assert not repaired.network.training
    if runs:
        best = max(row.held_out_accuracy.count for row in repaired.epochs)
        last = repaired.epochs[-1].held_out_accuracy.count
        kept = last if method in KEEPS_LAST else best
        assert accuracy_of(repaired.network, parts[1]).count == kept


@pytest.mark.parametrize("method", PRUNES)
@pytest.mark.parametrize("drop", [0.0, 70.0])
def test_pruned_channels_are_zero_whatever_follows(
    method: str, parts: tuple[CleanData, CleanData], drop: float, lamps: nn.Sequential
) -> None:
    repaired = defended(method, lamps, parts, drop=drop)
    images = torch.randn(6, 4, 2, 2) * 10
    seen: list[Tensor] = []
    module = repaired.network.get_submodule("pool")
    hook = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    repaired.network(images)
    hook.remove()
    zero = (seen[0] == 0).flatten(2).all(2).all(0).nonzero().flatten().tolist()
    (pruned,) = repaired.pruned
    assert set(zero) >= set(pruned.channels)
    assert len(pruned.channels) == (2 if drop == 0.0 else 4)
    if method == "prune":
        assert set(zero) == set(pruned.channels)


class Masked(nn.Module):
    """Sigmoid makes zero one half, so the pruned channels need a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.sigmoid = nn.Sigmoid()
        self.flatten = nn.Flatten()
        self.output = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output(self.flatten(self.sigmoid(self.conv(x))))
        return out


class Undecided(Masked):
    """The same without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        return super().forward(x)


@pytest.mark.parametrize("kind", [Masked, Undecided])
def test_fine_pruning_keeps_masked_channels_at_zero(
    kind: type[nn.Module], parts: tuple[CleanData, CleanData]
) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    repaired = defended("fine-prune", network, parts, layer="sigmoid", drop=60.0)
    assert repaired.pruned[0].channels
    seen: list[Tensor] = []
    mask = next(m for n, m in repaired.network.named_modules() if type(m).__name__ == "ChannelMask")
    mask.register_forward_hook(lambda _m, _i, output: seen.append(output))
    repaired.network(torch.randn(3, 4, 2, 2))
    assert (seen[0][:, list(repaired.pruned[0].channels)] == 0).all()


def test_fine_pruning_keeps_channels_at_zero_that_training_would_wake(
    parts: tuple[CleanData, CleanData],
) -> None:
    """A ReLU at zero passes no gradient to the weights before it, but a GELU does."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 1), nn.GELU(), nn.Flatten(), nn.Linear(24, 3)).eval()
    repaired = defended("fine-prune", network, parts, layer="1", drop=100.0)
    assert len(repaired.pruned[0].channels) == 6
    for name in ("0.weight", "0.bias"):
        assert (repaired.network.get_parameter(name) == 0).all()


def test_fine_pruning_a_network_with_norms_keeps_channels_at_zero() -> None:
    """The norm's shift and statistics move in training; the channels must not."""
    size, labels = (3, 8, 8), torch.arange(24) % 3
    pixels = torch.rand(24, *size, generator=torch.Generator().manual_seed(0)) * 0.3
    pixels[torch.arange(24), labels] += 0.6
    data = CleanData(ImageSet("colours", size, pixels, labels), InputSpecification(size))
    generator = torch.Generator().manual_seed(0)
    network = build_network("small_cnn", 3, size, generator=generator, width=4)
    network = train(network, data, replace(TRAINING, epochs=12), generator=generator).network
    layer = "features.relu_3"
    repaired = defended("fine-prune", network, (data, data), layer=layer, drop=8.0)
    assert 1 <= len(repaired.pruned[0].channels) < 16
    seen: list[Tensor] = []
    module = repaired.network.get_submodule(layer)
    module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    repaired.network(torch.randn(5, *size) * 5)
    assert (seen[0][:, list(repaired.pruned[0].channels)] == 0).all()
    assert not (seen[0] == 0).all()
