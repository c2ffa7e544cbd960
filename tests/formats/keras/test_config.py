"""Model configs of Keras 2 and 3 are read; what could run code or fill memory is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from goodnet.errors import ModelFileError, UnsafeFileError
from goodnet.formats import read_model, write_model
from goodnet.formats.keras.config import KerasGraph, parse_config
from goodnet.graph import layer_rows
from goodnet.surgery import prune_channels, remove_channels

PATH = Path("net.h5")
Config = dict[str, Any]


def keras_2_layer(kind: str, name: str, *sources: str, **settings: Any) -> Config:
    calls = [[[source, 0, 0, {}] for source in sources]] if sources else []
    config = {"name": name, "trainable": True, "dtype": "float32", **settings}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": calls}


def keras_2_functional() -> Config:
    """A fork that joins again, as Keras 2 wrote it."""
    layers = [
        keras_2_layer("InputLayer", "input_1", batch_input_shape=[None, 5, 4, 3], sparse=False),
        keras_2_layer(
            "Conv2D",
            "conv_1",
            "input_1",
            filters=2,
            kernel_size=[2, 2],
            strides=[1, 1],
            padding="same",
            data_format="channels_last",
            dilation_rate=[1, 1],
            activation="linear",
            use_bias=True,
            kernel_initializer={"class_name": "GlorotUniform", "config": {"seed": None}},
            kernel_regularizer=None,
        ),
        keras_2_layer("LeakyReLU", "leaky", "conv_1", alpha=0.25),
        keras_2_layer("Flatten", "flat", "leaky", data_format="channels_last"),
        keras_2_layer("Dense", "fc_1", "flat", units=4, activation="relu", use_bias=True),
        keras_2_layer("Dense", "fc_2", "flat", units=4, activation="tanh", use_bias=True),
        keras_2_layer("Add", "add_1", "fc_1", "fc_2"),
        keras_2_layer("Dense", "output", "add_1", units=3, activation="softmax", use_bias=True),
    ]
    body = {
        "name": "model_1",
        "layers": layers,
        "input_layers": [["input_1", 0, 0]],
        "output_layers": [["output", 0, 0]],
    }
    return {"class_name": "Model", "config": body}


def keras_2_sequential() -> Config:
    """Without an InputLayer; the first layer says the size."""
    layers = [
        {
            "class_name": "Conv2D",
            "config": {
                "name": "input",
                "batch_input_shape": [None, 5, 4, 3],
                "dtype": "float32",
                "filters": 2,
                "kernel_size": [2, 2],
                "strides": [2, 2],
                "padding": "same",
                "data_format": "channels_last",
                "activation": "relu",
                "use_bias": True,
            },
        },
        {"class_name": "Flatten", "config": {"name": "flat"}},
        {"class_name": "Dense", "config": {"name": "out", "units": 3, "activation": "linear"}},
    ]
    return {"class_name": "Sequential", "config": {"name": "sequential_1", "layers": layers}}


def legacy_file(path: Path, config: Any, arrays: dict[str, list[np.ndarray[Any, Any]]]) -> Path:
    """A whole model as Keras 2 laid it out: layer_names, weight_names, `kernel:0`."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.3.1"
        file.attrs["backend"] = "tensorflow"
        text = config if isinstance(config, str) else json.dumps(config)
        # Longer than an attribute may be if it is stored plainly.
        if len(text) > 60_000:
            file.attrs.create("model_config", text, dtype=h5py.string_dtype())
        else:
            file.attrs["model_config"] = text.encode()
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [name.encode() for name in arrays]
        weights.attrs["keras_version"] = b"2.3.1"
        weights.attrs["backend"] = b"tensorflow"
        for layer, values in arrays.items():
            group = weights.create_group(layer)
            names = [f"{layer}/{part}:0" for part in ("kernel", "bias")[: len(values)]]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, values, strict=True):
                group[name] = value
    return path


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 0.5, shape).astype("float32") for shape in shapes]


