"""21 keypoints in 2D and 3D of one hand through a clip, by MediaPipe's networks.

The clip is walked forward and backward at once, each frame's crop from the frame before. Where both ways agree, their mean is kept; where
not, what they found is looked at again in further crops, and the better estimate is kept. Where the hand is lost, palms are looked for, about
the hand's mask where there is one; the mask also tells which estimates to refuse. Keypoints are then smoothed from both sides in time.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import rotation_to_ray
from holdprep.hand.joints import FINGERS, to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import KeypointTrack, crops
from holdprep.hand.trackers.mediapipe_networks import Crop, Estimate, HandNetworks, mean_of
from holdprep.hand.trackers.steady import smooth

NEAR, MIN_SHARE_NEAR_MASK, MIN_JOINTS_NEAR = 0.1, 0.4, 4  # a joint is near the mask within a tenth of the hand's size
HIDDEN = 0.5  # joints on what hides the hand are off by two to three times as much (rendered sequences), at the same agreement
MIN_SIDE_SEEN, MIN_SIDE_TOLD = 0.5, 0.2  # handedness: where it alone picks the hand; where a mask or the frame before does
FOLLOWED = 0.5  # of the least presence: enough where the frames about it tell where the hand is
SURE, GONE = 0.8, 0.1  # presence below which a followed crop is looked at again, and below which it is not
ONE, SAME = 0.06, 0.15  # of the hand's size: estimates that differ by less need no further looks, or are of one pose in the picture
ONE_PLACE = 0.5  # of the hand's size: hands whose middles are nearer are one
WINDOW, MAX_SIZE_RATIO = 8, 1.6  # found frames on each side; a hand's apparent size changes slowly
SIDE_FRAMES = 10  # are looked at for a hand of the other side
BETTER = 0.7  # of its score is what the own side must reach
TIP_BEYOND = 0.2  # of the last bone (some 5 mm) from MediaPipe's fingertip to the end of the finger
NOISE_FLOOR = 0.006  # of the hand's size: noise of a keypoint that all crops agree on
# Further crops of an estimate, of a right hand: turned by degrees, size factor, mirrored. The first two go with what was found already.
VIEWS = ((-10.0, 0.95, False), (10.0, 1.05, True), (10.0, 0.95, False), (-10.0, 1.05, True))
Result = TypeVar("Result")


class View(NamedTuple):
    """A frame: its image, the hand's visible pixels where known, pixels of what may hide it where known; all (H, W, ..)."""

    image: np.ndarray
    mask: np.ndarray | None
    hiding: np.ndarray | None


def _share_near(estimate: Estimate, mask: np.ndarray, hiding: np.ndarray | None) -> float:
    """Of the joints that can be seen, the share that lies on the mask or within a tenth of the hand's size of it; 0 where these are too few."""
    size, reach = np.array(mask.shape[::-1]), NEAR * estimate.size_px
    joints = np.round(estimate.j2d_px).astype(int)
    x, y = joints[((joints >= 0) & (joints < size)).all(axis=1)].T
    if len(x) < MIN_JOINTS_NEAR:
        return 0.0
    x1, y1 = max(0, x.min() - int(reach) - 1), max(0, y.min() - int(reach) - 1)  # what lies farther is near no joint
    part = mask[y1 : y.max() + int(reach) + 2, x1 : x.max() + int(reach) + 2]
    near = part.any() & (cv2.distanceTransform((part == 0).astype(np.uint8), cv2.DIST_L2, 3)[y - y1, x - x1] <= reach)
    visible = near | (True if hiding is None else ~hiding[y, x])
    return float(near.sum() / visible.sum()) if near.sum() >= MIN_JOINTS_NEAR else 0.0


def _hidden(j2d_px: np.ndarray, hiding: np.ndarray | None) -> np.ndarray:
    """(21,) bool: joints that lie on what hides the hand."""
    if hiding is None:
        return np.zeros(len(j2d_px), bool)
    x, y = np.clip(np.round(j2d_px), 0, np.array(hiding.shape[::-1]) - 1).astype(int).T
    return np.asarray(hiding[y, x])


def _square_about(mask: np.ndarray, factor: float) -> Crop:
    """A square, `factor` times the longer side of the mask's box, about the box's centre."""
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Crop(np.array([x[0] + x[-1], y[0] + y[-1]]) / 2, factor * float(max(np.ptp(x), np.ptp(y)) + 1), 0.0)


