"""Reading a model file of any known format, and writing the repaired network back in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, fx, nn

from goodnet.errors import (
    ModelFileError,
    NotTraceableError,
    SettingsError,
    UnsafeFileError,
)
from goodnet.formats.exported import read_exported, write_exported
from goodnet.formats.keras.config import KerasGraph
from goodnet.formats.keras.file import (
    KerasContents,
    deepid_graph,
    is_keras_weights,
    read_keras_archive,
    read_keras_h5,
    read_keras_weights,
    write_keras,
    write_keras_weights,
)
from goodnet.formats.safetensors_file import read_metadata, read_safetensors, write_safetensors
from goodnet.formats.specification import InputSpecification
from goodnet.graph import trace

Format = Literal["keras-h5", "keras", "keras-weights", "safetensors", "pt2"]
_NOTE = "goodnet"
_PICKLES = {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".npy", ".joblib"}


@dataclass(frozen=True)
class Note:
    """goodnet's own lines in a model file.

    Attributes:
        classes: N.
        kind: A network, or a GoodNet with outputs label and scores.
        specification: How the images are read; None where it was never settled.
        architecture: Of a weights-only file.
    """

    classes: int
    kind: Literal["network", "goodnet"] = "network"
    specification: InputSpecification | None = None
    architecture: str | None = None


_NOTES = TypeAdapter(Note)


@dataclass(frozen=True, eq=False)
class Model:
    """A network with what goodnet knows about its file.

    Attributes:
        path: The file.
        format: Its format.
        network: Traced, in evaluation mode, (batch, channel, height, width) to scores
            (batch, N), or to label and scores for a GoodNet.
        kind: Which of the two.
        specification: How it wants its images.
        specified: Whether the file itself said so.
        classes: N.
        refused: What was in the file and not read.
        architecture: Name of the architecture, for weights-only files.
        keras: The layers of a Keras file, needed to write one.
    """

    path: Path
    format: Format
    network: fx.GraphModule
    kind: Literal["network", "goodnet"]
    specification: InputSpecification
    specified: bool
    classes: int
    refused: tuple[str, ...] = ()
    architecture: str | None = None
    keras: KerasGraph | None = None

    def note(self) -> str:
        """What a file written from this model says about it."""
        note = Note(self.classes, self.kind, self.specification, self.architecture)
        return _NOTES.dump_json(note).decode()


def read_model(path: Path | str, *, architecture: str | None = None) -> Model:
    """The model in a file; nothing in the file is run.

    Args:
        path: .h5 or .keras (Keras), .safetensors, or .pt2 (torch.export).
        architecture: For files that hold weights only.

    Raises:
        UnsafeFileError: The file could run code, or points outside itself.
        ModelFileError: It is missing, damaged, or of no known format.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(path, "is no file", "give the path of a model file")
    suffix = path.suffix.lower()
    if path.stat().st_size == 0:
        raise ModelFileError(path, "is empty", "copy it again from its source")
    match suffix:
        case ".h5" | ".hdf5":
            if is_keras_weights(path):
                return _keras_weights(path, architecture)
            return _keras_model(path, "keras-h5", read_keras_h5(path))
        case ".keras":
            return _keras_model(path, "keras", read_keras_archive(path))
        case ".safetensors":
            return _safetensors_model(path, architecture)
        case ".pt2":
            return _exported_model(path)
        case _ if suffix in _PICKLES:
            raise UnsafeFileError(
                path,
                f"is a {suffix} file, which runs code when it is opened",
                "ask for the network as .safetensors, .pt2 (torch.export), .h5 or .keras",
            )
        case _:
            raise ModelFileError(
                path, "is of no known format", "give a .h5, .keras, .safetensors or .pt2 file"
            )


def _keras_weights(path: Path, architecture: str | None) -> Model:
    if architecture != "deepid":
        raise ModelFileError(
            path,
            "holds weights only" if architecture is None else f"is not read as {architecture!r}",
            "say --architecture deepid if they are a DeepID's, or give the whole model",
        )
    model = _keras_model(path, "keras-weights", read_keras_weights(path))
    return replace(model, architecture=architecture)


def _keras_model(path: Path, file_format: Format, contents: KerasContents) -> Model:
    specification = InputSpecification(
        contents.size, "channels-last" if contents.channels_last else "channels-first"
    )
    model = _model(
        path, file_format, contents.network, specification, contents.metadata, contents.refused
    )
    return replace(model, keras=contents.graph)


def _safetensors_model(path: Path, architecture: str | None) -> Model:
    note = _read_note(read_metadata(path).get(_NOTE, ""), path)
    if note is not None:
        architecture = architecture or note.architecture
    stated = None if note is None else note.specification
    network, size = read_safetensors(path, architecture, None if stated is None else stated.size)
    text = "" if note is None else _NOTES.dump_json(note).decode()
    model = _model(path, "safetensors", network, InputSpecification(size), text, ())
    return replace(model, architecture=architecture)


def _exported_model(path: Path) -> Model:
    contents = read_exported(path)
    if len(contents.input_shape) != 3:
        raise ModelFileError(
            path,
            f"takes inputs of shape {contents.input_shape}",
            "give a network for images (channels, height, width)",
        )
    channels, height, width = contents.input_shape
    specification = InputSpecification((channels, height, width))
    note = contents.metadata.get(_NOTE, "")
    return _model(path, "pt2", contents.network, specification, note, contents.refused)


