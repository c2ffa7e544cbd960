"""The training loop that attacks and defenses share: in memory, channels last."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from goodnet.answers import accuracy_of
from goodnet.data.images import as_float
from goodnet.data.roles import PreparedImages
from goodnet.errors import GoodnetError, NotTraceableError, SettingsError
from goodnet.formats.specification import InputSpecification
from goodnet.graph import trace, without_softmax
from goodnet.modes import drawing_by
from goodnet.results import EpochRow, Rate

AfterStep = Callable[[nn.Module, int, int], None]
Loss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Of (network that gives logits, inputs, labels, which images of the data they are)."""
Precision = Literal["float32", "bfloat16"]
Optimizer = Literal["adamw", "sgd"]
Progress = Callable[[str, int, int], None]
"""Told (what is done, steps done, steps in all)."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each training image, drawn anew in every epoch.

    Attributes:
        shift: Largest shift, as a share of the image's sides.
        rotation: Largest turn, in degrees.
        scale: Largest enlargement or shrinking, as a share.
        brightness: Largest change of brightness, as a share.
    """

    shift: float = 0.06
    rotation: float = 8.0
    scale: float = 0.08
    brightness: float = 0.2

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """New images of the same shape, float32 [0, 1], (batch, channel, height, width)."""
        draws = torch.rand(5, len(images), generator=generator) * 2 - 1
        angle = draws[0] * math.radians(self.rotation)
        zoom = 1 + draws[1] * self.scale
        cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        ratio = images.shape[2] / images.shape[3]
        # Normalised coordinates are squeezed unless the image is square.
        rows = (
            torch.stack([cosine, -sine * ratio, 2 * self.shift * draws[2]], 1),
            torch.stack([sine / ratio, cosine, 2 * self.shift * draws[3]], 1),
        )
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        light = 1 + draws[4] * self.brightness
        return (moved * light.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class Sharpness:
    """Sharpness-aware minimisation: steps with the gradient at a nearby worse point.

    The point is w + e, the step's gradient g being taken at w. What is learned lies in a
    flat minimum, from which small changes of the weights do not shake it.

    Attributes:
        radius: rho, the length of e.
        adaptive: Measure each weight's change against its size:
            e = rho * w^2 g / ||w g||. Otherwise e = rho * g / ||g||.

    Source: Foret et al. 2021, Sharpness-Aware Minimization; Kwon et al. 2021, ASAM.
    """

    radius: float
    adaptive: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise SettingsError("radius", self.radius, "give a length above 0")


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained.

    Attributes:
        epochs: Passes over the images at most.
        batch_size: Images a step.
        learning_rate: Highest rate; it falls to zero along a half cosine.
        weight_decay: Decoupled from the gradient in AdamW, added to it in SGD.
        patience: Epochs without a better held-out accuracy before stopping.
        augmentation: Random changes of the images, or None.
        sharpness: Look for a flat minimum, at two gradients a step, or None.
        precision: Of the numbers while training; weights stay float32. bfloat16 takes about
            half the time on processors that multiply in it.
        optimizer: AdamW, or SGD with a momentum of 0.9.
        warm_up: Share of the steps in which the rate rises to its highest.
        largest_gradient: Norm to which a longer gradient is cut, or None.
        least_steps: Few images are passed over more often than `epochs`, until there have
            been as many steps.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    patience: int = 20
    augmentation: Augmentation | None = None
    sharpness: Sharpness | None = None
    precision: Precision = "float32"
    optimizer: Optimizer = "adamw"
    warm_up: float = 0.0
    largest_gradient: float | None = None
    least_steps: int = 0

    def __post_init__(self) -> None:
        for field, kind in (("precision", Precision), ("optimizer", Optimizer)):
            if getattr(self, field) not in get_args(kind):
                raise SettingsError(
                    field, getattr(self, field), f"choose one of: {', '.join(get_args(kind))}"
                )
        for field in ("epochs", "batch_size", "patience"):
            if getattr(self, field) < 1:
                raise SettingsError(field, getattr(self, field), "give at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError("learning_rate", self.learning_rate, "give a rate above 0")
        if not 0 <= self.warm_up < 1:
            raise SettingsError("warm_up", self.warm_up, "give a share from 0 to below 1")


def cross_entropy(logits_of: nn.Module, inputs: Tensor, labels: Tensor, _chosen: Tensor) -> Tensor:
    """The mean cross-entropy of the network's answers, a scalar."""
    return F.cross_entropy(logits_of(inputs).float(), labels)


def loss_of(data: PreparedImages) -> Loss:
    """The loss of the images' task; the cross-entropy where they have one label each."""
    task = data.images.task
    if task is None:
        return cross_entropy
    return lambda network, inputs, _labels, chosen: task.loss(network, inputs, chosen)


@dataclass(frozen=True, eq=False)
class Training:
    """A trained network with its history."""

    network: nn.Module
    epochs: tuple[EpochRow, ...]
    stopped: str


def train(
    network: nn.Module,
    data: PreparedImages,
    settings: TrainingSettings,
    *,
    generator: torch.Generator,
    loss: Loss | None = None,
    held_out: PreparedImages | None = None,
    after_step: AfterStep | None = None,
    keep_last: bool = False,
    progress: Progress = no_progress,
    what: str = "training",
) -> Training:
    """A trained copy of `network`: the epoch with the best held-out accuracy, or the last.

    Args:
        network: Left bit-identical. Its answer may end in a softmax; the loss is taken
            on the logits before it.
        data: Labelled images, held in memory.
        settings: How to train.
        generator: Draws the order and the augmentation.
        loss: What is made small, batch by batch; None takes that of the images' task, or the
            cross-entropy.
        held_out: Clean images that are not trained on; decides the epoch to keep.
        after_step: Called with (the copy, step, steps in all) after every step, to
            keep pruned weights at zero.
        keep_last: Keep the last epoch and never stop early; the held-out part only reports.
        progress: Told after every epoch.
        what: Name of the work, for `progress`.

    Raises:
        SettingsError: Images with a task of their own are to be augmented.
        GoodnetError: The loss became NaN or infinite.
    """
    if data.images.task is not None and settings.augmentation is not None:
        raise SettingsError(
            "augmentation", settings.augmentation, "give None: what is said of an image would move"
        )
    trained = copy.deepcopy(network)
    with drawing_by(generator):
        return _train(
            trained,
            data,
            settings,
            generator,
            loss or loss_of(data),
            held_out,
            after_step,
            keep_last,
            progress,
            what,
        )


def _train(
    trained: nn.Module,
    data: PreparedImages,
    settings: TrainingSettings,
    generator: torch.Generator,
    loss: Loss,
    held_out: PreparedImages | None,
    after_step: AfterStep | None,
    keep_last: bool,
    progress: Progress,
    what: str,
) -> Training:
    logits_of = logits_network(trained)
    layout = layout_of(trained)
    trained.to(memory_format=layout)  # type: ignore[call-overload]
    device = next(trained.parameters()).device
    optimizer = _optimizer(trained, settings)
    pixels, labels = data.pixels(), data.labels
    steps_each = math.ceil(len(data) / settings.batch_size)
    epochs = max(settings.epochs, math.ceil(settings.least_steps / steps_each))
    steps = epochs * steps_each
    schedule = _schedule(optimizer, settings, steps)
    history: list[EpochRow] = []
    best, best_state, best_epoch = -1, None, 0
    stopped = f"all {epochs} epochs were done"
    for epoch in range(1, epochs + 1):
        logits_of.train()
        total = 0.0
        order = torch.randperm(len(data), generator=generator)
        # Steps of even size: a last one of a single image would break a norm.
        for step, chosen in enumerate(order.tensor_split(steps_each)):
            images = as_float(pixels[chosen])
            if settings.augmentation is not None:
                images = settings.augmentation(images, generator)
            inputs = data.specification.prepare(images).contiguous(memory_format=layout)
            batch = inputs.to(device), labels[chosen].to(device), chosen
            batch_loss = _gradient(logits_of, loss, batch, settings.precision)
            if settings.sharpness is not None:
                with _nearby(trained, settings.sharpness):
                    _gradient(logits_of, loss, batch, settings.precision)
            if settings.largest_gradient is not None:
                nn.utils.clip_grad_norm_(trained.parameters(), settings.largest_gradient)
            optimizer.step()
            schedule.step()
            if after_step is not None:
                after_step(trained, (epoch - 1) * steps_each + step + 1, steps)
            total += batch_loss * len(chosen)
        if not math.isfinite(total):
            raise GoodnetError(
                f"{what} diverged in epoch {epoch} (the loss is {total}); "
                f"give a learning rate below {settings.learning_rate:g}"
            )
        accuracy = Rate.of(0, 0)
        if held_out is not None:
            accuracy = accuracy_of(trained, held_out)
            if accuracy.count >= best and not keep_last:
                # Of equal epochs the later one has moved further from the backdoor.
                fresh = accuracy.count > best
                best, best_state = accuracy.count, copy.deepcopy(trained.state_dict())
                best_epoch = epoch if fresh else best_epoch
        history.append(EpochRow(epoch, total / len(data), accuracy))
        progress(what, epoch, epochs)
        if best_state is not None and epoch - best_epoch >= settings.patience:
            stopped = f"no better held-out accuracy in {settings.patience} epochs"
            break
    if best_state is not None:
        trained.load_state_dict(best_state)
    trained.zero_grad()
    return Training(trained.eval(), tuple(history), stopped)


def _optimizer(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    weights, rate, decay = network.parameters(), settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, rate, momentum=0.9, weight_decay=decay, foreach=True)
    return torch.optim.AdamW(weights, rate, weight_decay=decay, foreach=True)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The rate along a half cosine down to zero, after a rise if there is one."""
    if settings.warm_up == 0:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rise = min(round(settings.warm_up * steps), steps - 1)

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (steps - rise))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _gradient(
    network: nn.Module, loss: Loss, batch: tuple[Tensor, Tensor, Tensor], precision: Precision
) -> float:
    """The loss of a batch; its gradient is left with the weights."""
    network.zero_grad()
    kind = batch[0].device.type
    with torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16"):
        value = loss(network, *batch)
    value.backward()
    return float(value.detach())


@contextmanager
@torch.no_grad()
def _nearby(network: nn.Module, sharpness: Sharpness) -> Iterator[None]:
    """The weights moved to where the loss is higher, and norms that keep their statistics."""
    moved = [(w, w.grad) for w in network.parameters() if w.grad is not None]
    scales = [w.abs() if sharpness.adaptive else torch.ones((), device=w.device) for w, _ in moved]
    slopes = [slope * scale for (_, slope), scale in zip(moved, scales, strict=True)]
    length = torch.linalg.vector_norm(torch.stack([slope.norm() for slope in slopes]))
    before = [w.clone() for w, _ in moved]
    momenta = [(norm, norm.momentum) for norm in batch_norms(network)]
    for (w, _), scale, slope in zip(moved, scales, slopes, strict=True):
        w.add_(sharpness.radius / (length + 1e-12) * scale * slope)
    for norm, _ in momenta:
        norm.momentum = 0.0
    try:
        with torch.enable_grad():
            yield
    finally:
        for (w, _), old in zip(moved, before, strict=True):
            w.copy_(old)
        for norm, momentum in momenta:
            norm.momentum = momentum


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The network's layers that keep running statistics of their inputs."""
    norms = nn.modules.batchnorm._BatchNorm
    return [module for module in network.modules() if isinstance(module, norms)]


def layout_of(network: nn.Module) -> torch.memory_format:
    """Channels last, which is about twice as fast on CPUs, where it is safe.

    torch 2.13 writes past its memory in the gradient of a strided 1x1 convolution in this
    layout (odd batch, fewer than 16 channels, two threads).
    """
    strided = any(
        isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1)
        for module in network.modules()
    )
    return torch.contiguous_format if strided else torch.channels_last


def logits_of_images(
    network: nn.Module,
    images: Tensor,
    specification: InputSpecification,
    layout: torch.memory_format,
) -> Tensor:
    """What a loss makes of images that it has changed: logits, float32 (batch, N).

    Args:
        network: Gives logits.
        images: float32 in [0, 1], (batch, channel, height, width).
        specification: How it wants its inputs.
        layout: Its `layout_of`.
    """
    inputs = specification.prepare(images).contiguous(memory_format=layout)
    return network(inputs).float()  # type: ignore[no-any-return]


def logits_network(network: nn.Module) -> nn.Module:
    """The network up to its logits, sharing its modules; as it is where it cannot be traced."""
    try:
        return without_softmax(trace(network))
    except NotTraceableError:
        return network
