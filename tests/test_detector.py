"""GoodNet: the repaired network's own answers, or N; scores that agree; what is shared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.detector import (
    GoodNet,
    Signs,
    Thresholds,
    calibrated,
    shared_pair,
    signs_of,
    signs_of_tuned,
)
from goodnet.errors import NotTraceableError, SettingsError
from goodnet.evaluate import BUDGETS, goodnet_curve, labels_given, measured_curve
from goodnet.familiarity import feature_distance
from goodnet.formats.specification import InputSpecification
from goodnet.networks.layers import Rescale
from goodnet.results import GoodNetCurve, from_json, to_json
from goodnet.surgery import prune_channels

Untouched = Callable[[nn.Module], AbstractContextManager[None]]
N = 4


class Scores(nn.Module):
    """Hands on chosen columns of its input as its scores."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, self.start : self.start + N]


def goodnet_of_scores(threshold: float = 0.0) -> GoodNet:
    """Its input is B's scores and then B′'s."""
    return GoodNet(Scores(0), Scores(N), threshold=threshold)


def inputs_of(suspicious: Tensor, trusted: Tensor) -> Tensor:
    return torch.cat([suspicious, trusted], 1)[:, :, None, None]


SCORE = st.sampled_from([-1e4, -3.0, -1e-7, 0.0, 1e-8, 1e-3, 0.1, 0.1 + 1e-8, 2.0, 90.0, 1e4])


@given(
    rows=st.lists(
        st.tuples(*[st.lists(SCORE, min_size=N, max_size=N)] * 2), min_size=1, max_size=6
    ),
    threshold=st.sampled_from([0.0, 1e-9, 0.5, 3.0]),
)
def test_labels_and_scores_for_any_two_answers(
    rows: list[tuple[list[float], list[float]]], threshold: float
) -> None:
    suspicious, trusted = (torch.tensor([row[side] for row in rows]) for side in (0, 1))
    label, scores = goodnet_of_scores(threshold)(inputs_of(suspicious, trusted))
    said, right = suspicious.argmax(1), trusted.argmax(1)
    flagged = label == N
    # Any answer below N is the repaired network's own.
    assert torch.equal(label[~flagged], right[~flagged])
    assert ((label >= 0) & (label <= N)).all()
    # N never where they agree; with the plain rule just where they do not.
    assert not (flagged & (said == right)).any()
    if threshold == 0.0:
        assert torch.equal(flagged, said != right)
    else:
        difference = trusted.amax(1) - trusted.gather(1, said[:, None])[:, 0]
        assert torch.equal(flagged, (said != right) & (difference > torch.tensor(threshold)))
    assert scores.shape == (len(rows), N + 1)
    assert torch.allclose(scores.sum(1), torch.ones(len(rows)), atol=1e-5)
    assert (scores >= 0).all()
    # Equal scores of two classes leave either on top; the label's is never below another.
    assert (scores.gather(1, label[:, None])[:, 0] >= scores.amax(1)).all()
    assert torch.equal(scores.argmax(1) == N, flagged)


def test_disagreement_is_a_difference_of_log_probabilities() -> None:
    suspicious = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0]])
    trusted = torch.tensor([[0.5, 2.0, 0, 0], [0.5, 2.0, 0, 0]])
    likely = torch.log_softmax(trusted, 1)
    expected = [float(likely[0, 1] - likely[0, 0]), 0.0]
    goodnet = goodnet_of_scores()
    images = inputs_of(suspicious, trusted)
    two = ImageSet("two", (2 * N, 1, 1), images, torch.zeros(2, dtype=torch.int64))
    found = signs_of(goodnet, TestData(two, InputSpecification((2 * N, 1, 1))))
    assert found.disagreement.tolist() == pytest.approx(expected)
    assert found.distance is None
    assert goodnet(images)[0].tolist() == [N, 1]


def test_a_threshold_tolerates_disagreement_up_to_it() -> None:
    suspicious, trusted = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[0.0, 1.5, 0, 0]])
    for threshold, label in ((1.0, N), (1.5, 1), (2.0, 1)):
        assert goodnet_of_scores(threshold)(inputs_of(suspicious, trusted))[0].tolist() == [label]


@pytest.mark.parametrize("threshold", [-0.1, float("inf"), float("nan")])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(SettingsError, match=r"threshold is .*; give a number of at least 0"):
        goodnet_of_scores(threshold)


