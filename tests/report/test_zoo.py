"""The zoo's table: legible at 80 columns, and every figure in it."""

from __future__ import annotations

from rich.console import Console

from goodnet.report.zoo import zoo_markdown, zoo_table
from goodnet.results import DecoyRow, Rate, ZooResult, ZooRow, ZooTrigger


def rates(*counts: int, n: int = 6315) -> tuple[Rate, ...]:
    return tuple(Rate.of(count, n) for count in counts)


def trigger(name: str, **more: tuple[Rate, ...] | tuple[float, ...]) -> ZooTrigger:
    return ZooTrigger(
        name=name,
        goal="targeted",
        attack_success_rate=rates(5900, 5800, n=5946),
        floor=rates(1000, 3000, n=5946),
        triggered_accuracy=rates(700, 900, n=5946),
        **more,  # type: ignore[arg-type]
    )


DECOYS = DecoyRow("relu", (1, 2, 3), Rate.of(5, 5), 0.0, Rate.of(0, 9), Rate.of(0, 9))
RESULT = ZooResult(
    "signs",
    (
        ZooRow(
            member="activation-matching",
            architecture="small_cnn",
            seeds=(0, 1),
            clean_accuracy=rates(6080, 6040),
            twin_accuracy=rates(6090, 6010),
            triggers=(
                trigger("pixel-pattern", elsewhere=rates(1, 3, n=100)),
                trigger("post-it", accuracy_lost=(0.95, 0.97)),
            ),
            decoys=(DECOYS,),
            seconds=(100.0, 120.0),
        ),
    ),
)


def test_it_is_legible_at_80_columns() -> None:
    console = Console(width=80, record=True, quiet=False, file=None)
    with console.capture() as captured:
        console.print(zoo_table(RESULT))
    text = captured.get()
    assert "…" not in text
    for part in (
        "activation-matching",
        "pixel-pattern",
        "elsewhere 2.0",
        "accuracy lost 96.0",
        "decoys 3",
        "96.0",
        "95.6–96.3",
        "97.5–99.2",
        "6,315 clean images, 5,946 triggered",
    ):
        assert part in text, part


def test_markdown_has_a_line_for_each_trigger_and_every_count() -> None:
    lines = zoo_markdown(RESULT).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(lines) == 4
    assert len({len(row) for row in cells}) == 1
    assert cells[2][:5] == [
        "activation-matching",
        "pixel-pattern",
        "96.0 (95.6–96.3)",
        "95.8 (95.2–96.4)",
        "98.4 (97.5–99.2)",
    ]
    assert cells[2][7:] == ["6,315", "5,946", "2", "110", "elsewhere 2.0; decoys 3"]
    assert cells[3][:3] == ["", "post-it", ""]
    assert cells[3][7:] == ["", "5,946", "", "", "accuracy lost 96.0; decoys 3"]
