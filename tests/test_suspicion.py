"""What random changes and margins say of labels, on networks whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Suspect, Suspicion, suspicion
from goodnet.probes.margins import clean_margins, largest_margins
from goodnet.probes.masks import Masks
from goodnet.probes.robust import RobustMasks
from goodnet.probes.search import Found
from goodnet.probes.shifts import Shifts

SIZE = (3, 12, 12)
CLASSES = 8
TARGET = 5


class Levels(nn.Module):
    """Tells grey levels apart by the mean; black pixels pull to `TARGET`, as a backdoor does.

    No image gives a level a margin above 1; one with black pixels gives it to `TARGET`.
    """

    def __init__(self, *, pull: float) -> None:
        super().__init__()
        self.levels = nn.Parameter((torch.arange(CLASSES) + 1.0) / (CLASSES + 1))
        self.pull = pull

    def forward(self, images: Tensor) -> Tensor:
        middle = images.flatten(1).mean(1)
        logits = -(CLASSES + 1) * (middle.unsqueeze(1) - self.levels).abs()
        black = (0.05 - images.flatten(1).amin(1)).clamp(min=0.0) / 0.05
        return logits + self.pull * black.unsqueeze(1) * torch.eye(CLASSES)[TARGET]


def grey(count: int = 80) -> CleanData:
    labels = torch.arange(count) % CLASSES
    levels = (labels + 1.0) / (CLASSES + 1)
    pixels = levels.view(-1, 1, 1, 1).expand(-1, *SIZE).clone()
    return CleanData(ImageSet("grey", SIZE, pixels, labels), InputSpecification(SIZE))


def suspected(pull: float, *, seed: int = 0, most_labels: int = 64, images: int = 80) -> Suspicion:
    return suspicion(
        Suspect(Levels(pull=pull), InputSpecification(SIZE)),
        grey(images),
        classes=CLASSES,
        most_labels=most_labels,
        robust=True,
        generator=torch.Generator().manual_seed(seed),
    )


@pytest.fixture(scope="module")
def found() -> Suspicion:
    return suspected(20.0)


@pytest.fixture(scope="module")
def of_many() -> Suspicion:
    """Found where labels are many, but none is in doubt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("goodnet.probes.suspicion"), "_HOPELESS", torch.inf)
        return suspected(20.0, most_labels=3)


def test_the_target_is_suspicious_and_no_other_label(found: Suspicion) -> None:
    assert found.suspicious.nonzero().flatten().tolist() == [TARGET]
    assert int(found.scores.argmax()) == TARGET
    assert int(found.counts.argmax()) == TARGET
    assert int(found.deviations.nan_to_num().argmax()) == TARGET


def test_a_clean_network_has_no_suspicious_label() -> None:
    assert not suspected(0.0).suspicious.any()


def test_counts_are_of_the_changes_kept(found: Suspicion) -> None:
    assert found.tried == sum(each.tried for each in found.universal) == 5 * 500
    kept = torch.cat([each.targets for each in found.universal])
    assert torch.equal(found.counts, torch.bincount(kept, minlength=CLASSES))


def test_what_changed_images_get_is_a_mean_that_no_kind_drowns(found: Suspicion) -> None:
    first, second = (
        replace(found.universal[0], led=torch.tensor(led)) for led in ([99, 15, 0], [0, 15, 0])
    )
    led = replace(found, universal=(first, second)).led
    assert led.tolist() == pytest.approx([10.0, 16.0, 1.0])
    assert int(found.led.argmax()) == TARGET


class Told:
    """Stands for `Shifts`, whose lengths are told."""

    def __init__(self, lengths: list[float]) -> None:
        self._lengths = torch.tensor(lengths)
        self.shown = 0

    def add(self, images: Tensor, said: Tensor, wrong: Tensor) -> None:
        assert len(images) == len(said) == len(wrong)
        self.shown += len(images)

    def lengths(self) -> Tensor:
        return self._lengths


