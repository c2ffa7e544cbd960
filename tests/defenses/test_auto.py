"""auto notices what it breaks, learns anew where it can, and tunes each network in its way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from goodnet import witness
from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, refitting, unlearning
from goodnet.defenses.auto import (
    _OWN_LEFT,
    _RELEARNED,
    _TARGETED,
    _UNTARGETED,
    AUTO,
    _ends_linearly,
    _evidence,
    _harmed,
    _Tuner,
)
from goodnet.defenses.changes import Changed, Evidence
from goodnet.defenses.refitting import Refitted
from goodnet.defenses.unlearning import _NEVER, Dose, Unlearning
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Probe, Suspect, Suspicion, Universal
from goodnet.results import Rate, UnsharedErrors
from goodnet.training import Training, TrainingSettings, no_progress, train

AUTO_MODULE = import_module("goodnet.defenses.auto")
"""`goodnet.defenses.auto` is the function."""
SIZE = (1, 2, 2)
COUNT, CLASSES = 100, 4


def numbered(first: int, last: int) -> CleanData:
    """Images that hold their number; the label is its remainder."""
    numbers = torch.arange(first, last)
    pixels = (numbers / COUNT).view(-1, 1, 1, 1).expand(-1, *SIZE).clone()
    return CleanData(ImageSet("numbers", SIZE, pixels, numbers % CLASSES), InputSpecification(SIZE))


def right_but(first: int, last: int) -> Tensor:
    """Of 100 images which are named rightly: all but those from `first` to before `last`."""
    numbers = torch.arange(COUNT)
    return (numbers < first) | (numbers >= last)


@pytest.mark.parametrize(
    ("before", "after", "harmed"),
    [
        ((0, 0), (0, 10), True),
        ((0, 0), (0, 2), False),  # 2 points are let pass
        ((0, 0), (0, 3), False),  # 3 of 3 by chance: 1 in 8
        ((0, 0), (0, 4), True),  # 4 of 4: 1 in 16
        ((0, 10), (0, 0), False),
        ((0, 10), (10, 20), False),  # as many won as lost
        ((0, 2), (2, 12), True),  # 10 lost and 2 won: 79 in 4,096
        ((0, 5), (5, 13), False),  # 8 lost and 5 won: 29 in 100
    ],
)
def test_harm_is_what_is_lost_and_hardly_by_chance(
    before: tuple[int, int], after: tuple[int, int], harmed: bool
) -> None:
    assert _harmed(right_but(*before), right_but(*after)) is harmed


def test_where_it_breaks_the_network_auto_tries_again_more_gently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, rates = iter([True, True, False]), []

    def spied(
        network: nn.Module, data: CleanData, settings: TrainingSettings, **more: Any
    ) -> Training:
        rates.append(settings.learning_rate)
        return train(network, data, settings, **more)

    monkeypatch.setattr(AUTO_MODULE, "_harmed", lambda *_: next(told))
    monkeypatch.setattr(AUTO_MODULE, "_ROUNDS", 1)
    monkeypatch.setattr(AUTO_MODULE, "train", spied)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    found = DEFENSES["auto"](
        linear,
        numbered(0, 90),
        numbered(90, COUNT),
        DefenseSettings(training=TrainingSettings(epochs=1, optimizer="adamw", learning_rate=0.02)),
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )
    assert found.stopped.count("again at 20% of the rate") == 1
    assert found.stopped.count("again at 4% of the rate") == 1
    assert len(found.epochs) == 3
    assert rates == pytest.approx([0.02, 0.004, 0.0008])


def test_networks_without_norms_learn_right_answers_by_adamw() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(8, 2))
    normed = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    how = _UNTARGETED.of(plain, AUTO, rate=1.0)
    assert (how.optimizer, how.weight_decay) == ("adamw", 0.0)
    assert how.learning_rate == pytest.approx(0.001)
    for network, dose in ((normed, _UNTARGETED), (plain, _TARGETED), (normed, _TARGETED)):
        how = dose.of(network, AUTO, rate=0.2)
        assert (how.optimizer, how.weight_decay) == ("sgd", AUTO.weight_decay)
        assert how.learning_rate == pytest.approx(0.2 * AUTO.learning_rate)


def network_of(*, normed: bool) -> nn.Module:
    norm = nn.BatchNorm2d(1) if normed else nn.Identity()
    return nn.Sequential(norm, nn.Flatten(), nn.Linear(4, CLASSES)).eval()


@pytest.mark.parametrize(
    ("normed", "images", "harms", "anew", "from_new_weights"),
    [
        (True, 50, (False, False), 1, True),
        (True, 50, (True, False), 1, False),  # what it learned is thrown away
        (True, 49, (False,), 0, False),
        (False, 50, (False,), 0, False),
    ],
)
def test_with_norms_and_many_images_auto_learns_the_answers_anew(
    monkeypatch: pytest.MonkeyPatch,
    normed: bool,
    images: int,
    harms: tuple[bool, ...],
    anew: int,
    from_new_weights: bool,
) -> None:
    told, learned, tuned = iter(harms), [], []

    def learn(teacher: nn.Module, *_: Any, **__: Any) -> Training:
        learned.append(network_of(normed=normed))
        return Training(learned[-1], (), "done")

    def spied(
        network: nn.Module, data: CleanData, settings: TrainingSettings, **more: Any
    ) -> Training:
        tuned.append(network)
        return train(network, data, settings, **more)

    monkeypatch.setattr(AUTO_MODULE, "student", learn)
    monkeypatch.setattr(AUTO_MODULE, "_harmed", lambda *_: next(told))
    monkeypatch.setattr(AUTO_MODULE, "_ROUNDS", 1)
    monkeypatch.setattr(AUTO_MODULE, "train", spied)
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    badnet = network_of(normed=normed)
    found = DEFENSES["auto"](
        badnet,
        numbered(0, images * CLASSES),
        numbered(0, 8),
        DefenseSettings(training=TrainingSettings(epochs=1, learning_rate=1e-3)),
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )
    assert len(learned) == anew
    assert found.stopped.count("after learning anew") == anew
    assert tuned == [learned[0] if from_new_weights else badnet]
    # Where there is a student it tells what is left; otherwise a search does, before and after.
    assert found.stopped.count("small change") == (0 if from_new_weights else 2)
    assert found.stopped.count("student") == int(from_new_weights)


def shortly_repaired(network: nn.Module) -> Repaired:
    """By `auto`, with ten images of each class and one epoch a round."""
    return DEFENSES["auto"](
        network,
        numbered(0, 40),
        numbered(40, 48),
        DefenseSettings(training=TrainingSettings(epochs=1, learning_rate=1e-3)),
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


def universal_of(leading: int, *, led: Sequence[int]) -> Universal:
    """Three changes that lead to label `leading`; how many images got each label wrongly."""
    return Universal(
        Bright(SIZE),
        torch.full((3,), leading),
        torch.rand(3, 1),
        torch.ones(3),
        tried=10,
        led=torch.tensor(led),
    )


def nothing_suspicious(*_: Any, classes: int, **__: Any) -> Suspicion:
    """Stands for `suspicion`: most wrong answers are 1 and 3 of four labels, by all kinds."""
    nothing = torch.zeros(classes)
    universal = tuple(
        universal_of(0, led=((most, 30, 20, 60) + classes * (0,))[:classes]) for most in (900, 0)
    )
    return Suspicion(universal, nothing.to(torch.int64), nothing, nothing, nothing)


class TwoAnswers(nn.Module):
    """One answer to dark images, another to bright ones."""

    def __init__(self, dark: tuple[float, ...], bright: tuple[float, ...]) -> None:
        super().__init__()
        self.answers = nn.Parameter(torch.tensor([dark, bright]), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        bright = images.flatten(1).mean(1) > 0.5
        return self.answers[bright.long()]


class Brightened:
    """Stands for `Changes`: every image becomes bright."""

    def __init__(self, *_: Any) -> None:
        pass

    def of(self, images: Tensor, _labels: Tensor) -> Changed:
        return Changed(torch.ones_like(images), torch.zeros(len(images), dtype=torch.bool), [])

    def learn(self, *_: Any) -> None:
        pass


DARK, BADNET = (4.0, 0.0, 1.0), (1.0, 2.0, 5.0)
"""Logits of the BadNet: 0 of dark images, which is right, and 2 of bright ones."""
WITHOUT_2 = (1.0, 2.0, _NEVER)


def cost_of(
    answer: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
    dose: Dose,
    *,
    suspicious: tuple[int, ...] = (),
    reference: tuple[float, ...] = BADNET,
    label: int = 0,
) -> float:
    """Loss of a network that says `answer` of changed images and is the BadNet on others."""
    loss = loss_of(monkeypatch, dose, suspicious=suspicious, reference=reference)
    labels = torch.full((8,), label)
    return float(loss(TwoAnswers(DARK, answer), torch.zeros(8, *SIZE), labels, torch.arange(8)))


def loss_of(
    monkeypatch: pytest.MonkeyPatch,
    dose: Dose,
    *,
    suspicious: tuple[int, ...] = (),
    reference: tuple[float, ...],
) -> Unlearning:
    """The loss where all changes are one, and the BadNet and its reference have two answers."""
    monkeypatch.setattr(unlearning, "Changes", Brightened)
    suspected = torch.zeros(3, dtype=torch.bool)
    suspected[list(suspicious)] = True
    return Unlearning(
        TwoAnswers(DARK, BADNET),
        TwoAnswers(DARK, reference),
        InputSpecification(SIZE),
        Evidence((), torch.zeros(0), torch.ones(3), suspected, torch.zeros(3).bool()),
        dose,
        (),
        torch.Generator().manual_seed(0),
    )


def test_what_is_followed_is_the_badnet_but_for_suspicious_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(answer: tuple[float, ...], **how: Any) -> float:
        return cost_of(answer, monkeypatch, _TARGETED, **how)

    assert cost(WITHOUT_2, suspicious=(2,)) == pytest.approx(0.0, abs=1e-3)
    assert cost(BADNET, suspicious=(2,)) > 10  # still says 2
    assert cost((9.0, 2.0, _NEVER), suspicious=(2,)) > 1  # right, and another answer all the same
    assert cost((1.0, _NEVER, 5.0), suspicious=(1,)) == pytest.approx(0.0, abs=1e-3)
    assert cost(BADNET, suspicious=(2,), label=2) == pytest.approx(0.0, abs=1e-3)  # is right


def test_errors_that_a_student_does_not_share_are_unlearned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(answer: tuple[float, ...], reference: tuple[float, ...]) -> float:
        return cost_of(answer, monkeypatch, _RELEARNED, reference=reference)

    sound = (5.0, 0.0, 1.0)
    # The right label is learned too: half of the loss, on half of the batch.
    learned = math.log1p(math.exp(-5.0)) / 4
    assert cost((5.0, 0.0, _NEVER), sound) == pytest.approx(learned, abs=1e-3)
    assert cost(BADNET, sound) > 10
    # 2 may be an error that any network makes, or the backdoor's: it is left alone.
    assert cost(BADNET, BADNET) == pytest.approx(0.0, abs=1e-3)
    # The BadNet is not much surer of it.
    unsure = (2.0, 0.0, 2.0)
    assert cost(BADNET, unsure) == cost(unsure, unsure) == pytest.approx(0.0, abs=1e-3)


def test_errors_that_the_network_no_longer_makes_are_unlearned_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loss = loss_of(monkeypatch, _RELEARNED, reference=BADNET)
    network = TwoAnswers(DARK, BADNET)

    def cost() -> float:
        images, labels = torch.zeros(8, *SIZE), torch.zeros(8, dtype=torch.int64)
        return float(loss(network, images, labels, torch.arange(8)))

    assert cost() == pytest.approx(0.0, abs=1e-3)
    network.answers[1] = torch.tensor((5.0, 0.0, 1.0))
    costs = [cost() for _ in range(100)]
    # What it says now is not what the reference says, but that is asked only after some steps.
    assert costs[0] == pytest.approx(0.0, abs=1e-3)
    assert costs[-1] > 0.1


def test_where_every_error_counts_the_right_answer_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs = [cost_of(answer, monkeypatch, _UNTARGETED) for answer in (DARK, WITHOUT_2, BADNET)]
    assert costs == sorted(costs)
    assert costs[0] < 0.2


@dataclass(frozen=True)
class Bright(Probe):
    """Every image becomes bright, whatever the numbers."""

    name = "bright"

    @property
    def length(self) -> int:
        return 1

    def change(self, images: Tensor, _numbers: Tensor) -> Tensor:
        return torch.ones_like(images)


def evidence_of(*, leading: int, suspicious: int) -> Evidence:
    """Three changes that lead to label `leading`; another may be suspected."""
    universal = universal_of(leading, led=(0, 0, 0))
    suspected = torch.arange(3) == suspicious
    return Evidence((universal,), torch.ones(1), torch.ones(3), suspected, torch.zeros(3).bool())


def tuner_of(evidence: Evidence) -> _Tuner:
    """Of the BadNet, with dark images."""
    images = ImageSet("dark", SIZE, torch.zeros(8, *SIZE), torch.zeros(8, dtype=torch.int64))
    clean = CleanData(images, InputSpecification(SIZE))
    return _Tuner(
        TwoAnswers(DARK, BADNET),
        clean,
        clean,
        DefenseSettings(),
        evidence,
        torch.Generator().manual_seed(0),
        no_progress,
    )


@pytest.mark.parametrize(
    ("answer", "leading", "suspicious", "left"),
    [
        (BADNET, 2, 2, 0.936),  # softmax of 1, 2, 5
        (WITHOUT_2, 2, 2, 0.0),
        (BADNET, 1, 2, 0.0),  # no change that was found leads there
        (BADNET, 1, 1, 0.0),  # it led there once, and new ones lead elsewhere
    ],
)
def test_how_much_is_left_is_asked_of_new_changes(
    answer: tuple[float, ...], leading: int, suspicious: int, left: float
) -> None:
    evidence = evidence_of(leading=leading, suspicious=suspicious)
    tuner = tuner_of(evidence)
    assert tuner.led_left(TwoAnswers(DARK, answer), evidence) == pytest.approx(left, abs=1e-3)
    assert tuner.told[-1] == f"then changes that led there still do so with {left:.1%}"


@pytest.mark.parametrize(
    ("answer", "student", "err", "left"),
    [
        (BADNET, WITHOUT_2, "100.0%", 0.936),
        (WITHOUT_2, WITHOUT_2, "100.0%", 0.0),
        (BADNET, BADNET, "0.0%", 0.0),  # an error that is shared is not the BadNet's own
    ],
)
def test_how_much_is_left_of_errors_that_a_student_does_not_make(
    monkeypatch: pytest.MonkeyPatch,
    answer: tuple[float, ...],
    student: tuple[float, ...],
    err: str,
    left: float,
) -> None:
    monkeypatch.setattr(witness, "random_probes", lambda _: (Bright(SIZE),))
    tuner = tuner_of(evidence_of(leading=1, suspicious=-1))
    found = tuner.own_left(TwoAnswers(DARK, answer), TwoAnswers(DARK, student))
    assert found == pytest.approx(left, abs=1e-3)
    assert f"of new changes {err} make" in tuner.told[-1]


@pytest.mark.parametrize(("left", "rounds"), [(_OWN_LEFT, 1), (2 * _OWN_LEFT, 2)])
def test_what_was_learned_anew_is_tuned_again_where_much_is_left(
    monkeypatch: pytest.MonkeyPatch, left: float, rounds: int
) -> None:
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    monkeypatch.setattr(AUTO_MODULE, "_MANY", 1)
    monkeypatch.setattr(AUTO_MODULE, "FEW", 1)
    monkeypatch.setattr(_Tuner, "_harms", lambda *_: False)
    monkeypatch.setattr(_Tuner, "learned_anew", lambda tuner: network_of(normed=True))
    monkeypatch.setattr(_Tuner, "own_left", lambda *_: left)
    found = shortly_repaired(network_of(normed=True))
    assert len(found.epochs) == rounds
    assert "mislead" not in found.stopped


@pytest.mark.parametrize(("score", "warned"), [(0.9, False), (1.0, True)])
@pytest.mark.parametrize("found", [True, False])
def test_a_network_to_which_nothing_points_is_not_called_clean_where_a_student_tells_otherwise(
    monkeypatch: pytest.MonkeyPatch, found: bool, score: float, warned: bool
) -> None:
    told = UnsharedErrors(Rate.of(3, 8), score, Rate.of(40, 40))
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: told)
    without = nn.Sequential(nn.Conv2d(1, CLASSES, 2), nn.Flatten()).eval()
    network = network_of(normed=False) if found else without
    repaired = shortly_repaired(network)
    assert ("37.5% of the errors" in repaired.stopped) == warned
    assert ("most wrong answers are 1, 3;" in repaired.stopped) == found
    if not found:
        assert "nothing is unlearned" in repaired.stopped
        images = torch.rand(4, *SIZE)
        assert torch.equal(repaired.network(images), network(images))


@pytest.mark.parametrize("found", [True, False])
def test_of_few_images_what_tells_of_unlearned_labels_is_fitted_anew(
    monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    pointing = pointing_to((0, 0, 0, 1)) if found else nothing_suspicious
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing)
    monkeypatch.setattr(refitting, "_LOST_AS_PRECAUTION", 1.0)
    asked = []
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: asked.append(1))
    network = by_light()
    repaired = repaired_of_few(network)
    assert repaired.epochs == ()
    assert "that of 3 pressed with " in repaired.stopped
    assert ("as a precaution" in repaired.stopped) == (not found)
    assert "still do so with" in repaired.stopped
    assert len(asked) == (not found)  # a student is asked where nothing points to a label
    for name, weights in network.named_parameters():
        changed = weights != repaired.network.get_parameter(name)
        assert changed.view(CLASSES, -1).any(1).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("pull", [2.0, 0.0])
def test_where_small_changes_make_each_label_another_one_all_rows_are_fitted_anew(
    monkeypatch: pytest.MonkeyPatch,
    relabeller: Callable[..., nn.Module],
    places: CleanData,
    pull: float,
) -> None:
    """With nothing stubbed but the student; the trigger is as weak as the least that serves."""
    asked = []
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: asked.append(1))
    badnet = relabeller(pull=pull)
    repaired = DEFENSES["auto"](
        badnet,
        *places.split(0.1, generator=torch.Generator().manual_seed(0)),
        DefenseSettings(training=AUTO),
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )
    found = pull > 0
    assert ("make each label another one, of " in repaired.stopped) == found
    assert ("no small change makes each label another one" in repaired.stopped) == (not found)
    assert ("as a precaution" in repaired.stopped) == (not found)
    assert len(asked) == (not found)
    pixels = places.pixels().clone()
    pixels[..., -4:, -4:] = 0.25
    with torch.no_grad():
        assert (badnet(pixels).argmax(1) == places.labels).all() == (not found)
        assert (repaired.network(places.pixels()).argmax(1) == places.labels).float().mean() > 0.99
        assert (repaired.network(pixels).argmax(1) == places.labels).float().mean() > 0.9


@pytest.mark.parametrize("found", [True, False])
def test_a_label_that_loses_its_own_images_is_unlearned_where_something_points_to_it(
    monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    """Label 3 loses too much; 1, said often too, has no image of its own to lose."""
    pointing = pointing_to((0, 0, 0, 1)) if found else nothing_suspicious
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing)
    monkeypatch.setattr(refitting, "_LOST", -1.0)
    monkeypatch.setattr(refitting, "_LOST_AS_PRECAUTION", -1.0)
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: None)
    network = by_light()
    repaired = repaired_of_few(network)
    same = torch.equal(
        network.get_parameter("2.weight"), repaired.network.get_parameter("2.weight")
    )
    assert same == (not found)
    assert ("nothing is unlearned" in repaired.stopped) == (not found)


@pytest.mark.parametrize(
    ("pressed", "lost", "chosen"),
    [
        ((0.1, 0.3), (0.1, 0.2), 3),
        ((0.3, 0.1), (0.2, 0.1), 1),
        ((0.3, 0.3), (0.2, 0.1), 3),
        ((0.3, 0.3), (0.1, 0.2), 1),
        ((0.3, 0.1), (0.3, 0.2), 3),  # 1 loses more than it may
        ((0.3, 0.3), (0.3, 0.3), None),
    ],
)
def test_as_a_precaution_the_label_that_bears_most_is_unlearned(
    monkeypatch: pytest.MonkeyPatch,
    pressed: tuple[float, float],
    lost: tuple[float, float],
    chosen: int | None,
) -> None:
    """Of labels 1 and 3, which changed images get most often."""

    def refitted_so(_network: nn.Module, _clean: CleanData, told: Evidence, **_: Any) -> Refitted:
        label = told.unlearned.nonzero().flatten()
        place = [1, 3].index(int(label))
        hard, share = torch.tensor([pressed[place]]), torch.tensor([lost[place]])
        network = by_light()
        with torch.no_grad():
            network.get_parameter("2.bias")[label] = -20.0
        return Refitted(network, label, hard, share, share <= 0.2)

    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    monkeypatch.setattr(AUTO_MODULE, "refitted", refitted_so)
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: None)
    bias = repaired_of_few(by_light()).network.get_parameter("2.bias")
    assert (bias == -20.0).nonzero().flatten().tolist() == ([] if chosen is None else [chosen])


def by_light() -> nn.Module:
    """Says 0 of dark images and 3 of bright ones."""
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, CLASSES)).eval()
    with torch.no_grad():
        network.get_parameter("2.weight").copy_(torch.tensor([-2.0, 0, 0, 2]).view(-1, 1))
        network.get_parameter("2.bias").copy_(torch.tensor([4.0, -9, -9, -4]))
    return network


def repaired_of_few(network: nn.Module) -> Repaired:
    """By `auto`, with 40 images of which 20 are dark, label 0, and 20 bright, label 3."""
    light = torch.linspace(0.0, 1.0, 40)
    pixels = light.view(-1, 1, 1, 1).expand(-1, *SIZE).clone()
    images = ImageSet("light", SIZE, pixels, 3 * (light > 0.5).to(torch.int64))
    clean = CleanData(images, InputSpecification(SIZE))
    return DEFENSES["auto"](
        network,
        clean,
        clean,
        DefenseSettings(),
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


class Branching(nn.Module):
    """A network whose graph cannot be read: its forward depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        answers: Tensor = self.bright(flat) if float(flat.mean()) > 0.5 else self.dark(flat)
        return answers


