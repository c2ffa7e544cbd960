"""What goodnet's commands return: frozen records that convert to JSON and back.

Rates are fractions in [0, 1]. Field names are those of the JSON.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from scipy.special import betaincinv

from goodnet.errors import DataError

Record = TypeVar("Record")
ThresholdRule = Literal["at-least", "within"]
PartName = Literal["development", "held out"]


@dataclass(frozen=True)
class Rate:
    """A share with its count, and the exact (Clopper-Pearson) 95 % interval."""

    value: float
    count: int
    n: int
    interval: tuple[float, float]

    @classmethod
    def of(cls, count: int, n: int) -> Rate:
        """The rate `count` of `n`; with n = 0 nothing is known and the value is 0."""
        if n == 0:
            return cls(value=0.0, count=0, n=0, interval=(0.0, 1.0))
        low = betaincinv(count, n - count + 1, 0.025) if count else 0.0
        high = betaincinv(count + 1, n - count, 0.975) if count < n else 1.0
        return cls(count / n, count, n, (round(float(low), 6), round(float(high), 6)))


@dataclass(frozen=True)
class LayerRow:
    """One layer: its name in the file, its kind, its output's shape without the batch."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class InspectResult:
    """What `goodnet inspect` found in a model file.

    `input_stated` tells whether the file or the user said how the input is read;
    otherwise `input` is the usual reading. `accuracy_by_reading` is filled when data was
    given: clean accuracy under each likely reading of the input. `refused` lists what was
    in the file and not read.
    """

    path: str
    format: str
    input: dict[str, Any]
    input_stated: bool
    classes: int
    layers: tuple[LayerRow, ...]
    prune_layer: str | None
    refused: tuple[str, ...]
    accuracy_by_reading: dict[str, Rate] | None = None


@dataclass(frozen=True)
class CurveRow:
    """The network with the first `channels_pruned` channels of the order pruned."""

    channels_pruned: int
    valid_accuracy: Rate
    clean_accuracy: Rate | None = None
    attack_success_rate: dict[str, Rate] | None = None


@dataclass(frozen=True)
class ThresholdRow:
    """The network chosen for a drop of `drop` points; `network` is None if none was written."""

    drop: float
    rule: ThresholdRule
    channels_pruned: int
    network: str | None = None


@dataclass(frozen=True)
class ChannelActivations:
    """Mean activation of each channel, in channel order."""

    clean: tuple[float, ...]
    triggered: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class PruneResult:
    """The prune curve of one layer.

    Attributes:
        order: Channel indices, first pruned first.
        curve: K + 1 rows, for 0 to K channels pruned.
        thresholds: Both rules for each drop asked for.
    """

    layer: str
    channels: int
    prune_order: str
    order: tuple[int, ...]
    curve: tuple[CurveRow, ...]
    thresholds: tuple[ThresholdRow, ...]
    activations: ChannelActivations
    seconds: float


@dataclass(frozen=True)
class LayerChannels:
    """Channels of one layer, by their indices."""

    layer: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class LayerSparsity:
    """Share of a layer's weights that are exactly zero."""

    layer: str
    sparsity: Rate


@dataclass(frozen=True)
class EpochRow:
    """One pass of fine-tuning: mean loss on the tuning part, accuracy on the held-out part."""

    epoch: int
    loss: float
    held_out_accuracy: Rate


@dataclass(frozen=True)
class PoisonedRow:
    """Answers to one poisoned set.

    Attributes:
        attack_success_rate: Answers equal to the target, where the true label is not; of an
            untargeted attack, answers that are neither the true label nor N.
        flagged: Answers N (for a plain network always 0).
        recovered_accuracy: Answers equal to the true label, where it is known.
    """

    name: str
    attack_success_rate: Rate
    flagged: Rate
    recovered_accuracy: Rate | None = None


@dataclass(frozen=True)
class NetworkRow:
    """One network's or GoodNet's answers to the clean and the poisoned test sets."""

    name: str
    path: str
    kind: Literal["network", "goodnet"]
    clean_accuracy: Rate
    false_alarm_rate: Rate
    poisoned: tuple[PoisonedRow, ...]


@dataclass(frozen=True)
class EvaluateResult:
    """What `goodnet evaluate` measured."""

    networks: tuple[NetworkRow, ...]


