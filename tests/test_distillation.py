"""Students learn answers, on clean images and mixtures, from nothing but the teacher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet import distillation
from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.distillation import between, distilled, student
from goodnet.formats.specification import InputSpecification
from goodnet.training import Training, no_progress

SIZE = (1, 4, 4)
CLASSES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clean_images(labels: Tensor) -> CleanData:
    pixels = torch.rand(len(labels), *SIZE, generator=seeded())
    return CleanData(ImageSet("noise", SIZE, pixels, labels), InputSpecification(SIZE))


def new_network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = (nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
        return nn.Sequential(*layers, nn.Linear(32, CLASSES)).eval()


def taught_by(teacher: nn.Module, labels: Tensor, *, seed: int = 0) -> Training:
    return student(
        teacher,
        clean_images(labels),
        clean_images(labels),
        augmentation=None,
        precision="float32",
        generator=seeded(seed),
        progress=no_progress,
    )


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held to here holds after few steps too."""
    monkeypatch.setattr(distillation, "_LEAST_STEPS", 500)


def test_a_student_gives_the_teachers_answers_by_other_weights() -> None:
    teacher = new_network()
    with torch.no_grad():
        teacher.get_parameter("4.weight").mul_(20.0)  # sure answers
    labels = torch.zeros(512, dtype=torch.int64)
    learned = taught_by(teacher, labels).network
    images = clean_images(labels).pixels()
    same = (learned(images).argmax(1) == teacher(images).argmax(1)).float().mean()
    assert float(same) > 0.9
    name = "0.weight"
    assert not torch.allclose(
        learned.get_parameter(name), teacher.get_parameter(name), rtol=0.2, atol=0.05
    )


def test_the_labels_of_the_images_are_not_used() -> None:
    teacher = new_network()
    one, other = (taught_by(teacher, torch.full((64,), label)).network for label in (0, 1))
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, other.state_dict()[name]), name


def test_the_generator_alone_decides_and_the_teacher_stays() -> None:
    teacher, labels = new_network(), torch.zeros(64, dtype=torch.int64)
    before = {name: weights.clone() for name, weights in teacher.state_dict().items()}
    state = torch.get_rng_state()
    one, same, other = (taught_by(teacher, labels, seed=seed).network for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], each) for name, each in teacher.state_dict().items())
    weights = [each.get_parameter("0.weight") for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_only_the_first_images_are_mixed_and_by_their_shares() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    mixed = between(images, torch.tensor([0.25, 1.0]), generator=seeded())
    other = torch.randperm(4, generator=seeded())[0]
    assert torch.equal(mixed[0], 0.25 * images[0] + 0.75 * images[other])
    assert torch.equal(mixed[1:], images[1:])


def test_like_answers_are_no_distance_apart_and_others_some() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    found = distilled(logits, torch.tensor([[3.0, 1.0], [2.0, 0.0]]), temperature=2.0)
    assert abs(float(found[0])) < 1e-6
    # By hand: T = 2 gives p = (e, 1)/(e + 1) against (1, e)/(e + 1), each log-ratio 1.
    by_hand = 4 * (torch.e - 1) / (torch.e + 1)
    assert abs(float(found[1]) - by_hand) < 1e-5