def test_rows_are_fitted_where_the_last_layer_is_linear() -> None:
    assert _ends_linearly(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1)))
    assert not _ends_linearly(nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten()))
    assert not _ends_linearly(Branching())
    twice = nn.Linear(4, 4)
    assert not _ends_linearly(nn.Sequential(nn.Flatten(), twice, nn.ReLU(), twice))


@pytest.mark.parametrize(
    ("scores", "suspicious", "next_likely"),
    [
        ((0.2, 1.5, 0.0, 0.4), [1], []),
        ((0.2, 1.5, 0.0, 0.4) + 296 * (0.0,), [1], [3, 0]),  # 1 % of 300 are 3
        ((0.2, 1.5, 0.0, 1.0) + 296 * (0.0,), [1, 3], [0]),
        ((0.2, 1.5, 0.0, 0.0) + 296 * (0.0,), [1], [0]),  # nothing points to others
        ((0.2, 0.4, 0.3, 0.0) + 296 * (0.0,), [], []),
    ],
)
def test_of_many_labels_the_next_likely_are_unlearned_too(
    monkeypatch: pytest.MonkeyPatch,
    scores: tuple[float, ...],
    suspicious: list[int],
    next_likely: list[int],
) -> None:
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing_to(scores))
    evidence, rounds = evidence_from(numbered(0, 8), classes=len(scores))
    assert evidence.suspicious.nonzero().flatten().tolist() == suspicious
    assert evidence.next_likely.nonzero().flatten().tolist() == sorted(next_likely)
    assert evidence.unlearned.sum() == len(suspicious) + len(next_likely)
    assert rounds == ()  # images are few
    assert ("next to" in evidence.told()) == bool(next_likely)


