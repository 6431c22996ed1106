"""Object poses from a video: COLMAP's incremental SfM on object crops, told what a video knows.

COLMAP registers every frame of a box at 1 px and still has it flipped where one face shows (a plane has two poses with nearly the
same picture). So mapping follows time (mapper.py), over some of a long video's frames (keyframes.py); several mappings begin at different
frames; where they tell different stories the matches decide (evidence.py), and so they do on stretches that all of them may have upside
down (reversal.py); every frame is then solved anew against the model (repair.py), and what stays undecided is told.
"""

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.object import colmap, diagnosis, trajectory
from holdprep.object.child import Children
from holdprep.object.evidence import alike
from holdprep.object.features import FeatureSource, Sift
from holdprep.object.keyframes import key_frames
from holdprep.object.mapper import map_in_time
from holdprep.object.pairs import choose_pairs, neighbours
from holdprep.object.reconstruction import MAX_GAP, ObjectReconstruction
from holdprep.object.repair import rotations, settle

SIFT = Sift()
_MIN_MASK_PX = 400  # smaller objects carry no features worth the name
_NEIGHBOURS = 6  # frames in time that each is matched with, whether it is mapped or not
_FURTHER = 2  # mappings that are made at a time while the first ones disagree
_SAME_STORY = 0.98  # share of frames; what is left over the matches decide


def reconstruct(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    work_dir: Path,
    source: FeatureSource = SIFT,
    upsample: float = 2.0,
    erode_px: int = 2,
    focal_px: float | None = None,
    focal_guess_px: float | None = None,
    principal_px: tuple[float, float] | None = None,
    num_pairs: int = 40,
    exhaustive_frames: int = 150,
    min_registered_pct: float = 60.0,
    max_gap: int = MAX_GAP,
    seed: int = 0,
    min_mappings: int = 2,
    max_mappings: int = 6,
    num_threads: int = 2,
    progress: bool = False,
) -> ObjectReconstruction:
    """Object poses of T frames from images (H, W, 3) BGR uint8, object masks (H, W) bool and unique frame names in order of time.

    `source` finds and matches the features. The focal length is refined from `focal_guess_px`, else from 1.2 times the longer side, unless
    `focal_px` fixes it; the principal point is the image's centre unless `principal_px` tells it, and is never refined. `min_mappings`
    mappings are made, then further ones up to `max_mappings` until two of them agree without jumps. Every mapping runs on one thread,
    `num_threads` of them side by side; their number changes no result. `work_dir` is emptied of an earlier run's files and keeps images,
    database.db, sparse models and COLMAP's own words, colmap.log. COLMAP runs in child processes: whoever calls this from a script needs
    its `if __name__ == "__main__"`.

    Frames without a pose are interpolated across gaps of at most `max_gap` frames, held in longer ones.

    Raises HoldprepError when masks are unusable, there are no features, no matches or no two frames to begin from, COLMAP rejects the camera
    or filters all frames again, fewer than `min_registered_pct` percent of the frames register, or COLMAP dies; each for its own reason.
    """
    _check(images, masks, names)
    usable = [t for t, mask in enumerate(masks) if np.count_nonzero(_erode(mask, erode_px)) >= _MIN_MASK_PX]
    if len(usable) < 3:
        raise HoldprepError(
            f"object poses: {len(usable)} of {len(names)} frames have an object mask of {_MIN_MASK_PX} px or more, 3 are needed: "
            "check the object's masks"
        )
    h, w = images[0].shape[:2]
    K = pinhole_K(focal_px or focal_guess_px or 1.2 * max(h, w), w, h)
    K[:2, 2] = K[:2, 2] if principal_px is None else principal_px
    crop = colmap.Crop.around([masks[t] for t in usable], upsample, principal_px)
    refine_focal = focal_px is None
    _prepare(work_dir)
    with (
        tqdm(total=min_mappings + 3, desc="object poses", unit="step", disable=None if progress else True) as bar,
        Children(work_dir / "colmap.log", num_threads, bar.set_postfix_str) as children,
    ):
        colmap.write_crops(work_dir, crop, *zip(*((images[t], _erode(masks[t], erode_px), names[t]) for t in usable), strict=True))
        children.call(source.extract, work_dir, crop, K, num_threads)
        order, max_error_px = [names[t] for t in usable], 2.0 * upsample
        diagnosis.require_features(order, children.call(colmap.read_features, work_dir, crop))
        bar.update()
        near = neighbours(order, _NEIGHBOURS)
        children.call(source.match, work_dir, near, max_error_px, seed, num_threads)
        keys = key_frames(order, children.call(colmap.read_features, work_dir, crop))
        pairs = children.call(_choose_pairs, source, work_dir, keys, num_pairs, exhaustive_frames, seed)
        if further := sorted(set(pairs) - set(near)):
            children.call(source.match, work_dir, further, max_error_px, seed, num_threads)
        features = children.call(colmap.read_features, work_dir, crop)
        diagnosis.require_matches(features)
        bar.update()
        run = partial(_map_one, work_dir, crop, names, keys, seed, max_mappings, refine_focal)
        models, starts = _map_until_agreed(children, run, names, len(keys), min_mappings, max_mappings, bar)
        diagnosis.require_starts(starts, work_dir, len(keys), min_registered_pct)
        found = settle(children, work_dir, crop, K, w, names, keys, features, models, refine_focal, min_registered_pct, max_gap)
        bar.update()
        return found


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
    for path in [*(work_dir / sub for sub in ("images", "masks", "features")), *work_dir.glob("sparse_*")]:
        shutil.rmtree(path, ignore_errors=True)
    for path in work_dir.glob("database.db*"):  # SQLite's journals too
        path.unlink()


