"""A grid's results as one table: a row for each cell and group of figures.

The rows are sorted by settings and hold no times, so that the file is the same, byte for byte,
in whatever order and on whatever machines the cells were made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goodnet.bench.cache import Made
from goodnet.bench.grid import GridCell
from goodnet.bench.runners import extra
from goodnet.bench.work import Scalar

Row = dict[str, Scalar]


@dataclass(frozen=True)
class Tidy:
    """The table.

    Attributes:
        columns: `work`, the settings, `group`, the figures.
        rows: Each with a value for every column; None where there is none.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def tidy(made: Sequence[tuple[GridCell, Made]]) -> Tidy:
    """The table of these cells."""
    ordered = sorted(made, key=lambda each: _sort_key(_settings(each[0])))
    columns = ["work", *(ordered[0][0].work.settings.model_fields if ordered else ()), "group"]
    settings = set(columns)
    rows: list[Row] = []
    for cell, own in ordered:
        for figures in own.figures:
            names = list(figures.values)
            # Whoever writes the work chooses both names.
            assert not settings.intersection(names), f"{cell.work.name} has both as {names}"
            columns += [name for name in names if name not in columns]
            rows.append(
                {
                    "work": cell.work.name,
                    **_settings(cell),
                    "group": figures.group,
                    **figures.values,
                }
            )
    return Tidy(tuple(columns), tuple({name: row.get(name) for name in columns} for row in rows))


def tidy_csv(table: Tidy) -> str:
    """The table as CSV; what is None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table.columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.rows)
    return text.getvalue()


def tidy_parquet(table: Tidy) -> bytes:
    """The table as Parquet.

    Raises:
        SettingsError: pyarrow is not installed.
    """
    arrow, parquet = (
        extra(name, "parquet", field="parquet", value=True)
        for name in ("pyarrow", "pyarrow.parquet")
    )
    columns = {name: _one_type([row[name] for row in table.rows]) for name in table.columns}
    written = io.BytesIO()
    parquet.write_table(arrow.table(columns), written)
    return written.getvalue()


def _one_type(values: Sequence[Scalar]) -> list[Scalar]:
    """The values, as text where they are of several kinds; a Parquet column has one."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(kinds) > 1:
        return [None if value is None else str(value) for value in values]
    return list(values)


def _settings(cell: GridCell) -> Row:
    """The settings as one row has them: what is no single value as JSON."""
    found: Mapping[str, Any] = cell.settings.model_dump(mode="json")
    return {
        name: value
        if value is None or isinstance(value, bool | int | float | str)
        else json.dumps(value, sort_keys=True)
        for name, value in found.items()
    }


def _sort_key(row: Row) -> list[tuple[int, float, str]]:
    """A key by which any two values compare: nothing, then truths, then numbers, then words."""
    key = []
    for value in row.values():
        if value is None:
            key.append((0, 0.0, ""))
        elif isinstance(value, bool):
            key.append((1, float(value), ""))
        elif isinstance(value, int | float):
            key.append((2, float(value), ""))
        else:
            key.append((3, 0.0, value))
    return key
