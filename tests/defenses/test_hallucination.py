"""Features that stand for further clean images, and what is made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses.hallucination import Hallucinated, _differences, hallucinated
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


def drawn(*wanted: bool) -> tuple[Hallucinated, Tensor, Tensor]:
    """Of the toy's images as they are, with these and their labels."""
    features, labels = toy().pixels().flatten(1), toy().labels
    generator = torch.Generator().manual_seed(0)
    found = hallucinated(features, labels, torch.tensor(wanted), count=300, generator=generator)
    return found, features, labels


@pytest.mark.parametrize(
    ("wanted", "share"),
    [
        ((False, False), 1 / 3),
        ((True, True), 1 / 3),
        ((True, False), 5 / 9),
        ((False, True), 7 / 9),
    ],
)
def test_wanted_labels_are_drawn_more_often(wanted: tuple[bool, bool], share: float) -> None:
    """Of six images two are of label 0; a third of those drawn are of labels that are wanted."""
    found, _, labels = drawn(*wanted)
    of = int(wanted == (False, True))
    assert float((labels[found.varied] == of).float().mean()) == pytest.approx(share, abs=0.08)


def test_images_are_varied_by_the_differences_of_others() -> None:
    """Of label 0 the second number is 0.1 or 0.3; the differences of label 1 reach further."""
    found, features, labels = drawn(True, False)
    sums = features[found.varied] + _differences(features, labels)[found.lent]
    assert torch.equal(found.features, sums.clamp(min=float(features.min())))
    of_others = labels[found.varied] != labels[found.lent]
    assert 0.2 < float(of_others.float().mean()) < 0.8
    assert len(torch.unique(found.features, dim=0)) > len(features)


def test_the_generator_tells_what_is_drawn() -> None:
    first, *_ = drawn(True, True)
    again, *_ = drawn(True, True)
    assert torch.equal(first.features, again.features)
