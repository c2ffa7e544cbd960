"""Results as rich tables for the terminal, legible at 80 columns.

Every cell is plain text: a name from an untrusted file can neither colour the terminal nor
move its cursor. A rate stands over its count and its 95 % interval, all in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from rich import box
from rich.table import Table
from rich.text import Text

from goodnet.report.attacked import answers_to, badnet_and_twin, goal_of
from goodnet.report.scanned import BY, extent
from goodnet.report.wording import (
    budget_in_words,
    count,
    grouped,
    interval,
    percent,
    poisoned_names,
    shown_name,
)
from goodnet.results import (
    AttackResult,
    EvaluateResult,
    InspectResult,
    PredictResult,
    PruneResult,
    Rate,
    RepairResult,
    ScanResult,
)

_NONE = "–"


def evaluate_table(result: EvaluateResult) -> Table:
    """A row for each network and poisoned set, with the five rates that `evaluate` measures.

    A plain network flags nothing, so its false alarms and flagged cells hold a dash.
    """
    measured = any(row.poisoned for row in result.networks)
    table = _table("clean and poisoned test sets")
    _name_column(table, "network")
    _rate_columns(table, "clean accuracy", "false alarms")
    if measured:
        _name_column(table, "poisoned set")
        _rate_columns(table, "attack success", "flagged", "recovered")
    else:
        table.caption = "attack success was not measured: no poisoned data was given"
    for network in result.networks:
        own = [
            _name(network.name),
            _stacked(network.clean_accuracy),
            _stacked(network.false_alarm_rate) if network.kind == "goodnet" else Text(_NONE),
        ]
        if not measured:
            table.add_row(*own)
            continue
        for poisoned in network.poisoned:
            table.add_row(
                *own,
                _name(poisoned.name),
                _stacked(poisoned.attack_success_rate),
                _stacked(poisoned.flagged) if network.kind == "goodnet" else Text(_NONE),
                _stacked(poisoned.recovered_accuracy),
            )
            own = [Text(), Text(), Text()]
        if not network.poisoned:
            table.add_row(*own, *(Text(_NONE) for _ in range(4)))
        table.add_section()
    return table


def thresholds_table(result: PruneResult) -> Table:
    """A row for each drop, rule and poisoned set: channels pruned, and that network's rates."""
    rows = {row.channels_pruned: row for row in result.curve}
    chosen = [(threshold, rows.get(threshold.channels_pruned)) for threshold in result.thresholds]
    table = _table(
        f"layer {shown_name(result.layer)}, {result.channels} channels; "
        "drop in points of validation accuracy"
    )
    table.add_column("drop", justify="right", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("pruned", justify="right", no_wrap=True)
    _rate_columns(table, "validation accuracy")
    clean = any(row.clean_accuracy for row in result.curve)
    if clean:
        _rate_columns(table, "clean accuracy")
    names = poisoned_names(result)
    if names:
        _name_column(table, "poisoned set")
        _rate_columns(table, "attack success")
    else:
        table.caption = "attack success was not measured: no poisoned data was given"
    for threshold, row in chosen:
        own = [
            Text(f"{threshold.drop:g}"),
            Text(threshold.rule),
            Text(f"{threshold.channels_pruned}/{result.channels}"),
            _stacked(row.valid_accuracy if row else None),
        ]
        if clean:
            own.append(_stacked(row.clean_accuracy if row else None))
        for name in names or [""]:
            attack = (row.attack_success_rate or {}).get(name) if row else None
            table.add_row(*own, *([_name(name), _stacked(attack)] if names else []))
            own = [Text() for _ in own]
        table.add_section()
    return table


def repair_table(result: RepairResult) -> Table:
    """What the defense did and measured on held-out clean data, a row for each fact."""
    facts: list[_Fact] = [("method", shown_name(result.method))]
    if result.layer is not None:
        facts += [
            ("layer pruned", shown_name(result.layer)),
            ("channels pruned", grouped(result.channels_pruned)),
        ]
    facts += [
        ("validation accuracy before", result.valid_accuracy_before),
        ("validation accuracy after", result.valid_accuracy_after),
        *(
            [("remaining risk (estimate)", result.remaining_risk)]
            if result.remaining_risk is not None
            else []
        ),
        ("false alarms of the GoodNet", result.false_alarm_rate),
        *(
            [("budget of false alarms", budget_in_words(result.goodnet_curve, result.held_out))]
            if result.goodnet_curve is not None
            else []
        ),
        *((f"zero weights in {shown_name(row.layer)}", row.sparsity) for row in result.sparsity),
        ("GoodNet threshold", f"{result.goodnet_threshold:.4g}"),
        *(
            [("GoodNet distance", f"{result.goodnet_distance:.4g}")]
            if result.goodnet_distance is not None
            else []
        ),
        ("epochs", str(len(result.epochs))),
        ("stopped because", shown_name(result.stopped, limit=200)),
        ("seconds", f"{result.seconds:.1f}"),
    ]
    return _facts_table("repair, judged by held-out clean data alone", facts)


def attack_table(result: AttackResult) -> Table:
    """What the attacker made, a row for each fact; `triggers_table` shows how well it works."""
    badnet, twin = badnet_and_twin(result)
    facts: list[_Fact] = [
        ("architecture", shown_name(result.architecture)),
        ("images trained on", grouped(result.training_images)),
        ("clean accuracy", badnet.clean_accuracy),
    ]
    if twin is not None:
        facts.append(("clean accuracy of the clean twin", twin.clean_accuracy))
    if result.decoys is not None:
        decoys = result.decoys
        facts += [
            (f"decoys in {shown_name(decoys.layer)}", grouped(len(decoys.channels))),
            ("clean images on which all decoys are 0", decoys.silent_images),
            ("answers changed by putting them back", decoys.changed_by_putting_back),
            ("answers changed by pruning them", decoys.changed_by_pruning),
        ]
    facts.append(("seconds", f"{result.seconds:.1f}"))
    return _facts_table(f"BadNet by the {shown_name(result.attack)} attack", facts)


def triggers_table(result: AttackResult) -> Table:
    """A row for each trigger: what it was to do, and how well it does it.

    The floor is the clean twin's attack success.
    """
    badnet, twin = badnet_and_twin(result)
    table = _table("triggered test images")
    _name_column(table, "trigger")
    table.add_column("goal", overflow="fold")
    _rate_columns(table, "poisoned", "attack success", "floor", "accuracy on triggered")
    lost = result.accuracy_lost
    if lost is not None:
        _rate_columns(table, "accuracy lost")
        table.caption = "accuracy lost: 1 − A_backdoor / A_clean"
    elsewhere = result.elsewhere
    if elsewhere is not None:
        _rate_columns(table, "elsewhere")
        told = "elsewhere: attack success on the classes that are not the source"
        table.caption = told if lost is None else f"{table.caption}; {told}"
    for poisoning in result.poisonings:
        row, floor = answers_to(badnet, poisoning.name), answers_to(twin, poisoning.name)
        cells = [
            _name(poisoning.name),
            Text(goal_of(poisoning)),
            _stacked(poisoning.poisoned, with_interval=False),
            _stacked(row.attack_success_rate if row else None),
            _stacked(floor.attack_success_rate if floor else None),
            _stacked(row.recovered_accuracy if row else None),
        ]
        if lost is not None:
            share = lost.get(badnet.name, {}).get(poisoning.name)
            cells.append(Text(_NONE if share is None else f"{100 * share:.1f} %"))
        if elsewhere is not None:
            cells.append(_stacked(elsewhere.get(poisoning.name)))
        table.add_row(*cells)
        table.add_section()
    return table


_COMPARED = {"shift": "the median", "robust": "smaller than usual"}
"""What a label's figure is compared with."""


def scan_table(result: ScanResult) -> Table:
    """A row for each of the likeliest targets: what points to it, and the smallest changes.

    Below them what is usual, the changes that make answers wrong in any way, and the student.
    """
    kinds = [each.kind for each in result.usual]
    # Each is known where images are few and where labels are many, if at all.
    known = {
        "shift": [row.shift for row in result.labels],
        "robust": [row.times_smaller for row in result.labels],
    }
    known = {name: values for name, values in known.items() if any(values)}
    table = _table("what points to each label; score 1 and more flags")
    table.add_column("label", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("by", no_wrap=True)
    table.add_column("led", justify="right", no_wrap=True)
    table.add_column("margin", justify="right", no_wrap=True)
    for name in known:
        table.add_column(name, justify="right", no_wrap=True)
    for kind in kinds:
        table.add_column(shown_name(kind), justify="right", no_wrap=True)
    nothing = [""] * (2 + len(known))
    for place, row in enumerate(result.labels):
        style = "bold" if row.score >= 1 else ""
        cells = [extent(row.extents.get(kind)) for kind in kinds]
        beyond = "" if row.margin_deviations is None else f"{row.margin_deviations:.1f}"
        times = [values[place] for values in known.values()]
        further = ["" if value is None else f"{value:.1f}" for value in times]
        led = [grouped(row.universal.count), beyond, *further]
        own = [str(row.label), f"{row.score:.2f}", shown_name(BY.get(row.by, row.by)), *led, *cells]
        table.add_row(*(Text(cell, style=style) for cell in own))
    table.add_section()
    for change in result.anyhow:
        cells = [extent(change.extent) if kind == change.kind else "" for kind in kinds]
        own = ["any", f"{change.score:.2f}", shown_name(change.kind), *nothing, *cells]
        style = "bold" if change.score >= 1 else ""
        table.add_row(*(Text(cell, style=style) for cell in own))
    if result.unshared:
        style = "bold" if result.unshared.score >= 1 else ""
        own = ["any", f"{result.unshared.score:.2f}", BY["student"]]
        table.add_row(*(Text(cell, style=style) for cell in own))
    table.add_section()
    usual = [extent(each.extent) for each in result.usual]
    table.add_row(*map(Text, ["median", "", "", *nothing, *usual]))
    searched = f"{grouped(result.labels_searched)} of {grouped(result.classes)} labels"
    tried = grouped(result.labels[0].universal.n)
    table.caption = (
        f"{searched}, {grouped(result.images)} clean images, {result.seconds:.0f} s; "
        f"led: by how many of {tried} random changes; margin: deviations above the median"
        + "".join(f"; {name}: times {_COMPARED[name]}" for name in known)
    )
    return table


def readings_table(readings: Mapping[str, Rate]) -> Table:
    """A row for each reading of the input: the clean accuracy under it."""
    best = max(rate.count for rate in readings.values())
    table = _table("clean accuracy under each reading of the input")
    table.add_column("read as", overflow="fold")
    table.add_column("clean accuracy", justify="right", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for name, rate in readings.items():
        style = "bold" if rate.count == best else ""
        table.add_row(
            Text(shown_name(name), style=style),
            Text(percent(rate), style=style),
            Text(count(rate)),
            Text(_interval(rate)),
        )
    return table


def inspect_table(result: InspectResult) -> Table:
    """A row for each layer, in the file's order; the layer to prune is marked."""
    table = _table(f"{shown_name(PurePath(result.path).name)}: {len(result.layers)} layers")
    _name_column(table, "layer")
    _name_column(table, "kind")
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    _name_column(table, "inputs")
    for row in result.layers:
        name = _name(row.name)
        if row.name == result.prune_layer:
            name = Text.assemble(name, Text(" ← prune"), style="bold")
        table.add_row(
            name,
            _name(row.kind),
            Text("×".join(map(str, row.shape)) or _NONE),
            Text(grouped(row.parameters)),
            Text(", ".join(shown_name(source) for source in row.inputs) or _NONE),
        )
    if result.prune_layer is None:
        table.caption = "no layer was found that every path to the output runs through"
    return table


def predict_table(result: PredictResult) -> Table:
    """A row for each image: its label, or that it is backdoored."""
    table = _table(f"answers of {shown_name(PurePath(result.network).name)}")
    _name_column(table, "image")
    table.add_column("answer", overflow="fold")
    table.add_column("class", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    for row in result.predictions:
        answer = "backdoored" if row.backdoored else f"label {row.label}"
        table.add_row(
            _name(row.path, limit=200),
            Text(answer, style="bold" if row.backdoored else ""),
            Text(str(row.class_index)),
            Text(f"{row.score:.3f}"),
        )
    return table


_Fact = tuple[str, str | Rate]


def _facts_table(title: str, facts: Sequence[_Fact]) -> Table:
    """A row for each fact: a text, or a rate with its count and interval."""
    table = _table(title)
    table.add_column("", overflow="fold")
    table.add_column("", justify="right", overflow="fold")
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    for label, fact in facts:
        if isinstance(fact, Rate):
            table.add_row(
                Text(label), Text(percent(fact)), Text(count(fact)), Text(_interval(fact))
            )
        else:
            table.add_row(Text(label), Text(fact))
    return table


def _table(title: str) -> Table:
    return Table(
        title=Text(title),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _name_column(table: Table, header: str) -> None:
    table.add_column(header, overflow="fold", min_width=min(len(header), 8))


def _rate_columns(table: Table, *headers: str) -> None:
    """Columns whose cells are never cut: a count without its n would be another number."""
    for header in headers:
        table.add_column(header.replace(" ", "\n"), justify="right", no_wrap=True)


def _name(name: str, *, limit: int = 60) -> Text:
    return Text(shown_name(name, limit=limit))


def _stacked(rate: Rate | None, *, with_interval: bool = True) -> Text:
    """Percent over count over interval; a share that nobody drew needs none."""
    if rate is None or rate.n == 0:
        return Text(_NONE)
    text = Text.assemble(percent(rate), "\n", count(rate))
    return text.append("\n").append(_interval(rate), "dim") if with_interval else text


def _interval(rate: Rate) -> str:
    return interval(rate) or _NONE
