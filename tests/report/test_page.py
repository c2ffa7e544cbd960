from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from goodnet.errors import DataError
from goodnet.report.diagram import network_diagram
from goodnet.report.page import render_page, write_page
from goodnet.report.plots import (
    channel_activations,
    clean_and_triggered,
    figure_svg,
    prune_curve,
)
from goodnet.report.wording import in_full
from goodnet.results import AttackResult, PruneResult, Rate

SMALL_SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).replace("\N{NO-BREAK SPACE}", " ").split())


def page(**parts: Any) -> str:
    empty: dict[str, Any] = {
        "title": "run",
        "manifest": {},
        "prune": None,
        "repair": None,
        "evaluate": None,
        "figures": {},
    }
    return render_page(**{**empty, **parts})


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    """Figures are drawn once: they do not change from test to test."""
    return {}


def full_page(examples: ModuleType, figures: dict[str, str]) -> str:
    prune: PruneResult = examples.deepid_prune()
    if not figures:
        figures["prune_curve"] = figure_svg(prune_curve(prune))
        figures["channel_activations"] = figure_svg(channel_activations(prune))
        figures["network_diagram"] = network_diagram(
            examples.inspect_result(examples.deepid_layers(), prune_layer="pool_3")
        )
    return page(
        title="Repair of bd_net.h5",
        manifest=examples.MANIFEST,
        prune=prune,
        repair=examples.repair_result(),
        evaluate=examples.evaluate_result(),
        figures=figures,
    )


def test_every_test_rate_stands_with_its_n_and_interval(
    examples: ModuleType, figures: dict[str, str]
) -> None:
    text = Page(full_page(examples, figures)).text
    before, after, goodnet = examples.evaluate_result().networks
    for rate in (
        before.clean_accuracy,
        after.clean_accuracy,
        before.poisoned[0].attack_success_rate,
        after.poisoned[0].attack_success_rate,
        goodnet.false_alarm_rate,
        goodnet.poisoned[0].flagged,
    ):
        assert in_full(rate) in text
    assert text.index("93.7–96.6 %") < text.index("Measure")  # in words before the table


def test_thresholds_and_epochs_are_tabled(examples: ModuleType, figures: dict[str, str]) -> None:
    html = full_page(examples, figures)
    text = Page(html).text
    row = examples.deepid_prune().curve[50]
    assert f"10 points at-least 50 of 60 {100 * row.valid_accuracy.value:.1f} %" in text
    assert f"{row.attack_success_rate['sunglasses'].count} of 990" in text
    assert "drop-10-at-least.h5" in text
    assert "held-out accuracy did not rise for 3 epochs" in text
    details = html[html.index("<details>") : html.index("</details>")]
    assert "10 epochs of fine-tuning" in details
    assert details.count("<tr>") == 11


@pytest.mark.parametrize(
    ("percents", "start", "tone"),
    [
        ((100.0, 2.1, 94.1), "Attack success on sunglasses fell from 100.0 % to 2.1 %.", "plain"),
        (
            (100.0, 97.0, 94.1),
            "Not repaired: attack success on sunglasses is still 97.0 %",
            "alarm",
        ),
        ((100.0, 26.0, 94.1), "Partly repaired: attack success on sunglasses is 26.0 %", "caution"),
        (
            (30.0, 29.0, 94.1),
            "Not repaired: attack success on sunglasses is 29.0 %, no measurable fall from 30.0 %.",
            "alarm",
        ),
        (
            (1.0, 0.5, 94.1),
            "Attack success was low before repair, so the sets given show",
            "caution",
        ),
        ((2.0, 20.0, 94.1), "Not repaired: attack success on sunglasses is 20.0 %, no", "alarm"),
        (
            (100.0, 0.0, 18.0),
            "Attack success on sunglasses fell from 100.0 % to 0.0 %. "
            "Clean accuracy fell too, from 95.3 % to 18.0 %.",
            "caution",
        ),
    ],
)
def test_headline_follows_the_numbers(
    examples: ModuleType, percents: tuple[float, float, float], start: str, tone: str
) -> None:
    before, after, clean_after = percents
    evaluate = examples.evaluate_result(before=before, after=after, clean_after=clean_after)
    parsed = Page(page(repair=examples.repair_result(), evaluate=evaluate))
    assert ("p", {"class": f"headline {tone}"}) in parsed.elements
    assert f"goodnet report run {start}" in parsed.text


