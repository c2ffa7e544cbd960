"""GoodNet: the repaired network and the suspicious one together, with a class for backdoors."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from goodnet.answers import device_of
from goodnet.data.roles import Batches, CleanData
from goodnet.errors import NotTraceableError, SettingsError
from goodnet.familiarity import FeatureDistance, distances_by_folds
from goodnet.graph import input_node, layer_of, module_of, output_node, trace, without_softmax


class GoodNet(nn.Module):
    """N + 1 classes: B′'s label where B and B′ agree, N where they do not.

    How much they disagree on an input is how much less likely B′ finds B's label than
    its own, as a difference of log-probabilities: 0 just where they agree. An input is
    called backdoored where that is above `threshold`; 0 is the plain rule. With a `distance`
    it is also where B's features are further than `limit` from those of clean inputs: a backdoor
    that B′ still has shows there too.

    Args:
        badnet: B, left as it is.
        repaired: B′, left as it is.
        threshold: Log-probability by which they may differ, at least 0.
        distance: Of features of B, which are what its last layer, a linear one, is given.
        limit: The distance they may have.

    Shape: (batch, channel, height, width) to `label` int64 (batch,) in 0…N and `scores`
    (batch, N + 1), probabilities that agree with the label.

    Source: the N + 1 rule of the CSAW-HackML-2020 exercise. Departures: the threshold, the
    distance.
    """

    threshold: Tensor
    limit: Tensor

    def __init__(
        self,
        badnet: nn.Module,
        repaired: nn.Module,
        *,
        threshold: float = 0.0,
        distance: FeatureDistance | None = None,
        limit: float = math.inf,
    ) -> None:
        super().__init__()
        if not 0.0 <= threshold < math.inf:
            raise SettingsError("threshold", threshold, "give a number of at least 0")
        self.pair = shared_pair(badnet, repaired, features=distance is not None)
        self.distance = distance
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self.register_buffer("limit", torch.tensor(float(limit)))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        suspicious, trusted, *features = self.pair(images)
        label = trusted.argmax(1)
        excess = _disagreement(suspicious, trusted) - self.threshold
        backdoored = excess > 0
        if self.distance is not None:
            # What is no number is unlike anything.
            unlike = torch.logical_not(self.distance(*features) <= self.limit)
            backdoored = torch.logical_or(backdoored, unlike)
            excess = torch.where(unlike, excess.clamp(min=0.0), excess)
        classes = trusted.shape[1]
        label = torch.where(backdoored, torch.full_like(label, classes), label)
        # The score of class N exceeds the best of the others just where the label is N.
        margin = torch.where(backdoored, _MARGIN, -_MARGIN)
        last = trusted.amax(1) + excess + margin
        return label, torch.softmax(torch.cat([trusted, last[:, None]], 1), dim=1)


# Keeps the score of class N apart from the best of the others.
_MARGIN = 10.0
# Disagreement where the labels differ and B′ finds both equally likely.
_LEAST = torch.finfo(torch.float32).tiny


def _disagreement(suspicious: Tensor, trusted: Tensor) -> Tensor:
    # Logits differ by as much as log-probabilities, and without their rounding.
    said, label = suspicious.argmax(1), trusted.argmax(1)
    difference = trusted.amax(1) - trusted.gather(1, said[:, None])[:, 0]
    return torch.where(said == label, torch.zeros_like(difference), difference.clamp(min=_LEAST))


_OF_ALL = 0.5
"""Share of a budget that all clean images together keep to: on those that a repair was tuned on it
errs less than on others; see docs/results.md."""
_OF_DISTANCE = 0.5
"""Share of a budget that distances may spend."""
_ROUNDING = 1e-4
"""By this share an input may be further off than the limit's own, asked in another batch."""


@dataclass(frozen=True)
class Thresholds:
    """What a GoodNet lets pass.

    Attributes:
        disagreement: Difference of log-probabilities.
        distance: Of B's features from those of clean inputs; None where it is not asked for.
    """

    disagreement: float
    distance: float | None