def functional_arrays() -> dict[str, list[np.ndarray[Any, Any]]]:
    return {
        "input_1": [],
        "conv_1": drawn((2, 2, 3, 2), (2,), seed=1),
        "leaky": [],
        "flat": [],
        "fc_1": drawn((40, 4), (4,), seed=2),
        "fc_2": drawn((40, 4), (4,), seed=3),
        "add_1": [],
        "output": drawn((4, 3), (3,), seed=4),
    }


def by_hand(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the Keras 2 model answers to (batch, height, width, channel), worked out in numpy."""
    arrays = functional_arrays()
    kernel, bias = arrays["conv_1"]
    padded = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)))
    maps = np.zeros((len(images), 5, 4, 2)) + bias
    for row in range(2):
        for column in range(2):
            maps += padded[:, row : row + 5, column : column + 4] @ kernel[row, column]
    flat = np.where(maps > 0, maps, 0.25 * maps).reshape(len(images), -1)
    left = np.maximum(flat @ arrays["fc_1"][0] + arrays["fc_1"][1], 0)
    right = np.tanh(flat @ arrays["fc_2"][0] + arrays["fc_2"][1])
    logits = (left + right) @ arrays["output"][0] + arrays["output"][1]
    raised = np.exp(logits - logits.max(1, keepdims=True))
    answer: np.ndarray[Any, Any] = raised / raised.sum(1, keepdims=True)
    return answer


def test_a_functional_model_of_keras_2(tmp_path: Path) -> None:
    path = legacy_file(tmp_path / "old.h5", keras_2_functional(), functional_arrays())
    model = read_model(path)
    images = np.random.default_rng(5).normal(size=(3, 5, 4, 3)).astype("float32")
    with torch.no_grad():
        answer = model.network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(answer, by_hand(images), atol=1e-5)
    assert model.classes == 3
    again = read_model(write_model(model, model.network, tmp_path / "again.h5"))
    with torch.no_grad():
        repeated = again.network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(repeated, answer, atol=1e-6)


def test_weights_go_to_the_layer_of_their_name_whatever_their_order(tmp_path: Path) -> None:
    arrays = functional_arrays()
    shuffled = {name: arrays[name] for name in reversed(arrays)}
    path = legacy_file(tmp_path / "old.h5", keras_2_functional(), shuffled)
    images = np.random.default_rng(5).normal(size=(3, 5, 4, 3)).astype("float32")
    with torch.no_grad():
        answer = read_model(path).network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(answer, by_hand(images), atol=1e-5)


@pytest.mark.parametrize("nested", [False, True], ids=["of Keras 2.3", "of Keras 2.0"])
def test_a_sequential_model_without_an_input_layer(nested: bool, tmp_path: Path) -> None:
    config = keras_2_sequential()
    if nested:
        config["config"] = config["config"]["layers"]
    arrays = {
        "input": drawn((2, 2, 3, 2), (2,)),
        "flat": [],
        "out": drawn((12, 3), (3,)),
    }
    model = read_model(legacy_file(tmp_path / "old.h5", config, arrays))
    assert model.specification.size == (3, 5, 4)
    names = [row.name for row in layer_rows(model.network, (3, 5, 4))]
    # The file's own first layer is called "input" already.
    assert names == ["input_1", "input", "flat", "out"]
    images = torch.randn(2, 3, 5, 4)
    by_torch = torch.nn.functional.conv2d(
        torch.nn.functional.pad(images, (0, 0, 0, 1)),
        torch.from_numpy(arrays["input"][0].transpose(3, 2, 0, 1)),
        torch.from_numpy(arrays["input"][1]),
        stride=2,
    ).relu()
    flat = by_torch.permute(0, 2, 3, 1).flatten(1)
    expected = flat @ torch.from_numpy(arrays["out"][0]) + torch.from_numpy(arrays["out"][1])
    torch.testing.assert_close(model.network(images).detach(), expected, atol=1e-5, rtol=1e-5)


# Each changes one thing; the config as it was is read by the tests above.
def _entry(config: Config, name: str) -> Config:
    found: Config = next(e for e in config["config"]["layers"] if e["name"] == name)
    return found


def _set(name: str, /, **settings: Any) -> Callable[[Config], None]:
    return lambda config: _entry(config, name)["config"].update(settings)


def _layer(name: str, /, **fields: Any) -> Callable[[Config], None]:
    return lambda config: _entry(config, name).update(fields)


def _model(**fields: Any) -> Callable[[Config], None]:
    return lambda config: config["config"].update(fields)


def _drop(name: str, *keys: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        entry = _entry(config, name)
        for key in keys[:-1]:
            entry = entry[key]
        del entry[keys[-1]]

    return change


MARSHALLED = ["4wEAAAAAAAAAAAAAAAEAAAACAAAAQwAAAHMMAAAAdABkAYMBAQB8AFMA\n", None, None]
NESTED = {"class_name": "Functional", "config": {"layers": []}}
FUNCTION = {
    "module": "os",
    "class_name": "function",
    "config": "system",
    "registered_name": "function",
}
UNSAFE: dict[str, tuple[Callable[[Config], None], str]] = {
    "lambda": (_layer("leaky", class_name="Lambda", config={"function": MARSHALLED}), "'Lambda'"),
    "lambda of keras 3": (
        _layer(
            "leaky",
            class_name="Lambda",
            module="keras.layers",
            config={
                "function": {"class_name": "__lambda__", "config": {"code": MARSHALLED[0]}},
            },
        ),
        "'Lambda'",
    ),
    "custom": (_layer("leaky", class_name="Evil"), "'Evil' layer"),
    "registered": (_layer("leaky", registered_name="Pack>LeakyReLU"), "'Pack>LeakyReLU'"),
    "module os": (_layer("leaky", module="os"), "'LeakyReLU' layer"),
    "module that looks like keras": (_layer("leaky", module="kerasevil.layers"), "not a known"),
    "class system": (_layer("leaky", class_name="system", module="os"), "'system' layer"),
    "torch module": (_layer("leaky", class_name="TorchModuleWrapper"), "'TorchModuleWrapper'"),
    "layer of files": (_layer("leaky", class_name="TFSMLayer"), "'TFSMLayer'"),
    "wrapper": (_layer("leaky", class_name="TimeDistributed"), "'TimeDistributed'"),
    "nested": (_layer("leaky", **NESTED), "whole model inside the model"),
    "nested sequential": (_layer("leaky", class_name="Sequential"), "whole model inside"),
    "activation names a function": (_set("fc_1", activation=FUNCTION), "not a number, a word"),
    "activation is custom": (_set("fc_1", activation="my_package>act"), "unknown activation"),
    "activation is an attribute": (_set("fc_1", activation="__import__"), "unknown activation"),
    "a setting is an object": (_set("conv_1", filters=FUNCTION), "filters of layer 'conv_1'"),
    "a setting is a long list": (_set("conv_1", strides=[1] * 65), "strides of layer 'conv_1'"),
    "subclassed": (lambda config: config.update(class_name="MyModel"), "class 'MyModel'"),
    "unbuildably wide": (_set("output", units=10**12), "claim [0-9]{13} parameters"),
    "as wide as half the memory": (_set("output", units=10**9), "parameters, its arrays hold"),
    "as many filters": (_set("conv_1", filters=10**7), "parameters, its arrays hold"),
    "absurd kernel": (_set("conv_1", kernel_size=[10**6, 10**6]), "parameters, its arrays hold"),
    "too many layers": (
        lambda config: config["config"].update(layers=config["config"]["layers"] * 600),
        "claims to have 4800 layers",
    ),
}
DAMAGED: dict[str, tuple[Callable[[Config], None], str]] = {
    "no layers": (_model(layers=[]), "0 inputs"),
    "layers are a number": (_model(layers=3), "damaged"),
    "layers are numbers": (_model(layers=[1, 2]), "damaged"),
    "layers are null": (_model(layers=None), "damaged"),
    "class is a list": (_layer("leaky", class_name=["LeakyReLU"]), "damaged"),
    "no class": (_drop("leaky", "class_name"), "damaged"),
    "no config": (_drop("leaky", "config"), "damaged"),
    "config is a list": (_layer("leaky", config=[1]), "damaged"),
    "activation is a list": (_set("fc_1", activation=["relu"]), "damaged"),
    "no output": (
        _drop_output := (lambda config: config["config"].pop("output_layers")),
        "damaged",
    ),
    "two outputs": (
        _model(output_layers=[["output", 0, 0], ["fc_1", 0, 0]]),
        "has 2 outputs; give a classifier",
    ),
    "output not there": (_model(output_layers=[["nowhere", 0, 0]]), "circle"),
    "no input": (lambda config: config["config"]["layers"].pop(0), "0 inputs"),
    "input without a shape": (_drop("input_1", "config", "batch_input_shape"), "inputs of shape"),
    "shape is a word": (_set("input_1", batch_input_shape="abcd"), "inputs of shape"),
    "shape of words": (_set("input_1", batch_input_shape=[None, "a", 4, 3]), "inputs of shape"),
    "open shape": (_set("input_1", batch_input_shape=[None, None, None, 3]), "one fixed size"),
    "negative shape": (_set("input_1", batch_input_shape=[None, -5, 4, 3]), "inputs of shape"),
    "fractional shape": (_set("input_1", batch_input_shape=[None, 5.5, 4, 3]), "inputs of shape"),
    "enormous shape": (
        _set("input_1", batch_input_shape=[None, 10**9, 10**9, 3]),
        "inputs of shape",
    ),
    "flat shape": (_set("input_1", batch_input_shape=[None, 60]), "inputs of shape"),
    "batch is a word": (_set("input_1", batch_input_shape=["x", 5, 4, 3]), "cannot build"),
    "input reads": (_layer("input_1", inbound_nodes=[[["fc_1", 0, 0, {}]]]), "input reads"),
    "circle": (_layer("leaky", inbound_nodes=[[["flat", 0, 0, {}]]]), "circle"),
    "reads itself": (_layer("leaky", inbound_nodes=[[["leaky", 0, 0, {}]]]), "circle"),
    "reads nothing": (_layer("leaky", inbound_nodes=[]), "reads nothing"),
    "reads an empty call": (_layer("leaky", inbound_nodes=[[]]), "reads nothing"),
    "reads what is not there": (_layer("leaky", inbound_nodes=[[["x", 0, 0]]]), "reads .'x'."),
    "leads nowhere": (_layer("add_1", inbound_nodes=[[["fc_1", 0, 0, {}]] * 2]), "leads nowhere"),
    "nodes are words": (_layer("leaky", inbound_nodes="abc"), "damaged"),
    "nodes are null": (_layer("leaky", inbound_nodes=None), "damaged"),
    "two of a name": (
        lambda config: config["config"]["layers"].append(_entry(config, "fc_1")),
        "two layers of one name",
    ),
    "name is empty": (_layer("leaky", name="", config={"alpha": 0.1}), "a layer is named None"),
    "name is a number": (_layer("leaky", name=7), "a layer is named 7"),
    "name is endless": (_layer("leaky", name="a" * 10**6), "a layer is named 'aaaa"),
    "no filters": (_drop("conv_1", "config", "filters"), "cannot build"),
    "no units": (_drop("fc_1", "config", "units"), "cannot build"),
    "filters are a word": (_set("conv_1", filters="many"), "cannot build"),
    "filters below one": (_set("conv_1", filters=-3), "cannot build"),
    "filters past an int64": (_set("conv_1", filters=10**30), "cannot build"),
    "no stride": (_set("conv_1", strides=[0, 0]), "cannot build"),
    "stride is a word": (_set("conv_1", strides="ab"), "cannot build"),
    "stride is a list of lists": (_set("conv_1", strides=[[1], [1]]), "cannot build"),
    "other padding": (_set("conv_1", padding="causal"), "cannot build"),
    "padding is a number": (_set("conv_1", padding=3), "cannot build"),
    "unknown layout": (_set("conv_1", data_format="sideways"), "mixes channel layouts"),
    "layout is a list": (_set("conv_1", data_format=["channels_last"]), "mixes channel layouts"),
    "slope is a word": (_set("leaky", alpha="steep"), "cannot build"),
    "slope is a list": (_set("leaky", alpha=[1, 2]), "cannot build"),
    "other number type": (_set("fc_1", dtype="float16"), "does not compute in float32"),
    "mixed numbers": (
        _set("fc_1", dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}),
        "does not compute in float32",
    ),
    "sizes that do not fit": (_set("fc_1", units=5), "cannot build"),
    "another size than its weights": (_set("output", units=2), "weights do not fit its layers"),
}


def changed(change: Callable[[Config], None]) -> Config:
    config = copy.deepcopy(keras_2_functional())
    change(config)
    return config


@pytest.mark.parametrize("name", UNSAFE)
def test_what_could_run_code_or_fill_memory_is_refused(name: str, tmp_path: Path) -> None:
    change, said = UNSAFE[name]
    path = legacy_file(tmp_path / "net.h5", changed(change), functional_arrays())
    with pytest.raises(UnsafeFileError, match=said) as caught:
        read_model(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_configs_are_told_as_such(name: str, tmp_path: Path) -> None:
    change, said = DAMAGED[name]
    path = legacy_file(tmp_path / "net.h5", changed(change), functional_arrays())
    with pytest.raises(ModelFileError, match=said) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 600


BOMBS = {
    "not JSON": "{",
    "not an object": "[]",
    "a number": "7",
    "null": "null",
    "not UTF-8": '{"class_name": "\udcff"}',
    "nested lists": "[" * 100_000,
    "closed nested lists": "[" * 50_000 + "]" * 50_000,
    "nested objects": '{"a":' * 30_000 + "1" + "}" * 30_000,
    "a long number": '{"class_name": ' + "9" * 10_000 + "}",
    "endless": " " * (2**24 + 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_config_bombs(name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        parse_config(BOMBS[name].encode("utf-8", "surrogateescape"), PATH)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("place", ["activation", "strides", "dtype", "padding"])
def test_deep_nesting_in_a_setting(place: str) -> None:
    config = json.dumps(changed(_set("conv_1", **{place: "HERE"})))
    for depth in (60, 900, 5_000):
        deep = config.replace('"HERE"', "[" * depth + "]" * depth)
        with pytest.raises(ModelFileError):
            parse_config(deep, PATH)


def test_deep_nesting_in_a_call() -> None:
    call = [{"args": ["HERE"], "kwargs": {}}]
    text = json.dumps(changed(_layer("leaky", inbound_nodes=call)))
    with pytest.raises(ModelFileError, match="reads nothing"):
        parse_config(text.replace('"HERE"', "[" * 400 + "]" * 400), PATH)


def test_a_long_call_is_read_in_linear_time() -> None:
    call: list[Config] = [{"args": [[[] for _ in range(200_000)]], "kwargs": {}}]
    with pytest.raises(ModelFileError, match="reads nothing"):
        parse_config(json.dumps(changed(_layer("leaky", inbound_nodes=call))), PATH)


def test_calls_come_after_what_they_read_and_else_in_file_order() -> None:
    graph = parse_config(json.dumps(keras_2_functional()), PATH)
    assert [layer.name for layer, _ in graph.in_order()] == [each.name for each in graph.layers]
    turned = KerasGraph(graph.layers[::-1], graph.output)
    order = [layer.name for layer, _ in turned.in_order()]
    assert order.index("fc_2") < order.index("fc_1"), "fc_2 stands first in the turned file"
    assert order[0] == "input_1"
    assert order[-1] == "output"


HOSTILE_NAMES = [
    "class",
    "lambda",
    "None",
    "meta",
    "forward",
    "training",
    "code",
    "graph",
    "_modules",
    "1",
    "a b",
    "x'y",
    'x"y',
    "x\ny",
    "ünïcode 層",
    "\u202egnp",
    "{0}%s",
    "a:0",
    "\x1b[31mred",
    "a" * 600,
    "__import__('os')",
    'training") or getattr(__import__("io"), "open")("PWNED", "w") or getattr(self, "code',
    'training"), open("PWNED","w"), getattr(self,"training',
    'x");open("PWNED","w");("',
    "x\n    open('PWNED', 'w')\n    #",
    "images, _=open('PWNED','w')",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_layer_names_are_only_names(
    name: str, activation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch.fx writes Python code with names in it, so a name could become code."""
    monkeypatch.chdir(tmp_path)
    config = changed(_set("conv_1", activation=activation))
    text = json.dumps(config).replace('"conv_1"', json.dumps(name))
    arrays = {
        (name if key == "conv_1" else key): value for key, value in functional_arrays().items()
    }
    model = read_model(legacy_file(Path("net.h5"), text, arrays))
    images = torch.randn(2, 3, 5, 4)
    model.network(images)
    assert name in [row.name for row in layer_rows(model.network, (3, 5, 4))]
    masked = prune_channels(model.network, name, torch.tensor([1]))
    masked(images)
    smaller = remove_channels(model.network, "leaky", torch.tensor([0]), (3, 5, 4))
    smaller(images)
    again = read_model(write_model(model, masked, Path("again.h5")))
    torch.testing.assert_close(again.network(images), masked(images), atol=1e-5, rtol=1e-5)
    assert not Path("PWNED").exists()


@pytest.mark.parametrize("name", ["a/b", "../x", "a.b"])
def test_names_that_keras_cannot_have_are_told(name: str, tmp_path: Path) -> None:
    text = json.dumps(keras_2_functional()).replace('"conv_1"', json.dumps(name))
    with pytest.raises(ModelFileError, match="cannot build its layers"):
        read_model(legacy_file(tmp_path / "net.h5", text, functional_arrays()))


def test_a_name_that_another_layers_second_call_has(tmp_path: Path) -> None:
    config = changed(_layer("leaky", inbound_nodes=[[["conv_1", 0, 0]], [["conv_1", 0, 0]]]))
    text = json.dumps(config).replace('"fc_1"', '"leaky:1"')
    with pytest.raises(ModelFileError, match="two layers of one name"):
        parse_config(text, PATH)


def test_what_keras_3_writes_beside_the_known_settings_is_not_read(tmp_path: Path) -> None:
    evil = {"module": "os", "class_name": "system", "config": "touch PWNED"}
    config = changed(_set("conv_1", kernel_initializer=evil, bias_constraint=evil, extra=evil))
    model = read_model(legacy_file(tmp_path / "net.h5", config, functional_arrays()))
    assert model.classes == 3


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [("UpSampling2D", "size", [10**5, 10**5]), ("ZeroPadding2D", "padding", [10**6, 10**6])],
)
def test_outputs_that_would_fill_memory(
    kind: str, setting: str, value: list[int], tmp_path: Path
) -> None:
    """Without a single weight more, such a layer asks for terabytes when it is run."""
    layers = [
        {
            "class_name": kind,
            "config": {"name": "wide", setting: value, "batch_input_shape": [None, 5, 4, 3]},
        },
        {"class_name": "GlobalAveragePooling2D", "config": {"name": "mean"}},
        {"class_name": "Dense", "config": {"name": "out", "units": 3}},
    ]
    config = {"class_name": "Sequential", "config": {"layers": layers}}
    path = legacy_file(tmp_path / "net.h5", config, {"out": drawn((3, 3), (3,))})
    with pytest.raises(UnsafeFileError, match=r"'wide' makes \d{12,} values of one image"):
        read_model(path)
