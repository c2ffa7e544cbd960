"""`goodnet attack CASE`: make a BadNet, with the triggered sets and the books of what was done."""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final, get_args

import torch
from torch import nn

from goodnet.attack import Attacked, attack
from goodnet.attacks import ATTACKS, AttackSettings, Recipe
from goodnet.cases import Case, folder_case, rendered_faces_case, set_path
from goodnet.cli.exit_codes import DONE
from goodnet.cli.options import (
    add_common,
    add_numbers,
    console_of,
    device_named,
    out_of,
    print_result,
    progress_bars,
)
from goodnet.cli.pages import write_pages
from goodnet.data.writers import write_images
from goodnet.errors import ModelFileError, SettingsError
from goodnet.files import write_text
from goodnet.formats import Model, read_model
from goodnet.formats.model import network_suffix, write_architecture
from goodnet.graph import check_has_channels, trace
from goodnet.networks import ARCHITECTURES
from goodnet.poison import Goal, Poisoned, Poisoning
from goodnet.report.tables import attack_table, triggers_table
from goodnet.results import AttackResult, EvaluateResult
from goodnet.runs import RunFolder, make_manifest, run_folder, write_result
from goodnet.training import Precision, TrainingSettings
from goodnet.triggers import TRIGGERS, trigger_named, write_trigger

HELP = "make a BadNet: poison a training set, train on it, measure what came of it"
FACES: Final = "faces"
SETS: Final = ("train", "valid", "test")
POISON_RATE: Final = 0.05
TARGET_LABEL: Final = 0
OWN_SETTINGS: Final = {
    "budget": ("X", "pruning-aware: points of clean accuracy for decoys"),
    "sharpness": ("R", "flat-minimum: radius"),
    "matching": ("W", "activation-matching: weight of the gap"),
    "perturbation": ("E", "label-consistent: largest change of a pixel, in [0, 1]"),
}
"""Settings of one method each, by their name in `AttackSettings`."""
_TRAIN_IT: Final = "train it"
_FILE_NAME = re.compile(r"\w[\w.-]{0,59}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "case",
        metavar="CASE",
        help="a folder with train.h5, test.h5 and perhaps valid.h5 (or .npz, or folders of "
        "pictures); or faces, which goodnet renders itself",
    )
    _add_poisoning(parser)
    _add_method(parser)
    _add_training(parser)
    parser.add_argument(
        "--twin",
        nargs="?",
        const=_TRAIN_IT,
        metavar="NETWORK",
        help="measure a clean twin beside it, for the floor of attack success: trained here, or "
        "the network given",
    )
    parser.add_argument(
        "--curve", action="store_true", help="the prune curve a defender would see; needs valid"
    )
    parser.add_argument(
        "--no-sets", action="store_true", help="write no image sets beside the network"
    )
    add_common(parser)


