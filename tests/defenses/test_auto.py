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
from goodnet.defenses import DEFENSES, DefenseSettings, Repaired, unlearning
from goodnet.defenses.auto import (
    _CAUTIOUS,
    _LED_ENOUGH,
    _LED_LEFT,
    _OWN_LEFT,
    _RELEARNED,
    _TARGETED,
    _TARGETED_OF_FEW,
    _TARGETED_OF_FEWER,
    _UNTARGETED,
    AUTO,
    _evidence,
    _harmed,
    _Tuner,
)
from goodnet.defenses.changes import Changed, Evidence
from goodnet.defenses.hallucination import Hallucinations
from goodnet.defenses.pursuit import Answers
from goodnet.defenses.unlearning import _NEVER, Dose, Unlearning
from goodnet.formats.specification import InputSpecification
from goodnet.probes import Probe, Suspect, Suspicion, Universal
from goodnet.results import Rate, UnsharedErrors
from goodnet.training import Training, TrainingSettings, no_progress, train

AUTO_MODULE = import_module("goodnet.defenses.auto")
"""`goodnet.defenses.auto` is the function."""
SIZE = (1, 2, 2)
COUNT, CLASSES = 100, 4
OF_FEW = _TARGETED_OF_FEW[-1]
"""The hardest, of which all rows of the last layer are tuned."""


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
    hallucinations: Any = None,
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
        hallucinations,
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


class Costing:
    """Stands for `Hallucinations`: what they cost is one."""

    def loss(self, _network: nn.Module, *, temperature: float) -> Tensor:
        return torch.tensor(1.0)


def test_what_stands_for_further_images_counts_by_its_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cost(hallucinations: Any, weight: float) -> float:
        dose = replace(OF_FEW, changed=0.0, hallucinated=weight)
        loss = loss_of(
            monkeypatch,
            dose,
            suspicious=(2,),
            reference=BADNET,
            hallucinations=hallucinations,
        )
        like_the_badnet = TwoAnswers(DARK, BADNET)
        labels = torch.zeros(8, dtype=torch.int64)
        return float(loss(like_the_badnet, torch.zeros(8, *SIZE), labels, torch.arange(8)))

    assert cost(None, 1.5) == pytest.approx(0.0, abs=1e-6)
    assert cost(Costing(), 1.5) == pytest.approx(1.5, abs=1e-6)


