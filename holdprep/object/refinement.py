"""Merge the best incremental models, re-estimate every frame by PnP, bundle-adjust, collect warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object import trajectory
from holdprep.object.bundle_adjustment import Adjustment, refine_over_patches, retriangulate
from holdprep.object.child import Children
from holdprep.object.colmap import Features, Model
from holdprep.object.diagnosis import explain_missing_poses, require_poses, require_smooth
from holdprep.object.flip_resolution import resolve_flips
from holdprep.object.focal import MAX_STDERR
from holdprep.object.model_selection import ModelScores, contested_frames, rotation_agreement, score_models, select_per_frame
from holdprep.object.reconstruction import ModelSummary, ObjectReconstruction, Observations, PoseUncertainty, RawReconstruction, assemble
from holdprep.object.resection import resect_frames
from holdprep.object.sfm_options import SfmOptions
from holdprep.object.workspace import Workspace

_MAX_ROUNDS = 4  # of PnP and bundle adjustment; newly triangulated points allow further frames to be registered
_CHANGED_DEG = 3.0  # a frame whose rotation changes by more had a wrong pose
_MANY_UNREGISTERED = 0.1  # share of frames without a pose, above which a warning gives the reasons


def refine_and_assemble(
    children: Children, workspace: Workspace, features: Features, models: list[Model], options: SfmOptions
) -> ObjectReconstruction:
    """One reconstruction of all T frames from the models of several mappings of the keyframes.

    Raises HoldprepError when fewer than `options.min_registered_pct` percent of the frames have a pose, or are free of
    implausible rotations.
    """
    names, principal_px = workspace.names, workspace.principal_px
    refiner = Refiner(children, workspace, features, options.min_registered_pct)
    scores = score_models(names, models, features, principal_px)
    model, corrected = refiner.merge(models, scores)
    model, adjustment = children.call(refine_over_patches, workspace, model, features)
    trusted = trajectory.trusted_frames(*model.rotations(names))
    require_poses(names, model.poses, features, options.min_registered_pct)
    require_smooth(int(trusted.sum()), len(names), options.min_registered_pct)
    contested = contested_frames(score_models(names, [model, *models], features, principal_px), 0)
    found = _assemble(workspace, model, features, trusted, options.max_gap)
    origin = ["resectioned" if t in corrected and how == "sfm" else how for t, how in enumerate(found.origin)]
    found = replace(found, origin=origin, contested=contested, models=_summarize(names, models, scores))
    found = replace(found, uncertainty=_uncertainty(names, trusted, adjustment, model.distortion))
    warnings = _warnings(found, contested, workspace, len(corrected))
    if (missing := np.count_nonzero(~trusted)) > _MANY_UNREGISTERED * len(names):
        posed = {name for name, ok in zip(names, trusted, strict=True) if ok}
        reasons = explain_missing_poses(names, posed, features)
        warnings.insert(0, f"{missing} of {len(names)} frames have no measured pose, {reasons}")
    return replace(found, warnings=warnings)


@dataclass(frozen=True)
class Refiner:
    """PnP and triangulation of models from the same features, run in child processes."""

    children: Children
    workspace: Workspace
    features: Features
    min_registered_pct: float

    def merge(self, models: Sequence[Model], scores: ModelScores) -> tuple[Model, set[int]]:
        """A model of the best poses of all mappings, and its corrected frames; no worse than the best mapping alone.

        The frames of an object with similar sides, each right in its mapping, may contradict each other in the merged model.
        """
        names, keys = self.workspace.names, self.workspace.keys
        poses = {names[t]: scores.poses[m, t] for t, m in enumerate(select_per_frame(scores)) if m >= 0}
        require_poses(keys, poses, self.features, self.min_registered_pct)
        single = max(models, key=self._num_trusted)
        found, corrected = self.complete(models[scores.best], poses)
        if self._num_trusted(found) < self._num_trusted(single):
            again = self.complete(single, single.poses), (self.retriangulate(single, single.poses), set[int]())
            found, corrected = max(((found, corrected), *again), key=lambda each: self._num_trusted(each[0]))
        return found, corrected

    def _num_trusted(self, model: Model) -> int:
        """Keyframes free of implausible rotations."""
        return int(trajectory.trusted_frames(*model.rotations(self.workspace.keys)).sum())

    def complete(self, model: Model, poses: Mapping[str, np.ndarray]) -> tuple[Model, set[int]]:
        """The model under `poses` with its flips resolved and all frames registered that can be, and the corrected frames."""
        model = self.children.call(resolve_flips, self.workspace, self.retriangulate(model, poses), self.features)
        return self.recover_untrusted(*self.resect(model))

    def retriangulate(self, model: Model, poses: Mapping[str, np.ndarray]) -> Model:
        """The model with its points triangulated again under `poses` (frame name -> T_cam_obj) and bundle-adjusted."""
        return self.children.call(retriangulate, self.workspace, model, dict(poses))

    def resect(self, model: Model) -> tuple[Model, set[int]]:
        """Alternate PnP of all frames and bundle adjustment until no pose changes.

        Returns the model and the frames whose pose was corrected; frames that were not mapped do not count as corrected
        when they are first added. Raises HoldprepError when too few frames have a pose.
        """
        names, keys = self.workspace.names, set(self.workspace.keys)
        corrected: set[int] = set()
        for i in range(_MAX_ROUNDS):
            found = self.children.call(resect_frames, self.workspace, model, self.features)
            changed = {t for t, resection in found.items() if _has_changed(model.poses.get(names[t]), resection.T_cam_obj)}
            if not changed and len(found) == len(model.poses):
                break
            corrected |= {t for t in changed if i > 0 or names[t] in keys}
            require_poses(names, {names[t] for t in found}, self.features, self.min_registered_pct)
            model = self.retriangulate(model, {names[t]: resection.T_cam_obj for t, resection in found.items()})
        return model, corrected

    def recover_untrusted(self, model: Model, corrected: set[int]) -> tuple[Model, set[int]]:
        """Where the rotation jumps, drop the frames beyond the jump and their points, and register them again by PnP.

        Returns the model and the corrected frames, both unchanged if no more frames are free of jumps afterwards.
        """
        names = self.workspace.names
        trusted = trajectory.trusted_frames(*model.rotations(names))
        if not 0 < np.count_nonzero(trusted) < len(model.poses):
            return model, corrected
        kept = {name: model.poses[name] for name, ok in zip(names, trusted, strict=True) if ok}
        recovered, changed = self.resect(self.retriangulate(model, kept))
        is_better = trajectory.trusted_frames(*recovered.rotations(names)).sum() > trusted.sum()
        return (recovered, corrected | changed) if is_better else (model, corrected)


def _has_changed(T: np.ndarray | None, T_new: np.ndarray) -> bool:
    """Whether a pose is new, or its rotation differs from the previous one."""
    return T is None or bool(rotation_angle_deg(T[:3, :3], T_new[:3, :3]) > _CHANGED_DEG)


def _assemble(
    workspace: Workspace,
    model: Model,
    features: Features,
    registered: np.ndarray,
    max_gap: int,
) -> ObjectReconstruction:
    """The reconstruction from the `registered` (T,) frames of a model; the other frames are filled in."""
    names, K = workspace.names, workspace.K.copy()
    K[0, 0] = K[1, 1] = model.focal_px
    frames, points, pixels = [], [], []
    for t in np.flatnonzero(registered).tolist():
        index = model.point_of_keypoint[names[t]]
        observed = index >= 0
        frames.append(np.full(observed.sum(), t))
        points.append(index[observed])
        pixels.append(features.keypoints_px[names[t]][observed])
    poses = [model.poses[name] if ok else np.eye(4) for name, ok in zip(names, registered, strict=True)]
    raw = RawReconstruction(
        names=names,
        K=K,
        T_cam_obj=np.stack(poses),
        registered=registered,
        points_obj=model.points,
        observations=Observations(np.concatenate(frames), np.concatenate(points), np.concatenate(pixels)),
        distortion=model.distortion,
        colors=model.colors,
    )
    return assemble(raw, max_gap)


def _uncertainty(names: Sequence[str], registered: np.ndarray, found: Adjustment, distortion: np.ndarray) -> PoseUncertainty:
    """The adjustment's uncertainty for all T frames."""
    unknown = np.full((6, 6), np.nan)
    of_frame = [found.pose_covariance.get(name, unknown) if ok else unknown for name, ok in zip(names, registered, strict=True)]
    return PoseUncertainty(
        pose_covariance=np.stack(of_frame),
        focal_stderr_px=found.focal_stderr_px,
        k_stderr=found.k_stderr,
        lens_radius=found.observed_radius if distortion.any() else None,
    )


