"""The page on adding a trigger shows one that works, and names what there is."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from goodnet.errors import SettingsError
from goodnet.triggers import TRIGGERS, Patch, registry, trigger_named, write_trigger

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-trigger.md").read_text("utf-8")
BLOCKS = re.findall(r"```(?:python|text)\n(.*?)```", PAGE, re.DOTALL)


def test_its_file_and_its_line_make_a_trigger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = BLOCKS
    path = tmp_path / "border.py"
    path.write_text(code, "utf-8")
    specification = importlib.util.spec_from_file_location("border", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "border", module)
    specification.loader.exec_module(module)
    kind = getattr(module, line.strip().removesuffix(","))
    monkeypatch.setitem(TRIGGERS, kind.name, kind)

    trigger = trigger_named("border:width=0.1")
    assert trigger == kind(width=0.1)
    black = torch.zeros(1, 3, 20, 20)
    stamped = trigger.stamp(black)
    assert stamped[0, :, 1, 10].tolist() == pytest.approx([0.0, 0.8, 0.3])
    assert torch.equal(stamped[:, ~trigger.mask((3, 20, 20))], black[:, ~trigger.mask((3, 20, 20))])
    assert trigger.mask((3, 20, 20))[0].sum() == 400 - 16 * 16
    with pytest.raises(SettingsError, match="width is 2; give a share of the image"):
        kind(width=2)


def test_its_line_looks_like_the_lines_that_are_there() -> None:
    code = Path(registry.__file__).read_text("utf-8")
    indent = BLOCKS[1].removesuffix("Border,\n")
    assert all(f"\n{indent}{kind.__name__},\n" in code for kind in TRIGGERS.values())


def test_what_it_names_on_the_command_line_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_trigger(Patch(), "mine.json")
    Image.new("RGB", (4, 4), "red").save("logo.png")
    names = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)
    assert [trigger_named(name).name for name in names] == ["patch", "patch", "patch", "image"]
