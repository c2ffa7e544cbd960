"""A small Keras classifier in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["KERAS_BACKEND"] = "torch"


@pytest.fixture
def tiny_keras(tmp_path: Path) -> Callable[..., Path]:
    """Writes a small Keras classifier for 3 x 6 x 6 images and gives its path."""

    def write(name: str = "net.h5", *, layer: str = "conv", activation: str = "relu") -> Path:
        import keras  # noqa: PLC0415

        keras.utils.set_random_seed(3)
        images = keras.Input((6, 6, 3), name="images")
        value = keras.layers.Conv2D(4, 3, activation=activation, name=layer)(images)
        value = keras.layers.Flatten(name="flatten")(value)
        answer = keras.layers.Dense(3, activation="softmax", name="scores")(value)
        path = tmp_path / name
        model = keras.Model(images, answer)
        if name.endswith(".weights.h5"):
            model.save_weights(path)
        else:
            model.save(path)
        return path

    return write
