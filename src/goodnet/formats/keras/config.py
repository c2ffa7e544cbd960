"""The part of a Keras file that says what the layers are, checked before it is used.

A Keras config can name any importable Python object, and Keras will import and call
it. So nothing of the config reaches Keras but what is listed here: known layer
classes, and of their settings the known ones, which are numbers, words and lists.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goodnet.errors import ModelFileError, UnsafeFileError

# Settings of each known layer; all others (initialisers, regularisers, …) are not read.
_WINDOW = ("strides", "padding", "data_format")
_CONVOLUTION = ("kernel_size", *_WINDOW, "dilation_rate", "activation", "use_bias")
KNOWN_LAYERS: dict[str, tuple[str, ...]] = {
    "Activation": ("activation",),
    "Add": (),
    "Average": (),
    "AveragePooling2D": ("pool_size", *_WINDOW),
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": ("filters", "groups", *_CONVOLUTION),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": ("depth_multiplier", *_CONVOLUTION),
    "Dropout": ("rate",),
    "ELU": ("alpha",),
    "Flatten": ("data_format",),
    "GaussianNoise": ("stddev",),
    "GlobalAveragePooling2D": ("data_format", "keepdims"),
    "GlobalMaxPooling2D": ("data_format", "keepdims"),
    "InputLayer": ("batch_shape",),
    "LeakyReLU": ("negative_slope",),
    "MaxPooling2D": ("pool_size", *_WINDOW),
    "Maximum": (),
    "Multiply": (),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "Rescaling": ("scale", "offset"),
    "Softmax": ("axis",),
    "SpatialDropout2D": ("rate", "data_format"),
    "Subtract": (),
    "UpSampling2D": ("size", "data_format", "interpolation"),
    "ZeroPadding2D": ("padding", "data_format"),
}
KNOWN_ACTIVATIONS = frozenset(
    [
        "linear",
        "relu",
        "softmax",
        "sigmoid",
        "tanh",
        "elu",
        "selu",
        "gelu",
        "silu",
        "swish",
        "leaky_relu",
        "relu6",
        "softplus",
    ]
)
_LONGEST_CONFIG = 2**24
_MOST_LAYERS = 4096
_LONGEST_NAME = 1024
_DEEPEST_LIST = 3
# What Keras 2 called some of them.
_OLD_SETTINGS = {"batch_input_shape": "batch_shape", "alpha": "negative_slope"}


@dataclass(frozen=True)
class KerasLayer:
    """One layer of a Keras network.

    Attributes:
        name: The file's own.
        kind: Class name, one of `KNOWN_LAYERS`.
        settings: Its known settings.
        calls: For each time it is applied, the names of the layers it reads; a layer
            that is applied several times is named `name:0`, `name:1`, … in them.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    calls: tuple[tuple[str, ...], ...]

    @property
    def values(self) -> tuple[str, ...]:
        """What its outputs are called where other layers read them."""
        if len(self.calls) < 2:
            return (self.name,)
        return tuple(f"{self.name}:{number}" for number in range(len(self.calls)))


@dataclass(frozen=True)
class KerasGraph:
    """The layers of a Keras network in file order, with its one input and one output."""

    layers: tuple[KerasLayer, ...]
    output: str

    def rewired(self, old: str, new: KerasLayer, readers: Iterable[str]) -> KerasGraph:
        """The graph with `new` between `old` and those of its readers that are named."""
        chosen = set(readers)
        layers = []
        for layer in self.layers:
            if layer.name in chosen:
                calls = tuple(
                    tuple(new.name if name == old else name for name in call)
                    for call in layer.calls
                )
                layer = replace(layer, calls=calls)  # noqa: PLW2901
            layers.append(layer)
            if old in layer.values:
                layers.append(new)
        output = new.name if self.output == old and not chosen else self.output
        return KerasGraph(tuple(layers), output)

    def in_order(self) -> list[tuple[KerasLayer, int]]:
        """Each call (layer, its number) after those it reads, else in file order.

        A layer applied twice stands once in the file, perhaps before what it reads the
        second time. Calls in a circle, and those that read from one, are left out.
        """
        calls = [
            (layer, number) for layer in self.layers for number in range(max(1, len(layer.calls)))
        ]
        readers: dict[str, list[int]] = {}
        missing = []
        for place, (layer, number) in enumerate(calls):
            read = set(layer.calls[number]) if layer.calls else set()
            missing.append(len(read))
            for name in read:
                readers.setdefault(name, []).append(place)
        ready = [place for place, count in enumerate(missing) if count == 0]
        order = []
        while ready:
            layer, number = calls[heapq.heappop(ready)]
            order.append((layer, number))
            for place in readers.get(layer.values[number], ()):
                missing[place] -= 1
                if missing[place] == 0:
                    heapq.heappush(ready, place)
        return order


