"""Options that several commands share, and what they become."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from goodnet.data.images import ImageSet
from goodnet.data.readers import check_labels, read_images
from goodnet.data.roles import CleanData, PoisonedData, TestData
from goodnet.errors import ModelFileError, SettingsError
from goodnet.formats import InputSpecification, Model, read_model
from goodnet.graph import check_has_channels
from goodnet.networks import ARCHITECTURES
from goodnet.readings import Reading, likely_readings, settle_reading
from goodnet.results import to_json
from goodnet.training import Progress

_FEW = 0.5


def add_common(parser: argparse.ArgumentParser, *, out: bool = True) -> None:
    """--out, --seed, --json, --device, -q."""
    group = parser.add_argument_group("common")
    if out:
        group.add_argument("--out", type=Path, metavar="DIR", help="run folder to write")
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="default: %(default)s")
    group.add_argument("--json", action="store_true", help="the result object on stdout")
    add_device(group)
    group.add_argument("-q", "--quiet", action="store_true", help="no progress")


def add_device(parser: argparse._ActionsContainer) -> None:
    """--device."""
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")


def seed(text: str) -> int:
    """A whole number that seeds every generator."""
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to 2**63 - 1")
    return value


def add_input(parser: argparse.ArgumentParser) -> None:
    """How to read the model and its images."""
    group = parser.add_argument_group("input", "how the model and its images are read")
    group.add_argument(
        "--architecture", choices=ARCHITECTURES, help="for files that hold weights only"
    )
    group.add_argument(
        "--input-range",
        metavar="LOW..HIGH",
        help="values of black and white that the network takes, e.g. 0..255; default: found "
        "out with the clean data",
    )
    group.add_argument("--mean", type=float, nargs="+", metavar="M", help="after the range")
    group.add_argument("--std", type=float, nargs="+", metavar="S", help="after the mean")
    group.add_argument("--channel-order", choices=("RGB", "BGR"))
    group.add_argument("--label-offset", type=int, metavar="N", help="label of class 0 in the data")
    group.add_argument(
        "--data-range", metavar="LOW..HIGH", help="values of black and white in float data"
    )


def add_sets(parser: argparse.ArgumentParser, *, test_required: bool = False) -> None:
    """--test and --poisoned."""
    parser.add_argument(
        "--test", type=Path, required=test_required, metavar="T", help="clean test images"
    )
    parser.add_argument(
        "--poisoned",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]P",
        help="triggered images, to measure attack success on (repair: beside --test); no decision "
        "reads them",
    )


def add_numbers(
    group: argparse._ArgumentGroup, settings: object, described: Mapping[str, tuple[str, str]]
) -> None:
    """An option for each named field of `settings`, whose value there is the default.

    Args:
        group: Where they are added.
        settings: A settings dataclass of the library.
        described: By field, the placeholder and what the number is.
    """
    for name, (placeholder, what) in described.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=getattr(settings, name),
            metavar=placeholder,
            help=f"{what}; default: %(default)g",
        )


def range_of(text: str | None, field: str) -> tuple[float, float] | None:
    """(low, high) of `LOW..HIGH`."""
    if text is None:
        return None
    low, dots, high = text.partition("..")
    try:
        if not dots or not -math.inf < float(low) < float(high) < math.inf:
            raise ValueError
        return float(low), float(high)
    except ValueError as error:
        raise SettingsError(field, text, "give LOW..HIGH, the lower first, e.g. 0..255") from error


def named_path(text: str) -> tuple[str, Path]:
    """The name and path of `[NAME=]PATH`; without a name, that of the file."""
    name, equals, path = text.partition("=")
    if equals and not Path(text).exists():
        if not (name and path):
            raise SettingsError("--poisoned", text, "give PATH or NAME=PATH")
        return name, Path(path)
    return Path(text).stem, Path(text)


@dataclass(frozen=True, eq=False)
class Bench:
    """A model on the table with the sets it is to be tried on, all read alike."""

    model: Model
    valid: CleanData | None
    test: TestData | None
    poisoned: tuple[PoisonedData, ...]

    @property
    def specification(self) -> InputSpecification:
        """How the model wants its images."""
        return self.model.specification


def open_bench(options: argparse.Namespace, console: Console) -> Bench:
    """Read the model and every set the options name, and settle how to feed it.

    The reading is settled on the validation set, or on the test set where there is none.
    """
    model = specified(load(options.model, options), options)
    size = model.specification.size
    valid_path = getattr(options, "valid", None)
    test_path = getattr(options, "test", None)
    sets = {
        path: read_set(path, size, options) for path in (valid_path, test_path) if path is not None
    }
    named = [named_path(text) for text in getattr(options, "poisoned", [])]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise SettingsError("--poisoned", names, "give each set its own name: NAME=PATH")
    triggered = [(name, read_set(path, size, options)) for name, path in named]
    if sets and model.kind == "network":
        model = settle(model, next(iter(sets.values())), options, console)
    specification = model.specification
    for images in (*sets.values(), *(images for _, images in triggered)):
        check_labels(images, model.classes, specification.label_offset)
    return Bench(
        model=model,
        valid=None if valid_path is None else CleanData(sets[valid_path], specification),
        test=None if test_path is None else TestData(sets[test_path], specification),
        poisoned=tuple(PoisonedData(images, specification, name) for name, images in triggered),
    )


def check_repairable(model: Model, layer: str | None) -> None:
    """Nothing, where the model is a plain network and `layer`, if given, has channels.

    Raises:
        ModelFileError: It is a GoodNet.
        LayerNotFoundError: No such layer.
        SettingsError: The layer gives no feature maps.
    """
    if model.kind == "goodnet":
        raise ModelFileError(model.path, "is a GoodNet already", "give the network it is made of")
    if layer is not None:
        check_has_channels(model.network, layer, model.specification.size)


def load(path: Path, options: argparse.Namespace) -> Model:
    """The model at `path`, on the device asked for."""
    model = read_model(path, architecture=options.architecture)
    model.network.to(device_named(options.device))
    return model


def device_named(name: str) -> torch.device:
    """The device, if it is there."""
    remedy = "give cpu, or cuda where a GPU is there"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise SettingsError("--device", name, remedy)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError("--device", name, remedy) from error
    return device


def specified(model: Model, options: argparse.Namespace) -> Model:
    """The model with what the options say of its input."""
    changes: dict[str, Any] = {
        "range": range_of(options.input_range, "--input-range"),
        "mean": tuple(options.mean) if options.mean else None,
        "std": tuple(options.std) if options.std else None,
        "channel_order": options.channel_order,
        "label_offset": options.label_offset,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    return replace(
        model,
        specification=replace(model.specification, **changes),
        specified=model.specified or bool(changes),
    )


def settle(model: Model, images: ImageSet, options: argparse.Namespace, console: Console) -> Model:
    """The model with the reading under which it works on clean images; says what it chose."""
    readings = likely_readings(model.network, model.specification, images, classes=model.classes)
    reading = settle_reading(readings, stated=model.specified, source=str(options.model))
    given = readings[0]
    found = "" if reading is given else f" (read as {given.name}: {_share(given)})"
    console.print(f"input read as {reading.name}: {_share(reading)} of clean images right{found}")
    for other in () if model.specified else readings:
        same_range = other.specification.range == reading.specification.range
        if not same_range and other.accuracy.value >= _FEW and not reading.clearly_beats(other):
            console.print(
                f"read as {other.name} it does as well ({_share(other)}): the images cannot "
                "tell which is right; give --input-range if you know"
            )
    if reading.accuracy.value < _FEW:
        console.print(
            "under no likely reading does this network label half of the clean images rightly: "
            "check that the data is of its classes, and see --input-range, --mean, --std"
        )
    return replace(model, specification=reading.specification, specified=True)


def _share(reading: Reading) -> str:
    return f"{reading.accuracy.count}/{reading.accuracy.n}"


def read_set(path: Path, size: tuple[int, int, int], options: argparse.Namespace) -> ImageSet:
    """The images at `path`, of the network's size, read as the options say."""
    return read_images(path, size=size, value_range=range_of(options.data_range, "--data-range"))


