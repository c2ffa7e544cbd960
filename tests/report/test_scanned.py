"""A scan's page and table say what was found, and no more."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
from rich.console import Console

from goodnet.errors import DataError
from goodnet.report.page import render_page
from goodnet.report.scanned import scan_examined, scan_headline, scan_verdict
from goodnet.report.tables import scan_table
from goodnet.results import (
    AnyChange,
    LabelScan,
    Rate,
    ScanResult,
    ScanTarget,
    UnsharedErrors,
    UsualChange,
)

PNG = b"\x89PNG\r\n\x1a\n"
TARGET = ScanTarget(2, 2.04, "fields", "fields", 0.0147, Rate.of(760, 980), "runs/a/trigger-2.png")
RESULT = ScanResult(
    backdoored=True,
    targets=(TARGET,),
    labels=(
        LabelScan(2, 2.04, "fields", {"masks": 0.001, "fields": 0.0147}, Rate.of(63, 2500), 2.67),
        LabelScan(25, 0.62, "fields", {"masks": None, "fields": 0.039}, Rate.of(0, 2500), None),
    ),
    usual=(
        UsualChange("masks", 0.017, 0.62, 40, 43, 0.025),
        UsualChange("fields", 0.057, 0.18, 43, 43, 0.03),
    ),
    anyhow=(
        AnyChange("masks", None, 0.0, Rate.of(0, 0), 0),
        AnyChange("fields", 0.013, 1.85, Rate.of(800, 1000), 3),
    ),
    classes=43,
    labels_searched=43,
    images=3260,
    seconds=61.0,
)
UNSHARED = UnsharedErrors(Rate.of(400, 1000), 1.48, Rate.of(3200, 3260))
CLEAN = replace(RESULT, backdoored=False, targets=(), anyhow=RESULT.anyhow[:1])


def page(result: ScanResult, pictures: dict[str, bytes]) -> str:
    nothing = {"prune": None, "repair": None, "evaluate": None}
    return render_page(
        title="Scan", manifest={}, figures={}, scan=result, pictures=pictures, **nothing
    )


def test_the_headline_names_the_targets_or_what_else_was_found() -> None:
    assert scan_headline(RESULT) == "Backdoor suspected: the target label is 2."
    three = replace(RESULT, targets=tuple(replace(TARGET, label=label) for label in (1, 5, 8)))
    assert scan_headline(three) == "Backdoor suspected: the target labels are 1, 5 and 8."
    anyhow = scan_headline(replace(RESULT, targets=()))
    assert "without one target" in anyhow
    assert "a faint pattern added" in anyhow
    own = replace(CLEAN, backdoored=True, unshared=UNSHARED)
    assert "more errors are this network's own" in scan_headline(own)
    assert scan_headline(CLEAN).startswith("No backdoor found")
    assert (scan_verdict(RESULT).tone, scan_verdict(CLEAN).tone) == ("alarm", "plain")


def test_the_page_shows_picture_and_table_with_counts() -> None:
    html = page(RESULT, {"trigger-2.png": PNG + b"pixels"}).replace("\N{NO-BREAK SPACE}", " ")
    assert html.count("<img ") == 1
    assert "img-src data:;" in html or 'img-src data:"' in html
    assert "1.47 %" in html
    assert "760 of 980" in html
    assert "none found" in html
    assert html.index("change that leads to label 2") < html.index('<th scope="row">25</th>')
    assert "nothing found does not mean no backdoor" in html


def test_what_a_student_told_is_shown() -> None:
    own = replace(CLEAN, backdoored=True, unshared=UNSHARED)
    shown = page(own, {})
    assert "a student" in shown
    assert "1.48" in shown
    console = Console(width=100, record=True)
    console.print(scan_table(own))
    assert "a student" in console.export_text()
    assert "400 of 1000" in " ".join(scan_verdict(own).sentences)
    taught = "No network was taught by this one"
    assert taught not in " ".join(scan_examined(own))
    assert taught in " ".join(scan_examined(CLEAN))


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (replace(RESULT.labels[0], shift=6.54), "shift"),
        (replace(RESULT.labels[0], times_smaller=6.54), "robust"),
    ],
)
def test_what_is_not_always_known_is_shown_where_it_is(first: LabelScan, name: str) -> None:
    known = replace(RESULT, labels=(first, *RESULT.labels[1:]))
    tables = []
    for result in (known, RESULT):
        console = Console(width=120, record=True)
        console.print(scan_table(result))
        tables.append(console.export_text())
    assert name in tables[0]
    assert name not in tables[1]
    for shown, plain in ((page(known, {}), page(RESULT, {})), tables):
        assert "6.5" in shown
        assert "6.5" not in plain


def test_a_page_without_pictures_may_load_none() -> None:
    for html in (page(RESULT, {}), page(CLEAN, {"trigger-2.png": PNG})):
        assert "<img" not in html
        assert "img-src" not in html


def test_what_is_no_png_is_refused() -> None:
    with pytest.raises(DataError, match=r"picture trigger-2.png: is no PNG"):
        page(RESULT, {"trigger-2.png": b"<script>"})


def test_hostile_names_are_escaped(examples: ModuleType) -> None:
    hostile = replace(
        RESULT,
        targets=(replace(TARGET, by=examples.HOSTILE, kind=examples.HOSTILE),),
        labels=(
            LabelScan(2, 1.5, examples.HOSTILE, {examples.HOSTILE: 0.1}, Rate.of(9, 2500), 1.0),
        ),
        usual=(replace(RESULT.usual[0], kind=examples.HOSTILE),),
        anyhow=(replace(RESULT.anyhow[1], kind=examples.HOSTILE),),
    )
    html = page(hostile, {"trigger-2.png": PNG})
    assert "<script" not in html
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in html
    assert "\x1b" not in html


def test_the_table_fits_a_terminal_and_says_how_much_was_searched() -> None:
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(scan_table(RESULT))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    row = next(line.split() for line in lines if line.strip().startswith("2 "))
    assert row == ["2", "2.04", "fields", "63", "2.7", "0.10", "%", "1.47", "%"]
    assert any("43 of 43 labels, 3,260 clean images, 61 s" in line for line in lines)


MANY = replace(
    RESULT,
    targets=(replace(TARGET, by="universal", kind="waves", extent=None),),
    labels=(
        LabelScan(2, 2.04, "universal", {"masks": None, "fields": None}, Rate.of(40, 10000), 3.4),
        *RESULT.labels[1:],
    ),
    anyhow=(),
    classes=1283,
    labels_searched=40,
)


def test_what_random_changes_flag_is_told_as_such() -> None:
    sentence = scan_verdict(MANY).sentences[0].replace("\N{NO-BREAK SPACE}", " ")
    assert "Label 2: a random change (a ripple) makes the network say it" in sentence
    assert "Flagged by random changes that lead there and by its largest margin" in sentence
    html = page(MANY, {"trigger-2.png": PNG}).replace("\N{NO-BREAK SPACE}", " ")
    assert "Label 2: a ripple, drawn at random." in html
    assert "40 of 10,000" in html
    assert "3.4" in html
    assert "the last rows make answers wrong" not in html
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(scan_table(MANY))
    row = next(line.split() for line in captured.get().splitlines() if line.split()[:1] == ["2"])
    assert row[:6] == ["2", "2.04", "random", "changes", "40", "3.4"]


def test_what_was_not_looked_at_is_told() -> None:
    few, many = " ".join(scan_examined(RESULT)), " ".join(scan_examined(MANY))
    assert "it may flag" in few
    assert "not searched for" not in few
    assert "10,000 random changes were tried" in many
    assert "it may flag" not in many
    assert "wrong in any way were not searched for" in many
