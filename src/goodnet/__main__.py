"""`python -m goodnet`."""

from goodnet.cli import run

run()
