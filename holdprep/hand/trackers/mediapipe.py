"""21 keypoints in 2D and 3D of one hand in a clip, by MediaPipe's networks.

The clip is tracked forward and backward in parallel, each frame's crop from the previous frame. Where both directions agree, their mean is
used; where not, both estimates are repeated on further crops, and the better one is used. Where the hand is lost, palms are detected,
around the hand's mask if there is one; the mask also determines which estimates are rejected. Keypoints are then smoothed in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import rotation_to_ray
from holdprep.hand.joints import FINGERS, to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers.mediapipe_finder import MIN_SIDE_SEEN, SURE, Candidate, Finder, best
from holdprep.hand.trackers.mediapipe_frames import Frames, ProgressBar, WorkerPool
from holdprep.hand.trackers.mediapipe_networks import Estimate, HandNetworks, mean_of
from holdprep.hand.trackers.steady import smooth
from holdprep.hand.trackers.tracks import KeypointTrack

# median errors of a keypoint, of the hand's size, on rendered hands that the model cannot represent: of a visible joint at a confidence of
# 1, what is added to it at a confidence of 0, and of a joint on an occluder or outside of the hand's mask; confidences are relative to BEST
SEEN_ERROR, UNSURE_ERROR, HIDDEN_ERROR, BEST = 0.02, 0.25, 0.2, 0.03
# of a coordinate of the 3D joints: errors of observed joints are 10 to 15 mm on such hands, and mostly shared by the joints of a finger, so
# that 21 joints count as five
JOINTS_SIGMA_M = 0.03
OUTSIDE = 0.02  # of the hand's size beyond its mask, where no joint of the hand is visible
SAME, SIMILAR = 0.06, 0.15  # of the hand's size: estimates that differ by less are averaged, or repeated together on further crops
SAME_HAND = 0.5  # of the hand's size: hands whose centroids are closer are the same hand
WINDOW, MAX_SIZE_RATIO = 8, 1.6  # found frames on each side; a hand's apparent size changes slowly
SIDE_FRAMES = 10  # in which the other side's hand is searched for
BETTER = 0.7  # minimal score of the own side, by that of the other
TIP_BEYOND = 0.2  # of the last bone (some 5 mm) from MediaPipe's fingertip to the end of the finger
NOISE_FLOOR = 0.006  # of the hand's size: noise of a keypoint on which all crops agree


@dataclass(frozen=True)
class Settings:
    """Settings of the tracking of a clip.

    Frames with a hand presence below `min_presence`, or below half of it where neighbouring frames give the hand's position, count as
    without the hand, and so do frames whose joints have a mean confidence (presence times agreement of the crops) below `min_confidence`.
    `smooth`: smoothing in time. `threads`: number of networks that run in parallel, without effect on the result.
    """

    min_presence: float = 0.5
    min_confidence: float = 0.0
    smooth: bool = True
    threads: int = 2
    progress: bool = False


DEFAULTS = Settings()


def track_hand(
    images: Sequence[np.ndarray],
    side: Side,
    masks: Sequence[np.ndarray | None] | None = None,
    hiding: Sequence[np.ndarray | None] | None = None,
    *,
    K: np.ndarray | None = None,
    settings: Settings = DEFAULTS,
) -> KeypointTrack:
    """Track one hand in a clip of T BGR images (each is read three times).

    `masks` (H, W) bool are that hand's visible pixels: a mask of a few pixels means that the hand is not in the frame, None that it is
    unknown; `hiding` are masks of possible occluders. Without masks the network's handedness selects the hand. Frames without the hand are
    NaN. 3D has an average adult's size. The network processes a crop as if the hand were on the optical axis: with the camera's `K` (3, 3)
    3D is rotated into the camera's axes, without it 3D is unchanged.
    Raises HoldprepError where masks and images do not match, or masks show a hand of the other side.
    """
    if side not in SIDES:
        raise HoldprepError(f"hand side {side!r} is not one of {', '.join(SIDES)}")
    for stack in (masks, hiding):
        if stack is not None and len(stack) != len(images):
            raise HoldprepError(f"{side} hand: {len(stack)} masks for {len(images)} images; one mask per image is needed")
    pool = WorkerPool([Finder(HandNetworks(), side, settings.min_presence) for _ in range(settings.threads)])
    nothing: list[np.ndarray | None] = [None] * len(images)
    frames = Frames(images, nothing if masks is None else masks, nothing if hiding is None else hiding)
    with ProgressBar(total=3 * len(images), desc=f"{side} hand", unit="frame", disable=None if settings.progress else True) as bar:
        ways = pool.map(lambda finder, step: _track_one_way(finder, frames, step, bar), (1, -1))
        pairs = list(enumerate(zip(*ways, strict=True)))
        found = pool.map(lambda finder, pair: bar.update_frame(pair[0], _reconcile(finder, frames, *pair)), pairs)
        found = pool.map(lambda finder, candidates: fill_from_neighbours(finder, frames, candidates), [found])[0]
        if masks is not None:
            pool.map(lambda finder, candidates: _check_side(finder, frames, candidates), [found])
    estimates = drop_implausible([f.estimate if f else None for f in found], side if masks is None else None)
    estimates = [e if e is None or e.confidence.mean() >= settings.min_confidence else None for e in estimates]
    return _to_keypoint_track(_smoothed(estimates) if settings.smooth else estimates, frames, K)


def _track_one_way(finder: Finder, frames: Frames, step: int, bar: ProgressBar) -> list[Candidate | None]:
    """Candidates in the order of the frames, tracked forward or backward (`step` 1 or -1)."""
    found: list[Candidate | None] = [None] * len(frames)
    last, lost = None, 0
    for t in range(len(found))[::step]:
        view = frames[t]
        if view is not None:
            followed = finder.follow(view, last.estimate.next_crop(), mirrored=step < 0) if last else None
            found[t] = followed or finder.search(view, lost, 1 if last or lost else None)
            last, lost = found[t] or last, 0 if found[t] else lost + 1
        bar.update_frame(t, found[t])
    return found


def _reconcile(finder: Finder, frames: Frames, t: int, ways: Sequence[Candidate | None]) -> Candidate | None:
    """One candidate from both directions; None where further crops reject it.

    The mean where they agree, the mean with further crops where they are similar, else the better one.
    """
    estimates = [f.estimate for f in ways if f is not None]
    view = frames[t] if estimates else None
    if view is None:
        return None
    size_px = estimates[0].size_px
    apart = np.abs(estimates[0].j2d_px - estimates[-1].j2d_px).max() / size_px  # 0 with only one candidate
    deep = np.abs(estimates[0].depth_px - estimates[-1].depth_px).max() / size_px
    if apart and max(apart, deep) < SAME:
        return best([finder.scored(mean_of(estimates), view)])
    if 0 < apart < SIMILAR:
        return finder.average_crops(view, mean_of(estimates).next_crop(), estimates)
    return best(finder.average_crops(view, e.next_crop(), [e]) for e in (estimates if apart else estimates[:1]))


def fill_from_neighbours(finder: Finder, frames: Frames, found: Sequence[Candidate | None]) -> list[Candidate | None]:
    """Candidates with a further attempt in frames with low presence or none, in the crops that neighbouring frames give."""
    filled = list(found)
    for step in (1, -1):
        for t in range(len(found))[::step]:
            beside, own = filled[t - step] if 0 <= t - step < len(found) else None, found[t]
            if beside is not None and (own is None or own.estimate.presence < SURE):
                view = frames[t]
                if view is not None:
                    filled[t] = best([filled[t], finder.average_crops(view, beside.estimate.next_crop())])
    return filled


def distinct(tracks: Mapping[Side, KeypointTrack]) -> dict[Side, KeypointTrack]:
    """The tracks without a hand that is mostly at the other one's position: without masks both tracks may be of the same hand."""
    if len(tracks) < 2:
        return dict(tracks)
    weak, strong = sorted(tracks, key=lambda s: tracks[s].confidence.sum())
    size = np.linalg.norm(np.ptp(tracks[strong].j2d_px, axis=1), axis=-1)
    apart = np.linalg.norm(tracks[weak].j2d_px.mean(axis=1) - tracks[strong].j2d_px.mean(axis=1), axis=-1)
    is_same = np.sum(apart < SAME_HAND * size) > 0.5 * tracks[weak].found.sum()
    return {strong: tracks[strong]} if is_same else dict(tracks)


