"""Repairs of a zoo: legible at 80 columns, and every figure in the documents' table."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from goodnet.report.repairs import cell_table, repairs_markdown, repairs_table
from goodnet.results import (
    BenchPart,
    Cell,
    CellResult,
    CellTrigger,
    MemberSummary,
    MethodSummary,
    Rate,
    RepairBenchResult,
    RiskCorrelation,
    from_json,
    to_json,
)


def cell(member: str, seed: int) -> CellResult:
    return CellResult(
        member=member,
        network="small_cnn",
        seed=seed,
        method="fine-prune",
        repair_seed=0,
        precision="float32",
        accuracy_before=Rate.of(6080, 6315),
        accuracy_after=Rate.of(6040, 6315),
        false_alarm_rate=Rate.of(100, 6315),
        triggers=(
            CellTrigger(
                "pixel-pattern",
                "targeted",
                before=Rate.of(5946, 5946),
                after=Rate.of(60, 5946),
                floor=Rate.of(30, 5946),
                goodnet=Rate.of(60, 5946),
                flagged=Rate.of(5800, 5946),
                recovered_accuracy=Rate.of(5500, 5946),
            ),
        ),
        stopped="all 20 epochs were done",
        seconds=70.0,
    )


def member(name: str, method: str, cured: int, near: int, *seeds: int) -> MemberSummary:
    count = len(seeds)
    return MemberSummary(
        method, name, seeds, Rate.of(cured, count), Rate.of(near, count), 0.004, 0.021, -0.0004, 0.1
    )


def summary(method: str) -> MethodSummary:
    return MethodSummary(
        method, 4, Rate.of(1, 3), Rate.of(2, 3), Rate.of(1, 1), 0.994, 0.108, seconds=71.6
    )


DEVELOPMENT = BenchPart(
    "development",
    methods=(replace(summary("clp"), clean_kept=Rate.of(0, 0)),),
    members=(member("warp", "clp", 1, 1, 0),),
    risk=RiskCorrelation(0, None),
    cells=(cell("warp", 0),),
)
HELD_OUT = BenchPart(
    "held out",
    methods=(summary("fine-prune"), summary("magnitude")),
    members=(
        member("blend", "fine-prune", 2, 2, 1, 2),
        member("blend", "magnitude", 1, 2, 1, 2),
        member("activation-matching", "fine-prune", 1, 1, 1),
        member("low-rate", "magnitude", 0, 1, 1, 2),
    ),
    risk=RiskCorrelation(4, -0.25),
    cells=(cell("blend", 1), cell("blend", 2), cell("low-rate", 1)),
)
RESULT = RepairBenchResult("signs", "small_cnn", (DEVELOPMENT, HELD_OUT), RiskCorrelation(2, None))


def printed(table: object) -> str:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_it_is_legible_at_80_columns() -> None:
    text = printed(repairs_table(RESULT, part=HELD_OUT))
    assert "…" not in text
    for part in ("fine-prune", "1/3", "2/3", "1/1", "99.4", "10.8", "72", "held out", "−0.25"):
        assert part in text, part
    assert "No repair said a remaining risk." in " ".join(
        printed(repairs_table(RESULT, part=DEVELOPMENT)).split()
    )


def test_a_cell_shows_its_triggers() -> None:
    text = printed(cell_table(Cell({}, cell("warp", 0))))
    for part in ("pixel-pattern", "100.0", "1.0", "0.5", "92.5", "97.5", "96.3 to 95.6", "6,315"):
        assert part in text, part


def test_markdown_has_both_parts_with_methods_and_attacks() -> None:
    text = repairs_markdown(RESULT)
    blocks = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in text.split("\n\n")
        if block.startswith("|")
    ]
    assert "### Development: 1 networks" not in text
    assert text.index("### Development: 1 network\n") < text.index("### Held out: 3 networks\n")
    one, _, methods, attacks = blocks
    assert one[2] == ["clp", "4", "1/3", "2/3", "–", "99.4", "10.8", "72"]
    assert [row[0] for row in methods[2:]] == ["fine-prune", "magnitude"]
    assert attacks == [
        ["attack", "seeds", "fine-prune", "magnitude"],
        ["---"] * 4,
        ["blend", "1, 2", "**0.4 (2.1) / 0.0 (10.0)**", "*0.4 (2.1) / 0.0 (10.0)*"],
        ["activation-matching", "1", "**0.4 / 0.0**", "–"],
        ["low-rate", "1, 2", "–", "0.4 (2.1) / 0.0 (10.0)"],
    ]
    assert "attack success over 4 cells: −0.25." in text
    assert text.endswith(
        "Over all parts: rank correlation of remaining risk and attack success "
        "over 2 cells: unknown.\n"
    )


def test_a_seed_that_is_missing_is_said() -> None:
    members = (*HELD_OUT.members[:1], member("blend", "magnitude", 1, 1, 1))
    result = replace(RESULT, parts=(replace(HELD_OUT, members=members),))
    assert "| **0.4 / 0.0**, 1 of 2 seeds |" in repairs_markdown(result)


def test_it_goes_to_json_and_back() -> None:
    assert from_json(RepairBenchResult, to_json(RESULT), "here") == RESULT
