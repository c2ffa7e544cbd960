"""The demo, with few faces and little training; `make demo` runs it whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from goodnet.cli import demo
from goodnet.defenses import FINE_TUNING, DefenseSettings


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, few_faces: None) -> None:
    """Few faces, one epoch of everything."""
    tuning = replace(FINE_TUNING, epochs=1)
    monkeypatch.setattr(demo, "DefenseSettings", partial(DefenseSettings, training=tuning))


def without_times_and_paths(value: Any) -> Any:
    if isinstance(value, dict):
        left_out = ("seconds", "path", "network", "goodnet")
        return {k: without_times_and_paths(v) for k, v in value.items() if k not in left_out}
    if isinstance(value, list):
        return [without_times_and_paths(each) for each in value]
    return value


@pytest.mark.usefixtures("small")
def test_it_leaves_everything_a_user_needs(tmp_path: Path, goodnet: Callable[..., Any]) -> None:
    out = tmp_path / "demo"
    answer = goodnet("demo", "--out", out)
    assert answer.code == 0, answer.err
    for name in ("B", "B′ drop 2", "B′ drop 4", "B′ drop 10", "fine-prune", "G", "sunglasses"):
        assert name in answer.out
    assert f"report: {out / 'report.html'}" in answer.err
    files = {path.name for path in out.iterdir()}
    assert files >= {
        *("manifest.json", "result.json", "curve.csv", "report.html"),
        *("prune_curve.png", "prune_curve.svg", "channel_activations.png"),
        *("badnet.h5", "repaired.h5", "goodnet.pt2", "valid.h5", "test.h5", "sunglasses.h5"),
    }
    # Every file that the result names is where it says.
    for row in json.loads((out / "result.json").read_text())["evaluate"]["networks"]:
        assert Path(row["path"]).is_file()


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_result(tmp_path: Path, goodnet: Callable[..., Any]) -> None:
    results = [
        goodnet("demo", "--json", "-q", "--seed", seed, "--out", tmp_path / name).json()
        for name, seed in (("one", 3), ("two", 3), ("three", 4))
    ]
    one, two, three = map(without_times_and_paths, results)
    assert one == two
    assert one != three
