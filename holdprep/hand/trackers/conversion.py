"""Conversion of other trackers' results: order of frames, unit and camera axes, side of hands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.conventions import mesh_joints
from holdprep.hand.frames import scatter_to_frames
from holdprep.hand.mirror import mirrored
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.targets import LENGTH_RANGE_M, lengths_m, palm_errors_m
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.io import matching

PARAM_SHAPES = {"global_orient": 3, "hand_pose": 45, "betas": 10, "transl": 3}
MAX_MIRROR_ERROR_MM = 0.1
UNITS_M = {"metres": 1.0, "centimetres": 1e-2, "millimetres": 1e-3}
TO_OPENCV = np.array([1.0, -1.0, -1.0])  # from OpenGL's axes: y up, z back
MAX_PALM_ERROR = 0.35  # of the palm's radius; different shapes differ by 0.15, mirror images by 0.7, other vertex orders by more


def rows_by_name(rows: np.ndarray, stems: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Rows in the order of `names`; NaN for names without a row."""
    row_of = {stem: i for i, stem in enumerate(stems)}
    at = [t for t, name in enumerate(names) if name in row_of]
    return scatter_to_frames(rows[[row_of[names[t]] for t in at]], np.array(at, int), len(names))


def match_frames(source: Path, tracker: str, stems: Sequence[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Which frame of `names` each of a tracker's distinct frames is (those that are none are left out), and notes on the others.

    Raises HoldprepError where none is, and as `matching.match` does.
    """
    found = matching.match(str(source), stems, names)
    frames = {stems[i]: name for name, i in zip(names, found.of_frame, strict=True) if i is not None}
    absent, extra = len(names) - len(frames), len(stems) - len(frames)
    notes = list(found.notes) + [f"{tracker}: {absent} of {len(names)} frames are absent"] * (absent > 0)
    return frames, notes + [f"{tracker}: {extra} of its {len(stems)} frames are not in images/ and were left out"] * (extra > 0)


def to_side(hand: ManoParams, side: Side, models: Mapping[Side, HandModel]) -> tuple[ManoParams, lbs.HandMesh, list[str]]:
    """Parameters of the side's own model, mesh and notes, from parameters of the right model (for a left hand, of its mirror image).

    A note reports where the left model cannot represent the shape: then the parameters are approximate and the mesh is exact.
    """
    mesh = lbs.forward(models["right"], hand)
    if side == "right":
        return hand, mesh, []
    flip = torch.tensor([-1.0, 1.0, 1.0]).to(mesh.vertices)
    mesh = lbs.HandMesh(mesh.vertices * flip, mesh.joints * flip)
    params = mirrored(hand, models["right"], models["left"])
    off_mm = 1e3 * float((lbs.forward(models["left"], params).vertices - mesh.vertices).norm(dim=-1).nanmean())
    note = f"left hand: the model's left and right shapes are not mirror images; the parameters are {off_mm:.1f} mm from the mesh"
    return params, mesh, [note] if off_mm > MAX_MIRROR_ERROR_MM else []


def unit_m(source: Path, length: float) -> tuple[float, list[str]]:
    """The unit of `source` in metres and notes, from the length of its hand (wrist to middle fingertip).

    Raises HoldprepError if none fits.
    """
    for name, size in UNITS_M.items():
        if LENGTH_RANGE_M[0] <= length * size <= LENGTH_RANGE_M[1]:
            return size, [] if size == 1 else [f"{source.name}: {name}, a hand of {length:.0f}, converted to metres"]
    raise HoldprepError(f"{source}: its hand is {length:.4g} long, which is a hand in none of {', '.join(UNITS_M)}; check the file")


def sides_of(vertices: np.ndarray, model: HandModel, source: Path) -> list[Side]:
    """Side of each mesh (N, 778, 3) in any unit, by its palm, with the model of either side.

    Raises HoldprepError for other meshes than MANO's.
    """
    seen = torch.as_tensor(vertices)
    palm = seen[:, model.weights[:, 0] > 0.9]
    radius = (palm - palm.mean(dim=1, keepdim=True)).norm(dim=-1).mean(dim=1)
    sizes = lengths_m(model, model.v_template[None])[0] / lengths_m(model, seen)
    errors = palm_errors_m(model, seen * sizes[:, None, None]) / (radius * sizes)
    bad = int((errors.amin(dim=0) > MAX_PALM_ERROR).sum())
    if bad > 0.5 * len(vertices):
        standin = "the stand-in hand, whose vertices differ from MANO's: set hand_model.path"
        expected = standin if model.name == "standin" else "MANO's, or their order is another"
        raise HoldprepError(f"{source}: in {bad} of {len(vertices)} meshes the palm is not that of {expected}")
    other: Side = "left" if model.side == "right" else "right"
    return [model.side if own <= mirror else other for own, mirror in errors.T.tolist()]


@dataclass(frozen=True)
class DetectedHand:
    """One hand in one frame.

    `vertices_m` (778, 3) in the camera frame, `j2d_px` (21, 2) in MANO-21 order if the tracker reports it, MANO parameters (rows of 1) if
    it has them.
    """

    frame: int
    side: Side
    vertices_m: np.ndarray
    j2d_px: np.ndarray | None = None
    params: ManoParams | None = None


def collect_tracks(
    hands: Sequence[DetectedHand], K: np.ndarray, names: Sequence[str], models: Mapping[Side, HandModel], notes: Sequence[str]
) -> VertexTrack:
    """Tracks of single hands; of several hands of a side in a frame, the nearest one is used."""
    best: dict[tuple[Side, int], DetectedHand] = {}
    for hand in sorted(hands, key=lambda h: float(h.vertices_m[:, 2].mean())):
        best.setdefault((hand.side, hand.frame), hand)
    dropped = (
        [f"{len(hands) - len(best)} hands were left out: a nearer one of their side is in their frame"] if len(best) < len(hands) else []
    )
    vertices, j2d, params = {}, {}, {}
    for side in (s for s in SIDES if any(of == s for of, _ in best)):
        own = [hand for (of, _), hand in best.items() if of == side]
        at = np.array([h.frame for h in own])
        vertices[side] = scatter_to_frames(np.stack([h.vertices_m for h in own]), at, len(names))
        seen = [project(mesh_joints(models[side], h.vertices_m), K) if h.j2d_px is None else h.j2d_px for h in own]
        j2d[side] = scatter_to_frames(np.stack(seen), at, len(names))
        with_params = [h.params for h in own if h.params is not None]
        if len(with_params) == len(own):
            rows = {k: torch.cat([getattr(p, k) for p in with_params]).numpy() for k in PARAM_SHAPES}
            params[side] = ManoParams(**{k: torch.as_tensor(scatter_to_frames(rows[k], at, len(names))) for k in PARAM_SHAPES})
    return VertexTrack(vertices, j2d, K, tuple(names), (*notes, *dropped), params=params)
