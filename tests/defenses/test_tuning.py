"""FT-SAM, FST, D3 and SAU: each does what sets it apart from plain fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, tuning_of
from goodnet.defenses.sau import _divergence, _shared_change
from goodnet.errors import SurgeryError
from goodnet.last_layer import last_linear
from goodnet.training import no_progress

Parts = tuple[CleanData, CleanData]


@pytest.fixture
def parts(clean: CleanData) -> Parts:
    return clean.split(0.4, generator=torch.Generator().manual_seed(9))


def tuned(method: str, network: nn.Module, parts: Parts, **settings: float) -> Repaired:
    short = replace(tuning_of(method), epochs=20, batch_size=8, augmentation=None)
    return DEFENSES[method](
        network,
        *parts,
        DefenseSettings(training=short, **settings),  # type: ignore[arg-type]
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


def test_ft_sam_trains_as_published() -> None:
    how = tuning_of("ft-sam")
    assert how.sharpness is not None
    assert (how.optimizer, how.learning_rate) == ("sgd", 0.01)
    assert (how.sharpness.radius, how.sharpness.adaptive) == (2.0, True)
    assert tuning_of("fine-tune").sharpness is None


def test_fst_holds_the_norm_of_the_last_layer_and_leaves_its_direction(
    lamps: nn.Sequential, parts: Parts
) -> None:
    old = lamps.get_parameter("output.weight")
    new = tuned("fst", lamps, parts).network.get_parameter("output.weight")
    assert float(new.detach().norm()) == pytest.approx(float(old.detach().norm()), rel=1e-5)
    assert not torch.allclose(new, old, atol=0.1)


def test_a_heavier_shift_leaves_less_of_the_old_layer(lamps: nn.Sequential, parts: Parts) -> None:
    old = lamps.get_parameter("output.weight").detach().flatten()

    def likeness(weight: float) -> float:
        repaired = tuned("fst", lamps, parts, fst_shift=weight)
        new = repaired.network.get_parameter("output.weight").detach().flatten()
        return float(F.cosine_similarity(new, old, dim=0))

    assert likeness(1.0) < likeness(0.0) - 0.2


def test_d3_leaves_the_old_layer_as_far_as_the_clean_loss_allows(
    lamps: nn.Sequential, parts: Parts
) -> None:
    old = lamps.get_parameter("output.weight").detach()
    inputs, labels = next(parts[0].batches(64))

    def far(weight: float) -> tuple[float, float]:
        how = replace(
            tuning_of("d3"), epochs=100, batch_size=8, learning_rate=0.05, augmentation=None
        )
        repaired = DEFENSES["d3"](
            lamps,
            *parts,
            DefenseSettings(training=how, d3_weight=weight, d3_bound=0.3),
            generator=torch.Generator().manual_seed(0),
            progress=no_progress,
        ).network
        new = repaired.get_parameter("output.weight").detach()
        assert float(new.norm()) == pytest.approx(float(old.norm()), rel=1e-5)
        with torch.no_grad():
            return float((new - old).norm()), float(F.cross_entropy(repaired(inputs), labels))

    distance, clean_loss = far(30.0)
    # Two vectors of one norm can be twice that apart; a layer drawn anew is 1.4 of it away.
    assert distance > 1.6 * float(old.norm())
    assert clean_loss < 0.3
    # With no weight on the clean loss nothing holds the layer back.
    distance_alone, loss_alone = far(0.0)
    assert distance_alone == pytest.approx(2 * float(old.norm()), rel=1e-3)
    assert loss_alone > 1.0


@pytest.mark.parametrize("method", ["fst", "d3"])
def test_these_need_a_linear_layer_at_the_end(
    method: str, lamps: nn.Sequential, parts: Parts
) -> None:
    assert last_linear(lamps) == "output"
    assert last_linear(nn.Sequential(*lamps, nn.Softmax(1))) == "4"
    bare = nn.Sequential(nn.Conv2d(4, 3, 2), nn.Flatten())
    with pytest.raises(SurgeryError, match=r"not in a linear layer; choose another method"):
        tuned(method, bare, parts)


def test_divergence_by_hand() -> None:
    one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert float(_divergence(one, other)) == pytest.approx(0.0, abs=1e-7)
    # Sure of one class each: the divergence is ln 2, the largest there is.
    sure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert float(_divergence(*sure)) == pytest.approx(0.693147, abs=1e-4)


def test_the_shared_change_misleads_both_within_its_limit(lamps: nn.Sequential) -> None:
    # Lamp 0 alone is lit, dimly: class 0, unless lamp 0 is darkened and another lit.
    inputs, labels = torch.zeros(2, 4, 2, 2), torch.tensor([0, 0])
    inputs[:, 0, 0, 0] = 0.3
    ends = torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1)
    other = nn.Sequential(*lamps)
    changed = _shared_change(lamps, other, inputs, labels, ends, 0.2)
    assert (changed - inputs).abs().max() <= 0.2 + 1e-6
    assert changed.min() >= 0
    assert changed.max() <= 1
    answers = [network(changed) for network in (lamps, other)]
    before = F.cross_entropy(lamps(inputs), labels)
    assert all(F.cross_entropy(answer, labels) > before for answer in answers)
    assert not any(parameter.grad is not None for parameter in lamps.parameters())


def test_sau_unlearns_a_backdoor_that_fine_tuning_leaves(
    lamps: nn.Sequential, parts: Parts, triggered: Callable[[], Tensor]
) -> None:
    """The lamp of the trigger is dark on clean images, so plain tuning never learns of it."""

    def shouts(method: str) -> float:
        how = replace(tuning_of(method), epochs=60, batch_size=8, learning_rate=0.1)
        repaired = DEFENSES[method](
            lamps,
            *parts,
            DefenseSettings(training=replace(how, augmentation=None), sau_perturbation=0.5),
            generator=torch.Generator().manual_seed(0),
            progress=no_progress,
        )
        return float((repaired.network(triggered()).argmax(1) == 0).float().mean())

    assert shouts("fine-tune") == 1.0
    assert shouts("sau") < 0.7


@pytest.fixture
def triggered() -> Callable[[], Tensor]:
    """Images of classes 1 and 2 with the trigger's lamp lit."""

    def images() -> Tensor:
        pixels = torch.zeros(20, 4, 2, 2)
        pixels[::2, 1, 0, 0], pixels[1::2, 2, 0, 0] = 0.75, 0.5
        pixels[:, 3, 1, 1] = 1.0
        return pixels

    return images
