"""goodnet turns a backdoored network into a repaired one, with evidence a person can check."""

from goodnet.attacks import train_badnet
from goodnet.curve import PruneSettings, prune_curve
from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.roles import CleanData, PoisonedData, TestData, TrainingData
from goodnet.defenses import DefenseSettings
from goodnet.detector import GoodNet, calibrated
from goodnet.errors import GoodnetError
from goodnet.evaluate import evaluate_network
from goodnet.formats import InputSpecification, read_model, write_goodnet, write_model
from goodnet.poison import Poisoning, poison, triggered_set
from goodnet.readings import with_likely_reading
from goodnet.repair import repair
from goodnet.surgery import prune_channels, remove_channels
from goodnet.training import Augmentation, TrainingSettings
from goodnet.triggers import Patch, PostIt, Sunglasses

__all__ = [
    "Augmentation",
    "CleanData",
    "DefenseSettings",
    "GoodNet",
    "GoodnetError",
    "ImageSet",
    "InputSpecification",
    "Patch",
    "PoisonedData",
    "Poisoning",
    "PostIt",
    "PruneSettings",
    "Sunglasses",
    "TestData",
    "TrainingData",
    "TrainingSettings",
    "calibrated",
    "evaluate_network",
    "poison",
    "prune_channels",
    "prune_curve",
    "read_images",
    "read_model",
    "remove_channels",
    "repair",
    "train_badnet",
    "triggered_set",
    "with_likely_reading",
    "write_goodnet",
    "write_model",
]