def _regions(shape: tuple[int, ...], mask: np.ndarray | None) -> list[Crop]:
    """Squares in which palms are looked for, about the mask if there is one; a palm that fills or leaves the picture needs room, a
    small one the two ends of a long picture."""
    if mask is not None:
        whole = _square_about(mask, 1.3)
        return [whole.turned(angle, factor) for factor, angle in itertools.product((1.0, 1.5), (0, -45, 45, -90, 90, 180))]
    height, width = shape[:2]
    long, short = max(height, width), min(height, width)
    whole = Crop(np.array([width - 1, height - 1]) / 2, float(long), 0.0)
    to_end = np.array([width - short, height - short]) / 2
    return [whole, *(whole.turned(angle, 1.3) for angle in (0, -45, 45)), *(Crop(whole.center + s * to_end, short, 0.0) for s in (-1, 1))]


class Found(NamedTuple):
    """An estimate and what it is compared by with others of its frame; 0 refuses it."""

    estimate: Estimate
    score: float


@dataclass(frozen=True)
class _Finder:
    """Finds the hand of one side in single frames."""

    nets: HandNetworks
    side: Side
    min_presence: float

    def follow(self, view: View, crop: Crop, mirrored: bool) -> Found | None:
        """The estimate in a crop that the frame before gives; None where it is refused."""
        found = self._look(view, crop, mirrored)
        if found.estimate.presence >= SURE and found.score:
            return found
        if found.estimate.presence < GONE:
            return None
        return _best([found, self._look(view, found.estimate.next_crop(), mirrored)])

    def search(self, view: View, first: int = 0, at_most: int | None = None) -> Found | None:
        """The best hand from scratch, in the first place that holds any: palms, then crops straight from the mask.

        Places are looked at in turn, over and over, from the `first` on; `at_most` so many, else each once.
        """
        regions = _regions(view.image.shape, view.mask)
        places: list[tuple[str, Crop]] = [*(("inside", r) for r in regions), *(("beyond", r) for r in regions)]
        if view.mask is not None:
            places += [("straight", _square_about(view.mask, 1.3).turned(angle)) for angle in range(0, 360, 45)]
        for kind, region in itertools.islice(itertools.cycle(places), first, first + (at_most or len(places))):
            straight = kind == "straight"
            found = [region] if straight else [p.hand_crop() for p in self.nets.palms(view.image, region, repeat_edge=kind == "beyond")]
            if best := _best(self._centred(view, crop) for crop in found):
                return best
        return None

    def settle(self, view: View, crop: Crop, looks: Sequence[Estimate] = ()) -> Found | None:
        """The mean over several crops, less where there are `looks` already; None where they hold no hand or it does not stand up to them."""
        seen = list(looks)
        for turn, size, mirrored in VIEWS[: 2 if looks else None]:
            seen.append(self._seen(view, crop.turned(-turn if self.side == "left" else turn, size), mirrored))
            if seen[0].presence < GONE:
                return None
        return _best([self.judged(mean_of(seen), view)])

    def _centred(self, view: View, crop: Crop) -> Found:
        """A crop that was not made from landmarks is centred by its own first; alone, it must tell the side."""
        first = self._seen(view, crop, False)
        if first.presence < GONE:
            return Found(first, 0.0)
        estimate = mean_of([self._seen(view, first.next_crop(), mirrored) for mirrored in (False, True)])
        return self.judged(estimate, view, MIN_SIDE_SEEN if view.mask is None else MIN_SIDE_TOLD, 1.0)

    def _look(self, view: View, crop: Crop, mirrored: bool) -> Found:
        return self.judged(self._seen(view, crop, mirrored), view)

    def _seen(self, view: View, crop: Crop, mirrored: bool) -> Estimate:
        """Left hands are seen in the mirror where right ones are not, so that a mirrored clip gives the mirrored hand."""
        return self.nets.look(view.image, crop, mirrored != (self.side == "left"))

    def judged(self, estimate: Estimate, view: View, min_side: float = MIN_SIDE_TOLD, share: float = FOLLOWED) -> Found:
        """An estimate with its score, by the measure for one whose place the frame before gave, unless told otherwise."""
        of_side = estimate.handedness if self.side == "right" else 1 - estimate.handedness
        near = 1.0 if view.mask is None else _share_near(estimate, view.mask, view.hiding)
        if estimate.presence < share * self.min_presence or of_side < min_side or near < MIN_SHARE_NEAR_MASK:
            return Found(estimate, 0.0)
        return Found(estimate, estimate.presence * float(estimate.agreement.mean()) * near * (0.5 + 0.5 * of_side))


