"""MediaPipe's palm and hand-landmark networks, run by LiteRT: 21 keypoints in 2D and 3D of one hand through a clip.

The graph around the networks follows MediaPipe's hand tracking (Zhang et al., "MediaPipe Hands", 2020, and the graph files of version
0.10.21): palms from anchors, weighted non-maximum suppression, a turned square crop, landmarks, and the next frame's crop from this
frame's landmarks. Beyond it, every estimate is a mean over mirrored and turned crops, whose spread tells how far it can be trusted;
the clip is walked forward and backward and the better estimate of a frame is kept; a hand mask, where there is one, says where to
look and which estimates to refuse.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.hand.joints import to_mano21
from holdprep.hand.model import SIDES, Side
from holdprep.hand.trackers import KeypointTrack

ASSETS = Path(__file__).parent / "assets"
PALM_INPUT_PX, LANDMARK_INPUT_PX = 192, 224
PALM_MIN_SCORE, PALM_MIN_IOU = 0.5, 0.3
WRIST, INDEX, MIDDLE, RING = 0, 5, 9, 13  # OpenPose order; the last three are knuckles
PARENT = [0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19]
SKELETON_M = 0.80  # sum of the 20 bones from wrist joint to fingertips in an average adult hand, as the stand-in hand has it
DEPTH_GAIN = 1.25  # the networks flatten hands: with this, bones keep their lengths best over real clips
STABLE = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # joints whose extent makes the next crop: no fingertips
LOST_PRESENCE = 0.1  # a crop below this is not centred again
MIN_SHARE_NEAR_MASK = 0.4
MIN_SIDE_SEEN, MIN_SIDE_TOLD = 0.5, 0.2  # handedness: where it alone picks the hand, where a mask does; below, fingers are mixed up
SIZE_WINDOW, MAX_SIZE_RATIO = 15, 1.6  # found frames on each side; a hand's apparent size changes slowly
# Crops of one estimate: (turned by degrees, size factor), each also mirrored.
QUICK_VIEWS = ((0.0, 1.0),)
FINAL_VIEWS = ((0.0, 0.95), (-12.0, 1.05), (12.0, 1.05))


@dataclass(frozen=True)
class Crop:
    """A square of the image: centre (2,) and side in pixels, `angle` in radians from the image's axes to its own."""

    center: np.ndarray
    side: float
    angle: float

    @property
    def rotation(self) -> np.ndarray:
        """(2, 2): crop directions to image directions."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.array([[cos, -sin], [sin, cos]])

    def turned(self, degrees: float, factor: float = 1.0) -> "Crop":
        """The same square turned about its centre and resized."""
        return Crop(self.center, self.side * factor, self.angle + np.radians(degrees))

    def to_image(self, unit: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 2) given in 0..1 across the crop."""
        return self.center + (unit - 0.5) * self.side @ self.rotation.T

    def cut(self, image: np.ndarray, size: int, border: int) -> np.ndarray:
        """(size, size, 3) float32 RGB in 0..1, averaged where the crop is reduced; outside the image as cv2's `border` says."""
        fine = size * max(1, round(self.side / size))
        corners_px = np.array([[0, 0], [fine, 0], [0, fine]], np.float32)
        source = self.to_image((corners_px + 0.5) / fine).astype(np.float32)
        patch = cv2.warpAffine(image, cv2.getAffineTransform(source, corners_px), (fine, fine), borderMode=border)
        patch = patch if fine == size else cv2.resize(patch, (size, size), interpolation=cv2.INTER_AREA)
        return patch[..., ::-1].astype(np.float32) / 255


@dataclass(frozen=True)
class Palm:
    """A detected palm: score 0..1, box centre (2,), longer side in pixels, seven keypoints (7, 2) in pixels (0 wrist, 2 middle knuckle)."""

    score: float
    center: np.ndarray
    side: float
    keypoints: np.ndarray

    def hand_crop(self) -> Crop:
        """The square that holds the hand: 2.6 palms wide, half a palm towards the fingers, fingers up."""
        crop = Crop(self.center, 2.6 * self.side, _upright_angle(self.keypoints[0], self.keypoints[2]))
        return Crop(self.center + crop.rotation @ (0.0, -0.5 * self.side), crop.side, crop.angle)


