from __future__ import annotations

import random
from itertools import combinations
from types import ModuleType
from xml.etree import ElementTree

import pytest

from goodnet.errors import GoodnetError
from goodnet.report.diagram import MAX_LAYERS, Box, DiagramLayout, lay_out, network_diagram
from goodnet.results import LayerRow

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - drawn by the test


def layer(name: str, *inputs: str) -> LayerRow:
    return LayerRow(name, "Conv2d", (8, 4, 4), 10, inputs)


def random_layers(seed: int, count: int = 25) -> tuple[LayerRow, ...]:
    """A network in which each layer reads one to three of the earlier ones."""
    draw = random.Random(seed)  # noqa: S311
    rows = [layer("l0")]
    for place in range(1, count):
        earlier = draw.sample(range(place), k=min(place, draw.choice((1, 1, 2, 3))))
        rows.append(layer(f"l{place}", *(f"l{each}" for each in earlier)))
    return tuple(rows)


def apart(one: Box, other: Box) -> bool:
    return (
        one.x + one.width <= other.x
        or other.x + other.width <= one.x
        or one.y + one.height <= other.y
        or other.y + other.height <= one.y
    )


def assert_nothing_overlaps(layout: DiagramLayout) -> None:
    for one, other in combinations(layout.boxes, 2):
        assert apart(one, other), f"{one} lies over {other}"
    for box in layout.boxes:
        assert box.x >= -1e-6
        assert box.x + box.width <= layout.width + 1e-6
        assert box.y + box.height <= layout.height + 1e-6
    # A curve runs within the rectangle of its end points, so that must be free of boxes.
    for line in layout.lines:
        for (x0, y0), (x1, y1) in zip(line.points, line.points[1:], strict=False):
            left, right = sorted((x0, x1))
            assert y1 >= y0
            for box in layout.boxes:
                assert (
                    right <= box.x
                    or left >= box.x + box.width
                    or y1 <= box.y + 1e-6
                    or y0 >= box.y + box.height - 1e-6
                ), f"the line {line} runs through {box}"


def test_known_networks_have_no_overlaps(examples: ModuleType) -> None:
    for layers, prune_layer in (
        (examples.deepid_layers(), "pool_3"),
        (examples.resnet_layers(), "layer4.1.add"),
    ):
        layout = lay_out(layers, prune_layer=prune_layer)
        assert [box.layer for box in layout.boxes] == list(layers)
        assert_nothing_overlaps(layout)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_have_no_overlaps(seed: int) -> None:
    layers = random_layers(seed)
    assert_nothing_overlaps(lay_out(layers, prune_layer="l7"))


def test_every_connection_is_drawn_once_from_box_to_box(examples: ModuleType) -> None:
    layers = examples.resnet_layers()
    layout = lay_out(layers)
    places = {row.name: place for place, row in enumerate(layers)}
    wanted = sorted((places[name], places[row.name]) for row in layers for name in row.inputs)
    assert sorted((line.source, line.target) for line in layout.lines) == wanted
    for line in layout.lines:
        source, target = layout.boxes[line.source], layout.boxes[line.target]
        assert line.points[0][1] == source.y + source.height
        assert line.points[-1][1] == target.y
        assert source.x < line.points[0][0] < source.x + source.width
        assert target.x < line.points[-1][0] < target.x + target.width


def test_fork_of_deepid_stands_side_by_side(examples: ModuleType) -> None:
    boxes = {box.layer.name: box for box in lay_out(examples.deepid_layers()).boxes}
    assert boxes["conv_4"].y == boxes["flatten_1"].y
    assert boxes["conv_4"].x != boxes["flatten_1"].x
    assert boxes["add_1"].y > max(boxes["fc_1"].y, boxes["fc_2"].y)
    assert boxes["pool_3"].x == boxes["conv_4"].x == boxes["add_1"].x


def test_svg_has_each_layer_once_with_its_facts(examples: ModuleType) -> None:
    result = examples.inspect_result(examples.deepid_layers(), prune_layer="pool_3")
    root = parsed(network_diagram(result))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for row in result.layers:
        assert texts.count(row.name) == 1
        assert "×".join(map(str, row.shape)) in texts
    assert "192,160 parameters" in texts
    assert texts.count("▲ the layer to prune") == 1
    assert "1,283 classes" in texts
    assert "input 3×55×47, channels-last, 0…255, RGB" in texts
    groups = [group for group in root.iter(f"{SVG}g") if "box" in group.get("class", "").split()]
    assert len(groups) == 15
    (pruned,) = (group for group in groups if group.get("class") == "box prune")
    assert pruned.findtext(f"{SVG}title") == "pool_3"


def test_names_are_escaped_and_clipped(examples: ModuleType) -> None:
    layers = (layer(examples.HOSTILE), layer("x" * 500, examples.HOSTILE))
    result = examples.inspect_result(layers, prune_layer=examples.HOSTILE, path=examples.HOSTILE)
    svg = network_diagram(result)
    root = parsed(svg)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "x" * 100 not in svg
    assert any("<script>" in (title.text or "") for title in root.iter(f"{SVG}title"))
    for box in lay_out(layers).boxes:
        assert box.width < 600


def test_same_text_twice(examples: ModuleType) -> None:
    result = examples.inspect_result(examples.resnet_layers(), prune_layer=None)
    assert network_diagram(result) == network_diagram(result)
    assert "no layer to prune was found" in network_diagram(result)


def test_circles_twins_and_unknown_inputs_do_not_stop_the_drawing() -> None:
    layers = (
        layer("a", "c", "nowhere"),
        layer("b", "a", "b"),
        layer("c", "b"),
        layer("c", "a"),
        layer("d"),
    )
    layout = lay_out(layers)
    assert_nothing_overlaps(layout)
    assert len(layout.boxes) == 5
    assert sorted((line.source, line.target) for line in layout.lines) == [(0, 1), (0, 3), (1, 2)]


def test_no_layers_is_a_picture_of_its_heading(examples: ModuleType) -> None:
    svg = network_diagram(examples.inspect_result((), prune_layer=None))
    assert "0 layers" in svg


def test_too_large_a_network_is_refused_with_the_limit() -> None:
    many = tuple(layer(f"l{place}") for place in range(MAX_LAYERS + 1))
    with pytest.raises(GoodnetError, match=f"{MAX_LAYERS + 1} layers; .* up to {MAX_LAYERS}"):
        lay_out(many)
    dense = tuple(layer(f"l{place}", *(f"l{each}" for each in range(place))) for place in range(60))
    # Layer i feeds j past j - i - 1 rows: as many as there are threes among 60.
    with pytest.raises(GoodnetError, match="pass 34220 rows"):
        lay_out(dense)
