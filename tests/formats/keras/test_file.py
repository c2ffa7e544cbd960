"""Keras files that are archives, weights, damaged, or more than they say."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx

from goodnet.errors import GoodnetError, ModelFileError, UnsafeFileError
from goodnet.formats import Model, read_model, write_model
from goodnet.formats.keras.file import deepid_graph, is_keras_weights
from goodnet.hdf5_safety import check_hdf5
from goodnet.surgery import prune_channels, remove_channels

os.environ["KERAS_BACKEND"] = "torch"
import keras

L = keras.layers
Writer = Callable[..., Path]
DEEPID = (3, 55, 47)


def answer(model: Model, seed: int = 0) -> torch.Tensor:
    images = torch.randn(2, *model.specification.size, generator=torch.manual_seed(seed))
    with torch.no_grad():
        scores: torch.Tensor = model.network(images)
    return scores


# --- names -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NET.H5", "net.hdf5", "net.v2.h5", "net.weights.h5", "NET.Keras"])
def test_any_spelling_of_a_suffix_is_read_and_written(name: str, tiny_keras: Writer) -> None:
    plain = tiny_keras(f"plain{'.keras' if name.lower().endswith('.keras') else '.h5'}")
    path = plain.with_name(name)
    shutil.copyfile(plain, path)
    model = read_model(path)
    torch.testing.assert_close(answer(model), answer(read_model(plain)), rtol=0, atol=0)
    written = write_model(model, model.network, path.parent / "out" / "repaired")
    assert written.stem == "repaired"
    torch.testing.assert_close(answer(read_model(written)), answer(model), rtol=0, atol=1e-6)


def test_the_note_is_kept_by_both_formats(tiny_keras: Writer, tmp_path: Path) -> None:
    for name in ("net.h5", "net.keras"):
        model = read_model(tiny_keras(name))
        assert not model.specified
        again = read_model(write_model(model, model.network, tmp_path / "again"))
        assert again.specified
        assert again.specification == model.specification
        assert again.refused == model.refused


def test_optimizer_state_is_named_and_not_read(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.Flatten(), L.Dense(2)])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 4, 4, 1)), np.zeros((2, 2)), verbose=0)
    model.save(tmp_path / "net.h5")
    assert read_model(tmp_path / "net.h5").refused == ("optimizer_weights",)


# --- weights ---------------------------------------------------------------------------


def keras_deepid(classes: int = 7) -> Any:
    """The course's network as its notebook builds it."""
    keras.utils.set_random_seed(1)
    images = keras.Input((55, 47, 3), name="input")
    value = images
    for number, (filters, window) in enumerate(((20, 4), (40, 3), (60, 3)), start=1):
        value = L.Conv2D(filters, window, activation="relu", name=f"conv_{number}")(value)
        value = L.MaxPooling2D(2, name=f"pool_{number}")(value)
    left = L.Dense(160, name="fc_1")(L.Flatten()(value))
    value = L.Conv2D(80, 2, activation="relu", name="conv_4")(value)
    right = L.Dense(160, name="fc_2")(L.Flatten()(value))
    joined = L.Activation("relu")(L.Add()([left, right]))
    return keras.Model(images, L.Dense(classes, activation="softmax", name="output")(joined))