@dataclass(frozen=True, eq=False)
class Signs:
    """What speaks for a trigger, input by input.

    Attributes:
        disagreement: How much less likely B′ finds B's label than its own, float32 (n,), at least
            0; see `GoodNet`.
        distance: Of B's features from those of clean inputs, float32 (n,); None where the GoodNet
            does not ask for it, or they are too few to tell.
    """

    disagreement: Tensor
    distance: Tensor | None

    def flagged(self, thresholds: Thresholds) -> Tensor:
        """Which inputs a GoodNet of these thresholds calls backdoored, bool (n,)."""
        return self.disagreement_or_unlike(thresholds.distance) > thresholds.disagreement

    def disagreement_or_unlike(self, limit: float | None) -> Tensor:
        """Their disagreement, infinite where the distance is above `limit`, float32 (n,)."""
        if self.distance is None or limit is None:
            return self.disagreement
        return self.disagreement.masked_fill(~(self.distance <= limit), math.inf)


def calibrated(
    goodnet: GoodNet, held_out: Signs, tuned: Signs | None = None, *, false_alarms: float
) -> GoodNet:
    """A GoodNet whose false alarms on clean data are within a budget.

    Args:
        goodnet: Left as it is.
        held_out: Of clean inputs that neither network was tuned on.
        tuned: Of those that B′ was tuned on, by `signs_of_tuned`. Held-out ones are often too few
            to tell a rate of 1 %, so of all together no more than half of the budget may be called
            backdoored by disagreement, and as many by distance.
        false_alarms: Largest share of the held-out ones that may be called backdoored.
    """
    thresholds = thresholds_within(false_alarms, held_out, tuned)
    result = copy.deepcopy(goodnet)
    result.threshold.fill_(thresholds.disagreement)
    result.limit.fill_(math.inf if thresholds.distance is None else thresholds.distance)
    return result


def signs_of(goodnet: GoodNet, data: Batches) -> Signs:
    """What speaks for a trigger in each input of `data`."""
    disagreement, features = _asked(goodnet, data)
    if goodnet.distance is None:
        return Signs(disagreement, None)
    with torch.no_grad():
        return Signs(disagreement, goodnet.distance(features.to(device_of(goodnet))).cpu())


def signs_of_tuned(goodnet: GoodNet, tuned: CleanData) -> Signs:
    """The same of the inputs that the distance was fitted to, each measured by a fit to others."""
    disagreement, features = _asked(goodnet, tuned)
    if goodnet.distance is None:
        return Signs(disagreement, None)
    return Signs(disagreement, distances_by_folds(features, tuned))


@torch.no_grad()
def _asked(goodnet: GoodNet, data: Batches) -> tuple[Tensor, Tensor]:
    """The disagreement on each input, and B's features where the GoodNet asks for them."""
    device = device_of(goodnet)
    disagreements, features = [torch.empty(0)], [torch.empty(0)]
    for inputs, _ in data.batches(256):
        suspicious, trusted, *given = goodnet.pair(inputs.to(device))
        disagreements.append(_disagreement(suspicious, trusted).cpu())
        features = [*features, *(each.float().cpu() for each in given)]
    return torch.cat(disagreements), torch.cat(features)


def allowed_by(false_alarms: float, images: int) -> int:
    """How many of `images` clean images a budget lets be flagged; rounded down.

    Raises:
        SettingsError: The budget is no share.
    """
    if not 0.0 <= false_alarms <= 1.0:
        raise SettingsError("false_alarms", false_alarms, "give a share between 0 and 1")
    return int(false_alarms * images + 1e-9)


def threshold_for(values: Tensor, false_alarms: float) -> float:
    """The smallest threshold at which no more than the budget of `values`, (n,), exceed it."""
    allowed = allowed_by(false_alarms, len(values))
    # With `allowed` values above it, the next largest is the smallest threshold that will do.
    return float(values.sort(descending=True).values[min(allowed, len(values) - 1)])


def thresholds_within(
    false_alarms: float, held_out: Signs, tuned: Signs | None = None
) -> Thresholds:
    """The thresholds by which `calibrated` keeps to a budget.

    Distances may spend half of it, disagreement what they leave of held-out inputs.

    Args:
        false_alarms: The budget.
        held_out: Of inputs held out.
        tuned: Of those that B′ was tuned on.
    """
    limit = None
    if held_out.distance is not None:
        parts = [held_out.distance]
        if tuned is not None and tuned.distance is not None:
            parts.append(torch.cat([held_out.distance, tuned.distance]))
        limit = max(threshold_for(part, _OF_DISTANCE * false_alarms) for part in parts)
        limit *= 1 + _ROUNDING
    threshold = threshold_for(held_out.disagreement_or_unlike(limit), false_alarms)
    if tuned is not None:
        every = torch.cat([held_out.disagreement, tuned.disagreement])
        threshold = max(threshold, threshold_for(every, _OF_ALL * false_alarms))
    return Thresholds(threshold, limit)


