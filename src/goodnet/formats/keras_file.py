"""Keras files: whole models (.h5, .keras) and weights (.h5), read safely and written back."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from torch import fx

from goodnet.errors import ModelFileError, UnsafeFileError
from goodnet.files import writing_beside
from goodnet.formats.hdf5_safety import check_hdf5
from goodnet.formats.keras_config import KerasGraph, KerasLayer, parse_config
from goodnet.formats.keras_network import (
    Weights,
    input_size,
    keras_graph,
    layer_weights,
    native_network,
)

if TYPE_CHECKING:
    import keras

_LARGEST_MEMBER = 8 * 2**30
_SPECIFICATION = "goodnet"


@dataclass(frozen=True)
class KerasContents:
    """A Keras file as read.

    Attributes:
        network: Native, traced, in evaluation mode; takes channels first.
        graph: The file's layers, needed to write the network back.
        size: (channels, height, width) of the input.
        channels_last: Whether the file takes channels last.
        metadata: goodnet's own note in the file, JSON text; empty where there is none.
        refused: What was in the file and not read.
    """

    network: fx.GraphModule
    graph: KerasGraph
    size: tuple[int, int, int]
    channels_last: bool
    metadata: str
    refused: tuple[str, ...]


def deepid_graph(classes: int, size: tuple[int, int, int]) -> KerasGraph:
    """The course's DeepID: the layers to which a weights file of it belongs."""
    channels, height, width = size

    def layer(name: str, kind: str, *inputs: str, **settings: Any) -> KerasLayer:
        return KerasLayer(name, kind, settings, (inputs,) if inputs else ())

    def convolution(name: str, source: str, filters: int, kernel: int) -> KerasLayer:
        return layer(
            name,
            "Conv2D",
            source,
            filters=filters,
            kernel_size=kernel,
            strides=1,
            padding="valid",
            activation="relu",
        )

    def pooling(name: str, source: str) -> KerasLayer:
        return layer(name, "MaxPooling2D", source, pool_size=2, strides=2, padding="valid")

    layers = (
        layer("input", "InputLayer", batch_shape=[None, height, width, channels]),
        convolution("conv_1", "input", 20, 4),
        pooling("pool_1", "conv_1"),
        convolution("conv_2", "pool_1", 40, 3),
        pooling("pool_2", "conv_2"),
        convolution("conv_3", "pool_2", 60, 3),
        pooling("pool_3", "conv_3"),
        convolution("conv_4", "pool_3", 80, 2),
        layer("flatten_1", "Flatten", "pool_3"),
        layer("flatten_2", "Flatten", "conv_4"),
        layer("fc_1", "Dense", "flatten_1", units=160),
        layer("fc_2", "Dense", "flatten_2", units=160),
        layer("add_1", "Add", "fc_1", "fc_2"),
        layer("activation_1", "Activation", "add_1", activation="relu"),
        layer("output", "Dense", "activation_1", units=classes, activation="softmax"),
    )
    return KerasGraph(layers, "output")


def is_keras_weights(path: Path) -> bool:
    """Whether an HDF5 file holds weights without saying what the layers are."""
    check_hdf5(path)
    with h5py.File(path, "r") as file:
        return "model_config" not in file.attrs


def read_keras_h5(path: Path) -> KerasContents:
    """A whole model saved as .h5.

    Raises:
        UnsafeFileError: A layer that is not known and plain, links, absurd sizes.
        ModelFileError: Not a Keras model, or damaged.
    """
    check_hdf5(path)
    with h5py.File(path, "r") as file:
        config = file.attrs.get("model_config")
        metadata = file.attrs.get(_SPECIFICATION, "")
        refused = tuple(name for name in file if name != "model_weights")
    if not isinstance(config, str | bytes):
        raise ModelFileError(
            path, "holds no Keras model config", "save the whole model with model.save"
        )
    graph = parse_config(config, path)
    return _contents(path, graph, path, str(metadata), refused)


