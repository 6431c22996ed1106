"""Checks of a tracker's conventions on a hand in one frame, as numbers for the user: side, units, camera, joints, pose."""

from dataclasses import dataclass

import numpy as np
import roma
import torch

from holdprep.geometry.cameras import project
from holdprep.hand import lbs, start
from holdprep.hand.joints import FINGERS, MANO21_TIP_VERTICES
from holdprep.hand.model import HandModel, ManoParams, Side
from holdprep.hand.targets import LENGTH_RANGE_M, lengths_m, palm_errors_m

INDEX_KNUCKLE, LITTLE_KNUCKLE, MIDDLE_TIP = 1, 7, 18
BENT_DEG = -15.0  # fingers bend at most about this far towards the back of the hand
FAR_JOINTS = 0.15  # of the hand's extent in the image: a larger distance of keypoints and mesh joints indicates another joint order
MIRRORED = 0.7  # of the own side's error: the mirror image fits the palm better
WRONG_PARAMS_MM = 2.0


@dataclass(frozen=True)
class Conventions:
    """Measurements of one hand in one frame, in the OpenCV camera frame.

    `length_mm` from wrist to middle fingertip along the bones; `wrist_m`, `middle_tip_m` (3,) and their pixels (2,); `image_size` width,
    height; `keypoint_px`, `keypoint_max_px` mean and largest distance of the mesh's joints from the tracker's keypoints (NaN without),
    `extent_px` of the joints; `palm_mm`, `mirrored_mm` misfit of the palm as one of this side and of the other; `bend_deg` angle from the
    fingers' first bones to their last, positive towards the palm; `flat_deg`, `mean_deg` root mean square rotation of the fingers' joints
    from the model's flat and mean pose; `params_mm` distance of the mesh of the MANO parameters, `params_flat_mm` the same if they contain
    the hand mean (both NaN without parameters).
    """

    side: Side
    length_mm: float
    wrist_m: np.ndarray
    middle_tip_m: np.ndarray
    wrist_px: np.ndarray
    middle_tip_px: np.ndarray
    image_size: tuple[int, int]
    keypoint_px: float
    keypoint_max_px: float
    extent_px: float
    palm_mm: float
    mirrored_mm: float
    bend_deg: float
    flat_deg: float
    mean_deg: float
    params_mm: float = float("nan")
    params_flat_mm: float = float("nan")

    def lines(self) -> list[str]:
        """The numbers as text."""
        towards = "the palm" if self.bend_deg >= 0 else "the back of the hand"
        other = "left" if self.side == "right" else "right"
        wrist, tip = (", ".join(f"{x:.3f}" for x in p) for p in (self.wrist_m, self.middle_tip_m))
        found = [
            f"side: called {self.side}; palm off by {self.palm_mm:.1f} mm as a {self.side} hand's, by {self.mirrored_mm:.1f} mm as a {other} "
            f"hand's; fingers bend {abs(self.bend_deg):.0f} degrees towards {towards}",
            f"size and depth: {self.length_mm:.0f} mm from wrist to middle fingertip, wrist at {self.wrist_m[2]:.3f} m",
            f"position: wrist at ({wrist}) m, pixel ({self.wrist_px[0]:.0f}, {self.wrist_px[1]:.0f}); "
            f"middle fingertip at ({tip}) m, pixel ({self.middle_tip_px[0]:.0f}, {self.middle_tip_px[1]:.0f})",
            f"keypoints: {self.keypoint_px:.1f} px from the mesh's joints, at most {self.keypoint_max_px:.1f} px (hand: {self.extent_px:.0f} px)",
            f"pose: finger joints rotated by {self.flat_deg:.0f} degrees from the flat hand, by {self.mean_deg:.0f} from the model's mean pose",
        ]
        if np.isfinite(self.params_mm):
            found.append(
                f"parameters: their mesh is {self.params_mm:.2f} mm from the tracker's, "
                f"{self.params_flat_mm:.2f} mm if zeros are the flat hand"
            )
        return found

    def warnings(self) -> list[str]:
        """What is implausible, and what to try."""
        found = []
        if self.mirrored_mm < MIRRORED * self.palm_mm or self.bend_deg < BENT_DEG:
            other = "left" if self.side == "right" else "right"
            found.append(f"this {self.side} hand looks like a {other} one: set hands.which={other}, or mirror its x")
        if not LENGTH_RANGE_M[0] <= self.length_mm / 1e3 <= LENGTH_RANGE_M[1]:
            found.append(f"a hand of {self.length_mm:.0f} mm: is its unit the metre?")
        if self.wrist_m[2] <= 0:
            found.append(f"the wrist is {-self.wrist_m[2]:.2f} m behind the camera: are its axes OpenGL's (y up, z back)?")
        elif not ((self.wrist_px > -np.array(self.image_size)) & (self.wrist_px < 2 * np.array(self.image_size))).all():
            found.append("the wrist is far outside the image: another focal length, or pixels of frames of another size?")
        if self.keypoint_px > FAR_JOINTS * self.extent_px:
            found.append("keypoints are far from the mesh's joints: another joint order, or another camera?")
        if self.params_mm > max(WRONG_PARAMS_MM, self.params_flat_mm):
            found.append("the MANO parameters contain the hand mean: subtract the model's hand mean from them")
        return found


