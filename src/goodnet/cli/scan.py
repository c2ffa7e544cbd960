"""`goodnet scan MODEL --valid V`: suspected target labels, with reconstructed triggers."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from goodnet.cli.exit_codes import DONE, FINDING
from goodnet.cli.options import (
    add_common,
    add_input,
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
from goodnet.report.scanned import scan_headline
from goodnet.report.tables import scan_table
from goodnet.results import ScanTarget
from goodnet.runs import RunFolder, make_manifest, run_folder, write_result
from goodnet.scan import Reconstructed, ScanSettings, scan
from goodnet.training import Precision

HELP = "find the labels that a backdoor leads to, by clean images alone"
_ENLARGED = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    defaults = ScanSettings()
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--valid", type=Path, required=True, metavar="V", help="clean images")
    parser.add_argument(
        "--steps",
        type=int,
        default=defaults.steps,
        metavar="N",
        help="of the search for each label's smallest change; default: %(default)s",
    )
    parser.add_argument(
        "--most-labels",
        type=int,
        default=defaults.most_labels,
        metavar="N",
        help="of more classes only the most suspicious and a sample are searched for, and small "
        "changes do not flag; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default=defaults.precision,
        help="default: %(default)s",
    )
    parser.add_argument(
        "--no-student",
        dest="student",
        action="store_false",
        help="where nothing else shows, do not compare errors with those of a network taught by "
        "this one, which takes longest",
    )
    add_input(parser)
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Scan one network."""
    settings = ScanSettings(options.steps, options.most_labels, options.precision, options.student)
    console = console_of(options)
    bench = open_bench(options, console)
    check_repairable(bench.model, None)
    assert bench.valid is not None
    manifest = make_manifest(
        "scan",
        title=f"Scan of {options.model.name}",
        seed=options.seed,
        settings={**settings_of(options, (), bench), **asdict(settings)},
        inputs=inputs_of(options),
    )
    with run_folder(out_of(options, "scan"), manifest) as run_:
        with progress_bars(console) as progress:
            scanned = scan(
                bench.model.network,
                bench.valid,
                classes=bench.model.classes,
                settings=settings,
                generator=torch.Generator().manual_seed(options.seed),
                progress=progress,
            )
        result = scanned.result
        pairs = zip(result.targets, scanned.triggers, strict=True)
        targets = tuple(_with_picture(run_, target, trigger) for target, trigger in pairs)
        result = replace(result, targets=targets)
        write_result(run_, result)
        write_pages(run_.folder, run_.manifest, result)
    console.print(f"report: {run_.final_path('report.html')}")
    print_result(options, result, scan_headline(result), scan_table(result))
    return FINDING if result.backdoored else DONE


def _with_picture(run_: RunFolder, target: ScanTarget, trigger: Reconstructed) -> ScanTarget:
    """The target, with its trigger's picture written into the run."""
    name = f"trigger-{target.label}.png"
    _write_png(trigger.picture(), run_.folder / name)
    return replace(target, trigger=run_.final_path(name))


def _write_png(picture: Tensor, path: Path) -> None:
    """Write a picture, uint8 (channel, height, width), enlarged so that pixels are seen.

    Images of one channel are grey; of others than one and three, the first is shown.
    """
    shown = picture if picture.shape[0] == 3 else picture[:1].expand(3, -1, -1)
    image = Image.fromarray(shown.permute(1, 2, 0).contiguous().numpy())
    image = image.resize((image.width * _ENLARGED, image.height * _ENLARGED), Image.Resampling.BOX)
    image.save(path)
