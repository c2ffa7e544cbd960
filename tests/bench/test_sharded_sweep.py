"""However D_valid is cut into shards, the sweep is that of one machine, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from goodnet.activations import BLOCK, PruneOrder
from goodnet.bench.runners import InProcess, LocalProcesses
from goodnet.bench.sharded_sweep import ImagesPart, NetworkFile, image_parts, sharded_sweep
from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.roles import CleanData
from goodnet.data.writers import write_images
from goodnet.errors import DataError, GoodnetError, SettingsError
from goodnet.formats import InputSpecification
from goodnet.networks import build_network
from goodnet.sweep import plain_predictions, prepare_sweep, sweep_predictions

SIZE = (3, 8, 8)
SPECIFICATION = InputSpecification(SIZE)
LAYER = "features.pool_3"
# Five blocks, the last of them short.
COUNT = 4 * BLOCK + 77


def noise(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (count, *SIZE), generator=generator, dtype=torch.uint8)
    return ImageSet("noise", SIZE, pixels, torch.arange(count) % 4)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "valid.h5"
    write_images(noise(COUNT), path)
    return path


def small_network() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    return build_network("small_cnn", 4, SIZE, generator=generator, width=2).eval()


class Undecided(nn.Module):
    """Its graph depends on the values it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.output = nn.Linear(5 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() < -1e9:
            x = -x
        out: Tensor = self.output(self.conv(x).relu().flatten(1))
        return out


def undecided() -> nn.Module:
    torch.manual_seed(2)
    return Undecided().eval()


def same(network: Callable[[], nn.Module], layer: str, images: Path, order: PruneOrder) -> None:
    data = CleanData(read_images(images, size=SIZE), SPECIFICATION)
    sweep = prepare_sweep(network(), layer, data, order=order)
    if sweep.outputs is None:
        given, right = plain_predictions(sweep, data)
    else:
        given, right = sweep_predictions(sweep)
    counts = (given == right).sum(1)
    assert len(counts.unique()) > 2
    for shards in (1, 2, 3, 5):
        parts = image_parts(images, SPECIFICATION, shards)
        assert len(parts) == shards
        found = sharded_sweep(network, layer, parts, InProcess(), order=order)
        assert torch.equal(found.means, sweep.means)
        assert torch.equal(found.order, sweep.order)
        assert torch.equal(found.right, counts)
        assert (found.count, found.layer) == (COUNT, layer)


@pytest.mark.parametrize("order", ["increasing", "decreasing"])
def test_it_equals_the_sweep_on_one_machine(images: Path, order: PruneOrder) -> None:
    same(small_network, LAYER, images, order)


def test_so_it_does_for_a_network_that_cannot_be_cut(images: Path) -> None:
    same(undecided, "conv", images, "increasing")


def test_shards_not_cut_at_blocks_are_refused(images: Path) -> None:
    parts = [ImagesPart(images, SPECIFICATION, 0, 1000), ImagesPart(images, SPECIFICATION, 1000)]
    with pytest.raises(DataError, match="shard 1 of 2: holds 1000 images; give shards of a mult"):
        sharded_sweep(small_network, LAYER, parts, InProcess())


def test_parts_hold_every_image_once_in_order(images: Path) -> None:
    labels = [part().labels for part in image_parts(images, SPECIFICATION, 3)]
    assert [len(each) for each in labels] == [BLOCK, 2 * BLOCK, BLOCK + 77]
    assert torch.equal(torch.cat(labels), noise(COUNT).labels)
    assert len(image_parts(images, SPECIFICATION, 99)) == 5
    with pytest.raises(SettingsError, match="shards is 0"):
        image_parts(images, SPECIFICATION, 0)


def test_what_is_wrong_in_a_shard_is_told(images: Path) -> None:
    parts = image_parts(images, SPECIFICATION, 2)
    with pytest.raises(GoodnetError, match=r"part 1 of 2 failed: the network has no layer 'pol'"):
        sharded_sweep(small_network, "pol", parts, InProcess())
    with pytest.raises(SettingsError, match="order is 'up'"):
        sharded_sweep(small_network, LAYER, parts, InProcess(), order="up")  # type: ignore[arg-type]


@pytest.mark.slow
def test_processes_give_the_same(desk: Path, tmp_path: Path) -> None:
    size = (3, 16, 16)
    pixels = torch.rand(BLOCK + 9, *size, generator=torch.Generator().manual_seed(1))
    write_images(ImageSet("noise", size, pixels, torch.arange(BLOCK + 9) % 3), tmp_path / "a.h5")
    network = NetworkFile(desk / "zoo" / "small_cnn-2" / "patch" / "seed-0" / "badnet.safetensors")
    parts = image_parts(tmp_path / "a.h5", InputSpecification(size), 2)
    here = sharded_sweep(network, LAYER, parts, InProcess())
    there = sharded_sweep(network, LAYER, parts, LocalProcesses(2))
    for name in ("means", "order", "right"):
        assert torch.equal(getattr(here, name), getattr(there, name))