@dataclass(frozen=True)
class Estimate:
    """A hand in one frame, OpenPose order: `j2d_px` (21, 2) and `depth_px` (21,) behind the wrist in pixels, means over its crops.

    `presence` 0..1, `handedness` near 1 for a right hand, `agreement` (21,) in 0..1: 1 where all crops say the same.
    """

    j2d_px: np.ndarray
    depth_px: np.ndarray
    presence: float
    handedness: float
    agreement: np.ndarray

    @property
    def xyz_px(self) -> np.ndarray:
        """(21, 3) relative to the wrist, as seen along the hand's ray."""
        return np.concatenate([self.j2d_px - self.j2d_px[WRIST], self.depth_px[:, None]], axis=1)

    @property
    def skeleton_px(self) -> float:
        """Sum of the bones' lengths."""
        return float(np.linalg.norm(self.xyz_px - self.xyz_px[PARENT], axis=1).sum())

    @property
    def xyz_m(self) -> np.ndarray:
        """`xyz_px` at an average adult's size, in metres: a picture tells no size."""
        return self.xyz_px * (SKELETON_M / self.skeleton_px)

    def next_crop(self) -> Crop:
        """MediaPipe's crop for the following frame: twice the box of the stable joints, a tenth of it towards the fingers."""
        p = self.j2d_px
        knuckles = (p[INDEX] + p[RING]) / 4 + p[MIDDLE] / 2
        turn = Crop(p[WRIST], 1.0, _upright_angle(p[WRIST], knuckles)).rotation
        box = p[STABLE] @ turn  # in the hand's own axes
        low, high = box.min(axis=0), box.max(axis=0)
        side = float((high - low).max())
        center = turn @ ((low + high) / 2 + (0.0, -0.1 * (high - low)[1]))
        return Crop(center, 2.0 * side, float(np.arctan2(turn[1, 0], turn[0, 0])))


def _upright_angle(wrist: np.ndarray, fingers: np.ndarray) -> float:
    """Angle by which a crop is turned so that wrist to fingers points up in it."""
    dx, dy = fingers - wrist
    return float(np.arctan2(dx, -dy))


class Network:
    """One .tflite file: (H, W, 3) in, a dict of output arrays out."""

    def __init__(self, path: Path, threads: int) -> None:
        self._net = Interpreter(str(path), num_threads=threads)
        self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = {d["name"]: d["index"] for d in self._net.get_output_details()}

    def __call__(self, patch: np.ndarray) -> dict[str, np.ndarray]:
        self._net.set_tensor(self._input, np.ascontiguousarray(patch[None]))
        self._net.invoke()
        return {name: self._net.get_tensor(index)[0] for name, index in self._outputs.items()}


def _anchors() -> np.ndarray:
    """(2016, 2) centres, 0..1: two per cell of a 24 x 24 grid, then six per cell of a 12 x 12 grid."""
    grids = []
    for cells, copies in ((24, 2), (12, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells, copies, axis=0))
    return np.concatenate(grids)


def _weighted_nms(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """MediaPipe's: each best box becomes the score-weighted mean of all rows (N, 18) that overlap it; (score, row) in falling order."""
    kept = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        low, high = boxes[left, :2] - boxes[left, 2:4] / 2, boxes[left, :2] + boxes[left, 2:4] / 2
        overlap = np.prod(np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None), axis=1)
        area = np.prod(high - low, axis=1)
        near = overlap > PALM_MIN_IOU * (area + area[0] - overlap)
        near[0] = True
        kept.append((float(scores[left[0]]), np.average(boxes[left[near]], axis=0, weights=scores[left[near]])))
        left = left[~near]
    return kept


