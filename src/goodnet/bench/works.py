"""What cells of a grid may measure."""

from __future__ import annotations

from goodnet.bench.paper import PAPER
from goodnet.bench.repair_work import REPAIR
from goodnet.bench.scan_work import SCAN

WORKS = {work.name: work for work in (REPAIR, SCAN, PAPER)}