class PursuedTo1:
    """Stands for `Pursuit`: every image becomes bright, and 1 is to be said of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def of(self, _answers: Answers, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(images), torch.ones(len(images), dtype=torch.int64)


def test_labels_are_unlearned_where_changes_are_pursued(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unlearning, "Pursuit", PursuedTo1)
    every = replace(OF_FEW, pursued=1.0)

    def cost(answer: tuple[float, ...], dose: Dose, label: int = 0) -> float:
        return cost_of(answer, monkeypatch, dose, suspicious=(1,), label=label)

    # The BadNet says 2 of these images: of random changes 1 would not be unlearned.
    likely_1, never_1 = (1.0, 4.0, 5.0), (1.0, _NEVER, 5.0)
    assert cost(never_1, every) == pytest.approx(0.0, abs=1e-3)
    said = math.exp(4.0) / (math.exp(1.0) + math.exp(4.0) + math.exp(5.0))
    unlike = -OF_FEW.unlike * math.log1p(-said) / 2
    more = cost(likely_1, every) - cost(likely_1, replace(every, pursued=0.0))
    assert more == pytest.approx(unlike, abs=1e-3)
    # Where it is right it stays.
    assert cost(BADNET, every, label=1) == pytest.approx(0.0, abs=1e-3)


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
    tuner = tuner_of(evidence_of(leading=leading, suspicious=suspicious))
    assert tuner.led_left(TwoAnswers(DARK, answer)) == pytest.approx(left, abs=1e-3)
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


@pytest.mark.parametrize("enough_after", [1, 2, 4, 6])
def test_of_few_images_each_round_presses_harder_while_much_is_left(
    monkeypatch: pytest.MonkeyPatch, enough_after: int
) -> None:
    given = spied_doses(monkeypatch)
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing_to((0, 1, 0, 0)))
    monkeypatch.setattr(_Tuner, "_harms", lambda *_: False)
    much = 2 * _LED_LEFT
    monkeypatch.setattr(
        _Tuner, "led_left", lambda *_: much if len(given) < enough_after else _LED_LEFT
    )
    found = shortly_repaired(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).eval())
    assert tuple(given) == _TARGETED_OF_FEW[:enough_after]
    assert len(found.epochs) == len(given)
    # What is tuned is told once, though it is tuned again.
    assert found.stopped.count("only weights of 1 that tell of these labels are tuned") == 1
    assert found.stopped.count("only weights of 1 are tuned") == (len(given) > 2)


def test_rounds_of_few_images_begin_gently() -> None:
    tuned = [dose.tuned for dose in _TARGETED_OF_FEW]
    assert tuned == sorted(tuned, key=["rows", "last layer"].index)
    pressing = [dose.unlike / dose.hallucinated for dose in _TARGETED_OF_FEW]
    assert pressing == sorted(pressing)
    assert _CAUTIOUS.unlike / _CAUTIOUS.hallucinated < pressing[0]
    assert _CAUTIOUS.unlike < min(dose.unlike for dose in _TARGETED_OF_FEW)


@pytest.mark.parametrize(
    ("found", "left", "lowered"),
    [(found, times * _LED_ENOUGH, times > 1) for found in (True, False) for times in (1, 2)],
)
def test_of_few_images_logits_are_lowered_where_something_is_left(
    monkeypatch: pytest.MonkeyPatch, found: bool, left: float, lowered: bool
) -> None:
    pointing = pointing_to((0, 1, 0, 0)) if found else nothing_suspicious
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing)
    monkeypatch.setattr(_Tuner, "_harms", lambda *_: False)
    monkeypatch.setattr(_Tuner, "led_left", lambda *_: left)
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: None)
    repaired = shortly_repaired(nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).eval())
    assert ("logits of unlearned labels are lowered" in repaired.stopped) is lowered


def linear(first: tuple[float, ...], *, bias: bool = True) -> nn.Module:
    """Logits are what each label has of the first pixel, and without bias nothing more."""
    layer = nn.Linear(4, len(first), bias=bias)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0] = torch.tensor(first)
        if bias:
            layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize(
    ("labels", "suspicious", "lowered_by"),
    [
        # Of brightness .5, .25 and .75 the margins of label 2 are 1, 0.5 and 1.5.
        ((2, 2, 2), 2, 0.25),
        ((2, 0, 2), 2, 0.5),
        ((0, 0, 0), 2, 0.0),  # no image of its own
        ((0, 0, 0), 0, 0.0),  # none that is named rightly
        ((2, 2, 2), 0, 0.0),
    ],
)
def test_logits_are_lowered_by_half_of_the_least_margin_of_a_labels_own_images(
    labels: tuple[int, ...], suspicious: int, lowered_by: float
) -> None:
    pixels = torch.tensor([0.5, 0.25, 0.75]).view(3, 1, 1, 1).expand(3, *SIZE).clone()
    clean = CleanData(
        ImageSet("grey", SIZE, pixels, torch.tensor(labels)), InputSpecification(SIZE)
    )
    network = linear((0.0, 1.0, 3.0))
    evidence = evidence_of(leading=2, suspicious=suspicious)
    generator = torch.Generator().manual_seed(0)
    tuner = _Tuner(network, clean, clean, DefenseSettings(), evidence, generator, no_progress)
    repaired = tuner.held_back(network, OF_FEW)
    wanted = torch.zeros(3)
    wanted[suspicious] = -lowered_by
    assert torch.equal(repaired.get_parameter("1.bias"), wanted)
    assert torch.equal(repaired.get_parameter("1.weight"), network.get_parameter("1.weight"))
    assert not network.get_parameter("1.bias").any()
    assert tuner.told[-1].endswith(f"{suspicious} by {lowered_by:.1f}" if lowered_by else "none")


def test_logits_that_have_no_bias_stay() -> None:
    tuner = tuner_of(evidence_of(leading=2, suspicious=2))
    network = linear((0.0, 1.0, 3.0), bias=False)
    assert tuner.held_back(network, OF_FEW) is network


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
    assert "point to no label, most wrong answers are 1, 3;" in repaired.stopped
    assert ("nothing is unlearned" in repaired.stopped) == (not found)
    images = torch.rand(4, *SIZE)
    assert torch.equal(repaired.network(images), network(images)) == (not found)


def test_as_a_precaution_the_last_layer_is_tuned_once_and_gently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = spied_doses(monkeypatch)
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    monkeypatch.setattr(AUTO_MODULE, "unshared_errors", lambda *_, **__: None)
    monkeypatch.setattr(_Tuner, "_harms", lambda *_: False)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, CLASSES)).eval()
    repaired = shortly_repaired(network)
    assert len(repaired.epochs) == 1
    assert given == [_CAUTIOUS]
    for name, before in network.named_parameters():
        same = torch.equal(before, repaired.network.get_parameter(name))
        assert same == (not name.startswith("3."))


def test_of_few_images_the_last_layer_is_tuned_of_fewer_than_labels_what_tells_of_the_unlearned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = spied_doses(monkeypatch)
    made: list[str] = []

    class Made(Hallucinations):
        def __init__(self, badnet: nn.Module, layer: str, *rest: Any, **how: Any) -> None:
            made.append(layer)
            super().__init__(badnet, layer, *rest, **how)

    monkeypatch.setattr(AUTO_MODULE, "Hallucinations", Made)
    monkeypatch.setattr(AUTO_MODULE, "suspicion", pointing_to((0, 1, 0, 0)))
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES)).eval()
    monkeypatch.setattr(_Tuner, "_harms", lambda *_: False)
    monkeypatch.setattr(_Tuner, "led_left", lambda *_: 1.0)
    for images, doses, rows in (
        (CLASSES, _TARGETED_OF_FEW, [0, 1, 2, 3]),
        (CLASSES - 1, _TARGETED_OF_FEWER, [1]),
    ):
        given.clear()
        made.clear()
        repaired = DEFENSES["auto"](
            network,
            numbered(0, images),
            numbered(40, 48),
            DefenseSettings(training=TrainingSettings(epochs=1, learning_rate=1e-3)),
            generator=torch.Generator().manual_seed(0),
            progress=no_progress,
        ).network
        assert tuple(given) == doses
        assert all(dose.pursued > 0 for dose in given)
        assert len(made) == sum(dose.hallucinated > 0 for dose in doses)
        changed = network.get_parameter("1.weight") != repaired.get_parameter("1.weight")
        assert changed.any(1).nonzero().flatten().tolist() == rows


class Branching(nn.Module):
    """A network whose graph cannot be read: its forward depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.dark, self.bright = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        answers: Tensor = self.bright(flat) if float(flat.mean()) > 0.5 else self.dark(flat)
        return answers


