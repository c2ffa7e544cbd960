"""Exported programs: round trips, and files that try to do more than hold a network."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from goodnet.errors import ModelFileError, SettingsError, UnsafeFileError
from goodnet.formats.exported import read_exported, write_exported
from goodnet.formats.exported.archive import MalformedError
from goodnet.formats.exported.names import ModuleNames
from goodnet.formats.exported.operations import allowed_operations, is_known, resolve
from goodnet.networks import DeepID, PreActResNet18
from goodnet.networks.layers import ChannelMask, ChannelSelect, FlattenChannelsLast

SIZE = (3, 12, 12)


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.norm_1 = nn.BatchNorm2d(4)
        self.relu_1 = nn.ReLU(inplace=True)
        self.pool_1 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(36, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool_1(self.relu_1(self.norm_1(self.conv_1(images))))
        answer: Tensor = self.output(self.dropout(self.flatten(x)))
        return answer


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding="same")
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv1(x))
        y += x
        changed: Tensor = self.relu(y)
        return changed


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(_Block(), _Block())
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.layer4(x), 1)
        answer: Tensor = self.fc(x.view(x.size(0), -1))
        return answer


class _Fork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool_3 = nn.MaxPool2d(2)
        self.fc_1 = nn.Linear(3 * 36, 8)
        self.conv_4 = nn.Conv2d(3, 4, 2)
        self.fc_2 = nn.Linear(4 * 25, 8)
        self.output = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.pool_3(images)
        left = self.fc_1(torch.flatten(x, 1))
        right = self.fc_2(torch.flatten(torch.relu(self.conv_4(x)), 1))
        answer: Tensor = self.output(torch.relu(left + right))
        return answer


class _TwoAnswers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = _Small()
        self.limit = torch.tensor(0.2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.softmax(self.trunk(images), dim=1)
        best, label = scores.max(dim=1)
        label = torch.where(best > self.limit, label, torch.full_like(label, 5))
        return label, torch.cat([scores, best[:, None]], dim=1)


class _Decomposed(nn.Module):
    """What only decompositions or hand-written code give."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(3, 1, 1))
        self.shared = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.head = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.shared(self.shared(images - self.mean)) * self.scale
        x = F.gelu(x) + F.leaky_relu(x, 0.2)
        answer: Tensor = self.head(x.mean((-1, -2), keepdim=True).flatten(1))
        return F.log_softmax(answer, 1)


class _Surgery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(3, 6, 3)
        self.conv_1_mask = ChannelMask(torch.tensor([1, 4]))
        self.conv_1_select = ChannelSelect(torch.tensor([0, 1, 2]))
        self.flatten_1 = FlattenChannelsLast()
        self.output = nn.Linear(300, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_1_select(self.conv_1_mask(self.conv_1(images)))
        answer: Tensor = self.output(self.flatten_1(x))
        return answer


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": _Small,
    "residual": _Residual,
    "fork": _Fork,
    "two answers": _TwoAnswers,
    "decomposed": _Decomposed,
    "surgery": _Surgery,
}


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = make()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.rand(module.num_features)
                module.num_batches_tracked = torch.tensor(7)
    return network


def _images(count: int, size: tuple[int, ...] = SIZE) -> Tensor:
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(count))


def _answers(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        result = network(images)
    return list(result) if isinstance(result, tuple) else [result]


def _assert_same(first: nn.Module, second: nn.Module, size: tuple[int, ...] = SIZE) -> None:
    for count in (1, 2, 7):
        images = _images(count, size)
        pairs = zip(_answers(first, images), _answers(second, images), strict=True)
        for one, other in pairs:
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def _layers(network: fx.GraphModule) -> list[str]:
    ops = ("placeholder", "call_module", "call_function")
    return [node.meta["layer"] for node in network.graph.nodes if node.op in ops]


def _modules(network: fx.GraphModule) -> dict[str, str]:
    calls = [str(node.target) for node in network.graph.nodes if node.op == "call_module"]
    return {name: type(network.get_submodule(name)).__name__ for name in calls}


def _export(
    network: nn.Module,
    path: Path,
    *,
    is_fixed: bool = False,
    decompose: bool = False,
    batch: int = 2,
) -> Path:
    """A file as a stranger writes it, with sample inputs."""
    sizes = None if is_fixed else ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (_images(batch),), dynamic_shapes=sizes, strict=False
        )
        if decompose:
            program = program.run_decompositions()
        torch.export.save(program, path)
    return path


def _written(path: Path, make: Callable[[], nn.Module] = _Small) -> Path:
    write_exported(_made(make), path, input_shape=SIZE, metadata={})
    return path


# Round trips


