"""A network's graph as SVG: one box a layer, top to bottom, no box or line over another.

Each layer stands one row below the deepest of its inputs. The longest path runs straight down
the left; what forks off it stands beside it. A line that passes a row without stopping there
has a place of its own in that row, as a box would, and so goes round the boxes.

Source: Sugiyama, Tagawa, Toda 1981, Methods for Visual Understanding of Hierarchical System
Structures. Departure: the longest path is held straight, and places within a row follow from
an isotonic fit, which keeps the distances exactly.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePath
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from scipy.optimize import isotonic_regression

from goodnet.errors import GoodnetError
from goodnet.report import palette
from goodnet.report.wording import grouped, shown_name
from goodnet.results import InspectResult, LayerRow

# A picture beyond these is no longer one that a person reads; a hostile file could ask for it.
MAX_LAYERS = 2000
MAX_PASSING_LINES = 20_000

_FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
_NAME_SIZE = 13
_NAME_LETTER = 0.62 * _NAME_SIZE  # width of a letter, on the wide side
_DETAIL_SIZE = 11
_DETAIL_LETTER = 0.62 * _DETAIL_SIZE
_BOX_HEIGHT = 40.0
_TAG_HEIGHT = 16.0
_MIN_BOX_WIDTH = 190.0
_BESIDE = 26.0  # between boxes of one row
_BETWEEN = 24.0  # between rows
_LINE_WIDTH = 14.0  # room for a line that passes a row
_PORT = 16.0  # between lines that end at one box
_MARGIN = 20.0
_SWEEPS = 8
_PLACING_SWEEPS = 24
_PULL = 0.001
_NAME_LIMIT = 30
_KIND_LIMIT = 20


@dataclass(frozen=True)
class Box:
    """The place of one layer; (`x`, `y`) is the top left corner, in pixels."""

    layer: LayerRow
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Line:
    """A line from the layer at place `source` to that at `target`, through `points`."""

    source: int
    target: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class DiagramLayout:
    """Where everything stands; `boxes` in the order of the layers given."""

    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    width: float
    height: float


def network_diagram(result: InspectResult) -> str:
    """The network as SVG text: boxes with name, kind, output shape, parameters; arrows between.

    The layer to prune is highlighted and labelled. The text depends on `result` alone.

    Raises:
        GoodnetError: The network has more layers or connections than a person could read.
    """
    heading = _heading(result)
    layout = lay_out(result.layers, prune_layer=result.prune_layer)
    top = _MARGIN + 20 * len(heading)
    heading_width = max(
        len(line) * (_NAME_LETTER if at == 0 else _DETAIL_LETTER) for at, line in enumerate(heading)
    )
    width = max(layout.width, heading_width) + 2 * _MARGIN
    height = top + layout.height + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{escape(_FONT)}" role="img">',
        f"<title>{escape(heading[0])}</title>",
        f'<rect width="100%" height="100%" style="fill: {palette.PAPER.light}"/>',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto">'
        f'<path d="M0 0.8 L8 4 L0 7.2 z" style="fill: {palette.MUTED.light}"/></marker></defs>',
    ]
    for at, line in enumerate(heading):
        parts.append(
            _text(
                line,
                x=_MARGIN,
                y=_MARGIN + 20 * at + 8,
                size=_NAME_SIZE if at == 0 else _DETAIL_SIZE,
                colour=palette.INK if at == 0 else palette.MUTED,
                bold=at == 0,
            )
        )
    parts.append(f'<g transform="translate({_MARGIN:g} {top:g})">')
    parts += [_drawn_line(line) for line in layout.lines]
    parts += [_drawn_box(box, prune=box.layer.name == result.prune_layer) for box in layout.boxes]
    parts.append("</g></svg>\n")
    return "\n".join(parts)


def lay_out(layers: Sequence[LayerRow], *, prune_layer: str | None = None) -> DiagramLayout:
    """The place of each of `layers` and the course of each line between them.

    Inputs that name no layer, a layer itself, or one that would close a circle are not drawn.

    Raises:
        GoodnetError: More than `MAX_LAYERS` layers, or lines passing more than
            `MAX_PASSING_LINES` rows.
    """
    if len(layers) > MAX_LAYERS:
        raise GoodnetError(
            f"the network has {len(layers)} layers; a diagram shows up to {MAX_LAYERS}"
        )
    if not layers:
        return DiagramLayout((), (), 0.0, 0.0)
    edges = _edges(layers)
    ranks = _ranks(len(layers), edges)
    grid = _Grid.build(len(layers), edges, ranks)
    box_width = max(_MIN_BOX_WIDTH, *(_needed_width(layer) for layer in layers))
    grid.order_rows()
    centres = grid.place(box_width)

    row_heights = [
        _BOX_HEIGHT
        + _TAG_HEIGHT * any(node < len(layers) and layers[node].name == prune_layer for node in row)
        for row in grid.rows
    ]
    row_tops = _row_tops(grid, centres, row_heights)
    left = min(
        centre - (box_width / 2 if node < len(layers) else _LINE_WIDTH / 2)
        for node, centre in enumerate(centres)
    )
    centres = [centre - left for centre in centres]
    boxes = tuple(
        Box(
            layer,
            x=centres[node] - box_width / 2,
            y=row_tops[ranks[node]],
            width=box_width,
            height=_BOX_HEIGHT + _TAG_HEIGHT * (layer.name == prune_layer),
        )
        for node, layer in enumerate(layers)
    )
    row_spans = [(top, top + tall) for top, tall in zip(row_tops, row_heights, strict=True)]
    lines = _lines(grid, boxes, centres, row_spans)
    right = max(
        centre + (box_width / 2 if node < len(layers) else _LINE_WIDTH / 2)
        for node, centre in enumerate(centres)
    )
    return DiagramLayout(boxes, lines, right, row_tops[-1] + row_heights[-1])


def _edges(layers: Sequence[LayerRow]) -> list[tuple[int, int]]:
    """Pairs (source, target) of places in `layers`, each once, none closing a circle."""
    places: dict[str, int] = {}
    for place, layer in enumerate(layers):
        places.setdefault(layer.name, place)
    wanted = list(
        dict.fromkeys(
            (places[name], place)
            for place, layer in enumerate(layers)
            for name in layer.inputs
            if name in places and places[name] != place
        )
    )
    order = _topological_places(len(layers), wanted)
    return [edge for edge in wanted if order[edge[0]] < order[edge[1]]]


def _topological_places(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Place of each node in an order with sources first; what lies in a circle comes last."""
    missing = [0] * count
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        missing[target] += 1
        after[source].append(target)
    ready = [node for node in range(count) if missing[node] == 0]
    order: list[int] = []
    for node in ready:
        order.append(node)
        for target in after[node]:
            missing[target] -= 1
            if missing[target] == 0:
                ready.append(target)
    done = set(order)
    order += [node for node in range(count) if node not in done]
    places = [0] * count
    for place, node in enumerate(order):
        places[node] = place
    return places


