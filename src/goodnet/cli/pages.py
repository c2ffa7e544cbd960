"""The pictures and the page of a run folder, made from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from goodnet.report.page import write_page
from goodnet.report.plots import (
    channel_activations,
    clean_and_triggered,
    figure_svg,
    goodnet_curve,
    prune_curve,
    save_figure,
)
from goodnet.results import (
    AttackResult,
    EvaluateResult,
    PruneResult,
    RepairResult,
    ScanResult,
)
from goodnet.runs import Result


def write_pages(folder: Path, manifest: dict[str, Any], result: Result) -> Path:
    """Write plots and report.html of a run into `folder`; gives the page's path."""
    prune = result if isinstance(result, PruneResult) else None
    repair = result if isinstance(result, RepairResult) else None
    evaluate = result if isinstance(result, EvaluateResult) else None
    attack = result if isinstance(result, AttackResult) else None
    scan = result if isinstance(result, ScanResult) else None
    if isinstance(result, RepairResult | AttackResult):
        prune, evaluate = result.prune, result.evaluate
    drawn = _drawn(prune, attack)
    if repair is not None and repair.goodnet_curve is not None:
        drawn["goodnet_curve"] = goodnet_curve(repair.goodnet_curve)
    figures = {}
    for name, figure in drawn.items():
        save_figure(figure, folder, name)
        figures[name] = figure_svg(figure)
    return write_page(
        folder / "report.html",
        title=str(manifest.get("title") or manifest["command"]),
        manifest=manifest,
        prune=prune,
        repair=repair,
        evaluate=evaluate,
        figures=figures,
        attack=attack,
        scan=scan,
        pictures=_pictures(folder, scan),
    )


def _drawn(prune: PruneResult | None, attack: AttackResult | None) -> dict[str, Figure]:
    if prune is None:
        return {}
    drawn = {"prune_curve": prune_curve(prune)}
    if attack is None:
        return drawn | {"channel_activations": channel_activations(prune)}
    decoys = () if attack.decoys is None else attack.decoys.channels
    return drawn | {"clean_and_triggered": clean_and_triggered(prune, decoys)}


def _pictures(folder: Path, scan: ScanResult | None) -> dict[str, bytes]:
    """The reconstructed triggers' pictures that lie in the run, by file name."""
    named = [Path(target.trigger).name for target in scan.targets if target.trigger] if scan else []
    return {name: path.read_bytes() for name in named if (path := folder / name).is_file()}
