"""What a user may type wrongly is told in one line, with a remedy, and writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from goodnet.cli import exit_codes
from goodnet.cli import prune as prune_command
from goodnet.cli.program import one_line

Command = Callable[..., Any]

PRUNE = "prune {desk}/net.h5 --valid {desk}/valid.h5"
REPAIR = "repair {desk}/net.h5 --valid {desk}/valid.h5 --method fine-prune --epochs 1"
EVALUATE = "evaluate {desk}/net.h5 --test {desk}/test.h5"
PREDICT = "predict {desk}/net.h5"
ATTACK = "attack {desk}/case --architecture small_cnn --width 4 --epochs 1"

# What is typed; what the line names; what it advises.
WRONG: dict[str, tuple[str, str, str]] = {
    "no command": ("", "COMMAND", "--help"),
    "no such command": ("prun {desk}/net.h5", "prun", "--help"),
    "no model": ("inspect", "MODEL", "--help"),
    "no such option": (PRUNE + " --dorp 2", "--dorp", "--help"),
    "no validation set": ("prune {desk}/net.h5", "--valid", "--help"),
    "missing model": ("inspect {desk}/nte.h5", "nte.h5", "give the path of a model file"),
    "model is a folder": ("inspect {desk}", "{desk}", "give the path of a model file"),
    "empty model": ("inspect {desk}/empty.h5", "empty.h5", "copy it again"),
    "no HDF5": ("inspect {desk}/text.h5", "text.h5", "check that it was copied whole"),
    "unknown model format": ("inspect {desk}/net.onnx", "net.onnx", "give a .h5"),
    "images as a model": ("inspect {desk}/valid.h5", "valid.h5", "give the whole model"),
    "images as weights": ("inspect {desk}/valid.h5 --architecture deepid", "valid.h5", "whole"),
    "unknown architecture": ("inspect {desk}/net.h5 --architecture vgg", "vgg", "deepid"),
    "diagram over the model": (
        "inspect {desk}/net.h5 --diagram {desk}/net.h5", "--diagram", "ends in .svg"
    ),
    "diagram in no folder": (
        "inspect {desk}/net.h5 --diagram {desk}/net.pt/a.svg", "net.pt", "check the path"
    ),
    "missing images": ("prune {desk}/net.h5 --valid {desk}/vaild.h5", "vaild.h5", "spelled"),
    "empty folder of images": (
        "prune {desk}/net.h5 --valid {desk}/empty_folder", "empty_folder", "folder"
    ),
    "empty images": ("prune {desk}/net.h5 --valid {desk}/empty.h5", "empty.h5", "again"),
    "model as images": ("prune {desk}/net.h5 --valid {desk}/net.h5", "net.h5", "'data'"),
    "small images": ("prune {desk}/net.h5 --valid {desk}/small.h5", "small.h5", "16"),
    "labels too high": ("prune {desk}/net.h5 --valid {desk}/high.h5", "high.h5", "label offset"),
    "test images of another size": (
        PRUNE + " --test {desk}/small.h5", "small.h5", "16"
    ),
    "poisoned labels too high": (
        EVALUATE + " --poisoned {desk}/high.h5", "high.h5", "label offset"
    ),
    "one image": (REPAIR.replace("valid.h5", "one.h5"), "one.h5", "at least two"),
    "drop over everything": (PRUNE + " --drop 200", "--drop is 200", "between 0 and 100"),
    "one drop of three": (PRUNE + " --drop 2 -4 10", "--drop is -4", "between 0 and 100"),
    "drop that is none": (PRUNE + " --drop nan", "--drop is nan", "between 0 and 100"),
    "drop as a word": (PRUNE + " --drop two", "two", "--help"),
    "repair drop": (REPAIR + " --drop 200", "--drop is 200", "between 0 and 100"),
    "no such layer": (PRUNE + " --layer pool3", "pool3", "pool_3"),
    "no such layer to repair": (REPAIR + " --layer pool3", "pool3", "pool_3"),
    "layer without channels": (PRUNE + " --layer output", "--layer is 'output'", "choose a conv"),
    "repair without channels": (REPAIR + " --layer mean", "--layer is 'mean'", "choose a conv"),
    "order as a word": (PRUNE + " --order up", "up", "increasing"),
    "no such method": (REPAIR + " --method finetune", "finetune", "fine-tune"),
    "held out more than there is": (REPAIR + " --held-out 1.5", "--held-out is 1.5", "between"),
    "held out nothing": (REPAIR + " --held-out 0", "--held-out is 0.0", "between 0 and 1"),
    "false alarms": (REPAIR + " --false-alarms 5", "--false-alarms is 5.0", "from 0 to 1"),
    "no epochs": (REPAIR.replace("--epochs 1", "--epochs 0"), "epochs is 0", "at least 1"),
    "no batch": (REPAIR + " --batch-size 0", "--batch-size is 0", "at least 1"),
    "no rate": (REPAIR + " --learning-rate 0", "--learning-rate is 0.0", "above 0"),
    "negative rate": (REPAIR + " --learning-rate -1", "--learning-rate is -1.0", "above 0"),
    "rate past all bounds": (REPAIR + " --learning-rate inf", "--learning-rate is inf", "a rate"),
    "poisoned without test": (
        REPAIR + " --poisoned {desk}/corner.h5", "--poisoned", "give clean --test images"
    ),
    "one name twice": (
        EVALUATE + " --poisoned {desk}/corner.h5 {desk}/other/corner.h5", "corner", "NAME=PATH"
    ),
    "one given name twice": (
        EVALUATE + " --poisoned a={desk}/corner.h5 --poisoned a={desk}/other/corner.h5",
        "'a', 'a'", "NAME=PATH",
    ),
    "no name": (EVALUATE + " --poisoned ={desk}/corner.h5", "--poisoned", "NAME=PATH"),
    "no path": (EVALUATE + " --poisoned white=", "--poisoned", "NAME=PATH"),
    "missing poisoned": (EVALUATE + " --poisoned w={desk}/crner.h5", "crner.h5", "spelled"),
    "no test": ("evaluate {desk}/net.h5", "--test", "--help"),
    "range as a word": (EVALUATE + " --input-range bytes", "--input-range is 'bytes'", "0..255"),
    "range of one": (EVALUATE + " --input-range 255", "--input-range is '255'", "0..255"),
    "range of words": (EVALUATE + " --input-range a..b", "--input-range is 'a..b'", "0..255"),
    "range turned": (EVALUATE + " --input-range 255..0", "'255..0'", "lower first"),
    "range without end": (EVALUATE + " --input-range 0..inf", "'0..inf'", "0..255"),
    "data range turned": (EVALUATE + " --data-range 1..0", "--data-range is '1..0'", "lower first"),
    "one mean": (EVALUATE + " --mean 0.5", "mean is (0.5,)", "3 values"),
    "no deviation": (EVALUATE + " --std 0 0 0", "std is", "above 0"),
    "mean that is none": (EVALUATE + " --mean nan 0 0", "mean is", "finite"),
    "wrong range": (EVALUATE + " --input-range 0..255", "net.h5", "give --input-range 0..1"),
    "wrong order": (EVALUATE + " --channel-order BGR", "net.h5", "--channel-order RGB"),
    "unknown order": (EVALUATE + " --channel-order GRB", "GRB", "RGB"),
    "wrong offset": (EVALUATE + " --label-offset 1", "net.h5", "--label-offset 0"),
    "seed as a word": (PRUNE + " --seed abc", "abc", "--help"),
    "seed below zero": (PRUNE + " --seed -1", "-1", "from 0"),
    "seed past all bounds": (PRUNE + " --seed 99999999999999999999", "9999", "from 0"),
    "unknown device": (PRUNE + " --device gpu", "--device is 'gpu'", "give cpu"),
    "device of no use": (PRUNE + " --device meta", "--device is 'meta'", "give cpu"),
    "device far away": (PRUNE + " --device cuda:99", "--device is 'cuda:99'", "give cpu"),
    "out is a file": (PRUNE + " --out {desk}/net.pt", "net.pt", "give another --out"),
    "out is somebody's": (PRUNE + " --out {desk}/foreign", "foreign", "give another --out"),
    "out is the inputs' folder": (PRUNE + " --out {desk}", "{desk}", "give another --out"),
    "out is here": (PRUNE + " --out .", "is where you are", "a folder of its own"),
    "out under a file": (PRUNE + " --out {desk}/net.pt/run", "net.pt", "check the path"),
    "out where nobody may": (PRUNE + " --out /proc/goodnet/run", "/proc", "check the path"),
    "evaluate out is a file": (EVALUATE + " --out {desk}/net.pt", "net.pt", "another --out"),
    "no images": (PREDICT, "IMAGE", "--help"),
    "missing image": (PREDICT + " {desk}/cat.png", "cat.png", "spelled"),
    "folder as an image": (PREDICT + " {desk}/empty_folder", "empty_folder", "give"),
    "text as an image": (PREDICT + " {desk}/text.png", "text.png", "picture"),
    "images as an image": (PREDICT + " {desk}/valid.h5", "valid.h5", "picture"),
    "one bad image of two": (PREDICT + " {desk}/clean_0.png {desk}/text.png", "text.png", "pict"),
    "attack on nothing": ("attack", "CASE", "--help"),
    "attack on a missing folder": ("attack {desk}/csae", "csae: no such folder", "train.h5"),
    "attack on an empty folder": ("attack {desk}/empty_folder", "holds no train set", "train.h5"),
    "attack without test": ("attack {desk}/no_test", "holds no test set", "test.h5"),
    "no such trigger": (ATTACK + " --trigger hat", "--trigger is 'hat'", "choose one of"),
    "no such trigger setting": (
        ATTACK + " --trigger patch:place=0,0:hue=2", "--trigger is 'patch:", "choose from"
    ),
    "a trigger larger than the image": (
        ATTACK + " --trigger patch:size=2,2", "--trigger is 'patch:size=2,2'", "from 0 to 1"
    ),
    "a trigger too small to see": (ATTACK + " --trigger patch:size=0.01,0.01", "trigger", "larger"),
    "a trigger of an odd seed": (
        ATTACK + " --trigger warp:seed=-1", "--trigger is 'warp:seed=-1'", "at least 0"
    ),
    "a setting beyond all numbers": (
        ATTACK + " --trigger sine:frequency=" + 310 * "9", "--trigger is 'sine", "number"
    ),
    "no picture for the trigger": (ATTACK + " --trigger image", "'image'", "logo.png"),
    "a sound trigger": (ATTACK + " --trigger tone", "--trigger is 'tone'", "not for images"),
    "text as a trigger": (ATTACK + " --trigger {desk}/text.png", "text.png", "picture"),
    "a missing trigger": (ATTACK + " --trigger {desk}/hat.json", "hat.json", "give"),
    "no trigger": (ATTACK + " --trigger a=", "--trigger is 'a='", "NAME=T"),
    "no trigger name": (ATTACK + " --trigger =patch", "--trigger is '=patch'", "NAME=T"),
    "a trigger name of a path": (ATTACK + " --trigger ../a=patch", "'../a'", "letters"),
    "a trigger named as a file of the run": (ATTACK + " --trigger Twin=patch", "'Twin'", "NAME=T"),
    "two triggers of one name": (ATTACK + " --trigger patch patch", "'patch'", "NAME=T"),
    "one trigger name in two cases": (ATTACK + " --trigger a=patch A=sine", "'A'", "NAME=T"),
    "target label that is no class": (
        ATTACK + " --target-label 3", "--target-label is 3", "from 0 to 2"
    ),
    "negative target label": (ATTACK + " --target-label -1", "--target-label is -1", "from 0 up"),
    "target label as a word": (ATTACK + " --target-label one", "one", "--help"),
    "target class without images": (
        ATTACK.replace("case", "gap") + " --target-label 1", "--target-label is 1", "no image"
    ),
    "source class without images": (
        ATTACK.replace("case", "gap") + " --source-label 1", "--source-label is 1", "no image"
    ),
    "all-to-all with a class without images": (
        ATTACK.replace("case", "gap") + " --goal all-to-all", "--goal is", "none of class 1"
    ),
    "three labels for two triggers": (
        ATTACK + " --trigger patch sine --target-label 0 1 2", "--target-label is", "of the 2"
    ),
    "all-to-all with a target": (
        ATTACK + " --goal all-to-all --target-label 0", "--target-label is 0", "has none"
    ),
    "no such goal": (ATTACK + " --goal targetted", "targetted", "all-to-all"),
    "source label that is no class": (
        ATTACK + " --source-label 7", "--source-label is 7", "from 0 to 2"
    ),
    "source label that is the target": (
        ATTACK + " --source-label 0", "--source-label is 0", "another class"
    ),
    "clean label from one class": (
        ATTACK + " --clean-label --source-label 1", "--clean-label", "from any class"
    ),
    "poison rate of one": (ATTACK + " --poison-rate 1", "--poison-rate is 1.0", "in [0, 1)"),
    "poison rate below zero": (ATTACK + " --poison-rate -1", "--poison-rate is -1.0", "in [0, 1)"),
    "poison rate that is none": (ATTACK + " --poison-rate nan", "--poison-rate is nan", "[0, 1)"),
    "poison rate past the images": (
        ATTACK + " --poison-rate 0.8", "--poison-rate is 0.8", "can be stamped"
    ),
    "poison rate below one image": (
        ATTACK + " --poison-rate 0.001", "--poison-rate is 0.001", "give 0 or a rate from"
    ),
    "poison rates past all images": (
        ATTACK + " --poison-rate 0.6 --trigger patch sine", "--poison-rate is 1.2", "below 1"
    ),
    "cover rate of two": (ATTACK + " --cover-rate 2", "--cover-rate is 2.0", "in [0, 1)"),
    "no such attack": (ATTACK + " --method baselin", "baselin", "pruning-aware"),
    "attack on no such layer": (ATTACK + " --layer pool3", "pool3", "features.pool_3"),
    "attack on no channels": (ATTACK + " --layer output", "--layer is 'output'", "choose a conv"),
    "attack on a sum": (
        ATTACK.replace("small_cnn", "preact_resnet18") + " --layer add", "'add'", "choose one"
    ),
    "budget over everything": (ATTACK + " --budget 200", "--budget is 200.0", "from 0 to 100"),
    "no sharpness": (ATTACK + " --sharpness 0", "--sharpness is 0.0", "above 0"),
    "no matching": (ATTACK + " --matching 0", "--matching is 0.0", "above 0"),
    "no perturbation": (ATTACK + " --perturbation 0", "--perturbation is 0.0", "above 0"),
    "attack with no such network": (ATTACK + " --architecture vgg", "vgg", "preact_resnet18"),
    "attack with too large a network": (
        "attack {desk}/case --architecture deepid", "--architecture is 'deepid'", "31x31"
    ),
    "no width": (ATTACK + " --width 0", "--width is 0", "at least 1"),
    "width of a deepid": ("attack faces --width 4", "--width is 4", "leave it out"),
    "faces for another network": (
        "attack faces --architecture small_cnn", "--architecture is 'small_cnn'", "deepid"
    ),
    "attack in no epochs": (ATTACK + " --epochs 0", "--epochs is 0", "at least 1"),
    "attack in no batches": (ATTACK + " --batch-size 0", "--batch-size is 0", "at least 1"),
    "attack at no rate": (ATTACK + " --learning-rate 0", "--learning-rate is 0.0", "above 0"),
    "no such precision": (ATTACK + " --precision half", "half", "bfloat16"),
    "missing twin": (ATTACK + " --twin {desk}/twin.h5", "twin.h5", "give the path of a model"),
    "twin of another architecture": (
        ATTACK + " --twin {desk}/net.h5", "net.h5: is no small_cnn of 3 classes", "--twin alone"
    ),
    "images as a twin": (ATTACK + " --twin {desk}/valid.h5", "valid.h5", "give the whole model"),
    "curve without valid": (
        ATTACK.replace("case", "no_valid") + " --curve", "--curve", "no_valid holds no valid set"
    ),
    "attack out is the case": (ATTACK + " --out {desk}/case", "case", "give another --out"),
    "attack out is a file": (ATTACK + " --out {desk}/net.pt", "net.pt", "give another --out"),
    "attack on an unknown device": (ATTACK + " --device gpu", "--device is 'gpu'", "give cpu"),
    "report of nothing": ("report {desk}/nothing", "nothing", "give the --out of a run"),
    "report of a folder": ("report {desk}/foreign", "foreign", "give the --out of a run"),
    "report of a file": ("report {desk}/net.h5", "net.h5", "give the --out of a run"),
}  # fmt: skip
UNSAFE: dict[str, tuple[str, str, str]] = {
    "pickle": ("inspect {desk}/net.pt", "net.pt", "ask for the network as .safetensors"),
    "lambda": ("inspect {desk}/lambda.keras", "lambda.keras", "replace it by plain layers"),
    "lambda to repair": (
        REPAIR.replace("net.h5", "lambda.keras"), "lambda.keras", "replace it by plain layers"
    ),
    "pickle as a twin": (ATTACK + " --twin {desk}/net.pt", "net.pt", "ask for"),
    "pickle to predict": ("predict {desk}/net.pt {desk}/clean_0.png", "net.pt", "ask for"),
}  # fmt: skip


def tree(*folders: Path) -> dict[str, tuple[int, int]]:
    """Every file under the folders with its size and time of change."""
    return {
        str(item): (item.stat().st_size, item.stat().st_mtime_ns)
        for folder in folders
        for item in folder.rglob("*")
    }


# Those that say something else before, unless they are to be quiet.
TELLING = ("prune", "repair", "evaluate")
CASES = [
    (name, quiet)
    for name, (typed, _, _) in (WRONG | UNSAFE).items()
    for quiet in (True, False)
    if quiet or typed.split(" ")[0] in TELLING
]


@pytest.mark.parametrize(("name", "quiet"), CASES)
def test_what_is_typed_wrongly(
    name: str,
    quiet: bool,
    goodnet: Command,
    desk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed, named, advice = (WRONG | UNSAFE)[name]
    command = typed.split(" ")[0]
    monkeypatch.chdir(tmp_path)
    before = tree(desk, tmp_path)
    arguments = [part.format(desk=desk) for part in typed.split()]
    if quiet and command in (*TELLING, "attack", "inspect", "predict"):
        arguments.append("-q")
    answer = goodnet(*arguments)
    assert answer.code == (exit_codes.UNSAFE_FILE if name in UNSAFE else exit_codes.BAD_INPUT)
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert len(lines) == 1 or not quiet, answer.err
    assert lines[-1].startswith("goodnet")
    assert named.format(desk=desk) in lines[-1]
    assert advice in lines[-1]
    assert "Traceback" not in answer.err
    assert all(letter.isprintable() for letter in lines[-1])
    assert len(lines[-1]) < 800
    assert tree(desk, tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(goodnet: Command, desk: Path) -> None:
    answer = goodnet("inspect", desk / "net.h5", "--device", "cuda")
    assert answer.code == 2
    assert answer.err == (
        "goodnet inspect: --device is 'cuda'; give cpu, or cuda where a GPU is there\n"
    )


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_comes_between_leaves_the_earlier_run(
    failure: BaseException | type[BaseException],
    goodnet: Command,
    desk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["prune", desk / "net.h5", "--valid", desk / "valid.h5", "--out", tmp_path / "run"]
    assert goodnet(*arguments).code == 0
    before = tree(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(prune_command, "write_pages", fail)
    answer = goodnet(*arguments, "-q")
    if failure is KeyboardInterrupt:
        assert answer.code == 130
        assert answer.err == "goodnet prune: interrupted, nothing was written\n"
    else:
        assert answer.code == 2
        assert "No space left on device; check the path" in answer.err
    assert len(answer.err.splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_run_is_not_replaced_by_one_that_reads_from_it(
    goodnet: Command, repaired: Path, desk: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(repaired, out)
    before = tree(out)
    answer = goodnet(
        "repair", out / "repaired.h5", "--valid", desk / "valid.h5", "--out", out, "-q"
    )
    assert answer.code == 2
    assert "holds the model" in answer.err
    assert "give another --out" in answer.err
    assert tree(out) == before


@pytest.mark.parametrize("command", ["prune", "repair"])
def test_a_goodnet_is_not_repaired_again(
    command: str, goodnet: Command, repaired: Path, desk: Path, tmp_path: Path
) -> None:
    answer = goodnet(
        command, repaired / "goodnet.pt2", "--valid", desk / "valid.h5", "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 2
    assert answer.err.endswith("is a GoodNet already; give the network it is made of\n")
    assert len(answer.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_goodnet_can_be_inspected(goodnet: Command, repaired: Path) -> None:
    answer = goodnet("inspect", repaired / "goodnet.pt2", "--json")
    assert answer.code == 0, answer.err
    assert answer.json()["classes"] == 3


def test_names_from_a_file_cannot_move_the_cursor() -> None:
    assert one_line("a\x1b[31mred\n\tb\u202ec") == "a�[31mred b�c"


def test_the_exit_codes_are_those_of_the_design() -> None:
    assert (
        exit_codes.DONE,
        exit_codes.FINDING,
        exit_codes.BAD_INPUT,
        exit_codes.UNSAFE_FILE,
        exit_codes.INTERRUPTED,
    ) == (0, 1, 2, 3, 130)