@pytest.mark.parametrize("name", NETWORKS)
def test_reading_what_was_written_gives_the_same_network(name: str, tmp_path: Path) -> None:
    network = _made(NETWORKS[name])
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={"range": "0 255 é"})
    contents = read_exported(tmp_path / "a.pt2")
    assert contents.input_shape == SIZE
    assert contents.metadata == {"range": "0 255 é"}
    assert contents.refused == ()
    assert not contents.network.training
    _assert_same(network.eval(), contents.network)

    write_exported(contents.network, tmp_path / "b.pt2", input_shape=SIZE, metadata={})
    again = read_exported(tmp_path / "b.pt2").network
    _assert_same(network, again)
    assert _layers(again) == _layers(contents.network)
    assert _modules(again) == _modules(contents.network)
    assert set(again.state_dict()) == set(contents.network.state_dict())


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_loads_what_was_written(name: str, tmp_path: Path) -> None:
    network = _made(NETWORKS[name])
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={"a": "b"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(tmp_path / "a.pt2")
    assert program.example_inputs is None
    _assert_same(network.eval(), program.module())


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_reads_what_torch_wrote(name: str, decompose: bool, tmp_path: Path) -> None:
    network = _made(NETWORKS[name]).eval()
    contents = read_exported(_export(network, tmp_path / "a.pt2", decompose=decompose))
    _assert_same(network, contents.network)
    assert contents.refused == ("data/sample_inputs/model.pt",)


def test_layers_and_tensors_keep_their_names(tmp_path: Path) -> None:
    network = _made(_Small)
    read = read_exported(_written(tmp_path / "a.pt2")).network
    assert _modules(read) == {
        "conv_1": "Conv2d",
        "norm_1": "BatchNorm2d",
        "relu_1": "ReLU",
        "pool_1": "MaxPool2d",
        "flatten": "Flatten",
        "dropout": "Dropout",
        "output": "Linear",
    }
    assert _layers(read) == ["images", *_modules(read)]
    for name, tensor in network.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    assert isinstance(read.get_parameter("conv_1.weight"), nn.Parameter)
    assert read.get_parameter("conv_1.weight").requires_grad


def test_a_block_keeps_its_nested_names_and_a_module_called_twice_is_two_layers(
    tmp_path: Path,
) -> None:
    read = read_exported(_written(tmp_path / "a.pt2", _Residual)).network
    layers = _layers(read)
    assert layers[1:5] == ["layer4.0.conv1", "layer4.0.relu", "add", "layer4.0.relu_1"]
    assert len(set(layers)) == len(layers)
    assert _modules(read)["view"] == "Flatten"
    assert not any("sym_size" in layer for layer in layers)


def test_decompositions_become_layers_again(tmp_path: Path) -> None:
    network = _made(_Decomposed).eval()
    read = read_exported(_export(network, tmp_path / "a.pt2", decompose=True)).network
    kinds = _modules(read)
    assert kinds["shared"] == "Conv2d"
    assert kinds["head"] == "Linear"
    assert "AdaptiveAvgPool2d" in kinds.values()
    assert read.get_submodule("shared").groups == 3
    calls = [node.target for node in read.graph.nodes if node.op == "call_module"]
    assert calls.count("shared") == 2
    assert torch.equal(read.get_parameter("scale"), network.get_parameter("scale"))
    assert torch.equal(read.get_buffer("mean"), network.get_buffer("mean"))


def test_activations_and_pools_keep_their_settings(tmp_path: Path) -> None:
    modules = [
        nn.ReLU6(),
        nn.Hardtanh(-0.5, 0.7),
        nn.LeakyReLU(0.3),
        nn.ELU(0.5),
        nn.SELU(),
        nn.GELU("tanh"),
        nn.SiLU(),
        nn.Mish(),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.Dropout2d(0.1),
        nn.Flatten(),
        nn.Softmax(1),
        nn.LogSoftmax(1),
    ]
    network = nn.Sequential(*modules)
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={})
    read = read_exported(tmp_path / "a.pt2").network
    for index, module in enumerate(modules):
        again = read.get_submodule(str(index))
        assert type(again) is type(module)
        images = _images(2) * 8 - 2
        assert torch.equal(again(images), module.eval()(images))
    _assert_same(network.eval(), read)


def test_surgery_modules_come_back(tmp_path: Path) -> None:
    kinds = _modules(read_exported(_written(tmp_path / "a.pt2", _Surgery)).network)
    assert list(kinds.values()) == [
        "Conv2d",
        "ChannelMask",
        "ChannelSelect",
        "FlattenChannelsLast",
        "Linear",
    ]
    assert list(kinds) == ["conv_1", "conv_1_mask", "conv_1_select", "flatten_1", "output"]


@pytest.mark.parametrize(
    ("network", "size"),
    [(DeepID(7), (3, 55, 47)), (PreActResNet18(7, width=4), (3, 16, 16))],
    ids=["DeepID", "PreActResNet18"],
)
def test_goodnets_own_networks(
    network: nn.Module, size: tuple[int, int, int], tmp_path: Path
) -> None:
    write_exported(network, tmp_path / "a.pt2", input_shape=size, metadata={})
    read = read_exported(tmp_path / "a.pt2").network
    _assert_same(network.eval(), read, size)
    assert set(read.state_dict()) == set(network.state_dict())


