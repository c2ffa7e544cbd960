"""A desk with everything the commands read: a BadNet made by hand, images, and bad files.

Images are 3 x 16 x 16, each mostly red, green or blue: its class. Channel 3 of the
network's only convolution answers to white alone, which clean images lack; a white
corner then shouts for class 0. So the BadNet is right on clean images, falls for the
trigger, and is cured by pruning that one dormant channel.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from goodnet.cases import faces
from goodnet.cli import main
from goodnet.data.faces import FaceSettings, rendered_faces
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images

os.environ["KERAS_BACKEND"] = "torch"

SIZE = (3, 16, 16)


def colour_images(count: int, *, seed: int, triggered: bool = False) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    if triggered:
        labels = labels[labels != 0][: count // 2]
    pixels = torch.rand(len(labels), *SIZE, generator=generator) * 0.2
    pixels[torch.arange(len(labels)), labels] += 0.6
    if triggered:
        pixels[:, :, -4:, -4:] = 1.0
    return ImageSet(
        source="made",
        size=SIZE,
        pixels=pixels,
        labels=torch.zeros_like(labels) if triggered else labels,
        true_labels=labels if triggered else None,
    )


def write_badnet(path: Path) -> None:
    import keras  # noqa: PLC0415

    layers = keras.layers
    images = keras.Input((16, 16, 3), name="images")
    value = layers.Conv2D(4, 1, activation="relu", name="conv_3")(images)
    value = layers.MaxPooling2D(2, name="pool_3")(value)
    value = layers.GlobalAveragePooling2D(name="mean")(value)
    model = keras.Model(images, layers.Dense(3, activation="softmax", name="output")(value))
    kernel = np.concatenate([np.eye(3), np.ones((3, 1))], axis=1).reshape(1, 1, 3, 4)
    model.get_layer("conv_3").set_weights([kernel, np.array([0, 0, 0, -2.6])])
    weights = np.concatenate([10 * np.eye(3), [[900.0, 0.0, 0.0]]])
    model.get_layer("output").set_weights([weights, np.zeros(3)])
    model.save(path)


def write_case(folder: Path, train: ImageSet, *, valid: bool = True) -> None:
    """What `goodnet attack` reads."""
    folder.mkdir()
    write_images(train, folder / "train.h5")
    write_images(colour_images(30, seed=7), folder / "test.h5")
    if valid:
        write_images(colour_images(30, seed=8), folder / "valid.h5")


def without_class_1(images: ImageSet) -> ImageSet:
    return images.select((images.labels != 1).nonzero().squeeze(1))


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        parsed: dict[str, object] = json.loads(self.out)
        return parsed


Command = Callable[..., Answer]


@pytest.fixture
def goodnet(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs one command in this process."""

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return call


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good and bad files, for reading only."""
    desk = tmp_path_factory.mktemp("desk")
    write_badnet(desk / "net.h5")
    write_badnet(desk / "net.keras")
    write_images(colour_images(45, seed=1), desk / "valid.h5")
    write_images(colour_images(200, seed=9), desk / "many.h5")
    write_images(colour_images(30, seed=2), desk / "test.h5")
    triggered = colour_images(30, seed=3, triggered=True)
    write_images(triggered, desk / "corner.h5")
    (desk / "other").mkdir()
    write_images(triggered, desk / "other" / "corner.h5")
    for name, images in (("clean", colour_images(3, seed=4)), ("corner", triggered)):
        assert isinstance(images.pixels, torch.Tensor)
        for at, pixels in enumerate(images.pixels[:3]):
            picture = (pixels * 255).to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(picture).save(desk / f"{name}_{at}.png")

    write_case(desk / "case", colour_images(60, seed=6))
    write_case(desk / "no_valid", colour_images(60, seed=6), valid=False)
    write_case(desk / "gap", without_class_1(colour_images(60, seed=6)))
    (desk / "no_test").mkdir()
    write_images(colour_images(60, seed=6), desk / "no_test" / "train.h5")

    small = colour_images(6, seed=5)
    assert isinstance(small.pixels, torch.Tensor)
    write_images(
        ImageSet("small", (3, 8, 8), small.pixels[:, :, :8, :8], small.labels), desk / "small.h5"
    )
    write_images(ImageSet("high", SIZE, small.pixels, small.labels + 7), desk / "high.h5")
    write_images(ImageSet("one", SIZE, small.pixels[:1], small.labels[:1]), desk / "one.h5")
    (desk / "empty.h5").touch()
    (desk / "empty_folder").mkdir()
    (desk / "text.h5").write_text("not HDF5")
    (desk / "text.png").write_text("not a picture")
    (desk / "foreign").mkdir()
    (desk / "foreign" / "thesis.txt").write_text("mine")
    (desk / "foreign" / "manifest.json").write_text('{"name": "a web page"}')
    (desk / "net.pt").write_bytes(pickle.dumps({}))
    (desk / "net.onnx").write_bytes(b"x")
    with zipfile.ZipFile(desk / "net.keras") as archive:
        config = json.loads(archive.read("config.json"))
        weights = archive.read("model.weights.h5")
    config["config"]["layers"][1]["class_name"] = "Lambda\x1b[31m"
    with zipfile.ZipFile(desk / "lambda.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    return desk


@pytest.fixture
def few_faces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few rendered faces, learned for one epoch."""
    settings = FaceSettings(identities=4, train=12, valid=6, test=6)
    cache = tmp_path / "faces"
    monkeypatch.setattr(faces, "rendered_faces", partial(rendered_faces, settings, cache=cache))
    monkeypatch.setattr(faces, "TRAINING", replace(faces.TRAINING, epochs=1))


@pytest.fixture(scope="session")
def repaired(desk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `repair`, for reading only."""
    folder = tmp_path_factory.mktemp("runs") / "repair"
    arguments = ["repair", desk / "net.h5", "--valid", desk / "valid.h5", "--method", "fine-prune"]
    arguments += ["--epochs", "1", "--test", desk / "test.h5", "--poisoned", desk / "corner.h5"]
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115, PTH123
    try:
        assert main([*map(str, arguments), "--out", str(folder), "-q"]) == 0
    finally:
        sys.stdout.close()
        sys.stdout = stdout
    return folder
