"""The sequence folder: the only place that knows a file's name."""

from holdprep.sequence.folder import Sequence
from holdprep.sequence.images import Images, Masks, image_files, read_image, write_image
from holdprep.sequence.layout import ARTEFACTS, ENTITIES, IMAGE_SUFFIXES, MODES, RECORDS

__all__ = [
    "ARTEFACTS",
    "ENTITIES",
    "IMAGE_SUFFIXES",
    "MODES",
    "RECORDS",
    "Images",
    "Masks",
    "Sequence",
    "image_files",
    "read_image",
    "write_image",
]