def _choose_pairs(
    source: FeatureSource, work_dir: Path, names: list[str], num_pairs: int, exhaustive_frames: int, seed: int
) -> list[tuple[str, str]]:
    """`choose_pairs` where the descriptors are: they are too many to be sent between processes."""
    return choose_pairs(names, source.descriptors(work_dir), num_pairs, exhaustive_frames, seed)


def _map_until_agreed(
    children: Children,
    run: Callable[[int], tuple[list[colmap.Model], list[diagnosis.Start]]],
    names: Sequence[str],
    num_mapped: int,
    min_mappings: int,
    max_mappings: int,
    bar: tqdm,
) -> tuple[list[colmap.Model], list[diagnosis.Start]]:
    """All models of all mappings of `num_mapped` frames, and what became of every start: the first ones, then more while no two are free of
    jumps and give the same poses."""
    models: list[colmap.Model] = []
    starts: list[diagnosis.Start] = []
    todo, wave = list(range(max_mappings)), min_mappings
    while todo:
        now, todo = todo[:wave], todo[wave:]
        for found, begun in children.map(run, now):
            models += found
            starts += begun
            bar.update()
        largest = max((len(model.poses) for model in models), default=0)
        whole = [model for model in models if len(model.poses) >= 0.9 * largest]
        steady = [model for model in whole if not trajectory.rotation_jumps(*rotations(names, model))]
        # nothing to gain from further mappings where nothing registers
        if any(alike(a, b) >= _SAME_STORY for a, b in combinations(steady, 2)) or largest < 0.3 * num_mapped:
            break
        wave = _FURTHER  # not by the number of threads, which must not decide how many there are
        bar.total += min(wave, len(todo))
    return models, starts


def _map_one(
    work_dir: Path,
    crop: colmap.Crop,
    names: Sequence[str],
    keys: Sequence[str],
    seed: int,
    num_mappings: int,
    refine_focal: bool,
    number: int,
) -> tuple[list[colmap.Model], list[diagnosis.Start]]:
    return map_in_time(work_dir, crop, names, keys, number, num_mappings, seed + number, refine_focal=refine_focal)