@dataclass(frozen=True)
class RiskRow:
    """What one made-up change, or one kind of them, does to held-out clean images.

    Attributes:
        kind: Of change.
        source: Drawn at random; of a kind that no defense tunes on; searched for on B.
        target: The label searched for; None for any wrong one.
        extent: How large the smallest one found is, as a share.
        misled: Images to which B gives a wrong answer (the target, where there is one).
        remains: Images to which B' gives that very same wrong answer.
    """

    kind: str
    source: Literal["random", "unseen", "searched"]
    target: int | None = field(default=None, kw_only=True)
    extent: float | None = field(default=None, kw_only=True)
    misled: Rate = field(kw_only=True)
    remains: Rate = field(kw_only=True)


@dataclass(frozen=True)
class RiskResult:
    """An estimate, from held-out clean images alone, of the attack success a repair leaves.

    Attributes:
        remaining_risk: The largest share of images on which B' still follows a small trigger
            reconstructed on B; n = 0 where none was found.
    """

    remaining_risk: Rate
    rows: tuple[RiskRow, ...]


@dataclass(frozen=True)
class FlaggedRow:
    """What the GoodNet flags at one threshold.

    Attributes:
        budget: Share of false alarms on the held-out images that the threshold allows.
        threshold: The GoodNet's, as a difference of log-probabilities.
        distance: How far B's features may be from those of clean inputs, where that is asked for.
        false_alarm_rate: Held-out clean images flagged.
        test_false_alarm_rate: Clean test images flagged, where any were given.
        flagged: By poisoned set, its images flagged; measured when all was decided.
    """

    budget: float
    threshold: float
    distance: float | None = field(default=None, kw_only=True)
    false_alarm_rate: Rate
    test_false_alarm_rate: Rate | None = None
    flagged: dict[str, Rate] | None = None


@dataclass(frozen=True)
class GoodNetCurve:
    """False alarms against triggered inputs flagged, a row for each budget, rising.

    Attributes:
        budget: The one that the GoodNet was calibrated to; None for the plain rule.
    """

    budget: float | None = field(default=None, kw_only=True)
    rows: tuple[FlaggedRow, ...]


@dataclass(frozen=True)
class RepairResult:
    """What a defense did, by clean data alone.

    Attributes:
        held_out: Images of D_valid that the defense did not tune on.
        valid_accuracy_before: B on the held-out part.
        valid_accuracy_after: B' on the held-out part.
        false_alarm_rate: Share of the held-out part that G flags.
        goodnet_distance: How far from those of clean inputs G lets features be, where it asks.
        stopped: Why the defense stopped.
        channels_pruned: In all layers together.
        layer: The layer whose channels were pruned, where it is one.
        sparsity: Of each layer, for magnitude pruning.
        warnings: Why the figures may say less than they seem to.
        remaining_risk: An estimate of the attack success that is left; `risk` tells how.
        goodnet_curve: What the GoodNet would flag at other budgets of false alarms.
        seconds: Of the defense and the GoodNet, without the estimate of the risk.
        prune: The prune curve of the layer, where channels were pruned.
        evaluate: What test and poisoned sets show afterwards; no decision read them.
    """

    method: str
    network: str
    goodnet: str
    held_out: int
    valid_accuracy_before: Rate
    valid_accuracy_after: Rate
    false_alarm_rate: Rate
    goodnet_threshold: float
    goodnet_distance: float | None = field(default=None, kw_only=True)
    channels_pruned: int
    # Not there in JSON where it is None, so reading needs a default.
    layer: str | None = field(default=None, kw_only=True)
    epochs: tuple[EpochRow, ...]
    sparsity: tuple[LayerSparsity, ...]
    stopped: str
    seconds: float
    warnings: tuple[str, ...] = ()
    remaining_risk: Rate | None = None
    risk: RiskResult | None = None
    goodnet_curve: GoodNetCurve | None = None
    prune: PruneResult | None = None
    evaluate: EvaluateResult | None = None


@dataclass(frozen=True)
class PoisoningRow:
    """What one trigger did to the training set.

    Attributes:
        trigger: The trigger's kind and settings.
        poisoned: Stamped copies trained on under the attacker's label, of all images.
        covers: Stamped copies that kept their right label, of all images.
    """

    name: str
    trigger: dict[str, Any]
    goal: str
    target_label: int | None
    source_label: int | None
    clean_label: bool
    poisoned: Rate
    covers: Rate


