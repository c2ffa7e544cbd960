"""Many runs: attacks and defenses over data sets, networks and seeds."""

from goodnet.bench.cells import CellTask, make_cell
from goodnet.bench.repairs import (
    CURED,
    DEVELOPMENT,
    NEAR,
    Margins,
    cell_tasks,
    cells_csv,
    make_cells,
    network_folder,
    parts_of,
    read_cells,
    risk_correlation,
)
from goodnet.bench.tasks import cores
from goodnet.bench.zoo import Member, Task, make_zoo, members, read_zoo, zoo_tasks

__all__ = [
    "CURED",
    "DEVELOPMENT",
    "NEAR",
    "CellTask",
    "Margins",
    "Member",
    "Task",
    "cell_tasks",
    "cells_csv",
    "cores",
    "make_cell",
    "make_cells",
    "make_zoo",
    "members",
    "network_folder",
    "parts_of",
    "read_cells",
    "read_zoo",
    "risk_correlation",
    "zoo_tasks",
]