def legacy_weights(model: Any, path: Path, *, rename: bool = False) -> Path:
    """As Keras 2 saved weights: `layer_names`, `weight_names`, `conv_1/kernel:0`."""
    with h5py.File(path, "w") as file:
        names = [f"any_{n}" if rename else layer.name for n, layer in enumerate(model.layers)]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.3.1"
        for layer, name in zip(model.layers, names, strict=True):
            group = file.create_group(name)
            stored = [f"{name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [each.encode() for each in stored]
            for each, value in zip(stored, layer.get_weights(), strict=True):
                group[each] = value
    return path


@pytest.fixture(scope="module")
def deepid() -> Any:
    return keras_deepid()


@pytest.fixture
def weights_file(request: pytest.FixtureRequest, deepid: Any, tmp_path: Path) -> Path:
    if request.param == "keras-3":
        path = tmp_path / "deepid.weights.h5"
        deepid.save_weights(path)
        return path
    return legacy_weights(deepid, tmp_path / "deepid.h5", rename=request.param == "renamed")


LAYOUTS = pytest.mark.parametrize("weights_file", ["legacy", "renamed", "keras-3"], indirect=True)


@LAYOUTS
def test_deepid_weights_are_read_and_written_for_plain_keras(
    weights_file: Path, deepid: Any, tmp_path: Path
) -> None:
    model = read_model(weights_file, architecture="deepid")
    assert (model.format, model.classes) == ("keras-weights", 7)
    images = np.random.default_rng(0).normal(size=(2, *DEEPID)).astype("float32")
    expected = np.asarray(deepid(np.moveaxis(images, 1, 3)).detach())
    with torch.no_grad():
        given = model.network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(given, expected, atol=1e-5)

    pruned = prune_channels(model.network, "pool_3", torch.tensor([3, 50]))
    assert isinstance(pruned, fx.GraphModule)
    written = write_model(model, pruned, tmp_path / "out" / "repaired")
    assert written.name.endswith(weights_file.name.removeprefix("deepid"))
    plain = keras_deepid()
    plain.load_weights(written)
    after = np.asarray(plain(np.moveaxis(images, 1, 3)).detach())
    with torch.no_grad():
        np.testing.assert_allclose(after, pruned(torch.from_numpy(images)).numpy(), atol=1e-5)
    assert np.abs(after - expected).max() > 1e-6
    kernel = plain.get_layer("conv_3").get_weights()[0]
    assert not kernel[..., [3, 50]].any()
    assert [item.name for item in written.parent.iterdir()] == [written.name]


@LAYOUTS
def test_a_weights_file_cannot_hold_other_layers(weights_file: Path, tmp_path: Path) -> None:
    model = read_model(weights_file, architecture="deepid")
    smaller = remove_channels(model.network, "pool_3", torch.tensor([1]), DEEPID)
    with pytest.raises(ModelFileError, match=r"write a whole model \(\.h5 or \.keras\) instead"):
        write_model(model, smaller, tmp_path / "out" / "repaired")
    assert not list(tmp_path.rglob("*repaired*"))


def test_a_weights_file_needs_its_architecture(deepid: Any, tmp_path: Path) -> None:
    path = legacy_weights(deepid, tmp_path / "deepid.h5")
    assert is_keras_weights(path)
    for architecture in (None, "small_cnn"):
        with pytest.raises(ModelFileError, match="say --architecture deepid"):
            read_model(path, architecture=architecture)


def test_weights_of_another_network(tiny_keras: Writer) -> None:
    with pytest.raises(ModelFileError, match="does not hold the weights of a DeepID"):
        read_model(tiny_keras("net.weights.h5"), architecture="deepid")


def test_the_course_graph_has_the_course_sizes(deepid: Any) -> None:
    graph = deepid_graph(7, DEEPID)
    named = {layer.name for layer in deepid.layers if layer.weights}
    kinds = ("Conv2D", "Dense")
    assert named == {layer.name for layer in graph.layers if layer.kind in kinds}


# --- HDF5 that points elsewhere or claims too much -------------------------------------


def _external_link(file: h5py.File, folder: Path) -> None:
    file["evil"] = h5py.ExternalLink(str(folder / "other.h5"), "/")


def _soft_link(file: h5py.File, folder: Path) -> None:
    file["model_weights/evil"] = h5py.SoftLink("/model_weights")


def _external_storage(file: h5py.File, folder: Path) -> None:
    file.create_dataset("evil", (4,), "f4", external=[(str(folder / "secret"), 0, 16)])


def _virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), "x", (4,))
    file.create_virtual_dataset("evil", layout)


def _absurd(file: h5py.File, folder: Path) -> None:
    file.create_dataset("evil", (10**13,), "f4", chunks=(1024,))


def _absurd_together(file: h5py.File, folder: Path) -> None:
    for number in range(8):
        file.create_dataset(f"evil{number}", (3 * 10**6,), "f4", chunks=(1024,))


def _bomb(file: h5py.File, folder: Path) -> None:
    zeros = np.zeros(40 * 2**20, "u1")
    file.create_dataset("evil0", data=zeros, compression="gzip")
    file.create_dataset("evil1", data=zeros, compression="gzip")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_external_link, "'/evil' is a link to another place"),
        (_soft_link, "'/model_weights/evil' is a link"),
        (_external_storage, "'/evil' is stored in another file"),
        (_virtual, "'/evil' is stored in another file"),
        (_absurd, "claims to hold 4000000[0-9]+ bytes in a file of"),
        (_absurd_together, "claims to hold 9600[0-9]+ bytes in a file of"),
        (_bomb, "claims to hold 8388[0-9]+ bytes in a file of"),
    ],
)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_hdf5_that_points_elsewhere_or_lies(
    change: Callable[[h5py.File, Path], None],
    said: str,
    suffix: str,
    tiny_keras: Writer,
    tmp_path: Path,
) -> None:
    path = tiny_keras(f"net.{suffix}")
    hdf5 = path if suffix == "h5" else tmp_path / "weights.h5"
    if suffix == "keras":
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
            hdf5.write_bytes(archive.read("model.weights.h5"))
    with h5py.File(hdf5, "r+") as file:
        change(file, tmp_path)
    if suffix == "keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.write(hdf5, "model.weights.h5")
    with pytest.raises(UnsafeFileError, match=said) as caught:
        read_model(path)
    # Of an archive too, the message names the file that the user gave.
    assert str(caught.value).startswith(f"{path}: ")