def _best(found: Iterable[Found | None]) -> Found | None:
    """The one with the highest score; None where all are refused."""
    accepted = [f for f in found if f is not None and f.score > 0]
    return max(accepted, key=lambda f: f.score, default=None)


def track_hand(
    images: Sequence[np.ndarray],
    side: Side,
    masks: Sequence[np.ndarray | None] | None = None,
    hiding: Sequence[np.ndarray | None] | None = None,
    *,
    K: np.ndarray | None = None,
    min_presence: float = 0.5,
    steady: bool = True,
    threads: int = 2,
    progress: bool = False,
) -> KeypointTrack:
    """One hand through a clip of T BGR images (each is read three times).

    `masks` are (H, W) bool of that hand's visible pixels: one of less than some pixels says that the hand is not in the frame, None that
    nothing is known; `hiding` are pixels of what may be before it. Without masks the network's own handedness picks the hand.
    Frames whose hand presence stays under `min_presence`, or under half of it where the frames about them tell where the hand is, are NaN.
    `steady` smooths through time.
    3D has an average adult's size. The network sees a crop, as if the hand were on the optical axis: with the camera's `K` (3, 3) 3D is
    turned into the camera's axes, without it stays as seen. `threads` networks work at once; their number changes nothing.
    Raises HoldprepError where masks and images do not match, or masks show a hand of the other side.
    """
    if side not in SIDES:
        raise HoldprepError(f"hand side {side!r} is not one of {', '.join(SIDES)}")
    for given in (masks, hiding):
        if given is not None and len(given) != len(images):
            raise HoldprepError(f"{side} hand: {len(given)} masks for {len(images)} images; masks and images must be one to one")
    pool = _Pool([_Finder(HandNetworks(), side, min_presence) for _ in range(threads)])
    nothing: list[np.ndarray | None] = [None] * len(images)
    frames = _Frames(images, nothing if masks is None else masks, nothing if hiding is None else hiding)
    with _Bar(total=3 * len(images), desc=f"{side} hand", unit="look", disable=None if progress else True) as bar:
        ways = pool.map(lambda finder, step: _walk(finder, frames, step, bar), (1, -1))
        pairs = list(enumerate(zip(*ways, strict=True)))
        found = pool.map(lambda finder, pair: bar.looked(pair[0], _settle(finder, frames, *pair)), pairs)
        found = pool.map(lambda finder, given: _mend(finder, frames, given), [found])[0]
        if masks is not None:
            pool.map(lambda finder, given: _refuse_other_side(finder, frames, given), [found])
    estimates = _plausible([f.estimate if f else None for f in found], side if masks is None else None)
    return _track(_steady(estimates) if steady else estimates, frames, K)


