"""MediaPipe's palm and hand-landmark networks, run by LiteRT, with the decoding of their outputs.

As in MediaPipe's hand tracking (Zhang et al., "MediaPipe Hands", 2020, and the graph files of version 0.10.21): palms from anchors,
weighted non-maximum suppression, a rotated square crop, landmarks, and the next frame's crop from this frame's landmarks. In
addition, an estimate is a mean over mirrored and rotated crops, whose standard deviation measures its reliability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from ai_edge_litert.interpreter import Interpreter

ASSETS = Path(__file__).parent / "assets"
PALM_INPUT_PX, LANDMARK_INPUT_PX = 192, 224
PALM_MIN_SCORE, PALM_MIN_IOU = 0.5, 0.3
WRIST, INDEX, MIDDLE, RING = 0, 5, 9, 13  # OpenPose order; the last three are knuckles
PARENT = [0, 0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11, 0, 13, 14, 15, 0, 17, 18, 19]
SKELETON_M = 0.78  # sum of the 20 bones from wrist to MediaPipe's fingertips in an average adult hand; 0.80 to the ends of the fingers
DEPTH_GAIN = 1.25  # the networks underestimate depth: with this factor, bone lengths are most constant over real clips
STABLE = [0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18]  # joints whose extent determines the next crop: no fingertips
AGREEING = 0.1  # of the hand's size: standard deviation of a low agreement


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

    def rotated(self, degrees: float, factor: float = 1.0) -> "Crop":
        """The same square rotated about its centre and resized."""
        return Crop(self.center, self.side * factor, self.angle + np.radians(degrees))

    def to_image(self, unit: np.ndarray) -> np.ndarray:
        """Pixels (..., 2) of points (..., 2) given in 0..1 across the crop."""
        return self.center + (unit - 0.5) * self.side @ self.rotation.T

    def cut(self, image: np.ndarray, size: int, border: int) -> np.ndarray:
        """(size, size, 3) float32 RGB in 0..1, averaged where the crop is reduced; outside of the image by cv2's `border` mode."""
        part, corner, factor = self._reduced(image, max(1, round(self.side / size)))
        source = self.to_image((np.array([[0, 0], [size, 0], [0, size]]) + 0.5) / size)
        source = ((source - corner + 0.5) / factor - 0.5).astype(np.float32)
        to_crop = cv2.getAffineTransform(source, np.array([[0, 0], [size, 0], [0, size]], np.float32))
        patch = cv2.warpAffine(part, to_crop, (size, size), borderMode=border)
        return patch[..., ::-1].astype(np.float32) / 255

    def _reduced(self, image: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The part of the image inside the crop, `factor` times smaller, position (2,) of its corner, and the factor.

        Without a reduction, the whole image, zeros, and 1.
        """
        size = np.array(image.shape[1::-1])
        if factor == 1 or (size < factor).any():
            return image, np.zeros(2), 1
        reach = self.side * np.sqrt(0.5) + 2 * factor
        whole = size // factor  # number of blocks of pixels
        low = np.clip(np.floor((self.center - reach) / factor), 0, whole - 1).astype(int)
        high = np.clip(np.ceil((self.center + reach) / factor), low + 1, whole).astype(int)
        (x1, y1), (x2, y2) = low * factor, high * factor
        part = cv2.resize(image[y1:y2, x1:x2], (high - low).tolist(), interpolation=cv2.INTER_AREA)
        return part, low * factor, factor


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

    `presence` 0..1, `handedness` close to 1 for a right hand, `std_px` (21,) standard deviation of the joints over the crops.
    """

    j2d_px: np.ndarray
    depth_px: np.ndarray
    presence: float
    handedness: float
    std_px: np.ndarray

    @property
    def size_px(self) -> float:
        """Diagonal of the joints' box."""
        return float(np.linalg.norm(np.ptp(self.j2d_px, axis=0)))

    @property
    def agreement(self) -> np.ndarray:
        """(21,) in 0..1: 1 where all crops agree."""
        return np.exp(-((self.std_px / (AGREEING * self.size_px)) ** 2))

    @property
    def confidence(self) -> np.ndarray:
        """(21,) in 0..1: presence times agreement."""
        return self.presence * self.agreement

    @property
    def xyz_px(self) -> np.ndarray:
        """(21, 3) relative to the wrist, in the axes of the hand's ray."""
        return np.concatenate([self.j2d_px - self.j2d_px[WRIST], self.depth_px[:, None]], axis=1)

    @property
    def skeleton_px(self) -> float:
        """Sum of the bones' lengths."""
        return float(np.linalg.norm(self.xyz_px - self.xyz_px[PARENT], axis=1).sum())

    @property
    def xyz_m(self) -> np.ndarray:
        """`xyz_px` in metres, with an average adult's size, which an image does not show."""
        return self.xyz_px * (SKELETON_M / self.skeleton_px)

    def next_crop(self) -> Crop:
        """MediaPipe's crop for the following frame: twice the box of the stable joints, a tenth of it towards the fingers."""
        p = self.j2d_px
        knuckles = (p[INDEX] + p[RING]) / 4 + p[MIDDLE] / 2
        rotation = Crop(p[WRIST], 1.0, _upright_angle(p[WRIST], knuckles)).rotation
        box = p[STABLE] @ rotation  # in the hand's own axes
        low, high = box.min(axis=0), box.max(axis=0)
        side = float((high - low).max())
        center = rotation @ ((low + high) / 2 + (0.0, -0.1 * (high - low)[1]))
        return Crop(center, 2.0 * side, float(np.arctan2(rotation[1, 0], rotation[0, 0])))


def _upright_angle(wrist: np.ndarray, fingers: np.ndarray) -> float:
    """Angle by which a crop is rotated so that wrist to fingers points up in it."""
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


def palm_anchors() -> np.ndarray:
    """(2016, 2) centres, 0..1: two per cell of a 24 x 24 grid, then six per cell of a 12 x 12 grid."""
    grids = []
    for cells, copies in ((24, 2), (12, 6)):
        y, x = np.mgrid[:cells, :cells]
        grids.append(np.repeat((np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5) / cells, copies, axis=0))
    return np.concatenate(grids)


def weighted_nms(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """MediaPipe's non-maximum suppression: the best box is the score-weighted mean of all rows (N, 18) that overlap it.

    Returned are (score, row) by decreasing score.
    """
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

    def __init__(self, threads: int = 1) -> None:
        self._palm = Network(ASSETS / "palm_detection_full.tflite", threads)
        self._landmarks = Network(ASSETS / "hand_landmark_full.tflite", threads)
        self._anchors = palm_anchors()

    def palms(self, image: np.ndarray, region: Crop, repeat_edge: bool = False) -> list[Palm]:
        """Palms detected in a square of the image, best first; for hands at the image's border its pixels may be repeated beyond it."""
        out = self._palm(region.cut(image, PALM_INPUT_PX, cv2.BORDER_REPLICATE if repeat_edge else cv2.BORDER_CONSTANT))
        scores = 1 / (1 + np.exp(-np.clip(out["Identity_1"][:, 0], -100, 100)))
        seen = scores > PALM_MIN_SCORE
        rows = out["Identity"][seen] / PALM_INPUT_PX
        rows[:, :2] += self._anchors[seen]
        rows[:, 4:] += np.tile(self._anchors[seen], 7)
        found = []
        for score, row in weighted_nms(rows, scores[seen]):
            points = region.to_image(np.concatenate([row[None, :2], row[4:].reshape(7, 2)]))
            found.append(Palm(score, points[0], float(row[2:4].max()) * region.side, points[1:]))
        return found

    def estimate(self, image: np.ndarray, crop: Crop, mirrored: bool = False) -> Estimate:
        """The network's estimate from one crop, or from its mirror image; in pixels of the image."""
        patch = crop.cut(image, LANDMARK_INPUT_PX, cv2.BORDER_REPLICATE)
        out = self._landmarks(patch[:, ::-1] if mirrored else patch)
        unit = out["Identity"].reshape(21, 3).astype(np.float64) / LANDMARK_INPUT_PX
        depth_px = _depth(unit, out["Identity_3"].reshape(21, 3)) * crop.side
        right = float(out["Identity_2"][0])
        if mirrored:
            unit[:, 0] = 1 - unit[:, 0]
            right = 1 - right
        return Estimate(crop.to_image(unit[:, :2]), depth_px, float(out["Identity_1"][0]), right, np.zeros(21))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of estimates from single crops, with their standard deviation."""
    j2d = np.stack([e.j2d_px for e in estimates])
    std_px = np.sqrt(j2d.var(axis=0).sum(axis=-1))
    depth_px, presence, handedness = (np.mean([getattr(e, k) for e in estimates], axis=0) for k in ("depth_px", "presence", "handedness"))
    return Estimate(j2d.mean(axis=0), depth_px, float(presence), float(handedness), std_px)


def _depth(unit: np.ndarray, world: np.ndarray) -> np.ndarray:
    """(21,) depth behind the wrist, in crop sides, from the network's two outputs (21, 3): image points with depth, and "world" metres.

    The second is scaled to the image; its own x and y are less accurate than the image's (bone lengths vary twice as much).
    """
    unit, world = unit - unit[WRIST], world - world[WRIST]
    scale = np.sum(world[:, :2] * unit[:, :2]) / np.sum(world[:, :2] ** 2)
    return DEPTH_GAIN * (unit[:, 2] + scale * world[:, 2]) / 2
