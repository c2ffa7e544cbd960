"""Features that stand for further clean images, and what is made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses.hallucination import Hallucinations, _differences
from goodnet.errors import SurgeryError
from goodnet.formats.specification import InputSpecification
from goodnet.last_layer import features_of

SIZE = (1, 1, 2)


def toy() -> CleanData:
    """Images of two numbers: of label 0 the first is bright, of label 1 the second."""
    values = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.1, 0.8], [0.3, 0.6], [0.2, 0.7], [0.3, 0.9]])
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    images = ImageSet("toy", SIZE, values.view(-1, *SIZE), labels)
    return CleanData(images, InputSpecification(SIZE))


class Doubling(nn.Module):
    """Features are the pixels doubled; answers are the features by `weights`."""

    def __init__(self, weights: Tensor, *, again: bool = False) -> None:
        super().__init__()
        self.answer = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
        self.answer.weight.data.copy_(weights)
        self.again = again

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.answer(2 * images.flatten(1))
        return self.answer(answers) if self.again else answers


RIGHT = torch.eye(2)


def loss_of(
    weights: Tensor, badnet: Tensor = RIGHT, wanted: tuple[bool, bool] = (True, True)
) -> float:
    hallucinations = Hallucinations(
        Doubling(badnet),
        "answer",
        toy(),
        torch.tensor(wanted),
        generator=torch.Generator().manual_seed(0),
    )
    return hallucinations.loss(Doubling(weights), temperature=1.0).item()


def test_features_are_what_the_layer_is_given() -> None:
    network = Doubling(RIGHT).train()
    images = toy()
    assert torch.allclose(features_of(network, "answer", images), 2 * images.pixels().flatten(1))
    assert network.training
    assert not network.answer._forward_pre_hooks


def test_a_layer_that_runs_twice_has_no_features() -> None:
    with pytest.raises(SurgeryError, match=r"'answer' does not run once for an image"):
        features_of(Doubling(RIGHT, again=True), "answer", toy())


def test_differences_are_from_the_labels_mean_and_as_wide_as_those_of_new_images() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 4.0], [7.0, 7.0]])
    differences = _differences(features, torch.tensor([2, 2, 0]))
    wide = 2**0.5
    assert torch.allclose(differences[:2], wide * torch.tensor([[-1.0, -2.0], [1.0, 2.0]]))
    assert torch.equal(differences[2], torch.zeros(2))  # its label has no other image


def test_spread_of_differences_is_that_of_the_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 200  # three images a label
    features = torch.randn(600, 4, generator=generator) + 10 * labels.unsqueeze(1)
    assert float(_differences(features, labels).std()) == pytest.approx(1.0, abs=0.05)


def test_the_badnets_answers_cost_nothing_and_others_do() -> None:
    assert loss_of(RIGHT) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(torch.tensor([[0.0, 0.0], [0.0, 1.0]])) > 0.05


def test_wanted_labels_are_drawn_more_often() -> None:
    forgets_0 = torch.tensor([[-5.0, 0.0], [0.0, 1.0]])  # of six images two are of label 0
    assert loss_of(forgets_0, wanted=(True, False)) > 1.1 * loss_of(forgets_0, wanted=(False, True))
    assert loss_of(forgets_0, wanted=(False, False)) > 0.5


def test_what_the_badnet_gives_another_label_says_nothing() -> None:
    wrong = RIGHT.flip(0)
    assert loss_of(RIGHT, badnet=wrong) == 0.0


def test_images_are_varied_by_the_differences_of_others() -> None:
    """Of label 0 the second number is 0.1 or 0.3; the differences of label 1 reach further."""
    seen: list[Tensor] = []

    class Seen(Doubling):
        def __init__(self) -> None:
            super().__init__(RIGHT)
            self.answer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    generator = torch.Generator().manual_seed(0)
    images = toy()
    hallucinations = Hallucinations(
        Doubling(RIGHT), "answer", images, torch.tensor([True, False]), generator=generator
    )
    hallucinations.loss(Seen(), temperature=1.0)
    features = 2 * images.pixels().flatten(1)
    possible = features.unsqueeze(1) + _differences(features, images.labels)
    possible = possible.flatten(0, 1).clamp(min=float(features.min()))
    nearest = (seen[0].unsqueeze(1) - possible).abs().amax(2).amin(1)
    assert float(nearest.max()) == pytest.approx(0.0, abs=1e-6)
    assert len(torch.unique(seen[0], dim=0)) > len(features)
    assert float(seen[0].min()) >= float(features.min())
