"""Input, weights and result of the alignment: arrays and plain numbers only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.silhouettes import Inset
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side
from holdprep.hand.outline import Outlines

Mode = Literal["h", "o", "ho"]
MODES: tuple[Mode, ...] = ("h", "o", "ho")
BEFORE: dict[str, Mode | None] = {"h": None, "o": "h", "ho": "o"}
OBSERVED = 0.2  # least confidence of a keypoint that counts as observed


@dataclass(frozen=True)
class HandObservation:
    """One hand: its model, its registered parameters and the observed positions of its joints.

    `params` are those of the registration; their translation is in the tracker's own camera and is not used.
    `j2d_px` (T, 21, 2) MANO-21 order, NaN where not observed; `weight` (T,) or (T, 21) confidences, 0 in infilled frames;
    `contact` (T,) true where this hand's mask touches the object's, or None: all frames that show both. `outlines` are the edges of its
    masks in T frames, or None.
    """

    model: HandModel
    params: ManoParams
    j2d_px: Tensor
    weight: Tensor
    contact: Tensor | None = None
    outlines: Outlines | None = None


@dataclass(frozen=True)
class Tracks:
    """SfM's observations: point `point` (M,) of the cloud was observed in `frame` (M,) at `px` (M, 2)."""

    frame: Tensor
    point: Tensor
    px: Tensor


@dataclass(frozen=True)
class EntityMasks:
    """Masks of the visible part of each entity in some frames: `frame` (F,), `hands` and `obj` (F, H, W) bool.

    `all_hands` (F, H, W) bool are the pixels of every hand in the picture, or None: those of `hands`. `depth` (F, H, W) are depth maps of
    these frames, of any gain, 0 where unknown; None without maps.
    """

    frame: np.ndarray
    hands: Mapping[Side, np.ndarray]
    obj: np.ndarray
    depth: np.ndarray | None = None
    all_hands: np.ndarray | None = None

    @cached_property
    def hand_pixels(self) -> np.ndarray:
        """(F, H, W) bool pixels of all hands."""
        return np.any(list(self.hands.values()), axis=0) if self.all_hands is None else self.all_hands

    @cached_property
    def hand_insets(self) -> dict[Side, list[Inset]]:
        """How far pixels are inside of each hand's mask, by frame."""
        return {side: [Inset.of(mask) for mask in masks] for side, masks in self.hands.items()}

    @cached_property
    def obj_insets(self) -> list[Inset]:
        """The same of the object's."""
        return [Inset.of(mask) for mask in self.obj]

    @cached_property
    def digest(self) -> bytes:
        """Digest of the frames and the masks of object and hands, computed once: in a search, all trials have the same masks."""
        found = blake2b()
        for array in (self.frame, self.obj, self.hand_pixels):
            found.update(np.ascontiguousarray(array).data)
        return found.digest()


@dataclass(frozen=True)
class Marks:
    """Points that are fixed on the object, observed in frames, with measured distances between them.

    Point number `point` (M,) was observed in `frame` (M,) at `px` (M, 2) of a pinhole camera, each coordinate with a standard error of
    `stderr_px`; an observation that misses the point by more than `most_px` is refused. Points `pairs` (P, 2) are `distance_m` (P,)
    apart. `name` is that of the estimate, `source` the file or marker in messages, `labels` those of the points, `frame_names` all
    frames of the clip.
    """

    name: str
    source: str
    frame: np.ndarray
    point: np.ndarray
    px: np.ndarray
    pairs: np.ndarray
    distance_m: np.ndarray
    labels: tuple[str, ...]
    frame_names: Sequence[str]
    stderr_px: float
    most_px: float


@dataclass(frozen=True)
class Problem:
    """One sequence of T frames under one static pinhole camera.

    `K` (3, 3); `image_size` (width, height) px; `points_obj` (N, 3) and `T_cam_obj` (T, 4, 4) in the unit of SfM, which alignment
    makes metric: x_cam_m = scale * (R x + t). `obj_weight` (T,) is 0 where SfM did not register the frame. `marks` are points of the object
    with measured distances.
    """

    K: Tensor
    image_size: tuple[int, int]
    hands: Mapping[Side, HandObservation]
    points_obj: Tensor
    T_cam_obj: Tensor
    obj_weight: Tensor
    tracks: Tracks | None = None
    masks: EntityMasks | None = None
    marks: tuple[Marks, ...] = ()

    @property
    def num_frames(self) -> int:
        """Number of frames T."""
        return len(self.T_cam_obj)


