"""Training: repeatable, careful with what it is given, honest about where it stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.roles import CleanData
from goodnet.errors import GoodnetError, SettingsError
from goodnet.training import (
    Augmentation,
    Sharpness,
    Training,
    TrainingSettings,
    _nearby,
    cross_entropy,
    layout_of,
    train,
)

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
SHORT = TrainingSettings(epochs=3, batch_size=8, learning_rate=0.01)
STILL = Augmentation(shift=0.0, rotation=0.0, scale=0.0, brightness=0.0)


def trained(
    network: nn.Module,
    data: CleanData,
    how: TrainingSettings = SHORT,
    *,
    seed: int = 0,
    held_out: CleanData | None = None,
) -> Training:
    generator = torch.Generator().manual_seed(seed)
    return train(network, data, how, generator=generator, held_out=held_out)


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.fixture
def norms() -> nn.Module:
    """A network with running statistics and dropout."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 6, 1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(24, 3),
    ).eval()


def test_the_network_handed_in_is_untouched(
    norms: nn.Module, clean: CleanData, untouched: Untouched
) -> None:
    with untouched(norms):
        result = trained(norms, clean)
    assert not same_bits(result.network, norms)
    assert not any(module.training for module in result.network.modules())


def test_same_seed_same_bits_and_another_seed_others(norms: nn.Module, clean: CleanData) -> None:
    how = TrainingSettings(epochs=2, batch_size=8, augmentation=Augmentation())
    torch.manual_seed(1)
    first = trained(norms, clean, how)
    torch.manual_seed(2)
    second = trained(norms, clean, how)
    assert same_bits(first.network, second.network)
    assert first.epochs == second.epochs
    assert not same_bits(first.network, trained(norms, clean, how, seed=1).network)


def test_the_global_random_state_is_left_as_it_was(norms: nn.Module, clean: CleanData) -> None:
    before = torch.random.get_rng_state()
    trained(norms, clean)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_learns(norms: nn.Module, clean: CleanData) -> None:
    how = TrainingSettings(epochs=30, batch_size=8, learning_rate=0.05)
    history = trained(norms, clean, how, held_out=clean).epochs
    assert history[-1].loss < 0.5 * history[0].loss
    assert history[-1].held_out_accuracy.value > 0.9
    assert [row.epoch for row in history] == list(range(1, len(history) + 1))


class Unlearning(CleanData):  # type: ignore[misc]
    """Held-out data on which the network gets ever worse: its labels go bad, epoch by epoch."""

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.__dict__["asked"] = self.__dict__.get("asked", 0) + 1
        for inputs, labels in super().batches(batch_size):
            wrong = torch.arange(len(labels)) < self.__dict__["asked"]
            yield inputs, torch.where(wrong, (labels + 1) % 3, labels)


def test_stopping_early_keeps_the_best_epoch(lamps: nn.Sequential, clean: CleanData) -> None:
    # So gentle that the answers stay right, while the weights move in every epoch.
    gentle = TrainingSettings(epochs=9, batch_size=8, learning_rate=1e-5, patience=3)
    held_out = Unlearning(clean.images, clean.specification)
    seen: list[dict[str, Tensor]] = []

    def keep(network: nn.Module, step: int, _steps: int) -> None:
        if step % 4 == 0:
            seen.append({name: v.clone() for name, v in network.state_dict().items()})

    generator = torch.Generator().manual_seed(0)
    result = train(lamps, clean, gentle, generator=generator, held_out=held_out, after_step=keep)
    counts = [row.held_out_accuracy.count for row in result.epochs]
    assert counts == [29, 28, 27, 26]
    assert result.stopped == "no better held-out accuracy in 3 epochs"
    kept = result.network.state_dict()
    matches = [all(torch.equal(kept[name], v) for name, v in bits.items()) for bits in seen]
    assert matches == [True, False, False, False]


def test_of_equal_epochs_the_last_is_kept(lamps: nn.Sequential, clean: CleanData) -> None:
    gentle = TrainingSettings(epochs=3, batch_size=30, learning_rate=1e-5)
    last: list[Tensor] = []
    result = train(
        lamps,
        clean,
        gentle,
        generator=torch.Generator().manual_seed(0),
        held_out=clean,
        after_step=lambda network, _step, _steps: last.append(
            network.get_parameter("output.weight").detach().clone()
        ),
    )
    assert [row.held_out_accuracy.count for row in result.epochs] == [30, 30, 30]
    assert torch.equal(result.network.get_parameter("output.weight"), last[-1])
    assert result.stopped == "all 3 epochs were done"