def parse_config(text: str | bytes, path: Path) -> KerasGraph:
    """The checked graph of a Keras model config, of Keras 2 or 3.

    Args:
        text: The config's JSON.
        path: The file it is from, for messages.

    Raises:
        UnsafeFileError: A Lambda, custom or unknown layer, or a setting that is not a
            number, a word or a list of them.
        ModelFileError: Not a config of a Sequential or functional classifier.
    """
    if len(text) > _LONGEST_CONFIG:
        raise UnsafeFileError(
            path, f"its model config is {len(text)} characters long", "get the file again"
        )
    try:
        config = json.loads(text)
        kind, body = config["class_name"], config["config"]
        entries = body["layers"] if isinstance(body, dict) else body
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelFileError(
            path, "its model config cannot be read", "save the whole model with model.save"
        ) from error
    if kind not in ("Sequential", "Functional", "Model"):
        raise UnsafeFileError(
            path,
            f"is a model of class {_short(kind)}, which could run code of its own",
            "save it as a Sequential or functional model of plain layers",
        )
    try:
        if len(entries) > _MOST_LAYERS:
            raise UnsafeFileError(
                path, f"claims to have {len(entries)} layers", "get the file again"
            )
        layers = [_layer(entry, path) for entry in entries]
        if kind == "Sequential":
            return _sequential(layers, entries, path)
        return _functional(layers, entries, body, path)
    except (
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ModelFileError(
            path,
            f"its model config is damaged ({type(error).__name__}: {str(error)[:80]})",
            "save the model again",
        ) from error


def _layer(entry: dict[str, Any], path: Path) -> KerasLayer:
    kind, config = entry["class_name"], entry["config"]
    name = entry.get("name") or config.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise ModelFileError(
            path,
            f"a layer is named {_short(name)}",
            f"name layers by words of up to {_LONGEST_NAME} characters",
        )
    registered = entry.get("registered_name")
    module = entry.get("module")
    if kind in ("Sequential", "Functional", "Model"):
        raise UnsafeFileError(
            path,
            f"layer {name!r} is a whole model inside the model, which is not read",
            "build one flat functional model and save that",
        )
    custom = registered not in (None, kind) or not f"{module or 'keras'}.".startswith("keras.")
    if kind not in KNOWN_LAYERS or custom:
        raise UnsafeFileError(
            path,
            f"layer {name!r} is a {_short(registered or kind)} layer, which is not a known plain "
            "layer and could run code of its own",
            f"replace it by plain layers ({', '.join(sorted(KNOWN_LAYERS)[:6])}, …)",
        )
    if config.get("dtype") not in (None, "float32") and "float32" not in json.dumps(
        config["dtype"]
    ):
        raise ModelFileError(
            path, f"layer {name!r} does not compute in float32", "save the model in float32"
        )
    settings = {}
    for key, value in config.items():
        current = _OLD_SETTINGS.get(key, key) if kind != "ELU" else key
        if current in KNOWN_LAYERS[kind]:
            settings[current] = _plain(value, f"{current} of layer {name!r}", path)
    activation = settings.get("activation")
    if activation is not None and activation not in KNOWN_ACTIVATIONS:
        raise UnsafeFileError(
            path,
            f"layer {name!r} has the unknown activation {_short(activation)}",
            f"use one of: {', '.join(sorted(KNOWN_ACTIVATIONS))}",
        )
    return KerasLayer(name, kind, settings, ())


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _plain(value: Any, where: str, path: Path, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and len(value) <= 64 and depth < _DEEPEST_LIST:
        return [_plain(item, where, path, depth + 1) for item in value]
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        return _plain(list(value["items"]), where, path, depth)
    raise UnsafeFileError(
        path,
        f"{where} is not a number, a word or a list of them but {_short(value)}",
        "save the model with plain settings",
    )


def _sequential(layers: list[KerasLayer], entries: list[dict[str, Any]], path: Path) -> KerasGraph:
    if layers and layers[0].kind != "InputLayer":
        first = entries[0]["config"]
        shape = first.get("batch_shape") or first.get("batch_input_shape")
        if shape is None:
            raise ModelFileError(
                path, "does not say the size of its input", "build the model with an Input layer"
            )
        settings = {"batch_shape": _plain(shape, "input shape", path)}
        names = {layer.name for layer in layers}
        free = (name for name in ("input", *map("input_{}".format, range(1, len(names) + 1))))
        name = next(name for name in free if name not in names)
        layers.insert(0, KerasLayer(name, "InputLayer", settings, ()))
    chained = [layers[0]]
    for layer in layers[1:]:
        chained.append(replace(layer, calls=((chained[-1].name,),)))
    return _checked(KerasGraph(tuple(chained), chained[-1].name), path)


def _functional(
    layers: list[KerasLayer], entries: list[dict[str, Any]], body: dict[str, Any], path: Path
) -> KerasGraph:
    repeated = {
        layer.name
        for layer, entry in zip(layers, entries, strict=True)
        if len(entry.get("inbound_nodes", ())) > 1
    }

    def reference(name: str, node: int) -> str:
        return f"{name}:{node}" if name in repeated else name

    wired = []
    for layer, entry in zip(layers, entries, strict=True):
        calls = tuple(
            tuple(reference(str(name), int(node)) for name, node in _sources(call))
            for call in entry.get("inbound_nodes", ())
        )
        wired.append(replace(layer, calls=calls))
    ends = []
    for key in ("input_layers", "output_layers"):
        value = body[key]
        if value and isinstance(value[0], str):
            value = [value]
        if len(value) != 1:
            raise ModelFileError(
                path, f"has {len(value)} {key.replace('_layers', 's')}", "give a classifier"
            )
        ends.append(reference(str(value[0][0]), int(value[0][1])))
    return _checked(KerasGraph(tuple(wired), ends[1]), path)


def _sources(call: Any) -> list[tuple[str, int]]:
    """The (layer, node) pairs that one call reads, from the config of Keras 2 or 3."""
    if isinstance(call, dict):
        found: list[tuple[str, int]] = []
        waiting = call["args"][::-1]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list):
                waiting.extend(reversed(value))
            elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
                history = value["config"]["keras_history"]
                found.append((history[0], history[1]))
        return found
    return [(item[0], item[1]) for item in call]


def _checked(graph: KerasGraph, path: Path) -> KerasGraph:
    names = [layer.name for layer in graph.layers]
    inputs = [layer for layer in graph.layers if layer.kind == "InputLayer"]
    if len(set(names)) != len(names):
        raise ModelFileError(path, "has two layers of one name", "give each layer its own name")
    if len(inputs) != 1:
        raise ModelFileError(path, f"has {len(inputs)} inputs", "give a network with one input")
    values = [value for layer in graph.layers for value in layer.values]
    known = set(values)
    if len(known) != len(values) or known & {
        layer.name for layer in graph.layers if len(layer.calls) > 1
    }:
        raise ModelFileError(path, "has two layers of one name", "give each layer its own name")
    for layer in graph.layers:
        if layer.kind == "InputLayer":
            if layer.calls:
                raise ModelFileError(path, "its input reads a layer", "save the model again")
            continue
        for call in layer.calls or ((),):
            missing = [name for name in call if name not in known]
            if missing or not call:
                raise ModelFileError(
                    path,
                    f"layer {layer.name!r} reads {_short(missing) if missing else 'nothing'}, "
                    "which is not there",
                    "save the model again",
                )
    if graph.output not in known or len(graph.in_order()) != len(values):
        raise ModelFileError(path, "its layers read each other in a circle", "save the model again")
    read = {name for layer in graph.layers for call in layer.calls for name in call}
    unread = known - read - {graph.output}
    if unread:
        raise ModelFileError(
            path, f"layer {min(unread)!r} leads nowhere", "save the model without it"
        )
    return graph
