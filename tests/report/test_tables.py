from __future__ import annotations

import io
from types import ModuleType

import pytest
from rich.console import Console
from rich.table import Table

from goodnet.report.tables import (
    attack_table,
    evaluate_table,
    inspect_table,
    predict_table,
    repair_table,
    thresholds_table,
    triggers_table,
)
from goodnet.results import EvaluateResult, Prediction, PredictResult


def printed(table: Table, *, width: int = 80, colour: bool = False) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=colour, legacy_windows=False).print(table)
    return stream.getvalue()


def test_evaluate_shows_every_rate_count_and_interval(examples: ModuleType) -> None:
    result: EvaluateResult = examples.evaluate_result(("sunglasses", "eyebrows"), n=12830)
    text = printed(evaluate_table(result))
    for header in ("network", "accuracy", "alarms", "success", "flagged", "recovered"):
        assert header in text
    for network in result.networks:
        rates = [network.clean_accuracy]
        for row in network.poisoned:
            rates.append(row.attack_success_rate)
            rates += [row.recovered_accuracy] if row.recovered_accuracy else []
            rates += [row.flagged] if network.kind == "goodnet" else []
        for rate in rates:
            assert f"{100 * rate.value:.1f} %" in text
            assert f"{rate.count}/{rate.n}" in text
    assert "93.6–94.6" in text  # of B′: 12073 of 12830, exactly 93.678 to 94.501


@pytest.mark.parametrize("names", [(), ("sunglasses",), ("sunglasses", "eyebrows", "lipstick")])
def test_nothing_is_cut_at_80_columns(examples: ModuleType, names: tuple[str, ...]) -> None:
    for table in (
        evaluate_table(examples.evaluate_result(names, n=12830)),
        thresholds_table(examples.deepid_prune(names)),
        repair_table(examples.repair_result()),
        inspect_table(examples.inspect_result(examples.deepid_layers(), prune_layer="pool_3")),
        attack_table(examples.attack_result(names, decoys=True)),
        triggers_table(examples.attack_result(names, goal="untargeted")),
    ):
        text = printed(table)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= 80


def test_plain_network_has_no_false_alarms_to_show(examples: ModuleType) -> None:
    text = printed(evaluate_table(examples.evaluate_result()))
    (line,) = (line for line in text.splitlines() if line.startswith("B "))
    assert line.split()[3] == "–"


def test_missing_poisoned_data_is_said(examples: ModuleType) -> None:
    for table in (
        evaluate_table(examples.evaluate_result(())),
        thresholds_table(examples.wide_prune()),
    ):
        said = " ".join(printed(table).split())
        assert "attack success was not measured: no poisoned data was given" in said


def test_thresholds_carry_the_rates_of_their_row(examples: ModuleType) -> None:
    result = examples.deepid_prune()
    text = printed(thresholds_table(result))
    row = result.curve[50]
    assert "at-least" in text
    assert "within" in text
    assert "50/60" in text
    assert f"{row.valid_accuracy.count}/1150" in text
    assert f"{row.attack_success_rate['sunglasses'].count}/990" in text


def test_repair_says_why_it_stopped(examples: ModuleType) -> None:
    text = " ".join(printed(repair_table(examples.repair_result())).split())
    assert "219/230" in text
    assert "217/230" in text
    assert "7/230" in text
    assert "held-out accuracy did not rise for 3 epochs" in printed(
        repair_table(examples.repair_result()), width=120
    )


def test_inspect_marks_the_prune_layer_only(examples: ModuleType) -> None:
    result = examples.inspect_result(examples.deepid_layers(), prune_layer="pool_3")
    rows = printed(inspect_table(result)).splitlines()
    assert [row.split()[0] for row in rows if "← prune" in row] == ["pool_3"]
    for layer in result.layers:
        assert sum(row.startswith(f"{layer.name} ") for row in rows) == 1
    assert any("fc_1, fc_2" in row for row in rows)
    assert any("206,563" in row for row in rows)


def test_predictions_say_label_or_backdoored() -> None:
    result = PredictResult(
        "g.onnx",
        {},
        True,
        (Prediction("a.png", 3, 4, False, 0.98), Prediction("b.png", None, 43, True, 0.7)),
    )
    rows = printed(predict_table(result)).splitlines()
    assert [row.split() for row in rows if ".png" in row] == [
        ["a.png", "label", "3", "4", "0.980"],
        ["b.png", "backdoored", "43", "0.700"],
    ]


def test_an_attack_is_tabled_with_its_floor(examples: ModuleType) -> None:
    result = examples.attack_result(("sunglasses", "lipstick"))
    text = " ".join(printed(attack_table(result)).split())
    assert "BadNet by the baseline attack" in text
    assert "clean accuracy 97.0 % 970/1000" in text
    assert "clean accuracy of the clean twin 97.4 % 974/1000" in text
    assert "decoys" not in text
    rows = printed(triggers_table(result)).splitlines()
    (row,) = (row for row in rows if row.startswith("lipstick"))
    assert row.split() == [
        "lipstick", "any", "→", "1", "2.5", "%", "98.0", "%", "0.2", "%", "1.0", "%",
    ]  # fmt: skip
    assert "211/8422" in rows[rows.index(row) + 1]


def test_a_missing_twin_leaves_the_floor_open(examples: ModuleType) -> None:
    result = examples.attack_result(twin=False)
    assert "twin" not in printed(attack_table(result))
    (row,) = (
        row for row in printed(triggers_table(result)).splitlines() if row.startswith("sunglasses")
    )
    assert row.split()[6:] == ["99.0", "%", "–", "1.0", "%"]


def test_decoys_and_lost_accuracy_are_tabled_where_there_are_any(examples: ModuleType) -> None:
    text = " ".join(printed(attack_table(examples.attack_result(decoys=True))).split())
    assert "decoys in pool_3 3" in text
    assert "clean images on which all decoys are 0 100.0 % 1000/1000" in text
    assert "answers changed by pruning them 0.2 % 4/1975" in text
    text = printed(triggers_table(examples.attack_result(goal="untargeted")))
    assert "any → any wrong" in " ".join(text.split())
    assert "99.0 %" in text
    assert "1 − A_backdoor / A_clean" in text


def test_names_cannot_colour_or_steer_the_terminal(examples: ModuleType) -> None:
    hostile = "[red]x[/red]\x1b[31m\r"
    tables = (
        evaluate_table(examples.evaluate_result((hostile,))),
        thresholds_table(examples.deepid_prune((hostile,))),
        predict_table(PredictResult(hostile, {}, True, (Prediction(hostile, 1, 1, False, 0.5),))),
        repair_table(examples.repair_result(stopped=hostile)),
        triggers_table(examples.attack_result((hostile,))),
    )
    for table in tables:
        text = printed(table, width=160, colour=True)
        assert "[red]x" in text
        assert "\x1b[31m" not in text
        assert "\r" not in text