def read_keras_archive(path: Path) -> KerasContents:
    """A whole model saved as .keras.

    Raises:
        UnsafeFileError: As `read_keras_h5`, or a suspicious archive.
        ModelFileError: Not a Keras model, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = _member(archive, "config.json", path)
            weights = _member(archive, "model.weights.h5", path)
            refused = tuple(
                name
                for name in archive.namelist()
                if name not in ("config.json", "model.weights.h5", "metadata.json")
            )
    except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError) as error:
        raise ModelFileError(
            path, "is not a readable .keras archive", "check that it was copied whole"
        ) from error
    graph = parse_config(config, path)
    with tempfile.TemporaryDirectory(prefix="goodnet-") as folder:
        unpacked = Path(folder) / "model.weights.h5"
        unpacked.write_bytes(weights)
        check_hdf5(unpacked)
        return _contents(path, graph, unpacked, "", refused)


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    matching = [info for info in archive.infolist() if info.filename == name]
    if len(matching) != 1:
        raise ModelFileError(path, f"has {len(matching)} members {name}", "save the model again")
    info = matching[0]
    if info.file_size > min(_LARGEST_MEMBER, 1100 * info.compress_size + 2**20):
        raise UnsafeFileError(
            path, f"{name} would unpack to {info.file_size} bytes", "get the file again"
        )
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) > info.file_size:
        raise UnsafeFileError(path, f"{name} is larger than it says", "get the file again")
    return content


def read_keras_weights(path: Path, size: tuple[int, int, int] = (3, 55, 47)) -> KerasContents:
    """DeepID from a weights file; the number of classes is that of its last layer.

    Raises:
        ModelFileError: The weights are not those of a DeepID.
    """
    check_hdf5(path)
    widths: list[int] = []

    def look(_name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.shape[0] == 160:
            widths.append(int(item.shape[1]))

    with h5py.File(path, "r") as file:
        file.visititems(look)
    if len(widths) != 1:
        raise ModelFileError(
            path, "does not hold the weights of a DeepID", "give the whole model instead"
        )
    return _contents(path, deepid_graph(widths[0], size), path, "", ())


def _contents(
    path: Path, graph: KerasGraph, weights: Path, metadata: str, refused: tuple[str, ...]
) -> KerasContents:
    size, channels_last = input_size(graph, path)
    model = _keras_model(graph, path)
    try:
        with _quiet():
            model.load_weights(str(weights))
    except (ValueError, KeyError, OSError, TypeError, IndexError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            path, f"its weights do not fit its layers ({first})", "save the model again"
        ) from error
    arrays = {layer.name: _layer_arrays(layer) for layer in model.layers}
    shapes = {
        layer.name: _input_shape(model.get_layer(layer.name))
        for layer in graph.layers
        if layer.kind != "InputLayer"
    }
    broken = [name for name, values in arrays.items() if not all(map(_finite, values))]
    if broken:
        raise ModelFileError(
            path, f"layer {broken[0]!r} has weights that are NaN or infinite", "save it again"
        )
    network = native_network(graph, arrays, shapes, path)
    return KerasContents(network, graph, size, channels_last, metadata, refused)


def _finite(array: Any) -> bool:
    return bool(np.isfinite(array).all())


def _input_shape(layer: Any) -> tuple[int, ...]:
    source = layer.input
    return tuple((source[0] if isinstance(source, list) else source).shape)


def _layer_arrays(layer: Any) -> Weights:
    return [np.asarray(value) for value in layer.get_weights()]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Keras from writing to the terminal, its advice against .h5 included."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _import_keras() -> Any:
    # Keras chooses its backend when it is imported; the others are not needed here.
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras  # noqa: PLC0415

    return keras


def _keras_model(graph: KerasGraph, path: Path) -> keras.Model:
    """The Keras model of a checked graph, with weights as Keras draws them."""
    layers = _import_keras().layers
    tensors: dict[str, Any] = {}
    source = None
    try:
        for entry in graph.layers:
            settings = {key: value for key, value in entry.settings.items() if value is not None}
            if entry.kind == "InputLayer":
                source = _import_keras().Input(
                    batch_shape=tuple(settings["batch_shape"]), name=entry.name
                )
                tensors[entry.name] = source
                continue
            layer = getattr(layers, entry.kind)(name=entry.name, **settings)
            for number, call in enumerate(entry.calls):
                inputs = [tensors[name] for name in call]
                key = entry.name if len(entry.calls) == 1 else f"{entry.name}:{number}"
                tensors[key] = layer(inputs if len(inputs) > 1 else inputs[0])
        return _import_keras().Model(source, tensors[graph.output])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            path, f"Keras cannot build its layers ({first})", "save the model again"
        ) from error


def write_keras(network: fx.GraphModule, original: KerasGraph, path: Path, metadata: str) -> None:
    """Write the network as a whole Keras model that plain Keras loads.

    Args:
        network: From `read_keras_*`, or what surgery and tuning made of it.
        original: The graph it was read with.
        path: Ends in .h5 or .keras; appears whole or not at all.
        metadata: goodnet's own note, kept in .h5 files.
    """
    model = _filled_model(network, original, path)
    with writing_beside(path) as temporary, _quiet():
        model.save(str(temporary))
        if path.suffix != ".keras":
            with h5py.File(temporary, "r+") as file:
                file.attrs[_SPECIFICATION] = metadata


def _filled_model(network: fx.GraphModule, original: KerasGraph, path: Path) -> Any:
    model = _keras_model(keras_graph(network, original), path)
    for layer in model.layers:
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if shapes:
            layer.set_weights(layer_weights(network, layer.name, shapes))
    return model


def write_keras_weights(
    network: fx.GraphModule, original: KerasGraph, path: Path, source: Path
) -> None:
    """Write the network's weights in the layout of the weights file it was read from.

    Args:
        network: As for `write_keras`.
        original: The graph it was read with.
        path: The new file; appears whole or not at all.
        source: The file it was read from, whose layout is kept.

    Raises:
        ModelFileError: Surgery changed the layers, which a weights file cannot say.
    """
    changed = keras_graph(network, original)
    sizes = [
        (layer.name, layer.settings.get("filters"), layer.settings.get("units"))
        for layer in changed.layers
    ]
    if sizes != [
        (layer.name, layer.settings.get("filters"), layer.settings.get("units"))
        for layer in original.layers
    ]:
        raise ModelFileError(
            path,
            "a weights file cannot hold a network whose layers changed",
            "write a whole model (.h5 or .keras) instead",
        )
    model = _filled_model(network, original, path)
    with h5py.File(source, "r") as file:
        by_name = "layer_names" in file.attrs
    with writing_beside(path) as temporary, _quiet():
        if not by_name:
            named = temporary.with_suffix(".weights.h5")
            model.save_weights(str(named))
            named.replace(temporary)
            return
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for layer in model.layers:
                if not layer.weights:
                    continue
                group = file[layer.name]
                for name, array in zip(
                    group.attrs["weight_names"], layer.get_weights(), strict=True
                ):
                    group[name][...] = array
