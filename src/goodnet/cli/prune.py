"""`goodnet prune MODEL --valid V`: the prune curve, and the networks at each drop."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

from goodnet.activations import PruneOrder
from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    Bench,
    add_common,
    add_input,
    add_sets,
    check_repairable,
    console_of,
    inputs_of,
    open_bench,
    out_of,
    print_result,
    settings_of,
)
from goodnet.cli.pages import write_pages
from goodnet.curve import PruneSettings, prune_curve
from goodnet.formats import write_model
from goodnet.report.tables import thresholds_table
from goodnet.results import PruneResult, ThresholdRow
from goodnet.runs import RunFolder, make_manifest, run_folder, write_result
from goodnet.surgery import prune_channels, remove_channels

HELP = "prune dormant channels: the whole curve in one pass, and a network for each drop"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    defaults = PruneSettings()
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--valid", type=Path, required=True, metavar="V", help="clean images")
    add_sets(parser)
    parser.add_argument("--layer", metavar="L", help="layer to prune; default: found")
    parser.add_argument("--order", choices=get_args(PruneOrder), default=defaults.order)
    parser.add_argument(
        "--drop",
        type=float,
        nargs="+",
        default=list(defaults.drops),
        metavar="X",
        help="points of clean accuracy to give up; default: 2 4 10",
    )
    parser.add_argument(
        "--remove", action="store_true", help="take the channels out, for a smaller network"
    )
    add_input(parser)
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Prune one network."""
    settings = PruneSettings(options.layer, options.order, tuple(options.drop))
    console = console_of(options)
    bench = open_bench(options, console)
    check_repairable(bench.model, options.layer)
    assert bench.valid is not None
    manifest = make_manifest(
        "prune",
        title=f"Pruning of {options.model.name}",
        seed=options.seed,
        settings=settings_of(options, ("layer", "order", "drop", "remove"), bench),
        inputs=inputs_of(options),
    )
    with run_folder(out_of(options, "prune"), manifest) as run_:
        with console.status("sweeping the prune curve"):
            result = prune_curve(
                bench.model.network,
                bench.valid,
                settings,
                test=bench.test,
                poisoned=bench.poisoned,
            )
        result = write_thresholds(run_, bench, result, remove=options.remove)
        write_result(run_, result)
        write_pages(run_.folder, run_.manifest, result)
    console.print(f"report: {run_.final_path('report.html')}")
    print_result(options, result, thresholds_table(result))
    return DONE


def write_thresholds(
    run_: RunFolder, bench: Bench, result: PruneResult, *, remove: bool = False
) -> PruneResult:
    """Write the network of each threshold, and give the result with their paths.

    Both rules often choose the same network; it is written once.
    """
    written: dict[int, str] = {}
    rows: list[ThresholdRow] = []
    for row in result.thresholds:
        count = row.channels_pruned
        if count not in written:
            channels = torch.tensor(result.order[:count], dtype=torch.int64)
            network = (
                remove_channels(
                    bench.model.network, result.layer, channels, bench.specification.size
                )
                if remove and 0 < count < result.channels
                else prune_channels(bench.model.network, result.layer, channels)
            )
            name = f"pruned_{count}"
            path = write_model(bench.model, network, run_.folder / name)
            written[count] = run_.final_path(path.name)
        rows.append(replace(row, network=written[count]))
    return replace(result, thresholds=tuple(rows))
