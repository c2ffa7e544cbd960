"""auto: teach the network that no small change of an image changes its answer.

A trigger is a change of the image that people see through and a BadNet does not. The defender
knows no trigger, so many changes that might be one are tried: random stickers, ripples,
patterns, blends and warps, and the smallest ones a search finds on the BadNet itself. On an
image so changed the repaired network must give the right answer, and must not give the wrong
one that the BadNet gives. On clean images it keeps to the BadNet's answers. Then the search is
made anew on what came out; where it still finds a small change, tuning goes on.

Sources of the parts: Wang et al. 2019, Neural Cleanse (search, and unlearning by right labels);
Wei et al. 2023, Shared Adversarial Unlearning (-log(1 - p) of the label the old network is
misled to); Li et al. 2021, Neural Attention Distillation, and Hinton et al. 2015 (answers kept
by distillation); Zhang et al. 2018, mixup (images between images); Izmailov et al. 2018
(weights averaged along the way).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import accuracy_of
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.formats.specification import InputSpecification
from goodnet.probes import (
    Found,
    Probe,
    Suspect,
    least_changes,
    likeliest_labels,
    random_probes,
    searched_probes,
    surely_misled,
)
from goodnet.results import EpochRow
from goodnet.training import Augmentation, Progress, TrainingSettings, layout_of, train

AUTO = TrainingSettings(
    epochs=20,
    batch_size=128,
    learning_rate=0.02,
    weight_decay=5e-4,
    augmentation=Augmentation(shift=0.06, rotation=10.0, scale=0.12, brightness=0.3),
    optimizer="sgd",
    warm_up=0.2,
    largest_gradient=5.0,
    least_steps=800,
)
"""Chosen on the development half of the zoo; see docs/results.md."""

_ROUNDS = 2
_SEARCH_STEPS = 60
_ANY = 8
"""Starts of the search for changes that make answers wrong in any way."""
_CHANGED = 0.5
"""Share of each batch that is changed."""
_MIXED = 0.4
"""Share of the others that are mixed with another image."""
_SEARCHED = 0.3
"""Share of the changed images whose change was searched for, where any was found."""
_REPLAYED = 0.5
"""Share of the random changes that are such as misled before."""
_REMEMBERED = 64
_RARELY = 0.03
"""Added to the share of images that a kind misleads surely, for how often the kind is drawn."""
_UNLIKE = 4.0
"""Weight of not answering as the BadNet is misled to."""
_TEMPERATURE = 2.0
_WEAKER, _STRONGER = 0.6, 3.0
"""Factors of a change that was found, since the attacker's need not be the smallest."""


