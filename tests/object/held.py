"""Sequences of an object's silhouettes with the motion of a hand that holds it, with exact truth: masks by rasterisation, no pictures."""

from dataclasses import dataclass

import numpy as np
import trimesh
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.raster import covered
from holdprep.geometry.rigid import apply, from_rt
from holdprep.object import palm_motion, silhouettes
from holdprep.object.reconstruction import ObjectReconstruction
from holdprep.synth.objects import make_object
from tests.synthetic import turning_poses

SIZE = (640, 480)
K = pinhole_K(600.0, *SIZE)
T_OBJ_PALM = from_rt(Rotation.from_euler("xyz", [20, 100, -40], degrees=True).as_matrix(), np.array([0.02, 0.06, 0.05]))
FIST_RADIUS_M = 0.03


@dataclass(frozen=True)
class Held:
    """Masks of `object` and `hand`, the true T_cam_obj (T, 4, 4), and the hand's joints (T, 21, 3) m as a tracker gives them."""

    masks: list[np.ndarray]
    hands: list[np.ndarray]
    T_cam_obj: np.ndarray
    joints_m: np.ndarray

    @property
    def j2d_px(self) -> np.ndarray:
        return project(self.joints_m, K)

    @property
    def palm(self) -> palm_motion.PalmMotion:
        return palm_motion.palm_motion(self.joints_m, self.j2d_px, K)

    def reconstruct(self) -> ObjectReconstruction:
        names = [f"{t:04d}" for t in range(len(self.masks))]
        return silhouettes.reconstruct(names, self.masks, self.hands, self.palm, K, silhouettes.SilhouetteOptions())


def held(
    thing: str,
    frames: int = 30,
    *,
    degrees: float = 150.0,
    drift_deg: float = 9.0,
    noise_m: float = 0.004,
    turned_deg: float = 0.0,
    seed: int = 0,
) -> Held:
    """A synthetic object that a fist holds from below, turned by `degrees`; the object turns in the fingers by `turned_deg` of them.

    The hand's errors: a slow drift of its rotation by `drift_deg` (RMS), as trackers have, and independent noise of the joints.
    """
    rng = np.random.default_rng(seed)
    obj = make_object(thing)
    fist = trimesh.creation.icosphere(subdivisions=2, radius=FIST_RADIUS_M)
    lowest = float(obj.vertices_m[:, 1].max())
    T_cam_obj = turning_poses(frames, 0.4, degrees)
    own = Rotation.from_rotvec(np.radians(turned_deg) * np.linspace(-0.5, 0.5, frames)[:, None] * [0, 1, 0]).as_matrix()
    drift = gaussian_filter1d(rng.standard_normal((frames, 3)), 8, axis=0, mode="wrap")
    drift *= np.radians(drift_deg) / np.sqrt(np.square(drift).sum(axis=1).mean())
    T_cam_palm = T_cam_obj @ from_rt(np.swapaxes(own, 1, 2), np.zeros(3)) @ T_OBJ_PALM
    T_cam_palm = T_cam_palm @ from_rt(Rotation.from_rotvec(drift).as_matrix(), np.zeros((frames, 3)))
    joints_m = apply(T_cam_palm, rng.uniform(-0.05, 0.05, (21, 3))) + noise_m * rng.standard_normal((frames, 21, 3))
    masks, hands = [], []
    for T in T_cam_obj:
        hand = covered(project(apply(T, fist.vertices + np.array([0, lowest, 0])), K), fist.faces, SIZE)
        hands.append(hand)
        masks.append(covered(project(apply(T, obj.vertices_m), K), obj.faces, SIZE) & ~hand)
    return Held(masks, hands, T_cam_obj, joints_m)
