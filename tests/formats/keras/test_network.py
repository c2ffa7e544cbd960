"""Each Keras layer that is read computes natively what it computes in Keras."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import fx, nn

from goodnet.errors import ModelFileError, NotTraceableError, SurgeryError
from goodnet.formats import read_model, write_model
from goodnet.formats.keras.config import KNOWN_ACTIVATIONS, KNOWN_LAYERS
from goodnet.formats.model import Model
from goodnet.graph import find_prune_layer
from goodnet.surgery import prune_channels, remove_channels

os.environ["KERAS_BACKEND"] = "torch"
import keras

L = keras.layers
Array = NDArray[np.float32]
SIZE = (3, 9, 7)
TOLERANCE = 1e-5
Layers = Callable[[Any], Any]


def randomise(model: Any, seed: int = 0) -> Any:
    """`model` with random weights in every place, also where norms keep their statistics."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        values = []
        for weight in layer.weights:
            spread = np.prod(weight.shape[:-1]) ** -0.5
            drawn = generator.normal(0.0, spread, weight.shape)
            values.append(np.abs(drawn) + 0.3 if "variance" in weight.name else drawn)
        layer.set_weights(values)
    return model


def keras_answer(model: Any, images: Array) -> Array:
    """What Keras says to images (batch, channel, height, width), whatever layout it takes."""
    size = tuple(model.input_shape[1:])
    own = images if size == images.shape[1:] else np.moveaxis(images, 1, 3)
    assert own.shape[1:] == size
    answer: Array = np.asarray(model(np.ascontiguousarray(own), training=False).detach())
    return answer


def native_answer(network: nn.Module, images: Array) -> Array:
    """What a native network says to the same images."""
    with torch.no_grad():
        answer: Array = network(torch.from_numpy(images)).numpy()
    return answer


def random_images(size: Sequence[int], count: int = 4, seed: int = 1) -> Array:
    """Images of normally distributed pixels, (count, *size)."""
    drawn: Array = np.random.default_rng(seed).normal(0.0, 1.0, (count, *size)).astype("float32")
    return drawn


def fresh(layer: Any) -> Any:
    """A new layer of the same settings; functions as they are."""
    return type(layer).from_config(layer.get_config()) if isinstance(layer, L.Layer) else layer


def chain(*layers: Any) -> Layers:
    """The layers one after the other."""

    def apply(value: Any) -> Any:
        for layer in layers:
            value = fresh(layer)(value)
        return value

    return apply


def merge(layer: Any, count: int = 2) -> Layers:
    """`count` convolutions side by side, joined by `layer`."""
    return lambda value: fresh(layer)([L.Conv2D(4, 3, padding="same")(value) for _ in range(count)])


def shared_convolution(value: Any) -> Any:
    """One convolution, applied twice; it stands in the file before what it reads then."""
    convolution = L.Conv2D(3, 3, padding="same", name="shared")
    return L.ReLU()(convolution(L.ReLU()(convolution(value))))


def shared_activation(value: Any) -> Any:
    """One activation for feature maps of two sizes."""
    active = L.ReLU(name="shared")
    return active(L.Conv2D(4, 3)(active(L.Conv2D(4, 2)(value))))


def residual(value: Any) -> Any:
    """A pre-activation block: the norm's input is also the shortcut."""
    value = L.Conv2D(4, 3, padding="same")(value)
    change = L.ReLU()(L.BatchNormalization()(value))
    return L.Add()([value, L.Conv2D(4, 3, padding="same")(change)])


def squeeze(value: Any) -> Any:
    """Channel attention: feature maps times one number a channel."""
    value = L.Conv2D(4, 3, padding="same")(value)
    scale = L.GlobalAveragePooling2D(keepdims=True)(value)
    return L.Multiply()([value, L.Conv2D(4, 1, activation="sigmoid")(scale)])


