"""A cell that scans: what is flagged is compared with the targets, which the scan is not told."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from goodnet.bench import scan_work
from goodnet.bench.runners import InProcess
from goodnet.bench.scan_work import ScanWorkSettings, measure_scan
from goodnet.cli import bench_run
from goodnet.errors import SettingsError


def cell(desk: Path, *targets: int) -> dict[str, Any]:
    settings = ScanWorkSettings(
        network=desk / "net.h5", valid=desk / "valid.h5", targets=targets, seed=0
    )
    (row,) = measure_scan(settings)
    return dict(row.values)


def flagging(*labels: int) -> Callable[..., Any]:
    targets = tuple(SimpleNamespace(label=label) for label in labels)
    result = SimpleNamespace(targets=targets, backdoored=bool(labels))
    return lambda *_arguments, **_settings: SimpleNamespace(result=result)


def test_counts(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_work, "scan", flagging(2, 0))
    values = cell(desk, 0, 1)
    assert (values["found_count"], values["found_n"]) == (1, 2)
    assert (values["false_alarms_count"], values["false_alarms_n"]) == (1, 1)
    assert (values["flagged"], values["backdoored"]) == ("2 0", True)


def test_a_network_without_targets(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_work, "scan", flagging())
    values = cell(desk)
    assert (values["found_n"], values["false_alarms_count"], values["false_alarms_n"]) == (0, 0, 3)
    assert (values["flagged"], values["backdoored"]) == ("", False)


def test_labels_that_the_network_has_not(desk: Path) -> None:
    with pytest.raises(SettingsError, match=r"targets is 3.*from 0 to 2"):
        cell(desk, 3)


def test_it_flags_what_the_command_does(
    goodnet: Callable[..., Any], desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_run, "LocalProcesses", lambda *_given, **_more: InProcess())
    network, valid = desk / "net.h5", desk / "valid.h5"
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        f"work: scan\nconstants: {{network: {network}, valid: {valid}, targets: [0]}}\n"
    )
    answer = goodnet("bench", "run", grid, "--out", tmp_path / "bench")
    assert answer.code == 0, answer.err
    with (tmp_path / "bench" / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    told = json.loads(
        goodnet("scan", network, "--valid", valid, "--out", tmp_path / "s", "--json").out
    )
    labels = [target["label"] for target in told["targets"]]
    assert row["flagged"] == " ".join(map(str, labels))
    assert row["backdoored"] == str(told["backdoored"])
    assert row["found_count"] == str(labels.count(0))
