"""The prune curve in one pass: predictions with 0, 1, … K channels pruned.

The trunk runs once. The head then answers for every prefix of the prune order: its
first linear layers are sums over channels, so each step takes one channel's share
away, and images for which that channel is silent keep their answer. Where rounding
could matter (the two best classes nearly tie) the plain head is asked instead, so the
answers are those of K separately pruned networks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from goodnet.activations import (
    LayerOutputs,
    PruneOrder,
    activation_sums,
    layer_outputs,
    mean_of_blocks,
    prune_order,
)
from goodnet.answers import answers, device_of
from goodnet.data.roles import Batches
from goodnet.errors import NotTraceableError
from goodnet.graph import (
    cut,
    dominators,
    feature_channels,
    input_node,
    layer_node,
    module_of,
    output_node,
    part_upto,
    trace,
    without_softmax,
)
from goodnet.modes import evaluating
from goodnet.networks.layers import FlattenChannelsLast
from goodnet.surgery import prune_channels

# Layers that keep channels apart and are linear, so that shares pass through them.
_LINEAR_APART = (
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Flatten,
    FlattenChannelsLast,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)
# Two best scores closer than this, relative to the largest, are left to the plain head.
# Subtracting up to a few thousand float32 shares errs by well under a tenth of it, as
# long as what is left is not far smaller than what was subtracted from.
_NEAR_TIE = 1e-3
_WORN = 16.0
# Closer than this, the plain head's own rounding decides, which varies with the batch.
_TIE = 1e-5
_BATCH = 256


@dataclass(frozen=True, eq=False)
class Sweep:
    """A network prepared for its prune curve at one layer.

    Attributes:
        network: The network, left as it was.
        layer: Name of the layer.
        order: Channel indices, first pruned first, int64 (channel,).
        means: Mean activation of each channel on D_valid, float64 (channel,).
        outputs: The layer's output on D_valid; None where the network cannot be cut.
    """

    network: nn.Module
    layer: str
    order: Tensor
    means: Tensor
    outputs: LayerOutputs | None


def prepare_sweep(
    network: nn.Module, layer: str, data: Batches, *, order: PruneOrder = "increasing"
) -> Sweep:
    """The prune order of `layer` from its mean activations on clean data.

    Raises:
        LayerNotFoundError: No such layer.
    """
    means, outputs = channel_means(network, layer, data)
    return Sweep(network, layer, prune_order(means, order), means, outputs)


def channel_means(
    network: nn.Module, layer: str, data: Batches
) -> tuple[Tensor, LayerOutputs | None]:
    """Mean activation of each channel, float64 (channel,), and the layer's output.

    The output is None where the network cannot be cut at the layer.
    """
    sums, outputs = channel_sums(network, layer, data)
    return mean_of_blocks(sums, len(data)), outputs


def channel_sums(
    network: nn.Module, layer: str, data: Batches
) -> tuple[Tensor, LayerOutputs | None]:
    """What `channel_means` adds up, float64 (block, channel), and the layer's output."""
    try:
        traced = trace(network)
    except NotTraceableError:
        return activation_sums(network, layer, data), None
    node = layer_node(traced, layer)
    outputs = layer_outputs(part_upto(traced, node), data)
    can_cut = node in dominators(traced)
    return outputs.block_sums(), outputs if can_cut else None


def sweep_predictions(sweep: Sweep, data: Batches | None = None) -> tuple[Tensor, Tensor]:
    """Predictions for every prefix of the order, and the class indices.

    Args:
        sweep: From `prepare_sweep`.
        data: Another set than the one the order was made from.

    Returns:
        int32 (channel + 1, n): row k answers with the first k channels pruned; and
        int64 (n,).
    """
    if sweep.outputs is None:
        if data is None:
            raise NotTraceableError("this network cannot be cut; give the data again")
        return plain_predictions(sweep, data)
    parts = cut(trace(sweep.network), sweep.layer)
    outputs = sweep.outputs if data is None else layer_outputs(parts.trunk, data)
    with evaluating(sweep.network):
        head = _AdditiveHead(parts.head, tuple(outputs.values.shape[1:]), sweep.order)
        predictions = [head.predictions(rows) for rows in outputs.values.split(_BATCH)]
    return torch.cat(predictions, dim=1), outputs.labels


def plain_predictions(sweep: Sweep, data: Batches) -> tuple[Tensor, Tensor]:
    """The same by making and running each pruned network: slow, for any network.

    The reference that `sweep_predictions` is held against, and the way for networks
    that cannot be cut.
    """
    rows = []
    for count in range(len(sweep.order) + 1):
        pruned = prune_channels(sweep.network, sweep.layer, sweep.order[:count])
        predictions, labels = answers(pruned, data)
        rows.append(predictions.to(torch.int32))
    return torch.stack(rows), labels


@dataclass(frozen=True, eq=False)
class _Share:
    """How one linear layer's output sums over channels.

    Attributes:
        module: The layer, a convolution or a dense one.
        path: The head's part up to that layer's input; it keeps channels apart.
        channels: For a dense layer, the channel of each input feature.
    """

    module: nn.Module
    path: fx.GraphModule
    channels: Tensor | None

    def whole(self, activation: Tensor) -> Tensor:
        """The layer's output for these activations."""
        output: Tensor = self.module(self.path(activation))
        return output

    def of(self, activation: Tensor, channel: int) -> Tensor:
        """What `channel`, alone in `activation`, adds to the layer's output."""
        x = self.path(activation)
        if isinstance(self.module, nn.Conv2d):
            weight = self.module.weight[:, channel : channel + 1]
            padding, stride = self.module.padding, self.module.stride
            return F.conv2d(x, weight, None, stride, padding, self.module.dilation)
        assert isinstance(self.module, nn.Linear)
        assert self.channels is not None
        return F.linear(x, self.module.weight[:, self.channels == channel])