def test_hard_link_cycles_end(tiny_keras: Writer) -> None:
    path = tiny_keras()
    with h5py.File(path, "r+") as file:
        file["model_weights/again"] = file["model_weights"]
        file["twice"] = file["/"]
    assert read_model(path).classes == 3


def test_deep_groups_end(tmp_path: Path) -> None:
    path = tmp_path / "deep.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(1500):
            group = group.create_group("g")
    with pytest.raises(ModelFileError, match="not a readable HDF5 file"):
        check_hdf5(path)


def test_what_is_declared_is_counted_once_a_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = np.zeros(3, "f4")
        file["g/b"] = np.zeros((2, 2), "f8")
        file["none"] = h5py.Empty("f4")
    assert check_hdf5(tmp_path / "x.h5") == 12 + 32


def _sequence(file: h5py.File) -> None:
    kind = h5py.vlen_dtype("u1")
    values = np.empty(1, dtype=object)
    values[0] = np.array([1], "u1")
    file.attrs.create("goodnet", values, dtype=kind)


def _reference(file: h5py.File) -> None:
    file["model_weights/conv"].attrs["evil"] = file["model_weights"].ref


def _compound(file: h5py.File) -> None:
    file["model_weights"]["evil"] = np.zeros(2, [("a", "f4"), ("b", "i4")])


def _texts(file: h5py.File) -> None:
    file["model_weights"].create_dataset("evil", data=["a"], dtype=h5py.string_dtype())


@pytest.mark.parametrize("change", [_sequence, _reference, _compound, _texts])
def test_types_that_no_keras_file_has(
    change: Callable[[h5py.File], None], tiny_keras: Writer
) -> None:
    """Reading a damaged sequence type crashes the process, so none is read."""
    path = tiny_keras()
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ModelFileError, match="not a readable HDF5 file"):
        read_model(path)


def test_a_damaged_heap_of_texts_is_not_walked(tiny_keras: Writer) -> None:
    """The library would walk it in place for ever."""
    path = tiny_keras()
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL\x01")
    # The first entry's size: so large that the next place is the same again.
    content[heap + 24 : heap + 32] = (2**64 - 16).to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a readable HDF5 file"):
        read_model(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(value: float, tiny_keras: Writer) -> None:
    path = tiny_keras()
    with h5py.File(path, "r+") as file:
        name = next(iter(file["model_weights/scores"].attrs["weight_names"]))
        file["model_weights/scores"][name][0] = value
    with pytest.raises(ModelFileError, match="'scores' has weights that are NaN or infinite"):
        read_model(path)


@pytest.mark.parametrize("config", [7, np.zeros(3), "", b"\xff", h5py.Empty("f4")])
def test_configs_of_other_types(config: Any, tiny_keras: Writer) -> None:
    path = tiny_keras()
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config
    with pytest.raises(ModelFileError):
        read_model(path)


@pytest.mark.parametrize("names", [[], [b"nowhere"], [b"conv", b"conv"], 7, np.zeros((2, 2))])
def test_layer_names_of_other_types(names: Any, tiny_keras: Writer) -> None:
    path = tiny_keras()
    with h5py.File(path, "r+") as file:
        file["model_weights"].attrs["layer_names"] = names
    with pytest.raises(ModelFileError, match=r"do not fit its layers|damaged"):
        read_model(path)


@pytest.mark.parametrize(
    "note",
    [
        "{",
        "7",
        '{"classes": "x"}',
        '{"classes": 3, "specification": {"size": [3, 6, 7]}}',
        '{"classes": 3, "specification": {"size": [3, 6, 6], "std": [0, 1, 1]}}',
        '{"classes": 3, "specification": {"size": [3, 6, 6], "mean": [NaN, 1, 1]}}',
        '{"classes": 3, "specification": {"size": [3, 6, 6], "range": [0, Infinity]}}',
        '{"classes": 3, "specification": {"size": [3, 6]}}',
        '{"classes": 2, "kind": "goodnet"}',
        '{"classes": 3, "kind": "evil"}',
    ],
)
@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_notes_that_are_wrong(note: str, suffix: str, tiny_keras: Writer) -> None:
    path = tiny_keras(f"net.{suffix}")
    if suffix == "h5":
        with h5py.File(path, "r+") as file:
            file.attrs["goodnet"] = note
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("goodnet.json", note)
    with pytest.raises(ModelFileError, match=r"note|no classifier") as caught:
        read_model(path)
    assert str(path) in str(caught.value)


# --- archives --------------------------------------------------------------------------


def rewritten(path: Path, **members: bytes | None) -> Path:
    """The archive with some members changed, or left out."""
    with zipfile.ZipFile(path) as archive:
        content: dict[str, bytes | None] = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("_", "."): value for name, value in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)
    return path