def _model(
    path: Path,
    file_format: Format,
    network: fx.GraphModule,
    plain: InputSpecification,
    note_text: str,
    refused: tuple[str, ...],
) -> Model:
    """The model, with what its own note says taken over where that fits its layers."""
    note = _read_note(note_text, path)
    specification = plain if note is None or note.specification is None else note.specification
    if specification.size != plain.size:
        raise ModelFileError(
            path,
            f"its note names images of {specification.size}, its layers take {plain.size}",
            "save the model again",
        )
    kind = "network" if note is None else note.kind
    # Convolutions on CPUs are about twice as fast in this layout; the values are the same.
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(
        path=path,
        format=file_format,
        network=network,
        kind=kind,
        specification=specification,
        specified=note is not None and note.specification is not None,
        classes=_count_classes(network, kind, plain.size, path),
        refused=refused,
    )


def _read_note(text: str, path: Path) -> Note | None:
    if not text:
        return None
    try:
        return _NOTES.validate_json(text)
    except (ValidationError, SettingsError) as error:
        raise ModelFileError(
            path, f"its goodnet note is damaged ({str(error).splitlines()[0]})", "save it again"
        ) from error


@torch.no_grad()
def _count_classes(
    network: fx.GraphModule, kind: str, size: tuple[int, int, int], path: Path
) -> int:
    try:
        answer = network(torch.zeros(2, *size))
    except (RuntimeError, ValueError, TypeError, IndexError, MemoryError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelFileError(
            path, f"cannot be run on images of {size} ({first})", "save the model again"
        ) from error
    extra = 1 if kind == "goodnet" else 0
    label, scores = answer if extra and _is_pair(answer) else (None, answer)
    if (
        not isinstance(scores, Tensor)
        or scores.dim() != 2
        or scores.shape[0] != 2
        or scores.shape[1] < 2 + extra
        or (extra and (label is None or label.shape != (2,)))
    ):
        raise ModelFileError(
            path,
            "is no classifier: it does not give one score for each of two or more classes",
            "give a network whose output is (batch, classes)",
        )
    return scores.shape[1] - extra


def _is_pair(answer: object) -> bool:
    return (
        isinstance(answer, tuple)
        and len(answer) == 2
        and all(isinstance(part, Tensor) for part in answer)
    )


def write_model(model: Model, network: nn.Module, path: Path | str) -> Path:
    """Write `network` in the format that `model` came in, whole or not at all.

    Args:
        model: As read; says the format and what the file notes about its input.
        network: The model's network, or what surgery and tuning made of it.
        path: Where to; its suffix becomes that of the format.

    Returns:
        The path written.

    Raises:
        ModelFileError: The format cannot hold the network as surgery changed it.
    """
    ending = ".weights.h5" if _is_keras_3_weights(model) else model.path.suffix.lower()
    path = Path(path).with_suffix(ending)
    if not isinstance(network, fx.GraphModule):
        raise NotTraceableError("only a traced network can be written; export it to .pt2 first")
    match model.format:
        case "keras-h5" | "keras":
            assert model.keras is not None
            write_keras(network, model.keras, path, model.note())
        case "keras-weights":
            assert model.keras is not None
            write_keras_weights(network, model.keras, path, model.path)
        case "safetensors":
            assert model.architecture is not None
            size = model.specification.size
            write_safetensors(network, model.architecture, size, path, {_NOTE: model.note()})
        case "pt2":
            write_exported(
                network,
                path,
                input_shape=model.specification.size,
                metadata={_NOTE: model.note()},
            )
    return path


def _is_keras_3_weights(model: Model) -> bool:
    return model.format == "keras-weights" and model.path.name.lower().endswith(".weights.h5")


def write_goodnet(model: Model, goodnet: nn.Module, path: Path | str) -> Path:
    """Write a GoodNet made from `model` as one .pt2 file, outputs `label` and `scores`."""
    path = Path(path).with_suffix(".pt2")
    note = replace(model, kind="goodnet", architecture=None).note()
    write_exported(goodnet, path, input_shape=model.specification.size, metadata={_NOTE: note})
    return path


def network_suffix(architecture: str) -> str:
    """The suffix under which `write_architecture` writes one of our own networks by default."""
    return ".h5" if architecture == "deepid" else ".safetensors"


def write_architecture(
    network: nn.Module, architecture: str, specification: InputSpecification, path: Path
) -> None:
    """Write one of our own networks: as .h5 or .keras (DeepID), or as .safetensors.

    The Keras file has the course's layer names.

    Args:
        network: A network of that architecture, traced or not.
        architecture: A name in `ARCHITECTURES`.
        specification: How it wants its images; noted in the file.
        path: Its suffix decides the format.
    """
    traced = trace(network)
    classes = traced.get_submodule("output").out_features
    assert isinstance(classes, int)
    note = Note(classes, specification=specification, architecture=architecture)
    text = _NOTES.dump_json(note).decode()
    if path.suffix == ".safetensors":
        write_safetensors(traced, architecture, specification.size, path, {_NOTE: text})
        return
    if architecture != "deepid" or path.suffix not in (".h5", ".keras"):
        raise ModelFileError(
            path, f"a {architecture!r} is not written in this format", "give a .safetensors path"
        )
    write_keras(traced, deepid_graph(classes, specification.size), path, text)