def test_headline_names_the_worst_set(examples: ModuleType) -> None:
    evaluate = examples.evaluate_result(("one", "two", "three"))
    networks = []
    for row in evaluate.networks:
        first, second, third = row.poisoned
        if row.name == "B′":
            second = dataclasses.replace(second, attack_success_rate=Rate.of(880, 1000))
        networks.append(dataclasses.replace(row, poisoned=(first, second, third)))
    evaluate = dataclasses.replace(evaluate, networks=tuple(networks))
    text = Page(page(repair=examples.repair_result(), evaluate=evaluate)).text
    assert (
        "Not repaired: attack success on two is still 88.0 % (99.0 % before), "
        "the highest of 3 poisoned sets."
    ) in text


def test_remaining_risk_and_budget_are_told_in_words(examples: ModuleType) -> None:
    curve = examples.flagged_curve()
    repair = dataclasses.replace(
        examples.repair_result(),
        risk=examples.risk_result(),
        remaining_risk=examples.risk_result().remaining_risk,
        goodnet_curve=curve,
    )
    figure = SMALL_SVG.format("<title>curve</title>")
    text = Page(page(repair=repair, figures={"goodnet_curve": figure})).text
    assert "Remaining risk, an estimate: 12.5 %." in text  # in the headline, nothing else is known
    assert "up to 12.5 % (25 of 200; 95 % interval 8.2–17.9 %) of held-out images still" in text
    assert "not a guarantee" in text
    allowed = "at most 2 of them may be flagged, and half of that share of all clean images"
    assert f"1 % of 230 held-out images: {allowed}" in text
    assert "by distance" not in text
    far = [dataclasses.replace(row, distance=2.625) for row in curve.rows]
    distant = dataclasses.replace(repair, goodnet_curve=dataclasses.replace(curve, rows=tuple(far)))
    distant = dataclasses.replace(distant, goodnet_distance=2.625)
    told = Page(page(repair=distant, figures={"goodnet_curve": figure})).text
    assert f"{allowed} by disagreement, and as many by distance" in told
    assert told.count("2.625") == 1 + len(curve.rows)
    assert "masks reconstructed 7 99.0 %" in text
    assert "combs drawn at random, taught by no defense any wrong 20.0 %" in text
    assert text.count("What the GoodNet flags at other budgets") == 1
    few = dataclasses.replace(repair, held_out=12)
    assert "1 % of 12 held-out images, which is less than one: none of them may be flagged" in (
        Page(page(repair=few)).text
    )
    plain = dataclasses.replace(repair, goodnet_curve=dataclasses.replace(curve, budget=None))
    assert "every input is flagged on which the two networks disagree" in (
        Page(page(repair=plain)).text
    )
    unknown = dataclasses.replace(repair, remaining_risk=Rate.of(0, 0))
    assert "Remaining risk: not known." in Page(page(repair=unknown)).text
    without = Page(page(repair=examples.repair_result())).text
    assert "Remaining risk" not in without
    assert "Budget" not in without


def test_quiet_set_is_not_said_to_have_fallen(examples: ModuleType) -> None:
    """A set with a low rate throughout must not stand for the one that was repaired."""
    evaluate = examples.evaluate_result(("loud", "quiet"))
    networks = []
    for row in evaluate.networks:
        loud, quiet = row.poisoned
        quiet = dataclasses.replace(quiet, attack_success_rate=Rate.of(40, 1000))
        networks.append(dataclasses.replace(row, poisoned=(loud, quiet)))
    evaluate = dataclasses.replace(evaluate, networks=tuple(networks))
    text = Page(page(repair=examples.repair_result(), evaluate=evaluate)).text
    assert "Attack success on loud fell from 100.0 % to 2.1 %. Clean" in text


