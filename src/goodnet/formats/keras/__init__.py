"""Keras files: the checked config, the native network it becomes, and the files."""
