"""Exposure: right answers are asked for on things that random changes were made to.

What `auto` does where a network says more of an image than one label, a detector's for
example: there is no single wrong answer to forbid and none to distil. A trigger lies on a thing
to be named, so each thing is changed by itself.

Source: this project; the changes are those of `probes`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from goodnet.data.images import Task
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.averaging import Average
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.probes import Probe, random_probes
from goodnet.training import Progress, train

_CHANGED = 0.5
"""Share of each batch whose things are changed."""
_LONGER = 3
"""Factor of the epochs: there are more changes to be seen than images; see docs/results.md."""


def exposure(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned on clean and on changed images alike; its weights averaged.

    The images have a task. It takes three times the epochs of the settings.
    """
    task = require_clean(tuning).images.task
    assert task is not None
    probes = random_probes(task.thing_size)
    specification = tuning.specification

    def loss(tuned: nn.Module, inputs: Tensor, _labels: Tensor, chosen: Tensor) -> Tensor:
        images = _exposed(specification.restore(inputs), chosen, task, probes, generator)
        return task.loss(tuned, specification.prepare(images), chosen)

    average = Average()
    training = train(
        network,
        tuning,
        replace(settings.training, epochs=_LONGER * settings.training.epochs),
        generator=generator,
        loss=loss,
        held_out=require_clean(held_out),
        after_step=average,
        keep_last=True,
        progress=progress,
        what="exposure",
    )
    return Repaired(average.of(training.network), stopped=training.stopped, epochs=training.epochs)


def _exposed(
    images: Tensor,
    chosen: Tensor,
    task: Task,
    probes: tuple[Probe, ...],
    generator: torch.Generator,
) -> Tensor:
    """The images, the first of them with each thing changed in some way."""

    def change(things: Tensor) -> Tensor:
        kinds = torch.randint(len(probes), (len(things),), generator=generator)
        changed = things.clone()
        for kind, probe in enumerate(probes):
            own = (kinds == kind).nonzero().flatten()
            if len(own):
                numbers = probe.draw(len(own), things[own].cpu(), generator=generator)
                changed[own] = probe.change(things[own], numbers.to(things.device))
        return changed

    count = round(_CHANGED * len(images))
    return torch.cat([task.changed(images[:count], chosen[:count], change), images[count:]])