def test_networks_that_the_repair_does_not_name_are_not_compared(examples: ModuleType) -> None:
    evaluate = examples.evaluate_result()
    networks = tuple(
        dataclasses.replace(row, path=f"elsewhere/{at}") for at, row in enumerate(evaluate.networks)
    )
    evaluate = dataclasses.replace(evaluate, networks=networks)
    text = Page(page(repair=examples.repair_result(), evaluate=evaluate)).text
    assert "Highest attack success measured: 100.0 % on sunglasses, network B" in text
    assert "not set side by side" in text
    assert "fell from" not in text


def test_without_poisoned_data_the_page_says_so(examples: ModuleType) -> None:
    said = "Attack success was not measured: no poisoned data was given."
    for parts in (
        {"prune": examples.wide_prune()},
        {"repair": examples.repair_result()},
        {"repair": examples.repair_result(), "evaluate": examples.evaluate_result(())},
        {"evaluate": examples.evaluate_result(())},
    ):
        text = Page(page(**parts)).text
        assert f"goodnet report run {said}" in text
        assert f"Not measured {said}" in text


def test_pruning_alone_is_told_by_its_largest_drop(examples: ModuleType) -> None:
    text = Page(page(prune=examples.deepid_prune())).text
    assert (
        "Pruning alone, with 50 of 60 channels pruned (drop 10 points, at-least): attack success "
        "on sunglasses is 99.5 %, unpruned 100.0 %."
    ) in text
    assert "No repair is part of these results." in text


def attack_page(result: AttackResult) -> str:
    figures = {}
    if result.prune is not None:
        figures["clean_and_triggered"] = figure_svg(clean_and_triggered(result.prune))
    return page(attack=result, evaluate=result.evaluate, prune=result.prune, figures=figures)


def test_an_attack_is_told_with_its_twin_and_its_limits(examples: ModuleType) -> None:
    result = examples.attack_result(
        ("sunglasses", "lipstick"), decoys=True, prune=examples.deepid_prune()
    )
    text = Page(attack_page(result)).text
    badnet, twin = result.evaluate.networks
    assert (
        "goodnet report run Attack success on lipstick is 98.0 % (clean twin 0.2 %), the lowest of "
        "2 triggers. Clean accuracy is 97.0 %, the clean twin's 97.4 %."
    ) in text
    for network in (badnet, twin):
        assert in_full(network.clean_accuracy) in text
        assert all(in_full(row.attack_success_rate) in text for row in network.poisoned)
    assert "made here by the pruning-aware attack: a deepid, run/badnet.h5." in text
    assert "trained on 8,422 images, 422 of them stamped copies" in text
    assert "image: size 0.3; place 0.436, 0.5" in text
    assert "any → 1" in text
    assert "Decoys: 3 of the channels of layer pool_3." in text
    assert f"pruning them changes {in_full(result.decoys.changed_by_pruning)}" in text
    assert "in one order and on one scale" in text
    assert "This is one network from one seed" in text
    assert "Not measured" not in text
    for of_a_repair in ("GoodNet", "Flagged", "False alarms", "No repair"):
        assert of_a_repair not in text


def test_what_an_attack_did_not_measure_is_said(examples: ModuleType) -> None:
    text = Page(attack_page(examples.attack_result(twin=False))).text
    assert "Not measured No clean twin was measured" in text
    assert "The prune curve that a defender would see was not measured." in text
    assert "Decoys" not in text
    assert "Accuracy lost" not in text


def test_an_untargeted_attack_costs_right_answers(examples: ModuleType) -> None:
    text = Page(attack_page(examples.attack_result(goal="untargeted"))).text
    assert "sunglasses costs the BadNet 99.0 % of its right answers" in text
    assert "Accuracy lost sunglasses 99.0 % 1.4 %" in text
    assert "the share of triggered inputs that get any wrong label" in text


