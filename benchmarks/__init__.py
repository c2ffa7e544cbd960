"""Measurements of goodnet itself; run with `python -m benchmarks.NAME`."""