class _Both(nn.Module):
    """Two networks that share nothing."""

    def __init__(self, badnet: nn.Module, repaired: nn.Module) -> None:
        super().__init__()
        self.badnet, self.repaired = badnet, repaired

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.badnet(images), self.repaired(images)


def shared_pair(badnet: nn.Module, repaired: nn.Module, *, features: bool = False) -> nn.Module:
    """A network that gives the logits of both, computing once what is the same in both.

    Layers are shared from the input on for as long as they are of one kind, with
    settings and weights that are equal bit for bit.

    Args:
        badnet: B.
        repaired: B′.
        features: Whether it gives thirdly what B's last layer is given; that must be a linear one.

    Raises:
        NotTraceableError: Features are asked for, and one of the two has no graph.
    """
    try:
        first, second = (
            without_softmax(trace(copy.deepcopy(network))) for network in (badnet, repaired)
        )
    except NotTraceableError:
        if features:
            raise
        return _Both(copy.deepcopy(badnet), copy.deepcopy(repaired))
    root, graph = nn.Module(), fx.Graph()
    images = graph.placeholder("images")
    images.meta["layer"] = layer_of(input_node(first))
    ours: dict[fx.Node, fx.Node] = {input_node(first): images}
    for node in first.graph.nodes:
        if node.op not in ("placeholder", "output"):
            ours[node] = _add(root, graph, first, node, ours, "badnet")
    theirs: dict[fx.Node, fx.Node] = {input_node(second): images}
    for node in second.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        twin = next(
            (
                ours[other]
                for other in first.graph.nodes
                if other in ours and _same(first, other, ours, second, node, theirs)
            ),
            None,
        )
        theirs[node] = twin or _add(root, graph, second, node, theirs, "repaired")
    answers = (ours[output_node(first)], theirs[output_node(second)])
    given = (ours[output_node(first).all_input_nodes[0]],) if features else ()
    graph.output(answers + given)
    return fx.GraphModule(root, graph).eval()


def _add(
    root: nn.Module,
    graph: fx.Graph,
    network: fx.GraphModule,
    node: fx.Node,
    known: dict[fx.Node, fx.Node],
    side: str,
) -> fx.Node:
    new = graph.node_copy(node, known.__getitem__)
    if node.op in ("call_module", "get_attr"):
        new.target = f"{side}.{node.target}"
        _put(root, new.target, _attribute(network, str(node.target)))
    if side == "repaired":
        new.meta["layer"] = f"repaired.{layer_of(node)}"
    return new


def _put(root: nn.Module, name: str, value: object) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if isinstance(value, nn.Module):
        root.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        assert isinstance(value, Tensor)
        root.register_buffer(last, value)


def _attribute(network: nn.Module, name: str) -> object:
    value: object = network
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _same(
    first: fx.GraphModule,
    one: fx.Node,
    ones: dict[fx.Node, fx.Node],
    second: fx.GraphModule,
    other: fx.Node,
    others: dict[fx.Node, fx.Node],
) -> bool:
    """Whether both nodes compute the same from the same."""
    if one.op != other.op or one.op == "placeholder":
        return False
    # Arguments are compared with both networks' nodes replaced by those already joined.
    mine = fx.node.map_arg((one.args, one.kwargs), ones.__getitem__)
    yours = fx.node.map_arg((other.args, other.kwargs), others.__getitem__)
    if mine != yours:
        return False
    if one.op == "get_attr":
        return _equal_tensors(
            _attribute(first, str(one.target)), _attribute(second, str(other.target))
        )
    module, twin = module_of(first, one), module_of(second, other)
    if module is None or twin is None:
        return one.target == other.target
    states = module.state_dict(), twin.state_dict()
    return (
        type(module) is type(twin)
        and repr(module) == repr(twin)
        and _settings(module) == _settings(twin)
        and states[0].keys() == states[1].keys()
        and all(_equal_tensors(value, states[1][key]) for key, value in states[0].items())
    )


def _settings(module: nn.Module) -> dict[str, object]:
    """What a module is made with; `repr` leaves some of it out."""
    return {
        name: value
        for name, value in vars(module).items()
        if name != "training" and isinstance(value, bool | int | float | str | tuple)
    }


def _equal_tensors(one: object, other: object) -> bool:
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and one.dtype == other.dtype
        and torch.equal(one, other)
    )
