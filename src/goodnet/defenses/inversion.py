"""Trigger inversion: find the label that a small mask leads to, and unlearn that mask.

For each label the smallest mask and pattern are sought that make the network say it of most
images. A backdoor's target needs a far smaller one than any other label. Images stamped with it
are then tuned on under their right labels.

Source: Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao 2019, Neural Cleanse: a label is flagged
whose mask is more than 2 deviations, 1.4826 times the median absolute one, below the median of
all; one epoch of tuning on a tenth of the training data, a fifth of it stamped.
Departures: the logarithms of the sizes are compared, since sizes differ by factors: where they
scatter by more than half their median, nothing lies 2 deviations below it, however small. The
search is that of `probes.least_changes`, in fewer steps and for masks that mislead three
quarters of the images; what is flagged is then made to mislead 99 %, as theirs, and stamped at
that strength and above it, since the attacker's trigger need not be the smallest. A label for
which none is found counts as one that needs the whole image. Of more than 64 labels those are
searched for to which random changes lead most; of two labels neither can stand out.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.probes import Found, SearchedProbe, Suspect, least_changes, likeliest_labels
from goodnet.probes.masks import Masks
from goodnet.training import Loss, Progress, TrainingSettings, cross_entropy, layout_of, train

INVERSION = TrainingSettings(epochs=1, batch_size=64, learning_rate=1e-3, least_steps=200)
"""One epoch, as the paper, or as many as make 200 steps: it has more images in an epoch."""

_STEPS = 200
"""Of the search."""
_SUCCESS, _ASKED = 0.99, 512
_FACTORS = tuple(1.25**power for power in range(16))
"""By which a mask is made stronger until it misleads that share of so many images."""
_STRONGER = 3.0
"""Factor up to which what is stamped is stronger than that."""
_STAMPED = 0.2
"""Share of each batch that is stamped."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """Which labels stand out by their small masks.

    Attributes:
        found: The smallest mask for each label.
        sizes: Share of the image that each covers, float32 (label,).
        deviations: How far below the median each is, float32 (label,).
        flagged: Those that stand out, bool (label,).
    """

    found: Found
    sizes: Tensor
    deviations: Tensor
    flagged: Tensor

    def told(self) -> str:
        """For people."""
        median = f"the median of {float(self.sizes.quantile(0.5)):.2%}"
        if not self.flagged.any():
            least = int(self.deviations.argmax())
            return (
                f"no label stands out, so the network is left as it is: the smallest mask, "
                f"{float(self.sizes[least]):.2%} of the image for label "
                f"{int(self.found.targets[least])}, is {float(self.deviations[least]):.1f} "
                f"deviations below {median}"
            )
        parts = [
            f"label {int(self.found.targets[at])} ({float(self.sizes[at]):.2%} of the image, "
            f"{float(self.deviations[at]):.1f} deviations)"
            for at in self.flagged.nonzero().flatten().tolist()
        ]
        return f"masks far below {median} were unlearned: {', '.join(parts)}"


def inversion(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned on images stamped with what was found; the last epoch.

    Where no label stands out it is an equal copy of the one handed in.
    """
    require_clean(held_out)
    suspect = Suspect(network, require_clean(tuning).specification, settings.training.precision)
    outliers = stand_out(
        _smallest_masks(suspect, tuning, generator=generator, progress=progress),
        settings.inversion_deviations,
    )
    if not outliers.flagged.any():
        return Repaired(copy.deepcopy(network).eval(), stopped=outliers.told())
    probe, flagged = outliers.found.probe, outliers.flagged
    numbers = as_strong_as_published(
        suspect,
        tuning,
        probe,
        outliers.found.numbers[flagged],
        outliers.found.targets[flagged],
        generator=generator,
    )
    training = train(
        network,
        tuning,
        settings.training,
        generator=generator,
        loss=_stamped_loss(network, tuning, probe, numbers, generator),
        held_out=held_out,
        keep_last=True,
        progress=progress,
        what="unlearning",
    )
    return Repaired(training.network, stopped=outliers.told(), epochs=training.epochs)


def _smallest_masks(
    suspect: Suspect, clean: CleanData, *, generator: torch.Generator, progress: Progress
) -> Found:
    return least_changes(
        suspect,
        clean,
        Masks(clean.specification.size),
        likeliest_labels(suspect, clean, generator=generator),
        steps=_STEPS,
        generator=generator,
        progress=progress,
    )


def stand_out(found: Found, deviations: float) -> Outliers:
    """The labels whose masks are more than `deviations` below the median, by logarithms.

    Where most masks are of one size, any smaller one is infinitely far below.
    """
    sizes = found.extents.clamp(1e-6, 1.0)
    below = sizes.log().quantile(0.5) - sizes.log()
    unit = 1.4826 * below.abs().quantile(0.5)
    far = torch.where(below == 0, 0.0, below / unit)
    return Outliers(found, sizes, far, far > deviations)


@torch.no_grad()
def as_strong_as_published(
    suspect: Suspect,
    clean: CleanData,
    probe: SearchedProbe,
    numbers: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
) -> Tensor:
    """The masks made stronger until they mislead 99 % of the images, float32 (count, length)."""
    drawn = torch.randperm(len(clean), generator=generator)[:_ASKED]
    images, labels = as_float(clean.pixels()[drawn]), clean.labels[drawn]
    grown = []
    for target, own in zip(targets.tolist(), numbers.split(1), strict=True):
        others = images[labels != target]
        for factor in _FACTORS:
            strong = probe.stronger(own, torch.tensor([factor]))
            said = suspect(probe.change(others, strong.expand(len(others), -1))).argmax(1)
            if float((said == target).float().mean()) >= _SUCCESS:
                break
        grown.append(strong)
    return torch.cat(grown)


def _stamped_loss(
    network: nn.Module,
    tuning: CleanData,
    probe: SearchedProbe,
    numbers: Tensor,
    generator: torch.Generator,
) -> Loss:
    """Cross-entropy on right labels, a share of the images stamped with one of the masks.

    Args:
        network: Tells the layout of the inputs.
        tuning: Tells how they are prepared.
        probe: The kind of change.
        numbers: The masks, float32 (count, length), to be stamped as strong and stronger.
        generator: Draws the mask and the strength of each image.
    """
    specification, layout = tuning.specification, layout_of(network)

    def loss(tuned: nn.Module, inputs: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        count = round(_STAMPED * len(inputs))
        drawn = torch.randint(len(numbers), (count,), generator=generator)
        factors = _STRONGER ** torch.rand(count, generator=generator)
        masks = probe.stronger(numbers[drawn], factors)
        images = specification.restore(inputs[:count])
        stamped = specification.prepare(probe.change(images, masks.to(images.device)))
        shown = torch.cat([stamped, inputs[count:]]).contiguous(memory_format=layout)
        return cross_entropy(tuned, shown, labels, chosen)

    return loss
