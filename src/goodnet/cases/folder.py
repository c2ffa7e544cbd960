"""A user's own images: a folder with train, test and perhaps valid, trained as usual."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from goodnet.attack import Material
from goodnet.attacks import Recipe
from goodnet.cases.case import Case
from goodnet.data.images import ImageSet
from goodnet.data.pixels import Size
from goodnet.data.readers import HDF5_SUFFIXES, NPZ_SUFFIXES, check_labels, read_images
from goodnet.errors import DataError
from goodnet.formats.specification import InputSpecification, Layout
from goodnet.training import Augmentation, TrainingSettings

TRAINING: Mapping[str, TrainingSettings] = {
    # Without a norm it dies at higher rates; turning and scaling small faces costs accuracy.
    "deepid": TrainingSettings(
        epochs=60,
        batch_size=32,
        learning_rate=1e-3,
        augmentation=Augmentation(shift=0.03, rotation=0.0, scale=0.0, brightness=0.3),
    ),
    "small_cnn": TrainingSettings(
        epochs=10, batch_size=128, learning_rate=3e-3, augmentation=Augmentation()
    ),
    # In five epochs it does not learn a patch in a corner, which its last pooling thins out.
    "preact_resnet18": TrainingSettings(
        epochs=10, batch_size=128, learning_rate=3e-3, augmentation=Augmentation()
    ),
    # Without a norm it dies at higher rates.
    "alexnet": TrainingSettings(epochs=30, batch_size=32, learning_rate=1e-3),
}
"""How each network is trained unless the user says otherwise."""


def folder_case(
    folder: Path | str,
    *,
    architecture: str | None = None,
    options: Mapping[str, int] | None = None,
) -> Case:
    """The images in `folder`: `train` and `test`, and `valid` where it is there.

    Args:
        folder: Holds train.h5, test.h5, valid.h5, or .npz files or folders of those names.
        architecture: A name in `networks.ARCHITECTURES`; None takes DeepID for 55x47
            images, the small CNN for others.
        options: Settings of the architecture, e.g. `width`.

    Raises:
        DataError: One of the sets is not there or not readable, or they do not fit together.
    """
    folder = Path(folder)
    train = _read(folder, "train")
    test = _read(folder, "test", size=train.size)
    valid = _read(folder, "valid", size=train.size) if set_path(folder, "valid") else None
    classes = max(len(train.class_names), int(train.labels.max()) + 1)
    for images in (train, test, *([] if valid is None else [valid])):
        check_labels(images, classes)
        if images.class_names and train.class_names and images.class_names != train.class_names:
            raise DataError(
                images.source,
                f"has classes {_listed(images.class_names)}, the training images "
                f"{_listed(train.class_names)}: the same label means another class",
                "give sets with the same classes, an empty folder where one has no picture",
            )
    if architecture is None:
        architecture = "deepid" if train.size[1:] == (55, 47) else "small_cnn"
    # A DeepID is written as the course's Keras file.
    layout: Layout = "channels-last" if architecture == "deepid" else "channels-first"
    return Case(
        folder.resolve().name,
        Material(train, test, valid),
        Recipe(
            architecture=architecture,
            specification=InputSpecification(train.size, layout),
            classes=classes,
            training=TRAINING[architecture],
            options=options or {},
        ),
    )


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return f"{len(names)} ({shown}{', …' if len(names) > 4 else ''})"


def set_path(folder: Path, name: str) -> Path | None:
    """Where the set `name` (train, test or valid) lies in `folder`, if it is there."""
    places = [folder / f"{name}{suffix}" for suffix in (*HDF5_SUFFIXES, *NPZ_SUFFIXES)]
    return next((path for path in (*places, folder / name) if path.exists()), None)


def _read(folder: Path, name: str, *, size: Size | None = None) -> ImageSet:
    path = set_path(folder, name)
    if path is None:
        raise DataError(
            folder,
            f"holds no {name} set" if folder.is_dir() else "no such folder",
            "give a folder with train.h5 and test.h5 (or .npz, or folders of pictures), and "
            "valid.h5 for what a defender would hold",
        )
    return read_images(path, size=size).in_memory()