class _Sum:
    """A linear layer's output, from which channels are subtracted one by one."""

    def __init__(self, share: _Share, activation: Tensor) -> None:
        self.share = share
        self.activation = activation
        self.values = share.whole(activation)
        self.largest = _sizes(self.values)

    def subtract(self, channel: int, rows: Tensor, remaining: Tensor) -> None:
        """Take `channel` out of these rows; `remaining` is the activation without it."""
        alone = self.activation[rows, channel : channel + 1]
        self.values.index_add_(0, rows, self.share.of(alone, channel), alpha=-1)
        sizes = _sizes(self.values[rows])
        self.largest[rows] = torch.maximum(self.largest[rows], sizes)
        # Rounding is as large as the largest sum had it; written so that NaN counts.
        worn = rows[~(sizes * _WORN > self.largest[rows])]
        if len(worn):
            self.values[worn] = self.share.whole(remaining[worn])
            self.largest[worn] = _sizes(self.values[worn])


def _sizes(values: Tensor) -> Tensor:
    return values.abs().flatten(1).amax(1)


class _AdditiveHead:
    """A head split behind its first linear layers, answering for all prefixes."""

    def __init__(self, head: fx.GraphModule, shape: tuple[int, ...], order: Tensor) -> None:
        self.head = head
        self.order = order.tolist()
        self.device = device_of(head)
        self.logits = without_softmax(head)
        self.shares, self.rest = _split_linear(self.logits, shape)

    @torch.no_grad()
    def predictions(self, activation: Tensor) -> Tensor:
        """int32 (channel + 1, batch) for activations (batch, channel, ...)."""
        activation = activation.to(self.device)
        remaining = activation.clone()
        sums = [_Sum(share, activation) for share in self.shares]
        active = (activation != 0).flatten(2).any(2)
        current = self.head(activation).argmax(1)
        rows = [current.to(torch.int32)]
        for channel in self.order:
            remaining[:, channel] = 0.0
            rows_on = active[:, channel].nonzero().flatten()
            if len(rows_on):
                # A channel silent for an image leaves that image's answer as it was.
                for total in sums:
                    total.subtract(channel, rows_on, remaining)
                current = current.clone()
                current[rows_on] = self._answers(sums, rows_on, remaining)
            rows.append(current.to(torch.int32))
        return torch.stack(rows).cpu()

    def _answers(self, sums: list[_Sum], rows: Tensor, remaining: Tensor) -> Tensor:
        """The classes of these rows, from the sums where they tell, else from the plain head."""
        if not sums:
            return self._plain_answers(rows, remaining)
        logits = self.rest(*(total.values[rows] for total in sums))
        answer, near = _argmax_and_ties(logits, _NEAR_TIE)
        if near.any():
            answer[near] = self._plain_answers(rows[near], remaining)
        return answer

    def _plain_answers(self, rows: Tensor, remaining: Tensor) -> Tensor:
        answer, tie = _argmax_and_ties(self.logits(remaining[rows]), _TIE)
        if tie.any():
            answer[tie] = self.head(remaining)[rows[tie]].argmax(1)
        return answer


def _argmax_and_ties(logits: Tensor, nearness: float) -> tuple[Tensor, Tensor]:
    """The best class, and where the second best is too near to trust rounding."""
    best, answer = logits.max(1)
    rest = logits.scatter(1, answer[:, None], -torch.inf).amax(1)
    scale = torch.maximum(best.abs(), logits.amin(1).abs())
    # Written so that NaN counts as near. Logits closer than 1e-6 may have one probability.
    return answer, ~(best - rest > nearness * scale + 1e-6)


def _split_linear(
    head: fx.GraphModule, shape: tuple[int, ...]
) -> tuple[tuple[_Share, ...], fx.GraphModule]:
    """The head's first linear layers, and the rest of the head as a function of their outputs.

    With no shares the head is not additive there and the plain head answers.
    """
    start = input_node(head)
    apart = {start}
    linear: list[fx.Node] = []
    for node in head.graph.nodes:
        if node is start or node.op == "output" or not apart.intersection(node.all_input_nodes):
            continue
        module = module_of(head, node)
        if isinstance(module, _LINEAR_APART):
            apart.add(node)
        elif isinstance(module, nn.Linear) or _is_plain_convolution(module):
            linear.append(node)
        else:
            return (), head
    if output_node(head) in apart:
        return (), head
    shares = []
    for node in linear:
        module = module_of(head, node)
        source = node.all_input_nodes[0]
        channels = None
        if isinstance(module, nn.Linear):
            channels = feature_channels(head, source, shape)
            if channels is None or channels.dim() != 1:
                return (), head
        assert module is not None
        shares.append(_Share(module, part_upto(head, source), channels))
    return tuple(shares), _rest(head, linear, apart)


def _is_plain_convolution(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"


def _rest(head: fx.GraphModule, linear: list[fx.Node], apart: set[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied = {node: graph.placeholder(f"sum_{index}") for index, node in enumerate(linear)}
    for old in head.graph.nodes:
        if old not in copied and old not in apart and old.op != "output":
            copied[old] = graph.node_copy(old, copied.__getitem__)
    graph.output(copied[output_node(head)])
    return fx.GraphModule(head, graph)
