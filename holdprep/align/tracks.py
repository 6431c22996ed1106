"""Input and result of the scale estimators, and the bootstrap that they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import roma
import torch

BOOTSTRAP_ROUNDS = 60
BOOTSTRAP_BLOCKS = 20


@dataclass(frozen=True)
class HandTrack:
    """A posed hand in the frames (F,) that show both hand and object; numpy float64, metres, camera frame.

    `joints_m` (F, 21, 3), `tips_m` (F, 5, V, 3) skin around the fingertips, `R_cam_hand` (F, 3, 3), `weight` (F,), `depth_ratio` (F,)
    standard error of the hand's depth as a fraction of it. `R_cam_obj` (F, 3, 3), `t_cam_obj_sfm` (F, 3): the object's pose in the unit
    of SfM; `frame` (F,) numbers in the clip; `touching` (F,) bool, frames in which they may touch.
    """

    joints_m: np.ndarray
    tips_m: np.ndarray
    R_cam_hand: np.ndarray
    weight: np.ndarray
    depth_ratio: np.ndarray
    R_cam_obj: np.ndarray
    t_cam_obj_sfm: np.ndarray
    frame: np.ndarray
    touching: np.ndarray

    @property
    def R_obj_hand(self) -> np.ndarray:
        """(F, 3, 3) rotation of the hand in the object's frame; independent of the scale."""
        return np.swapaxes(self.R_cam_obj, 1, 2) @ self.R_cam_hand


@dataclass(frozen=True)
class ScaleEstimate:
    """`scale` in metres per unit of SfM, its standard error as a fraction of it, and `rejection`, the reason not to use it ("": none).

    `bias` is the mean error of its logarithm, which is subtracted where several estimates are combined.
    """

    name: str
    scale: float
    stderr_ratio: float
    rejection: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bias: float = 0.0

    def logged(self) -> dict[str, float]:
        """Its figures by `<name>.<figure>`; empty where there was nothing to measure."""
        if not np.isfinite(self.stderr_ratio):
            return {}
        values = {"scale": self.scale, "stderr_pct": 100 * self.stderr_ratio, **self.figures}
        return {f"{self.name}.{key}": value for key, value in values.items()}


def joint_deviation_mm(track: HandTrack, scale: float) -> float:
    """Deviation of the joints in the object's frame: mean over joints of the median distance to their median position (mm)."""
    local = np.einsum("fba,fjb->fja", track.R_cam_obj, track.joints_m - scale * track.t_cam_obj_sfm[:, None])
    away = np.linalg.norm(local - np.median(local, axis=0), axis=-1)
    return 1e3 * float(np.median(away, axis=0).mean())


def angles_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(...) angles between rotations (..., 3, 3), degrees."""
    first, second = torch.broadcast_tensors(torch.from_numpy(a), torch.from_numpy(b))
    return np.degrees(roma.rotmat_geodesic_distance(first, second).numpy())


def resampled_counts(lengths: Sequence[int], seed: int) -> np.ndarray:
    """How often each frame counts, (1 + rounds, F): once in the first row, then a block bootstrap (errors of neighbours are correlated)."""
    rng = np.random.default_rng(seed)
    parts = []
    for length in lengths:
        block = np.arange(length) * min(BOOTSTRAP_BLOCKS, length) // length
        blocks = block[-1] + 1
        drawn = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=BOOTSTRAP_ROUNDS)
        parts.append(np.concatenate([np.ones((1, length)), drawn[:, block]]))
    return np.concatenate(parts, axis=1)


def parabola_maximum(x: np.ndarray, y: np.ndarray) -> float:
    """Maximum of y over the even grid x, refined by a parabola through the best point and its neighbours."""
    i = int(np.clip(y.argmax(), 1, len(x) - 2))
    left, centre, right = y[i - 1 : i + 2]
    curvature = left - 2 * centre + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return float(x[i] + np.clip(shift, -1, 1) * (x[1] - x[0]))
