"""Weights in .safetensors: round trips, and files that claim to be more than they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import fx, nn

from goodnet.errors import ModelFileError
from goodnet.formats import read_model, write_model
from goodnet.networks import ARCHITECTURES, build_network
from goodnet.surgery import prune_channels, remove_channels

SIZES = {
    "deepid": (3, 31, 31),
    "small_cnn": (1, 16, 8),
    "preact_resnet18": (3, 8, 8),
    "alexnet": (1, 67, 83),
}
LAYERS = {
    "deepid": "pool_3",
    "small_cnn": "features.pool_3",
    "preact_resnet18": "relu",
    "alexnet": "features.pool_5",
}


def built(architecture: str, seed: int = 0) -> nn.Module:
    options = {} if architecture == "deepid" else {"width": 3}
    generator = torch.Generator().manual_seed(seed)
    size = SIZES[architecture]
    return build_network(architecture, 4, size, generator=generator, **options).eval()


def noted(architecture: str, /, **changes: Any) -> dict[str, str]:
    specification = {"size": SIZES[architecture], "range": [0, 255]}
    note = {"classes": 4, "architecture": architecture, "specification": specification}
    return {"goodnet": json.dumps(note | changes)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(architecture: str, tmp_path: Path) -> None:
    network = built(architecture)
    path = tmp_path / "net.safetensors"
    save_file(network.state_dict(), path, metadata=noted(architecture))
    model = read_model(path)
    assert (model.classes, model.specification.range) == (4, (0.0, 255.0))
    assert not model.network.training
    images = torch.randn(2, *SIZES[architecture])
    torch.testing.assert_close(model.network(images), network(images))
    bits = model.network.state_dict()
    assert all(torch.equal(bits[name], value) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.network.parameters())

    pruned = prune_channels(model.network, LAYERS[architecture], torch.tensor([0]))
    assert isinstance(pruned, fx.GraphModule)
    if architecture == "preact_resnet18":
        # Its norm follows an addition, so the shift is zeroed and no mask is needed.
        assert not any("mask" in name for name, _ in pruned.named_modules())
    again = read_model(write_model(model, pruned, tmp_path / "pruned"))
    assert torch.equal(again.network(images), pruned(images))
    assert again.specification == model.specification
    with pytest.raises(ModelFileError, match="cannot hold a network whose layers changed"):
        write_model(
            model,
            remove_channels(
                model.network, LAYERS[architecture], torch.tensor([0]), SIZES[architecture]
            ),
            tmp_path / "smaller",
        )
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "net.safetensors",
        "pruned.safetensors",
    ]


def test_without_a_note_the_architecture_must_be_named(tmp_path: Path) -> None:
    network = build_network("small_cnn", 2, (3, 32, 32), generator=torch.Generator(), width=2)
    path = tmp_path / "net.safetensors"
    save_file(network.state_dict(), path)
    with pytest.raises(ModelFileError, match="holds weights only; say --architecture, one of: dee"):
        read_model(path)
    model = read_model(path, architecture="small_cnn")
    assert model.specification.size == (3, 32, 32)
    with pytest.raises(ModelFileError, match="not those of a 'deepid' for images of"):
        read_model(path, architecture="deepid")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    network = built("small_cnn").half()
    path = tmp_path / "net.safetensors"
    save_file(network.state_dict(), path, metadata=noted("small_cnn"))
    model = read_model(path)
    assert {value.dtype for value in model.network.parameters()} == {torch.float32}
    assert model.network(torch.randn(1, 1, 16, 8)).shape == (1, 4)


def state(architecture: str = "small_cnn") -> dict[str, torch.Tensor]:
    return dict(built(architecture).state_dict())


CLAIMS: dict[str, tuple[dict[str, torch.Tensor], dict[str, Any], str]] = {
    "an image of a million pixels a side": (
        {},
        {"specification": {"size": [1, 10**6, 10**6]}},
        "give one for images of up to",
    ),
    "an image too small": ({}, {"specification": {"size": [1, 2, 2]}}, "for images of (1, 2, 2)"),
    "a million million classes": (
        {"output.weight": torch.empty(10**12, 0)},
        {},
        "shape in current model is torch.Size([1000000000000",
    ),
    "as many channels": (
        {"features.conv_1.weight": torch.empty(10**9, 0, 3, 3)},
        {},
        "not those of a 'small_cnn'",
    ),
    "no width": ({"features.conv_1.weight": torch.tensor(1.0)}, {}, "not those of"),
    "flat classes": ({"output.weight": torch.ones(4)}, {}, "not those of a 'small_cnn'"),
    "complex numbers": (
        {"output.bias": torch.ones(4, dtype=torch.complex64)},
        {},
        "output.bias holds complex numbers",
    ),
    "one weight more": ({"evil": torch.ones(1)}, {}, "Unexpected key(s) in state_dict"),
    "numbers that are none": (
        {"output.bias": torch.tensor([1.0, 2.0, torch.nan, 0.0])},
        {},
        "has weights that are NaN or infinite",
    ),
    "infinite numbers": (
        {"output.bias": torch.tensor([1.0, 2.0, torch.inf, 0.0])},
        {},
        "has weights that are NaN or infinite",
    ),
    "an unknown architecture": ({}, {"architecture": "os.system"}, "cannot be a 'os.system'"),
    "a note of the wrong type": ({}, {"classes": "many"}, "its goodnet note is damaged"),
    "one class": (
        {"output.weight": torch.ones(1, 24), "output.bias": torch.ones(1)},
        {},
        "is no classifier",
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_that_do_not_hold(name: str, tmp_path: Path) -> None:
    tensors, note, said = CLAIMS[name]
    path = tmp_path / "net.safetensors"
    save_file(state() | tensors, path, metadata=noted("small_cnn", **note))
    with pytest.raises(ModelFileError) as caught:
        read_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    rest = {key: value for key, value in state().items() if key != "output.bias"}
    save_file(rest, path, metadata=noted("small_cnn"))
    with pytest.raises(ModelFileError, match=r"output\.bias"):
        read_model(path)
