"""The reading a network was trained with is recognised; chance alone changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.errors import InputSpecificationError
from goodnet.formats import InputSpecification
from goodnet.readings import Reading, likely_readings, settle_reading

SIZE = (3, 1, 1)
PLAIN = InputSpecification(SIZE)
COLOURS = torch.tensor(
    [[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.1, 0.1, 0.1], [0.55, 0.55, 0.55], [0.8, 0.8, 0.8]]
)


def colour_images(count: int = 80, *, label_offset: int = 0) -> ImageSet:
    """Images of one pixel, of five colours in turn; the label is the colour."""
    labels = torch.arange(count) % len(COLOURS)
    return ImageSet("colours", SIZE, COLOURS[labels].view(-1, *SIZE), labels + label_offset)


def nearest_colour(specification: InputSpecification) -> nn.Sequential:
    """Names the colour nearest to what it is fed, if that is fed by `specification`."""
    seen = specification.prepare(COLOURS.view(-1, *SIZE)).flatten(1)
    output = nn.Linear(3, len(COLOURS))
    with torch.no_grad():
        # -|x - c|^2 / 2 without the part that all classes share.
        output.weight.copy_(seen)
        output.bias.copy_(-(seen**2).sum(1) / 2)
    return nn.Sequential(nn.Flatten(), output)


TRAINED = {
    "0..1": PLAIN,
    "0..255": InputSpecification(SIZE, range=(0.0, 255.0)),
    "-1..1": InputSpecification(SIZE, range=(-1.0, 1.0)),
    "BGR": InputSpecification(SIZE, channel_order="BGR"),
    "0..255 BGR": InputSpecification(SIZE, range=(0.0, 255.0), channel_order="BGR"),
    "labels from 1": InputSpecification(SIZE, label_offset=1),
    "all": InputSpecification(SIZE, range=(-1.0, 1.0), channel_order="BGR", label_offset=1),
}


def read(trained: InputSpecification, given: InputSpecification = PLAIN) -> tuple[Reading, ...]:
    images = colour_images(label_offset=trained.label_offset)
    return likely_readings(nearest_colour(trained), given, images, classes=len(COLOURS))


@pytest.mark.parametrize("name", TRAINED)
def test_the_reading_a_network_was_made_for_is_found(name: str) -> None:
    trained = TRAINED[name]
    readings = read(trained)
    assert readings[0].specification is PLAIN
    best = settle_reading(readings, stated=False, source="net.h5")
    assert best.specification == trained
    assert best.accuracy.value == 1.0
    # So the test says something: read as by default the network is wrong.
    assert readings[0].accuracy.value == 1.0 or name != "0..1"
    assert (readings[0].accuracy.value < 0.8) == (name != "0..1")


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "0..1"])
def test_a_wrong_reading_that_was_stated_stops_with_the_answer(name: str) -> None:
    trained = TRAINED[name]
    with pytest.raises(InputSpecificationError) as caught:
        settle_reading(read(trained), stated=True, source="net.h5")
    low, high = trained.range
    flags = (
        f"give --input-range {low:g}..{high:g} --channel-order {trained.channel_order} "
        f"--label-offset {trained.label_offset}"
    )
    assert str(caught.value).startswith("net.h5: read as 0..1, RGB it labels ")
    assert str(caught.value).endswith(flags)
    assert "80 of 80" in str(caught.value)


def test_a_right_reading_that_was_stated_is_kept() -> None:
    for trained in TRAINED.values():
        best = settle_reading(read(trained, trained), stated=True, source="net.h5")
        assert best.specification == trained


def test_a_stated_mean_that_spoils_everything_is_to_be_left_out() -> None:
    spoiled = InputSpecification(SIZE, mean=(9.0, -9.0, 0.0), std=(0.1, 9.0, 1.0))
    with pytest.raises(InputSpecificationError, match="--label-offset 0 without --mean and --std"):
        settle_reading(read(PLAIN, spoiled), stated=True, source="net.h5")


def test_a_network_that_does_not_care_keeps_the_given_reading() -> None:
    """Without biases 0..1 and 0..255 give the same answers, and grey images have no order."""
    output = nn.Linear(3, 4, bias=False)
    with torch.no_grad():
        output.weight.copy_(torch.eye(4)[:, :3])
    network = nn.Sequential(nn.Flatten(), output)
    labels = torch.arange(60) % 3
    images = ImageSet("lamps", SIZE, torch.eye(3)[labels].view(-1, *SIZE), labels)
    for given in (PLAIN, InputSpecification(SIZE, range=(0.0, 255.0))):
        readings = likely_readings(network, given, images, classes=4)
        assert settle_reading(readings, stated=False, source="n").specification is given
        assert settle_reading(readings, stated=True, source="n").specification is given


def reading(right: list[bool], **changes: object) -> Reading:
    return Reading(InputSpecification(SIZE, **changes), torch.tensor(right))  # type: ignore[arg-type]


BETTER: dict[str, tuple[int, int, int, int, bool]] = {
    # won, lost, both right, both wrong, clearly better
    "nothing": (0, 0, 10, 10, False),
    "nine of nine": (9, 0, 0, 0, False),
    "ten of ten": (10, 0, 0, 0, True),
    "three of three": (3, 0, 0, 0, False),
    "won and lost alike": (40, 40, 0, 0, False),
    "a few more won than lost": (30, 20, 0, 0, False),
    "many more won than lost": (60, 20, 0, 0, True),
    "all won but a small part of the images": (30, 0, 970, 0, False),
    "just a twentieth of the images": (50, 0, 950, 0, True),
    "lost": (0, 60, 0, 0, False),
}


@pytest.mark.parametrize("name", BETTER)
def test_what_is_clearly_better(name: str) -> None:
    won, lost, both, neither, clearly = BETTER[name]
    new = [True] * won + [False] * lost + [True] * both + [False] * neither
    old = [False] * won + [True] * lost + [True] * both + [False] * neither
    assert reading(new, range=(0.0, 255.0)).clearly_beats(reading(old)) is clearly


def test_chance_hardly_ever_changes_the_reading() -> None:
    """Twelve readings that are right by chance alone, on small sets, many times over."""
    generator = torch.Generator().manual_seed(0)
    changed = 0
    for count in (3, 12, 40, 200):
        for _ in range(50):
            right = torch.rand(12, count, generator=generator) < 0.3
            readings = tuple(
                Reading(InputSpecification(SIZE, label_offset=at), row)
                for at, row in enumerate(right)
            )
            best = settle_reading(readings, stated=False, source="n")
            changed += best is not readings[0]
    assert changed <= 2


class _Counting(nn.Module):
    """Says class 0 and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images[:, 0, 0, 0])
        return torch.eye(2)[torch.zeros(len(images), dtype=torch.int64)]


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 1999, 2500])
def test_up_to_a_thousand_images_from_the_whole_set(count: int) -> None:
    """Sets are often sorted by class, so the first thousand would show a few classes only."""
    places = (torch.arange(count) / count).view(-1, 1, 1, 1)
    images = ImageSet("places", (1, 1, 1), places, torch.zeros(count, dtype=torch.int64))
    network = _Counting()
    likely_readings(network, InputSpecification((1, 1, 1)), images, classes=2)
    seen = torch.cat(network.shown)[: min(count, 1000)]
    assert len(seen) == min(count, 1000)
    assert seen.unique().numel() == len(seen)
    assert float(seen[-1]) > 0.99 * (count - 1) / count - 1e-6


def test_readings_whose_labels_would_not_fit_are_left_out() -> None:
    offsets = {each.specification.label_offset for each in read(TRAINED["labels from 1"])}
    assert offsets == {0, 1}, "the given one is tried whatever its labels"
    images = colour_images()
    readings = likely_readings(nearest_colour(PLAIN), PLAIN, images, classes=len(COLOURS))
    assert {each.specification.label_offset for each in readings} == {0}