def test_layer_names_of_a_traced_network_are_kept(tmp_path: Path) -> None:
    network = fx.symbolic_trace(_made(_Small))
    for node in network.graph.nodes:
        node.meta["layer"] = {"relu_1": "conv_1", "add": "join"}.get(node.name, node.name)
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={})
    read = read_exported(tmp_path / "a.pt2").network
    assert _layers(read)[:5] == ["images", "conv_1", "norm_1", "conv_1", "pool_1"]
    assert _modules(read)["conv_1_relu"] == "ReLU"


def test_names_of_functions_and_inputs_of_a_traced_network_are_kept(tmp_path: Path) -> None:
    network = fx.symbolic_trace(_made(_Fork))
    names = {"images": "input", "add": "join", "relu_1": "join", "flatten": "flatten_1"}
    for node in network.graph.nodes:
        node.meta["layer"] = names.get(node.name, node.name)
    for name in ("a.pt2", "b.pt2"):
        write_exported(network, tmp_path / name, input_shape=SIZE, metadata={})
        network = read_exported(tmp_path / name).network
        layers = _layers(network)
        assert layers[:3] == ["input", "pool_3", "flatten_1"]
        assert layers[-3:] == ["join", "join", "output"]
    _assert_same(_made(_Fork), network)


def test_no_name_is_given_twice_or_inside_a_module_of_its_own() -> None:
    names = ModuleNames({"conv", "stage.0.norm"})
    assert names.for_module("conv") == "conv"
    assert names.for_module("conv") == "conv_1"
    assert names.for_module("conv.inner") == "conv_inner"
    assert names.for_module("_modules.inner") == "_modules_inner"
    assert names.for_module("forward") == "forward_1"
    assert names.for_operation("stage.0", "stage_relu") == "stage_relu"
    assert names.for_operation("stage.0.norm", "stage.0.norm_relu") == "stage.0.norm_relu"
    assert names.for_module("stage.0.norm") == "stage.0.norm"
    assert names.for_module("stage") == "stage_1"
    assert names.for_tensor("conv.weight") == "conv_weight"
    assert names.for_tensor("stage.0.scale") == "stage.0.scale"


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Flatten())
    assert isinstance(network[0], nn.Conv2d)
    assert isinstance(network[2], nn.Conv2d)
    network[2].weight = network[0].weight
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={})
    read = read_exported(tmp_path / "a.pt2").network
    assert read.get_submodule("0").weight is read.get_submodule("2").weight
    assert read.get_submodule("0").bias is not read.get_submodule("2").bias
    _assert_same(network.eval(), read)


def test_a_training_step_changes_what_was_read(tmp_path: Path) -> None:
    read = read_exported(_written(tmp_path / "a.pt2")).network
    before = read.get_parameter("output.weight").clone()
    read.train()
    read(_images(4)).square().sum().backward()
    torch.optim.SGD(read.parameters(), lr=0.1).step()
    assert not torch.equal(read.get_parameter("output.weight"), before)


# What the writer promises


def test_writing_leaves_the_network_alone(tmp_path: Path) -> None:
    network = _made(_Small).train()
    network.get_submodule("norm_1").eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={})
    read_exported(tmp_path / "a.pt2")
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_same_network_gives_the_same_bytes_without_paths(tmp_path: Path) -> None:
    first, second = _written(tmp_path / "a.pt2"), _written(tmp_path / "other name.pt2")
    assert first.read_bytes() == second.read_bytes()
    assert __file__.encode() not in first.read_bytes()
    assert b"site-packages" not in first.read_bytes()


def test_a_network_that_cannot_be_exported_leaves_the_old_file(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) if images.sum() > 0 else images.flatten(1) + 1

    path = _written(tmp_path / "a.pt2")
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="cannot be exported"):
        write_exported(Deciding(), path, input_shape=SIZE, metadata={})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_network_that_would_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) + torch.rand_like(images).flatten(1)

    with pytest.raises(ModelFileError, match="rand_like"):
        write_exported(Random(), tmp_path / "a.pt2", input_shape=SIZE, metadata={})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _written(tmp_path / "a.pt2")
    before = path.read_bytes()

    def full(self: Path, data: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ModelFileError, match="No space left"):
        _written(path, _Fork)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b"])
def test_metadata_names_are_plain(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="metadata"):
        write_exported(_Small(), tmp_path / "a.pt2", input_shape=SIZE, metadata={name: ""})


# Batch sizes


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_that_does_not_matter_is_accepted(batch: int, tmp_path: Path) -> None:
    network = _made(_Small).eval()
    path = _export(network, tmp_path / "a.pt2", is_fixed=True, batch=batch)
    _assert_same(network, read_exported(path).network)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_fixed_batch_that_matters_is_refused_with_the_remedy(batch: int, tmp_path: Path) -> None:
    network = _made(_Residual).eval()
    path = _export(network, tmp_path / "a.pt2", is_fixed=True, batch=batch)
    with pytest.raises(ModelFileError, match=r'torch\.export\.Dim\("batch"\)'):
        read_exported(path)


def test_images_that_change_each_others_answers_are_refused(tmp_path: Path) -> None:
    class Mixing(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) - images.flatten(1).mean(0)

    path = _export(Mixing(), tmp_path / "a.pt2", is_fixed=True)
    with pytest.raises(ModelFileError, match="one batch size"):
        read_exported(path)


