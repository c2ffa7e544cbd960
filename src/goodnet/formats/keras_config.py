"""The part of a Keras file that says what the layers are, checked before it is used.

A Keras config can name any importable Python object, and Keras will import and call
it. So nothing of the config reaches Keras but what is listed here: known layer
classes, and of their settings the known ones, which are numbers, words and lists.
"""

from __future__ import annotations

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
            if layer.name == old:
                layers.append(new)
        output = new.name if self.output == old and not chosen else self.output
        return KerasGraph(tuple(layers), output)


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
            f"is a model of class {kind!r}, which could run code of its own",
            "save it as a Sequential or functional model of plain layers",
        )
    try:
        layers = [_layer(entry, path) for entry in entries]
        if kind == "Sequential":
            return _sequential(layers, entries, path)
        return _functional(layers, entries, body, path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelFileError(
            path,
            f"its model config is damaged ({type(error).__name__}: {error})",
            "save the model again",
        ) from error


def _layer(entry: dict[str, Any], path: Path) -> KerasLayer:
    kind, config = entry["class_name"], entry["config"]
    name = str(entry.get("name") or config.get("name"))
    registered = entry.get("registered_name")
    module = entry.get("module")
    if kind in ("Sequential", "Functional", "Model"):
        raise UnsafeFileError(
            path,
            f"layer {name!r} is a whole model inside the model, which is not read",
            "build one flat functional model and save that",
        )
    custom = registered not in (None, kind) or not str(module or "keras.layers").startswith("keras")
    if kind not in KNOWN_LAYERS or custom:
        raise UnsafeFileError(
            path,
            f"layer {name!r} is a {str(registered or kind)!r} layer, which is not a known plain "
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
            f"layer {name!r} has the unknown activation {activation!r}",
            f"use one of: {', '.join(sorted(KNOWN_ACTIVATIONS))}",
        )
    return KerasLayer(name, kind, settings, ())


def _plain(value: Any, where: str, path: Path) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and len(value) <= 64:
        return [_plain(item, where, path) for item in value]
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        return [_plain(item, where, path) for item in value["items"]]
    raise UnsafeFileError(
        path,
        f"{where} is not a number, a word or a list of them but {json.dumps(value)[:60]}",
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
        layers.insert(0, KerasLayer("input", "InputLayer", settings, ()))
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
        waiting = list(call["args"])
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, list):
                waiting = value + waiting
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
    known = set(names) | {
        f"{layer.name}:{node}" for layer in graph.layers for node in range(len(layer.calls))
    }
    for layer in graph.layers:
        for call in layer.calls:
            missing = [name for name in call if name not in known]
            if missing or not call:
                raise ModelFileError(
                    path,
                    f"layer {layer.name!r} reads {missing or 'nothing'}, which is not there",
                    "save the model again",
                )
    return graph