def test_the_last_epoch_is_kept_on_request(lamps: nn.Sequential, clean: CleanData) -> None:
    gentle = TrainingSettings(epochs=5, batch_size=30, learning_rate=1e-5, patience=1)
    result = train(
        lamps,
        clean,
        gentle,
        generator=torch.Generator().manual_seed(0),
        held_out=Unlearning(clean.images, clean.specification),
        keep_last=True,
    )
    assert len(result.epochs) == 5
    assert same_bits(result.network, trained(lamps, clean, gentle).network)


def test_without_held_out_data_nothing_is_claimed(lamps: nn.Sequential, clean: CleanData) -> None:
    assert all(row.held_out_accuracy.n == 0 for row in trained(lamps, clean).epochs)


def test_steps_are_counted_to_the_end_and_none_is_a_single_image(
    lamps: nn.Sequential, noise: Callable[..., CleanData]
) -> None:
    # A norm over one pixel of one image has nothing to go by; 2 steps of 5 and 4 have.
    network = nn.Sequential(nn.Conv2d(4, 3, 2), nn.BatchNorm2d(3), nn.Flatten())
    seen: list[tuple[int, int]] = []
    train(
        network,
        noise((4, 2, 2), 9, 3),
        TrainingSettings(epochs=2, batch_size=8),
        generator=torch.Generator().manual_seed(0),
        after_step=lambda _network, step, steps: seen.append((step, steps)),
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_diverging_loss_is_an_error(lamps: nn.Sequential, clean: CleanData) -> None:
    lamps.get_parameter("conv.weight").data[0] = torch.inf
    with pytest.raises(GoodnetError, match=r"training diverged in epoch 1 .*below 0\.01"):
        trained(lamps, clean)


def test_a_softmax_is_left_out_of_the_loss(lamps: nn.Sequential, clean: CleanData) -> None:
    ends_in_softmax = nn.Sequential(*lamps, nn.Softmax(1)).eval()
    plain, soft = trained(lamps, clean), trained(ends_in_softmax, clean)
    assert plain.epochs == soft.epochs
    bits = zip(plain.network.parameters(), soft.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in bits)
    answers = soft.network(clean.pixels())
    assert torch.allclose(answers.sum(1), torch.ones(30))


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        out: Tensor = self.output(x.flatten(1))
        return out


def test_a_network_without_a_graph_is_trained_too(clean: CleanData, untouched: Untouched) -> None:
    network = Undecided().eval()
    with untouched(network):
        result = trained(network, clean)
    assert result.epochs[-1].loss < result.epochs[0].loss


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    shift=st.floats(0, 0.5),
    rotation=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    brightness=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_augmentation_keeps_shape_and_range(
    height: int,
    width: int,
    shift: float,
    rotation: float,
    scale: float,
    brightness: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 2, height, width, generator=generator)
    before = images.clone()
    changed = Augmentation(shift, rotation, scale, brightness)(images, generator)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0.0
    assert changed.max() <= 1.0
    assert torch.equal(images, before)


@pytest.mark.parametrize("size", [(5, 5), (4, 9)])
def test_no_augmentation_changes_nothing(size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size)
    changed = STILL(images, torch.Generator().manual_seed(0))
    assert torch.allclose(changed, images, atol=1e-5)


def test_each_setting_of_the_augmentation_changes_something() -> None:
    images = torch.rand(4, 3, 6, 6)
    for field in ("shift", "rotation", "scale", "brightness"):
        one = Augmentation(**{name: 0.0 for name in vars(STILL) if name != field})
        changed = one(images, torch.Generator().manual_seed(0))
        assert not torch.allclose(changed, images, atol=1e-3), field


def test_a_turned_image_keeps_its_proportions() -> None:
    """A quarter turn of a wide image maps a step down to a step across of the same pixels."""
    images = torch.zeros(1, 1, 9, 17)
    images[0, 0, 4, 7:10] = 1.0
    turn = Augmentation(shift=0.0, rotation=90.0, scale=0.0, brightness=0.0)
    # Seeds are tried for one whose draw is close to a full quarter turn.
    for seed in range(400):
        draw = torch.rand(5, 1, generator=torch.Generator().manual_seed(seed))[0, 0] * 2 - 1
        if abs(draw) > 0.995:
            break
    turned = turn(images, torch.Generator().manual_seed(seed))[0, 0]
    column = turned[:, 8]
    assert column.sum() > 2.5
    assert turned.sum() == pytest.approx(3.0, abs=0.3)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("patience", 0), ("learning_rate", 0.0)],
)
def test_settings_name_their_bad_field(field: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"{field} is {value!r}; give") as caught:
        TrainingSettings(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_the_loss_is_cross_entropy_over_all_images(lamps: nn.Sequential, clean: CleanData) -> None:
    how = TrainingSettings(epochs=1, batch_size=30)
    expected = F.cross_entropy(lamps(clean.pixels()), clean.labels).detach()
    assert trained(lamps, clean, how).epochs[0].loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("stride", "layout"), [(1, torch.channels_last), (2, torch.contiguous_format)]
)
def test_strided_pointwise_convolutions_are_trained_in_the_plain_layout(
    stride: int, layout: torch.memory_format
) -> None:
    # torch 2.13 corrupts memory in their channels-last gradient.
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1, stride=stride))
    assert layout_of(network) == layout


