"""Keras files: whole models (.h5, .keras) and weights (.h5), read safely and written back."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import h5py
import numpy as np
from torch import fx

from goodnet.errors import GoodnetError, ModelFileError, UnsafeFileError
from goodnet.files import writing_beside
from goodnet.formats.keras.config import KerasGraph, KerasLayer, parse_config
from goodnet.formats.keras.network import (
    LARGEST_OUTPUT,
    Shape,
    Weights,
    input_size,
    keras_graph,
    layer_weights,
    native_network,
)
from goodnet.hdf5_safety import ALWAYS_ALLOWED, DAMAGE, LARGEST_RATIO, check_hdf5

if TYPE_CHECKING:
    import keras

_SPECIFICATION = "goodnet"
_NOTE_MEMBER = "goodnet.json"
_READ_MEMBERS = ("config.json", "model.weights.h5", "metadata.json", _NOTE_MEMBER)
_LONGEST_TEXT = 2**26
_BLOCK = 2**20


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
            data_format="channels_last",
        )

    def pooling(name: str, source: str) -> KerasLayer:
        return layer(
            name,
            "MaxPooling2D",
            source,
            pool_size=2,
            strides=2,
            padding="valid",
            data_format="channels_last",
        )

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
    with _open(path) as file:
        return "model_config" not in file.attrs


@contextlib.contextmanager
def _open(path: Path, shown: Path | None = None) -> Iterator[h5py.File]:
    """A checked HDF5 file; what h5py makes of a damaged one is told as such."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DAMAGE as error:
        raise ModelFileError(
            shown or path, "is a damaged HDF5 file", "check that it was copied whole"
        ) from error


def read_keras_h5(path: Path) -> KerasContents:
    """A whole model saved as .h5.

    Raises:
        UnsafeFileError: A layer that is not known and plain, links, absurd sizes.
        ModelFileError: Not a Keras model, or damaged.
    """
    declared = check_hdf5(path)
    with _open(path) as file:
        config = file.attrs.get("model_config")
        metadata = file.attrs.get(_SPECIFICATION, "")
        refused = tuple(name for name in file if name != "model_weights")
    if not isinstance(config, str | bytes):
        raise ModelFileError(
            path, "holds no Keras model config", "save the whole model with model.save"
        )
    graph = parse_config(config, path)
    return _contents(path, graph, path, declared, str(metadata), refused)


def read_keras_archive(path: Path) -> KerasContents:
    """A whole model saved as .keras.

    Raises:
        UnsafeFileError: As `read_keras_h5`, or a suspicious archive.
        ModelFileError: Not a Keras model, or damaged.
    """
    with tempfile.TemporaryDirectory(prefix="goodnet-") as folder:
        unpacked = Path(folder) / "model.weights.h5"
        try:
            with zipfile.ZipFile(path) as archive:
                config = _text_member(archive, "config.json", path)
                names = archive.namelist()
                note = _text_member(archive, _NOTE_MEMBER, path) if _NOTE_MEMBER in names else b""
                with unpacked.open("wb") as file:
                    _unpack(archive, "model.weights.h5", file, path)
        except _DAMAGED_ARCHIVE as error:
            raise ModelFileError(
                path, "is not a readable .keras archive", "check that it was copied whole"
            ) from error
        refused = tuple(name for name in names if name not in _READ_MEMBERS)
        graph = parse_config(config, path)
        declared = check_hdf5(unpacked, shown=path)
        text = note.decode("utf-8", "replace")
        return _contents(path, graph, unpacked, declared, text, refused)


_DAMAGED_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    ValueError,
    RuntimeError,  # an encrypted member; NotImplementedError, an unknown compression
)


def _text_member(archive: zipfile.ZipFile, name: str, path: Path) -> bytes:
    content = io.BytesIO()
    _unpack(archive, name, content, path, limit=_LONGEST_TEXT)
    return content.getvalue()


