"""Tables, plots and the page that show a run's results; they read results and compute none."""

from goodnet.report.diagram import network_diagram
from goodnet.report.page import render_page, write_page
from goodnet.report.plots import (
    channel_activations,
    clean_and_triggered,
    figure_svg,
    goodnet_curve,
    prune_curve,
    save_figure,
)
from goodnet.report.tables import (
    attack_table,
    evaluate_table,
    inspect_table,
    predict_table,
    repair_table,
    scan_table,
    thresholds_table,
    triggers_table,
)

__all__ = [
    "attack_table",
    "channel_activations",
    "clean_and_triggered",
    "evaluate_table",
    "figure_svg",
    "goodnet_curve",
    "inspect_table",
    "network_diagram",
    "predict_table",
    "prune_curve",
    "render_page",
    "repair_table",
    "save_figure",
    "scan_table",
    "thresholds_table",
    "triggers_table",
    "write_page",
]