@dataclass(frozen=True)
class Weights:
    """Weights of the objective, whose unit is px^2: HOLD's mean squared reprojection error of a joint.

    Every term is a mean (over joints, frames or both), so that a weight has the same effect for a long and a short clip. None: estimated
    from the sequence's noise (`holdprep.align.evidence`); method "hold" then uses its published number.
    """

    j2d: float = 1.0  # hand keypoint reprojection; per px^2
    j2d_sigma_px: float = 25.0  # Geman-McClure width of hand keypoints; px
    outline: float | None = None  # distance of the hand's outline from its mask's edge; per px^2
    o2d: float | None = (
        None  # object reprojection, where the object may leave SfM's trajectory (refined in mode ho, method "hold"); per px^2
    )
    o2d_sigma_px: float = 25.0  # Geman-McClure width of object points; px
    contact: float | None = None  # distance of hand and object; px^2 per m
    grasp: float | None = None  # drift of a static hand's centroid on the object (mode ho); px^2 per m^2
    grasp_sigma_m: float = 0.03  # Geman-McClure width of that; m
    z_min: float = 1000.0  # behind the camera; px^2 per m ("hold"), px^2 per m^2 ("lm")
    smooth: float = 100.0  # squared motion between frames; px^2 per m^2
    obj_scale: float = 0.001  # method "hold": the scale at step 1 of mode o; m per unit of SfM
    rotation: float | None = None  # departure of the hand's rotation from the registered one; px^2 per rad^2
    pose: float | None = None  # departure of the fingers' joint angles; px^2 per rad^2
    shape: float = 4.0  # departure of the shape; px^2 per unit of beta^2
    focal: float | None = None  # departure of a refined focal length from SfM's; px^2 per squared logarithm of their ratio
    # departure of ho's scale from mode o's, which has used the contact already; px^2 per squared standard error
    scale_prior: float = 100.0

    others: Mapping[str, float | None] = field(default_factory=dict)  # of terms that have no field here, by name

    @staticmethod
    def from_dict(values: Mapping[str, float | None]) -> "Weights":
        """Weights from the configuration's node."""
        known = {item.name for item in fields(Weights)}
        others = {name: value for name, value in values.items() if name not in known}
        return Weights(**{name: value for name, value in values.items() if name in known}, others=others)  # type: ignore[arg-type]

    def of(self, term: str) -> float | None:
        """A term's weight; None where it is not set."""
        value = self.others.get(term) if term not in vars(self) else getattr(self, term)
        return None if value is None else float(value)

    def with_open(self, values: Mapping[str, float]) -> dict[str, float]:
        """All numbers, with `values` for those that are not set; raises KeyError where one is missing."""
        own = {name: value for name, value in vars(self).items() if name != "others"}
        own |= {name: value for name, value in self.others.items() if value is not None}  # method "hold" has no such terms
        return {name: values[name] if value is None else value for name, value in own.items()}


@dataclass(frozen=True)
class Refine:
    """Which unknowns are free besides the hand's translation, each with a prior at its registered value.

    In modes h and ho the hand's rotation and shape; in mode ho also the finger poses, the object's poses, with SfM's observations as prior,
    and the focal length.
    """

    rotation: bool = True
    pose: bool = True
    shape: bool = False
    obj_pose: bool = False
    focal: bool = False


