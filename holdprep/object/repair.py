"""What follows mapping: the best of all mappings is put together, every frame is solved anew against it, and what came of it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object import bundle, colmap, trajectory
from holdprep.object.child import Children
from holdprep.object.diagnosis import require_poses, require_smooth, why_lost
from holdprep.object.evidence import Evidence, alike, choose, contested, weigh
from holdprep.object.reconstruction import ModelSummary, ObjectReconstruction, Observations, assemble
from holdprep.object.resection import resect
from holdprep.object.reversal import set_upright

_MAX_ROUNDS = 4  # of resection and adjustment; each lets newly seen points carry the next frames
_MOVED_DEG = 3.0  # a frame that resection turns by more is one that mapping had wrong
_MANY_LOST = 0.1  # share of frames without a pose from which a warning says what they lack


def settle(
    children: Children,
    work_dir: Path,
    crop: colmap.Crop,
    K: np.ndarray,
    width: int,
    names: Sequence[str],
    keys: Sequence[str],
    features: colmap.Features,
    models: list[colmap.Model],
    refine_focal: bool,
    min_registered_pct: float,
    max_gap: int,
) -> ObjectReconstruction:
    """One reconstruction of T frames from the models of several mappings of their `keys`, which began from camera `K` of pictures
    `width` pixels wide.

    Raises HoldprepError when fewer than `min_registered_pct` percent of the frames have a pose, or hang together.
    """
    principal_px = (float(K[0, 2]), float(K[1, 2]))
    bench = _Bench(children, work_dir, crop, names, frozenset(keys), features, principal_px, refine_focal, min_registered_pct)
    evidence = weigh(names, models, features, principal_px)
    chosen = choose(evidence)
    poses = {names[t]: evidence.poses[m, t] for t, m in enumerate(chosen) if m >= 0}
    require_poses(keys, poses, features, min_registered_pct)
    model = bench.rebuilt(models[evidence.best], poses)
    model = children.call(set_upright, names, model, features, principal_px, work_dir, crop, refine_focal=refine_focal)
    model, rescued = bench.reached_anew(*bench.resected(model))
    model = children.call(bundle.polish, names, model, features, principal_px, work_dir, crop, refine_focal=refine_focal)
    trusted = trajectory.trusted_frames(*rotations(names, model))
    require_poses(names, model.poses, features, min_registered_pct)
    require_smooth(int(trusted.sum()), len(names), min_registered_pct)
    undecided = contested(weigh(names, [model, *models], features, principal_px), 0)
    found = _assemble(names, K, model, features, trusted, rescued, max_gap)
    summaries = _summaries(names, models, evidence)
    contested_names = [name for name, open_ in zip(names, undecided, strict=True) if open_]
    told = _warnings(found, width, summaries, len(keys), len(rescued), contested_names)
    posed = {name for name, ok in zip(names, trusted, strict=True) if ok}
    if len(names) - len(posed) > _MANY_LOST * len(names):
        told.insert(0, f"{len(names) - len(posed)} of {len(names)} frames have no measured pose, {why_lost(names, posed, features)}")
    return replace(found, models=summaries, contested=undecided, warnings=told)


@dataclass(frozen=True)
class _Bench:
    """Where models of the same features are worked on; fields as in `settle`."""

    children: Children
    work_dir: Path
    crop: colmap.Crop
    names: Sequence[str]
    keys: frozenset[str]
    features: colmap.Features
    principal_px: tuple[float, float]
    refine_focal: bool
    min_registered_pct: float

    def rebuilt(self, model: colmap.Model, poses: Mapping[str, np.ndarray]) -> colmap.Model:
        """The model made anew from poses by frame name."""
        return self.children.call(bundle.rebuild, self.work_dir, self.crop, model, dict(poses), refine_focal=self.refine_focal)

    def resected(self, model: colmap.Model) -> tuple[colmap.Model, set[int]]:
        """The model after all its frames were solved anew and it was rebuilt, until none moves; and the frames that did, but for those
        that mapping had left out."""
        rescued: set[int] = set()
        for i in range(_MAX_ROUNDS):
            found = self.children.call(resect, self.names, model, self.features, self.principal_px, self.work_dir, self.crop)
            moved = {t for t, resection in found.items() if _moved(model.poses.get(self.names[t]), resection.T_cam_obj)}
            if not moved and len(found) == len(model.poses):
                break
            rescued |= {t for t in moved if i > 0 or self.names[t] in self.keys}
            require_poses(self.names, {self.names[t] for t in found}, self.features, self.min_registered_pct)
            model = self.rebuilt(model, {self.names[t]: resection.T_cam_obj for t, resection in found.items()})
        return model, rescued

    def reached_anew(self, model: colmap.Model, rescued: set[int]) -> tuple[colmap.Model, set[int]]:
        """The same, and where its motion jumps, without the frames beyond the jump and the points that they made: these frames are lost, and
        reached from those that are trusted. What it was where that trusts no more frames."""
        trusted = trajectory.trusted_frames(*rotations(self.names, model))
        if not 0 < np.count_nonzero(trusted) < len(model.poses):
            return model, rescued
        kept = {name: model.poses[name] for name, ok in zip(self.names, trusted, strict=True) if ok}
        again, moved = self.resected(self.rebuilt(model, kept))
        better = trajectory.trusted_frames(*rotations(self.names, again)).sum() > trusted.sum()
        return (again, rescued | moved) if better else (model, rescued)


def rotations(names: Sequence[str], model: colmap.Model) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, 3) rotations, identity where unregistered, and (T,) bool."""
    registered = np.array([name in model.poses for name in names])
    return np.stack([model.poses[name][:3, :3] if name in model.poses else np.eye(3) for name in names]), registered


