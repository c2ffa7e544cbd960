"""The command line: one file a command."""

from goodnet.cli.main import main, run

__all__ = ["main", "run"]