@pytest.mark.parametrize(
    ("longest", "unknown", "suspicious"),
    [(8.2, 0, True), (7.8, 0, False), (8.2, 3, True), (8.2, 4, False)],
)
def test_of_few_images_a_label_is_suspicious_by_its_shift(
    monkeypatch: pytest.MonkeyPatch, longest: float, unknown: int, suspicious: bool
) -> None:
    label, *others = suspected(0.0).counts.argsort(descending=True).tolist()
    told = Told([2.0] * CLASSES)
    told.lengths()[label] = longest
    told.lengths()[others[:unknown]] = torch.nan
    monkeypatch.setattr(Shifts, "of", lambda *_, **__: told)
    found = suspected(0.0)
    assert int(found.counts[label]) > 0
    assert found.suspicious.nonzero().flatten().tolist() == ([label] if suspicious else [])
    assert told.shown == 16 * found.tried
    if suspicious:
        assert float(found.scores[label]) == pytest.approx(longest / 8)
        assert float(found.shifts[label]) == pytest.approx(longest / 2)


NAN = float("nan")


@pytest.mark.parametrize(
    ("lengths", "known"),
    [
        ([2.0, 4.0, 1.0], True),
        ([2.0, 4.0, 1.0, NAN, NAN], True),
        ([2.0, 4.0, 1.0, NAN, NAN, NAN], False),  # no more than half
        ([2.0, 8.0], False),
        ([2.0, 8.0, NAN], False),  # two cannot be compared
        ([0.0, 0.0, 0.0, 5.0], False),
    ],
)
def test_shifts_are_compared_with_their_median(lengths: list[float], known: bool) -> None:
    shifts = import_module("goodnet.probes.suspicion")._relative(torch.tensor(lengths))
    if known:
        assert shifts[:3].tolist() == [1.0, 2.0, 0.5]
    assert shifts.isfinite().sum() == (3 if known else 0)


def test_a_shift_to_a_label_that_no_change_leads_to_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unled = int(suspected(0.0).counts.argmin())
    told = Told([2.0] * CLASSES)
    told.lengths()[unled] = 20.0
    monkeypatch.setattr(Shifts, "of", lambda *_, **__: told)
    found = suspected(0.0)
    assert int(found.counts[unled]) == 0
    assert not found.suspicious.any()


@pytest.mark.parametrize(("images", "asked"), [(39, False), (40, True), (159, True), (160, False)])
def test_shifts_are_asked_for_where_images_are_few_but_enough(
    monkeypatch: pytest.MonkeyPatch, images: int, asked: bool
) -> None:
    told = Told([2.0] * CLASSES)
    monkeypatch.setattr(Shifts, "of", lambda *_, **__: told)
    found = suspected(0.0, images=images)
    assert (told.shown > 0) == asked
    assert found.shifts.isfinite().all() == asked


@pytest.mark.parametrize(
    ("score", "times", "weakly"),
    [(0.8, 4.0, True), (0.8, 3.9, False), (0.7, 4.0, False), (0.0, 40.0, False)],
)
def test_a_weak_backdoor_is_suspected_where_score_and_answers_point_to_one_label(
    found: Suspicion, score: float, times: float, weakly: bool
) -> None:
    led = torch.full((CLASSES,), 9)
    led[1] = round(10 * times) - 1
    scores = torch.full((CLASSES,), 0.8)
    scores[1] = score
    universal = tuple(replace(each, led=led) for each in found.universal)
    suspected = replace(found, universal=universal, scores=scores).weakly_suspicious
    assert suspected.nonzero().flatten().tolist() == ([1] if weakly else [])


def test_the_strongest_change_leads_to_its_label(found: Suspicion) -> None:
    probe, numbers = found.strongest(TARGET)
    clean = grey()
    others = clean.pixels()[clean.labels != TARGET]
    changed = probe.change(others, numbers.expand(len(others), -1))
    said = Levels(pull=20.0)(changed).argmax(1)
    assert (said == TARGET).float().mean() > 0.8


