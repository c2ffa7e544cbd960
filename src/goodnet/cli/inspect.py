"""`goodnet inspect MODEL`: layers, channels, input specification, what was refused."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    add_common,
    add_input,
    console_of,
    load,
    print_result,
    read_set,
    specified,
)
from goodnet.errors import NotTraceableError, SettingsError
from goodnet.files import write_text
from goodnet.formats import Model
from goodnet.graph import find_prune_layer, layer_rows
from goodnet.readings import likely_readings
from goodnet.report.diagram import network_diagram
from goodnet.report.tables import inspect_table, readings_table
from goodnet.results import InspectResult, Rate

HELP = "show what is in a model file, without running anything in it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--valid", type=Path, metavar="V", help="clean images, to try readings on")
    parser.add_argument("--diagram", type=Path, metavar="FILE.svg", help="draw the network")
    add_input(parser)
    add_common(parser, out=False)


def run(options: argparse.Namespace) -> int:
    """Inspect one file."""
    console = console_of(options)
    if options.diagram is not None and options.diagram.suffix.lower() != ".svg":
        raise SettingsError("--diagram", str(options.diagram), "give a file that ends in .svg")
    model = specified(load(options.model, options), options)
    accuracy = None
    if options.valid is not None and model.kind == "network":
        images = read_set(options.valid, model.specification.size, options)
        readings = likely_readings(
            model.network, model.specification, images, classes=model.classes
        )
        accuracy = {reading.name: reading.accuracy for reading in readings}
    result = inspected(model, accuracy)
    if options.diagram is not None:
        write_text(options.diagram, network_diagram(result))
        console.print(f"diagram: {options.diagram}")
    tables = [inspect_table(result)]
    if result.accuracy_by_reading:
        tables.append(readings_table(result.accuracy_by_reading))
    print_result(options, result, *tables)
    return DONE


def inspected(model: Model, accuracy: dict[str, Rate] | None = None) -> InspectResult:
    """What is in a model file."""
    size = model.specification.size
    try:
        prune_layer = find_prune_layer(model.network, size) if model.kind == "network" else None
    except NotTraceableError:
        prune_layer = None
    return InspectResult(
        path=str(model.path),
        format=model.format,
        input=asdict(model.specification),
        input_stated=model.specified,
        classes=model.classes,
        layers=layer_rows(model.network, size),
        prune_layer=prune_layer,
        refused=model.refused,
        accuracy_by_reading=accuracy,
    )
