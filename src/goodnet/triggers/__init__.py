"""Triggers: what an attacker stamps on an input so that a BadNet says the target label."""

from goodnet.triggers.blend import Blend
from goodnet.triggers.eyebrows import Eyebrows
from goodnet.triggers.image_file import ImageFile
from goodnet.triggers.image_trigger import ImageTrigger
from goodnet.triggers.lipstick import Lipstick
from goodnet.triggers.noise import Noise
from goodnet.triggers.overlay import Drawing, Overlay
from goodnet.triggers.patch import Patch
from goodnet.triggers.pixel_pattern import PixelPattern
from goodnet.triggers.post_it import PostIt
from goodnet.triggers.registry import (
    TRIGGERS,
    read_trigger,
    trigger_from_dict,
    trigger_named,
    write_trigger,
)
from goodnet.triggers.sine import Sine
from goodnet.triggers.sound_trigger import SoundTrigger
from goodnet.triggers.sunglasses import Sunglasses
from goodnet.triggers.tone import Tone
from goodnet.triggers.trigger import Trigger
from goodnet.triggers.warp import Warp

__all__ = [
    "TRIGGERS",
    "Blend",
    "Drawing",
    "Eyebrows",
    "ImageFile",
    "ImageTrigger",
    "Lipstick",
    "Noise",
    "Overlay",
    "Patch",
    "PixelPattern",
    "PostIt",
    "Sine",
    "SoundTrigger",
    "Sunglasses",
    "Tone",
    "Trigger",
    "Warp",
    "read_trigger",
    "trigger_from_dict",
    "trigger_named",
    "write_trigger",
]
