"""Every kind of trigger by name, and triggers read from dictionaries, files and the command line.

To add one: a file with a final, frozen dataclass below `ImageTrigger`, `Overlay` or
`SoundTrigger`, and its line in `TRIGGERS`; docs/adding-a-trigger.md shows one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from goodnet.data.image_folder import PICTURE_SUFFIXES
from goodnet.errors import DataError, SettingsError
from goodnet.files import write_text
from goodnet.triggers.blend import Blend
from goodnet.triggers.eyebrows import Eyebrows
from goodnet.triggers.image_file import ImageFile
from goodnet.triggers.lipstick import Lipstick
from goodnet.triggers.noise import Noise
from goodnet.triggers.patch import Patch
from goodnet.triggers.pixel_pattern import PixelPattern
from goodnet.triggers.post_it import PostIt
from goodnet.triggers.sine import Sine
from goodnet.triggers.sunglasses import Sunglasses
from goodnet.triggers.tone import Tone
from goodnet.triggers.trigger import Trigger
from goodnet.triggers.warp import Warp

TRIGGERS: Final[dict[str, type[Trigger]]] = {
    kind.name: kind
    for kind in (
        Sunglasses,
        Lipstick,
        Eyebrows,
        Patch,
        PixelPattern,
        PostIt,
        ImageFile,
        Blend,
        Sine,
        Warp,
        Tone,
        Noise,
    )
}
"""Every kind of trigger by its name."""

_LARGEST_FILE = 2**20
"""Bytes above which a file is not taken for a written trigger; a picture of 128 px has room."""


def trigger_from_dict(values: Mapping[str, object]) -> Trigger:
    """The trigger that `to_dict` described, of whatever kind.

    Raises:
        SettingsError: no such trigger, no such setting, or a value it cannot have.
    """
    name = values.get("name")
    if not isinstance(name, str) or name not in TRIGGERS:
        raise SettingsError("trigger name", name, f"choose one of: {', '.join(TRIGGERS)}")
    return TRIGGERS[name].from_dict(values)


def write_trigger(trigger: Trigger, path: Path | str) -> None:
    """Write the trigger as JSON, for `read_trigger`; whole or not at all."""
    write_text(Path(path), json.dumps(trigger.to_dict(), indent=2) + "\n")


def read_trigger(path: Path | str) -> Trigger:
    """The trigger that `write_trigger` wrote.

    Raises:
        DataError: the file cannot be read, or describes no trigger.
    """
    path = Path(path)
    remedy = "give a file that write_trigger wrote"
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", remedy) from error
    try:
        values = json.loads(text) if len(text) <= _LARGEST_FILE else None
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise DataError(path, "holds no trigger", remedy)
    try:
        return trigger_from_dict(values)
    except SettingsError as error:
        raise DataError(path, f"holds no trigger: {error}", remedy) from error


def trigger_named(text: str) -> Trigger:
    """The trigger a command line names.

    `text` is a kind (`patch`), a file that `write_trigger` wrote (`mine.json`) or a picture
    (`logo.png`); then, as often as wanted, a colon and a setting. A value with commas is a row of
    values:

        patch
        patch:size=0.1,0.1:place=0.8,0.8:pattern=solid
        logo.png:size=0.3:opacity=0.5

    Raises:
        SettingsError: no such trigger, no such setting, or a value it cannot have.
        DataError: the file cannot be read, or holds no trigger.
    """
    named = _NAMED.fullmatch(text)
    assert named is not None  # any text is a name without settings
    base, given = named["base"], named["settings"].split(":")[1:]
    suffix = Path(base).suffix.lower()
    if base == ImageFile.name:
        raise SettingsError("trigger", text, "give the picture itself, e.g. logo.png")
    if base in TRIGGERS:
        values: dict[str, object] = {"name": base}
    elif suffix == ".json":
        values = read_trigger(base).to_dict()
    elif suffix in PICTURE_SUFFIXES:
        values = ImageFile.from_file(base).to_dict()
    else:
        pictures = ", ".join(PICTURE_SUFFIXES)
        raise SettingsError(
            "trigger",
            text,
            f"choose one of {', '.join(TRIGGERS)}, each with settings if wanted "
            f"(patch:size=0.1,0.1), or give a .json file or a picture ({pictures})",
        )
    kind = TRIGGERS[str(values["name"])]
    return trigger_from_dict({**values, **_settings(kind, given)})


def _settings(kind: type[Trigger], parts: list[str]) -> dict[str, object]:
    """The settings that "key=value" parts give."""
    known = kind.settings()
    settings: dict[str, object] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key in settings or key not in known:
            remedy = "give it once" if key in settings else f"choose from: {', '.join(known)}"
            raise SettingsError(f"setting of trigger {kind.name!r}", key, remedy)
        row = [_scalar(item) for item in value.split(",")]
        # A row of one has no comma to tell it by.
        settings[key] = row if len(row) > 1 or isinstance(known[key], tuple) else row[0]
    return settings


_NAMED: Final = re.compile(r"(?P<base>.*?)(?P<settings>(:[a-z_]+=[^:]*)*)", re.DOTALL)


def _scalar(text: str) -> object:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text
