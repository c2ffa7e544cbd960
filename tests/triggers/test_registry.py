"""Triggers from dictionaries, files and the words of a command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from goodnet.errors import DataError, GoodnetError, SettingsError
from goodnet.triggers import (
    TRIGGERS,
    ImageFile,
    Patch,
    PixelPattern,
    PostIt,
    Tone,
    Trigger,
    Warp,
    read_trigger,
    trigger_from_dict,
    trigger_named,
    write_trigger,
)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"name": "hat"}, f"trigger name is 'hat'; choose one of: {', '.join(TRIGGERS)}"),
        ({}, "trigger name is None; choose one of"),
        ({"name": ["patch"]}, r"trigger name is \['patch'\]; choose one of"),
        (
            {"name": "post-it", "sise": 0.2},
            "setting of trigger 'post-it' is 'sise'; choose from: size, place, colour",
        ),
        ({"name": "post-it", "size": 7}, "size is 7; give a share"),
        ({"name": "patch", "place": [[0.1], 0.1]}, r"place is .*; give 2 numbers"),
        ({"name": "image"}, "pixels of trigger 'image' is None; it has to be given"),
    ],
)
def test_from_dict_says_what_is_wrong(values: dict[str, object], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        trigger_from_dict(values)


def test_from_dict_of_one_kind_refuses_another() -> None:
    with pytest.raises(SettingsError, match="trigger name is 'patch'; 'post-it' is read here"):
        PostIt.from_dict(Patch().to_dict())


@pytest.mark.parametrize(
    ("text", "trigger"),
    [
        ("patch", Patch()),
        (
            "patch:size=0.1,0.1:place=0.8,0.8:pattern=solid",
            Patch(size=(0.1, 0.1), place=(0.8, 0.8), pattern="solid"),
        ),
        ("warp:strength=5e-2:seed=7", Warp(strength=0.05, seed=7)),
        ("pixel-pattern:pattern=#", PixelPattern(pattern=("#",))),
        ("pixel-pattern:pattern=#.,.#", PixelPattern(pattern=("#.", ".#"))),
        ("tone:frequency=1", Tone(frequency=1)),
    ],
)
def test_a_trigger_named_on_the_command_line(text: str, trigger: Trigger) -> None:
    assert trigger_named(text) == trigger


@pytest.mark.parametrize("name", [name for name in TRIGGERS if name != "image"])
def test_every_kind_but_a_picture_can_be_named_alone(name: str) -> None:
    assert trigger_named(name) == TRIGGERS[name]()


def test_a_trigger_in_a_file(tmp_path: Path) -> None:
    trigger = Patch(size=(0.2, 0.3), place=(0.1, 0.1))
    write_trigger(trigger, tmp_path / "mine.json")
    assert read_trigger(tmp_path / "mine.json") == trigger
    assert trigger_named(str(tmp_path / "mine.json")) == trigger
    smaller = trigger_named(f"{tmp_path / 'mine.json'}:size=0.1,0.1")
    assert smaller == Patch(size=(0.1, 0.1), place=(0.1, 0.1))


def test_a_picture_is_a_trigger(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "Logo.PNG")
    path = str(tmp_path / "Logo.PNG")
    assert trigger_named(path) == ImageFile.from_file(path)
    assert trigger_named(f"{path}:size=0.5:place=0.5,0.5") == ImageFile.from_file(
        path, size=0.5, place=(0.5, 0.5)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "hat",
            f"trigger is 'hat'; choose one of {', '.join(TRIGGERS)}, .* or give a .json file or "
            r"a picture \(.png, ",
        ),
        ("", "trigger is ''; choose one of"),
        ("patch:", "trigger is 'patch:'; choose one of"),
        ("patch:size", "trigger is 'patch:size'; choose one of"),
        ("patch:size=0.1,0.1;place=0.8,0.8", "size is .*; give 2 numbers"),
        ("patch:width=1", "setting of trigger 'patch' is 'width'; choose from: size, place"),
        ("patch:size=nan,1", "size is .*nan.*; give 2 numbers"),
        ("patch:cells=", "cells is ''; give a whole number"),
        ("patch:name=warp", "setting of trigger 'patch' is 'name'; choose from: size, place"),
        ("patch:cells=2:cells=3", "setting of trigger 'patch' is 'cells'; give it once"),
        ("image", r"trigger is 'image'; give the picture itself, e.g. logo.png"),
        ("gone.json", "gone.json: cannot be read"),
        ("gone.png", "gone.png: no such file"),
    ],
)
def test_what_names_no_trigger(text: str, message: str) -> None:
    with pytest.raises(GoodnetError, match=message):
        trigger_named(text)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "holds no trigger; give a file that write_trigger wrote"),
        ("[]", "holds no trigger;"),
        ("[" * 100_000, "holds no trigger;"),
        ("\xff", "holds no trigger;"),
        ('{"name": "hat"}', "holds no trigger: trigger name is 'hat'; choose one of"),
        ('{"name": "patch", "cells": NaN}', "cells is nan; give a whole number"),
        (" " * 2**21 + '{"name": "patch"}', "holds no trigger;"),
    ],
    ids=["cut", "list", "deep", "no text", "unknown", "nan", "large"],
)
def test_a_file_that_holds_no_trigger(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=text):
        read_trigger(path)