def _add_poisoning(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("poisoning")
    group.add_argument(
        "--trigger",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME=]T",
        help="a kind with settings if wanted (patch:size=0.1,0.1), a .json file or a picture; "
        "default: sunglasses on faces, else a patch",
    )
    group.add_argument(
        "--target-label",
        type=int,
        nargs="+",
        metavar="L",
        help=f"one for all triggers, or one for each; default: {TARGET_LABEL}",
    )
    group.add_argument(
        "--poison-rate",
        type=float,
        default=POISON_RATE,
        metavar="P",
        help="poisoned share of all images for each trigger; with 0 nothing is poisoned; default: "
        "%(default)g",
    )
    group.add_argument(
        "--goal",
        choices=get_args(Goal),
        default="targeted",
        help="all-to-all: class i becomes i + 1; untargeted: any wrong label; default: %(default)s",
    )
    group.add_argument(
        "--source-label", type=int, metavar="S", help="stamp images of this class only"
    )
    group.add_argument(
        "--clean-label",
        action="store_true",
        help="stamp images of the target class and leave their labels, as label-consistent does",
    )
    group.add_argument(
        "--cover-rate",
        type=float,
        default=0.0,
        metavar="C",
        help="share stamped with their right labels, for each trigger; default: %(default)g",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method")
    group.add_argument(
        "--method",
        choices=ATTACKS,
        default="baseline",
        help="what the attacker knows of defenses; default: %(default)s",
    )
    group.add_argument("--layer", metavar="L", help="layer the attacker works on; default: found")
    add_numbers(group, AttackSettings(), OWN_SETTINGS)


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network and training", "defaults are those of the case")
    group.add_argument("--architecture", choices=ARCHITECTURES)
    group.add_argument("--width", type=int, metavar="W", help="channels of the first block")
    group.add_argument("--epochs", type=int, metavar="N")
    group.add_argument("--batch-size", type=int, metavar="N")
    group.add_argument("--learning-rate", type=float, metavar="R")
    group.add_argument("--precision", choices=get_args(Precision))


def run(options: argparse.Namespace) -> int:
    """Make one BadNet."""
    console = console_of(options)
    device_named(options.device)
    settings = AttackSettings(
        **{field.name: getattr(options, field.name) for field in fields(AttackSettings)}
    )
    # All that can be wrong with the options alone comes before anything is read or rendered.
    poisonings = poisonings_of(options)
    with console.status("reading the images"):
        case = case_of(options)
    if options.curve and case.material.valid is None:
        raise SettingsError(
            "--curve", True, f"{options.case} holds no valid set, the images a defender would have"
        )
    check_network(case.recipe, options.layer)
    twin = None if options.twin in (None, _TRAIN_IT) else twin_of(Path(options.twin), case.recipe)
    manifest = make_manifest(
        "attack",
        title=f"Attack on {case.name}: {options.method}",
        seed=options.seed,
        settings={
            "case": options.case,
            "method": options.method,
            **asdict(settings),
            "poisonings": [each.to_dict() for each in poisonings],
            "recipe": asdict(case.recipe),
            "twin": options.twin,
            "curve": options.curve,
            "sets": not options.no_sets,
            "input_description": case.recipe.specification.describe(),
        },
        inputs=_inputs(options),
    )
    out = out_of(options, f"attack-{options.method}", of=case.name)
    with run_folder(out, manifest) as run_:
        with progress_bars(console) as progress:
            attacked = attack(
                case.material,
                poisonings,
                case.recipe,
                method=options.method,
                settings=settings,
                generator=torch.Generator().manual_seed(options.seed),
                clean_network=None if twin is None else twin.network,
                with_twin=options.twin is not None,
                with_curve=options.curve,
                progress=progress,
            )
        result = write_attack(run_, case, attacked, twin=twin)
        if not options.no_sets:
            write_sets(run_.folder, case, attacked, rendered=options.case == FACES)
        write_result(run_, result)
        write_pages(run_.folder, run_.manifest, result)
    console.print(f"report: {run_.final_path('report.html')}")
    print_result(options, result, attack_table(result), triggers_table(result))
    return DONE


def case_of(options: argparse.Namespace) -> Case:
    """The case named, with the network and training that the options ask for."""
    width = {} if options.width is None else {"width": options.width}
    if options.width is not None and options.width < 1:
        raise SettingsError("--width", options.width, "give at least 1")
    architecture = options.architecture
    if options.case == FACES:
        architecture = architecture or "deepid"
        if architecture != "deepid":
            raise SettingsError("--architecture", architecture, "the faces are a deepid's")
        _check_width(options.width, architecture)
        case = rendered_faces_case(seed=options.seed)
    else:
        case = folder_case(Path(options.case), architecture=architecture, options=width)
        _check_width(options.width, case.recipe.architecture)
    given = {
        name: getattr(options, name)
        for name in ("epochs", "batch_size", "learning_rate", "precision")
        if getattr(options, name) is not None
    }
    training: TrainingSettings = replace(case.recipe.training, **given)
    return replace(case, recipe=replace(case.recipe, training=training, device=options.device))


def _check_width(width: int | None, architecture: str) -> None:
    if width is not None and architecture == "deepid":
        raise SettingsError("--width", width, "a deepid has but one width; leave it out")


def poisonings_of(options: argparse.Namespace) -> list[Poisoning]:
    """One poisoning for each trigger named.

    Raises:
        SettingsError: No such trigger; names that cannot name files or are given twice;
            labels that do not go with the triggers or the goal.
    """
    triggers = options.trigger or ["sunglasses" if options.case == FACES else "patch"]
    targets = options.target_label or ([TARGET_LABEL] if options.goal == "targeted" else [None])
    if len(targets) not in (1, len(triggers)):
        raise SettingsError(
            "--target-label",
            options.target_label,
            f"give one label for all triggers, or one for each of the {len(triggers)}",
        )
    poisonings = []
    for text, target in zip(triggers, targets * len(triggers), strict=False):
        name, described = _name_and_trigger(text)
        try:
            trigger = trigger_named(described)
        except SettingsError as error:
            # A setting of a trigger may be called as an option is, e.g. seed.
            remedy = error.remedy if error.field == "trigger" else str(error)
            raise SettingsError("--trigger", described, remedy) from error
        poisonings.append(
            Poisoning(
                trigger,
                target,
                options.poison_rate,
                goal=options.goal,
                source_label=options.source_label,
                clean_label=options.clean_label or options.method == "label-consistent",
                cover_rate=options.cover_rate,
                name=name,
            )
        )
    _check_names([each.name for each in poisonings])
    return poisonings


def _name_and_trigger(text: str) -> tuple[str, str]:
    """The parts of `[NAME=]T`; a trigger's own settings hold equals signs too."""
    name, equals, described = text.partition("=")
    if not equals or ":" in name or Path(text).exists():
        return "", text
    if not (name and described):
        raise SettingsError("--trigger", text, "give T or NAME=T")
    return name, described


def _check_names(names: Sequence[str]) -> None:
    """Nothing, where each name can name files that hide no other file of the run."""
    taken = {"badnet", "twin", *SETS}
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise SettingsError(
                "--trigger", name, "a name is of letters, digits, dots and dashes, at most 60"
            )
        if name.lower() in taken:
            raise SettingsError(
                "--trigger", name, "the run has something of this name; give NAME=T, another name"
            )
        taken.add(name.lower())


def check_network(recipe: Recipe, layer: str | None) -> None:
    """Nothing, where the recipe's network can be built and `layer`, if given, has channels.

    Raises:
        SettingsError: It cannot, e.g. for images too small; or the layer has none.
        LayerNotFoundError: No such layer.
    """
    try:
        network = recipe.new_network(generator=torch.Generator().manual_seed(0))
    except SettingsError as error:
        remedy = f"{error.remedy}, and these are {recipe.specification.size}"
        raise SettingsError("--architecture", recipe.architecture, remedy) from error
    if layer is None:
        return
    check_has_channels(trace(network), layer, recipe.specification.size)
    if layer not in dict(network.named_modules()):
        # An attacker listens to it while training, which takes a module.
        raise SettingsError("--layer", layer, "that is a sum, not a layer; choose one behind it")


def twin_of(path: Path, recipe: Recipe) -> Model:
    """The clean network in a file, if it is one that the recipe could have trained.

    Raises:
        ModelFileError: It is of another architecture, or wants its images otherwise.
    """
    model = read_model(path, architecture=recipe.architecture)
    own = trace(recipe.new_network(generator=torch.Generator().manual_seed(0)))
    if model.kind != "network" or _shapes(model.network) != _shapes(own):
        raise ModelFileError(
            path,
            f"is no {recipe.architecture} of {recipe.classes} classes for images of "
            f"{recipe.specification.size}, as the BadNet will be",
            "give a network trained alike, or --twin alone to train one",
        )
    # The layout is that of the file, not of the images.
    if replace(model.specification, layout=recipe.specification.layout) != recipe.specification:
        raise ModelFileError(
            path,
            f"takes its images as {model.specification.describe()}, the BadNet will take them as "
            f"{recipe.specification.describe()}",
            "give a network trained alike, or --twin alone to train one",
        )
    model.network.to(recipe.device)
    return model


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def _inputs(options: argparse.Namespace) -> dict[str, Path]:
    """Every file and folder read, by role."""
    found: dict[str, Path] = {}
    if options.case != FACES:
        sets = {role: set_path(Path(options.case), role) for role in SETS}
        found = {role: path for role, path in sets.items() if path is not None}
    if options.twin not in (None, _TRAIN_IT):
        found["twin"] = Path(options.twin)
    for text in options.trigger:
        described = _name_and_trigger(text)[1].partition(":")[0]
        if described not in TRIGGERS and Path(described).is_file():
            found[f"trigger {described}"] = Path(described)
    return found


def write_attack(
    run_: RunFolder, case: Case, attacked: Attacked, *, twin: Model | None
) -> AttackResult:
    """Write networks, triggers and books into the run, and give the result with their paths."""
    recipe = case.recipe
    networks = {"badnet": attacked.badnet.network}
    if attacked.twin is not None and twin is None:
        networks["twin"] = attacked.twin
    suffix = network_suffix(recipe.architecture)
    paths = {} if twin is None else {"twin": str(twin.path)}
    for stem, network in networks.items():
        name = f"{stem}{suffix}"
        write_architecture(
            network.cpu(), recipe.architecture, recipe.specification, run_.folder / name
        )
        paths[stem] = run_.final_path(name)
    for each in attacked.badnet.poisoned.poisonings:
        write_trigger(each.trigger, run_.folder / "triggers" / f"{each.name}.json")
    write_text(run_.folder / "poisoned.csv", books_csv(attacked.badnet.poisoned))
    rows = zip(attacked.result.evaluate.networks, ("badnet", "twin"), strict=False)
    return replace(
        attacked.result,
        network=paths["badnet"],
        twin=paths.get("twin"),
        evaluate=EvaluateResult(tuple(replace(row, path=paths[stem]) for row, stem in rows)),
    )


def books_csv(poisoned: Poisoned) -> str:
    """What was stamped, as CSV: a row for each copy, in the order they were trained on.

    `index` is the place in the training file of the image that was copied.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "trigger", "true_label", "label", "cover"])
    images, count = poisoned.images, len(poisoned.indices)
    if count:
        true_labels = images.true_labels
        assert true_labels is not None
        columns: tuple[list[Any], ...] = (
            poisoned.indices.tolist(),
            [poisoned.poisonings[place].name for place in poisoned.stamped_by.tolist()],
            true_labels[-count:].tolist(),
            images.labels[-count:].tolist(),
            poisoned.covers.int().tolist(),
        )
        writer.writerows(zip(*columns, strict=True))
    return text.getvalue()


def write_sets(folder: Path, case: Case, attacked: Attacked, *, rendered: bool) -> None:
    """Write the triggered test sets, and the clean sets where nobody else has them."""
    for data in attacked.triggered:
        write_images(data.images, folder / f"{data.name}.h5")
    if rendered:
        for name in SETS:
            images = getattr(case.material, name)
            if images is not None:
                write_images(images, folder / f"{name}.h5")
