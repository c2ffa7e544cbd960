"""`goodnet demo`: make a BadNet, repair it, show the proof."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from goodnet.attacks import ATTACKS, AttackSettings
from goodnet.cases import Case, rendered_faces_case
from goodnet.cases.faces import POISONING
from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    Bench,
    add_common,
    console_of,
    device_named,
    print_result,
    progress_bars,
)
from goodnet.cli.pages import write_pages
from goodnet.cli.repair import repair_into
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.data.writers import write_images
from goodnet.defenses import DefenseSettings
from goodnet.formats import Model, read_model
from goodnet.formats.model import write_architecture
from goodnet.poison import triggered_set
from goodnet.repair import FALSE_ALARMS
from goodnet.report.tables import evaluate_table
from goodnet.runs import RunFolder, make_manifest, run_folder, write_result

HELP = "make a BadNet, repair it, show the proof; needs nothing and asks nothing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    start = time.perf_counter()
    console = console_of(options)
    device_named(options.device)
    out = options.out or Path("goodnet-demo")
    manifest = make_manifest(
        "demo", title="goodnet demo", seed=options.seed, settings={}, inputs={}
    )
    with run_folder(out, manifest) as run_:
        with console.status("rendering faces"):
            case = rendered_faces_case(seed=options.seed)
        model = make_badnet(run_, case, options.seed, console)
        model.network.to(options.device)
        bench = write_sets(run_, case, model)
        result = repair_into(
            run_,
            bench,
            method="fine-prune",
            settings=DefenseSettings(),
            false_alarms=FALSE_ALARMS,
            with_risk=False,
            seed=options.seed,
            console=console,
            show_thresholds=True,
        )
        write_result(run_, result)
        write_pages(run_.folder, run_.manifest, result)
    assert result.evaluate is not None
    print_result(options, result, evaluate_table(result.evaluate))
    console.print(
        f"done in {time.perf_counter() - start:.0f} s; networks, images and results are in "
        f"{run_.final}\nreport: {run_.final_path('report.html')}"
    )
    return DONE


def make_badnet(run_: RunFolder, case: Case, seed: int, console: Console) -> Model:
    """Train the demo's BadNet and write it as the Keras file a user would be handed."""
    with progress_bars(console) as progress:
        badnet = ATTACKS["baseline"](
            case.material.train,
            [POISONING],
            case.recipe,
            AttackSettings(),
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
    path = run_.folder / "badnet.h5"
    write_architecture(badnet.network, case.recipe.architecture, case.recipe.specification, path)
    # The run folder has not its final place yet; what is told of the file has.
    return replace(read_model(path), path=Path(run_.final_path(path.name)))


def write_sets(run_: RunFolder, case: Case, model: Model) -> Bench:
    """Write the demo's images as the course's files, and lay out the bench."""
    valid, test = case.material.valid, case.material.test
    assert valid is not None
    triggered = triggered_set(test, POISONING, classes=case.recipe.classes)
    for stem, images in (("valid", valid), ("test", test), (POISONING.name, triggered)):
        write_images(images, run_.folder / f"{stem}.h5")
    return Bench(
        model=model,
        valid=CleanData(valid, model.specification),
        test=TestData(test, model.specification),
        poisoned=(PoisonedData(triggered, model.specification, POISONING.name),),
    )