FEATURES: dict[str, Layers] = {
    "conv valid": chain(L.Conv2D(4, 3)),
    "conv same": chain(L.Conv2D(4, 3, padding="same")),
    "conv same even": chain(L.Conv2D(4, (2, 4), padding="same")),
    "conv same strides": chain(L.Conv2D(4, 3, strides=2, padding="same")),
    "conv same even strides": chain(L.Conv2D(4, 4, strides=(2, 3), padding="same")),
    "conv valid strides": chain(L.Conv2D(4, (3, 2), strides=(3, 2))),
    "conv strides over kernel": chain(L.Conv2D(4, 1, strides=3, padding="same")),
    "conv dilated": chain(L.Conv2D(4, 3, dilation_rate=2)),
    "conv same dilated": chain(L.Conv2D(4, (2, 3), padding="same", dilation_rate=2)),
    "conv groups": chain(L.Conv2D(6, 3, groups=3)),
    "conv no bias": chain(L.Conv2D(4, 3, use_bias=False)),
    "conv activation": chain(L.Conv2D(4, 3, activation="relu")),
    "depthwise": chain(L.DepthwiseConv2D(3, activation="relu")),
    "depthwise multiplier": chain(L.DepthwiseConv2D(3, depth_multiplier=2, padding="same")),
    "depthwise of one channel": chain(L.Conv2D(1, 1), L.DepthwiseConv2D(3, depth_multiplier=4)),
    "depthwise no bias": chain(L.DepthwiseConv2D(2, strides=2, padding="same", use_bias=False)),
    "norm": chain(L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()),
    "norm epsilon": chain(L.Conv2D(4, 3), L.BatchNormalization(epsilon=0.3)),
    "norm no scale": chain(L.Conv2D(4, 3), L.BatchNormalization(scale=False)),
    "norm no center": chain(L.Conv2D(4, 3), L.BatchNormalization(center=False)),
    "norm neither": chain(L.Conv2D(4, 3), L.BatchNormalization(center=False, scale=False)),
    "max pool": chain(L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D()),
    "max pool overlapping": chain(L.Conv2D(4, 3), L.MaxPooling2D(3, strides=1)),
    "max pool same": chain(L.Conv2D(4, 2), L.MaxPooling2D(2, padding="same")),
    "max pool same odd": chain(L.Conv2D(4, 3), L.MaxPooling2D(3, strides=2, padding="same")),
    "max pool same stride 1": chain(L.Conv2D(4, 3), L.MaxPooling2D(3, strides=1, padding="same")),
    "max pool same long stride": chain(
        L.Conv2D(4, 2), L.MaxPooling2D(1, strides=3, padding="same")
    ),
    "average pool": chain(L.Conv2D(4, 3), L.AveragePooling2D((2, 3))),
    "average pool same": chain(L.Conv2D(4, (3, 2)), L.AveragePooling2D(2, padding="same")),
    "average pool same stride 1": chain(L.AveragePooling2D(3, strides=1, padding="same")),
    "global maximum": chain(L.Conv2D(4, 3), L.GlobalMaxPooling2D(keepdims=True)),
    "global average": chain(L.Conv2D(4, 3), L.GlobalAveragePooling2D(keepdims=True)),
    "add": merge(L.Add()),
    "add three": merge(L.Add(), 3),
    "subtract": merge(L.Subtract()),
    "multiply": merge(L.Multiply()),
    "multiply three": merge(L.Multiply(), 3),
    "maximum": merge(L.Maximum()),
    "maximum three": merge(L.Maximum(), 3),
    "average": merge(L.Average()),
    "average three": merge(L.Average(), 3),
    "concatenate": merge(L.Concatenate()),
    "concatenate three": merge(L.Concatenate(axis=3), 3),
    "add to itself": chain(L.Conv2D(4, 3), lambda value: L.Add()([value, value])),
    "residual": residual,
    "squeeze": squeeze,
    "shared convolution": shared_convolution,
    "shared activation": shared_activation,
    "rescaling": chain(L.Rescaling(1 / 127.5, -1.0), L.Conv2D(4, 3)),
    "upsampling": chain(L.Conv2D(4, 3), L.UpSampling2D((2, 3))),
    "zero padding": chain(L.ZeroPadding2D(((1, 2), (3, 0))), L.Conv2D(4, 3)),
    "zero padding pair": chain(L.ZeroPadding2D((1, 2)), L.Conv2D(4, 3)),
    "dropout": chain(L.Dropout(0.5), L.Conv2D(4, 3), L.SpatialDropout2D(0.3), L.GaussianNoise(0.2)),
    "leaky": chain(L.Conv2D(4, 3), L.LeakyReLU(negative_slope=0.1)),
    "leaky as written by ReLU": chain(L.Conv2D(4, 3), L.ReLU(negative_slope=0.2)),
    "relu6": chain(L.Conv2D(4, 3), L.ReLU(max_value=6.0)),
    "elu": chain(L.Conv2D(4, 3), L.ELU(alpha=0.7)),
    "linear": chain(L.Conv2D(4, 3), L.Activation("linear")),
    **{
        f"activation {name}": chain(L.Conv2D(4, 3, activation=name))
        for name in KNOWN_ACTIVATIONS
        if name not in ("softmax", "swish")
    },
    "activation layer": chain(L.Conv2D(4, 3), L.Activation("tanh")),
}
HEADS: dict[str, Layers] = {
    "plain": chain(L.Flatten(), L.Dense(5)),
    "flatten": chain(L.Flatten(), L.Dense(5, activation="softmax")),
    "dense": chain(L.Flatten(), L.Dense(6, activation="relu", use_bias=False), L.Dense(5)),
    "global average": chain(L.GlobalAveragePooling2D(), L.Dense(5), L.Softmax()),
    "global maximum": chain(L.GlobalMaxPooling2D(), L.Dense(5), L.Activation("softmax")),
    "norm of features": chain(L.Flatten(), L.BatchNormalization(), L.Dense(5)),
    "joined features": lambda value: L.Dense(5)(
        L.Concatenate()([L.GlobalAveragePooling2D()(value), L.GlobalMaxPooling2D()(value)])
    ),
}


