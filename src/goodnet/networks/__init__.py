"""The networks goodnet knows by name."""

from goodnet.networks.alexnet import AlexNet
from goodnet.networks.deepid import DeepID
from goodnet.networks.preact_resnet import PreActResNet18
from goodnet.networks.registry import ARCHITECTURES, build_network
from goodnet.networks.small_cnn import SmallCNN

__all__ = ["ARCHITECTURES", "AlexNet", "DeepID", "PreActResNet18", "SmallCNN", "build_network"]
