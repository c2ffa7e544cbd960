"""Model files: reading them safely, and writing the repaired network back."""

from goodnet.formats.model import Model, read_model, write_goodnet, write_model
from goodnet.formats.specification import InputSpecification

__all__ = ["InputSpecification", "Model", "read_model", "write_goodnet", "write_model"]