def functional(features: Layers, head: Layers) -> Any:
    images = keras.Input((SIZE[1], SIZE[2], SIZE[0]))
    return randomise(keras.Model(images, head(features(images))))


def check_alike(model: Any, read: Model, size: tuple[int, int, int] = SIZE) -> None:
    images = random_images(size)
    expected = keras_answer(model, images)
    assert np.abs(expected - expected[0]).max() > 1e-3, "this model tells no images apart"
    np.testing.assert_allclose(
        native_answer(read.network, images), expected, rtol=TOLERANCE, atol=TOLERANCE
    )


def check_written(
    read: Model, network: fx.GraphModule, path: Path, size: tuple[int, int, int] = SIZE
) -> Any:
    """Written by goodnet, loaded by plain Keras, `network` answers as before."""
    written = write_model(read, network, path)
    model = keras.models.load_model(written, compile=False)
    images = random_images(size)
    np.testing.assert_allclose(
        keras_answer(model, images),
        native_answer(network, images),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return model


def check_everything(
    model: Any, path: Path, size: tuple[int, int, int] = SIZE, layer: str | None = None
) -> None:
    """Reading, writing, pruning and removing all keep the answers together."""
    model.save(path)
    read = read_model(path)
    check_alike(model, read, size)
    again = check_written(read, read.network, path.with_name(f"again{path.suffix}"), size)
    assert {each.name for each in again.layers} >= {each.name for each in model.layers} - {
        each.name for each in model.layers if isinstance(each, L.InputLayer)
    }
    try:
        layer = layer or find_prune_layer(read.network, size)
    except NotTraceableError:
        return
    channels = torch.tensor([1])
    pruned = prune_channels(read.network, layer, channels)
    assert isinstance(pruned, fx.GraphModule)
    check_written(read, pruned, path.with_name(f"pruned{path.suffix}"), size)
    try:
        smaller = remove_channels(read.network, layer, channels, size)
    except (SurgeryError, NotTraceableError):
        return
    check_written(read, smaller, path.with_name(f"smaller{path.suffix}"), size)
    images = random_images(size)
    np.testing.assert_allclose(
        native_answer(smaller, images),
        native_answer(pruned, images),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )


def test_every_known_layer_has_a_case_here() -> None:
    used = set()
    for name, features in FEATURES.items():
        model = functional(features, HEADS["joined features"])
        used |= {type(layer).__name__ for layer in model.layers}
        assert name
    for head in HEADS.values():
        used |= {type(layer).__name__ for layer in functional(FEATURES["conv same"], head).layers}
    assert used == set(KNOWN_LAYERS)


@pytest.mark.parametrize("name", FEATURES)
def test_features_are_computed_as_in_keras(name: str, tmp_path: Path) -> None:
    suffix = "h5" if len(name) % 2 else "keras"
    check_everything(functional(FEATURES[name], HEADS["plain"]), tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("name", HEADS)
def test_heads_are_computed_as_in_keras(name: str, suffix: str, tmp_path: Path) -> None:
    features = chain(
        L.Conv2D(4, 2, activation="relu", name="conv_3"), L.MaxPooling2D(name="pool_3")
    )
    check_everything(functional(features, HEADS[name]), tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("size", [(9, 7), (8, 8), (11, 6)])
@pytest.mark.parametrize("kind", [L.Conv2D, L.MaxPooling2D])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 2), (4, 3), (2, 3), (5, 1)])
def test_same_padding_in_every_remainder(
    kind: Any, window: int, stride: int, size: tuple[int, int], tmp_path: Path
) -> None:
    first = (3,) if kind is L.Conv2D else ()
    layer = kind(*first, window, strides=stride, padding="same")
    images = keras.Input((*size, 3))
    model = randomise(keras.Model(images, L.Dense(3)(L.Flatten()(layer(images)))))
    model.save(tmp_path / "net.h5")
    check_alike(model, read_model(tmp_path / "net.h5"), (3, *size))


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_sequential(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((9, 7, 3)),
            L.Conv2D(4, 3, padding="same", activation="relu"),
            L.BatchNormalization(),
            L.MaxPooling2D(),
            L.Dropout(0.2),
            L.Flatten(),
            L.Dense(5, activation="softmax"),
        ]
    )
    check_everything(randomise(model), tmp_path / f"net.{suffix}")


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_sequential_built_by_its_first_call(suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([L.Conv2D(4, 3), L.Flatten(), L.Dense(5)])
    model.build((None, 9, 7, 3))
    check_everything(randomise(model), tmp_path / f"net.{suffix}")


CHANNELS_FIRST: dict[str, Layers] = {
    "flattened as they lie": chain(
        L.Conv2D(4, 3, padding="same", activation="sigmoid", data_format="channels_first"),
        L.MaxPooling2D(data_format="channels_first"),
        L.Flatten(data_format="channels_last"),
    ),
    "flattened channels last": chain(
        L.Conv2D(4, 2, strides=2, padding="same", data_format="channels_first"),
        L.BatchNormalization(axis=1),
        L.Flatten(data_format="channels_first"),
    ),
    "depthwise and joined": chain(
        lambda value: L.Concatenate(axis=1)(
            [
                L.DepthwiseConv2D(3, padding="same", data_format="channels_first")(value),
                L.ZeroPadding2D(1, data_format="channels_first")(
                    L.Conv2D(2, 3, data_format="channels_first")(value)
                ),
            ]
        ),
        L.ReLU(),
        L.GlobalAveragePooling2D(data_format="channels_first"),
        L.Dense(4, activation="relu"),
        lambda value: L.Concatenate()([value, value]),
    ),
}


@pytest.mark.parametrize("suffix", ["h5", "keras"])
@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_channels_first(name: str, suffix: str, tmp_path: Path) -> None:
    images = keras.Input(SIZE)
    model = randomise(keras.Model(images, L.Dense(5)(CHANNELS_FIRST[name](images))))
    path = tmp_path / f"net.{suffix}"
    check_everything(model, path)
    assert read_model(path).specification.layout == "channels-first"


def test_two_branches_of_equal_shape_keep_their_own_weights(tmp_path: Path) -> None:
    images = keras.Input((9, 7, 3))
    branches = [L.Conv2D(4, 3, name=name)(images) for name in ("z", "a", "m")]
    joined = L.Concatenate()([branches[1], branches[2], branches[0]])
    model = randomise(keras.Model(images, L.Dense(3)(L.Flatten()(joined))))
    for suffix in ("h5", "keras"):
        check_everything(model, tmp_path / f"net.{suffix}")


def test_pruning_twice_keeps_both_masks(tmp_path: Path) -> None:
    model = functional(chain(L.Conv2D(4, 3, activation="sigmoid", name="c")), HEADS["flatten"])
    model.save(tmp_path / "net.h5")
    read = read_model(tmp_path / "net.h5")
    once = prune_channels(read.network, "c", torch.tensor([0]))
    assert isinstance(once, fx.GraphModule)
    second = read_model(write_model(read, once, tmp_path / "once.h5"))
    layer = find_prune_layer(second.network, SIZE)
    twice = prune_channels(second.network, layer, torch.tensor([2]))
    assert isinstance(twice, fx.GraphModule)
    check_written(second, twice, tmp_path / "twice.h5")
    third = read_model(write_model(second, twice, tmp_path / "twice.h5"))
    images = torch.from_numpy(random_images(SIZE))
    once_more = prune_channels(read.network, "c", torch.tensor([0, 2]))
    torch.testing.assert_close(third.network(images), once_more(images), rtol=0, atol=1e-5)


UNSUPPORTED: dict[str, tuple[Layers, str]] = {
    "pixels joined": (
        lambda value: L.Concatenate(axis=1)([value, value]),
        "joins along axis 1, not along the channels",
    ),
    "dense over maps": (chain(L.Dense(4)), "is dense over feature maps"),
    "softmax over maps": (chain(L.Conv2D(4, 3, activation="softmax")), "softmax over feature maps"),
    "softmax over rows": (chain(L.Softmax(axis=1)), "takes its softmax over something else"),
    "relu with a limit of 1": (chain(L.ReLU(max_value=1.0)), "unusual upper limit"),
    "leaky with a limit": (chain(L.ReLU(max_value=6.0, negative_slope=0.1)), "leaky ReLU with"),
    "relu with a threshold": (chain(L.ReLU(threshold=0.5)), "threshold"),
    "smooth upsampling": (chain(L.UpSampling2D(2, interpolation="bilinear")), "nearest pixel"),
    "norm of rows": (chain(L.BatchNormalization(axis=1)), "normalises along axis 1"),
    "rescaling by channel": (chain(L.Rescaling([1.0, 2.0, 3.0])), "has a scale for each channel"),
    "average over both edges": (
        chain(L.AveragePooling2D(4, strides=1, padding="same")),
        "hang over both edges unequally",
    ),
    "maps and features": (
        lambda value: L.Add()([value, L.Dense(3)(L.GlobalAveragePooling2D()(value))]),
        "joins feature maps with what has none",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_has_no_native_counterpart_is_named(name: str, tmp_path: Path) -> None:
    features, said = UNSUPPORTED[name]
    path = tmp_path / "net.h5"
    functional(features, HEADS["flatten"]).save(path)
    with pytest.raises(ModelFileError, match=said) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    assert "layer '" in caught.value.problem


def test_a_shared_layer_on_two_sizes_is_read_only_where_it_is_the_same(tmp_path: Path) -> None:
    convolution = L.Conv2D(3, 4, strides=3, padding="same", name="shared")
    images = keras.Input((9, 7, 3))
    model = keras.Model(images, L.Dense(3)(L.Flatten()(convolution(convolution(images)))))
    model.save(tmp_path / "net.h5")
    with pytest.raises(ModelFileError, match="'shared': is applied to inputs of different sizes"):
        read_model(tmp_path / "net.h5")