class HandNetworks:
    """Both networks, with the decoding of their outputs."""

    def __init__(self, threads: int = 2) -> None:
        self._palm = Network(ASSETS / "palm_detection_full.tflite", threads)
        self._landmarks = Network(ASSETS / "hand_landmark_full.tflite", threads)
        self._anchors = _anchors()

    def palms(self, image: np.ndarray, region: Crop) -> list[Palm]:
        """Palms seen in a square of the image, best first; hands cut by the image's edge may need its pixels repeated beyond it."""
        return self._palms(image, region, cv2.BORDER_CONSTANT) or self._palms(image, region, cv2.BORDER_REPLICATE)

    def _palms(self, image: np.ndarray, region: Crop, border: int) -> list[Palm]:
        out = self._palm(region.cut(image, PALM_INPUT_PX, border))
        scores = 1 / (1 + np.exp(-np.clip(out["Identity_1"][:, 0], -100, 100)))
        seen = scores > PALM_MIN_SCORE
        rows = out["Identity"][seen] / PALM_INPUT_PX
        rows[:, :2] += self._anchors[seen]
        rows[:, 4:] += np.tile(self._anchors[seen], 7)
        found = []
        for score, row in _weighted_nms(rows, scores[seen]):
            points = region.to_image(np.concatenate([row[None, :2], row[4:].reshape(7, 2)]))
            found.append(Palm(score, points[0], float(row[2:4].max()) * region.side, points[1:]))
        return found

    def estimate(self, image: np.ndarray, crop: Crop, views: Iterable[tuple[float, float]]) -> Estimate:
        """The mean over views of a crop, each as it is and mirrored: so a mirrored image gives exactly the mirrored hand."""
        j2d, depth, presence, right = [], [], [], []
        for view in (crop.turned(*v) for v in views):
            patch = view.cut(image, LANDMARK_INPUT_PX, cv2.BORDER_REPLICATE)
            for mirrored in (False, True):
                out = self._landmarks(patch[:, ::-1] if mirrored else patch)
                unit = out["Identity"].reshape(21, 3).astype(np.float64) / LANDMARK_INPUT_PX
                depth.append(_depth(unit, out["Identity_3"].reshape(21, 3)) * view.side)
                if mirrored:
                    unit[:, 0] = 1 - unit[:, 0]
                j2d.append(view.to_image(unit[:, :2]))
                presence.append(float(out["Identity_1"][0]))
                right.append(1 - float(out["Identity_2"][0]) if mirrored else float(out["Identity_2"][0]))
        spread = np.sqrt(np.var(j2d, axis=0).sum(axis=-1)) / _hand_size(np.mean(j2d, axis=0))
        agreement = np.exp(-((spread / 0.1) ** 2))
        return Estimate(np.mean(j2d, axis=0), np.mean(depth, axis=0), float(np.mean(presence)), float(np.mean(right)), agreement)


def _depth(unit: np.ndarray, world: np.ndarray) -> np.ndarray:
    """(21,) depth behind the wrist, in crop sides, from the network's two opinions (21, 3): along with the image points, and in "world"
    metres. The second is brought to the image's scale; its own x and y are poorer than the image's (bones vary twice as much).
    """
    unit, world = unit - unit[WRIST], world - world[WRIST]
    scale = np.sum(world[:, :2] * unit[:, :2]) / np.sum(world[:, :2] ** 2)
    return DEPTH_GAIN * (unit[:, 2] + scale * world[:, 2]) / 2


def _hand_size(j2d_px: np.ndarray) -> float:
    """Diagonal of the keypoints' box in pixels."""
    return float(np.linalg.norm(np.ptp(j2d_px, axis=0)))


def _share_near(j2d_px: np.ndarray, mask: np.ndarray) -> float:
    """Of the joints inside the picture, the share that lies on the mask or within a tenth of the hand's size of it."""
    x, y = np.round(j2d_px).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    if not inside.any():
        return 0.0
    distance_px = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, 3)[y[inside], x[inside]]
    return float(np.mean(distance_px <= 0.1 * _hand_size(j2d_px)))


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

    def follow(self, image: np.ndarray, mask: np.ndarray | None, crop: Crop) -> Found:
        """The estimate in a crop, after the crop has been centred on the hand once."""
        estimate = self.nets.estimate(image, crop, QUICK_VIEWS)
        if estimate.presence > LOST_PRESENCE:
            estimate = self.nets.estimate(image, estimate.next_crop(), QUICK_VIEWS)
        return Found(estimate, self._score(estimate, mask))

    def search(self, image: np.ndarray, mask: np.ndarray | None, thorough: bool) -> Found | None:
        """The best hand from scratch: palms of the first region that has any; if `thorough`, crops straight from the mask as well."""
        for region in _regions(image.shape, mask):
            found = [self.follow(image, mask, palm.hand_crop()) for palm in self.nets.palms(image, region)]
            if best := _best(found):
                return best
            if not thorough:
                return None
        if mask is None:
            return None
        square = _square_about(mask, 1.3)
        return _best(self.follow(image, mask, square.turned(angle)) for angle in range(0, 360, 45))

    def refine(self, image: np.ndarray, mask: np.ndarray | None, found: Found) -> Found:
        """The same hand from more crops; it may not stand up to them."""
        estimate = self.nets.estimate(image, found.estimate.next_crop(), FINAL_VIEWS)
        return Found(estimate, self._score(estimate, mask))

    def _score(self, estimate: Estimate, mask: np.ndarray | None) -> float:
        of_side = estimate.handedness if self.side == "right" else 1 - estimate.handedness
        near = 1.0 if mask is None else _share_near(estimate.j2d_px, mask)
        min_side = MIN_SIDE_SEEN if mask is None else MIN_SIDE_TOLD
        if estimate.presence < self.min_presence or of_side < min_side or near < MIN_SHARE_NEAR_MASK:
            return 0.0
        return estimate.presence * float(estimate.agreement.mean()) * near * (0.5 + 0.5 * of_side)


