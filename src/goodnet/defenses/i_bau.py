"""I-BAU: unlearn the one change of all images that misleads most, foreseeing its answer.

A trigger is a change shared by all images. In each round the shared change that raises the clean
loss most is sought, and the weights then step so as to lower the loss it leaves. As the worst
change moves with the weights, the step follows the hypergradient, which counts that in.

Source: Zeng, Chen, Park, Mao, Jin, Jia 2022, Adversarial Unlearning of Backdoors via Implicit
Hypergradient: minimise over weights w the maximum over a change d, ||d|| <= C, of the mean
cross-entropy H(x + d). With d* the worst change the hypergradient is
    dH/dw - (d2L/dw dd) (d2L/dd2)^-1 dH/dd,  at d*, where L = -H + a small weight times d^2.
Approximated, as by the authors: d* is what a few steps reach and is sought once a round; the
inverse is a sum of five terms of the fixed-point iteration d = d - 0.1 dL/dd; both are of one
batch; the bound C is not differentiated.
Departures: the ascent starts from a little noise, and its steps are of one length; half of each
batch is changed rather than all (the formula) or a hundredth (the authors' code); C is told as a
root mean square, theirs, 10 for 3 x 32 x 32 values, being 0.18. Norms keep their statistics.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import device_of
from goodnet.data.images import as_float
from goodnet.data.roles import CleanData, require_clean
from goodnet.defenses.repaired import DefenseSettings, Repaired
from goodnet.formats.specification import InputSpecification
from goodnet.modes import evaluating
from goodnet.training import Progress, TrainingSettings, train

I_BAU = TrainingSettings(epochs=5, batch_size=100, learning_rate=1e-3, patience=5, least_steps=250)
"""The paper's rounds, each an epoch, and its rate.

Departure: the rate falls to zero along a half cosine; few images are passed over more often.
"""

_ASCENT = 20
"""Steps towards the worst change."""
_BATCH = 128
_STEP, _TERMS = 0.1, 5
"""Of the fixed-point iteration."""
_LIGHTNESS = 3.0
"""Weight of the mean square of the change; the authors' 0.001 for 3 x 32 x 32 values."""
_CHANGED = 0.5
"""Share of each batch that is changed."""


def i_bau(
    network: nn.Module,
    tuning: CleanData,
    held_out: CleanData,
    settings: DefenseSettings,
    *,
    generator: torch.Generator,
    progress: Progress,
) -> Repaired:
    """The network tuned against the worst shared changes, one a round; the last round."""
    unlearning = _Unlearning(require_clean(tuning), settings.i_bau_perturbation, generator)
    training = train(
        network,
        tuning,
        settings.training,
        generator=generator,
        loss=unlearning,
        held_out=require_clean(held_out),
        keep_last=True,
        progress=progress,
        what="implicit unlearning",
    )
    return Repaired(training.network, stopped=training.stopped, epochs=training.epochs)


class _Unlearning:
    """The loss under the worst shared change, which is sought anew in every round.

    Args:
        tuning: Clean images to seek the change on.
        limit: Its largest root mean square, in [0, 1].
        generator: Draws the images to seek it on.
    """

    def __init__(self, tuning: CleanData, limit: float, generator: torch.Generator) -> None:
        self._tuning, self._limit, self._generator = tuning, limit, generator
        self._change: Tensor | None = None
        self._seen = 0

    def __call__(
        self, network: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor
    ) -> Tensor:
        specification = self._tuning.specification
        with evaluating(network):
            if self._change is None or self._seen >= len(self._tuning):
                self._change = worst_change(
                    network, self._tuning, self._limit, generator=self._generator
                )
                self._seen = 0
            self._seen += len(inputs)
            shown = round(_CHANGED * len(inputs))

            def wrong(change: Tensor) -> Tensor:
                changed = inputs[:shown] + in_input(change, specification)
                logits = network(torch.cat([changed, inputs[shown:]]))
                return F.cross_entropy(logits.float(), labels)

            def kept_low(change: Tensor) -> Tensor:
                logits = network(inputs + in_input(change, specification))
                fooled = F.cross_entropy(logits.float(), labels)
                return _LIGHTNESS * change.square().mean() - fooled

            return with_hypergradient(wrong, kept_low, self._change)


def worst_change(
    network: nn.Module, clean: CleanData, limit: float, *, generator: torch.Generator
) -> Tensor:
    """The change of all images that raises the loss most, float32 (1, channel, height, width).

    Args:
        network: Gives logits.
        clean: Images drawn from for each step.
        limit: Largest root mean square of the change, in [0, 1].
        generator: Draws the images.
    """
    pixels, labels, device = clean.pixels(), clean.labels, device_of(network)
    # From no change at all a ReLU at 0 would hide the way.
    noise = torch.randn(1, *clean.specification.size, generator=generator)
    change = (0.1 * limit * noise / _size(noise)).to(device)
    for _ in range(_ASCENT):
        drawn = torch.randint(len(clean), (min(_BATCH, len(clean)),), generator=generator)
        change.requires_grad_(True)
        inputs = clean.specification.prepare(as_float(pixels[drawn]).to(device) + change)
        loss = F.cross_entropy(network(inputs).float(), labels[drawn].to(device))
        (slope,) = torch.autograd.grad(loss, change)
        change = change.detach() + 2.5 * limit / _ASCENT * slope / _size(slope)
        change = change * (limit / _size(change)).clamp(max=1.0)
    return change


def with_hypergradient(
    outer: Callable[[Tensor], Tensor],
    inner: Callable[[Tensor], Tensor],
    change: Tensor,
    *,
    step: float = _STEP,
    terms: int = _TERMS,
) -> Tensor:
    """`outer(change)`, a scalar whose gradient in the weights is the hypergradient.

    Args:
        outer: The loss to make small, of a change and weights.
        inner: What the change made small, of the same.
        change: The minimum of `inner`, or close to it.
        step: Of the iteration change - step * slope of `inner`, which stays at the minimum.
        terms: Of the sum that stands for the inverse; it converges where the iteration does.

    Source: Grazzi, Franceschi, Pontil, Salzo 2020, On the Iteration Complexity of Hypergradient
    Computation, the fixed-point method.
    """
    change = change.detach().requires_grad_(True)
    value = outer(change)
    (slope,) = torch.autograd.grad(value, change, retain_graph=True)
    (uphill,) = torch.autograd.grad(inner(change), change, create_graph=True)
    stepped = change - step * uphill
    passed = slope
    for _ in range(terms - 1):
        (back,) = torch.autograd.grad(stepped, change, passed, retain_graph=True)
        passed = slope + back
    # Of no value, but of the slope that the change's answer to the weights has.
    indirect = (stepped * passed.detach()).sum()
    return value + indirect - indirect.detach()


def in_input(change: Tensor, specification: InputSpecification) -> Tensor:
    """The change of images as a change of the network's inputs."""
    return specification.prepare(change) - specification.prepare(torch.zeros_like(change))


def _size(change: Tensor) -> Tensor:
    """Root mean square, a scalar above 0."""
    return change.square().mean().sqrt().clamp(min=1e-12)
