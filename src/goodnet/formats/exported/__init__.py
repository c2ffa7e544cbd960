"""torch.export archives (.pt2), read and written without the loader of torch."""

from goodnet.formats.exported.reader import ExportedContents, read_exported
from goodnet.formats.exported.writer import write_exported

__all__ = ["ExportedContents", "read_exported", "write_exported"]