def _moved(T: np.ndarray | None, T_new: np.ndarray) -> bool:
    return T is None or bool(rotation_angle_deg(T[:3, :3], T_new[:3, :3]) > _MOVED_DEG)


def _assemble(
    names: Sequence[str],
    K: np.ndarray,
    model: colmap.Model,
    features: colmap.Features,
    known: np.ndarray,
    rescued: set[int],
    max_gap: int,
) -> ObjectReconstruction:
    """The reconstruction that the frames `known` (T,) of a model make."""
    K = K.copy()
    K[0, 0] = K[1, 1] = model.focal_px
    frames, points, pixels = [], [], []
    for t in np.flatnonzero(known).tolist():
        index = model.point_of_keypoint[names[t]]
        seen = index >= 0
        frames.append(np.full(seen.sum(), t))
        points.append(index[seen])
        pixels.append(features.keypoints_px[names[t]][seen])
    found = assemble(
        names,
        K,
        model.distortion,
        np.stack([model.poses[name] if ok else np.eye(4) for name, ok in zip(names, known, strict=True)]),
        known,
        model.points,
        model.colors,
        Observations(np.concatenate(frames), np.concatenate(points), np.concatenate(pixels)),
        max_gap,
    )
    origin = ["resectioned" if t in rescued and how == "sfm" else how for t, how in enumerate(found.origin)]
    return replace(found, origin=origin)


def _summaries(names: Sequence[str], models: Sequence[colmap.Model], evidence: Evidence) -> list[ModelSummary]:
    best = models[evidence.best]
    mapped = np.isfinite(evidence.poses[:, :, 0, 0]).any(axis=0)
    return [
        ModelSummary(
            model.number,
            len(model.poses),
            len(model.points),
            model.focal_px,
            len(trajectory.rotation_jumps(*rotations(names, model))),
            float(cost[mapped].sum() / evidence.cost[evidence.best, mapped].sum()),
            alike(best, model),
            model is best,
        )
        for model, cost in zip(models, evidence.cost, strict=True)
    ]


def _warnings(
    model: ObjectReconstruction, width: int, summaries: list[ModelSummary], num_mapped: int, num_rescued: int, undecided: Sequence[str]
) -> list[str]:
    found = []
    names, focal_px = model.names, model.focal_px
    if not 0.5 <= focal_px / width <= 2.5:
        found.append(
            f"focal length {focal_px:.0f} px is {focal_px / width:.1f} image widths, 0.5 to 2.5 is plausible: "
            "give the camera (object_pose.focal_px)"
        )
    if model.rotation_jumps:
        a, b = model.rotation_jumps[0]
        found.append(
            f"{len(model.rotation_jumps)} implausible rotations between neighbouring frames, first at {a}-{b}: look at the overlay there"
        )
    if num_rescued > 0.1 * len(names):
        found.append(
            f"{num_rescued} of {len(names)} frames were solved anew from their neighbours, 10 % is usual: "
            "the cloud may be bent there, look at the overlay, or try another seed (seed=1)"
        )
    held = [name for name, how in zip(names, model.origin, strict=True) if how == "held"]
    if held:
        found.append(
            f"{len(held)} of {len(names)} frames (first: {held[0]}) hold the nearest known pose, the gap is too long to guess: "
            "cut the clip there, or add frames"
        )
    if undecided:
        found.append(
            f"{len(undecided)} of {len(names)} frames (first: {undecided[0]}) have a second pose that their matches support as well: "
            "the object is symmetric, repeats itself, or shows one face; look at the overlay there"
        )
    parts = [s for s in summaries if s.num_registered < num_mapped / 2]
    if parts and not any(s.num_registered >= 0.9 * num_mapped for s in summaries):
        found.append(
            f"{len(parts)} of {len(summaries)} models hold less than half of the {num_mapped} frames that were mapped "
            f"(the largest {max(s.num_registered for s in parts)}): the video falls apart, add frames where the object turns fast"
        )
    return found