def console_of(options: argparse.Namespace) -> Console:
    """Where messages go: stderr, or nowhere with -q."""
    return _on_stderr(quiet=options.quiet)


def problems_of(console: Console) -> Console:
    """Where it is told that a part failed and the rest goes on: `console`; with -q stderr too."""
    return _on_stderr(quiet=False) if console.quiet else console


def _on_stderr(*, quiet: bool) -> Console:
    return Console(stderr=True, quiet=quiet, highlight=False, markup=False, soft_wrap=True)


def print_result(options: argparse.Namespace, result: object, *tables: object) -> None:
    """The result as JSON, or its tables, on stdout."""
    if options.json:
        sys.stdout.write(to_json(result) + "\n")
        return
    console = Console(highlight=False, markup=False)
    for table in tables:
        console.print(table)


@contextmanager
def progress_bars(console: Console) -> Iterator[Progress]:
    """A progress callback that draws one bar for each kind of work."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, disable=console.quiet) as bars:
        tasks: dict[str, Any] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield told


_ALWAYS = ("architecture", "data_range", "device")


def settings_of(options: argparse.Namespace, names: Sequence[str], bench: Bench) -> dict[str, Any]:
    """The named options and the input specification, for the manifest."""
    return {
        **{name: getattr(options, name) for name in (*names, *_ALWAYS)},
        "input": asdict(bench.specification),
        "input_description": bench.specification.describe(),
    }


def inputs_of(options: argparse.Namespace) -> dict[str, Path]:
    """Every file and folder the options name, by role, for the manifest."""
    roles = {
        role: path
        for role in ("model", "valid", "test")
        if isinstance(path := getattr(options, role, None), Path)
    }
    poisoned = (named_path(text) for text in getattr(options, "poisoned", []))
    return roles | {f"poisoned {name}": path for name, path in poisoned}


def out_of(options: argparse.Namespace, command: str, *, of: str | None = None) -> Path:
    """The run folder: --out, or one named after the model (or `of`) and the command."""
    if options.out is not None:
        return Path(options.out)
    return Path("runs") / f"{of or Path(options.model).stem}-{command}"
