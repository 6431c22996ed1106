"""hand.check=true: draws one frame's hands on its image (processed/hand_check.png) and reports the tracker's conventions."""

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.hand.conventions import examine, mesh_joints
from holdprep.hand.model import ManoParams, Side
from holdprep.hand.trackers import trackfile
from holdprep.hand.trackers.tracks import VertexTrack
from holdprep.pipeline import Context
from holdprep.stages.common import hand_model
from holdprep.viz.hand_check import hand_panels


def inspect(ctx: Context) -> None:
    """Check v3d.npy and j2d.full.npy of any origin. Raises HoldprepError where no frame shows a requested hand."""
    if not ctx.cfg.hand.check:
        return
    names = ctx.seq.frame_names()
    track = trackfile.read(ctx.seq.path("v3d").parent, names)
    sides = [s for s in ctx.cfg.hands.sides if s in track.vertices_m]
    if not sides:
        raise HoldprepError(f"{ctx.seq.path('v3d')} holds no hand of hands.which={ctx.cfg.hands.which}: run stage=hand_pose again")
    t = _frame(track, sides)
    image, rows = ctx.seq.images()[t], []
    for side in (s for s in sides if np.isfinite(track.vertices_m[s][t]).all()):
        model, vertices, j2d = hand_model(ctx.cfg, side), track.vertices_m[side][t], track.j2d_px[side][t]
        found = examine(model, vertices, j2d, track.K, ctx.seq.image_size(), _params(track, side, t))
        for line in found.lines():
            ctx.note(f"frame {names[t]}, {side} hand: {line}")
        for line in found.warnings():
            ctx.warn(f"frame {names[t]}, {side} hand: {line}")
        rows.append(hand_panels(image, vertices, mesh_joints(model, vertices), j2d, model.faces.numpy(), track.K, side))
    path = ctx.seq.write_picture("hand_check", np.vstack(rows))
    ctx.note(f"see {path}: tracker's keypoints as lines, the mesh's joints as rings; the mesh from the front and from the side")


def _frame(track: VertexTrack, sides: list[Side]) -> int:
    """The frame with the most hands, closest to the centre of the clip."""
    hands = np.sum([np.isfinite(track.vertices_m[s]).all(axis=(1, 2)) for s in sides], axis=0)
    best = np.flatnonzero(hands == hands.max())
    return int(best[np.argmin(np.abs(best - len(hands) / 2))])


def _params(track: VertexTrack, side: Side, t: int) -> ManoParams | None:
    if side not in track.params:
        return None
    p = track.params[side]
    return ManoParams(*(x[t : t + 1] for x in (p.global_orient, p.hand_pose, p.betas, p.transl)))
