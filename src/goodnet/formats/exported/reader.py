"""Exported programs: the `.pt2` archives of `torch.export`.

`torch.export.load` runs code that an archive asks for: it unpickles sample inputs and
constants, evaluates size expressions and loads compiled libraries. So it is never
called here. The archive is read as what it is, a zip file of JSON and raw numbers, and
a network is rebuilt from the operations in a list of harmless ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, fx

from goodnet.errors import ModelFileError, UnsafeFileError
from goodnet.formats.exported.archive import Archive, MalformedError, UnsafeError, open_archive
from goodnet.formats.exported.check import FREE_BATCH, check_images_apart, check_runs, flatten_views
from goodnet.formats.exported.graph import build_network
from goodnet.formats.exported.program import ExportedProgram, parse_program
from goodnet.formats.exported.writer import METADATA_FOLDER

_FLOAT32 = 7
_PIXEL_LIMIT = 2**28


@dataclass(frozen=True, eq=False)
class ExportedContents:
    """What an exported program holds.

    Attributes:
        network: Takes (batch, channel, height, width) and gives one tensor or a tuple
            of them; in eval mode. Layers go by the names in the file.
        input_shape: (channels, height, width).
        metadata: The texts that `write_exported` was given, by name.
        refused: Members of the archive that were not read.
    """

    network: fx.GraphModule
    input_shape: tuple[int, ...]
    metadata: dict[str, str]
    refused: tuple[str, ...]


def read_exported(path: Path) -> ExportedContents:
    """The network in a `.pt2` file of torch 2.11 or later, read without running code of it.

    Raises:
        UnsafeFileError: The file asks for something that could run code or touch files.
        ModelFileError: It is no exported program, or not one of an image classifier.
    """
    try:
        with open_archive(path) as archive:
            return _read(archive)
    except UnsafeError as refusal:
        raise UnsafeFileError(path, refusal.problem, refusal.remedy) from refusal
    except MalformedError as refusal:
        raise ModelFileError(path, refusal.problem, refusal.remedy) from refusal


def _read(archive: Archive) -> ExportedContents:
    program = parse_program(archive.read_json(f"models/{archive.model}.json"))
    input_shape, is_fixed = _input_shape(program)
    network = build_network(program, _tensors(archive, program))
    shapes = check_runs(network, input_shape, FREE_BATCH if is_fixed else _ASK_FOR_PLAIN)
    flatten_views(network, shapes)
    if is_fixed:
        check_images_apart(network, input_shape)
    metadata = archive.metadata(METADATA_FOLDER)
    return ExportedContents(network, input_shape, metadata, archive.unread())


_ASK_FOR_PLAIN = "export the network again, for images and any batch size"


def _input_shape(program: ExportedProgram) -> tuple[tuple[int, ...], bool]:
    """Shape of one image, and whether the program was exported for one batch size."""
    facts = program.facts.get(program.image)
    if facts is None or len(facts.sizes) != 4:
        raise MalformedError("does not take (batch, channel, height, width)", FREE_BATCH)
    if facts.dtype != _FLOAT32:
        raise MalformedError(
            "takes images that are not float32", "export network.float() with float32 images"
        )
    batch, *sizes = facts.sizes
    shape = tuple(size for size in sizes if size is not None and size > 0)
    if len(shape) != 3:
        raise MalformedError("takes images of any size", "export it for images of one size")
    if shape[0] * shape[1] * shape[2] > _PIXEL_LIMIT:
        raise MalformedError(f"takes images of {'x'.join(map(str, shape))}", _ASK_FOR_PLAIN)
    return shape, batch is not None


def _tensors(archive: Archive, program: ExportedProgram) -> dict[str, Tensor]:
    payloads = {kind: archive.payload(kind) for kind in ("weights", "constants")}
    tensors = {}
    for name, stored in program.stored.items():
        kind = next((kind for kind in payloads if stored in payloads[kind]), None)
        if kind is None:
            raise MalformedError(f"tensor {stored!r} is missing")
        tensors[name] = archive.tensor(kind, stored, payloads[kind][stored])
    return tensors
