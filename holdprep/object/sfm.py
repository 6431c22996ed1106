"""Structure from motion on object crops: object poses and a sparse point cloud from a video.

COLMAP alone registers every frame of a box with 1 px error and still flips it where only one face is visible, because a
plane has two poses with nearly the same image. Therefore frames are mapped in temporal order (mapper.py), in long videos
only keyframes (keyframes.py). Several mappings start from different frames; where they disagree, the match cost selects
(model_selection.py), and it also tests ranges that all of them may have flipped (flip_resolution.py). Finally every frame
is re-estimated by PnP and bundle-adjusted (refinement.py). Frames that remain ambiguous are reported.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import usual_camera
from holdprep.object import colmap, diagnosis, trajectory
from holdprep.object.bundle_adjustment import SILHOUETTE_FILE
from holdprep.object.child import Children
from holdprep.object.features import FeatureSource
from holdprep.object.global_mapper import map_frames
from holdprep.object.keyframes import select_keyframes
from holdprep.object.model_selection import rotation_agreement
from holdprep.object.pairs import select_pairs, temporal_neighbours
from holdprep.object.reconstruction import ObjectReconstruction
from holdprep.object.refinement import refine_and_assemble
from holdprep.object.sfm_options import SfmOptions
from holdprep.object.workspace import Workspace

# Root of the area of an object that is enlarged fully. A larger one has features enough: on a can of 295 px, enlarging it 1.4 times instead of
# twice halves the time of extraction and changes the median rotation error from .045 to .051 deg.
_USUAL_SIZE_PX = 200.0
_MIN_MASK_PX = 400  # smaller objects have no useful features
_NEIGHBOURS = 6  # temporal neighbours that every frame is matched with, mapped or not
_NEAREST = 3  # of them, whose matches choose the features that are kept
_ADDITIONAL_MAPPINGS = 2  # run at a time while the first ones disagree
_MIN_LARGEST_MODEL = 0.3  # share of the keyframes; if no model reaches it, further mappings do not help
_MIN_AGREEMENT = 0.98  # share of frames at which two mappings agree; the rest is left to model selection


def reconstruct(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    work_dir: Path,
    options: SfmOptions,
) -> ObjectReconstruction:
    """Object poses of T frames from images (H, W, 3) BGR uint8, object masks (H, W) bool and unique names in temporal order.

    Images and masks may be read when requested: no more than a few are held at once.

    Focal length and radial distortion are refined unless `options.focal_px` is given; the principal point is fixed.
    `options.min_mappings` mappings are run, then a global one and more until two of them agree and have no rotation jumps. Missing poses
    are interpolated across gaps of at most `options.max_gap` frames; in longer gaps the nearest pose is held.

    `work_dir` is cleared of earlier results. It keeps images, database.db, sparse models and COLMAP's log, colmap.log.
    COLMAP runs in child processes, so a calling script needs `if __name__ == "__main__"`. The number of threads does not
    change the result.

    Raises HoldprepError, with a message per cause, when masks are unusable, there are no features, no matches or no initial
    pair, COLMAP rejects the camera or filters all frames, fewer than `options.min_registered_pct` percent of the frames
    are registered, or COLMAP crashes.
    """
    _check_names(len(images), len(masks), names)
    if all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in names):
        return _reconstruct(images, masks, names, work_dir, options)
    real = {f"{t:06d}": name for t, name in enumerate(names)}  # files of the work folder: COLMAP does not read names with blanks
    try:
        found = _reconstruct(images, masks, list(real), work_dir, options)
    except HoldprepError as error:
        raise HoldprepError(_renamed(str(error), real)) from None
    jumps = [(real[a], real[b]) for a, b in found.rotation_jumps]
    return replace(found, names=list(names), rotation_jumps=jumps, warnings=[_renamed(line, real) for line in found.warnings])


def _renamed(text: str, real: Mapping[str, str]) -> str:
    """A message with the frames' own names in place of those in the work folder."""
    return re.sub(r"\b\d{6}\b", lambda found: real.get(found[0], found[0]), text)