def _unpack(
    archive: zipfile.ZipFile,
    name: str,
    target: IO[bytes],
    path: Path,
    *,
    limit: int | None = None,
) -> None:
    matching = [info for info in archive.infolist() if info.filename == name]
    if len(matching) != 1:
        raise ModelFileError(path, f"has {len(matching)} members {name}", "save the model again")
    if limit is None:
        limit = max(ALWAYS_ALLOWED, LARGEST_RATIO * path.stat().st_size)
    if matching[0].file_size > limit:
        raise UnsafeFileError(
            path, f"{name} would unpack to {matching[0].file_size} bytes", "get the file again"
        )
    # zipfile gives no more than the size it was told, whatever the stream holds.
    with archive.open(matching[0]) as member:
        shutil.copyfileobj(member, target, _BLOCK)


def read_keras_weights(path: Path, size: tuple[int, int, int] = (3, 55, 47)) -> KerasContents:
    """DeepID from a weights file; the number of classes is that of its last layer.

    Raises:
        ModelFileError: The weights are not those of a DeepID.
    """
    declared = check_hdf5(path)
    widths: list[int] = []

    def look(_name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and item.shape[0] == 160:
            widths.append(int(item.shape[1]))

    with _open(path) as file:
        file.visititems(look)
    if len(widths) != 1:
        raise ModelFileError(
            path, "does not hold the weights of a DeepID", "give the whole model instead"
        )
    return _contents(path, deepid_graph(widths[0], size), path, declared, "", ())


def _contents(
    path: Path,
    graph: KerasGraph,
    weights: Path,
    declared: int,
    metadata: str,
    refused: tuple[str, ...],
) -> KerasContents:
    size, channels_last = input_size(graph, path)
    _check_sizes(graph, declared, path)
    built = _keras_model(graph, path)
    model, shapes = built.model, built.inputs
    try:
        with _quiet(), _named_for_keras(weights) as (file, by_name):
            # Only the older layout knows its layers' names.
            model.load_weights(str(file), **({"by_name": True} if _fits(by_name, model) else {}))
    except Exception as error:  # Keras lets through whatever its libraries raise.
        raise ModelFileError(
            path,
            f"its weights do not fit its layers ({_first_line(error)})",
            "save the model again",
        ) from error
    arrays = {layer.name: _layer_arrays(layer) for layer in model.layers}
    broken = [name for name, values in arrays.items() if not all(map(_finite, values))]
    if broken:
        raise ModelFileError(
            path, f"layer {broken[0]!r} has weights that are NaN or infinite", "save it again"
        )
    network = native_network(graph, arrays, shapes, path)
    return KerasContents(network, graph, size, channels_last, metadata, refused)


def _check_sizes(graph: KerasGraph, declared: int, path: Path) -> None:
    """Refuse layers that would take far more memory than the file, before any is taken."""
    with _import_keras().device("meta"):
        built = _keras_model(graph, path)
    parameters = sum(math.prod(weight.shape) for weight in built.model.weights)
    if parameters > declared:
        raise UnsafeFileError(
            path,
            f"its layers claim {parameters} parameters, its arrays hold {declared} bytes",
            "get the file again from its source",
        )
    for name, values in built.outputs.items():
        if values > LARGEST_OUTPUT:
            raise UnsafeFileError(
                path,
                f"layer {name!r} makes {values} values of one image",
                f"give a network whose layers make up to {LARGEST_OUTPUT}",
            )


@contextlib.contextmanager
def _named_for_keras(weights: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """The weights under a name by which Keras tells their layout, with the layers' names.

    Keras goes by the file's suffix; what is inside decides here.
    """
    with h5py.File(weights, "r") as file:
        group = file.get("model_weights", file)
        legacy = "model_weights" in file or any(
            key.startswith("layer_names") for key in group.attrs
        )
        names = _weighted_groups(group)
    suffix = ".h5" if legacy else ".weights.h5"
    if weights.name.endswith(suffix) and weights.name.endswith(".weights.h5") != legacy:
        yield weights, names
        return
    with tempfile.TemporaryDirectory(prefix="goodnet-") as folder:
        named = Path(folder) / f"model{suffix}"
        shutil.copyfile(weights, named)
        yield named, names


def _weighted_groups(group: h5py.Group) -> tuple[str, ...]:
    """Names of the layers that have weights, in file order; of the older layout only."""
    names = (_decoded(name) for name in group.attrs.get("layer_names", ()))
    return tuple(name for name in names if len(group[name].attrs.get("weight_names", ())))


def _decoded(name: Any) -> str:
    return name.decode("utf-8") if isinstance(name, bytes) else str(name)


def _fits(names: tuple[str, ...], model: Any) -> bool:
    weighted = {layer.name for layer in model.layers if layer.weights}
    return bool(names) and len(names) == len(weighted) and set(names) == weighted


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _finite(array: Any) -> bool:
    return bool(np.isfinite(array).all())


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
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "torch"
    import keras  # noqa: PLC0415

    if keras.config.backend() != "torch":
        raise GoodnetError(
            f"Keras was imported with the backend {keras.config.backend()!r}; "
            "set KERAS_BACKEND=torch before it is imported"
        )
    return keras


@dataclass(frozen=True, eq=False)
class _Built:
    """A Keras model, with each layer's input shapes by call and largest output by image."""

    model: keras.Model
    inputs: dict[str, tuple[tuple[Shape, ...], ...]]
    outputs: dict[str, int]


def _keras_model(graph: KerasGraph, path: Path) -> _Built:
    """The Keras model of a checked graph, with weights as Keras draws them."""
    kinds = _import_keras().layers
    layers: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    shapes: dict[str, list[tuple[Shape, ...]]] = {}
    outputs: dict[str, int] = {}
    source = None
    try:
        for entry, number in graph.in_order():
            settings = {key: value for key, value in entry.settings.items() if value is not None}
            if entry.kind == "InputLayer":
                source = _import_keras().Input(
                    batch_shape=tuple(settings["batch_shape"]), name=entry.name, dtype="float32"
                )
                tensors[entry.name] = source
                continue
            if entry.name not in layers:
                kind = getattr(kinds, entry.kind)
                layers[entry.name] = kind(name=entry.name, dtype="float32", **settings)
            inputs = [tensors[name] for name in entry.calls[number]]
            answer = layers[entry.name](inputs if len(inputs) > 1 else inputs[0])
            tensors[entry.values[number]] = answer
            shapes.setdefault(entry.name, []).append(tuple(tuple(one.shape) for one in inputs))
            values = math.prod(extent for extent in answer.shape[1:])
            outputs[entry.name] = max(values, outputs.get(entry.name, 0))
        model = _import_keras().Model(source, tensors[graph.output], name="network")
    except Exception as error:  # Keras lets through whatever its libraries raise.
        raise ModelFileError(
            path, f"Keras cannot build its layers ({_first_line(error)})", "save the model again"
        ) from error
    return _Built(model, {name: tuple(calls) for name, calls in shapes.items()}, outputs)


def write_keras(network: fx.GraphModule, original: KerasGraph, path: Path, metadata: str) -> None:
    """Write the network as a whole Keras model that plain Keras loads.

    Args:
        network: From `read_keras_*`, or what surgery and tuning made of it.
        original: The graph it was read with.
        path: Ends in .h5 or .keras; appears whole or not at all.
        metadata: goodnet's own note.
    """
    model = _filled_model(network, original, path)
    with writing_beside(path) as temporary, _quiet():
        model.save(str(temporary))
        if path.suffix == ".keras":
            with zipfile.ZipFile(temporary, "a") as archive:
                archive.writestr(zipfile.ZipInfo(_NOTE_MEMBER), metadata)
        else:
            with h5py.File(temporary, "r+") as file:
                file.attrs[_SPECIFICATION] = metadata


def _filled_model(network: fx.GraphModule, original: KerasGraph, path: Path) -> Any:
    model = _keras_model(keras_graph(network, original), path).model
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
    with _open(source) as file:
        groups = _weighted_groups(file)
    layers = [layer for layer in model.layers if layer.weights]
    if _fits(groups, model):
        groups = tuple(layer.name for layer in layers)
    with writing_beside(path) as temporary, _quiet():
        if not groups:
            with tempfile.TemporaryDirectory(prefix="goodnet-") as folder:
                named = Path(folder) / "model.weights.h5"
                model.save_weights(str(named))
                shutil.copyfile(named, temporary)
            return
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for layer, stored in zip(layers, groups, strict=True):
                group = file[stored]
                arrays = layer.get_weights()
                for name, array in zip(group.attrs["weight_names"], arrays, strict=True):
                    group[name][...] = array