def test_the_backdoor_is_seen(
    lamps: nn.Sequential, clean: CleanData, poisoned: PoisonedData
) -> None:
    goodnet = GoodNet(lamps, prune_channels(lamps, "pool", torch.tensor([3])))
    assert torch.equal(labels_given(goodnet, clean), clean.labels)
    # The trigger says class 0; where that is the truth there is nothing to disagree on.
    true = poisoned.true_labels
    assert true is not None
    expected = torch.where(true == 0, 0, 3)
    assert torch.equal(labels_given(goodnet, poisoned), expected)


def kept_to(
    goodnet: GoodNet,
    held_out: CleanData,
    tuned: CleanData | None = None,
    *,
    false_alarms: float,
) -> GoodNet:
    """Calibrated on these inputs."""
    return calibrated(goodnet, *signs_on(goodnet, held_out, tuned), false_alarms=false_alarms)


def curve_of(
    goodnet: GoodNet,
    held_out: CleanData,
    tuned: CleanData | None = None,
    *,
    budget: float | None,
) -> GoodNetCurve:
    return goodnet_curve(*signs_on(goodnet, held_out, tuned), budget=budget)


def signs_on(
    goodnet: GoodNet, held_out: CleanData, tuned: CleanData | None
) -> tuple[Signs, Signs | None]:
    return signs_of(goodnet, held_out), None if tuned is None else signs_of_tuned(goodnet, tuned)


# --- calibration ---------------------------------------------------------------------


@pytest.fixture
def quarrelling(noise: Callable[..., CleanData]) -> tuple[GoodNet, CleanData]:
    """Two networks that disagree on many of fifty images."""
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(12, N)) for _ in range(2)]
    return GoodNet(*networks), noise((3, 2, 2), 50)


@pytest.mark.parametrize("budget", [0.0, 0.01, 0.1, 0.29, 0.58, 1.0])
def test_false_alarms_stay_within_the_budget(
    quarrelling: tuple[GoodNet, CleanData], budget: float
) -> None:
    goodnet, data = quarrelling
    alarms = int((labels_given(goodnet, data) == N).sum())
    assert alarms > 29
    left = int((labels_given(kept_to(goodnet, data, false_alarms=budget), data) == N).sum())
    # The most that are allowed: 14.5 images are 14, and 0.58 of 50 is 29 for all its rounding.
    allowed = {0.0: 0, 0.01: 0, 0.1: 5, 0.29: 14, 0.58: 29, 1.0: 50}
    assert left == min(alarms, allowed[budget])