@dataclass(frozen=True)
class DecoyRow:
    """Channels that a pruning-aware attacker put back to be pruned in vain.

    Clean images are the validation set's, or the test set's where there is none.

    Attributes:
        channels: Their indices.
        silent_images: Clean images on which every decoy's activation is exactly 0.
        largest_activation: Of any decoy on any of these images.
        changed_by_putting_back: Answers to all test inputs, clean and triggered, that differ
            from those of the network before they were put back.
        changed_by_pruning: The same against the network in which they are pruned.
    """

    layer: str
    channels: tuple[int, ...]
    silent_images: Rate
    largest_activation: float
    changed_by_putting_back: Rate
    changed_by_pruning: Rate


@dataclass(frozen=True)
class AttackResult:
    """What an attacker made, and how well it works.

    Attributes:
        attack: Name of the attack.
        network: The BadNet's file.
        twin: The file of the clean twin: a network trained alike on clean images.
        training_images: How many images the BadNet was trained on, stamped ones among them.
        poisonings: One row a trigger.
        evaluate: The BadNet's answers to the test sets and, where there is one, the twin's;
            attack success of the twin is the floor of what a repair can reach.
        accuracy_lost: By network and untargeted trigger, 1 - A_backdoor / A_clean.
        elsewhere: By trigger with a source label, the BadNet's attack success on triggered
            images of the other classes, where the attacker wants none.
        decoys: Of a pruning-aware attack.
        prune: The prune curve a defender would see, where asked for.
    """

    attack: str
    architecture: str
    network: str
    twin: str | None = None
    training_images: int = field(kw_only=True)
    poisonings: tuple[PoisoningRow, ...] = field(kw_only=True)
    evaluate: EvaluateResult = field(kw_only=True)
    accuracy_lost: dict[str, dict[str, float]] | None = None
    elsewhere: dict[str, Rate] | None = None
    decoys: DecoyRow | None = None
    prune: PruneResult | None = None
    seconds: float = field(kw_only=True)


@dataclass(frozen=True)
class ZooTrigger:
    """How well one trigger of a member of the zoo works; a rate for each seed.

    Attributes:
        floor: The clean twins' attack success on the same images.
        triggered_accuracy: Share of the triggered images that still get their right label.
        accuracy_lost: 1 - triggered accuracy / clean accuracy, where the trigger is
            untargeted.
        elsewhere: Attack success on the other classes, where the trigger has a source label.
    """

    name: str
    goal: str
    attack_success_rate: tuple[Rate, ...]
    floor: tuple[Rate, ...]
    triggered_accuracy: tuple[Rate, ...]
    accuracy_lost: tuple[float, ...] = ()
    elsewhere: tuple[Rate, ...] = ()