def test_hostile_names_of_an_attack_are_escaped(examples: ModuleType) -> None:
    hostile = examples.HOSTILE
    result = examples.attack_result((hostile,), goal="untargeted", decoys=True)
    (row,) = result.poisonings
    result = dataclasses.replace(
        result,
        attack=hostile,
        architecture=hostile,
        network=hostile,
        decoys=dataclasses.replace(result.decoys, layer=hostile),
        poisonings=(dataclasses.replace(row, trigger={"name": hostile, hostile: hostile}),),
    )
    html = attack_page(result)
    assert "script" not in {tag for tag, _ in Page(html).elements}
    assert "\x1b" not in html
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html


def test_limits_and_manifest_are_on_the_page(examples: ModuleType, figures: dict[str, str]) -> None:
    text = Page(full_page(examples, figures)).text
    assert "Attack success is known only for the poisoned sets given." in text
    assert "The defender's decisions read clean data only" in text
    assert "No alarm does not mean no backdoor" in text
    assert "models/bd_net.h5 › sha256 " + "9f2c" * 16 in text
    assert "drop 2, 4, 10" in text
    assert "seed 0" in text


def test_page_runs_nothing_and_loads_nothing(examples: ModuleType, figures: dict[str, str]) -> None:
    html = full_page(examples, figures)
    parsed = Page(html)
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    for _, attributes in parsed.elements:
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"href", "xlink:href", "src"}:
                assert (value or "").startswith("#")
    assert not re.search(r"url\((?!#)|@import", html)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in parsed.elements


def test_hostile_names_are_escaped_everywhere(examples: ModuleType) -> None:
    hostile = examples.HOSTILE
    prune = examples.deepid_prune((hostile,), layer=hostile)
    evaluate = examples.evaluate_result((hostile,))
    networks = tuple(dataclasses.replace(row, name=hostile) for row in evaluate.networks)
    html = page(
        title=hostile,
        manifest={hostile: {hostile: [hostile]}, "other": hostile},
        prune=prune,
        repair=dataclasses.replace(
            examples.repair_result(stopped=hostile), method=hostile, layer=hostile
        ),
        evaluate=dataclasses.replace(evaluate, networks=networks),
        figures={"prune_curve": figure_svg(prune_curve(prune)), hostile: SMALL_SVG.format("")},
    )
    assert "script" not in {tag for tag, _ in Page(html).elements}
    assert html.count("&lt;script&gt;") > 10
    assert "\x1b" not in html
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html


@pytest.mark.parametrize(
    ("inside", "problem"),
    [
        ("<script>x</script>", "element <script>"),
        ("<foreignObject/>", "element <foreignObject>"),
        ('<image href="x.png"/>', "element <image>"),
        ('<g onload="x"/>', "attribute onload"),
        ('<use href="http://a/b"/>', "attribute href"),
        ('<g style="fill: url(http://a/b)"/>', "style that could load"),
        ("<style>@import 'a'</style>", "style that could load"),
        ("<![CDATA[<script>]]>", "CDATA"),
        ("<g>", "no SVG"),
        ('<x:g xmlns:x="http://www.w3.org/1999/xhtml"/>', "element <g>"),
    ],
)
def test_figure_that_could_run_or_load_is_refused(inside: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        page(figures={"prune_curve": SMALL_SVG.format(inside)})


def test_figures_take_the_page_s_colours_and_keep_their_ids_apart() -> None:
    svg = SMALL_SVG.format('<g id="a" style="fill: #1d2329"/><use href="#a"/>')
    html = page(figures={"one": svg, "two": svg})
    assert html.count("fill: var(--ink)") == 2
    ids = [attributes["id"] for _, attributes in Page(html).elements if "id" in attributes]
    assert ids == ["figure-one-a", "figure-two-a"]
    assert 'href="#figure-two-a"' in html


def test_page_is_the_same_twice(examples: ModuleType, figures: dict[str, str]) -> None:
    assert full_page(examples, figures) == full_page(examples, figures)


def test_write_page_leaves_only_the_page(examples: ModuleType, tmp_path: Path) -> None:
    path = write_page(
        tmp_path / "run" / "report.html",
        title="B′ of bd_net",
        manifest={},
        prune=None,
        repair=examples.repair_result(),
        evaluate=None,
        figures={},
    )
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
    assert "B′ of bd_net" in path.read_text("utf-8")