def test_all_is_tuned_where_the_last_layer_is_not_linear() -> None:
    evidence = Evidence((), torch.zeros(0), torch.ones(3), torch.ones(3) > 0, torch.zeros(3) > 0)
    ends = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten())
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    assert OF_FEW.part(ends, evidence) is None
    assert OF_FEW.part(Branching(), evidence) is None
    assert _TARGETED.part(linear, evidence) is None
    part = OF_FEW.part(linear, evidence)
    assert part is not None
    assert part.layer == "1"


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
    assert (rounds == ()) == (not suspicious)
    assert ("next to" in evidence.told()) == bool(next_likely)


@pytest.mark.parametrize(("images", "unlearned"), [(20, [1, 3]), (19, []), (80, [])])
def test_where_nothing_points_to_a_label_two_are_unlearned_of_few_images(
    monkeypatch: pytest.MonkeyPatch, images: int, unlearned: list[int]
) -> None:
    monkeypatch.setattr(AUTO_MODULE, "suspicion", nothing_suspicious)
    evidence, rounds = evidence_from(numbered(0, images), classes=4)
    assert not evidence.suspicious.any()
    assert evidence.unlearned.nonzero().flatten().tolist() == unlearned
    assert (rounds == (_CAUTIOUS,)) == bool(unlearned)
    assert (rounds == ()) == (images == 19)
    of_two_labels, rounds = evidence_from(numbered(0, images), classes=2)
    assert not of_two_labels.unlearned.any()
    assert _CAUTIOUS not in rounds
    if unlearned:
        assert torch.equal(evidence.pursued > 0, evidence.unlearned)  # both are pursued alike
        assert evidence.pursued.unique().tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("images", "suspicious"), [(20, [1]), (19, []), (80, [])])
def test_of_few_images_a_label_is_suspected_of_a_weak_backdoor_too(
    monkeypatch: pytest.MonkeyPatch, images: int, suspicious: list[int]
) -> None:
    def weakly(*_: Any, classes: int, **__: Any) -> Suspicion:
        found = nothing_suspicious(classes=classes)
        universal = (universal_of(0, led=(1, 100, 1, 1)),)
        return replace(found, universal=universal, scores=torch.tensor([0.0, 0.4, 0.2, 0.0]))

    monkeypatch.setattr(AUTO_MODULE, "suspicion", weakly)
    evidence, rounds = evidence_from(numbered(0, images), classes=4)
    assert evidence.suspicious.nonzero().flatten().tolist() == suspicious
    assert not evidence.next_likely.any()
    assert (rounds == _TARGETED_OF_FEW) == bool(suspicious)


def evidence_from(clean: CleanData, *, classes: int) -> tuple[Evidence, tuple[Dose, ...]]:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, classes)).eval()
    return _evidence(
        Suspect(network, InputSpecification(SIZE)),
        clean,
        normed=False,
        generator=torch.Generator().manual_seed(0),
        progress=no_progress,
    )


def spied_doses(monkeypatch: pytest.MonkeyPatch) -> list[Dose]:
    """Filled with the dose of each tuning."""
    given: list[Dose] = []

    class Spied(Unlearning):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            given.append(self._dose)

    monkeypatch.setattr(AUTO_MODULE, "Unlearning", Spied)
    return given


def pointing_to(scores: tuple[float, ...]) -> Callable[..., Suspicion]:
    """Stands for `suspicion`."""
    found = torch.tensor(scores, dtype=torch.float32)
    return lambda *_, **__: Suspicion((), found.ceil().to(torch.int64), found, found, found)