# In-place operations


def test_changing_in_place_what_is_read_later(tmp_path: Path) -> None:
    class Later(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images * 2 - 1
            y = x.relu_()
            return (x + y).flatten(1)

    _assert_same(Later(), read_exported(_export(Later(), tmp_path / "a.pt2")).network)


def test_changing_a_view_of_what_is_read_later_is_refused(tmp_path: Path) -> None:
    class Viewed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images * 2 - 1
            x.flatten(1).relu_()
            return x.flatten(1)

    path = _export(Viewed(), tmp_path / "a.pt2")
    with pytest.raises(ModelFileError, match="run_decompositions"):
        read_exported(path)
    decomposed = _export(Viewed(), tmp_path / "b.pt2", decompose=True)
    _assert_same(Viewed(), read_exported(decomposed).network)


def test_the_old_name_of_a_changed_tensor_means_the_new_one(good: Path, tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        pool = _operation(program, "max_pool2d")
        assert pool["inputs"][0]["arg"] == {"as_tensor": {"name": "relu_"}}
        pool["inputs"][0]["arg"] = {"as_tensor": {"name": "batch_norm"}}

    path = _edited_program(good, edit, tmp_path / "odd.pt2")
    _assert_same(read_exported(good).network, read_exported(path).network)


def test_changing_in_place_keeps_the_type_of_number(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            x = images * 2
            x += images.double() / 3
            return x.flatten(1)

    path = _export(Mixed(), tmp_path / "a.pt2")
    with pytest.raises(ModelFileError, match=r"mixes.*run_decompositions"):
        read_exported(path)


@pytest.mark.parametrize(("name", "setting"), [("batch_norm", "training"), ("dropout", "train")])
def test_operations_set_for_training_are_refused(
    name: str, setting: str, good: Path, tmp_path: Path
) -> None:
    def edit(program: dict[str, Any]) -> None:
        (given,) = [one for one in _operation(program, name)["inputs"] if one["name"] == setting]
        given["arg"] = {"as_bool": True}

    with pytest.raises(ModelFileError, match=rf"{setting} = True.*eval\(\)"):
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))


def test_a_scaled_product_is_no_plain_linear_layer(tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        scale = {"name": "beta", "arg": {"as_float": -3.0}, "kind": 2}
        _operation(program, "addmm")["inputs"].append(scale)

    plain = _export(_made(_Small).eval(), tmp_path / "a.pt2", decompose=True)
    path = _edited_program(plain, edit, tmp_path / "b.pt2")
    read = read_exported(path).network
    assert "Linear" not in _modules(read).values()
    _assert_same(torch.export.load(path).module(), read)


def test_a_network_exported_for_training_is_refused(tmp_path: Path) -> None:
    path = _export(_made(_Small).train(), tmp_path / "a.pt2")
    with pytest.raises(ModelFileError, match=r"eval\(\)"):
        read_exported(path)


# Files that ask for more

Members = dict[str, bytes]


def _edited(path: Path, edit: Callable[[Members], None], target: Path) -> Path:
    """The archive at `path` with its members, named below the folder, changed by `edit`."""
    with zipfile.ZipFile(path) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return target


def _edited_program(path: Path, edit: Callable[[dict[str, Any]], None], target: Path) -> Path:
    """The archive with its program changed by `edit`."""

    def change(members: Members) -> None:
        program = json.loads(members["models/model.json"])
        edit(program)
        members["models/model.json"] = json.dumps(program).encode()

    return _edited(path, change, target)


def _edited_weight(path: Path, edit: Callable[[dict[str, Any]], None], target: Path) -> Path:
    """The archive with the record of conv_1.weight changed by `edit`."""
    name = "data/weights/model_weights_config.json"

    def change(members: Members) -> None:
        payload = json.loads(members[name])
        edit(payload["config"]["conv_1.weight"])
        members[name] = json.dumps(payload).encode()

    return _edited(path, change, target)


def _operations(program: dict[str, Any]) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = program["graph_module"]["graph"]["nodes"]
    return operations


def _operation(program: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [one for one in _operations(program) if one["name"] == name]
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _written(tmp_path_factory.mktemp("good") / "good.pt2")


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def _bombs(mark: Path) -> dict[str, bytes]:
    saved = io.BytesIO()
    torch.save(_Bomb(mark), saved)
    return {"pickle": pickle.dumps(_Bomb(mark)), "torch.save": saved.getvalue()}


def test_the_bombs_of_these_tests_work(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(_bombs(mark)["pickle"])  # noqa: S301 - the bomb itself
    assert mark.is_dir()
    mark.rmdir()
    torch.load(io.BytesIO(_bombs(mark)["torch.save"]), weights_only=False)
    assert mark.is_dir()


def test_an_edit_that_changes_nothing_is_still_read(good: Path, tmp_path: Path) -> None:
    path = _edited_program(good, lambda program: None, tmp_path / "same.pt2")
    _assert_same(read_exported(good).network, read_exported(path).network)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.from_file.default",
        "torch.serialization.os.system",
        "torch.hub.load",
        "torch.load",
        "_operator.attrgetter",
        "_operator.methodcaller",
        "_operator.pow",
        "_operator.getitem",
        "math.factorial",
        "builtins.eval",
        "torch.ops.aten.set_.source_Tensor",
        "torch.ops.aten.resize_.default",
        "torch.ops.aten.copy_.default",
        "torch.ops.aten.as_strided.default",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.rand.default",
        "torch.ops.aten.relu.out",
        "torch.ops.aten.relu.default.__globals__",
        "torch.ops.aten.relu",
        "torch.ops.higher_order.cond",
        "torch.ops.goodnet.custom.default",
        "#extension:operation",
        "os.system('x')",
        "torch.ops.aten.\nrelu.default",
        "",
    ],
)
def test_other_operations_are_refused_by_name(target: str, good: Path, tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        node = _operation(program, "max_pool2d")
        node["target"] = target

    path = _edited_program(good, edit, tmp_path / "bad.pt2")
    with pytest.raises(UnsafeFileError) as caught:
        read_exported(path)
    assert repr(target) in caught.value.problem
    assert caught.value.exit_code == 3
    assert caught.value.path == str(path)


def test_the_list_holds_pure_operations_only() -> None:
    operations = allowed_operations()
    assert len(operations) > 150
    for name, operation in operations.items():
        schema = operation._schema
        assert not schema.is_mutable, name
        assert not any(argument.is_out for argument in schema.arguments), name
        kinds = {str(argument.type) for argument in schema.arguments}
        assert not kinds & {"Generator", "Optional[Generator]", "Storage", "Stream"}, name
        assert "file" not in name, name
        assert "empty" not in name, name
        assert "rand" not in name, name
        assert "strided" not in name, name
    assert resolve("torch.ops.aten.relu_.default")[0] == "relu.default"
    assert not is_known("relu.default")
    with pytest.raises(MalformedError):
        resolve("relu.default")


@pytest.mark.parametrize("kind", ["pickle", "torch.save"])
@pytest.mark.parametrize("says_so", [True, False])
def test_pickled_weights_are_not_opened(
    kind: str, says_so: bool, good: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"

    def edit(members: Members) -> None:
        name = "data/weights/model_weights_config.json"
        payload = json.loads(members[name])
        record = payload["config"]["conv_1.weight"]
        record["use_pickle"] = says_so
        members[name] = json.dumps(payload).encode()
        bomb = _bombs(mark)[kind]
        members[f"data/weights/{record['path_name']}"] = bomb + bytes(-len(bomb) % 4)

    path = _edited(good, edit, tmp_path / "bad.pt2")
    if says_so:
        with pytest.raises(UnsafeFileError, match="pickle"):
            read_exported(path)
    elif len(_bombs(mark)[kind]) < 4 * 108:
        with pytest.raises(ModelFileError, match="reaches past"):
            read_exported(path)
    else:
        read_exported(path)
    assert not mark.exists()


def test_weights_of_older_versions_are_not_unpickled(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def edit(members: Members) -> None:
        members["data/weights/model.pt"] = _bombs(mark)["torch.save"]

    with pytest.raises(UnsafeFileError, match="pickle"):
        read_exported(_edited(good, edit, tmp_path / "bad.pt2"))
    assert not mark.exists()


@pytest.mark.parametrize("member", ["custom_obj_0", "opaque_obj_0", "../weights/weight_0"])
def test_constants_that_are_no_tensors_are_refused(member: str, good: Path, tmp_path: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["path_name"] = member

    with pytest.raises(UnsafeFileError, match="is no tensor"):
        read_exported(_edited_weight(good, edit, tmp_path / "bad.pt2"))


def test_sample_inputs_are_not_opened(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    def edit(members: Members) -> None:
        members["data/sample_inputs/model.pt"] = _bombs(mark)["torch.save"]
        members["extra/hello.txt"] = b"not ours"
        members["data/unknown.so"] = b"\x7fELF"

    contents = read_exported(_edited(good, edit, tmp_path / "odd.pt2"))
    assert not mark.exists()
    assert set(contents.refused) == {
        "data/sample_inputs/model.pt",
        "extra/hello.txt",
        "data/unknown.so",
    }
    assert contents.metadata == {}
    _assert_same(read_exported(good).network, contents.network)


def test_size_expressions_are_not_evaluated(good: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    attack = f"__import__('os').mkdir({str(mark)!r})"

    def edit(program: dict[str, Any]) -> None:
        graph = program["graph_module"]["graph"]
        for fact in graph["tensor_values"].values():
            for size in fact["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = attack
        graph["sym_int_values"] = {"s0": {"as_expr": {"expr_str": attack, "hint": None}}}
        program["guards_code"] = [attack]
        program["range_constraints"] = {attack: {"min_val": 0, "max_val": None}}
        program["graph_module"]["module_call_graph"] = [{"fqn": attack, "signature": None}]

    contents = read_exported(_edited_program(good, edit, tmp_path / "odd.pt2"))
    assert not mark.exists()
    _assert_same(read_exported(good).network, contents.network)


# Strings of the file that reach the code that torch.fx generates.
@pytest.mark.parametrize(
    "name", ["x): import os #", 'a")+print("', "", "a.b", "x\n", "é", "1x", "a" * 300]
)
def test_names_that_are_no_names_are_refused(name: str, good: Path, tmp_path: Path) -> None:
    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {name if key == "relu_" else key: rename(one) for key, one in value.items()}
        if isinstance(value, list):
            return [rename(one) for one in value]
        return name if value == "relu_" else value

    path = _edited_program(good, lambda program: program.update(rename(program)), tmp_path / "b")
    with pytest.raises(UnsafeFileError, match="no identifier"):
        read_exported(path)


@pytest.mark.parametrize("name", ['a"), print("', "a..b", "", "conv 1.weight", "a\n.weight"])
def test_module_names_that_are_no_names_are_refused(name: str, good: Path, tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        specs = program["graph_module"]["signature"]["input_specs"]
        specs[0]["parameter"]["parameter_name"] = name

    with pytest.raises(UnsafeFileError, match="no dotted name"):
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))


@pytest.mark.parametrize("name", ["forward", "__class__", "training", "graph", "_modules.x"])
def test_names_of_attributes_do_not_replace_them(name: str, good: Path, tmp_path: Path) -> None:
    def edit(members: Members) -> None:
        for member in ("models/model.json", "data/weights/model_weights_config.json"):
            members[member] = members[member].replace(b'"conv_1.weight"', f'"{name}"'.encode())

    read = read_exported(_edited(good, edit, tmp_path / "odd.pt2")).network
    assert type(read).__mro__[1] is fx.GraphModule
    _assert_same(read_exported(good).network, read)


@pytest.mark.parametrize("name", ["self", "torch", "images", "input", "lambda", "__import__"])
def test_values_with_names_of_python_are_harmless(name: str, good: Path, tmp_path: Path) -> None:
    def edit(members: Members) -> None:
        model = members["models/model.json"]
        members["models/model.json"] = model.replace(b'"relu_"', f'"{name}_x"'.encode()).replace(
            f'"{name}_x"'.encode(), f'"{name}"'.encode()
        )

    if name == "self":
        with pytest.raises(UnsafeFileError, match="no identifier"):
            read_exported(_edited(good, edit, tmp_path / "odd.pt2"))
        return
    if name == "images":
        with pytest.raises(ModelFileError, match="taken"):
            read_exported(_edited(good, edit, tmp_path / "odd.pt2"))
        return
    read = read_exported(_edited(good, edit, tmp_path / "odd.pt2")).network
    _assert_same(read_exported(good).network, read)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("storage_offset", {"as_int": 1}, "reaches past"),
        ("storage_offset", {"as_int": -1}, "from 0"),
        ("storage_offset", {"as_int": 2**62}, "reaches past"),
        ("storage_offset", {"as_int": 2**64}, "64 bits"),
        ("storage_offset", {"as_expr": {"expr_str": "0"}}, "from 0"),
        ("sizes", [{"as_int": 10**12}], "sizes"),
        ("sizes", [{"as_int": size} for size in (4, 3, 3, -3)], "from 0"),
        ("sizes", [{"as_int": size} for size in (5, 3, 3, 3)], "reaches past"),
        ("strides", [{"as_int": 10**9}] * 4, "reaches past"),
        ("strides", [{"as_int": -1}] * 4, "from 0"),
        ("strides", [{"as_int": True}] * 4, "64 bits"),
        ("dtype", 8, "reaches past"),
        ("dtype", 9, "number type"),
        ("dtype", "float", "number type"),
        ("layout", 1, "dense"),
    ],
)
def test_tensors_cannot_reach_past_their_bytes(
    field: str, value: Any, match: str, good: Path, tmp_path: Path
) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["tensor_meta"][field] = value

    with pytest.raises(ModelFileError, match=match):
        read_exported(_edited_weight(good, edit, tmp_path / "bad.pt2"))


def test_a_tensor_cannot_be_larger_than_its_bytes(good: Path, tmp_path: Path) -> None:
    def edit(record: dict[str, Any]) -> None:
        record["tensor_meta"]["sizes"] = [{"as_int": 10**6}] * 4
        record["tensor_meta"]["strides"] = [{"as_int": 0}] * 4

    with pytest.raises(ModelFileError, match="reaches past"):
        read_exported(_edited_weight(good, edit, tmp_path / "bad.pt2"))


def test_a_missing_weight(good: Path, tmp_path: Path) -> None:
    def edit(members: Members) -> None:
        del members["data/weights/weight_0"]

    with pytest.raises(ModelFileError, match="weight_0' is missing"):
        read_exported(_edited(good, edit, tmp_path / "bad.pt2"))


def test_an_index_out_of_range_is_found_when_reading(tmp_path: Path) -> None:
    network = _made(_Surgery)
    write_exported(network, tmp_path / "a.pt2", input_shape=SIZE, metadata={})

    def edit(members: Members) -> None:
        content = torch.tensor([0, 1, 2]).numpy().tobytes()
        (name,) = [one for one in members if members[one] == content]
        members[name] = torch.tensor([0, 1, 10**9]).numpy().tobytes()

    with pytest.raises(ModelFileError, match="conv_1_select"):
        read_exported(_edited(tmp_path / "a.pt2", edit, tmp_path / "bad.pt2"))


@pytest.mark.parametrize("huge", [10**6, 2**40])
def test_layers_that_would_fill_the_memory_are_refused(
    huge: int, good: Path, tmp_path: Path
) -> None:
    def edit(program: dict[str, Any]) -> None:
        node = _operation(program, "max_pool2d")
        node["target"] = "torch.ops.aten.adaptive_avg_pool2d.default"
        node["inputs"] = node["inputs"][:1]
        size = {"name": "output_size", "arg": {"as_ints": [huge, huge]}, "kind": 1}
        node["inputs"].append(size)

    with pytest.raises(ModelFileError, match="pool_1"):
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))


def test_sizes_that_grow_without_end_are_refused(good: Path, tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        def node(name: str, target: str, *inputs: dict[str, Any]) -> dict[str, Any]:
            given = [{"name": f"a{i}", "arg": one, "kind": 1} for i, one in enumerate(inputs)]
            outputs = [{"as_sym_int": {"as_name": name}}]
            made = {"name": name, "target": target, "inputs": given, "outputs": outputs}
            return {**made, "metadata": {}}

        flatten = _operation(program, "flatten")
        chain = [node("s0", "_operator.add", {"as_int": 7}, {"as_int": 7})]
        for step in range(60):
            last = {"as_sym_int": {"as_name": f"s{step}"}}
            chain.append(node(f"s{step + 1}", "_operator.mul", last, last))
        flatten["inputs"][1]["arg"] = {"as_sym_int": {"as_name": "s60"}}
        nodes = _operations(program)
        nodes[:0] = chain

    with pytest.raises(ModelFileError, match="64 bits"):
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))


@pytest.mark.parametrize(
    "argument",
    [
        {"as_graph": {"name": "g", "graph": {}}},
        {"as_custom_obj": {"name": "o", "class_fqn": "c"}},
        {"as_operator": "torch.ops.aten.relu.default"},
        {"as_string": "__import__('os')"},
    ],
    ids=["graph", "object", "operator", "text"],
)
def test_arguments_that_are_code_are_refused(
    argument: dict[str, Any], good: Path, tmp_path: Path
) -> None:
    def edit(program: dict[str, Any]) -> None:
        _operations(program)[0]["inputs"][0]["arg"] = argument

    with pytest.raises(UnsafeFileError):
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))


@pytest.mark.parametrize(
    "argument",
    [
        {"as_memory_format": []},
        {"as_memory_format": 9},
        {"as_scalar_type": {}},
        {"as_ints": [1, True]},
        {"as_float": "1"},
        {"as_unknown": 1},
        {"as_int": 1, "as_bool": True},
        {},
        7,
    ],
)
def test_arguments_that_are_malformed(argument: Any, good: Path, tmp_path: Path) -> None:
    def edit(program: dict[str, Any]) -> None:
        _operations(program)[0]["inputs"][0]["arg"] = argument

    with pytest.raises(ModelFileError) as caught:
        read_exported(_edited_program(good, edit, tmp_path / "bad.pt2"))
    assert type(caught.value) is ModelFileError


@pytest.mark.parametrize(
    ("member", "error"),
    [
        ("data/aotinductor/model/m.so", UnsafeFileError),
        ("data/executorch/m.pte", UnsafeFileError),
        ("../../x", UnsafeFileError),
        ("a/../../x", UnsafeFileError),
        ("a\\..\\x", UnsafeFileError),
        ("C:/x", UnsafeFileError),
        ("models/second.json", ModelFileError),
    ],
)
def test_members_that_do_not_belong_there(
    member: str, error: type[ModelFileError], good: Path, tmp_path: Path
) -> None:
    path = _edited(good, lambda members: members.update({member: b"{}"}), tmp_path / "bad.pt2")
    with pytest.raises(error) as caught:
        read_exported(path)
    assert type(caught.value) is error


def test_an_absolute_member(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(good.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/etc/x", b"")
    with pytest.raises(UnsafeFileError, match="outside"):
        read_exported(path)


def test_a_member_that_is_there_twice(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(good.read_bytes())
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/models/model.json", b"{}")
    with pytest.raises(UnsafeFileError, match="twice"):
        read_exported(path)


def test_members_that_share_their_bytes(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(good.read_bytes())
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(100):
            info = copy.copy(archive.getinfo("archive/models/model.json"))
            info.filename = info.orig_filename = f"archive/extra/goodnet/{number}"
            archive.filelist.append(info)
        archive.writestr("archive/extra/last", b"")
    with pytest.raises(UnsafeFileError, match="overlap"):
        read_exported(path)


def test_a_member_whose_name_has_a_hidden_part(good: Path, tmp_path: Path) -> None:
    member = {"extra/goodnet/aXb": b"text"}
    path = _edited(good, lambda members: members.update(member), tmp_path / "bad.pt2")
    assert read_exported(path).metadata == {"aXb": "text"}
    path.write_bytes(path.read_bytes().replace(b"aXb", b"a\0b"))
    with pytest.raises(UnsafeFileError, match="hidden part"):
        read_exported(path)


def test_a_member_that_unpacks_to_far_more(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.pt2"
    path.write_bytes(good.read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/extra/goodnet/zeros", bytes(10**7))
    with pytest.raises(UnsafeFileError, match="unpacks to 10000000"):
        read_exported(path)


def test_an_encrypted_member(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        directory = archive.start_dir
    content[directory + 8] |= 1
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(UnsafeFileError, match="encrypted"):
        read_exported(path)


def test_a_member_that_lies_outside_the_file(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as archive:
        directory = archive.start_dir
    content[directory + 42 : directory + 46] = b"\xf0\xff\xff\xff"
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="outside the file"):
        read_exported(path)


def test_changed_bytes_are_noticed(good: Path, tmp_path: Path) -> None:
    content = bytearray(good.read_bytes())
    weight = read_exported(good).network.get_parameter("conv_1.weight")
    content[content.index(weight.detach().numpy().tobytes())] ^= 1
    path = tmp_path / "bad.pt2"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="CRC"):
        read_exported(path)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"a":' * 10**5,
        b"\xff\xfe{}",
        b"{}",
        b"[]",
        b"null",
        b"",
        b"9" * 10**5,
        b'{"schema_version": {"major": NaN}}',
    ],
    ids=["lists", "objects", "bytes", "empty object", "list", "null", "nothing", "number", "NaN"],
)
@pytest.mark.parametrize("name", ["models/model.json", "data/weights/model_weights_config.json"])
def test_json_that_is_none(name: str, content: bytes, good: Path, tmp_path: Path) -> None:
    path = _edited(good, lambda members: members.update({name: content}), tmp_path / "bad.pt2")
    with pytest.raises(ModelFileError) as caught:
        read_exported(path)
    assert type(caught.value) is ModelFileError
    assert len(str(caught.value)) < 400


def test_metadata_that_is_no_text(good: Path, tmp_path: Path) -> None:
    member = {"extra/goodnet/x": b"\xff"}
    path = _edited(good, lambda members: members.update(member), tmp_path / "bad.pt2")
    with pytest.raises(ModelFileError, match="UTF-8"):
        read_exported(path)


# Files that are something else


def _torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.ReLU()), path)


def _old_program(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "1")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", b"")


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/readme.txt", "hello")


@pytest.mark.parametrize(
    ("write", "error", "match"),
    [
        (lambda path: path.write_bytes(b""), ModelFileError, "empty"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), ModelFileError, "zip"),
        (lambda path: path.mkdir(), ModelFileError, "cannot be read"),
        (lambda path: None, ModelFileError, "does not exist"),
        (_old_program, ModelFileError, "old torch"),
        (_other_zip, ModelFileError, "without an exported program"),
        (_torchscript, UnsafeFileError, "TorchScript"),
        (lambda path: torch.save({"a": torch.zeros(1)}, path), UnsafeFileError, "pickle"),
        (lambda path: path.write_bytes(pickle.dumps({})), UnsafeFileError, "pickle"),
    ],
)
def test_files_of_another_kind(
    write: Callable[[Path], object], error: type[ModelFileError], match: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    write(path)
    with pytest.raises(error, match=match) as caught:
        read_exported(path)
    assert type(caught.value) is error
    assert caught.value.remedy


@pytest.mark.parametrize("member", ["archive_version", "archive_format", "byteorder"])
def test_other_versions_of_the_archive(member: str, good: Path, tmp_path: Path) -> None:
    path = _edited(good, lambda members: members.update({member: b"9"}), tmp_path / "bad.pt2")
    with pytest.raises(ModelFileError, match=f"{member} is '9'"):
        read_exported(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_short(share: float, good: Path, tmp_path: Path) -> None:
    content = good.read_bytes()
    path = tmp_path / "short.pt2"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match="no whole zip"):
        read_exported(path)


def test_any_change_of_the_program_is_read_or_refused(good: Path, tmp_path: Path) -> None:
    """Replace one value of the JSON after another by something else."""
    chooser = random.Random(0)  # noqa: S311 - a test
    odd: list[Any] = [None, -1, 2**70, 1.5, "", "x", [], {}, True, {"as_int": -1}, {"as_name": "x"}]

    def places(value: Any) -> list[tuple[Any, Any]]:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found = []
        for key, one in list(pairs):
            found.append((value, key))
            if isinstance(one, dict | list):
                found.extend(places(one))
        return found

    def edit(program: dict[str, Any]) -> None:
        container, key = chooser.choice(places(program))
        container[key] = chooser.choice(odd)

    outcomes = set()
    for _ in range(150):
        try:
            read_exported(_edited_program(good, edit, tmp_path / "odd.pt2"))
            outcomes.add("read")
        except ModelFileError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
