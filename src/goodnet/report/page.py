"""The report as one HTML page that opens from disk: no script, no network, nothing beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from goodnet.errors import DataError
from goodnet.files import write_bytes
from goodnet.report import palette
from goodnet.report.attacked import (
    ATTACK_LIMITS,
    UNTARGETED,
    attack_examined,
    attack_missing,
    attack_verdict,
    decoys_in_words,
    goal_of,
    trigger_in_words,
)
from goodnet.report.scanned import (
    BY,
    KINDS,
    SCAN_LIMITS,
    SCAN_MEANINGS,
    extent,
    scan_examined,
    scan_verdict,
)
from goodnet.report.verdict import MEANINGS, NO_POISONED, Verdict, roles, verdict
from goodnet.report.wording import (
    budget_in_words,
    grouped,
    interval,
    percent,
    points,
    poisoned_names,
    shown_name,
)
from goodnet.results import (
    AttackResult,
    EvaluateResult,
    NetworkRow,
    PruneResult,
    Rate,
    RepairResult,
    ScanResult,
)

LIMITS = (
    "Attack success is known only for the poisoned sets given. Another trigger may do better.",
    "The defender's decisions read clean data only; poisoned and test data serve to measure.",
    "No alarm does not mean no backdoor: a GoodNet can flag an input only where the network "
    "handed in and the repaired one differ, or its features are unlike those of clean inputs.",
    "Each interval covers the chance in drawing the inputs, not a difference between these "
    "inputs and those met in use.",
)

# Figures with a place of their own on the page; others follow under their own names.
_CAPTIONS = {
    "prune_curve": "Accuracy and attack success as channels are pruned. Bands are 95 % intervals; "
    "triangles mark the networks chosen for each drop, filled for the first at or past it "
    "(at-least), open for the last inside it (within).",
    "channel_activations": "Mean activation of each channel, in the order in which they are "
    "pruned. Shaded channels are near silent on clean images.",
    "clean_and_triggered": "Mean activation of each channel on clean images (top) and on triggered "
    "images, in one order and on one scale. Shaded channels are near silent on clean images: a "
    "backdoor that shows there can be pruned away.",
    "goodnet_curve": "What the GoodNet flags at other budgets of false alarms: the lower the "
    "clean images and the higher the triggered ones, the better. Bands are 95 % intervals. Test "
    "and poisoned sets were measured when all was decided.",
    "network_diagram": "The network, layer by layer. The layer to prune is highlighted.",
}

_OF_PRUNING = ("prune_curve", "channel_activations", "clean_and_triggered")
_SOURCES = {
    "random": "drawn at random",
    "unseen": "drawn at random, taught by no defense",
    "searched": "reconstructed",
}

# Measures of a GoodNet alone.
_FLAGS = ("False alarms", "Flagged")

_PNG = b"\x89PNG\r\n\x1a\n"
_SVG_SPACE = "http://www.w3.org/2000/svg"
_LOADING_STYLE = re.compile(r"url\((?!#)|@import|javascript:|\\", re.IGNORECASE)
_SVG_ELEMENTS = {
    *("svg", "g", "defs", "use", "path", "rect", "circle", "ellipse", "line", "polyline"),
    *("polygon", "text", "tspan", "title", "desc", "style", "clipPath", "marker"),
}


@dataclass(frozen=True)
class _Cell:
    """A rate in a table: three lines, or why there are none."""

    percent: str
    count: str = ""
    interval: str = ""


@dataclass(frozen=True)
class _Figure:
    name: str
    caption: str
    svg: Markup


def render_page(
    *,
    title: str,
    manifest: Mapping[str, Any],
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
    figures: Mapping[str, str],
    attack: AttackResult | None = None,
    scan: ScanResult | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """The page as HTML text, for a reviewer who must sign; depends on the arguments alone.

    At the top stand in words what was examined and what was found, with every rate's count and
    95 % interval; then the tables, the figures, the defense's decisions, limits and manifest.

    Args:
        title: The page's heading, e.g. the run's name.
        manifest: Versions, hashes, seed, settings; shown as it is.
        prune: The prune curve, where there was one.
        repair: What the defense did, where one ran.
        evaluate: What was measured on test data, where any was given.
        figures: SVG text by name; `prune_curve`, `channel_activations` and `network_diagram`
            get their captions, `clean_and_triggered` too.
        attack: What an attacker made, where the page is of an attack.
        scan: What a scan found, where the page is of a scan.
        pictures: PNG files by name, the triggers that it reconstructed.

    Raises:
        DataError: A figure is no SVG, or holds what could run or load something; a picture is no
            PNG.
    """
    drawn = {name: _inline_figure(name, text) for name, text in figures.items()}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["name"] = shown_name
    environment.filters["file"] = lambda path: shown_name(PurePath(path).name)
    environment.filters["grouped"] = grouped
    # No line ends between a number and its percent sign.
    environment.filters["tied"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text("utf-8"))
    return template.render(
        title=title,
        light={each.variable: each.light for each in palette.ALL},
        dark={each.variable: each.dark for each in palette.ALL},
        verdict=_verdict(prune, repair, evaluate, attack, scan),
        meanings=_meanings(evaluate, repair, scan),
        examined=_examined(prune, repair, evaluate, attack)
        if scan is None
        else scan_examined(scan),
        missing=_missing(prune, repair, evaluate, attack, scan),
        columns=_columns(evaluate, repair),
        measures=_measures(evaluate, flags=attack is None) + _accuracy_lost(attack),
        untargeted=UNTARGETED if attack is not None and attack.accuracy_lost else "",
        attack=attack,
        scan=scan,
        scan_rows=_scan_rows(scan),
        triggers=_triggers(scan, pictures or {}),
        poisonings=_poisonings(attack),
        decoys=decoys_in_words(attack.decoys) if attack and attack.decoys else (),
        prune=prune,
        threshold_sets=poisoned_names(prune) if prune else [],
        thresholds=_thresholds(prune),
        repair=repair,
        repair_rates=_repair_rates(repair),
        epochs=[
            (row.epoch, f"{row.loss:.4f}", _cell(row.held_out_accuracy)) for row in repair.epochs
        ]
        if repair
        else [],
        sparsity=[(row.layer, _cell(row.sparsity)) for row in repair.sparsity] if repair else [],
        risk_rows=_risk_rows(repair),
        budget=budget_in_words(repair.goodnet_curve, repair.held_out)
        if repair and repair.goodnet_curve
        else "",
        flagged_sets=_flagged_rows(repair)[0],
        flagged_rows=_flagged_rows(repair)[1],
        figures=drawn,
        rest=_rest(drawn, prune=prune is not None, repair=repair is not None),
        limits=_limits(attack, scan),
        manifest=_manifest_groups(manifest),
    )


def write_page(
    path: str | Path,
    *,
    title: str,
    manifest: Mapping[str, Any],
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
    figures: Mapping[str, str],
    attack: AttackResult | None = None,
    scan: ScanResult | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> Path:
    """`path`, holding the page of `render_page`; written beside, then renamed."""
    page = render_page(
        title=title,
        manifest=manifest,
        prune=prune,
        repair=repair,
        evaluate=evaluate,
        figures=figures,
        attack=attack,
        scan=scan,
        pictures=pictures,
    )
    write_bytes(Path(path), page.encode("utf-8"))
    return Path(path)


def _verdict(
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
    attack: AttackResult | None,
    scan: ScanResult | None,
) -> Verdict:
    if scan is not None:
        return scan_verdict(scan)
    if attack is not None:
        return attack_verdict(attack)
    return verdict(prune=prune, repair=repair, evaluate=evaluate)


def _meanings(
    evaluate: EvaluateResult | None, repair: RepairResult | None, scan: ScanResult | None
) -> str:
    if scan is not None:
        return SCAN_MEANINGS
    return MEANINGS if roles(evaluate, repair) is not None else ""


def _missing(
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
    attack: AttackResult | None,
    scan: ScanResult | None,
) -> list[str]:
    if scan is not None:
        return ["Attack success: a scan is handed no trigger."]
    return attack_missing(attack) if attack else _not_measured(prune, repair, evaluate)


def _limits(attack: AttackResult | None, scan: ScanResult | None) -> tuple[str, ...]:
    if scan is not None:
        return SCAN_LIMITS
    return LIMITS if attack is None else ATTACK_LIMITS


def _scan_rows(scan: ScanResult | None) -> list[tuple[str, bool, str, str, list[str]]]:
    """Label, if it is flagged, score, what gives it, changes, margin, shift, robust, extents."""
    if scan is None:
        return []
    kinds = [each.kind for each in scan.usual]
    rows = [
        (
            str(row.label),
            row.score >= 1,
            f"{row.score:.2f}",
            BY.get(row.by, row.by),
            [
                f"{grouped(row.universal.count)} of {grouped(row.universal.n)}",
                "" if row.margin_deviations is None else f"{row.margin_deviations:.1f}",
                "" if row.shift is None else f"{row.shift:.1f}",
                "" if row.times_smaller is None else f"{row.times_smaller:.1f}",
                *(extent(row.extents.get(kind)) for kind in kinds),
            ],
        )
        for row in scan.labels
    ]
    rows += [
        (
            "any wrong",
            change.score >= 1,
            f"{change.score:.2f}",
            change.kind,
            [
                *4 * [""],
                *(extent(change.extent) if kind == change.kind else "" for kind in kinds),
            ],
        )
        for change in scan.anyhow
    ]
    if scan.unshared:
        score, nothing = scan.unshared.score, [""] * (4 + len(kinds))
        rows.append(("any wrong", score >= 1, f"{score:.2f}", BY["student"], nothing))
    return rows


def _triggers(scan: ScanResult | None, pictures: Mapping[str, bytes]) -> list[tuple[str, str, str]]:
    """For each target whose picture is there: label, caption, the picture as a data URI.

    Raises:
        DataError: A picture is no PNG.
    """
    shown = []
    for target in scan.targets if scan else ():
        name = PurePath(target.trigger or "").name
        if name not in pictures:
            continue
        if not pictures[name].startswith(_PNG):
            raise DataError(f"picture {shown_name(name)}", "is no PNG", "make the scan again")
        size = "drawn at random" if target.extent is None else extent(target.extent)
        caption = (
            f"Label {target.label}: {KINDS.get(target.kind, shown_name(target.kind))}, "
            f"{size}. Clean images, the same changed, and the difference, "
            "stretched; grey where nothing changed."
        )
        data = base64.b64encode(pictures[name]).decode("ascii")
        shown.append((str(target.label), caption, f"data:image/png;base64,{data}"))
    return shown


def _cell(rate: Rate | None) -> _Cell:
    if rate is None or rate.n == 0:
        return _Cell("not measured")
    return _Cell(percent(rate), f"{rate.count} of {rate.n}", f"{interval(rate)} %")


def _examined(
    prune: PruneResult | None,
    repair: RepairResult | None,
    evaluate: EvaluateResult | None,
    attack: AttackResult | None,
) -> list[str]:
    """Sentences on what was looked at: networks, layer, data."""
    said = []
    parts = roles(evaluate, repair)
    if attack is not None:
        said += attack_examined(attack)
    elif parts is not None:
        said.append(f"The network handed in: {shown_name(parts.before.path, limit=120)}.")
    elif evaluate is not None:
        said += [
            f"{'GoodNet' if row.kind == 'goodnet' else 'Network'} {shown_name(row.name)}: "
            f"{shown_name(row.path, limit=120)}."
            for row in evaluate.networks
        ]
    if repair is not None:
        said.append(
            f"It was repaired by {shown_name(repair.method)}: the repaired network is "
            f"{shown_name(repair.network, limit=120)}, the GoodNet "
            f"{shown_name(repair.goodnet, limit=120)}. "
            f"{grouped(repair.held_out)} clean images were held out to judge it by."
        )
    if prune is not None:
        valid = prune.curve[0].valid_accuracy.n if prune.curve else 0
        said.append(
            f"The {grouped(prune.channels)} channels of layer {shown_name(prune.layer)} were "
            f"pruned one by one, in order of {shown_name(prune.prune_order)} mean activation; "
            f"accuracy was counted on {grouped(valid)} clean validation images."
        )
    if evaluate is not None and evaluate.networks:
        sets = list(
            dict.fromkeys(
                f"{shown_name(row.name)} ({grouped(row.flagged.n)})"
                for network in evaluate.networks
                for row in network.poisoned
            )
        )
        clean = max(network.clean_accuracy.n for network in evaluate.networks)
        said.append(
            f"Test data: {grouped(clean)} clean inputs"
            + (f"; poisoned sets, with their inputs: {', '.join(sets)}." if sets else ".")
        )
    return said


def _not_measured(
    prune: PruneResult | None, repair: RepairResult | None, evaluate: EvaluateResult | None
) -> list[str]:
    """Sentences on what this page cannot say."""
    missing = [] if repair is None else list(repair.warnings)
    in_curve = prune is not None and bool(poisoned_names(prune))
    in_test = evaluate is not None and any(row.poisoned for row in evaluate.networks)
    if not in_curve and not in_test:
        missing.append(NO_POISONED)
    if evaluate is None:
        beyond = " beyond the prune curve" if in_curve else ""
        missing.append(f"No network was evaluated on test data{beyond}.")
    elif repair is not None and roles(evaluate, repair) is None:
        missing.append(
            "The test measurements name no network as the one before or after this repair, so "
            "the two are not set side by side."
        )
    if repair is None:
        missing.append("No repair is part of these results.")
    if in_test and evaluate is not None:
        missing += [
            f"The true labels of {name} are not known, so no recovered accuracy."
            for name in dict.fromkeys(
                shown_name(row.name)
                for network in evaluate.networks
                for row in network.poisoned
                if row.recovered_accuracy is None
            )
        ]
    return missing


def _columns(
    evaluate: EvaluateResult | None, repair: RepairResult | None
) -> list[tuple[str, str, str]]:
    """For each network: its part in the repair, its name, its path."""
    if evaluate is None:
        return []
    parts = roles(evaluate, repair)

    def part(row: NetworkRow) -> str:
        if parts is not None and row == parts.before:
            return "handed in"
        if parts is not None and row == parts.after:
            return "repaired"
        return "GoodNet" if row.kind == "goodnet" else "network"

    return [(part(row), row.name, row.path) for row in evaluate.networks]


def _measures(
    evaluate: EvaluateResult | None, *, flags: bool
) -> list[tuple[str, str, list[_Cell]]]:
    """Rows of the main table: measure, poisoned set (or nothing), a cell for each network.

    Without `flags` the rows that tell what a GoodNet flags are left out.
    """
    if evaluate is None:
        return []
    networks = evaluate.networks
    not_flagging = _Cell("–")
    rows = [
        ("Clean accuracy", "", [_cell(row.clean_accuracy) for row in networks]),
        (
            "False alarms",
            "",
            [
                _cell(row.false_alarm_rate) if row.kind == "goodnet" else not_flagging
                for row in networks
            ],
        ),
    ]
    names = dict.fromkeys(each.name for row in networks for each in row.poisoned)
    for name in names:
        found = [
            next((each for each in row.poisoned if each.name == name), None) for row in networks
        ]
        rows += [
            (
                "Attack success",
                name,
                [_cell(each.attack_success_rate if each else None) for each in found],
            ),
            (
                "Flagged",
                name,
                [
                    not_flagging if row.kind != "goodnet" else _cell(each.flagged if each else None)
                    for row, each in zip(networks, found, strict=True)
                ],
            ),
            (
                "Recovered",
                name,
                [_cell(each.recovered_accuracy if each else None) for each in found],
            ),
        ]
    return [row for row in rows if flags or row[0] not in _FLAGS]


def _accuracy_lost(attack: AttackResult | None) -> list[tuple[str, str, list[_Cell]]]:
    """A row for each untargeted trigger, a cell for each network; no count goes with it."""
    if attack is None or attack.accuracy_lost is None:
        return []
    columns = [attack.accuracy_lost.get(row.name, {}) for row in attack.evaluate.networks]
    return [
        (
            "Accuracy lost",
            name,
            [_Cell(f"{100 * lost[name]:.1f} %" if name in lost else "–") for lost in columns],
        )
        for name in dict.fromkeys(name for lost in columns for name in lost)
    ]


def _poisonings(attack: AttackResult | None) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "trigger": trigger_in_words(row.trigger),
            "goal": goal_of(row) + (", labels left as they are" if row.clean_label else ""),
            "poisoned": _share(row.poisoned),
            "covers": _share(row.covers),
        }
        for row in (attack.poisonings if attack else ())
    ]


def _share(rate: Rate) -> _Cell:
    """A share that was set, not drawn, so without an interval."""
    return _Cell(percent(rate), f"{rate.count} of {rate.n}")


def _thresholds(prune: PruneResult | None) -> list[dict[str, Any]]:
    if prune is None:
        return []
    rows = {row.channels_pruned: row for row in prune.curve}
    shown = []
    for threshold in prune.thresholds:
        row = rows.get(threshold.channels_pruned)
        rates = (row.attack_success_rate or {}) if row else {}
        shown.append(
            {
                "drop": points(threshold.drop),
                "rule": threshold.rule,
                "pruned": f"{threshold.channels_pruned} of {prune.channels}",
                "valid": _cell(row.valid_accuracy if row else None),
                "clean": _cell(row.clean_accuracy if row else None),
                "attack": [_cell(rates.get(name)) for name in poisoned_names(prune)],
                "network": threshold.network,
            }
        )
    return shown


def _repair_rates(repair: RepairResult | None) -> list[tuple[str, _Cell]]:
    if repair is None:
        return []
    return [
        ("Validation accuracy before", _cell(repair.valid_accuracy_before)),
        ("Validation accuracy after", _cell(repair.valid_accuracy_after)),
        ("False alarms of the GoodNet", _cell(repair.false_alarm_rate)),
        *(
            []
            if repair.remaining_risk is None
            else [("Remaining risk, an estimate", _cell(repair.remaining_risk))]
        ),
    ]


def _risk_rows(repair: RepairResult | None) -> list[tuple[str, str, str, _Cell, _Cell]]:
    """For each made-up change: kind, where it is from, label, and what B and B′ make of it."""
    if repair is None or repair.risk is None:
        return []
    return [
        (
            shown_name(row.kind),
            _SOURCES[row.source],
            "any wrong" if row.target is None else str(row.target),
            _cell(row.misled),
            _cell(row.remains),
        )
        for row in repair.risk.rows
    ]


def _flagged_rows(
    repair: RepairResult | None,
) -> tuple[list[str], list[tuple[str, str, str, list[_Cell]]]]:
    """The poisoned sets, and for each budget: the budget, the thresholds, the cells."""
    if repair is None or repair.goodnet_curve is None:
        return [], []
    rows = repair.goodnet_curve.rows
    names = list(dict.fromkeys(name for row in rows for name in row.flagged or {}))
    return names, [
        (
            f"{100 * row.budget:g} %",
            f"{row.threshold:.4g}",
            "" if row.distance is None else f"{row.distance:.4g}",
            [
                _cell(row.false_alarm_rate),
                _cell(row.test_false_alarm_rate),
                *(_cell((row.flagged or {}).get(name)) for name in names),
            ],
        )
        for row in rows
    ]


def _rest(drawn: Mapping[str, _Figure], *, prune: bool, repair: bool) -> list[_Figure]:
    """The figures that no section of the page holds, those with a caption first."""
    placed = {*(_OF_PRUNING if prune else ()), *(("goodnet_curve",) if repair else ())}
    rest = [name for name in drawn if name not in placed]
    return [drawn[name] for name in sorted(rest, key=lambda name: name not in _CAPTIONS)]


def _manifest_groups(manifest: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The manifest by its top-level keys, single values first: for each, rows of (what, value)."""
    groups = [
        (str(key), [(" › ".join(where), text) for where, text in _leaves(value)])
        for key, value in manifest.items()
    ]
    return sorted(groups, key=lambda group: any(where for where, _ in group[1]))


