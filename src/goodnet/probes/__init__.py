"""Changes of an image that might be triggers: drawn at random, or searched for."""

from goodnet.probes.probe import Probe, SearchedProbe
from goodnet.probes.registry import random_probes, searched_probes
from goodnet.probes.search import (
    Found,
    Suspect,
    least_changes,
    likeliest_labels,
    misled_to,
    surely_misled,
)
from goodnet.probes.universal import TRIED, Universal, universal_changes

__all__ = [
    "TRIED",
    "Found",
    "Probe",
    "SearchedProbe",
    "Suspect",
    "Universal",
    "least_changes",
    "likeliest_labels",
    "misled_to",
    "random_probes",
    "searched_probes",
    "surely_misled",
    "universal_changes",
]