def _best(found: Iterable[Found | None]) -> Found | None:
    """The one with the highest score; None where all are refused."""
    accepted = [f for f in found if f is not None and f.score > 0]
    return max(accepted, key=lambda f: f.score, default=None)


def track_hand(
    images: Sequence[np.ndarray],
    side: Side,
    masks: Sequence[np.ndarray | None] | None = None,
    *,
    K: np.ndarray | None = None,
    min_presence: float = 0.5,
    threads: int = 2,
    progress: bool = False,
) -> KeypointTrack:
    """One hand through a clip of T BGR images (each is read twice).

    `masks` are (H, W) bool of that hand's visible pixels: an empty one says that the hand is not in the frame, None that nothing is known.
    Without masks the network's own handedness picks the hand. Frames whose hand presence stays under `min_presence` are NaN.
    3D has an average adult's size. The network sees a crop, as if the hand were on the optical axis: with the camera's `K` (3, 3) 3D is
    turned into the camera's axes, without it stays as seen.
    Raises HoldprepError where masks and images do not match.
    """
    if side not in SIDES:
        raise HoldprepError(f"hand side {side!r} is not one of {', '.join(SIDES)}")
    if masks is not None and len(masks) != len(images):
        raise HoldprepError(f"{side} hand: {len(masks)} masks for {len(images)} images; masks and images must be one to one")
    finder = _Finder(HandNetworks(threads), side, min_presence)
    found: list[Found | None] = [None] * len(images)
    for step in (1, -1):  # forward, then back: what was lost behind an occlusion is picked up from its other end
        order = range(len(images))[::step]
        for t in tqdm(order, desc=f"{side} hand, {'forward' if step > 0 else 'back'}", disable=not progress):
            mask = None if masks is None else masks[t]
            if mask is not None and not mask.any():
                continue
            image = images[t]
            _check(image, mask, t)
            neighbour = found[t - step] if 0 <= t - step < len(images) else None
            followed = finder.follow(image, mask, neighbour.estimate.next_crop()) if neighbour else None
            if step > 0:
                found[t] = _best([followed, finder.search(image, mask, thorough=not _best([followed]))])
            else:
                best = _best([found[t], followed])
                found[t] = _best([finder.refine(image, mask, best)]) if best else None
    return _track(_of_steady_size([f.estimate if f else None for f in found]), K)


def _check(image: np.ndarray, mask: np.ndarray | None, t: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise HoldprepError(f"image {t} has shape {image.shape}; (height, width, 3) is needed")
    if mask is not None and mask.shape != image.shape[:2]:
        raise HoldprepError(f"mask {t} has shape {mask.shape}, its image {image.shape[:2]}; make the mask as large as the image")


def _of_steady_size(estimates: list[Estimate | None]) -> list[Estimate | None]:
    """Without those whose skeleton is much larger or smaller than in the found frames about them: hands seen in a thumb or wrist."""
    found = [t for t, e in enumerate(estimates) if e is not None]
    size = np.array([e.skeleton_px for e in estimates if e is not None])
    kept = list(estimates)
    for i, t in enumerate(found):
        ratio = size[i] / np.median(size[max(0, i - SIZE_WINDOW) : i + SIZE_WINDOW + 1])
        if not 1 / MAX_SIZE_RATIO < ratio < MAX_SIZE_RATIO:
            kept[t] = None
    return kept


def _track(estimates: Sequence[Estimate | None], K: np.ndarray | None) -> KeypointTrack:
    """Estimates in OpenPose order as arrays in MANO-21 order."""
    T = len(estimates)
    j2d, j3d, confidence, boxes = np.full((T, 21, 2), np.nan), np.full((T, 21, 3), np.nan), np.zeros((T, 21, 1)), np.full((T, 4), np.nan)
    for t, e in enumerate(estimates):
        if e is not None:
            center = (e.j2d_px.min(axis=0) + e.j2d_px.max(axis=0)) / 2
            half = 0.75 * float(np.ptp(e.j2d_px, axis=0).max())
            j2d[t], confidence[t, :, 0], boxes[t] = e.j2d_px, e.presence * e.agreement, (*(center - half), *(center + half))
            j3d[t] = e.xyz_m if K is None else e.xyz_m @ _rotation_to_ray(center, K).T
    return KeypointTrack(to_mano21(j2d), to_mano21(j3d), to_mano21(confidence)[..., 0], boxes)


def _rotation_to_ray(pixel: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(3, 3) shortest rotation from the optical axis to the ray through a pixel (2,)."""
    ray = np.linalg.solve(K, np.array([*pixel, 1.0]))
    return Rotation.align_vectors(ray[None], np.array([[0.0, 0.0, 1.0]]))[0].as_matrix()
