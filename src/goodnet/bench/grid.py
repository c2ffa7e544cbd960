"""A grid of cells from a YAML file: axes multiplied out, some cells left out, some added.

YAML is read by ruamel.yaml: its nodes carry lines, and by YAML 1.2, which it follows, `1e-3` is a
number and `no` a word; by YAML 1.1, which PyYAML follows, it is the other way round.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from goodnet.bench.runners import Needs
from goodnet.bench.work import Work, WorkSettings
from goodnet.errors import DataError

_MOST = 100_000
_DEEPEST = 12
_REMEDY = "see docs/bench.md for what a grid looks like"
Where = tuple[str | int, ...]
_Origins = dict[str, Where]
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class GridCell:
    """One cell.

    Attributes:
        work: What it measures.
        settings: Its settings, with paths as the grid has them.
        folder: That relative paths start from.
        needs: Of the machine.
        line: Of the grid file, for messages.
    """

    work: Work
    settings: WorkSettings
    folder: Path
    needs: Needs
    line: int

    @property
    def located(self) -> WorkSettings:
        """The settings with absolute paths."""
        found = _each_path(self.settings.model_dump(), lambda path: self.folder / path)
        return self.work.settings.model_validate(found)

    @property
    def files(self) -> dict[str, Path]:
        """Absolute path of each file it reads, by its path in the grid."""
        found: dict[str, Path] = {}

        def note(path: Path) -> Path:
            found[path.as_posix()] = self.folder / path
            return path

        _each_path(self.settings.model_dump(), note)
        return found


@dataclass(frozen=True)
class Grid:
    """All cells of a grid file.

    Attributes:
        path: The file.
        work: What its cells measure.
        cells: In the order of the file.
    """

    path: Path
    work: Work
    cells: tuple[GridCell, ...]


class _Needs(BaseModel):
    model_config = ConfigDict(extra="forbid")
    threads: Annotated[int, Field(ge=1)] = Needs().threads
    memory: Annotated[ByteSize, Field(ge=1)] = ByteSize(Needs().memory)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    work: str
    constants: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    exclude: list[dict[str, Any]] = []
    include: list[dict[str, Any]] = []
    needs: _Needs = _Needs()


def read_grid(path: Path, works: Mapping[str, Work]) -> Grid:
    """The grid in a YAML file.

    Args:
        path: The file; relative paths in it start from its folder.
        works: What cells may measure, by name.

    Raises:
        DataError: It is no grid; names the file and the line.
    """
    text = _Text(path)
    file = text.checked(_File, text.values, ())
    if file.work not in works:
        raise text.error(("work",), f"work is {file.work!r}", f"choose from: {', '.join(works)}")
    work = works[file.work]
    needs = Needs(threads=file.needs.threads, memory=int(file.needs.memory))
    folder = path.resolve().parent
    cells: dict[str, GridCell] = {}
    for settings, origins in _combinations(text, file, work):
        line = text.line(next(iter(origins.values()), ("work",)))
        checked = text.checked(work.settings, settings, (), origins)
        cell = GridCell(work, checked, folder, needs, line)
        same = cells.setdefault(checked.model_dump_json(), cell)
        if same is not cell:
            raise text.error(
                next(iter(origins.values()), ("work",)),
                f"a cell is there already, from line {same.line}",
                "leave one of them out",
            )
    if not cells:
        raise text.error((), "the grid has no cells", "give axes, or cells under include")
    return Grid(path, work, tuple(cells.values()))


def _combinations(text: _Text, file: _File, work: Work) -> list[tuple[dict[str, Any], _Origins]]:
    """Settings of each cell, and where in the file each of them is."""
    _check_names(text, file, work)
    constants: _Origins = {name: ("constants", name) for name in file.constants}
    names = list(file.axes)
    if math.prod(len(values) for values in file.axes.values()) > _MOST:
        raise text.error(("axes",), f"the grid has more than {_MOST} cells", "make several grids")
    unused = set(range(len(file.exclude)))
    found = []
    for places in itertools.product(*(range(len(file.axes[name])) for name in names)):
        if not names and file.include:
            # A grid may be made of the cells under include alone.
            break
        chosen = dict(zip(names, places, strict=True))
        settings = file.constants | {name: file.axes[name][at] for name, at in chosen.items()}
        hit = {
            at
            for at, pattern in enumerate(file.exclude)
            if all(_same(settings[name], value) for name, value in pattern.items())
        }
        unused -= hit
        if not hit:
            origins: _Origins = {name: ("axes", name, at) for name, at in chosen.items()}
            found.append((settings, origins | constants))
    for at in sorted(unused):
        raise text.error(("exclude", at), "leaves out no cell", "see how its values are written")
    for at, more in enumerate(file.include):
        own: _Origins = {name: ("include", at, name) for name in more}
        found.append((file.constants | more, own | constants | own))
    return found


def _check_names(text: _Text, file: _File, work: Work) -> None:
    for name, values in file.axes.items():
        if name in file.constants:
            raise text.error(("axes", name), f"{name} is a constant too", "leave one of them out")
        if not values:
            raise text.error(("axes", name), f"{name} has no values", "give at least one")
        for at, value in enumerate(values):
            if any(_same(value, other) for other in values[:at]):
                raise text.error(
                    ("axes", name, at), f"{name} has {value!r} twice", "leave one of them out"
                )
    places: list[tuple[Where, str]] = [(("constants", name), name) for name in file.constants]
    places += [(("axes", name), name) for name in file.axes]
    for part in ("exclude", "include"):
        for at, cell in enumerate(getattr(file, part)):
            places += [((part, at, name), name) for name in cell]
    for where, name in places:
        if name not in work.settings.model_fields:
            raise text.error(
                where,
                f"{work.name} has no setting {name!r}",
                f"choose from: {', '.join(work.settings.model_fields)}",
            )
        if where[0] == "exclude" and name not in {*file.axes, *file.constants}:
            raise text.error(where, f"{name} is no axis", f"choose from: {', '.join(file.axes)}")


def _same(one: object, other: object) -> bool:
    # To Python, 1, 1.0 and True are equal.
    return type(one) is type(other) and one == other


class _Text:
    """A YAML file as plain values, and the line of each of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[Where, int] = {(): 1}
        self._yaml = YAML(typ="safe", pure=True)
        try:
            node = self._yaml.compose(path.read_text("utf-8"))
            self.values = {} if node is None else self._plain(node, ())
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = 1 if mark is None else mark.line + 1
            raise self._at(line, f"is no YAML: {error.problem}", _REMEDY) from error
        except (YAMLError, UnicodeDecodeError) as error:
            problem = f"is no YAML: {' '.join(str(error).split())}"
            raise DataError(path, problem, _REMEDY) from error
        except OSError as error:
            problem = f"cannot be opened ({error.strerror or error})"
            raise DataError(path, problem, "give the YAML file of a grid") from error
        if not isinstance(self.values, dict):
            raise self._at(1, "is no mapping", _REMEDY)

    def _plain(self, node: Node, where: Where) -> Any:
        line = node.start_mark.line + 1
        # Aliases can make a small file endless.
        if len(where) > _DEEPEST or len(self._lines) > _MOST:
            raise self._at(line, "is too deep or too long", "write it out with fewer aliases")
        self._lines.setdefault(where, line)
        if isinstance(node, SequenceNode):
            return [self._plain(each, (*where, at)) for at, each in enumerate(node.value)]
        if isinstance(node, MappingNode):
            return self._mapping(node, where)
        assert isinstance(node, ScalarNode)
        value = self._yaml.constructor.construct_object(node)
        if value is not None and type(value) not in (bool, int, float, str):
            kind = type(value).__name__
            raise self._at(line, f"{node.value} is read as a {kind}", "put it in quotes")
        return value

    def _mapping(self, node: MappingNode, where: Where) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = self._plain(key, (*where, "the name of a setting"))
            if not isinstance(name, str):
                raise self._at(line, f"{key.value!r} is no name", "names are words")
            if name in found:
                raise self._at(line, f"{name} is there twice", "leave one of them out")
            self._lines[*where, name] = line
            found[name] = self._plain(value, (*where, name))
        return found

    def line(self, where: Where) -> int:
        """The line of what is there, or of the nearest that holds it."""
        while where not in self._lines:
            where = where[:-1]
        return self._lines[where]

    def error(self, where: Where, problem: str, remedy: str) -> DataError:
        """An error about what is there."""
        return self._at(self.line(where), problem, remedy)

    def _at(self, line: int, problem: str, remedy: str) -> DataError:
        return DataError(f"{self._path}, line {line}", problem, remedy)

    def checked(
        self, kind: type[Model], values: object, where: Where, origins: _Origins | None = None
    ) -> Model:
        """The values as a model.

        Args:
            kind: Of the model.
            values: As read.
            where: They are in the file.
            origins: Where each field is, if not there.
        """
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            # A name that is spelled wrongly is also one that is missing: the former helps.
            first = min(error.errors(), key=lambda each: each["type"] == "missing")
            place: Where = first["loc"]
            name = ".".join(map(str, place)) or "it"
            if place and origins is not None:
                place = (*origins.get(str(place[0]), next(iter(origins.values()), ())), *place[1:])
            shown = "" if first["type"] == "missing" else f" is {first['input']!r}"
            raise self.error((*where, *place), f"{name}{shown}: {first['msg']}", _REMEDY) from error


def _each_path(value: Any, change: Any) -> Any:
    """The value with every path in it changed."""
    if isinstance(value, Path):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each_path(each, change) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_each_path(each, change) for each in value]
    return value