class _Bar(tqdm):
    """Also tells in how many frames no hand was found when they were last looked at."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._without: set[int] = set()
        super().__init__(*args, **kwargs)

    def looked(self, t: int, found: Result) -> Result:
        (self._without.add if found is None else self._without.discard)(t)
        self.set_postfix_str(f"{len(self._without)} frames without a hand", refresh=False)
        self.update()
        return found


class _Pool:
    """Workers with a finder each; results come in the order of the tasks."""

    def __init__(self, finders: Sequence[_Finder]) -> None:
        self._threads = len(finders)
        self._free: SimpleQueue[_Finder] = SimpleQueue()
        for finder in finders:
            self._free.put(finder)

    def map(self, work: Callable[..., Result], tasks: Iterable[object]) -> list[Result]:
        def one(task: object) -> Result:
            finder = self._free.get()
            try:
                return work(finder, task)
            finally:
                self._free.put(finder)

        with ThreadPoolExecutor(self._threads) as workers:
            return list(workers.map(one, tasks))


class _Bits(NamedTuple):
    """A mask, a bit a pixel."""

    packed: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> "_Bits":
        return cls(np.packbits(mask), mask.shape)

    def mask(self) -> np.ndarray:
        """(H, W) bool."""
        return np.unpackbits(self.packed, count=self.shape[0] * self.shape[1]).reshape(self.shape).view(bool)


@dataclass(frozen=True)
class _Frames:
    """Images and masks, read when asked for; masks are kept, a bit a pixel, since reading them takes longer than looking at them."""

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray | None]
    hiding: Sequence[np.ndarray | None]
    _kept: dict[int, tuple[_Bits | None, _Bits | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, t: int) -> View | None:
        """None where the mask says that there is no hand. Raises HoldprepError where image and masks do not fit."""
        mask, hiding = self.shown_masks(t)
        return View(self.images[t], mask, hiding) if mask is None or mask.any() else None

    def shown_masks(self, t: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(H, W) of a frame: the hand's, empty where it holds no hand, and what may hide it."""
        if t not in self._kept:
            self._kept[t] = self._read(t)
        mask, hiding = (None if bits is None else bits.mask() for bits in self._kept[t])
        return mask, hiding

    def _read(self, t: int) -> tuple[_Bits | None, _Bits | None]:
        image, mask, hiding = self.images[t], self.masks[t], self.hiding[t]
        if image.ndim != 3 or image.shape[2] != 3:
            raise HoldprepError(f"image {t} has shape {image.shape}; (height, width, 3) is needed")
        for given in (mask, hiding):
            if given is not None and given.shape != image.shape[:2]:
                raise HoldprepError(f"mask {t} has shape {given.shape}, its image {image.shape[:2]}; make the mask as large as the image")
        if mask is not None and not crops.holds_hand(mask):
            mask = np.zeros_like(mask)
        return None if mask is None else _Bits.of(mask), None if hiding is None else _Bits.of(hiding)


def _walk(finder: _Finder, frames: _Frames, step: int, bar: _Bar) -> list[Found | None]:
    """What is found in each frame, in the order of the frames, when they are looked at forward or backward (`step` 1 or -1)."""
    found: list[Found | None] = [None] * len(frames)
    last, lost = None, 0
    for t in range(len(found))[::step]:
        view = frames[t]
        if view is not None:
            followed = finder.follow(view, last.estimate.next_crop(), mirrored=step < 0) if last else None
            found[t] = followed or finder.search(view, lost, 1 if last or lost else None)
            last, lost = found[t] or last, 0 if found[t] else lost + 1
        bar.looked(t, found[t])
    return found


def _settle(finder: _Finder, frames: _Frames, t: int, ways: Sequence[Found | None]) -> Found | None:
    """What both ways found where they agree, from more crops where they do so roughly, and the better of them where they do not; None where
    it does not stand up to more crops."""
    estimates = [f.estimate for f in ways if f is not None]
    view = frames[t] if estimates else None
    if view is None:
        return None
    size_px = estimates[0].size_px
    apart = np.abs(estimates[0].j2d_px - estimates[-1].j2d_px).max() / size_px  # 0 where only one is there
    deep = np.abs(estimates[0].depth_px - estimates[-1].depth_px).max() / size_px
    if apart and max(apart, deep) < ONE:
        return _best([finder.judged(mean_of(estimates), view)])
    if 0 < apart < SAME:
        return finder.settle(view, mean_of(estimates).next_crop(), estimates)
    return _best(finder.settle(view, e.next_crop(), [e]) for e in (estimates if apart else estimates[:1]))


def _mend(finder: _Finder, frames: _Frames, found: Sequence[Found | None]) -> list[Found | None]:
    """Frames in which the hand is lost or hardly there, looked at once more in the crops that the settled frames beside them give."""
    mended = list(found)
    for step in (1, -1):
        for t in range(len(found))[::step]:
            beside, own = mended[t - step] if 0 <= t - step < len(found) else None, found[t]
            if beside is not None and (own is None or own.estimate.presence < SURE):
                view = frames[t]
                if view is not None:
                    mended[t] = _best([mended[t], finder.settle(view, beside.estimate.next_crop())])
    return mended


def distinct(tracks: Mapping[Side, KeypointTrack]) -> dict[Side, KeypointTrack]:
    """Without the hand that is mostly found where the other one is: where nothing tells sides, one hand can be taken for both."""
    if len(tracks) < 2:
        return dict(tracks)
    weak, strong = sorted(tracks, key=lambda s: tracks[s].confidence.sum())
    size = np.linalg.norm(np.ptp(tracks[strong].j2d_px, axis=1), axis=-1)
    apart = np.linalg.norm(tracks[weak].j2d_px.mean(axis=1) - tracks[strong].j2d_px.mean(axis=1), axis=-1)
    one = np.sum(apart < ONE_PLACE * size) > 0.5 * tracks[weak].found.sum()
    return {strong: tracks[strong]} if one else dict(tracks)


