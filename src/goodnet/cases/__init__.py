"""The studies: data, network and trigger; no algorithm."""

from goodnet.cases.case import Case
from goodnet.cases.faces import rendered_faces_case
from goodnet.cases.folder import folder_case, set_path
from goodnet.cases.speech import rendered_speech_case, speech_case

__all__ = [
    "Case",
    "folder_case",
    "rendered_faces_case",
    "rendered_speech_case",
    "set_path",
    "speech_case",
]
