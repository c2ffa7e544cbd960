"""goodnet turns a backdoored network into a repaired one, with evidence a person can check."""

from goodnet.attack import Attacked, Material, attack
from goodnet.attacks import ATTACKS, AttackSettings, BadNet, Recipe
from goodnet.cases import Case, folder_case, rendered_faces_case
from goodnet.curve import PruneSettings, prune_curve
from goodnet.data.images import ImageSet
from goodnet.data.readers import read_images
from goodnet.data.roles import CleanData, PoisonedData, TestData, TrainingData
from goodnet.data.writers import write_images
from goodnet.defenses import DefenseSettings
from goodnet.detector import GoodNet, calibrated
from goodnet.errors import GoodnetError
from goodnet.evaluate import evaluate_network
from goodnet.formats import InputSpecification, read_model, write_goodnet, write_model
from goodnet.poison import Poisoning, poison, triggered_set
from goodnet.readings import with_likely_reading
from goodnet.repair import repair
from goodnet.scan import Scanned, ScanSettings, scan
from goodnet.surgery import prune_channels, remove_channels
from goodnet.training import Augmentation, TrainingSettings
from goodnet.triggers import (
    Blend,
    Eyebrows,
    ImageFile,
    Lipstick,
    Noise,
    Patch,
    PixelPattern,
    PostIt,
    Sine,
    Sunglasses,
    Tone,
    Trigger,
    Warp,
    read_trigger,
    trigger_named,
    write_trigger,
)

__all__ = [
    "ATTACKS",
    "AttackSettings",
    "Attacked",
    "Augmentation",
    "BadNet",
    "Blend",
    "Case",
    "CleanData",
    "DefenseSettings",
    "Eyebrows",
    "GoodNet",
    "GoodnetError",
    "ImageFile",
    "ImageSet",
    "InputSpecification",
    "Lipstick",
    "Material",
    "Noise",
    "Patch",
    "PixelPattern",
    "PoisonedData",
    "Poisoning",
    "PostIt",
    "PruneSettings",
    "Recipe",
    "ScanSettings",
    "Scanned",
    "Sine",
    "Sunglasses",
    "TestData",
    "Tone",
    "TrainingData",
    "TrainingSettings",
    "Trigger",
    "Warp",
    "attack",
    "calibrated",
    "evaluate_network",
    "folder_case",
    "poison",
    "prune_channels",
    "prune_curve",
    "read_images",
    "read_model",
    "read_trigger",
    "remove_channels",
    "rendered_faces_case",
    "repair",
    "scan",
    "trigger_named",
    "triggered_set",
    "with_likely_reading",
    "write_goodnet",
    "write_images",
    "write_model",
    "write_trigger",
]