def _reconstruct(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    work_dir: Path,
    options: SfmOptions,
) -> ObjectReconstruction:
    seen = _look_through(masks, names, options.erode_px)
    h, w = seen.union.shape
    K = usual_camera((w, h), options.focal_px or options.focal_guess_px)
    K[:2, 2] = K[:2, 2] if options.principal_px is None else options.principal_px
    crop = colmap.Crop.around([seen.union], magnification(options.upsample, seen.size_px), options.principal_px)
    usable = [names[t] for t in seen.frames]
    workspace = Workspace(
        work_dir, crop, K, (w, h), names, keys=usable, refine_focal=options.focal_px is None, num_threads=options.num_threads
    )
    _clear(work_dir)
    with (
        tqdm(total=options.min_mappings + 3, desc="object poses", unit="step", disable=None if options.progress else True) as bar,
        Children(work_dir / "colmap.log", options.num_threads, bar.set_postfix_str) as children,
    ):
        eroded = (_erode(masks[t], options.erode_px) for t in seen.frames)
        colmap.write_crops(work_dir, crop, _of_size(images, names, seen), eroded, usable, options.num_threads)
        features, keys = _extract_and_match(children, workspace, options, bar)
        workspace = replace(workspace, keys=keys)
        models, runs = _map_until_agreement(children, workspace, options, bar)
        diagnosis.require_model(runs, work_dir, len(keys), options.min_registered_pct)
        found = refine_and_assemble(children, workspace, features, models, options)
        bar.update()
        return found


def _check_names(num_images: int, num_masks: int, names: Sequence[str]) -> None:
    if not num_images == num_masks == len(names):
        raise HoldprepError(f"object poses: {num_images} images, {num_masks} masks and {len(names)} names: one of each per frame is needed")
    if len(set(names)) != len(names):
        raise HoldprepError(f"object poses: {len(names) - len(set(names))} frame names are duplicates: names must be unique")


@dataclass(frozen=True)
class _SeenObject:
    """The frames whose mask is large enough, the union (H, W) of their masks, and the object's size: the root of the median mask's area."""

    frames: list[int]
    union: np.ndarray
    size_px: float


def _look_through(masks: Sequence[np.ndarray], names: Sequence[str], erode_px: int) -> _SeenObject:
    """What the masks show, each read once. Raises HoldprepError where they differ in size, or fewer than three are large enough."""
    frames, areas, union = [], [], np.zeros(masks[0].shape if len(masks) else (0, 0), bool)
    for t, (mask, name) in enumerate(zip(masks, names, strict=True)):
        if mask.shape != union.shape:
            raise HoldprepError(f"object poses: frame {name}: mask {mask.shape} must have the first frame's size {union.shape}")
        if np.count_nonzero(_erode(mask, erode_px)) >= _MIN_MASK_PX:
            frames.append(t)
            areas.append(np.count_nonzero(mask))
            union |= mask
    if len(frames) < 3:
        raise HoldprepError(
            f"object poses: {len(frames)} of {len(names)} frames have an object mask of {_MIN_MASK_PX} px or more, "
            "3 are needed: check the object's masks"
        )
    return _SeenObject(frames, union, float(np.sqrt(np.median(areas))))


def _of_size(images: Sequence[np.ndarray], names: Sequence[str], seen: _SeenObject) -> Iterator[np.ndarray]:
    """The images of the frames that are used; raises HoldprepError where one has not the masks' size."""
    for t in seen.frames:
        image = images[t]
        if image.shape[:2] != seen.union.shape:
            raise HoldprepError(f"object poses: frame {names[t]}: image {image.shape[:2]} must have the masks' size {seen.union.shape}")
        yield image


def magnification(upsample: float, size_px: float) -> float:
    """The factor by which an object of this size is enlarged: `upsample`, less for a large object, which is not shrunk."""
    return min(upsample, max(1.0, upsample * _USUAL_SIZE_PX / size_px))


