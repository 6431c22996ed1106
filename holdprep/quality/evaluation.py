"""Errors of an estimate with respect to ground truth: hands, object, and contact. Functions of arrays.

All lengths are in mm; definitions and sources are in the docstrings of the functions. A value that cannot be computed (a part is missing,
the motion is too small) is omitted with a note.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.spatial import cKDTree

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import apply, from_rt, invert, rotation_angle_deg
from holdprep.hand.model import SIDES, Side
from holdprep.quality.gauge import Gauge, camera_motion, fit_gauge
from holdprep.quality.metrics import acceleration, contour_f
from holdprep.quality.surface import Lattice, Surface, cloud_errors_mm, size_error_pct
from holdprep.quality.truth import GroundTruth, HandTruth, rigid_fit

LARGE_ROTATION_DEG = 5.0
_MAX_SCALE_SD = 0.05  # largest standard error of a usable scale
_MIN_CAMERA_MOTION = 0.01  # of the cameras' distance to the object, to determine the scale
_ADD_POINTS = 1000
_MEETING_FRAMES = 100

_LESS = re.compile(
    r"error|^(mpjpe|pa_mpjpe|root_relative_mpjpe|filled_mpjpe|mpvpe|mrrpe|add|add_s|chamfer|accuracy|completeness)_mm$|^rotation_above_|"
    r"^(contact_gap|penetration_depth)_mm$|^penetration_volume_cm3$"
)
_MORE = re.compile(r"^(mask_iou|contour_f|found_pct|registered_pct|(fscore|precision|recall)_\d+mm_pct)$")

Curves = dict[str, np.ndarray]


def direction(metric: str) -> Literal["less", "more"] | None:
    """Whether less or more is better for a metric of `evaluate`, by its name without an entity; None if unknown."""
    return "more" if _MORE.search(metric) else "less" if _LESS.search(metric) else None


@dataclass(frozen=True)
class HandEstimate:
    """One estimated hand over the T frames of an `Estimate`, in the camera frame, NaN rows where there is none.

    `vertices_m` (T, 778, 3), `joints_m` (T, 21, 3) in MANO-21 order, `is_valid` (T,) bool false where the hand was infilled,
    `faces` (F, 3) of the hand model, outward (for the penetration's volume).
    """

    vertices_m: np.ndarray | None = None
    joints_m: np.ndarray | None = None
    is_valid: np.ndarray | None = None
    faces: np.ndarray | None = None


@dataclass(frozen=True)
class Estimate:
    """An estimate to evaluate; all parts except the names may be missing.

    A point X of the object's own (SfM) frame, as in `object_points` (N, 3), lies at `T_cam_obj`[t] (obj_scale X) in the OpenCV camera
    frame: `T_cam_obj` (T, 4, 4) is rigid, and its translation has the unit of `obj_scale` X. That unit is the metre if `is_metric` (after
    alignment), SfM's unit if not (before it). `registered` (T,) bool is true for poses from the images; `K` (3, 3) is for
    images of `image_size` (width, height); `masks` holds (T, H, W) bool by entity (right, left, object).
    """

    names: list[str]
    K: np.ndarray | None = None
    image_size: tuple[int, int] | None = None
    T_cam_obj: np.ndarray | None = None
    object_points: np.ndarray | None = None
    obj_scale: float = 1.0
    is_metric: bool = True
    registered: np.ndarray | None = None
    hands: dict[Side, HandEstimate] = field(default_factory=dict)
    masks: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Result: `metrics` by name; `curves` (T,) over the estimate's frames, NaN where unknown; `notes` on omitted values."""

    metrics: dict[str, float]
    curves: dict[str, list[float]]
    notes: list[str]


def evaluate(estimate: Estimate, truth: GroundTruth, truth_masks: Mapping[str, Sequence[np.ndarray]] | None = None) -> Evaluation:
    """All metrics that can be computed from estimate and truth; frames are matched by name.

    `truth_masks` holds (H, W) bool by entity for the truth's frames. Raises HoldprepError where no name is in both.
    """
    row_of = {name: i for i, name in enumerate(truth.names)}
    index = np.array([row_of.get(name, -1) for name in estimate.names], dtype=int)
    matched = int((index >= 0).sum())
    if matched == 0:
        raise HoldprepError(
            f"none of the {len(estimate.names)} frames ({', '.join(estimate.names[:2])}, ...) has a name among the {len(truth.names)} of "
            f"the ground truth ({', '.join(truth.names[:2])}, ...): frames are matched by name"
        )
    metrics = {"frames_matched": float(matched), "frames_without_truth": float(len(index) - matched)}
    metrics |= _camera(estimate, truth)
    curves: Curves = {}
    notes = [f"there is no true {side} hand to compare with" for side in estimate.hands.keys() - truth.hands.keys()]
    hands = {side: _pair(estimate.hands.get(side, HandEstimate()), hand, index) for side, hand in truth.hands.items()}
    if estimate.hands:
        metrics |= _hands(estimate, hands, curves)
    if estimate.T_cam_obj is not None and truth.T_cam_obj is not None:
        T_true = _onto(truth.T_cam_obj, index)
        posed = _object_pose(estimate, T_true, metrics, curves, notes)
        if posed is not None:
            metrics |= _shape(estimate, truth, T_true, posed, curves)
            if estimate.is_metric:
                metrics |= _roots(truth, T_true, hands, posed, curves) | _contact(truth, T_true, index, hands, posed, curves)
    metrics |= _masks(estimate, truth_masks or {}, index, curves)
    return Evaluation(metrics, {name: curve.tolist() for name, curve in curves.items()}, notes)


def _onto(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The truth's rows in the estimate's order, NaN where there is no truth."""
    taken = np.asarray(values, np.float64)[index]
    taken[index < 0] = np.nan
    return taken


def _finite(rows: np.ndarray) -> np.ndarray:
    return np.isfinite(rows).all(axis=(1, 2))


def _summary(curve: np.ndarray) -> float | None:
    known = curve[np.isfinite(curve)]
    return float(known.mean()) if len(known) else None


def _keep(metrics: dict[str, float], curves: Curves, name: str, curve: np.ndarray) -> None:
    mean = _summary(curve)
    if mean is not None:
        metrics[name], curves[name] = mean, curve


def _camera(estimate: Estimate, truth: GroundTruth) -> dict[str, float]:
    """focal_error_pct: signed relative error of fx, in units of the image's width where both sizes are known."""
    if estimate.K is None:
        return {}
    ratio = estimate.K[0, 0] / truth.K[0, 0]
    if estimate.image_size is not None:
        ratio *= truth.image_size[0] / estimate.image_size[0]
    return {"focal_error_pct": 100 * float(ratio - 1)}


# hands


@dataclass(frozen=True)
class _HandPair:
    estimate: HandEstimate
    joints: np.ndarray | None  # the truth, in the estimate's order
    vertices: np.ndarray | None


def _pair(estimate: HandEstimate, truth: HandTruth, index: np.ndarray) -> _HandPair:
    joints, vertices = (None if x is None else _onto(x, index) for x in (truth.joints_m, truth.vertices_m))
    return _HandPair(estimate, joints, vertices)


def point_error_mm(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(T,) mean distance of points (T, N, 3) m in mm: MPJPE of joints, MPVPE of vertices. Ionescu et al., Human3.6M, PAMI 2014."""
    return 1000 * np.linalg.norm(estimate - truth, axis=-1).mean(axis=-1)


def procrustes_error_mm(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(T,) mean distance (mm) after similarity alignment of each frame's points with the truth's: PA-MPJPE.

    Zimmermann et al., FreiHAND, ICCV 2019, whose evaluation HO-3D uses too; the alignment is Umeyama's (PAMI 1991).
    """
    result = np.full(len(estimate), np.nan)
    known = _finite(estimate) & _finite(truth)
    if known.any():
        a, b = (x[known] - x[known].mean(axis=1, keepdims=True) for x in (estimate, truth))
        rotated = a @ np.swapaxes(rigid_fit(a, b)[:, :3, :3], 1, 2)
        scale = (rotated * b).sum(axis=(1, 2), keepdims=True) / (rotated**2).sum(axis=(1, 2), keepdims=True)
        result[known] = point_error_mm(scale * rotated, b)
    return result


def relative_root_error_mm(root_a: np.ndarray, root_b: np.ndarray, true_a: np.ndarray, true_b: np.ndarray) -> np.ndarray:
    """(T,) MRRPE: error of the vector between two roots (T, 3) m, in mm. Moon et al., InterHand2.6M, ECCV 2020; Fan et al., ARCTIC."""
    return 1000 * np.linalg.norm((root_a - root_b) - (true_a - true_b), axis=-1)


def _hands(estimate: Estimate, hands: Mapping[Side, _HandPair], curves: Curves) -> dict[str, float]:
    """Per side: mpjpe_mm, root_relative_mpjpe_mm (after alignment of wrists), pa_mpjpe_mm, mpvpe_mm and accel_error_mm.

    accel_error_mm is the mean length of the difference of accelerations, per frame squared (Kanazawa et al., HMMR, CVPR 2019).
    found_pct is the share of frames with an estimate among those with a true hand; filled_mpjpe_mm is mpjpe_mm over infilled frames.
    hands.mrrpe_mm is the error of the vector between both wrists.
    """
    metrics: dict[str, float] = {}
    for side, hand in hands.items():
        joints, true = hand.estimate.joints_m, hand.joints
        if true is not None:
            known = _finite(true)
            found = np.zeros(len(known), bool) if joints is None else _finite(joints)
            if known.any():
                metrics[f"{side}.found_pct"] = 100 * float(found[known].mean())
        if joints is not None and true is not None:
            error = point_error_mm(joints, true)
            _keep(metrics, curves, f"{side}.mpjpe_mm", error)
            _keep(metrics, curves, f"{side}.root_relative_mpjpe_mm", point_error_mm(joints - joints[:, :1], true - true[:, :1]))
            _keep(metrics, curves, f"{side}.pa_mpjpe_mm", procrustes_error_mm(joints, true))
            _keep(metrics, curves, f"{side}.accel_error_mm", 1000 * acceleration(joints - true))
            filled = None if hand.estimate.is_valid is None else _summary(error[~hand.estimate.is_valid])
            metrics |= {} if filled is None else {f"{side}.filled_mpjpe_mm": filled}
        if hand.estimate.vertices_m is not None and hand.vertices is not None:
            _keep(metrics, curves, f"{side}.mpvpe_mm", point_error_mm(hand.estimate.vertices_m, hand.vertices))
    wrists = [(h.estimate.joints_m[:, 0], h.joints[:, 0]) for s in SIDES if (h := hands.get(s)) and _has_joints(h)]  # type: ignore[index]
    if len(wrists) == 2:
        (right, true_right), (left, true_left) = wrists
        _keep(metrics, curves, "hands.mrrpe_mm", relative_root_error_mm(right, left, true_right, true_left))
    return metrics


def _has_joints(hand: _HandPair) -> bool:
    return hand.estimate.joints_m is not None and hand.joints is not None


# object


@dataclass(frozen=True)
class _Posed:
    """The estimate in the true object's frame: poses (T, 4, 4) m, NaN where unknown; size relative to the truth."""

    T_cam_obj: np.ndarray
    size: float
    gauge: Gauge


def _object_pose(estimate: Estimate, T_true: np.ndarray, metrics: dict[str, float], curves: Curves, notes: list[str]) -> _Posed | None:
    """Rotation, translation and scale over the registered frames, after the similarity transform that SfM leaves free (see `fit_gauge`).

    rotation_error_deg_median, _p95, rotation_above_5deg_pct: geodesic angle; translation_error_mm: median distance of the true object
    frame's origin; scale_error_pct: signed relative error of the scale (with its standard error scale_error_sd_pct).
    Before alignment there is no metric unit: the translation is compared in the gauge's unit, without a scale error.
    filled_rotation_error_deg_median: over infilled frames. registered_pct: of frames with a true pose.
    """
    T = np.asarray(estimate.T_cam_obj, np.float64)
    finite, true = _finite(T), _finite(T_true)
    registered = finite if estimate.registered is None else finite & estimate.registered
    if not true.any():
        return None
    metrics["registered_pct"] = 100 * float(registered[true].mean())
    used = registered & true
    if not used.any():
        notes.append("no registered frame has a true object pose: the object was not compared")
        return None
    gauge = fit_gauge(T[used], T_true[used])
    known = gauge.scale_sd <= _MAX_SCALE_SD and camera_motion(T_true[used]) >= _MIN_CAMERA_MOTION
    if known and estimate.is_metric:
        metrics |= {"scale_error_pct": 100 * (gauge.scale - 1), "scale_error_sd_pct": 100 * gauge.scale * gauge.scale_sd}
    elif not known:
        notes.append("the object rotates too little, or its poses have too large errors, to compare its scale")
        gauge = fit_gauge(T[used], T_true[used], fixed_scale=1.0)
    unit = 1.0 if estimate.is_metric else gauge.scale
    T_posed = T @ from_rt(gauge.R, gauge.origin)
    T_posed[:, :3, 3] /= unit
    angle = np.full(len(T), np.nan)
    angle[finite & true] = rotation_angle_deg(T_posed[finite & true, :3, :3], T_true[finite & true, :3, :3])
    curves["rotation_error_deg"] = angle
    metrics["rotation_error_deg_median"] = float(np.median(angle[used]))
    metrics["rotation_error_deg_p95"] = float(np.percentile(angle[used], 95))
    metrics["rotation_above_5deg_pct"] = 100 * float((angle[used] > LARGE_ROTATION_DEG).mean())
    filled = finite & true & ~registered
    if filled.any():
        metrics["filled_rotation_error_deg_median"] = float(np.median(angle[filled]))
    if not (known or estimate.is_metric):
        return None
    distance = 1000 * np.linalg.norm(T_posed[:, :3, 3] - T_true[:, :3, 3], axis=1)
    curves["translation_error_mm"] = distance
    metrics["translation_error_mm"] = float(np.median(distance[used]))
    return _Posed(np.where((finite & true)[:, None, None], T_posed, np.nan), gauge.scale / unit, gauge)


def _shape(estimate: Estimate, truth: GroundTruth, T_true: np.ndarray, posed: _Posed, curves: Curves) -> dict[str, float]:
    """add_mm, add_s_mm of the true model's vertices, `cloud_errors_mm` and `size_error_pct` of the cloud in the true object's frame.

    ADD: Hinterstoisser et al., ACCV 2012; ADD-S, to the nearest vertex instead, for symmetric objects: Xiang et al., PoseCNN, RSS 2018.
    At most 1000 vertices are used. The cloud keeps its size: a wrong scale increases its distances.
    """
    metrics: dict[str, float] = {}
    if truth.object_vertices_m is None:
        return metrics
    vertices = truth.object_vertices_m
    some = vertices[np.linspace(0, len(vertices) - 1, min(len(vertices), _ADD_POINTS)).astype(int)]
    known = _finite(posed.T_cam_obj)
    moved = apply(invert(posed.T_cam_obj[known]) @ T_true[known], some)  # true points in the estimated object's frame
    for name, error in (("add_mm", np.linalg.norm(moved - some, axis=2)), ("add_s_mm", cKDTree(vertices).query(moved)[0])):
        curve = np.full(len(known), np.nan)
        curve[known] = 1000 * error.mean(axis=1)
        _keep(metrics, curves, name, curve)
    points = estimate.object_points
    if points is not None and len(points) and truth.object_faces is not None:
        unit = posed.gauge.scale / posed.size
        cloud = (estimate.obj_scale * np.asarray(points, np.float64) - posed.gauge.origin) @ posed.gauge.R / unit
        surface = Surface.of(vertices, truth.object_faces)
        metrics |= cloud_errors_mm(cloud, surface)
        size = size_error_pct(cloud, surface) if estimate.is_metric else None
        metrics |= {} if size is None else {"size_error_pct": size}
    return metrics


# hands and object


def _roots(truth: GroundTruth, T_true: np.ndarray, hands: Mapping[Side, _HandPair], posed: _Posed, curves: Curves) -> dict[str, float]:
    """Per side mrrpe_mm: error of the vector from the object (its vertices' mean, its frame's origin without a mesh) to the wrist."""
    metrics: dict[str, float] = {}
    centre = np.zeros((1, 3)) if truth.object_vertices_m is None else truth.object_vertices_m.mean(axis=0, keepdims=True)
    root, true_root = apply(posed.T_cam_obj, posed.size * centre)[:, 0], apply(T_true, centre)[:, 0]
    for side, hand in hands.items():
        if hand.estimate.joints_m is not None and hand.joints is not None:
            error = relative_root_error_mm(hand.estimate.joints_m[:, 0], root, hand.joints[:, 0], true_root)
            _keep(metrics, curves, f"{side}.mrrpe_mm", error)
    return metrics


def _contact(
    truth: GroundTruth, T_true: np.ndarray, index: np.ndarray, hands: Mapping[Side, _HandPair], posed: _Posed, curves: Curves
) -> dict[str, float]:
    """Gap and penetration of hand and object, per side, in at most 100 evenly spaced frames.

    The estimated object is the true surface at the estimated pose, in the estimated size. contact_gap_mm: distance from it of the nearest
    hand vertex, 0 where one is inside, mean over the frames in which the truth has contact (all, if unknown);
    penetration_depth_mm: depth of the deepest hand vertex, 0 where none is inside, mean over frames (Hasson et al., ObMan, CVPR 2019);
    penetration_volume_cm3: of the cubes of 2 mm whose centres are inside both (ibid.), mean over frames. The names with _true are the
    same of the true hand and object.
    """
    metrics: dict[str, float] = {}
    vertices, faces = truth.object_vertices_m, truth.object_faces
    if vertices is None or faces is None or not hands:
        return metrics
    surface, lattice = Surface.of(vertices, faces), Lattice.around(vertices)
    inside = lattice.inside(vertices, faces)
    touching = np.ones(len(index), bool) if truth.contact is None else np.asarray(truth.contact, bool)[index]
    known = np.flatnonzero(_finite(posed.T_cam_obj))
    sampled = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), _MEETING_FRAMES)).astype(int))]
    for side, hand in hands.items():
        bodies = {"": (hand.estimate.vertices_m, posed.T_cam_obj, posed.size), "_true": (hand.vertices, T_true, 1.0)}
        for tag, (mesh, T, size) in bodies.items():
            if mesh is None:
                continue
            local = np.full(mesh.shape, np.nan)
            local[sampled] = apply(invert(T[sampled]), mesh[sampled]) / size
            nearest = size * _nearest(surface, local)
            _keep(metrics, curves, f"{side}.contact_gap{tag}_mm", np.where(touching, 1000 * np.maximum(nearest, 0), np.nan))
            _keep(metrics, curves, f"{side}.penetration_depth{tag}_mm", 1000 * np.maximum(-nearest, 0))
            if hand.estimate.faces is not None:
                volume = 1e6 * size**3 * _overlaps_m3(lattice, inside, local, hand.estimate.faces)
                _keep(metrics, curves, f"{side}.penetration_volume{tag}_cm3", volume)
    return metrics


