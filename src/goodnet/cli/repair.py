"""`goodnet repair MODEL --valid V`: a repaired network, a GoodNet, and the evidence."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console
from torch import nn

from goodnet.activations import PruneOrder
from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    Bench,
    add_common,
    add_input,
    add_numbers,
    add_sets,
    check_repairable,
    console_of,
    inputs_of,
    open_bench,
    out_of,
    print_result,
    progress_bars,
    settings_of,
)
from goodnet.cli.pages import write_pages
from goodnet.cli.prune import write_thresholds
from goodnet.curve import PruneSettings, prune_curve
from goodnet.defenses import DEFENSES, DefenseSettings, own_settings
from goodnet.errors import SettingsError
from goodnet.evaluate import evaluate_network, measured_curve
from goodnet.formats import read_model, write_goodnet, write_model
from goodnet.repair import FALSE_ALARMS, repair
from goodnet.report.tables import evaluate_table, repair_table
from goodnet.report.verdict import verdict
from goodnet.results import EvaluateResult, NetworkRow, PruneResult, RepairResult
from goodnet.runs import RunFolder, make_manifest, run_folder, write_result
from goodnet.training import Augmentation, Precision

HELP = "repair a network with clean data alone, and make its GoodNet"
OWN_SETTINGS = {
    "fst_shift": ("A", "fst: weight of the last layer's likeness to the old one"),
    "sau_perturbation": ("E", "sau: largest change of a pixel, in [0, 1]"),
    "anp_perturbation": ("E", "anp: largest change of a channel's scale and shift"),
    "anp_trade_off": ("A", "anp: weight of the loss without that change"),
    "clp_deviations": ("U", "clp: deviations above the layer's mean that are let pass"),
    "inversion_deviations": ("U", "inversion: deviations below the median that stand out"),
    "i_bau_perturbation": ("E", "i-bau: largest root mean square of the shared change, in [0, 1]"),
    "d3_weight": ("L", "d3: weight of the clean loss above its bound"),
    "d3_bound": ("E", "d3: clean loss of an image that is let pass"),
}
"""Settings of one method each, by their name in `DefenseSettings`."""

SAME_IMAGES = (
    "The test images are the clean images that the defense read: clean accuracy on them is "
    "too good. Go by the held-out figures."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--valid", type=Path, required=True, metavar="V", help="clean images")
    parser.add_argument("--method", choices=DEFENSES, default="auto")
    add_sets(parser)
    add_settings(parser)
    add_input(parser)
    add_common(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The settings of the defenses; each reads those it has a use for."""
    defense = DefenseSettings()
    group = parser.add_argument_group("method settings")
    group.add_argument("--layer", metavar="L", help="layer to prune; default: found")
    group.add_argument("--order", choices=get_args(PruneOrder), default=defense.order)
    group.add_argument(
        "--drop",
        type=float,
        default=defense.drop,
        metavar="X",
        help="points of held-out accuracy that pruning may cost; default: %(default)g",
    )
    group.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the clean images that decide and are not tuned on; default: the method's",
    )
    group.add_argument("--epochs", type=int, metavar="N", help="default: the method's")
    group.add_argument("--batch-size", type=int, metavar="N", help="default: the method's")
    group.add_argument("--learning-rate", type=float, metavar="R", help="default: the method's")
    group.add_argument(
        "--precision",
        choices=get_args(Precision),
        default=defense.training.precision,
        help="of tuning; bfloat16 halves the time on processors that have it",
    )
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        help="shift, turn, scale and light the images while tuning; default: the method's",
    )
    add_numbers(group, defense, OWN_SETTINGS)
    group.add_argument(
        "--false-alarms",
        type=budget,
        default=FALSE_ALARMS,
        metavar="SHARE",
        help="calibrate the GoodNet to at most this share of false alarms on held-out clean "
        "images, and half of it on all by disagreement and by distance of features each; plain "
        "flags every input on which B and B' disagree; default: %(default)g",
    )
    group.add_argument(
        "--no-risk",
        dest="risk",
        action="store_false",
        help="leave out the estimate of the remaining risk",
    )


def budget(text: str) -> float | None:
    """A share of false alarms, or None for `plain`."""
    try:
        return None if text == "plain" else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is neither a share nor plain") from error


def defense_settings(options: argparse.Namespace) -> DefenseSettings:
    """The options as the settings of a defense."""
    given: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("epochs", "batch_size", "learning_rate")
        if getattr(options, name) is not None
    }
    if options.augment is not None:
        given["augmentation"] = Augmentation() if options.augment else None
    given["precision"] = options.precision
    if options.epochs is not None:
        given["least_steps"] = 0
    own = own_settings(options.method)
    return replace(
        own,
        layer=options.layer,
        drop=options.drop,
        order=options.order,
        held_out=own.held_out if options.held_out is None else options.held_out,
        training=replace(own.training, **given),
        **{name: getattr(options, name) for name in OWN_SETTINGS},
    )


