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
from goodnet.probes.suspicion import MANY, Suspicion, suspicion
from goodnet.probes.universal import Universal, universal_changes

__all__ = [
    "MANY",
    "Found",
    "Probe",
    "SearchedProbe",
    "Suspect",
    "Suspicion",
    "Universal",
    "least_changes",
    "likeliest_labels",
    "misled_to",
    "random_probes",
    "searched_probes",
    "surely_misled",
    "suspicion",
    "universal_changes",
]