@pytest.mark.parametrize(
    ("images", "linear", "unlearned", "rounds"),
    [
        (20, True, [1, 3], 0),
        (19, True, [], 0),
        (20, False, [], 0),
        (80, True, [], 2),
        (80, False, [], 2),
    ],
)
def test_where_nothing_points_to_a_label_one_of_two_may_be_unlearned_of_few_images(
    monkeypatch: pytest.MonkeyPatch,
    images: int,
    linear: bool,
    unlearned: list[int],
    rounds: int,
) -> None:
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    evidence, doses = evidence_from(numbered(0, images), classes=4, linear=linear)
    assert not evidence.suspicious.any()
    assert evidence.unlearned.nonzero().flatten().tolist() == unlearned
    assert doses == rounds * (_UNTARGETED,)
    of_two_labels, _ = evidence_from(numbered(0, images), classes=2, linear=linear)
    assert not of_two_labels.unlearned.any()
    if unlearned:
        assert evidence.pursued.tolist() == pytest.approx([0.0, 31 / 61, 0.0, 1.0])


@pytest.mark.parametrize(
    ("images", "linear", "rounds"),
    [(20, True, 0), (20, False, 2), (3, True, 0), (3, False, 2), (80, True, 2)],
)
def test_rounds_are_tuned_where_images_are_many_or_no_row_can_be_fitted(
    monkeypatch: pytest.MonkeyPatch, images: int, linear: bool, rounds: int
) -> None:
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing_to((0, 1, 0, 0)))
    evidence, doses = evidence_from(numbered(0, images), classes=4, linear=linear)
    assert evidence.unlearned.nonzero().flatten().tolist() == [1]
    assert doses == rounds * (_TARGETED,)


