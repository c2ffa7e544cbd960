"""What cells of a grid may measure."""

from __future__ import annotations

from goodnet.bench.paper import PAPER
from goodnet.bench.repair_work import REPAIR

WORKS = {work.name: work for work in (REPAIR, PAPER)}