def _refuse_other_side(finder: _Finder, frames: _Frames, found: Sequence[Found | None]) -> None:
    """Raises HoldprepError where masks show a hand of the other side much better than the one that was found."""
    other: Side = "left" if finder.side == "right" else "right"
    looked_at = range(0, len(frames), -(-len(frames) // SIDE_FRAMES))
    there = [(view, own.score if own else 0.0) for view, own in ((frames[t], found[t]) for t in looked_at) if view is not None]
    unsure = [(view, own) for view, own in there if own < BETTER]  # no score is above 1
    if len(unsure) <= 0.5 * len(there):
        return
    rivals = [(replace(finder, side=other).search(view), own) for view, own in unsure]
    seen = sum(rival is not None and BETTER * rival.score > own for rival, own in rivals)
    if seen > 0.5 * len(there):
        raise HoldprepError(
            f"the {finder.side} hand's masks show a {other} hand in {seen} of {len(there)} frames looked at: call it {other} (segment again, "
            f"or rename its masks), and set hands.which={other} if it is the only one"
        )


def _plausible(estimates: list[Estimate | None], side: Side | None) -> list[Estimate | None]:
    """Without those that differ from the found frames about them in what hardly changes: apparent size, which a thumb or wrist taken for a
    hand has not; and, where `side` must be told from the hand itself, without frames about which it is more often the other."""
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


def _track(estimates: Sequence[Estimate | None], frames: _Frames, K: np.ndarray | None) -> KeypointTrack:
    """Estimates in OpenPose order as arrays in MANO-21 order."""
    T = len(estimates)
    j2d, j3d, confidence, boxes = np.full((T, 21, 2), np.nan), np.full((T, 21, 3), np.nan), np.zeros((T, 21, 1)), np.full((T, 4), np.nan)
    for t, e in enumerate(estimates):
        if e is not None:
            trust = e.presence * e.agreement * np.where(_hidden(e.j2d_px, frames.shown_masks(t)[1]), HIDDEN, 1.0)
            center = (e.j2d_px.min(axis=0) + e.j2d_px.max(axis=0)) / 2
            half = 0.75 * float(np.ptp(e.j2d_px, axis=0).max())
            j2d[t], confidence[t, :, 0], boxes[t] = e.j2d_px, trust, (*(center - half), *(center + half))
            j3d[t] = e.xyz_m if K is None else e.xyz_m @ rotation_to_ray(center, K).T
    return KeypointTrack(_with_mano_tips(to_mano21(j2d)), _with_mano_tips(to_mano21(j3d)), to_mano21(confidence)[..., 0], boxes)


def _with_mano_tips(joints: np.ndarray) -> np.ndarray:
    """Joints (T, 21, C) in MANO-21 order whose fingertips are MANO's, on the skin's end, and not MediaPipe's, in the middle of the pulp."""
    out = joints.copy()
    for finger in FINGERS:
        out[:, finger[3]] += TIP_BEYOND * (joints[:, finger[3]] - joints[:, finger[2]])
    return out


def _steady(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """Smoothed through time, each joint the more the less its crops agree and the less the hand is present.

    How far a joint had to be moved counts as spread from then on.
    """
    points, sigma = np.full((len(estimates), 21, 3), np.nan), np.ones((len(estimates), 21))
    for t, e in enumerate(estimates):
        if e is not None:
            points[t] = np.concatenate([e.j2d_px, e.depth_px[:, None]], axis=1)
            sigma[t] = np.hypot(e.spread_px, NOISE_FLOOR * e.size_px) / e.presence
    smoothed = smooth(points, sigma)
    moved_px = np.linalg.norm(smoothed[..., :2] - points[..., :2], axis=-1)
    return [
        None if e is None else replace(e, j2d_px=s[:, :2], depth_px=s[:, 2] - s[0, 2], spread_px=np.hypot(e.spread_px, moved))
        for e, s, moved in zip(estimates, smoothed, moved_px, strict=True)
    ]