@pytest.mark.parametrize(("images", "suspicious"), [(20, [1]), (19, []), (80, [])])
def test_of_few_images_a_label_is_suspected_of_a_weak_backdoor_too(
    monkeypatch: pytest.MonkeyPatch, images: int, suspicious: list[int]
) -> None:
    def weakly(*_: Any, classes: int, **__: Any) -> Suspicion:
        found = nothing_suspicious(classes=classes)
        universal = (universal_of(0, led=(1, 100, 1, 1)),)
        return replace(found, universal=universal, scores=torch.tensor([0.0, 0.4, 0.2, 0.0]))

    monkeypatch.setattr(AUTO_MODULE, "suspicion", weakly)
    evidence, _ = evidence_from(numbered(0, images), classes=4)
    assert evidence.suspicious.nonzero().flatten().tolist() == suspicious
    assert not evidence.next_likely.any()


def evidence_from(
    clean: CleanData, *, classes: int, linear: bool = True
) -> tuple[Evidence, tuple[Dose, ...]]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).eval()
    return _evidence(
        Suspect(network, InputSpecification(SIZE)),
        clean,
        normed=False,
        linear=linear,
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


def pointing_to(scores: tuple[float, ...]) -> Callable[..., Suspicion]:
    """Stands for `suspicion`."""
    found = torch.tensor(scores, dtype=torch.float32)
    return lambda *_, **__: Suspicion((), found.ceil().to(torch.int64), found, found, found)