@dataclass(frozen=True)
class Alignment:
    """The state after a mode: hands and object in one metric camera frame.

    `R_cam_obj` (T, 3, 3), `transl_cam_obj_m` (T, 3): x_cam_m = R (obj_scale * x_sfm) + transl. `obj_scale` is metres per unit of
    SfM, with its standard error (NaN before mode o). `losses` holds the terms of every iteration, `metrics` flat numbers for
    gates and report, `curves` (T,) values by frame, NaN where unknown, `measured` the priors' weights that mode h estimated, `surface` the
    object's `Surface` as tensors, empty in mode h, `notes` lines for the user.
    """

    mode: Mode
    method: str
    hands: dict[Side, ManoParams]
    obj_scale: float
    obj_scale_stderr: float
    R_cam_obj: Tensor
    transl_cam_obj_m: Tensor
    K: Tensor
    losses: list[dict[str, float]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    surface: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def prepare(problem: Problem, weights: Weights) -> Problem:
    """The problem in float64, with (T, 21) hand weights that are 0 where a keypoint is missing.

    Raises HoldprepError in one line for input that cannot be aligned: no hand, no object frame, wrong shapes, values that are not finite,
    an object behind the camera.
    """
    _check_weights(weights)
    if not problem.hands:
        raise HoldprepError("alignment has no hand: run stage=register, or check hands= and the hand masks")
    T_cam_obj = _finite("T_cam_obj", problem.T_cam_obj, (None, 4, 4))
    frames = len(T_cam_obj)
    points = _finite("points_obj", problem.points_obj, (None, 3))
    obj_weight = _finite("obj_weight", problem.obj_weight, (frames,))
    K = _finite("K", problem.K, (3, 3))
    seen = int((obj_weight > 0).sum())
    if seen == 0 or len(points) < 4:
        counts = f"{seen} of {frames} frames registered, {len(points)} points (at least 4)"
        raise HoldprepError(f"alignment has no object: {counts}: check object_pose")
    depth = (T_cam_obj[:, 2, :3] @ points.median(dim=0).values + T_cam_obj[:, 2, 3])[obj_weight > 0]
    behind = int((depth <= 0).sum())
    if behind:
        raise HoldprepError(f"the object lies behind the camera in {behind} of {seen} registered frames: run stage=object_pose again")
    hands = {side: _prepare_hand(side, problem.hands[side], frames) for side in SIDES if side in problem.hands}
    return replace(problem, K=K, hands=hands, points_obj=points, T_cam_obj=T_cam_obj, obj_weight=obj_weight)


def _prepare_hand(side: Side, hand: HandObservation, frames: int) -> HandObservation:
    params = ManoParams(
        _finite(f"{side} global_orient", hand.params.global_orient, (frames, 3)),
        _finite(f"{side} hand_pose", hand.params.hand_pose, (frames, 45)),
        _finite(f"{side} betas", hand.params.betas if hand.params.betas.ndim == 1 else hand.params.betas.mean(dim=0), (10,)),
        torch.zeros(frames, 3, dtype=torch.float64),
    )
    j2d_px = torch.as_tensor(hand.j2d_px).double()
    if j2d_px.shape != (frames, 21, 2):
        raise HoldprepError(f"{side} j2d_px has shape {tuple(j2d_px.shape)}, not ({frames}, 21, 2)")
    weight = torch.as_tensor(hand.weight).double()
    weight = weight[:, None].expand(-1, 21) if weight.ndim == 1 else weight
    weight = _finite(f"{side} weight", weight, (frames, 21)).clamp_min(0) * torch.isfinite(j2d_px).all(dim=-1)
    enough = (weight > 0).sum(dim=1) >= 4
    weight = weight * enough[:, None]
    if not bool(enough.any()):
        raise HoldprepError(f"none of {frames} frames shows 4 keypoints of the {side} hand with weight > 0: check hand_pose's overlays")
    contact = None if hand.contact is None else _finite(f"{side} contact", hand.contact, (frames,)) > 0
    j2d_px = torch.nan_to_num(j2d_px, posinf=0.0, neginf=0.0)
    return replace(hand, model=hand.model.to(torch.float64), params=params, j2d_px=j2d_px, weight=weight, contact=contact)


def _finite(name: str, value: Tensor, shape: tuple[int | None, ...]) -> Tensor:
    tensor = torch.as_tensor(value).detach().double().cpu()
    if tensor.ndim != len(shape) or any(want is not None and have != want for have, want in zip(tensor.shape, shape, strict=True)):
        raise HoldprepError(f"{name} has shape {tuple(tensor.shape)}, not {tuple('any' if s is None else s for s in shape)}")
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        raise HoldprepError(f"{name} holds {int(bad.sum())} values that are not finite (first in row {int(bad.nonzero()[0, 0])})")
    return tensor


def _check_weights(weights: Weights) -> None:
    own = {name: value for name, value in vars(weights).items() if name != "others"}
    for name, value in (own | dict(weights.others)).items():
        if value is None:
            continue
        positive = name.endswith(("_px", "_m")) or name == "obj_scale"
        if not 0 <= value < float("inf") or (positive and value == 0):
            raise HoldprepError(f"weights.{name}={value}: not allowed; it must be finite and {'> 0' if positive else '>= 0'}")


def object_points_sfm(problem: Problem) -> Tensor:
    """The cloud in every frame's camera, in the unit of SfM: (T, N, 3); times the scale it is metric."""
    return problem.points_obj @ problem.T_cam_obj[:, :3, :3].transpose(1, 2) + problem.T_cam_obj[:, None, :3, 3]


def outward(problem: Problem) -> Tensor:
    """(N, 3) outward directions at the object's points: mean direction to the observing cameras, else from the cloud's median."""
    away = problem.points_obj - problem.points_obj.median(dim=0).values
    if problem.tracks is None:
        return away
    R, t = problem.T_cam_obj[:, :3, :3], problem.T_cam_obj[:, :3, 3:]
    camera_obj = -(R.transpose(1, 2) @ t)[..., 0]
    to_camera = camera_obj[problem.tracks.frame] - problem.points_obj[problem.tracks.point]
    summed = torch.zeros_like(away).index_add(0, problem.tracks.point, to_camera / to_camera.norm(dim=1, keepdim=True))
    return torch.where(summed.norm(dim=1, keepdim=True) > 0, summed, away)


def contact_frames(problem: Problem, side: Side) -> Tensor:
    """(T,) bool: frames with observations of this hand and the object in which they may touch."""
    hand = problem.hands[side]
    both = (hand.weight.reshape(problem.num_frames, -1).sum(dim=1) > 0) & (problem.obj_weight > 0)
    return both if hand.contact is None else both & hand.contact


def hidden_share(problem: Problem) -> float:
    """Share in [0, 1] of the hands' keypoints that the tracker does not observe, in frames in which hand and object touch.

    Observed are keypoints with a confidence of at least OBSERVED in frames with a valid hand. Without masks, frames with a valid hand are
    used.
    """
    shares = []
    for hand in problem.hands.values():
        weight = hand.weight.reshape(problem.num_frames, -1)
        frames = (problem.obj_weight > 0) & (weight.sum(dim=1) > 0 if hand.contact is None else hand.contact)
        shares.append((weight[frames] < OBSERVED).double().mean(dim=1))
    every = torch.cat(shares)
    return float(every.mean()) if len(every) else 1.0
