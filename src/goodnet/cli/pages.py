"""The pictures and the page of a run folder, made from its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from goodnet.report.page import write_page
from goodnet.report.plots import channel_activations, figure_svg, prune_curve, save_figure
from goodnet.results import EvaluateResult, PruneResult, RepairResult
from goodnet.runs import Result


def write_pages(folder: Path, manifest: dict[str, Any], result: Result) -> Path:
    """Write plots and report.html of a run into `folder`; gives the page's path."""
    prune = result if isinstance(result, PruneResult) else None
    repair = result if isinstance(result, RepairResult) else None
    evaluate = result if isinstance(result, EvaluateResult) else None
    if repair is not None:
        prune, evaluate = repair.prune, repair.evaluate
    figures = {}
    if prune is not None:
        for name, draw in (
            ("prune_curve", prune_curve),
            ("channel_activations", channel_activations),
        ):
            figure = draw(prune)
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
    )
