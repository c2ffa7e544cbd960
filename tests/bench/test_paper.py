"""The paper's table: its rows, its games, and that a cell can be made."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from goodnet.attack import Material
from goodnet.attacks import Recipe
from goodnet.attacks.scenes import pruning_aware_detector
from goodnet.bench import paper
from goodnet.bench.cache import Made
from goodnet.bench.paper import (
    DEFENDERS,
    PUBLISHED,
    TWIN,
    PaperSettings,
    games_of,
    measure_study,
    paper_cells,
    paper_rows,
)
from goodnet.bench.work import Figures, with_counts
from goodnet.cases import Case, faces, signs
from goodnet.cases.signs import SignsSettings
from goodnet.data.faces import FaceSettings, rendered_faces
from goodnet.data.scenes import SceneSettings
from goodnet.detection import FasterRCNNSettings
from goodnet.formats.specification import InputSpecification
from goodnet.report.paper import game_table, paper_findings, paper_markdown, paper_table
from goodnet.results import Rate
from goodnet.training import TrainingSettings


def made_of(successes: dict[str, int]) -> Made:
    """Clean accuracy 90 of 100 everywhere, and these attack successes of 100."""
    return Made(
        tuple(
            Figures(
                group,
                with_counts(clean_accuracy=Rate.of(90, 100), triggered=Rate.of(count, 100))
                | {"attack_success": count / 100},
            )
            for group, count in successes.items()
        ),
        1.0,
    )


def test_rows_stand_beside_the_papers_and_above_their_floor() -> None:
    cells = paper_cells({"speech": None}, seed=0, quick=False)
    counts = dict(zip(DEFENDERS, (99, 98, 40, 5, 2), strict=True))
    rows = paper_rows([(cell, made_of({TWIN: 1, **counts})) for cell in cells])
    assert [(row.attacker, row.defender) for row in rows] == [
        (attacker, defender) for attacker in ("baseline", "pruning-aware") for defender in DEFENDERS
    ]
    assert {row.floor for row in rows} == {0.01}
    by_defender = {row.defender: row for row in rows if row.attacker == "baseline"}
    assert by_defender["fine-prune"].published == (0.988, 0.020)
    assert by_defender["auto"].published is None
    assert by_defender["fine-tune"].measured.attack_success == 0.4
    assert {row.data for row in rows} == {"rendered"}


def test_the_game_is_that_of_the_rows() -> None:
    first, second = paper_cells({"speech": None}, seed=0, quick=False)
    baseline = dict(zip(DEFENDERS, (99, 80, 10, 20, 30), strict=True))
    aware = dict(zip(DEFENDERS, (99, 80, 50, 20, 30), strict=True))
    rows = paper_rows(
        [(first, made_of({TWIN: 0, **baseline})), (second, made_of({TWIN: 0, **aware}))]
    )
    (solution,) = games_of(rows).values()
    assert solution.best_defenses == {"baseline": ("fine-tune",), "pruning-aware": ("fine-prune",)}
    # The attacker would answer fine-tuning with decoys, so the defender fine-prunes.
    assert solution.mixed.value == pytest.approx(0.7)
    assert games_of([row for row in rows if row.attacker == "baseline"]) == {}
    text = paper_markdown(rows, games_of(rows))
    assert "| baseline | fine-prune | 90.0 (90/100; 82.4–95.1) | 20.0 (20/100) | 0.0 |" in text
    assert paper_table(rows).row_count == len(rows)
    assert game_table("speech", solution).row_count == 2


def test_findings_hold_or_are_told_with_figures() -> None:
    first, second = paper_cells({"speech": None}, seed=0, quick=False)
    baseline = dict(zip(DEFENDERS, (99, 80, 12, 20, 12), strict=True))
    aware = dict(zip(DEFENDERS, (99, 80, 50, 20, 13), strict=True))
    rows = paper_rows(
        [(first, made_of({TWIN: 10, **baseline})), (second, made_of({TWIN: 10, **aware}))]
    )
    harder = (
        " goodnet's fine-tuning shakes harder than the paper's: a high rate and changed images; "
        "with gentle tuning it fails (docs/results.md, measured on speech)."
    )
    assert paper_findings(rows) == [
        # 12 % is within 2 points of the floor, so the attack was stopped.
        "Fine-tuning alone fails against the baseline attack: no "
        f"(12.0 % left of baseline, floor 10.0 %).{harder}",
        "Pruning alone fails against the pruning-aware attack: yes "
        "(80.0 % left of pruning-aware, floor 10.0 %).",
        "Fine-pruning beats fine-tuning: no "
        f"(0.700 against 0.780, baseline; 0.700 against 0.400, pruning-aware).{harder}",
        "Fine-pruning beats pruning: yes "
        "(0.700 against 0.100, baseline; 0.700 against 0.100, pruning-aware).",
        "auto comes within 2 points of the floor: no "
        "(12.0 % left of baseline, floor 10.0 %; 13.0 % left of pruning-aware, floor 10.0 %).",
    ]
    # 14 % is within 2 points of 12 %, though 0.12 + 0.02 < 0.14 as floats.
    near = paper_rows([(first, made_of({TWIN: 12, **baseline, "auto": 14}))])
    assert "auto comes within 2 points of the floor: yes" in paper_findings(near)[-1]
    assert len(paper_findings(rows[:5])) == 4  # nothing of the attacker that is not there
    assert "- Pruning alone fails" in paper_markdown(rows, games_of(rows))


def test_the_papers_numbers_give_its_speech_game() -> None:
    found = {
        key[1:]: round(clean - success, 3)
        for key, (clean, success) in PUBLISHED.items()
        if key[0] == "speech" and key[2] != "none"
    }
    assert found == {
        ("baseline", "fine-tune"): 0.555,
        ("pruning-aware", "fine-tune"): 0.468,
        ("baseline", "fine-prune"): 0.968,
        ("pruning-aware", "fine-prune"): 0.986,
    }


def test_one_person_in_glasses_can_be_poisoned_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    splits = rendered_faces(
        FaceSettings(identities=50, train=4, valid=2, test=2), seed=0, cache=tmp_path
    )
    case = Case(
        "faces",
        Material(splits.train, splits.test, splits.valid),
        Recipe(
            architecture="deepid",
            specification=InputSpecification(splits.train.size, "channels-last"),
            classes=50,
            training=replace(faces.TRAINING, epochs=1),
        ),
    )
    monkeypatch.setattr(paper, "_face_case", lambda _settings: case)
    monkeypatch.setattr(paper, "DEFENDERS", ("none",))
    rows = measure_study(PaperSettings(study="face-one-source", attacker="baseline", seed=0))
    assert [row.group for row in rows] == [TWIN, "none"]
    assert rows[1].values["triggered_n"] == 2  # of person 1 alone


@pytest.mark.parametrize("attacker", ["baseline", "pruning-aware"])
def test_a_cell_of_signs_has_all_rows(attacker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    once = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-3)
    small = SignsSettings(train=12, valid=6, test=4, scenes=SceneSettings())
    monkeypatch.setattr(paper, "_QUICK_SCENES", small)
    monkeypatch.setattr(paper, "_TUNED_SIGNS", once)
    monkeypatch.setattr(signs, "TRAINING", once)
    small_detector = FasterRCNNSettings(classes=3, width=0.05, shorter_side=96)
    monkeypatch.setattr(signs, "DETECTOR", small_detector)
    if attacker == "pruning-aware":
        # So small a network, trained so shortly, spares no channel within the usual budget.
        generous = partial(pruning_aware_detector, budget=100.0)
        monkeypatch.setattr(paper, "pruning_aware_detector", generous)
    settings = PaperSettings.model_validate({"study": "signs", "attacker": attacker, "quick": True})
    figures = measure_study(settings)
    assert [each.group for each in figures] == [TWIN, *DEFENDERS]
    assert all(each.values["clean_accuracy_n"] for each in figures)
