"""Targets of the registration, and checks that they are a hand of the right side, in metres."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import roma
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.hand.joints import CHILD, FINGERS, MANO21_TIP_VERTICES, MIDDLE_FINGER, PALM
from holdprep.hand.lbs import NUM_JOINTS
from holdprep.hand.model import HandModel, Side

LENGTH_RANGE_M = (0.08, 0.30)  # wrist to middle fingertip, of any human
MIN_EXTENT = 0.02  # largest distance of a target's points from their centroid, in hand lengths
MIN_EXTENT_PX = 1.0  # largest distance of keypoints from their centroid
MIN_JOINTS, MIN_VERTICES = 6, 200
MIN_TRUST = 0.05
STRAIGHT = 0.2  # mean sine of the joint angles of a straight hand; 12 degrees
INDEX, LITTLE = FINGERS[0][0], FINGERS[2][0]
LONG_FINGERS = FINGERS[:4]
SIDE_FRAMES = 300  # evenly spaced, used to distinguish right and left hands


@dataclass(frozen=True)
class Targets:
    """Any combination of targets of T frames; NaN where there is none.

    `vertices_m` (T, 778, 3) and `j3d_m` (T, 21, 3, MANO-21 order) in camera axes, with any origin if `relative` (then `j2d_px`, where
    given, determines the position), else with the camera as origin; `j2d_px` (T, 21, 2) under `K` (3, 3); `confidence` (T, 21) in [0, 1]
    of both kinds of joints. `vertex_trust` (T, 778) in (0, 1] of vertices, as computed by `vertex_trust()` from a tracker's confidence.
    `j3d_sigma_m` is the standard deviation of a coordinate of `j3d_m` for a confidence of 1, None: estimated from the residuals.
    """

    vertices_m: Tensor | None = None
    j3d_m: Tensor | None = None
    j2d_px: Tensor | None = None
    K: Tensor | None = None
    confidence: Tensor | None = None
    relative: bool = False
    vertex_trust: Tensor | None = None
    j3d_sigma_m: float | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return next(len(x) for x in (self.vertices_m, self.j3d_m, self.j2d_px) if x is not None)

    @property
    def floating(self) -> bool:
        """Whether the position of 3D points is given by 2D keypoints only."""
        return self.relative and self.j2d_px is not None

    def weights(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Weights of vertices (T, 778; bool, or the trust), 3D joints (T, 21) and 2D joints (T, 21): 1 or the confidence, 0 for NaN."""
        trust = None if self.confidence is None else torch.nan_to_num(self.confidence.double())

        def weight(x: Tensor | None, trust: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            seen = torch.isfinite(x).all(dim=-1)
            return seen.float() if trust is None else seen * trust * (trust > 0.05)

        vertices = (
            None if self.vertices_m is None else torch.isfinite(self.vertices_m.sum(dim=-1))
        )  # the sum is finite only if all coordinates are
        if vertices is not None and self.vertex_trust is not None:
            vertices = vertices * self.vertex_trust
        return vertices, weight(self.j3d_m, trust), weight(self.j2d_px, trust)

    def is_valid(self) -> Tensor:
        """(T,) bool: frames with enough observations: a quarter of the vertices, or 6 joints."""
        vertices, j3d, j2d = self.weights()
        enough = torch.zeros(self.num_frames, dtype=torch.bool)
        for weight, minimum in ((vertices, MIN_VERTICES), (j3d, MIN_JOINTS), (j2d, MIN_JOINTS)):
            if weight is not None:
                enough = enough | ((weight > 0).sum(dim=1).cpu() >= minimum)
        return enough

    def rows(self, rows: Tensor) -> "Targets":
        """The targets of some frames, in their order."""
        if len(rows) == self.num_frames:
            return self
        return self._mapped(lambda x: x[rows], per_frame_only=True)

    def to(self, device: str | torch.device) -> "Targets":
        """The targets on another device."""
        return self._mapped(lambda x: x.to(device))

    def _mapped(self, change: Callable[[Tensor], Tensor], per_frame_only: bool = False) -> "Targets":
        def maybe(x: Tensor | None) -> Tensor | None:
            return None if x is None else change(x)

        K = self.K if per_frame_only else maybe(self.K)
        return Targets(
            maybe(self.vertices_m),
            maybe(self.j3d_m),
            maybe(self.j2d_px),
            K,
            maybe(self.confidence),
            self.relative,
            maybe(self.vertex_trust),
            self.j3d_sigma_m,
        )

    def scaled(self, ratio: float) -> "Targets":
        """The targets with 3D points scaled about the camera by `ratio`, which keeps their pixels."""
        vertices = None if self.vertices_m is None else self.vertices_m * ratio
        return replace(self, vertices_m=vertices, j3d_m=None if self.j3d_m is None else self.j3d_m * ratio)


def vertex_trust(model: HandModel, confidence: Tensor) -> Tensor:
    """(T, 778) float32 trust in vertices, from the confidence (T, 21) of a tracker's joints.

    A bone's trust is the mean confidence of its two ends (the palm's, that of its joints); vertices average it by the skinning weights.
    It is at least MIN_TRUST, so that every finger is constrained.
    """
    ends = [PALM, *((k, CHILD[k]) for k in range(1, 16))]
    bones = torch.stack([confidence[:, list(joints)].mean(dim=1) for joints in ends], dim=1)
    return (bones.clamp(MIN_TRUST, 1) @ model.weights.to(bones).mT).float()


def check(model: HandModel, targets: Targets) -> Tensor:
    """(T,) bool, frames that can be registered. Raises HoldprepError where targets are not a hand of this side in metres."""
    _check_shapes(targets)
    is_valid = targets.is_valid()
    if not bool(is_valid.any()):
        raise HoldprepError(f"register: none of {len(is_valid)} frames has a target: check hand_pose's overlays and hands.which")
    for name in ("vertices_m", "j3d_m"):
        points = getattr(targets, name)
        if points is not None:
            _check_size(model, name, points, is_valid)
    if targets.vertices_m is not None:
        _check_side(model, targets.vertices_m, is_valid)
    if targets.j3d_m is not None:
        _check_bend(model.side, targets.j3d_m, targets.weights()[1])
    if targets.j2d_px is not None:
        _check_pixels(targets.j2d_px, is_valid)
    return is_valid


def _check_shapes(targets: Targets) -> None:
    shapes = {"vertices_m": (778, 3), "j3d_m": (NUM_JOINTS, 3), "j2d_px": (NUM_JOINTS, 2), "confidence": (NUM_JOINTS,)}
    given = {n: x for n in shapes if (x := getattr(targets, n)) is not None}
    if not set(given) - {"confidence"}:
        raise HoldprepError("register: no target: give vertices_m, j3d_m, or j2d_px with K")
    if targets.j2d_px is not None and targets.K is None:
        raise HoldprepError("register: j2d_px without K: give the camera's intrinsics")
    for name, value in given.items():
        if tuple(value.shape[1:]) != shapes[name] or len(value) != targets.num_frames:
            want = ", ".join(str(n) for n in shapes[name])
            raise HoldprepError(f"register: {name} has shape {tuple(value.shape)}, not ({targets.num_frames}, {want})")


def lengths_m(model: HandModel, points: Tensor) -> Tensor:
    """(T,) lengths (m) along the bones from wrist to middle fingertip, of vertices (T, 778, 3) or joints (T, 21, 3)."""
    if points.shape[1] == 778:
        bones = model.J_regressor[list(MIDDLE_FINGER[:-1])].to(points)
        chain = torch.cat([bones @ points, points[:, [MANO21_TIP_VERTICES[2]]]], dim=1)
    else:
        chain = points[:, list(MIDDLE_FINGER)]
    return chain.diff(dim=1).norm(dim=-1).sum(dim=1)


def _check_size(model: HandModel, name: str, points: Tensor, is_valid: Tensor) -> None:
    kind = "vertices" if name == "vertices_m" else "joints"
    parts = points.split(1024)
    extent = torch.cat([(x - x.nanmean(dim=1, keepdim=True)).norm(dim=-1).nan_to_num().amax(dim=1) for x in parts]).cpu()
    lengths = torch.cat([lengths_m(model, x) for x in parts]).cpu()
    known = lengths[torch.isfinite(lengths) & is_valid]
    length = float(known.median()) if len(known) else float("nan")
    flat = is_valid & torch.isfinite(lengths) & (extent <= MIN_EXTENT * (length if length > 0 else 1.0))
    if bool(flat.any()):
        first = int(flat.nonzero()[0, 0])
        raise HoldprepError(
            f"register: in {int(flat.sum())} of {len(flat)} frames all {kind} lie at one point (first: row {first}): not a hand"
        )
    if not len(known) or LENGTH_RANGE_M[0] <= length <= LENGTH_RANGE_M[1]:
        return
    low, high = LENGTH_RANGE_M
    advice = "are these millimetres? give metres" if low <= length / 1e3 <= high else f"a hand has {low}-{high} m: check the unit"
    raise HoldprepError(f"register: the {kind} are a hand of {length:.4g} m from wrist to middle fingertip: {advice}")


def palm_errors_m(model: HandModel, vertices_m: Tensor) -> Tensor:
    """(2, T) mean distance (m) of the palms of meshes (T, 778, 3) from the rigidly aligned palm of the model, and from its mirror image.

    The palm is almost rigid: the error of the right side is a few millimetres, of the other about 10. Both are large for another
    vertex order.
    """
    palm = model.weights[:, 0] > 0.9
    rest = (model.v_template[palm] - model.v_template[palm].mean(dim=0)).to(vertices_m.device, torch.float64)
    seen = vertices_m[:, palm.to(vertices_m.device)].double()
    seen = seen - seen.mean(dim=1, keepdim=True)
    source = torch.stack([rest, rest * torch.tensor([-1.0, 1.0, 1.0]).to(rest)])[:, None]
    R = roma.special_procrustes(seen.mT @ source)
    return (seen - source @ R.mT).norm(dim=-1).mean(dim=-1)


def _check_side(model: HandModel, vertices_m: Tensor, is_valid: Tensor) -> None:
    """Raise HoldprepError where the palms fit the mirrored model better than the model; the palm is almost rigid."""
    palm = model.weights[:, 0] > 0.9
    whole = is_valid.to(vertices_m.device) & torch.isfinite(vertices_m[:, palm]).all(dim=(1, 2))
    rows = whole.nonzero()[:, 0]
    if not len(rows):
        return
    errors = palm_errors_m(model, vertices_m[rows[:: -(-len(rows) // SIDE_FRAMES)]])
    mirrored = int((errors[1] < 0.7 * errors[0]).sum())
    if mirrored > 0.5 * len(errors[0]):
        raise _other_side(model.side, "vertices", mirrored, len(errors[0]))


def _check_bend(side: Side, j3d_m: Tensor, weight: Tensor | None) -> None:
    """Raise HoldprepError where the fingers bend backwards for a hand of this side, which indicates the other side.

    Fingers bend one way: the rotation axes of their middle and end joints point from little to index finger in right hands only.
    Measured is the mean sine of the eight joints; straight hands bend backwards by less than STRAIGHT.
    """
    seen = torch.isfinite(j3d_m).all(dim=-1) & (True if weight is None else weight > 0)
    joints = torch.where(seen[..., None], j3d_m.double(), torch.nan)
    across = torch.nn.functional.normalize(joints[:, INDEX] - joints[:, LITTLE], dim=-1)
    bones = torch.nn.functional.normalize(joints[:, list(LONG_FINGERS)].diff(dim=2), dim=-1)  # (T, 4 fingers, 3 bones, 3)
    sine = torch.linalg.cross(bones[:, :, :-1], bones[:, :, 1:]) @ across[:, None, :, None]
    bend = (sine if side == "right" else -sine).flatten(1).nanmean(dim=1)
    known = int(torch.isfinite(bend).sum())
    backward = int((bend < -STRAIGHT).sum())
    if backward > 0.5 * known:
        raise _other_side(side, "joints", backward, known)


def _other_side(side: Side, kind: str, frames: int, known: int) -> HoldprepError:
    other = "left" if side == "right" else "right"
    return HoldprepError(
        f"register: in {frames} of {known} frames the {side} hand's {kind} are a {other} hand's: "
        f"set hands.which={other}, or mirror the file's x"
    )


def _check_pixels(j2d_px: Tensor, is_valid: Tensor) -> None:
    off = j2d_px - j2d_px.nanmean(dim=1, keepdim=True)
    extent_px = off.norm(dim=-1).nan_to_num(nan=-1.0).amax(dim=1).cpu()  # negative: no keypoint in the image
    small = is_valid & (extent_px >= 0) & (extent_px < MIN_EXTENT_PX)
    if bool(small.any()):
        first = int(small.nonzero()[0, 0])
        raise HoldprepError(
            f"register: in {int(small.sum())} of {len(small)} frames all keypoints lie within {2 * MIN_EXTENT_PX} px (first: row {first}): "
            "not a hand; are they pixels of the image?"
        )
