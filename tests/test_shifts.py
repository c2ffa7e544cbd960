"""What images that get a label wrongly have in common."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.networks.layers import Rescale
from goodnet.probes import Suspect
from goodnet.probes.shifts import Shifts

SIZE = (1, 2, 3)
WIDTH = 6
CLASSES = 4


def drawn(count: int, *, seed: int) -> Tensor:
    """Features around one half."""
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return 0.5 + 0.02 * noise


def shifts_of(clean: Tensor, labels: Tensor) -> Shifts:
    """Of a network whose last layer is given the pixels themselves."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, CLASSES)).eval()
    specification = InputSpecification(SIZE)
    images = ImageSet("clean", SIZE, clean.view(-1, *SIZE), labels)
    found = Shifts.of(
        Suspect(network, specification), CleanData(images, specification), classes=CLASSES
    )
    assert found is not None
    return found


def add(shifts: Shifts, features: Tensor, label: int) -> None:
    """Images with these features, all of which get `label` wrongly, a few at a time."""
    for part in features.split(7):
        said = torch.full((len(part),), label)
        shifts.add(part.view(-1, *SIZE), said, torch.ones(len(part), dtype=torch.bool))


@pytest.fixture
def shifts() -> Shifts:
    labels = torch.arange(400) % CLASSES
    clean = drawn(400, seed=0)
    clean[:, 0] += 0.1 * labels  # what tells labels apart is no shift
    return shifts_of(clean, labels)


def test_what_goes_one_way_is_a_shift_and_what_goes_any_is_none(shifts: Shifts) -> None:
    one_way = drawn(200, seed=1)
    one_way[:, 0] += 0.1
    one_way[:, 3] += 0.2
    add(shifts, one_way, 1)
    any_way = drawn(200, seed=2)
    any_way[:, 0] += 0.2
    any_way[::2, 3] += 0.2
    any_way[1::2, 3] -= 0.2
    add(shifts, any_way, 2)
    _, first, second, _ = shifts.lengths().tolist()
    # Ten deviations in one of six directions.
    assert first == pytest.approx(10 / WIDTH**0.5, rel=0.15)
    assert second < 0.3


def test_right_answers_do_not_count(shifts: Shifts) -> None:
    add(shifts, drawn(50, seed=1), 0)
    before = shifts.lengths()
    wrong = torch.zeros(50, dtype=torch.bool)
    shifts.add(0.9 * torch.ones(50, *SIZE), torch.zeros(50, dtype=torch.int64), wrong)
    assert torch.equal(shifts.lengths()[:1], before[:1])


class Reshaping(nn.Module):
    """Cannot be asked about no image at all."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        answers: Tensor = self.layer(images.reshape(images.size(0), -1))
        return answers


def test_where_every_answer_is_right_nothing_is_asked() -> None:
    specification = InputSpecification(SIZE)
    images = torch.rand(8, *SIZE)
    clean = CleanData(ImageSet("clean", SIZE, images, torch.arange(8) % CLASSES), specification)
    found = Shifts.of(Suspect(Reshaping().eval(), specification), clean, classes=CLASSES)
    assert found is not None
    found.add(images, torch.arange(8) % CLASSES, torch.zeros(8, dtype=torch.bool))
    assert found.lengths().isnan().all()


@pytest.mark.parametrize(("count", "known"), [(9, False), (10, True)])
def test_of_few_images_no_shift_is_known(shifts: Shifts, count: int, known: bool) -> None:
    add(shifts, drawn(count, seed=1), 3)
    assert shifts.lengths().isfinite().tolist() == [False, False, False, known]


def test_few_images_have_no_shift_by_chance(shifts: Shifts) -> None:
    lengths = []
    for seed in range(1, 31):
        again = shifts_of(drawn(400, seed=0), torch.arange(400) % CLASSES)
        add(again, drawn(10, seed=seed), 0)
        lengths.append(float(again.lengths()[0]))
    # A mean of ten is as far off as 0.3 deviations by chance, which is taken away.
    assert sorted(lengths)[15] < 0.2


def test_a_label_without_a_clean_image_has_none() -> None:
    shifts = shifts_of(drawn(90, seed=0), torch.arange(90) % 3)
    for label in (0, 3):
        add(shifts, drawn(40, seed=1), label)
    assert shifts.lengths().isfinite().tolist() == [True, False, False, False]


def test_without_a_linear_layer_at_the_end_nothing_is_known() -> None:
    network = nn.Sequential(nn.Conv2d(1, CLASSES, (2, 3)), nn.Flatten()).eval()
    specification = InputSpecification(SIZE)
    images = ImageSet("clean", SIZE, torch.rand(8, *SIZE), torch.arange(8) % CLASSES)
    clean = CleanData(images, specification)
    assert Shifts.of(Suspect(network, specification), clean, classes=CLASSES) is None
    linear = nn.Linear(WIDTH, CLASSES)
    for weight, known in ((1.0, True), (torch.inf, False)):
        scaled = nn.Sequential(nn.Flatten(), Rescale(weight, 0.0), linear).eval()
        found = Shifts.of(Suspect(scaled, specification), clean, classes=CLASSES)
        assert (found is not None) == known