def examine(
    model: HandModel,
    vertices_m: np.ndarray,
    j2d_px: np.ndarray,
    K: np.ndarray,
    image_size: tuple[int, int],
    params: ManoParams | None = None,
) -> Conventions:
    """Measurements of a mesh (778, 3) m under K (3, 3), with its tracker's keypoints (21, 2) px in MANO-21 order.

    `params` are the MANO parameters of this frame (rows of 1), if known. Implausible input raises no error, see `Conventions.warnings`.
    """
    vertices = torch.as_tensor(vertices_m, dtype=torch.float64)
    joints = mesh_joints(model, vertices_m)
    px = project(joints, K)
    off_px = np.linalg.norm(px - j2d_px, axis=-1)
    palm_mm, mirrored_mm = (1e3 * palm_errors_m(model, vertices[None])[:, 0]).tolist()
    flat_deg, mean_deg = _rotations_deg(model, joints)
    found = Conventions(
        side=model.side,
        length_mm=1e3 * float(lengths_m(model, vertices[None])[0]),
        wrist_m=joints[0],
        middle_tip_m=joints[MIDDLE_TIP],
        wrist_px=px[0],
        middle_tip_px=px[MIDDLE_TIP],
        image_size=image_size,
        keypoint_px=float(off_px.mean()),
        keypoint_max_px=float(off_px.max()),
        extent_px=float(np.linalg.norm(np.ptp(px, axis=0))),
        palm_mm=palm_mm,
        mirrored_mm=mirrored_mm,
        bend_deg=bend_deg(joints, model.side),
        flat_deg=flat_deg,
        mean_deg=mean_deg,
    )
    if params is None:
        return found
    flat = ManoParams(params.global_orient, params.hand_pose - model.hand_mean, params.betas, params.transl)
    off_mm = [1e3 * float((lbs.forward(model, p).vertices[0] - vertices).norm(dim=-1).mean()) for p in (params, flat)]
    return Conventions(**{**vars(found), "params_mm": off_mm[0], "params_flat_mm": off_mm[1]})


def mesh_joints(model: HandModel, vertices_m: np.ndarray) -> np.ndarray:
    """Joints (..., 21, 3) in MANO-21 order of posed meshes (..., 778, 3), by the regressor; a few millimetres from MANO's joints."""
    return np.concatenate([model.J_regressor.numpy() @ vertices_m, vertices_m[..., list(MANO21_TIP_VERTICES), :]], axis=-2)


def bend_deg(joints_m: np.ndarray, side: Side) -> float:
    """Mean bending angle (degrees) of the four fingers from first to last bone, for joints (21, 3) in MANO-21 order.

    Positive is towards the palm of a hand of this side; a hand of the other side is negative.
    """
    across = joints_m[INDEX_KNUCKLE] - joints_m[LITTLE_KNUCKLE]  # a right hand's fingers close about this axis by the right-hand rule
    across = across if side == "right" else -across
    angles = []
    for first, second, third, tip in FINGERS[:4]:
        bones = np.stack([joints_m[second] - joints_m[first], joints_m[tip] - joints_m[third]])
        bones = bones / np.linalg.norm(bones, axis=1, keepdims=True)
        angle = np.degrees(np.arccos(np.clip(bones[0] @ bones[1], -1, 1)))
        angles.append(angle * np.sign(np.cross(bones[0], bones[1]) @ across))
    return float(np.mean(angles))


def _rotations_deg(model: HandModel, joints_m: np.ndarray) -> tuple[float, float]:
    """Root mean square rotation (degrees) of the 15 finger joints from the flat and the mean pose, twist excluded: bones do not show it."""
    found = start.from_joints(model.to(torch.float64), torch.as_tensor(joints_m)[None], torch.ones(1, 21).double()).rotations[0, 1:]
    mean = roma.rotvec_to_rotmat(model.hand_mean.double().reshape(15, 3))
    angles = (roma.rotmat_geodesic_distance(found, origin) for origin in (torch.eye(3).expand_as(mean).double(), mean))
    flat, average = (float(a.square().mean().sqrt().rad2deg()) for a in angles)
    return flat, average
