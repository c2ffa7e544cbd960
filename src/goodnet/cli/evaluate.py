"""`goodnet evaluate MODEL... --test T`: clean accuracy, attack success, flags."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    Bench,
    add_common,
    add_input,
    add_sets,
    console_of,
    inputs_of,
    open_bench,
    print_result,
    settings_of,
)
from goodnet.cli.pages import write_pages
from goodnet.errors import SettingsError
from goodnet.evaluate import evaluate_network
from goodnet.report.tables import evaluate_table
from goodnet.results import EvaluateResult, NetworkRow
from goodnet.runs import make_manifest, run_folder, write_result

HELP = "measure networks and GoodNets on clean and triggered images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    add_sets(parser, test_required=True)
    add_input(parser)
    add_common(parser)


def run(options: argparse.Namespace) -> int:
    """Evaluate each network on the same sets, each with its own reading."""
    console = console_of(options)
    rows = []
    readings = {}
    for path in options.models:
        options.model = path
        bench = open_bench(options, console)
        rows.append(evaluated(bench))
        readings[str(path)] = bench.specification.describe()
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        rows = [replace(row, name=row.path) for row in rows]
    result = EvaluateResult(tuple(rows))
    if options.out is not None:
        inputs = inputs_of(options) | {f"model {row.path}": Path(row.path) for row in rows}
        inputs.pop("model", None)
        manifest = make_manifest(
            "evaluate",
            title="Evaluation of " + ", ".join(path.name for path in options.models),
            seed=options.seed,
            settings=settings_of(options, (), bench) | {"input_description": readings},
            inputs=inputs,
        )
        with run_folder(options.out, manifest) as run_:
            write_result(run_, result)
            write_pages(run_.folder, run_.manifest, result)
        console.print(f"report: {run_.final_path('report.html')}")
    print_result(options, result, evaluate_table(result))
    return DONE


def evaluated(bench: Bench) -> NetworkRow:
    """What one model answers to the sets."""
    if bench.test is None:
        raise SettingsError("--test", None, "give clean test images")
    model = bench.model
    return evaluate_network(
        model.network,
        bench.test,
        bench.poisoned,
        classes=model.classes,
        is_goodnet=model.kind == "goodnet",
        name=model.path.stem,
        path=str(model.path),
    )
