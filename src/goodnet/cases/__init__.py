"""The studies: data, network and trigger; no algorithm."""

from goodnet.cases.case import Case
from goodnet.cases.faces import rendered_faces_case
from goodnet.cases.folder import folder_case, set_path

__all__ = ["Case", "folder_case", "rendered_faces_case", "set_path"]
