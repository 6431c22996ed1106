"""Object poses from a video: COLMAP's incremental SfM on object crops, judged and repaired by the video's continuity.

COLMAP registers every frame of a box at 1 px and still has it flipped where one face shows (a plane has two poses with nearly the
same picture). So several mappings of the same matches are made; the one whose rotations follow a continuous motion and agree with
the other mappings is kept; frames behind an implausible jump are resected again from their neighbours, and what stays
undecided is not passed off as registered.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.object import colmap, trajectory
from holdprep.object.child import Children
from holdprep.object.pairs import choose_pairs
from holdprep.object.reconstruction import ModelSummary, ObjectReconstruction, Observations, assemble
from holdprep.object.resection import resect

_MIN_MASK_PX = 400  # smaller objects carry no features worth the name
_AGREE_DEG = 8.0  # two mappings that differ more at a frame tell two stories about it
_MAX_REPAIRS = 4  # rounds of resection and adjustment; each lets newly seen points carry the next frames
_WHAT_TO_TRY = "try an object with more texture, tighter masks, more frames, or the true camera (object_pose.focal_px)"


def reconstruct(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    work_dir: Path,
    upsample: float = 2.0,
    erode_px: int = 2,
    max_features: int = 3000,
    peak_threshold: float = 0.0045,
    camera_model: str = "SIMPLE_PINHOLE",
    focal_px: float | None = None,
    focal_prior_px: float | None = None,
    num_pairs: int = 40,
    exhaustive_frames: int = 150,
    min_registered_pct: float = 60.0,
    seeds: Sequence[int] = (0, 1, 2),
    max_mappings: int = 8,
    num_threads: int = 2,
    progress: bool = False,
) -> ObjectReconstruction:
    """Object poses of T frames from images (H, W, 3) BGR uint8, object masks (H, W) bool and unique frame names in order of time.

    The focal length is refined from `focal_prior_px` (default 1.2 times the longer side) unless `focal_px` fixes it; the principal
    point is the image's centre, always. Mappings are made with `seeds`, then with further seeds up to `max_mappings` until two of
    them are free of jumps and agree. Every mapping runs on one thread, `num_threads` of them side by side. COLMAP's matching on
    several threads does not always repeat itself: the same result every time needs `num_threads=1`. `work_dir` is emptied of an
    earlier run's files and keeps images, database.db, sparse models and COLMAP's own words, colmap.log. COLMAP runs in child processes:
    whoever calls this from a script needs its `if __name__ == "__main__"`.

    Raises HoldprepError when masks are unusable, no model is found, fewer than `min_registered_pct` percent of the
    frames register, or COLMAP dies.
    """
    _check(images, masks, names)
    usable = [t for t, mask in enumerate(masks) if np.count_nonzero(_erode(mask, erode_px)) >= _MIN_MASK_PX]
    if len(usable) < 3:
        raise HoldprepError(
            f"object poses: {len(usable)} of {len(names)} frames have an object mask of {_MIN_MASK_PX} px or more, 3 are needed: "
            "check the object's masks"
        )
    h, w = images[0].shape[:2]
    crop = colmap.Crop.around([masks[t] for t in usable], upsample)
    refine_focal, focal = focal_px is None, focal_px or focal_prior_px or 1.2 * max(h, w)
    _prepare(work_dir)
    steps = len(seeds) + 2
    with (
        Children(work_dir / "colmap.log", num_threads) as children,
        tqdm(total=steps, desc="object poses", unit="step", disable=not progress) as bar,
    ):
        colmap.write_crops(work_dir, crop, *zip(*((images[t], _erode(masks[t], erode_px), names[t]) for t in usable), strict=True))
        children.call(colmap.extract_features, work_dir, crop, (h, w), focal, camera_model, max_features, peak_threshold, num_threads)
        bar.update()
        pairs = children.call(_choose_pairs, work_dir, [names[t] for t in usable], num_pairs, exhaustive_frames, seeds[0])
        children.call(colmap.match, work_dir, pairs, 2.0 * upsample, seeds[0], num_threads)
        bar.update()
        models = _map_until_agreed(children, work_dir, crop, names, seeds, max_mappings, num_threads, refine_focal, bar)
        if not models:
            raise HoldprepError(f"object poses: SfM found no model from {len(usable)} frames: {_WHAT_TO_TRY}")
        return _finish(children, work_dir, crop, (h, w), names, models, refine_focal, min_registered_pct)


def _check(images: Sequence[np.ndarray], masks: Sequence[np.ndarray], names: Sequence[str]) -> None:
    if not len(images) == len(masks) == len(names):
        raise HoldprepError(
            f"object poses: {len(images)} images, {len(masks)} masks and {len(names)} names: there must be one of each per frame"
        )
    if len(set(names)) != len(names):
        raise HoldprepError(f"object poses: {len(names) - len(set(names))} frame names are used twice: names must be unique")
    for image, mask, name in zip(images, masks, names, strict=True):
        if image.shape[:2] != mask.shape or image.shape != images[0].shape:
            raise HoldprepError(
                f"object poses: frame {name}: image {image.shape[:2]} and mask {mask.shape} must both have the first frame's size "
                f"{images[0].shape[:2]}"
            )


def _erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    size = 2 * pixels + 1
    return cv2.erode(mask.astype(np.uint8), np.ones((size, size), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _prepare(work_dir: Path) -> None:
    """An empty place: COLMAP would add to an earlier database."""
    work_dir.mkdir(parents=True, exist_ok=True)
    for path in [work_dir / "images", work_dir / "masks", *work_dir.glob("sparse_*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in work_dir.glob("database.db*"):  # SQLite's journals too
        path.unlink()


def _choose_pairs(work_dir: Path, names: list[str], num_pairs: int, exhaustive_frames: int, seed: int) -> list[tuple[str, str]]:
    """`choose_pairs` where the descriptors are: they are too many to be sent between processes."""
    return choose_pairs(names, colmap.descriptors(work_dir), num_pairs, exhaustive_frames, seed)


def _map_until_agreed(
    children: Children,
    work_dir: Path,
    crop: colmap.Crop,
    names: Sequence[str],
    seeds: Sequence[int],
    max_mappings: int,
    num_threads: int,
    refine_focal: bool,
    bar: tqdm,
) -> list[colmap.Model]:
    """All models of all mappings: the seeds asked for, then more while no two mappings are free of jumps and tell the same story."""
    todo = [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + max(max_mappings - len(seeds), 0))]
    models: list[colmap.Model] = []
    wave = len(seeds)
    while todo:
        now, todo = todo[:wave], todo[wave:]
        # odd seeds also begin from a wider pair: runs that start alike fail alike
        run = partial(_map_one, work_dir, crop, refine_focal)
        for found in children.map(run, now):
            models += found
            bar.update()
        summaries = _judge(names, models)
        # nothing to gain from further seeds where nothing registers
        full = [s for s in summaries if s.num_registered == s.num_trusted and s.agreement > 0.5]
        largest = max((s.num_registered for s in summaries), default=0)
        if sum(s.num_registered >= 0.9 * largest for s in full) >= 2 or largest < 0.3 * len(names):
            break
        wave = max(1, num_threads)
        bar.total += min(wave, len(todo))
    return models


def _map_one(work_dir: Path, crop: colmap.Crop, refine_focal: bool, seed: int) -> list[colmap.Model]:
    return colmap.map_models(work_dir, crop, seed, refine_focal=refine_focal, init_tri_angle_deg=16.0 if seed % 2 else 8.0)


def _rotations(names: Sequence[str], model: colmap.Model) -> tuple[np.ndarray, np.ndarray]:
    """(T, 3, 3) rotations, identity where unregistered, and (T,) bool."""
    registered = np.array([name in model.poses for name in names])
    return np.stack([model.poses[name][:3, :3] if name in model.poses else np.eye(3) for name in names]), registered


def _share_alike(model: colmap.Model, other: colmap.Model) -> float:
    """Share of the common frames at which two models tell the same rotation, 0 when they have none in common."""
    angles = trajectory.disagreement_deg(model.poses, other.poses)
    return float(np.mean([angle < _AGREE_DEG for angle in angles.values()])) if angles else 0.0


def _judge(names: Sequence[str], models: Sequence[colmap.Model]) -> list[ModelSummary]:
    """A summary of every model, none marked kept."""
    summaries, largest = [], max((len(model.poses) for model in models), default=0)
    for model in models:
        R, registered = _rotations(names, model)
        others = [other for other in models if other.seed != model.seed and len(other.poses) >= 0.5 * largest]
        shares = [_share_alike(model, other) for other in others]
        summaries.append(
            ModelSummary(
                model.seed,
                len(model.poses),
                len(model.points),
                model.focal_px,
                len(trajectory.rotation_jumps(R, registered)),
                int(trajectory.trusted_frames(R, registered).sum()),
                float(np.mean(shares)) if shares else 1.0,
                False,
            )
        )
    return summaries


def _finish(
    children: Children,
    work_dir: Path,
    crop: colmap.Crop,
    shape: tuple[int, int],
    names: Sequence[str],
    models: list[colmap.Model],
    refine_focal: bool,
    min_registered_pct: float,
) -> ObjectReconstruction:
    """Keep the model with most trusted frames (then agreement, then observations), repair it, fill the gaps."""
    summaries = _judge(names, models)
    best = max(range(len(models)), key=lambda i: (summaries[i].num_trusted, round(summaries[i].agreement, 1), models[i].num_observations))
    model = models[best]
    R, registered = _rotations(names, model)
    trusted = trajectory.trusted_frames(R, registered)
    _require(int(registered.sum()), len(names), "registered", min_registered_pct)
    features = children.call(colmap.read_features, work_dir, crop)
    rescued: set[int] = set()
    for _ in range(_MAX_REPAIRS):
        # points from trusted poses only, robustly adjusted: a flipped stretch bends the focal length too
        K = pinhole_K(model.focal_px, shape[1], shape[0])
        found = children.call(resect, names, trusted, model, features, K, trajectory.jump_limit_deg(*_rotations(names, model)))
        poses = {name: model.poses[name] for name, ok in zip(names, trusted, strict=True) if ok}
        poses |= {names[t]: resection.T_cam_obj for t, resection in found.items()}
        model = children.call(colmap.rebuild, work_dir, crop, model, poses, refine_focal=refine_focal)
        trusted = trajectory.trusted_frames(*_rotations(names, model))
        rescued |= found.keys()
        if not found or trusted.all():
            break
    _require(int(trusted.sum()), len(names), "registered without implausible rotations", min_registered_pct)
    summaries = [replace(summary, kept=i == best) for i, summary in enumerate(summaries)]
    return _assemble(names, shape, model, features, trusted, rescued, summaries)


def _require(count: int, total: int, what: str, min_pct: float) -> None:
    if count < min_pct / 100 * total:
        raise HoldprepError(
            f"object poses: {count} of {total} frames ({100 * count / total:.0f} %) {what}, "
            f"at least {min_pct:.0f} % are needed: {_WHAT_TO_TRY}"
        )


def _assemble(
    names: Sequence[str],
    shape: tuple[int, int],
    model: colmap.Model,
    features: colmap.Features,
    known: np.ndarray,
    rescued: set[int],
    summaries: list[ModelSummary],
) -> ObjectReconstruction:
    """The reconstruction that the frames `known` (T,) of a model make."""
    h, w = shape
    frames, points, pixels = [], [], []
    for t in np.flatnonzero(known).tolist():
        index = model.point_of_keypoint[names[t]]
        seen = index >= 0
        frames.append(np.full(seen.sum(), t))
        points.append(index[seen])
        pixels.append(features.keypoints_px[names[t]][seen])
    found = assemble(
        names,
        pinhole_K(model.focal_px, w, h),
        model.distortion,
        np.stack([model.poses[name] if ok else np.eye(4) for name, ok in zip(names, known, strict=True)]),
        known,
        model.points,
        model.colors,
        Observations(np.concatenate(frames), np.concatenate(points), np.concatenate(pixels)),
    )
    origin = ["resectioned" if t in rescued and how == "sfm" else how for t, how in enumerate(found.origin)]
    return replace(found, origin=origin, models=summaries, warnings=_warnings(found, w, summaries, len(rescued)))


def _warnings(model: ObjectReconstruction, width: int, summaries: list[ModelSummary], num_rescued: int) -> list[str]:
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
    if num_rescued > 0.05 * len(names):
        found.append(
            f"{num_rescued} of {len(names)} frames were resected from their neighbours after an implausible rotation, 5 % is usual: "
            "the cloud may be bent there, look at the overlay, or try another seed (seed=1)"
        )
    kept = next(s for s in summaries if s.kept)
    if kept.agreement < 0.9:
        found.append(
            f"other mappings agree on {100 * kept.agreement:.0f} % of the frames, 90 % is expected: "
            "a flipped stretch or a repeating texture is likely"
        )
    return found
