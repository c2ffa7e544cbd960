"""A folder as a case: what is there is found, what does not fit together is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from goodnet.cases import folder_case
from goodnet.data.images import ImageSet
from goodnet.data.writers import write_images
from goodnet.errors import DataError


def write_set(folder: Path, name: str, *, size: int = 16, labels: int = 3) -> None:
    pixels = torch.zeros(6, 3, size, size, dtype=torch.uint8)
    images = ImageSet(name, (3, size, size), pixels, torch.arange(6) % labels)
    write_images(images, folder / f"{name}.h5")


def write_pictures(folder: Path, classes: tuple[str, ...], *, size: int) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(folder / name / "a.png")


def test_the_sets_of_a_folder_and_its_usual_network(tmp_path: Path) -> None:
    write_set(tmp_path, "train")
    write_set(tmp_path, "test")
    case = folder_case(str(tmp_path), options={"width": 4})
    assert case.name == tmp_path.name
    assert case.recipe.architecture == "small_cnn"
    assert case.recipe.classes == 3
    assert case.recipe.options == {"width": 4}
    assert case.material.valid is None
    write_set(tmp_path, "valid")
    assert folder_case(tmp_path).material.valid is not None


def test_faces_get_a_deepid(tmp_path: Path) -> None:
    pixels = torch.zeros(2, 3, 55, 47, dtype=torch.uint8)
    faces = ImageSet("faces", (3, 55, 47), pixels, torch.arange(2))
    for name in ("train", "test"):
        write_images(faces, tmp_path / f"{name}.h5")
    assert folder_case(tmp_path).recipe.architecture == "deepid"
    assert folder_case(tmp_path, architecture="small_cnn").recipe.architecture == "small_cnn"


def test_what_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone: no such folder; give a folder with train\.h5"):
        folder_case(tmp_path / "gone")
    write_set(tmp_path, "train")
    with pytest.raises(DataError, match="holds no test set"):
        folder_case(tmp_path)
    write_set(tmp_path, "test", size=8)
    with pytest.raises(DataError, match=r"test\.h5.*8x8"):
        folder_case(tmp_path)
    write_set(tmp_path, "test", labels=5)
    with pytest.raises(DataError, match="'label' of image 3 is 3"):
        folder_case(tmp_path)


def test_pictures_take_the_size_of_those_trained_on(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", ("ant", "bee"), size=16)
    write_pictures(tmp_path / "test", ("ant", "bee"), size=20)
    assert folder_case(tmp_path).material.test.size == (3, 16, 16)


def test_a_label_means_one_class_in_every_set(tmp_path: Path) -> None:
    write_pictures(tmp_path / "train", ("ant", "bee", "cow"), size=16)
    write_pictures(tmp_path / "test", ("ant", "cow"), size=16)
    with pytest.raises(DataError, match=r"has classes 2 \('ant', 'cow'\), the training images 3"):
        folder_case(tmp_path)
    (tmp_path / "test" / "bee").mkdir()
    assert folder_case(tmp_path).material.test.labels.tolist() == [0, 2]
