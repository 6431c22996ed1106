"""What else was measured, from files and pictures of the sequence: points of the object with known distances, and depth maps."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from holdprep.align.marker import Seen, find_markers, marks_of
from holdprep.align.points_file import read_points
from holdprep.align.problem import Marks, Problem
from holdprep.config.schema import MeasuredObject
from holdprep.errors import HoldprepError
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files
from holdprep.sequence.depthmaps import read_depth_maps


def is_measured(seq: Sequence, node: MeasuredObject) -> bool:
    """Whether anything of the sequence's object was measured."""
    given = (node.diameter_mm, node.size_mm, node.points, node.marker_mm)
    return any(value is not None for value in given) or seq.has("points")


def with_measured(problem: Problem, seq: Sequence, node: MeasuredObject, maps: Path | None) -> tuple[Problem, list[str]]:
    """The problem with clicked points and corners of a marker, in pixels of the pinhole camera, and depth maps of its masks' frames; notes.

    Raises HoldprepError where a file is damaged or missing, where no marker is fixed on the object, and for depth maps without masks.
    """
    found, notes = list[Marks](), list[str]()
    if node.points is not None or seq.has("points"):
        found.append(_clicked(seq, node))
    if node.marker_mm is not None:
        found.append(_marker(seq, node, node.marker_mm, problem))
    if maps is not None:
        if problem.masks is None:
            raise HoldprepError(
                "align.depth_maps needs masks of the hands and the object in frames in which they touch: check stage=segment"
            )
        frames, lens = problem.masks.frame.tolist(), colmap_files.lens_of(seq)
        depth, notes = read_depth_maps(maps, seq.frame_names(), frames, seq.image_size(), lens)
        problem = replace(problem, masks=replace(problem.masks, depth=depth))
    return replace(problem, marks=tuple(found)), notes


def _clicked(seq: Sequence, node: MeasuredObject) -> Marks:
    lens = colmap_files.lens_of(seq)
    clicked = read_points(node.points or seq.path("points"), seq.frame_names(), seq.image_size())
    return clicked if lens is None else replace(clicked, px=lens.points(clicked.px))


def _marker(seq: Sequence, node: MeasuredObject, side_mm: float, problem: Problem) -> Marks:
    """Found in the pictures as they are: undistortion would blur the corners."""
    lens = colmap_files.lens_of(seq)
    masks = seq.final_masks("object") if seq.has("masks_object") else None
    pictures = tqdm(seq.images(), desc="align: marker", unit="frame", leave=False, disable=None)
    seen = find_markers(pictures, masks, node.marker)
    if lens is not None:
        seen = {number: Seen(each.frame, lens.points(each.px)) for number, each in seen.items()}
    return marks_of(seen, problem, side_mm, seq.frame_names())
