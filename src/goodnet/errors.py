"""The errors goodnet raises: each says what was wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class GoodnetError(Exception):
    """Base of every error a user can cause.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 2


class DataError(GoodnetError):
    """A data set could not be read, or holds what it should not."""

    def __init__(self, source: str | Path, problem: str, remedy: str) -> None:
        self.source = str(source)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{source}: {problem}; {remedy}")


class ModelFileError(GoodnetError):
    """A model file could not be read or written."""

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class UnsafeFileError(ModelFileError):
    """A model or data file asks for something that could run code or touch other files."""

    exit_code: ClassVar[int] = 3


class InputSpecificationError(GoodnetError):
    """The network is being fed in another way than it was trained for."""


class LayerNotFoundError(GoodnetError):
    """No layer of that name; the message lists near ones."""

    def __init__(self, layer: str, near: tuple[str, ...]) -> None:
        self.layer = layer
        self.near = near
        known = ", ".join(near) if near else "none"
        super().__init__(f"the network has no layer {layer!r}; choose one of: {known}")


class NotTraceableError(GoodnetError):
    """The network's computation graph could not be read, so it cannot be cut or edited."""


class SurgeryError(GoodnetError):
    """Channels could not be taken out of the network at this layer."""


class SettingsError(GoodnetError):
    """A setting has a value it cannot have."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        self.field = field
        self.value = value
        self.remedy = remedy
        super().__init__(f"{field} is {value!r}; {remedy}")
