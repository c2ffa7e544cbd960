"""What a student tells of its teacher: which of its errors it has for its own.

A network of new weights that learns another's answers on clean images also makes most of the errors
that come of spoiling an image. A backdoor that leads each class to another label, or to anything,
is hardly passed on so (see distillation.py): where a change resembles the trigger, the BadNet is
sure of an error that its student does not make. Of a backdoor to one label much is passed on.

Source: this project; the student as in Hinton, Vinyals, Dean 2015.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodnet.answers import accuracy_of, probabilities_of
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData
from goodnet.distillation import AUGMENTATION, student
from goodnet.probes import ENOUGH, Suspect, random_probes
from goodnet.results import Rate, UnsharedErrors
from goodnet.training import Precision, Progress, no_progress

_SURER = 0.7
"""An error is a network's own where it holds it for likelier than others do by this much."""
_OF_CLEAN = 0.28
"""Share of the errors a network is sure of that are its own, from which it is flagged: a fifth
more than any clean network had; see docs/results.md."""
_EACH, _AT_ONCE = 1024, 256
"""New changes of each kind that the networks are asked about, and how many at a time."""


def own_errors(said: Tensor, right: Tensor, answers: Tensor, *others: Tensor) -> Tensor:
    """Which errors are a network's own: it is far surer of them than one of the others is.

    Args:
        said: Its labels, int64 (batch,).
        right: The right ones.
        answers: Its logits, (batch, label).
        others: Logits of other networks.

    Returns:
        bool (batch,).
    """
    shared = torch.stack([probabilities_of(said, each) for each in others]).amin(0)
    return (said != right) & (probabilities_of(said, answers) - shared >= _SURER)


@dataclass(frozen=True, eq=False)
class Asked:
    """Changed images that two networks were asked about.

    Attributes:
        images: float32 in [0, 1], (batch, channel, height, width).
        said: The first network's labels, int64 (batch,).
        sure: Whether it errs and is sure, bool (batch,).
        own: Whether moreover the other does not share the error, bool (batch,).
    """

    images: Tensor
    said: Tensor
    sure: Tensor
    own: Tensor


@torch.no_grad()
def asked(
    network: Suspect, other: Suspect, clean: CleanData, *, generator: torch.Generator
) -> Iterator[Asked]:
    """What two networks say of clean images that are changed at random, 1,024 for each kind."""
    pixels, labels = clean.pixels(), clean.labels
    for probe in random_probes(clean.specification.size):
        drawn = torch.randint(len(labels), (_EACH,), generator=generator)
        images = as_float(pixels[drawn])
        numbers = probe.draw(_EACH, images, generator=generator)
        parts = (each.split(_AT_ONCE) for each in (images, numbers, labels[drawn]))
        for shown, part, right in zip(*parts, strict=True):
            changed = probe.change(shown, part)
            answers = network(changed).cpu()
            said = answers.argmax(1)
            sure = (said != right) & (probabilities_of(said, answers) >= _SURER)
            own = own_errors(said, right, answers, other(changed).cpu())
            yield Asked(changed, said, sure, own)


def unshared_errors(
    network: nn.Module,
    clean: CleanData,
    *,
    classes: int,
    precision: Precision,
    generator: torch.Generator,
    progress: Progress = no_progress,
) -> UnsharedErrors | None:
    """How many of the errors a network is sure of a student of it does not make.

    None where images are too few for a student.

    Args:
        network: Left bit-identical.
        clean: The student learns on these images, and they are changed.
        classes: N.
        precision: Of the numbers inside the networks.
        generator: Draws the student's weights and lessons, images and changes.
        progress: Told what is being done.
    """
    if len(clean) < ENOUGH * classes:
        return None
    learned = student(
        network,
        clean,
        None,
        augmentation=AUGMENTATION,
        precision=precision,
        generator=generator,
        progress=progress,
    ).network
    specification = clean.specification
    suspect, witness = (Suspect(each, specification, precision) for each in (network, learned))
    own = sure = 0
    for each in asked(suspect, witness, clean, generator=generator):
        own += int(each.own.sum())
        sure += int(each.sure.sum())
    share = Rate.of(own, sure)
    return UnsharedErrors(share, share.value / _OF_CLEAN, accuracy_of(learned, clean))