def _nearest(surface: Surface, meshes: np.ndarray) -> np.ndarray:
    """(T,) smallest signed distance of the vertices (T, V, 3), NaN where unknown."""
    result = np.full(len(meshes), np.nan)
    known = _finite(meshes)
    result[known] = surface.signed_distance(meshes[known].reshape(-1, 3)).reshape(-1, meshes.shape[1]).min(axis=1)
    return result


def _overlaps_m3(lattice: Lattice, inside: np.ndarray, meshes: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(T,) volume of each mesh (T, V, 3) within the cubes `inside`, NaN where unknown."""
    result = np.full(len(meshes), np.nan)
    for t in np.flatnonzero(_finite(meshes)):
        result[t] = lattice.volume_m3(inside & lattice.inside(meshes[t], faces))
    return result


def _masks(estimate: Estimate, truth_masks: Mapping[str, Sequence[np.ndarray]], index: np.ndarray, curves: Curves) -> dict[str, float]:
    """<entity>.mask_iou (intersection over union: DAVIS' J) and .contour_f (see `contour_f`), 0..1, over frames with a non-empty mask."""
    metrics: dict[str, float] = {}
    for entity in sorted(estimate.masks.keys() & truth_masks.keys()):
        curve, contour = np.full((2, len(index)), np.nan)
        for t in np.flatnonzero(index >= 0).tolist():
            a, b = estimate.masks[entity][t], truth_masks[entity][int(index[t])]
            union = np.count_nonzero(a | b)
            if union:
                curve[t], contour[t] = np.count_nonzero(a & b) / union, contour_f(a, b)
        _keep(metrics, curves, f"{entity}.mask_iou", curve)
        _keep(metrics, curves, f"{entity}.contour_f", contour)
    return metrics
