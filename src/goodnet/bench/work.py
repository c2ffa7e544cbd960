"""What a cell of a grid measures: a function by name, its settings, its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from goodnet.results import Rate

Scalar = bool | int | float | str | None


class WorkSettings(BaseModel):
    """Base of all settings of a cell; files it reads are fields of type `Path`."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Figures:
    """Figures that belong together: one row of the results.

    Attributes:
        group: What they are of, e.g. the set they were measured on.
        values: By name; None where not measured.
    """

    group: str
    values: Mapping[str, Scalar]

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{self.group}: {name} is {value}; give None where none is known")


def with_counts(**rates: Rate | None) -> dict[str, Scalar]:
    """Each rate as three figures: its value, its count and its n."""
    found: dict[str, Scalar] = {}
    for name, rate in rates.items():
        found[name] = None if rate is None else rate.value
        found[f"{name}_count"] = None if rate is None else rate.count
        found[f"{name}_n"] = None if rate is None else rate.n
    return found


def nothing_else(_settings: Any) -> dict[str, Any]:
    """Nothing beside settings and files decides a cell."""
    return {}


@dataclass(frozen=True)
class Work:
    """A kind of cell.

    Attributes:
        name: What grids call it.
        settings: Of one cell.
        measure: Makes a cell: settings in, figures out. It writes nothing, draws by a seed of its
            settings alone, and is at the top of a module, so that other processes can import it.
        decided_by: What decides a cell beside its settings and files, ready for JSON: defaults
            of the code that would make other figures if they were changed.
    """

    name: str
    settings: type[WorkSettings]
    measure: Callable[[Any], Sequence[Figures]]
    decided_by: Callable[[Any], Mapping[str, Any]] = nothing_else