def _ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Row of each node: one below the deepest of its inputs."""
    before: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        before[target].append(source)
    places = _topological_places(count, edges)
    ranks = [0] * count
    for node in sorted(range(count), key=places.__getitem__):
        ranks[node] = max((ranks[source] + 1 for source in before[node]), default=0)
    return ranks


@dataclass
class _Grid:
    """Boxes and passing lines in rows; nodes from `boxes` on are lines that pass a row."""

    boxes: int
    rows: list[list[int]]
    above: list[list[int]]
    below: list[list[int]]
    chains: dict[tuple[int, int], list[int]]
    spine: set[int] = field(default_factory=set)

    @classmethod
    def build(cls, count: int, edges: Sequence[tuple[int, int]], ranks: Sequence[int]) -> _Grid:
        passing = sum(ranks[target] - ranks[source] - 1 for source, target in edges)
        if passing > MAX_PASSING_LINES:
            raise GoodnetError(
                f"lines between the network's layers pass {passing} rows; "
                f"a diagram shows up to {MAX_PASSING_LINES}"
            )
        nodes = count + passing
        grid = cls(
            boxes=count,
            rows=[[] for _ in range(max(ranks) + 1)],
            above=[[] for _ in range(nodes)],
            below=[[] for _ in range(nodes)],
            chains={},
        )
        for node, rank in enumerate(ranks):
            grid.rows[rank].append(node)
        new = count
        for source, target in edges:
            chain = [source]
            for rank in range(ranks[source] + 1, ranks[target]):
                grid.rows[rank].append(new)
                chain.append(new)
                new += 1
            chain.append(target)
            grid.chains[source, target] = chain
            for upper, lower in pairwise(chain):
                grid.below[upper].append(lower)
                grid.above[lower].append(upper)
        grid.spine = grid._longest_path()
        return grid

    def _longest_path(self) -> set[int]:
        """One box a row: from a box of the last row up, always to the first box just above."""
        node = self.rows[-1][0]
        path = {node}
        for row in reversed(self.rows[:-1]):
            node = next(above for above in self.above[node] if above in row and above < self.boxes)
            path.add(node)
        return path

    def order_rows(self) -> None:
        """Puts each row in an order with few crossings: by the mean place of the neighbours."""
        places = {node: place for row in self.rows for place, node in enumerate(row)}
        for sweep in range(_SWEEPS):
            downwards = sweep % 2 == 0
            neighbours = self.above if downwards else self.below
            for row in self.rows if downwards else reversed(self.rows):
                keys = {
                    node: (
                        node not in self.spine,
                        sum(places[near] for near in neighbours[node]) / len(neighbours[node])
                        if neighbours[node]
                        else places[node],
                        places[node],
                    )
                    for node in row
                }
                row.sort(key=keys.__getitem__)
                places.update({node: place for place, node in enumerate(row)})

    def place(self, box_width: float) -> list[float]:
        """Centre of each node: the spine at 0, the others near their neighbours, none touching."""
        centres = [0.0] * len(self.above)
        offsets: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for row in self.rows:
            half = [box_width / 2 if node < self.boxes else _LINE_WIDTH / 2 for node in row]
            gaps = [0.0]
            for left in range(len(row) - 1):
                lines_only = row[left] >= self.boxes and row[left + 1] >= self.boxes
                gaps.append(half[left] + half[left + 1] + (0 if lines_only else _BESIDE / 2))
            offsets.append(np.cumsum(gaps))
            for node, offset in zip(row, offsets[-1], strict=True):
                centres[node] = float(offset)
        for sweep in range(_PLACING_SWEEPS):
            rows = range(len(self.rows))
            for rank in rows if sweep % 2 == 0 else reversed(rows):
                row = self.rows[rank]
                if len(row) == 1 and row[0] in self.spine:
                    continue
                wanted = [self._wanted_centre(node, centres) for node in row]
                weights = [1e6 if node in self.spine else 1.0 for node in row]
                fit = isotonic_regression(np.array(wanted) - offsets[rank], weights=weights)
                for node, centre in zip(row, fit.x + offsets[rank], strict=True):
                    centres[node] = float(centre)
        return [0.0 if node in self.spine else centre for node, centre in enumerate(centres)]

    def _wanted_centre(self, node: int, centres: Sequence[float]) -> float:
        """Mean centre of the neighbours; the spine pulls but little, so branches run straight."""
        if node in self.spine:
            return 0.0
        near = [*self.above[node], *self.below[node]]
        if not near:
            return centres[node]
        weights = [_PULL if other in self.spine else 1.0 for other in near]
        pulled = sum(weight * centres[other] for weight, other in zip(weights, near, strict=True))
        return pulled / sum(weights)


def _row_tops(grid: _Grid, centres: Sequence[float], row_heights: Sequence[float]) -> list[float]:
    """Top of each row; rows stand further apart where lines between them go far sideways."""
    tops = [0.0]
    for rank in range(len(grid.rows) - 1):
        aside = max(
            (
                abs(centres[node] - centres[low])
                for node in grid.rows[rank]
                for low in grid.below[node]
            ),
            default=0.0,
        )
        tops.append(tops[-1] + row_heights[rank] + _BETWEEN + min(aside / 10, 40))
    return tops


def _lines(
    grid: _Grid,
    boxes: Sequence[Box],
    centres: Sequence[float],
    row_spans: Sequence[tuple[float, float]],
) -> tuple[Line, ...]:
    """The course of each line, from port to port, straight past each row between.

    Args:
        grid: Which nodes each line goes through.
        boxes: All boxes, in the order of the layers.
        centres: Centre of each node.
        row_spans: Top and bottom of each row.
    """
    ranks = {node: rank for rank, row in enumerate(grid.rows) for node in row}
    outgoing: dict[int, dict[tuple[int, int], float]] = {node: {} for node in range(grid.boxes)}
    incoming: dict[int, dict[tuple[int, int], float]] = {node: {} for node in range(grid.boxes)}
    for edge, chain in grid.chains.items():
        outgoing[edge[0]][edge] = centres[chain[1]]
        incoming[edge[1]][edge] = centres[chain[-2]]
    leaves, arrives = _ports(outgoing, boxes), _ports(incoming, boxes)
    lines = []
    for (source, target), chain in grid.chains.items():
        passed = [(centres[node], y) for node in chain[1:-1] for y in row_spans[ranks[node]]]
        leave, box = leaves[source, target], boxes[source]
        start = [(leave, box.y + box.height)]
        row_bottom = row_spans[ranks[source]][1]
        if row_bottom > box.y + box.height:  # straight down past a taller box of this row
            start.append((leave, row_bottom))
        end = (arrives[source, target], boxes[target].y)
        lines.append(Line(source, target, (*start, *passed, end)))
    return tuple(lines)


def _ports(
    ends: Mapping[int, Mapping[tuple[int, int], float]], boxes: Sequence[Box]
) -> dict[tuple[int, int], float]:
    """Where on its box each line ends: a straight one in the middle, the others beside it.

    Args:
        ends: For each box, its lines and the centre each comes from or goes to.
        boxes: All boxes, in the order of the layers.
    """
    ports: dict[tuple[int, int], float] = {}
    for node, lines in ends.items():
        if not lines:
            continue
        box = boxes[node]
        middle = box.x + box.width / 2
        order = sorted(lines, key=lambda edge: (lines[edge], edge))
        straight = [place for place, edge in enumerate(order) if abs(lines[edge] - middle) < 1]
        centre = straight[0] if straight else (len(order) - 1) / 2
        reach = max(centre, len(order) - 1 - centre, 1)
        step = min(_PORT, (box.width / 2 - 8) / reach)
        for place, edge in enumerate(order):
            ports[edge] = middle + (place - centre) * step
    return ports


def _drawn_line(line: Line) -> str:
    """A path of curves between rows and straight pieces past them."""
    x, y = line.points[0]
    course = [f"M{x:.1f} {y:.1f}"]
    for left, top in line.points[1:]:
        if abs(left - x) < 0.05:
            course.append(f"L{left:.1f} {top:.1f}")
        else:
            middle = (y + top) / 2
            course.append(f"C{x:.1f} {middle:.1f} {left:.1f} {middle:.1f} {left:.1f} {top:.1f}")
        x, y = left, top
    return (
        f'<path class="line" d="{" ".join(course)}" marker-end="url(#arrow)" '
        f'style="fill: none; stroke: {palette.MUTED.light}; stroke-width: 1.3"/>'
    )


def _drawn_box(box: Box, *, prune: bool) -> str:
    layer = box.layer
    fill, edge = (
        (palette.HIGHLIGHT, palette.HIGHLIGHT_EDGE) if prune else (palette.SHADE, palette.RULE)
    )
    left, right = box.x + 10, box.x + box.width - 10
    texts = [
        _text(
            _layer_name(layer), x=left, y=box.y + 17, size=_NAME_SIZE, colour=palette.INK, bold=True
        ),
        _text(_layer_kind(layer), x=right, y=box.y + 17, colour=palette.MUTED, end=True),
        _text(_layer_shape(layer), x=left, y=box.y + 32, colour=palette.INK),
        _text(_layer_parameters(layer), x=right, y=box.y + 32, colour=palette.MUTED, end=True),
    ]
    if prune:
        texts.append(
            _text(
                "▲ the layer to prune",
                x=left,
                y=box.y + 48,
                colour=palette.HIGHLIGHT_EDGE,
                bold=True,
            )
        )
    return "\n".join(
        [
            f'<g class="{"box prune" if prune else "box"}"><title>{escape(shown_name(layer.name))}'
            "</title>",
            f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
            f'height="{box.height:.1f}" rx="4" style="fill: {fill.light}; stroke: {edge.light}; '
            f'stroke-width: {1.8 if prune else 1.2}"/>',
            *texts,
            "</g>",
        ]
    )


def _text(
    content: str,
    *,
    x: float,
    y: float,
    colour: palette.Colour,
    size: int = _DETAIL_SIZE,
    bold: bool = False,
    end: bool = False,
) -> str:
    extra = (' font-weight="600"' if bold else "") + (' text-anchor="end"' if end else "")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{extra} '
        f'style="fill: {colour.light}">{escape(content)}</text>'
    )


def _layer_name(layer: LayerRow) -> str:
    return shown_name(layer.name, limit=_NAME_LIMIT)


def _layer_kind(layer: LayerRow) -> str:
    return shown_name(layer.kind, limit=_KIND_LIMIT)


def _layer_shape(layer: LayerRow) -> str:
    return shown_name("×".join(map(str, layer.shape)) or "scalar", limit=_NAME_LIMIT)


def _layer_parameters(layer: LayerRow) -> str:
    unit = "parameter" if layer.parameters == 1 else "parameters"
    return f"{grouped(layer.parameters)} {unit}" if layer.parameters else "no parameters"


def _needed_width(layer: LayerRow) -> float:
    """Width of a box in which neither of the two rows of text runs together."""
    upper = _cells(_layer_name(layer)) * _NAME_LETTER + _cells(_layer_kind(layer)) * _DETAIL_LETTER
    lower = (_cells(_layer_shape(layer)) + _cells(_layer_parameters(layer))) * _DETAIL_LETTER
    return max(upper, lower) + 40


def _cells(text: str) -> int:
    """Width of `text` in letters; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _heading(result: InspectResult) -> list[str]:
    """The title lines: the file, how it wants its input, what it answers."""
    parameters = sum(layer.parameters for layer in result.layers)
    lines = [
        shown_name(PurePath(result.path).name),
        f"{shown_name(result.format)}, {len(result.layers)} layers, "
        f"{grouped(parameters)} parameters",
        f"input {_described_input(result.input)}",
        f"{grouped(result.classes)} classes",
    ]
    if result.prune_layer is None:
        lines.append("no layer to prune was found")
    return lines


def _described_input(reading: Mapping[str, Any]) -> str:
    """The input in words, e.g. `3×55×47, channels-last, 0…255, RGB`; other fields by name."""
    words = []
    for key, value in reading.items():
        if value is None or value in ([], ()) or (key == "label_offset" and value == 0):
            continue
        if isinstance(value, (tuple, list)):
            joint = {"size": "×", "range": "…"}.get(key, ", ")
            described = joint.join(
                f"{part:g}" if isinstance(part, float) else str(part) for part in value
            )
        else:
            described = str(value)
        if key not in {"size", "layout", "range", "channel_order"}:
            described = f"{key.replace('_', ' ')} {described}"
        words.append(shown_name(described))
    return shown_name(", ".join(words), limit=100)