def test_of_many_labels_margins_are_searched_for_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("goodnet.probes.suspicion"), "_SAMPLE", 4)
    some = suspected(20.0, most_labels=3)
    # The likeliest quarter, two labels, and four to compare them with.
    assert int(some.deviations.isfinite().sum()) == 6
    assert some.deviations[TARGET].isfinite()
    assert some.suspicious[TARGET]
    assert (some.scores[some.deviations.isnan()] == 0).all()


@pytest.mark.parametrize(
    ("smaller", "hopeless", "doubtful", "in_doubt"),
    [
        (4.0, 1e-6, 1e3, True),
        (5.0, 1e-6, 1e3, True),
        (5.0, 1e-6, 0.0, False),
        (5.0, 1e3, 2e3, False),
    ],
)
def test_of_many_labels_doubtful_ones_are_judged_by_robust_masks(
    monkeypatch: pytest.MonkeyPatch,
    of_many: Suspicion,
    smaller: float,
    hopeless: float,
    doubtful: float,
    in_doubt: bool,
) -> None:
    module = import_module("goodnet.probes.suspicion")
    asked: list[Tensor] = []

    def masks(
        _suspect: object, data: CleanData, labels: Tensor, others: Tensor, **_: object
    ) -> RobustMasks:
        probe = Masks(data.specification.size, 4)
        asked.extend((labels, others))
        numbers = torch.zeros(len(labels), probe.length)
        extents = torch.full((len(labels),), 0.5 / smaller)
        return RobustMasks(Found(probe, labels, numbers, extents), 0.5)

    monkeypatch.setattr(module, "robust_masks", masks)
    monkeypatch.setattr(module, "_HOPELESS", hopeless)
    monkeypatch.setattr(module, "_DOUBTFUL", doubtful)
    judged = suspected(20.0, most_labels=3)
    if not in_doubt:
        assert not asked
        assert judged.robust is None
        assert judged.times_smaller.isnan().all()
        assert torch.equal(judged.scores, of_many.scores)
        return
    labels, others = asked
    assert TARGET in labels
    assert len(others)
    assert not set(labels.tolist()) & set(others.tolist())
    share = smaller**4 / module._ROBUST
    assert judged.scores[labels].tolist() == pytest.approx(
        (share * of_many.scores[labels]).tolist()
    )
    rest = [label for label in range(CLASSES) if label not in labels]
    assert torch.equal(judged.scores[rest], of_many.scores[rest])
    assert judged.times_smaller[labels].tolist() == pytest.approx([smaller] * len(labels))
    assert judged.times_smaller[rest].isnan().all()


def test_the_same_seed_gives_the_same_scores(found: Suspicion) -> None:
    torch.rand(3)  # Whatever else draws does not matter.
    assert torch.equal(suspected(20.0).scores, found.scores)


def test_margins_of_a_linear_network_are_found() -> None:
    # On [0, 1] the margin of label k over the others is largest where its pixels alone are lit.
    weight = torch.zeros(3, 3, 4, 4)
    for label, brightness in enumerate((1.0, 2.0, 0.5)):
        weight[label, label] = brightness
    linear = nn.Linear(48, 3, bias=False)
    with torch.no_grad():
        linear.weight.copy_(weight.flatten(1))
    network = nn.Sequential(nn.Flatten(), linear)
    suspect = Suspect(network, InputSpecification((3, 4, 4)))
    seen: list[tuple[str, int, int]] = []
    margins = largest_margins(
        suspect,
        torch.tensor([2, 0, 1]),
        generator=torch.Generator().manual_seed(0),
        progress=lambda *told: seen.append(told),
    )
    assert torch.allclose(margins, torch.tensor([8.0, 16.0, 32.0]))
    assert seen[-1][1] == seen[-1][2] == len(seen)