def run(options: argparse.Namespace) -> int:
    """Repair one network."""
    if options.poisoned and options.test is None:
        raise SettingsError("--poisoned", options.poisoned, "give clean --test images beside it")
    if options.false_alarms is not None and not 0 <= options.false_alarms <= 1:
        raise SettingsError(
            "--false-alarms", options.false_alarms, "give a share from 0 to 1, or plain"
        )
    settings = defense_settings(options)
    console = console_of(options)
    bench = open_bench(options, console)
    check_repairable(bench.model, options.layer)
    manifest = make_manifest(
        "repair",
        title=f"Repair of {options.model.name}",
        seed=options.seed,
        settings={
            **settings_of(options, ("method", "false_alarms", "risk"), bench),
            **asdict(settings),
        },
        inputs=inputs_of(options),
    )
    with run_folder(out_of(options, f"repair-{options.method}"), manifest) as run_:
        result = repair_into(
            run_,
            bench,
            method=options.method,
            settings=settings,
            false_alarms=options.false_alarms,
            with_risk=options.risk,
            seed=options.seed,
            console=console,
        )
        write_result(run_, result)
        write_pages(run_.folder, run_.manifest, result)
    told = verdict(prune=result.prune, repair=result, evaluate=result.evaluate)
    for line in (*result.warnings, told.headline):
        console.print(line)
    console.print(f"report: {run_.final_path('report.html')}")
    shown = () if result.evaluate is None else (evaluate_table(result.evaluate),)
    print_result(options, result, repair_table(result), *shown)
    return DONE


def repair_into(
    run_: RunFolder,
    bench: Bench,
    *,
    method: str,
    settings: DefenseSettings,
    false_alarms: float | None,
    with_risk: bool,
    seed: int,
    console: Console,
    show_thresholds: bool = False,
) -> RepairResult:
    """Repair the bench's network, write B′ and G into the run, then measure.

    Test and poisoned sets are read only after everything is decided.

    With `show_thresholds` the networks pruned at each drop are written and measured too.
    """
    assert bench.valid is not None
    model = bench.model
    with progress_bars(console) as progress:
        repaired, goodnet, result = repair(
            model.network,
            bench.valid,
            classes=model.classes,
            method=method,
            settings=settings,
            generator=torch.Generator().manual_seed(seed),
            false_alarms=false_alarms,
            with_risk=with_risk,
            progress=progress,
        )
    network_path = write_model(model, repaired.network, run_.folder / "repaired")
    goodnet_path = write_goodnet(model, goodnet, run_.folder / "goodnet")
    result = replace(
        result,
        network=run_.final_path(network_path.name),
        goodnet=run_.final_path(goodnet_path.name),
    )
    run_.manifest["split"] = {
        "held_out": result.held_out,
        "tuned_on": len(bench.valid) - result.held_out,
        "by": "image" if bench.valid.images.groups is None else "group",
    }
    thresholds: dict[str, tuple[nn.Module, str]] = {}
    if result.layer is not None:
        curve = prune_curve(
            model.network,
            bench.valid,
            PruneSettings(result.layer, settings.order),
            test=bench.test,
            poisoned=bench.poisoned,
        )
        if show_thresholds:
            curve = write_thresholds(run_, bench, curve)
            thresholds = pruned_networks(run_, curve)
        result = replace(result, prune=curve)
    if bench.test is None:
        return result
    inputs = run_.manifest["inputs"]
    if inputs and inputs["test"]["sha256"] == inputs["valid"]["sha256"]:
        result = replace(result, warnings=(*result.warnings, SAME_IMAGES))
    evaluated = {
        "B": (model.network, str(model.path)),
        **thresholds,
        f"B′ {method}": (repaired.network, result.network),
        "G": (goodnet, result.goodnet),
    }
    if result.goodnet_curve is not None:
        measured = measured_curve(result.goodnet_curve, goodnet, bench.test, bench.poisoned)
        result = replace(result, goodnet_curve=measured)
    rows = tuple(
        evaluate_row(name, network, path, bench) for name, (network, path) in evaluated.items()
    )
    return replace(result, evaluate=EvaluateResult(rows))


def pruned_networks(run_: RunFolder, curve: PruneResult) -> dict[str, tuple[nn.Module, str]]:
    """The networks at each drop, read back from the files just written."""
    return {
        f"B′ drop {row.drop:g}": (
            read_model(run_.folder / Path(row.network).name).network,
            row.network,
        )
        for row in curve.thresholds
        if row.rule == "at-least" and row.network is not None
    }


def evaluate_row(name: str, network: nn.Module, path: str, bench: Bench) -> NetworkRow:
    """What one network answers to the bench's sets."""
    assert bench.test is not None
    return evaluate_network(
        network,
        bench.test,
        bench.poisoned,
        classes=bench.model.classes,
        name=name,
        path=path,
    )
