"""Shared adversarial unlearning: unlearn the inputs that fool the old and the new network alike.

A trigger is one of the changes that mislead the BadNet B. For each image a change is sought that
misleads B and the network being tuned, B', to the same label; B' is then taught not to say it.

Source: Wei, Zhang, Zha, Wu 2023, Shared Adversarial Unlearning: Backdoor Mitigation by
Unlearning Shared Adversarial Examples.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import probabilities_of
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.formats.specification import InputSpecification
from goodnet.modes import evaluating
from goodnet.training import Augmentation, Loss, Progress, TrainingSettings, logits_network, train

SAU = TrainingSettings(
    epochs=8,
    batch_size=64,
    learning_rate=1e-4,
    patience=8,
    augmentation=Augmentation(),
)
"""The paper's rate; each step costs about ten of plain fine-tuning, so epochs are few."""

_STEPS = 5
"""Sign steps towards the change, as the paper."""


def sau(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned on clean images and against changes that mislead both networks."""
    old = logits_network(copy.deepcopy(network)).eval().requires_grad_(False)
    training = train(
        network,
        require_clean(tuning),
        settings.training,
        generator=generator,
        loss=_unlearning(old, tuning.specification, settings.sau_perturbation),
        held_out=require_clean(held_out),
        progress=progress,
        what="shared adversarial unlearning",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)


def _unlearning(old: nn.Module, specification: InputSpecification, limit: float) -> Loss:
    """Cross-entropy on clean inputs plus -log(1 - p'[label B is misled to]) on changed ones."""
    black, white = (
        specification.prepare(torch.full((1, *specification.size), value)) for value in (0.0, 1.0)
    )
    low, high = torch.minimum(black, white), torch.maximum(black, white)

    def loss(tuned: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor) -> Tensor:
        ends = low.to(inputs.device), high.to(inputs.device)
        changed = _shared_change(old, tuned, inputs, labels, ends, limit)
        with torch.no_grad():
            misled_to = old(changed).argmax(1)
        logits = tuned(torch.cat([inputs, changed])).float()
        clean, after = logits.split(len(inputs))
        said = probabilities_of(misled_to, after)
        unlearned = -torch.log1p(-said.clamp(max=1 - 1e-6))
        misled = misled_to != labels
        total: Tensor = F.cross_entropy(clean, labels) + (unlearned * misled).sum() / len(labels)
        return total

    return loss


def _shared_change(
    old: nn.Module,
    tuned: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    ends: tuple[Tensor, Tensor],
    limit: float,
) -> Tensor:
    """The inputs changed so that both networks are wrong, and wrong alike.

    What is climbed is the mean cross-entropy of both, less the Jensen-Shannon divergence
    of their answers.
    """
    low, high = ends
    reach = limit * (high - low)
    changed = inputs
    with evaluating(tuned):
        for _ in range(_STEPS):
            changed = changed.detach().requires_grad_(True)
            logits = old(changed).float(), tuned(changed).float()
            wrong = sum(F.cross_entropy(each, labels) for each in logits) / 2
            (slope,) = torch.autograd.grad(wrong - _divergence(*logits), changed)
            stepped = changed.detach() + 2.0 / _STEPS * reach * slope.sign()
            stepped = torch.minimum(torch.maximum(stepped, inputs - reach), inputs + reach)
            changed = torch.minimum(torch.maximum(stepped, low), high)
    return changed.detach()


def _divergence(one: Tensor, other: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence of two answers, a scalar."""
    logs = F.log_softmax(one, 1), F.log_softmax(other, 1)
    middle = torch.stack(logs).exp().mean(0).clamp(min=1e-12).log()
    parts = [F.kl_div(middle, log, log_target=True, reduction="batchmean") for log in logs]
    return torch.stack(parts).mean()