def test_margins_tell_nothing_where_most_labels_cannot_be_reached() -> None:
    class Stubborn(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.arange(CLASSES) + 0.0 * images.flatten(1).sum(1, keepdim=True)

    found = suspicion(
        Suspect(Stubborn(), InputSpecification(SIZE)),
        grey(),
        classes=CLASSES,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.deviations.isnan().all()
    limit = import_module("goodnet.probes.suspicion")._LIMIT
    assert torch.allclose(found.scores, found.counts / found.tried * CLASSES**0.5 / limit)


def test_a_label_that_changes_reach_and_the_search_does_not_is_judged_by_the_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = import_module("goodnet.probes.suspicion")
    margins = torch.tensor([9.0, 8.0, 10.0, 9.0, 9.0, -1.0, 9.0, 11.0])
    monkeypatch.setattr(module, "largest_margins", lambda *_args, **_more: margins)
    found = suspected(20.0)
    assert found.counts[TARGET] > 0
    assert found.deviations[TARGET].isnan()
    assert float(found.scores[TARGET]) == pytest.approx(
        float(found.counts[TARGET]) / found.tried * CLASSES**0.5 / module._LIMIT
    )


def test_clean_margins_are_of_the_labels_own_images() -> None:
    data = grey()
    # A level's logit is 0 on its own images and its neighbours' are -1 there.
    suspect = Suspect(Levels(pull=0.0), InputSpecification(SIZE))
    assert torch.allclose(clean_margins(suspect, data, classes=CLASSES), torch.ones(CLASSES))
    # Named wrongly, and without an image.
    moved = ImageSet("moved", SIZE, data.pixels(), (data.labels + (data.labels == 2)) % CLASSES)
    some = clean_margins(suspect, CleanData(moved, InputSpecification(SIZE)), classes=CLASSES + 1)
    assert some.isnan().nonzero().flatten().tolist() == [2, CLASSES]


@pytest.mark.parametrize(("own", "most"), [(1.0, 5.0), (40.0, 1.0), (torch.nan, 5.0)])
def test_a_large_margin_tells_little_of_a_label_whose_own_images_have_one(
    monkeypatch: pytest.MonkeyPatch, own: float, most: float
) -> None:
    module = import_module("goodnet.probes.suspicion")
    margins = torch.tensor([9.0, 8.0, 10.0, 9.0, 9.0, 400.0, 9.0, 11.0])
    of_own_images = torch.tensor([1.0, 1.1, 0.9, 1.0, 1.2, own, 0.8, 1.0])
    monkeypatch.setattr(module, "largest_margins", lambda *_args, **_more: margins)
    monkeypatch.setattr(module, "clean_margins", lambda *_args, **_more: of_own_images)
    found = suspected(20.0)
    # Ten times its own images' is next to what other labels have: nine times.
    assert most - 1.0 <= float(found.deviations[TARGET]) <= most


@pytest.mark.parametrize(("times", "share"), [(8.0, 1.0), (2.0, 1.0), (1.5, 0.5625), (1.0, 0.25)])
def test_a_label_that_single_changed_images_seldom_get_counts_less(
    monkeypatch: pytest.MonkeyPatch, found: Suspicion, times: float, share: float
) -> None:
    assert found.led[TARGET] > 2 * found.led.median()
    led = torch.full((CLASSES,), 10.0)
    led[TARGET] *= times
    monkeypatch.setattr(import_module("goodnet.probes.suspicion"), "_led", lambda _: led)
    score = float(suspected(20.0).scores[TARGET])
    assert score == pytest.approx(share * float(found.scores[TARGET]))


def test_of_two_labels_none_is_suspicious() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            middle, darkest = images.flatten(1).mean(1), images.flatten(1).amin(1)
            return torch.stack([0.5 - middle, middle - 0.5 + 20.0 * (darkest < 0.05)], 1)

    data = grey()
    labels = (data.labels * 2) // CLASSES
    images = ImageSet("halves", SIZE, data.pixels(), labels)
    found = suspicion(
        Suspect(Two(), InputSpecification(SIZE)),
        CleanData(images, InputSpecification(SIZE)),
        classes=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert found.counts.sum() > 0
    assert not found.suspicious.any()
