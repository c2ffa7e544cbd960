"""Changes of an image that might be triggers: drawn at random, or searched for."""

from goodnet.probes.probe import Probe, SearchedProbe
from goodnet.probes.registry import random_probes, searched_probes
from goodnet.probes.relabelling import FEWEST_LABELS, Relabellings, relabellings
from goodnet.probes.search import (
    MOST_LABELS,
    Found,
    Suspect,
    in_parts,
    least_changes,
    likeliest_labels,
    surely_misled,
)
from goodnet.probes.suspicion import ENOUGH, FEW, Suspicion, suspicion
from goodnet.probes.universal import Universal, universal_changes

__all__ = [
    "ENOUGH",
    "FEW",
    "FEWEST_LABELS",
    "MOST_LABELS",
    "Found",
    "Probe",
    "Relabellings",
    "SearchedProbe",
    "Suspect",
    "Suspicion",
    "Universal",
    "in_parts",
    "least_changes",
    "likeliest_labels",
    "random_probes",
    "relabellings",
    "searched_probes",
    "surely_misled",
    "suspicion",
    "universal_changes",
]