def auto(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned until the search finds no small change that misleads it.

    Of the rounds the last is kept.
    """
    require_clean(held_out)
    precision = settings.training.precision
    specification = require_clean(tuning).specification
    suspect = Suspect(network, specification, precision)
    weights = _RARELY + surely_misled(
        suspect, tuning, random_probes(specification.size), generator=generator
    )
    found = _search(suspect, tuning, generator=generator, progress=progress)
    tried = [f"of the network handed in, {_told(found)}"]
    repaired = network
    epochs: tuple[EpochRow, ...] = ()
    for round_ in range(1, _ROUNDS + 1):
        unlearning = _Unlearning(network, specification, found, weights, generator)
        average = _Average()
        training = train(
            repaired,
            tuning,
            settings.training,
            generator=generator,
            loss=unlearning,
            held_out=held_out,
            after_step=average,
            keep_last=True,
            progress=progress,
            what=f"unlearning, round {round_}",
        )
        repaired = average.of(training.network)
        epochs += training.epochs
        left = _search(
            Suspect(repaired, specification, precision),
            tuning,
            generator=generator,
            progress=progress,
        )
        after = accuracy_of(repaired, held_out)
        tried.append(f"after round {round_} ({after.value:.1%} held out), {_told(left)}")
        if not any(map(len, left)):
            break
        found = (*found, *left)
    return Repaired(repaired, stopped="; ".join(tried), epochs=epochs)


def _search(
    suspect: Suspect, clean: CleanData, *, generator: torch.Generator, progress: Progress
) -> tuple[Found, ...]:
    """The small changes that mislead the network, of each kind."""
    labels = likeliest_labels(suspect, clean, generator=generator)
    targets = torch.cat([labels, torch.full((_ANY,), -1)])
    return tuple(
        least_changes(
            suspect,
            clean,
            probe,
            targets,
            steps=_SEARCH_STEPS,
            generator=generator,
            progress=progress,
        ).small()
        for probe in searched_probes(clean.specification.size)
    )


def _told(found: Sequence[Found]) -> str:
    parts = [
        f"{each.probe.name} ({_labels(each)}, from {float(each.extents.min()):.1%})"
        for each in found
        if len(each)
    ]
    if not parts:
        return "no small change misleads it"
    return f"small changes mislead it: {', '.join(parts)}"


def _labels(found: Found) -> str:
    named = found.targets[found.targets >= 0].tolist()
    labels = [f"to {', '.join(map(str, named))}"] if named else []
    return " and ".join([*labels, *(["anyhow"] if (found.targets < 0).any() else [])])


class _Average:
    """The mean of the weights over the second half of the steps."""

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._count = 0

    @torch.no_grad()
    def __call__(self, network: nn.Module, step: int, steps: int) -> None:
        if step <= steps // 2:
            return
        self._count += 1
        for name, weights in network.named_parameters():
            if self._count == 1:
                self._mean[name] = weights.detach().clone()
            else:
                self._mean[name].lerp_(weights, 1 / self._count)

    @torch.no_grad()
    def of(self, network: nn.Module) -> nn.Module:
        """`network` with these weights."""
        for name, weights in network.named_parameters():
            weights.copy_(self._mean[name])
        return network


class _Unlearning:
    """The loss: right answers on changed images, the BadNet's answers on clean ones.

    Args:
        badnet: B, which teaches on clean images and warns on changed ones.
        specification: How it wants its inputs.
        found: Changes that a search found.
        weights: How often each kind of random change is drawn, float32 (kinds,).
        generator: Draws the changes.
    """

    def __init__(
        self,
        badnet: nn.Module,
        specification: InputSpecification,
        found: Sequence[Found],
        weights: Tensor,
        generator: torch.Generator,
    ) -> None:
        # Called within `train`, which decides the precision.
        self._badnet = Suspect(badnet, specification)
        self._specification = specification
        self._layout = layout_of(badnet)
        self._found = [each for each in found if len(each)]
        self._random = [_Replayed(probe, generator) for probe in random_probes(specification.size)]
        self._weights = weights
        self._generator = generator

    def __call__(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor
    ) -> Tensor:
        _freeze_norms(network)
        images = self._specification.restore(inputs)
        kept = len(images) - round(_CHANGED * len(images))
        mixed = round(_MIXED * kept)
        between = self._between(images[:kept], mixed)
        changed, told = self._changed(images[kept:])
        with torch.no_grad():
            taught = self._badnet(torch.cat([between, images[kept:], changed]))
        taught, misled_to = taught[: len(images)], taught[len(images) :].argmax(1)
        shown = self._specification.prepare(torch.cat([between, changed]))
        logits = network(shown.contiguous(memory_format=self._layout)).float()
        kept_loss = _distilled(logits, taught)
        # A mixed image has no right label.
        kept_loss[mixed:] += F.cross_entropy(logits[mixed:], labels[mixed:], reduction="none")
        kept_loss[mixed:] /= 2
        said = logits[kept:].softmax(1).gather(1, misled_to.unsqueeze(1)).squeeze(1)
        said = said * (misled_to != labels[kept:])
        told(said.detach())
        unlike: Tensor = -torch.log1p(-said.clamp(max=1 - 1e-4))
        return (kept_loss.sum() + _UNLIKE * unlike.sum()) / len(images)

    def _between(self, images: Tensor, mixed: int) -> Tensor:
        """The images, the first of them mixed with others."""
        share = 0.5 + 0.5 * torch.rand(mixed, 1, 1, 1, generator=self._generator)
        other = torch.randperm(len(images), generator=self._generator)[:mixed]
        share, other = share.to(images.device), other.to(images.device)
        return torch.cat([images[:mixed] * share + images[other] * (1 - share), images[mixed:]])

    def _changed(self, images: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The images, each changed in one way, and who wants to know what came of it."""
        draws = torch.rand(len(images), generator=self._generator)
        share = _SEARCHED if self._found else 0.0
        kinds = torch.multinomial(
            self._weights, len(images), replacement=True, generator=self._generator
        )
        kinds[draws < share] = -1
        changed = images.clone()
        parts = []
        for place, replayed in enumerate(self._random):
            own = (kinds == place).nonzero().flatten()
            if len(own):
                numbers = replayed.draw(len(own), images)
                changed[own] = replayed.probe.change(images[own], numbers.to(images.device))
                parts.append((replayed, own, numbers))
        searched = (draws < share).nonzero().flatten()
        if len(searched):
            of = torch.randint(0, len(self._found), (len(searched),), generator=self._generator)
            for place, found in enumerate(self._found):
                own = searched[of == place]
                if len(own):
                    changed[own] = self._found_change(found, images[own])

        def told(said: Tensor) -> None:
            for replayed, own, numbers in parts:
                replayed.remember(numbers, said[own].cpu())

        return changed, told

    def _found_change(self, found: Found, images: Tensor) -> Tensor:
        chosen = torch.randint(0, len(found), (len(images),), generator=self._generator)
        factors = torch.rand(len(images), generator=self._generator)
        factors = _WEAKER * (_STRONGER / _WEAKER) ** factors
        numbers = found.probe.stronger(found.numbers[chosen], factors)
        return found.probe.change(images, numbers.to(images.device))


class _Replayed:
    """Random changes of one kind, half of them close to such as misled the network before."""

    def __init__(self, probe: Probe, generator: torch.Generator) -> None:
        self.probe = probe
        self._generator = generator
        self._numbers, self._marks = torch.empty(0, probe.length), torch.empty(0)

    def draw(self, count: int, images: Tensor) -> Tensor:
        """Changes, float32 (count, length)."""
        numbers = self.probe.draw(count, images, generator=self._generator)
        again = round(_REPLAYED * count)
        if again and len(self._marks):
            chosen = torch.multinomial(
                self._marks + 0.02, again, replacement=True, generator=self._generator
            )
            noise = 0.01 * torch.randn(again, self.probe.length, generator=self._generator)
            numbers[:again] = (self._numbers[chosen] + noise).clamp(0.0, 1.0)
        return numbers

    def remember(self, numbers: Tensor, marks: Tensor) -> None:
        """Keeps the changes that misled most; `marks` tell how much, in [0, 1]."""
        numbers = torch.cat([self._numbers, numbers])
        marks = torch.cat([0.99 * self._marks, marks])
        best = marks.argsort(descending=True, stable=True)[:_REMEMBERED]
        self._numbers, self._marks = numbers[best], marks[best]


def _distilled(logits: Tensor, taught: Tensor) -> Tensor:
    """How far answers are from those taught, softened alike, float32 (batch,)."""
    said, right = (F.log_softmax(each / _TEMPERATURE, 1) for each in (logits, taught))
    return _TEMPERATURE**2 * F.kl_div(said, right, log_target=True, reduction="none").sum(1)


def _freeze_norms(network: nn.Module) -> None:
    """Norms keep their statistics: changed images would shift them."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