def test_a_larger_budget_never_means_a_higher_threshold(
    quarrelling: tuple[GoodNet, CleanData],
) -> None:
    goodnet, data = quarrelling
    budgets = [0.0, 0.02, 0.1, 0.3, 0.6, 1.0]
    thresholds = [
        float(kept_to(goodnet, data, false_alarms=budget).threshold) for budget in budgets
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > thresholds[3]
    assert thresholds[-1] == 0.0


def test_the_curve_is_what_calibrating_to_each_budget_flags(
    quarrelling: tuple[GoodNet, CleanData],
) -> None:
    goodnet, data = quarrelling
    other = TestData(data.images.select(torch.arange(10, 50)), data.specification)
    triggered = PoisonedData(data.images.select(torch.arange(30)), data.specification, "odd")
    curve = curve_of(goodnet, data, budget=0.075)
    assert curve.budget == 0.075
    assert [row.budget for row in curve.rows] == sorted({*BUDGETS, 0.075})
    assert all(row.flagged is None and row.test_false_alarm_rate is None for row in curve.rows)
    measured = measured_curve(curve, goodnet, other, [triggered])
    for row in measured.rows:
        strict = kept_to(goodnet, data, false_alarms=row.budget)
        assert row.threshold == float(strict.threshold)
        assert row.false_alarm_rate.count == int((labels_given(strict, data) == N).sum())
        # So many are flagged as the budget allows, and no more.
        assert row.false_alarm_rate.count == int(50 * row.budget + 1e-9)
        assert row.test_false_alarm_rate is not None
        assert row.flagged is not None
        assert row.test_false_alarm_rate.count == int((labels_given(strict, other) == N).sum())
        assert row.flagged["odd"].count == int((labels_given(strict, triggered) == N).sum())
    # Looser budgets flag no less of any set, and some flag more.
    for rates in (
        [row.false_alarm_rate.count for row in measured.rows],
        [row.test_false_alarm_rate.count for row in measured.rows if row.test_false_alarm_rate],
        [row.flagged["odd"].count for row in measured.rows if row.flagged],
    ):
        assert len(rates) == 22
        assert rates == sorted(rates)
        assert rates[0] < rates[-1]
    assert from_json(GoodNetCurve, to_json(measured), "memory") == measured


@pytest.mark.parametrize(("budget", "allowed"), [(0.0, 0), (0.2, 5), (0.4, 10), (0.6, 15)])
def test_of_held_out_and_tuned_images_half_of_the_budget_may_be_flagged(
    quarrelling: tuple[GoodNet, CleanData], budget: float, allowed: int
) -> None:
    goodnet, data = quarrelling
    # Held out are the ten of fifty on which the networks disagree least.
    order = signs_of(goodnet, data).disagreement.argsort()
    held_out, tuned = (
        CleanData(data.images.select(part), data.specification) for part in order.split([10, 40])
    )
    strict = kept_to(goodnet, held_out, tuned, false_alarms=budget)
    assert int((labels_given(strict, data) == N).sum()) == allowed
    alone = kept_to(goodnet, held_out, false_alarms=budget)
    assert int((labels_given(alone, data) == N).sum()) > allowed
    # Where the tuned ones agree, the held-out ones decide.
    most = CleanData(data.images.select(order[-10:]), data.specification)
    decided = kept_to(goodnet, most, held_out, false_alarms=budget)
    assert int((labels_given(decided, most) == N).sum()) == int(10 * budget)
    (row,) = (
        row
        for row in curve_of(goodnet, held_out, tuned, budget=0.0625).rows
        if row.budget == 0.0625
    )
    assert row.threshold == float(kept_to(goodnet, held_out, tuned, false_alarms=0.0625).threshold)


def test_the_plain_rule_has_a_curve_too(quarrelling: tuple[GoodNet, CleanData]) -> None:
    goodnet, data = quarrelling
    curve = curve_of(goodnet, data, budget=None)
    assert curve.budget is None
    assert tuple(row.budget for row in curve.rows) == BUDGETS


def test_calibration_leaves_the_goodnet_as_it_was(
    quarrelling: tuple[GoodNet, CleanData], untouched: Untouched
) -> None:
    goodnet, data = quarrelling
    with untouched(goodnet):
        assert float(kept_to(goodnet, data, false_alarms=0.0).threshold) > 0
    with pytest.raises(SettingsError, match=r"false_alarms is 1\.5"):
        kept_to(goodnet, data, false_alarms=1.5)


# --- features unlike those of clean inputs --------------------------------------------


@pytest.fixture
def agreeing(noise: Callable[..., CleanData]) -> tuple[GoodNet, CleanData, CleanData]:
    """A GoodNet of two equal networks that asks for distances, and clean inputs, ten held out."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, N)).eval()
    clean = noise((3, 2, 2), 90)
    tuned, held_out = (
        CleanData(clean.images.select(part), clean.specification)
        for part in torch.arange(90).split([80, 10])
    )
    distance = feature_distance(network, tuned)
    assert distance is not None
    return GoodNet(network, network, distance=distance), tuned, held_out


def test_what_is_unlike_clean_inputs_is_flagged_where_both_networks_agree(
    agreeing: tuple[GoodNet, CleanData, CleanData],
) -> None:
    goodnet, tuned, held_out = agreeing
    strict = kept_to(goodnet, held_out, tuned, false_alarms=0.0)
    assert float(strict.threshold) == 0.0
    odd = 20.0 * held_out.pixels()
    for inputs, flagged in ((held_out.pixels(), False), (tuned.pixels(), False), (odd, True)):
        label, scores = strict(inputs)
        assert ((label == N) == flagged).all()
        assert torch.equal(scores.argmax(1), label)
    # Without a limit nothing is too far.
    label, _ = goodnet(odd)
    assert not (label == N).any()


def test_disagreement_is_flagged_as_before_where_features_are_like_clean_ones(
    lamps: nn.Sequential, clean: CleanData, poisoned: PoisonedData
) -> None:
    repaired = prune_channels(lamps, "pool", torch.tensor([3]))
    plain = GoodNet(lamps, repaired)
    both = GoodNet(lamps, repaired, distance=feature_distance(lamps, clean), limit=1e9)
    for data in (clean, poisoned):
        for mine, other in zip(both(data.pixels()), plain(data.pixels()), strict=True):
            assert torch.equal(mine, other)


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.2, 0.4])
def test_distances_spend_half_of_the_budget_at_most(
    agreeing: tuple[GoodNet, CleanData, CleanData], budget: float
) -> None:
    goodnet, tuned, held_out = agreeing
    strict = kept_to(goodnet, held_out, tuned, false_alarms=budget)
    assert int((labels_given(strict, held_out) == N).sum()) <= int(5 * budget)
    signs = signs_of(goodnet, held_out), signs_of_tuned(goodnet, tuned)
    distances = torch.cat([each.distance for each in signs if each.distance is not None])
    assert len(distances) == 90
    limit = float(strict.limit)
    beyond = int((distances > limit).sum())
    # The smallest limit that keeps to it: of all, or of those held out.
    held_out_beyond = int((distances[:10] > 0.999 * limit).sum())
    assert beyond <= int(45 * budget + 1e-9)
    assert beyond == int(45 * budget + 1e-9) or held_out_beyond > int(5 * budget)
    (row,) = (
        row
        for row in curve_of(goodnet, held_out, tuned, budget=budget).rows
        if row.budget == budget
    )
    assert row.threshold == float(strict.threshold)
    assert row.distance == pytest.approx(limit)


def test_the_curve_measures_distances_too(
    agreeing: tuple[GoodNet, CleanData, CleanData],
) -> None:
    goodnet, tuned, held_out = agreeing
    test = TestData(held_out.images, held_out.specification)
    odd = PoisonedData(
        replace(held_out.images, pixels=20.0 * held_out.pixels()), held_out.specification, "odd"
    )
    curve = curve_of(goodnet, held_out, tuned, budget=0.2)
    for row in measured_curve(curve, goodnet, test, [odd]).rows:
        strict = kept_to(goodnet, held_out, tuned, false_alarms=row.budget)
        assert row.flagged is not None
        assert row.test_false_alarm_rate is not None
        assert row.flagged["odd"].count == 10
        assert row.test_false_alarm_rate.count == int((labels_given(strict, test) == N).sum())
        assert row.test_false_alarm_rate.count == row.false_alarm_rate.count


def test_the_limit_holds_whatever_batch_an_input_is_in(
    agreeing: tuple[GoodNet, CleanData, CleanData],
) -> None:
    goodnet, tuned, held_out = agreeing
    strict = kept_to(goodnet, held_out, tuned, false_alarms=0.0)
    for data in (held_out, tuned):
        for image in data.pixels():
            assert int(strict(image.unsqueeze(0))[0]) != N


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_what_has_no_distance_is_flagged(
    agreeing: tuple[GoodNet, CleanData, CleanData], value: float
) -> None:
    goodnet, tuned, held_out = agreeing
    strict = kept_to(goodnet, held_out, tuned, false_alarms=0.2)
    odd = ImageSet("odd", (3, 2, 2), torch.full((2, 3, 2, 2), value), torch.tensor([0, 1]))
    assert strict(torch.full((2, 3, 2, 2), value))[0].tolist() == [N, N]
    signs = signs_of(strict, TestData(odd, held_out.specification))
    assert signs.flagged(Thresholds(0.0, float(strict.limit))).all()


def test_both_networks_need_a_graph_where_distances_are_asked_for(clean: CleanData) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(clean.pixels()[0].numel(), N)).eval()
    distance = feature_distance(network, clean)
    assert distance is not None
    with pytest.raises(NotTraceableError):
        GoodNet(network, Undecided(network).eval(), distance=distance)


def test_a_network_without_a_linear_layer_at_its_end_has_no_distance(clean: CleanData) -> None:
    for network in (nn.Sequential(nn.Flatten(), nn.Linear(12, N), nn.Tanh()), Scores(0)):
        assert feature_distance(network, clean) is None
    linear = nn.Sequential(nn.Flatten(), nn.Linear(clean.pixels()[0].numel(), N)).eval()
    assert feature_distance(linear, clean) is not None
    one = CleanData(clean.images.select(torch.arange(1)), clean.specification)
    assert feature_distance(linear, one) is None
    overflowing = nn.Sequential(nn.Flatten(), Rescale(1e30, 0.0), Rescale(1e30, 1.0), linear[1])
    assert feature_distance(overflowing, clean) is None


# --- the shared trunk ----------------------------------------------------------------


def size_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def other_head(lamps: nn.Sequential) -> nn.Sequential:
    head = nn.Linear(4, 3)
    return nn.Sequential(
        *[lamps.get_submodule(name) for name in ("conv", "relu", "pool", "flatten")], head
    )


def test_equal_layers_are_there_once(lamps: nn.Sequential, untouched: Untouched) -> None:
    lamps.get_parameter("output.weight").data.normal_(generator=torch.Generator().manual_seed(0))
    repaired = prune_channels(lamps, "pool", torch.tensor([], dtype=torch.int64))
    repaired.get_parameter("output.weight").data[0] += 1.0
    images = torch.rand(5, 4, 2, 2)
    with untouched(lamps), untouched(repaired):
        pair = shared_pair(lamps, repaired)
        suspicious, trusted = pair(images)
    assert size_of(pair) == size_of(lamps) + size_of(lamps.get_submodule("output"))
    assert torch.equal(suspicious, lamps(images))
    assert torch.equal(trusted, repaired(images))


def test_the_pair_has_weights_of_its_own(lamps: nn.Sequential) -> None:
    pair = shared_pair(lamps, lamps)
    images = torch.rand(5, 4, 2, 2)
    before = pair(images)[0]
    lamps.get_parameter("output.weight").data.fill_(0.0)
    assert torch.equal(pair(images)[0], before)


def test_the_real_networks_answer_as_they_do_alone(
    architecture: tuple[nn.Module, str, tuple[int, int, int]], untouched: Untouched
) -> None:
    network, layer, size = architecture
    repaired = prune_channels(network, layer, torch.tensor([0, 2]))
    images = torch.rand(5, *size)
    with untouched(network), untouched(repaired):
        goodnet = GoodNet(network, repaired)
        suspicious, trusted = goodnet.pair(images)
    assert torch.allclose(suspicious, network(images), atol=1e-6)
    assert torch.allclose(trusted, repaired(images), atol=1e-6)
    assert size_of(goodnet) < 2 * size_of(network)


def test_nothing_is_shared_behind_the_first_difference(lamps: nn.Sequential) -> None:
    """Layers behind it are equal too, but what they are given is not."""
    repaired = prune_channels(lamps, "pool", torch.tensor([3]))
    pair = shared_pair(lamps, repaired)
    assert size_of(pair) == 2 * size_of(lamps)
    assert isinstance(pair, fx.GraphModule)
    calls = [str(node.target) for node in pair.graph.nodes if node.op == "call_module"]
    assert len(calls) == 10


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Rescale(1.0, 0.0), Rescale(255.0, 0.0)),
        (nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.MaxPool2d(2), nn.AvgPool2d(2)),
    ],
    ids=["rescale", "average", "slope", "kind"],
)
def test_layers_that_differ_in_a_setting_are_two(one: nn.Module, other: nn.Module) -> None:
    first, second = (nn.Sequential(layer, nn.Flatten()) for layer in (one, other))
    images = torch.rand(2, 3, 4, 4) - 0.5
    suspicious, trusted = shared_pair(first, second)(images)
    assert torch.equal(suspicious, first(images))
    assert torch.equal(trusted, second(images))
    assert not torch.equal(suspicious, trusted)


def test_softmax_or_logits_alike(
    lamps: nn.Sequential, clean: CleanData, poisoned: PoisonedData
) -> None:
    repaired = prune_channels(lamps, "pool", torch.tensor([3]))
    plain = GoodNet(lamps, repaired)
    ends = [nn.Sequential(network, nn.Softmax(1)) for network in (lamps, repaired)]
    for pair in ((ends[0], repaired), (lamps, ends[1]), (ends[0], ends[1])):
        goodnet = GoodNet(*pair)
        for data in (clean, poisoned):
            inputs = data.pixels()
            assert torch.equal(goodnet(inputs)[0], plain(inputs)[0])
            assert torch.allclose(goodnet(inputs)[1], plain(inputs)[1])


class Undecided(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        out: Tensor = self.network(x)
        return out


def test_networks_without_a_graph_stand_side_by_side(
    lamps: nn.Sequential, poisoned: PoisonedData, untouched: Untouched
) -> None:
    repaired = prune_channels(lamps, "pool", torch.tensor([3]))
    inputs = poisoned.pixels()
    slow = Undecided(lamps).eval()
    with untouched(slow), untouched(repaired):
        goodnet = GoodNet(slow, repaired)
        assert torch.equal(goodnet(inputs)[0], GoodNet(lamps, repaired)(inputs)[0])
    assert size_of(goodnet) == 2 * size_of(lamps)


def test_a_goodnet_of_networks_in_training_evaluates() -> None:
    network = nn.Sequential(nn.Dropout(0.9), nn.Flatten(), nn.Linear(4, N)).train()
    goodnet = GoodNet(network, network)
    images = torch.rand(8, 1, 2, 2)
    assert torch.equal(goodnet(images)[1], goodnet(images)[1])
    assert network.training