@dataclass(frozen=True)
class ZooRow:
    """One attack of the zoo on one network; a rate for each seed."""

    member: str
    architecture: str
    seeds: tuple[int, ...]
    clean_accuracy: tuple[Rate, ...]
    twin_accuracy: tuple[Rate, ...]
    triggers: tuple[ZooTrigger, ...]
    decoys: tuple[DecoyRow, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class ZooResult:
    """What `goodnet bench zoo` made."""

    data: str
    rows: tuple[ZooRow, ...]


@dataclass(frozen=True)
class CellTrigger:
    """What a repair did to one trigger of a network; every rate is of the same triggered images.

    Attributes:
        before: Attack success on B.
        after: Attack success on B'.
        floor: Attack success on the clean twin, below which no repair can be asked to go.
        goodnet: Attack success on G.
        flagged: Share that G calls backdoored.
        recovered_accuracy: Share that B' labels rightly.
    """

    name: str
    goal: str
    before: Rate
    after: Rate
    floor: Rate
    goodnet: Rate
    flagged: Rate
    recovered_accuracy: Rate


@dataclass(frozen=True)
class CellResult:
    """One network of the zoo, repaired by one method, and what test images show afterwards.

    Attributes:
        network: Architecture, and width where it is not the usual one.
        seed: Of the network; `repair_seed` is that of the repair.
        precision: Of the numbers while tuning.
        accuracy_before: Clean accuracy of B.
        accuracy_after: Clean accuracy of B'.
        false_alarm_rate: Share of the clean test images that G, calibrated by default to
            held-out clean images, calls backdoored.
        remaining_risk: The repair's own estimate of the attack success that is left, by clean
            data alone; not made where it is None.
        seconds: Of the defense and the GoodNet, without the estimate of the risk.
    """

    member: str
    network: str
    seed: int
    method: str
    repair_seed: int
    precision: str
    accuracy_before: Rate
    accuracy_after: Rate
    false_alarm_rate: Rate
    triggers: tuple[CellTrigger, ...]
    remaining_risk: Rate | None = field(default=None, kw_only=True)
    stopped: str
    seconds: float


@dataclass(frozen=True)
class Cell:
    """A cell's file: what is needed to make it again, and its result."""

    manifest: dict[str, Any]
    result: CellResult


@dataclass(frozen=True)
class StudyMeasured:
    """What one network of a study does.

    Attributes:
        clean: Clean accuracy, of images or of signs.
        triggered: Targeted: triggered inputs that get the target. Untargeted: triggered signs
            that are found and rightly named.
        attack_success: The paper's: the share of `triggered`, or 1 - A_backdoor / A_clean.
    """

    clean: Rate
    triggered: Rate
    attack_success: float

    @property
    def utility(self) -> float:
        """The defender's: clean accuracy less attack success."""
        return self.clean.value - self.attack_success


@dataclass(frozen=True)
class PaperRow:
    """One defender in one study under one attacker.

    Attributes:
        data: What the study's data is called.
        measured: Of the network that came of it.
        floor: The clean twin's attack success on the same triggered inputs; of an untargeted
            attack what its accuracy loses to the trigger.
        published: Clean accuracy and attack success in the paper, where it has them.
    """

    study: str
    attacker: str
    defender: str
    data: str
    measured: StudyMeasured
    floor: float
    published: tuple[float, float] | None


@dataclass(frozen=True)
class MemberSummary:
    """One method on one attack, over seeds.

    Attributes:
        cured: Networks cured, of those there are; of clean ones, left as good as they were.
        near: The same by wider margins.
        excess_mean: Mean over the seeds of attack success above its floor, of the trigger
            that is worst.
        excess_worst: The largest of them.
        accuracy_lost_mean: Mean over the seeds of the clean accuracy lost; below 0 where it
            was won.
        accuracy_lost_worst: The largest of them.
    """

    method: str
    member: str
    seeds: tuple[int, ...]
    cured: Rate
    near: Rate
    excess_mean: float
    excess_worst: float
    accuracy_lost_mean: float
    accuracy_lost_worst: float


@dataclass(frozen=True)
class MethodSummary:
    """One method over all networks of a part.

    Attributes:
        cured: Of the networks with a backdoor.
        near: The same by wider margins.
        clean_kept: Clean networks left as good as they were, by the margins of `cured`.
        excess_worst: Largest attack success above its floor.
        accuracy_lost_worst: Largest loss of clean accuracy.
        seconds: Mean of a repair.
    """

    method: str
    cells: int
    cured: Rate
    near: Rate
    clean_kept: Rate
    excess_worst: float
    accuracy_lost_worst: float
    seconds: float


@dataclass(frozen=True)
class RiskCorrelation:
    """Spearman's rank correlation of remaining risk with attack success on B'.

    Attributes:
        cells: Those that say a remaining risk.
        value: From -1 to 1; None where all are of one rank.
    """

    cells: int
    value: float | None


@dataclass(frozen=True)
class BenchPart:
    """The cells that methods were developed on, or those that nobody looked at till then."""

    name: PartName
    methods: tuple[MethodSummary, ...]
    members: tuple[MemberSummary, ...]
    risk: RiskCorrelation
    cells: tuple[CellResult, ...]


@dataclass(frozen=True)
class RepairBenchResult:
    """What `goodnet bench repair` measured.

    Attributes:
        risk: Over the cells of all parts.
    """

    data: str
    network: str
    parts: tuple[BenchPart, ...]
    risk: RiskCorrelation


@dataclass(frozen=True)
class ScanTarget:
    """A label that a scan takes for a backdoor's target.

    Attributes:
        score: At least 1; how far beyond its limits the label is.
        by: What flagged it: `universal` (random changes lead there and its margin is large),
            `robust` (that is doubtful, but a small mask serves though disturbed), or the kind of a
            small change.
        kind: Of the change shown: `masks` (pixels painted over), `fields` (a pattern added),
            `warps`; a random one where no search misled most images.
        extent: How large that is, as a share; None of a random one.
        misled: Share of clean images of other labels that it turns into this one.
        trigger: Its picture's file.
    """

    label: int
    score: float
    by: str
    kind: str
    extent: float | None
    misled: Rate
    trigger: str | None = None


@dataclass(frozen=True)
class LabelScan:
    """What was found for one label.

    Attributes:
        score: The greater of those by suspicion and by small changes.
        by: What gave that score, as of a `ScanTarget`.
        extents: The smallest change found in each kind; None where none was.
        universal: Random changes that lead there, of all tried.
        margin_deviations: Deviations of its largest margin above the labels' median, or of that
            over the largest of its own clean images if that is less; None where it was not
            searched, or no margin was found.
        shift: How far off its clean images changed ones lie that get the label wrongly, all in one
            direction, in shares of the median label's; None where it is not known.
        times_smaller: How many times smaller than usual the smallest mask is that leads there even
            when moved, faint and noisy; None where it was not searched for.
    """

    label: int
    score: float
    by: str
    extents: dict[str, float | None]
    universal: Rate
    margin_deviations: float | None
    shift: float | None = None
    times_smaller: float | None = None


@dataclass(frozen=True)
class UsualChange:
    """How large the changes of one kind are that labels are compared by.

    Attributes:
        extent: Median over labels; None where no change was found for any.
        deviation: Of the extents' logarithms, by the median distance from the median.
        found: For how many of `labels` a change was found.
        small: Below this a change may flag a label.
    """

    kind: str
    extent: float | None
    deviation: float
    found: int
    labels: int
    small: float


@dataclass(frozen=True)
class AnyChange:
    """The smallest change of one kind that makes answers wrong in any way.

    Attributes:
        score: From 1 up it is smaller than on clean networks.
        misled: Share of clean images that get a wrong answer.
        labels: How many different labels those answers are.
    """

    kind: str
    extent: float | None
    score: float
    misled: Rate
    labels: int


@dataclass(frozen=True)
class UnsharedErrors:
    """Errors of the network that a student does not make, who learned its answers on clean images.

    Attributes:
        share: Of the errors it is sure of, where clean images are changed at random.
        score: From 1 up more than on clean networks.
        student_accuracy: Of the student, on the clean images it learned on.
    """

    share: Rate
    score: float
    student_accuracy: Rate


@dataclass(frozen=True)
class ScanResult:
    """What `goodnet scan` found with clean images alone.

    Attributes:
        backdoored: Whether a target was found, or a change that makes answers wrong anyhow, or
            more errors that are the network's own than clean networks have.
        targets: Flagged labels, the highest score first.
        labels: The labels that come next, flagged ones among them.
        usual: What they are compared with, for each kind of change.
        anyhow: How all-to-all and untargeted backdoors show; not searched where labels are many.
        unshared: How they show too; None where something else showed, or images are too few.
        labels_searched: Labels whose smallest changes were searched for.
        images: Clean images given.
    """

    backdoored: bool
    targets: tuple[ScanTarget, ...]
    labels: tuple[LabelScan, ...]
    usual: tuple[UsualChange, ...]
    anyhow: tuple[AnyChange, ...]
    classes: int
    labels_searched: int
    images: int
    unshared: UnsharedErrors | None = field(default=None, kw_only=True)
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """The answer to one image; `label` is None where `backdoored` (class N)."""

    path: str
    label: int | None
    class_index: int
    backdoored: bool
    score: float


@dataclass(frozen=True)
class PredictResult:
    """What `goodnet predict` answered.

    Where `input_stated` is false the reading `input` is a guess, and answers may be wrong.
    """

    network: str
    input: dict[str, Any]
    input_stated: bool
    predictions: tuple[Prediction, ...]


def to_json(record: object, *, indent: int | None = 2) -> str:
    """`record` (a results dataclass) as JSON text; what was not measured is null."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(record))
    return adapter.dump_json(record, indent=indent).decode()


def from_json(kind: type[Record], text: str | bytes, source: str | Path) -> Record:
    """The record of type `kind` in `text`.

    Raises:
        DataError: `text` is not such a record; names the field.
    """
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise DataError(
            source, f"is no {kind.__name__}: {first['msg']} at {where}", "make the run again"
        ) from error


def curve_csv(result: PruneResult) -> str:
    """The prune curve as CSV: a row for each k, rates with their counts."""
    sets = list(result.curve[0].attack_success_rate or {})
    has_clean = result.curve[0].clean_accuracy is not None
    columns = ["valid_accuracy", *(["clean_accuracy"] if has_clean else [])]
    columns += [f"attack_success_rate {name}" for name in sets]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["channels_pruned", *(f"{c}{part}" for c in columns for part in ("", " count", " n"))]
    )
    for row in result.curve:
        rates = [row.valid_accuracy, *([row.clean_accuracy] if row.clean_accuracy else [])]
        rates += [(row.attack_success_rate or {})[name] for name in sets]
        writer.writerow(
            [row.channels_pruned, *(v for rate in rates for v in (rate.value, rate.count, rate.n))]
        )
    return text.getvalue()