def test_the_nearby_point_of_sharpness_aware_minimisation_by_hand() -> None:
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, -1.0]]))
    network.weight.grad = torch.tensor([[3.0, 4.0]])
    with _nearby(network, Sharpness(0.5)):
        # rho g / ||g|| with ||g|| = 5
        assert network.weight.tolist() == [[pytest.approx(2.3), pytest.approx(-0.6)]]
    assert network.weight.tolist() == [[2.0, -1.0]]
    with _nearby(network, Sharpness(0.5, adaptive=True)):
        # rho w² g / || |w| g ||: w² g = (12, 4), |w| g = (6, 4)
        length = 52**0.5
        moved = [2 + 0.5 * 12 / length, -1 + 0.5 * 4 / length]
        assert network.weight.tolist() == [[pytest.approx(value) for value in moved]]
    assert network.weight.tolist() == [[2.0, -1.0]]


def test_a_failure_nearby_leaves_the_weights_where_they_were(norms: nn.Module) -> None:
    norms(torch.rand(4, 4, 2, 2)).sum().backward()
    before = copy.deepcopy(norms)

    def fail_there() -> None:
        with _nearby(norms, Sharpness(1.0)):
            norms.train()(torch.rand(4, 4, 2, 2))
            raise KeyError

    with pytest.raises(KeyError):
        fail_there()
    momenta = [norm.momentum for norm in norms.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert momenta == [0.1]
    # A norm counts the batches it has seen; what it has learned from them is as before.
    after = norms.state_dict()
    for name, value in before.state_dict().items():
        assert torch.equal(after[name], value) or name.endswith("num_batches_tracked"), name


def test_sharpness_changes_the_network_and_repeats(norms: nn.Module, clean: CleanData) -> None:
    flat = replace(SHORT, sharpness=Sharpness(0.05))
    first = trained(norms, clean, flat).network
    assert same_bits(first, trained(norms, clean, flat).network)
    assert not same_bits(first, trained(norms, clean).network)


def test_a_flat_minimum_is_flatter(norms: nn.Module, clean: CleanData) -> None:
    """The loss rises less when the weights are shaken."""

    def rise(how: TrainingSettings) -> float:
        network = trained(norms, clean, how).network
        inputs, labels = next(clean.batches(len(clean)))
        shaken = []
        for seed in range(20):
            moved = copy.deepcopy(network)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for weight in moved.parameters():
                    weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
                shaken.append(float(F.cross_entropy(moved(inputs), labels)))
        with torch.no_grad():
            return sum(shaken) / len(shaken) - float(F.cross_entropy(network(inputs), labels))

    long = replace(SHORT, epochs=40)
    assert rise(replace(long, sharpness=Sharpness(0.5))) < rise(long)


def test_bfloat16_learns_the_same_and_keeps_weights_in_float32(
    norms: nn.Module, clean: CleanData
) -> None:
    rough = replace(SHORT, precision="bfloat16")
    result = trained(norms, clean, rough)
    assert same_bits(result.network, trained(norms, clean, rough).network)
    exact = trained(norms, clean)
    assert result.epochs[-1].loss == pytest.approx(exact.epochs[-1].loss, rel=0.1)
    assert not same_bits(result.network, exact.network)
    assert {value.dtype for value in result.network.parameters()} == {torch.float32}


def test_the_loss_is_told_which_images_it_sees(norms: nn.Module, clean: CleanData) -> None:
    seen: list[Tensor] = []

    def loss(network: nn.Module, inputs: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        seen.append(chosen)
        assert torch.equal(clean.labels[chosen], labels)
        return cross_entropy(network, inputs, labels, chosen)

    generator = torch.Generator().manual_seed(0)
    one = train(norms, clean, SHORT, generator=generator, loss=loss).network
    assert sorted(torch.cat(seen[: len(seen) // 3]).tolist()) == list(range(len(clean)))
    assert same_bits(one, trained(norms, clean).network)


def test_no_gradient_stays_behind(norms: nn.Module, clean: CleanData) -> None:
    network = trained(norms, clean).network
    assert all(parameter.grad is None for parameter in network.parameters())


def test_wrong_radius_and_precision_are_named() -> None:
    with pytest.raises(SettingsError, match=r"radius is 0.0; give a length above 0"):
        Sharpness(0.0)
    with pytest.raises(SettingsError, match=r"precision is 'half'; choose one of: float32, bfl"):
        TrainingSettings(precision="half")  # type: ignore[arg-type]