def _summarize(names: Sequence[str], models: Sequence[Model], scores: ModelScores) -> list[ModelSummary]:
    """Summary of each mapped model relative to the best one."""
    best = models[scores.best]
    mapped = np.isfinite(scores.poses[:, :, 0, 0]).any(axis=0)
    return [
        ModelSummary(
            number=model.number,
            num_registered=len(model.poses),
            num_points=len(model.points),
            focal_px=model.focal_px,
            num_jumps=len(trajectory.rotation_jumps(*model.rotations(names))),
            relative_cost=float(cost[mapped].sum() / scores.cost[scores.best, mapped].sum()),
            agreement=rotation_agreement(best, model),
            kept=model is best,
        )
        for model, cost in zip(models, scores.cost, strict=True)
    ]


def _warnings(found: ObjectReconstruction, contested: np.ndarray, workspace: Workspace, num_corrected: int) -> list[str]:
    """What a user should check, one line each; `num_corrected` frames had a wrong pose after mapping."""
    warnings = []
    names, total, num_mapped = found.names, len(found.names), len(workspace.keys)
    focal_ratio = found.focal_px / workspace.image_size[0]
    if found.uncertainty is not None and np.isinf(found.uncertainty.focal_stderr_px):
        warnings.append(
            f"the pictures do not determine the focal length to {100 * MAX_STDERR:g} %: it is held at {found.focal_px:.0f} px, and depths "
            "follow it: give the camera (object_pose.focal_px), or rotate the object further and nearer to the camera"
        )
    if not 0.5 <= focal_ratio <= 2.5:
        warnings.append(
            f"focal length {found.focal_px:.0f} px is {focal_ratio:.1f} image widths, 0.5 to 2.5 is plausible: "
            "give the camera (object_pose.focal_px)"
        )
    if found.rotation_jumps:
        a, b = found.rotation_jumps[0]
        warnings.append(
            f"{len(found.rotation_jumps)} implausible rotations between neighbouring frames, first at {a}-{b}: check the overlay there"
        )
    if num_corrected > 0.1 * total:
        warnings.append(
            f"{num_corrected} of {total} frames were re-estimated by PnP, 10 % is usual: the point cloud may be distorted "
            "there, check the overlay, or try another seed (seed=1)"
        )
    if contested.any():
        first = names[int(contested.argmax())]
        warnings.append(
            f"{contested.sum()} of {total} frames (first: {first}) have a second pose that the matches support equally "
            "well: the object is symmetric, has a repeating pattern, or shows only one face; check the overlay there"
        )
    small = [each for each in found.models if each.num_registered < num_mapped / 2]
    if small and not any(each.num_registered >= 0.9 * num_mapped for each in found.models):
        warnings.append(
            f"{len(small)} of {len(found.models)} models hold less than half of the {num_mapped} keyframes (the largest "
            f"{max(each.num_registered for each in small)}): the video is not connected by matches, add frames where the "
            "object rotates fast"
        )
    return warnings