def _erode(mask: np.ndarray, pixels: int) -> np.ndarray:
    size = 2 * pixels + 1
    return cv2.erode(mask.astype(np.uint8), np.ones((size, size), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0) > 0


def _clear(work_dir: Path) -> None:
    """Create the folder and delete an earlier run's files: COLMAP would append to an existing database."""
    work_dir.mkdir(parents=True, exist_ok=True)
    for path in [*(work_dir / sub for sub in ("images", "masks", "features", "sift")), *work_dir.glob("sparse_*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in (*work_dir.glob("database.db*"), *work_dir.glob(SILHOUETTE_FILE)):  # including SQLite's journals
        path.unlink()


def _extract_and_match(
    children: Children,
    workspace: Workspace,
    options: SfmOptions,
    bar: tqdm,
) -> tuple[colmap.Features, list[str]]:
    """Features of the frames `workspace.keys` with verified matches, and the keyframes selected among them."""
    folder, crop, names, source = workspace.folder, workspace.crop, workspace.keys, options.source
    seed, num_threads, max_error_px = options.seed, options.num_threads, 2.0 * crop.upsample
    children.call(source.extract, folder, crop, workspace.K, num_threads)
    diagnosis.require_features(names, children.call(colmap.read_features, folder, crop))
    bar.update()
    nearest, neighbours = temporal_neighbours(names, _NEAREST), temporal_neighbours(names, _NEIGHBOURS)
    children.call(source.match, folder, nearest, max_error_px, seed, num_threads)
    children.call(source.thin, folder)
    if others := sorted(set(neighbours) - set(nearest)):
        children.call(source.match, folder, others, max_error_px, seed, num_threads)
    keys = select_keyframes(names, children.call(colmap.read_features, folder, crop), options.num_keyframes)
    if len(names) <= options.exhaustive_frames:
        pairs = list(combinations(keys, 2))
    else:
        pairs = children.call(_select_pairs, source, folder, keys, options.num_pairs, seed)
    if further := sorted(set(pairs) - set(neighbours)):
        children.call(source.match, folder, further, max_error_px, seed, num_threads)
    features = children.call(colmap.read_features, folder, crop)
    diagnosis.require_matches(features)
    bar.update()
    return features, keys


def _select_pairs(source: FeatureSource, folder: Path, names: list[str], num_pairs: int, seed: int) -> list[tuple[str, str]]:
    """`select_pairs`, run in the child process so that descriptors are not sent between processes."""
    return select_pairs(names, source.descriptors(folder), num_pairs, seed)


def _map_until_agreement(
    children: Children, workspace: Workspace, options: SfmOptions, bar: tqdm
) -> tuple[list[colmap.Model], list[diagnosis.MappingRun]]:
    """Run the first mappings, then more until two of them agree and have no rotation jumps; all models and runs."""
    run = partial(map_frames, workspace, options.max_mappings, options.seed)
    models: list[colmap.Model] = []
    runs: list[diagnosis.MappingRun] = []
    pending, batch = list(range(options.max_mappings)), options.min_mappings
    pending.insert(batch, options.max_mappings)  # the global mapping, where the first ones disagree
    while pending:
        current, pending = pending[:batch], pending[batch:]
        for new_models, new_runs in children.map(run, current):
            models += new_models
            runs += new_runs
            bar.update()
        largest = max((len(model.poses) for model in models), default=0)
        complete = [model for model in models if len(model.poses) >= 0.9 * largest]
        smooth = [model for model in complete if not trajectory.rotation_jumps(*model.rotations(workspace.names))]
        agreeing = any(rotation_agreement(a, b) >= _MIN_AGREEMENT for a, b in combinations(smooth, 2))
        if agreeing or largest < _MIN_LARGEST_MODEL * len(workspace.keys):
            break
        batch = _ADDITIONAL_MAPPINGS  # independent of the number of threads, which must not change the result
        bar.total += min(batch, len(pending))
    return models, runs