def test_other_members_are_named_and_never_unpacked(tiny_keras: Writer, tmp_path: Path) -> None:
    path = tiny_keras("net.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../evil.txt", "x")
        archive.writestr("/tmp/goodnet-evil", "x")  # noqa: S108
        archive.writestr("assets/vocabulary.txt", "x")
    assert read_model(path).refused == (
        "../evil.txt",
        "/tmp/goodnet-evil",  # noqa: S108
        "assets/vocabulary.txt",
    )
    assert not (tmp_path.parent / "evil.txt").exists()
    assert not Path("/tmp/goodnet-evil").exists()  # noqa: S108
    assert [item.name for item in tmp_path.iterdir()] == ["net.keras"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_member_twice(name: str, tiny_keras: Writer) -> None:
    path = tiny_keras("net.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, archive.read(name))
    with pytest.raises(ModelFileError, match=f"has 2 members {name}"):
        read_model(path)


@pytest.mark.parametrize("member", ["config_json", "model_weights_h5"])
def test_a_member_missing(member: str, tiny_keras: Writer) -> None:
    with pytest.raises(ModelFileError, match="has 0 members"):
        read_model(rewritten(tiny_keras("net.keras"), **{member: None}))


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_zip_bombs(name: str, tiny_keras: Writer) -> None:
    path = tiny_keras("net.keras")
    with zipfile.ZipFile(path) as archive:
        kept = {other: archive.read(other) for other in archive.namelist() if other != name}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in kept.items():
            archive.writestr(other, content)
        with archive.open(name, "w") as member:
            for _ in range(80):
                member.write(bytes(2**20))
    assert path.stat().st_size < 2**18
    with pytest.raises(UnsafeFileError, match=f"{name} would unpack to 83886080 bytes"):
        read_model(path)


def test_a_bomb_that_lies_about_its_size(tiny_keras: Writer) -> None:
    path = tiny_keras("net.keras")
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", bytes(2**24))
    # Both the local header and the directory say 1000 bytes.
    lying = packed.getvalue().replace((2**24).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(lying)
    with pytest.raises(ModelFileError, match="not a readable"):
        read_model(path)


def test_an_encrypted_member(tiny_keras: Writer) -> None:
    path = tiny_keras("net.keras")
    content = bytearray(path.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 8] |= 1
        at += 4
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"not a readable \.keras archive"):
        read_model(path)


def test_a_registered_layer_in_an_archive(tiny_keras: Writer) -> None:
    path = tiny_keras("net.keras")
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    layer = config["config"]["layers"][1]
    layer |= {"registered_name": "pack>Conv2D", "module": None}
    with pytest.raises(UnsafeFileError, match="'pack>Conv2D' layer"):
        read_model(rewritten(path, config_json=json.dumps(config).encode()))


def test_marshalled_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hole that Keras's own loading has without safe mode."""
    monkeypatch.chdir(tmp_path)
    mark = Path("RUN")
    images = keras.Input((4, 4, 1))
    value = L.Lambda(lambda x: (__import__("os").mkdir("RUN"), x)[1], output_shape=(4, 4, 1))(
        images
    )
    for suffix in ("h5", "keras"):
        model = keras.Model(images, L.Dense(2)(L.Flatten()(value)))
        path = tmp_path / f"net.{suffix}"
        model.save(path)
        shutil.rmtree(mark, ignore_errors=True)
        if suffix == "keras":
            # Without this the test would show nothing: run, the code leaves its mark.
            keras.models.load_model(path, safe_mode=False)(np.zeros((1, 4, 4, 1), "float32"))
            mark.rmdir()
        with pytest.raises(UnsafeFileError, match="'Lambda' layer") as caught:
            read_model(path)
        assert caught.value.exit_code == 3
        assert not mark.exists()


# --- damage ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    from safetensors.torch import save_file  # noqa: PLC0415

    from goodnet.networks import SmallCNN  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("whole")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), L.Conv2D(2, 2, activation="relu"), L.Flatten(), L.Dense(2)]
    )
    model.save(folder / "net.h5")
    model.save(folder / "net.keras")
    save_file(SmallCNN(2, (1, 8, 8), width=1).state_dict(), folder / "net.safetensors")
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("suffix", [".h5", ".keras", ".safetensors"])
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damaged_files_are_read_or_told(
    suffix: str, whole_files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(whole_files[suffix])
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    for _ in range(data.draw(st.integers(0, 6), "changes")):
        if content:
            # Structure lies at the ends; most damage should hit it.
            place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 2000), "place")
            content[place % len(content)] = data.draw(st.integers(0, 255), "byte")
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    try:
        model = read_model(path, architecture="small_cnn" if suffix == ".safetensors" else None)
    except GoodnetError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert model.classes >= 2
