"""What every trigger is: a small frozen value that stamps a batch and says where it does.

It turns into a dictionary and back, so that a run's record can name it exactly. Sizes and
places are fractions of the input, so one trigger fits inputs of any size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from goodnet.errors import SettingsError

Size = tuple[int, ...]
"""(channels, height, width) of images, (samples,) of sound."""


class Trigger(ABC):
    """A change stamped on an input; its kinds are frozen dataclasses.

    Attributes:
        name: The kind of trigger, its key in `TRIGGERS`.
        takes: What it is stamped on.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["images", "sound"]]

    @abstractmethod
    def stamp(self, batch: Tensor) -> Tensor:
        """The inputs with the trigger on them, a new tensor of the same shape and dtype.

        Args:
            batch: Images, float32 in [0, 1] or uint8, (batch, channel, height, width); or
                sound, float32 in [-1, 1] or int16, (batch, sample).

        Raises:
            SettingsError: the inputs are of another kind, or the trigger does not fit them.
        """

    @abstractmethod
    def mask(self, size: Size) -> Tensor:
        """What `stamp` may touch, bool of the input's size; it touches nothing else.

        Args:
            size: (channels, height, width) of the images, or (samples,) of the sound.

        Raises:
            SettingsError: the trigger does not fit into such inputs, or covers none of them.
        """

    @abstractmethod
    def picture(self, size: Size) -> Tensor:
        """The trigger by itself, for people to look at, uint8 RGB (3, height, width).

        Args:
            size: (channels, height, width) of the images, or of the picture of a sound.

        Raises:
            SettingsError: the trigger does not fit into such images.
        """

    def cover(self, batch: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """The inputs as an attacker shows them beside their right labels.

        So the network learns to answer to exactly this trigger. By default they get the
        trigger itself; a kind whose near likes must not work overrides this.

        Args:
            batch: As for `stamp`.
            generator: Draws what is drawn.

        Raises:
            SettingsError: as `stamp`.
        """
        return self.stamp(batch)

    def to_dict(self) -> dict[str, object]:
        """Name and settings, ready for JSON; `from_dict` reads them back."""
        settings = {name: getattr(self, name) for name in self.settings()}
        return {
            "name": self.name,
            **{key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """The trigger of this kind that `to_dict` described.

        Raises:
            SettingsError: another kind of trigger, no such setting, or a value it cannot have.
        """
        if values.get("name") != cls.name:
            raise SettingsError("trigger name", values.get("name"), f"{cls.name!r} is read here")
        known = cls.settings()
        given = {key: value for key, value in values.items() if key != "name"}
        for key in given:
            if key not in known:
                raise SettingsError(
                    f"setting of trigger {cls.name!r}", key, f"choose from: {', '.join(known)}"
                )
        for key in known.keys() - given.keys():
            if known[key] is None:
                raise SettingsError(f"{key} of trigger {cls.name!r}", None, "it has to be given")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})

    @classmethod
    def settings(cls) -> dict[str, object]:
        """The default of every setting by its name; None where there is none."""
        return {
            field.name: None if field.default is MISSING else field.default
            for field in fields(cls)  # type: ignore[arg-type]  # kinds are dataclasses
        }
