"""Points of the object with measured distances, from files and pictures of the sequence."""

from dataclasses import replace

from tqdm import tqdm

from holdprep.align.marker import Seen, find_markers, marks_of
from holdprep.align.points_file import read_points
from holdprep.align.problem import Marks, Problem
from holdprep.config.schema import MeasuredObject
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files


def is_measured(seq: Sequence, node: MeasuredObject) -> bool:
    """Whether anything of the sequence's object was measured."""
    given = (node.diameter_mm, node.size_mm, node.points, node.marker_mm)
    return any(value is not None for value in given) or seq.has("points")


def load_marks(seq: Sequence, node: MeasuredObject, problem: Problem) -> tuple[Marks, ...]:
    """Clicked points, and corners of a marker, in pixels of the pinhole camera.

    Raises HoldprepError where a file is damaged or missing, and where no marker is fixed on the object.
    """
    found = []
    if node.points is not None or seq.has("points"):
        found.append(_clicked(seq, node))
    if node.marker_mm is not None:
        found.append(_marker(seq, node, node.marker_mm, problem))
    return tuple(found)


def _clicked(seq: Sequence, node: MeasuredObject) -> Marks:
    lens = colmap_files.lens_of(seq)
    clicked = read_points(node.points or seq.path("points"), seq.frame_names(), seq.image_size())
    return clicked if lens is None else replace(clicked, px=lens.points(clicked.px))


def _marker(seq: Sequence, node: MeasuredObject, side_mm: float, problem: Problem) -> Marks:
    """Found in the pictures as they are: undistortion would blur the corners."""
    lens = colmap_files.lens_of(seq)
    masks = seq.masks("object") if seq.has("masks_object") else None
    pictures = tqdm(seq.images(), desc="align: marker", unit="frame", leave=False, disable=None)
    seen = find_markers(pictures, masks, node.marker)
    if lens is not None:
        seen = {number: Seen(each.frame, lens.points(each.px)) for number, each in seen.items()}
    return marks_of(seen, problem, side_mm, seq.frame_names())
