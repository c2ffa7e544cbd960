"""The command line: one file a command."""

from goodnet.cli.program import main, run

__all__ = ["main", "run"]