def _leaves(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*where, shown_name(str(key), limit=120)))
    elif isinstance(value, (list, tuple)) and any(
        isinstance(inner, (Mapping, list, tuple)) for inner in value
    ):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*where, str(place)))
    elif isinstance(value, (list, tuple)):
        yield where, shown_name(", ".join(map(str, value)) or "none", limit=2000)
    else:
        yield where, shown_name("none" if value in (None, {}) else str(value), limit=2000)


def _inline_figure(name: str, text: str) -> _Figure:
    """The figure `name`, fit to stand in the page: names of its own, the page's colours.

    Raises:
        DataError: `text` is no SVG, or holds what could run or load something.
    """
    body = re.sub(r"<\?xml.*?\?>|<!DOCTYPE[^>\[]*>|<!--.*?-->", "", text, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL).strip()
    if problem := _unfit(body):
        raise DataError(f"figure {shown_name(name)}", problem, "draw it again with goodnet")
    own = "figure-" + re.sub(r"[^a-z0-9]+", "-", name.lower())
    body = re.sub(r'(?<=\sid=")', f"{own}-", body)
    body = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{own}-", body)
    body = body.replace("*{", f".{own} *{{")
    for colour in palette.ALL:
        body = body.replace(colour.light, f"var({colour.variable})")
    caption = _CAPTIONS.get(name, shown_name(name))
    body = body.replace("<svg ", f'<svg class="{own}" aria-label="{Markup.escape(caption)}" ', 1)
    return _Figure(own, caption, Markup(body))  # noqa: S704 - checked by `_unfit`


def _unfit(body: str) -> str:
    """Why `body` may not stand in the page; empty if it may.

    The page forbids scripts and loading altogether; this keeps them out of the file as well.
    """
    if "<!" in body or "<?" in body:
        return "holds a declaration, a processing instruction or a CDATA section"
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - no declarations, so no entities
    except ElementTree.ParseError as error:
        return f"is no SVG ({error})"
    if root.tag != f"{{{_SVG_SPACE}}}svg":
        return "is no SVG"
    return next((problem for element in root.iter() if (problem := _unfit_element(element))), "")


def _unfit_element(element: ElementTree.Element) -> str:
    space, _, tag = str(element.tag).rpartition("}")
    if space != f"{{{_SVG_SPACE}" or tag not in _SVG_ELEMENTS:
        return f"holds an element <{shown_name(tag)}>"
    values = {key.rpartition("}")[2].lower(): value for key, value in element.attrib.items()}
    for key, value in values.items():
        if key.startswith("on") or (key == "href" and not value.startswith("#")):
            return f"holds an attribute {shown_name(key)} that could run or load something"
    style = element.text or "" if tag == "style" else ""
    if any(_LOADING_STYLE.search(css) for css in (*values.values(), style)):
        return "holds a style that could load something"
    return ""