def _check_side(finder: Finder, frames: Frames, found: Sequence[Candidate | None]) -> None:
    """Raise HoldprepError where the other side's hand fits the masks much better than the one that was found."""
    other: Side = "left" if finder.side == "right" else "right"
    samples = range(0, len(frames), -(-len(frames) // SIDE_FRAMES))
    there = [(view, own.score if own else 0.0) for view, own in ((frames[t], found[t]) for t in samples) if view is not None]
    unsure = [(view, own) for view, own in there if own < BETTER]  # no score is above 1
    if len(unsure) <= 0.5 * len(there):
        return
    rivals = [(replace(finder, side=other).search(view), own) for view, own in unsure]
    seen = sum(rival is not None and BETTER * rival.score > own for rival, own in rivals)
    if seen > 0.5 * len(there):
        raise HoldprepError(
            f"the {finder.side} hand's masks show a {other} hand in {seen} of {len(there)} tested frames: call it {other} (segment again, "
            f"or rename its masks), and set hands.which={other} if it is the only one"
        )


def drop_implausible(estimates: list[Estimate | None], side: Side | None) -> list[Estimate | None]:
    """The estimates without those whose apparent size differs much from neighbouring frames, such as a thumb or wrist taken for a hand.

    With a `side`, also without frames around which the estimated side is mostly the other one.
    """
    found = [t for t, e in enumerate(estimates) if e is not None]
    size = np.array([e.skeleton_px for e in estimates if e is not None])
    right = np.array([e.handedness for e in estimates if e is not None])
    of_side = np.ones(len(found)) if side is None else right if side == "right" else 1 - right
    kept = list(estimates)
    for i, t in enumerate(found):
        about = slice(max(0, i - WINDOW), i + WINDOW + 1)
        ratio = size[i] / np.median(size[about])
        if not 1 / MAX_SIZE_RATIO < ratio < MAX_SIZE_RATIO or np.median(of_side[about]) < MIN_SIDE_SEEN:
            kept[t] = None
    return kept


def _to_keypoint_track(estimates: Sequence[Estimate | None], frames: Frames, K: np.ndarray | None) -> KeypointTrack:
    """Estimates in OpenPose order as arrays in MANO-21 order."""
    T = len(estimates)
    j2d, j3d, confidence, boxes = np.full((T, 21, 2), np.nan), np.full((T, 21, 3), np.nan), np.zeros((T, 21, 1)), np.full((T, 4), np.nan)
    for t, e in enumerate(estimates):
        if e is not None:
            center = (e.j2d_px.min(axis=0) + e.j2d_px.max(axis=0)) / 2
            half = 0.75 * float(np.ptp(e.j2d_px, axis=0).max())
            j2d[t], confidence[t, :, 0], boxes[t] = e.j2d_px, precision(e, *frames.shown_masks(t)), (*(center - half), *(center + half))
            j3d[t] = e.xyz_m if K is None else e.xyz_m @ rotation_to_ray(center, K).T
    joints = _with_mano_tips(to_mano21(j2d)), _with_mano_tips(to_mano21(j3d))
    return KeypointTrack(*joints, to_mano21(confidence)[..., 0], boxes, JOINTS_SIGMA_M)


def precision(estimate: Estimate, mask: np.ndarray | None, hiding: np.ndarray | None) -> np.ndarray:
    """(21,) inverse variances of the keypoints relative to the best ones, in 0..1, by confidence and visibility.

    The network invents hidden joints at plausible positions, with a high confidence. A joint is hidden where its keypoint is on an occluder
    (`hiding`, (H, W) bool or None) or outside of the hand's visible pixels (`mask`).
    """
    error = SEEN_ERROR + UNSURE_ERROR * (1 - estimate.confidence)
    hidden = _inside(estimate.j2d_px, hiding)
    if mask is not None and mask.any():
        beyond_px = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
        hidden |= _inside(estimate.j2d_px, beyond_px > OUTSIDE * estimate.size_px)
    return np.minimum((BEST / np.where(hidden, HIDDEN_ERROR, error)) ** 2, 1.0)


def _with_mano_tips(joints: np.ndarray) -> np.ndarray:
    """Joints (T, 21, C) in MANO-21 order with MANO's fingertips, at the end of the finger; MediaPipe's are inside the fingertip."""
    out = joints.copy()
    for finger in FINGERS:
        out[:, finger[3]] += TIP_BEYOND * (joints[:, finger[3]] - joints[:, finger[2]])
    return out


def _smoothed(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """Estimates smoothed in time, more where the crops agree less and the presence is lower.

    The displacement of a joint by the smoothing is added to its standard deviation.
    """
    points, sigma = np.full((len(estimates), 21, 3), np.nan), np.ones((len(estimates), 21))
    for t, e in enumerate(estimates):
        if e is not None:
            points[t] = np.concatenate([e.j2d_px, e.depth_px[:, None]], axis=1)
            sigma[t] = np.hypot(e.std_px, NOISE_FLOOR * e.size_px) / e.presence
    smoothed = smooth(points, sigma)
    moved_px = np.linalg.norm(smoothed[..., :2] - points[..., :2], axis=-1)
    return [
        None if e is None else replace(e, j2d_px=s[:, :2], depth_px=s[:, 2] - s[0, 2], std_px=np.hypot(e.std_px, moved))
        for e, s, moved in zip(estimates, smoothed, moved_px, strict=True)
    ]


def _inside(j2d_px: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """(21,) bool: joints on a mask (H, W), of the nearest pixel where they are outside of the picture; none without a mask."""
    if mask is None:
        return np.zeros(len(j2d_px), bool)
    x, y = np.clip(np.round(j2d_px), 0, np.array(mask.shape[::-1]) - 1).astype(int).T
    return np.asarray(mask[y, x])
