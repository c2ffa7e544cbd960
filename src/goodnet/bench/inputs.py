"""A network file and the images that go with it, as cells read them."""

from __future__ import annotations

from pathlib import Path

from goodnet.data.images import ImageSet
from goodnet.data.readers import check_labels, read_images
from goodnet.data.roles import CleanData
from goodnet.formats import Model, read_model
from goodnet.readings import with_likely_reading


def images_for(path: Path, model: Model) -> ImageSet:
    """Images of the network's size and labels, in memory.

    Raises:
        DataError: They cannot be read, or are of another network.
    """
    images = read_images(path, size=model.specification.size).in_memory()
    check_labels(images, model.classes, model.specification.label_offset)
    return images


def model_with_clean(network: Path, clean: Path) -> tuple[Model, CleanData]:
    """The network as it is most likely read, and the clean images that tell.

    Raises:
        ModelFileError: The network cannot be read.
        DataError: Images cannot be read, or are of another network.
        InputSpecificationError: The network is not fed as it was trained.
    """
    model = read_model(network)
    images = read_images(clean, size=model.specification.size).in_memory()
    model = with_likely_reading(model, images)
    check_labels(images, model.classes, model.specification.label_offset)
    return model, CleanData(images, model.specification)
