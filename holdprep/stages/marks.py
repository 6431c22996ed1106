"""Points of the object with measured distances, from files and pictures of the sequence."""

from dataclasses import replace

from holdprep.align.points_file import read_points
from holdprep.align.problem import Marks
from holdprep.config.schema import MeasuredObject
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files


def load_marks(seq: Sequence, node: MeasuredObject) -> tuple[Marks, ...]:
    """Clicked points, in pixels of the pinhole camera; raises HoldprepError where a file is damaged or missing."""
    path = node.points or seq.path("points")
    if node.points is None and not path.exists():
        return ()
    lens = colmap_files.lens_of(seq)
    clicked = read_points(path, seq.frame_names(), seq.image_size())
    return (clicked if lens is None else replace(clicked, px=lens.points(clicked.px)),)
