"""Any path a user may give is read, or told in one sentence."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from goodnet.data.images import ImageSet
from goodnet.data.roles import CleanData
from goodnet.errors import ModelFileError, NotTraceableError, UnsafeFileError
from goodnet.formats import InputSpecification, read_model, write_goodnet, write_model
from goodnet.formats.model import Note, write_architecture
from goodnet.networks import build_network

Writer = Callable[..., Path]
SUFFIXES = ("h5", "hdf5", "keras", "safetensors", "pt2")


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("PWNED", "w"))


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "pkl", "pickle", "ckpt", "joblib", "PT"])
def test_pickles_are_not_opened(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(UnsafeFileError, match="which runs code when it is opened; ask for") as told:
        read_model(path)
    assert told.value.exit_code == 3
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_pickle_under_another_name_is_not_opened(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"net.{suffix}"
    torch.save({"a": _Evil()}, path)
    with pytest.raises(ModelFileError, match=str(path)):
        read_model(path, architecture="small_cnn")
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"hello" * 100, b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"]
)
def test_files_of_nothing(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        read_model(path, architecture="deepid")
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_folders_and_missing_files(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / f"folder.{suffix}"
    folder.mkdir()
    for path in (folder, tmp_path / f"missing.{suffix}"):
        with pytest.raises(ModelFileError, match="is no file; give the path of a model file"):
            read_model(path)


def test_unknown_suffixes_list_the_known(tmp_path: Path) -> None:
    for name in ("net.onnx", "net", "net.tflite"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ModelFileError, match=r"give a \.h5, \.keras, \.safetensors or \.pt2"):
            read_model(tmp_path / name)


def test_an_image_set_is_no_model(tmp_path: Path) -> None:
    import h5py  # noqa: PLC0415

    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"] = [[1.0]]
        file["label"] = [0]
    with pytest.raises(ModelFileError, match="holds weights only"):
        read_model(tmp_path / "data.h5")


def test_a_regression_is_no_classifier(tmp_path: Path) -> None:
    import keras  # noqa: PLC0415

    layers = keras.layers
    images = keras.Input((4, 4, 1))
    for name, answer in (
        ("one", layers.Dense(1)(layers.Flatten()(images))),
        ("maps", layers.Conv2D(3, 1)(images)),
    ):
        path = tmp_path / f"{name}.keras"
        keras.Model(images, answer).save(path)
        with pytest.raises(ModelFileError, match="is no classifier"):
            read_model(path)


def test_only_traced_networks_are_written(tiny_keras: Writer, tmp_path: Path) -> None:
    model = read_model(tiny_keras())
    with pytest.raises(NotTraceableError):
        write_model(model, nn.Identity(), tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_a_failed_write_leaves_the_old_file(
    tiny_keras: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_model(tiny_keras())
    old = tmp_path / "out" / "net.h5"
    old.parent.mkdir()
    old.write_text("old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("goodnet.formats.keras.file.h5py.File.attrs", property(fail))
    with pytest.raises(OSError, match="disk full"):
        write_model(model, model.network, old)
    monkeypatch.undo()
    assert [item.name for item in old.parent.iterdir()] == ["net.h5"]
    assert old.read_text() == "old"


def test_a_native_deepid_becomes_a_keras_file(tmp_path: Path) -> None:
    size = (3, 31, 31)
    network = build_network("deepid", 5, size, generator=torch.Generator().manual_seed(1)).eval()
    specification = InputSpecification(size, "channels-last", (0.0, 255.0), label_offset=1)
    write_architecture(network, "deepid", specification, tmp_path / "badnet.h5")
    model = read_model(tmp_path / "badnet.h5")
    assert model.specified
    assert model.specification == specification
    assert model.classes == 5
    images = torch.randn(3, *size)
    torch.testing.assert_close(
        model.network(images), network(images).softmax(1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("asks", [False, True])
def test_a_goodnet_says_that_it_is_one(tiny_keras: Writer, tmp_path: Path, asks: bool) -> None:
    from goodnet.detector import GoodNet  # noqa: PLC0415
    from goodnet.familiarity import feature_distance  # noqa: PLC0415

    model = read_model(tiny_keras())
    seen = ImageSet("seen", (3, 6, 6), torch.rand(9, 3, 6, 6), torch.arange(9) % 3)
    distance = feature_distance(model.network, CleanData(seen, model.specification))
    assert distance is not None
    # All but what it was fitted to is too far.
    goodnet = GoodNet(model.network, model.network, distance=distance if asks else None, limit=1.5)
    path = write_goodnet(model, goodnet, tmp_path / "goodnet")
    assert path.name == "goodnet.pt2"
    read = read_model(path)
    assert (read.kind, read.classes) == ("goodnet", 3)
    assert read.specification == model.specification
    label, scores = read.network(torch.rand(2, 3, 6, 6))
    assert label.shape == (2,)
    assert scores.shape == (2, 4)
    assert not (read.network(seen.pixels)[0] == 3).any()
    assert (read.network(9.0 * torch.rand(2, 3, 6, 6))[0] == 3).all() == asks


def test_notes_default_to_a_plain_network() -> None:
    assert Note(3) == Note(classes=3, kind="network", specification=None, architecture=None)
