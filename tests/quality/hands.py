"""Hands before a camera, plausible and not, with their masks."""

import math
from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
import torch

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.raster import covered
from holdprep.hand import lbs
from holdprep.hand.joints import FINGERS, MANO21_TIP_VERTICES, WRIST_RING
from holdprep.hand.model import HandModel, ManoParams, Side, load_hand_model
from holdprep.synth.grasp import Approach, solve_grip
from holdprep.synth.objects import make_object

INDEX, MIDDLE = 1, 4  # first joints
T, SIZE = 15, (400, 360)  # as few frames as tell the noise
K = pinhole_K(500.0, 200.0, 180.0)
NO_SHAPE = torch.zeros(10, dtype=torch.float64)


@dataclass(frozen=True)
class Clip:
    """A hand's frames before a camera, its masks (T, H, W), and what may hide a part of them (H, W)."""

    model: HandModel
    params: ManoParams
    masks: np.ndarray
    hidden: np.ndarray


# degrees by which knuckle, middle and end joint of the four fingers are bent; None: a solved grip of a box
POSTURES = {"grip": None, "straight": (0, 0, 0), "relaxed": (20, 25, 15), "hook": (10, 60, 40), "fist": (50, 60, 35)}


@cache
def make_clip(side: Side, posture: str, seed: int) -> Clip:
    """A hand within two standard deviations, seen from some direction, that swings and bends its fingers smoothly."""
    model = load_hand_model(side, dtype=torch.float64)
    rng = np.random.default_rng(seed)
    betas = torch.from_numpy(np.clip(rng.normal(size=10), -2, 2))
    bend = POSTURES[posture]
    if bend is None:
        grip = solve_grip(
            make_object("box"), model, betas, np.zeros(1), np.zeros(1), approach=Approach(reaches_m=(0.06,)), seed=seed
        ).params
        orient, pose = grip.global_orient.double(), grip.hand_pose.double()
    else:
        rest = torch.zeros(15, 3, dtype=torch.float64)
        rest[:12, 2] = flip(model) * torch.tensor(bend * 4, dtype=torch.float64).deg2rad()
        rest[12:] = model.hand_mean.reshape(15, 3)[12:]
        orient, pose = (
            torch.from_numpy(rng.normal(0, 0.5, (1, 3))) + torch.tensor([math.pi / 2, 0, 0]),
            (rest.flatten() - model.hand_mean)[None],
        )
    phase = (2 * math.pi / 20 * torch.arange(T, dtype=torch.float64))[:, None]
    pose = pose + 0.04 * torch.sin(phase + torch.from_numpy(rng.uniform(0, 6, 45)))
    centre = lbs.forward(model, ManoParams(orient, pose[:1], betas, torch.zeros(1, 3).double())).vertices[0].mean(dim=0)
    place = torch.tensor([0, 0, 0.45]) - centre + 0.01 * torch.cat([torch.sin(phase), torch.cos(phase), phase * 0], dim=1)
    hidden = np.zeros(SIZE[::-1], bool)
    hidden[:, 250:275] = True
    return filmed(Clip(model, ManoParams(orient.expand(T, 3), pose, betas, place), np.zeros(0), hidden))


def filmed(clip: Clip, params: ManoParams | None = None, model: HandModel | None = None) -> Clip:
    """The clip with the masks of its own hand, changed if `params` or `model` are given: the pictures agree with it, whatever it is."""
    changed = replace(clip, params=params or clip.params, model=model or clip.model)
    return replace(changed, masks=silhouettes(changed) & ~clip.hidden)


def posed(model: HandModel, pose: torch.Tensor) -> ManoParams:
    """Joint rotations (T, 15, 3), axis-angle from the flat hand, as parameters."""
    still = torch.zeros(len(pose), 3, dtype=torch.float64)
    return ManoParams(still, pose.flatten(1) - model.hand_mean, NO_SHAPE, still)


def flip(model: HandModel) -> int:
    """Sign of a bend about z that closes a hand of this side."""
    return 1 if model.side == "right" else -1


def rotations(clip: Clip) -> torch.Tensor:
    """(T, 15, 3) axis-angle of the clip's joints from the flat hand."""
    return (clip.params.hand_pose + clip.model.hand_mean).reshape(T, 15, 3).clone()


def bent(clip: Clip, pose: torch.Tensor) -> ManoParams:
    """The clip's parameters with other joint rotations (T, 15, 3) from the flat hand."""
    return replace(clip.params, hand_pose=pose.flatten(1) - clip.model.hand_mean)


def pixels(clip: Clip) -> np.ndarray:
    """(T, 778, 2) px of the clip's hand."""
    return project(lbs.forward(clip.model, clip.params).vertices.numpy(), K)


def silhouettes(clip: Clip) -> np.ndarray:
    """(T, H, W) bool of the clip's hand."""
    return np.array([covered(px, clip.model.faces.numpy(), SIZE) for px in pixels(clip)])


def arms(clip: Clip) -> np.ndarray:
    """(T, H, W) bool: a forearm as broad as the wrist, from the wrist away from the hand for 80 px."""
    drawn = []
    for px in pixels(clip):
        ring = px[list(WRIST_RING)]
        away = ring.mean(axis=0) - px.mean(axis=0)
        away *= 80 / np.linalg.norm(away)
        hull = cv2.convexHull(np.concatenate([ring, ring + away]).astype(np.float32))
        drawn.append(cv2.fillConvexPoly(np.zeros(SIZE[::-1], np.uint8), hull.round().astype(np.int32), 1) > 0)
    return np.array(drawn)


def resized(mask: np.ndarray, by_px: int) -> np.ndarray:
    """A mask (H, W) bool whose edge is moved outwards by so many pixels, inwards if negative."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(by_px) + 1,) * 2)
    return (cv2.dilate if by_px > 0 else cv2.erode)(mask.astype(np.uint8), kernel) > 0


def palm_faces(model: HandModel) -> np.ndarray:
    """(F, 3) faces without those of ring, middle and little finger."""
    fingers = [joint for finger in FINGERS[1:4] for joint in finger[:3]]
    own = (model.weights[:, fingers].sum(dim=1) < 0.5).numpy()
    faces = model.faces.numpy()
    return faces[own[faces].all(axis=1)]


def with_cylinder(model: HandModel, first: int, diameter_m: float) -> HandModel:
    """The model with one finger's outer two bones made a cylinder about its straight axis, without shape directions there."""
    finger = next(f for f in FINGERS if f[0] == first)
    joints = model.J_regressor @ model.v_template
    start, tip = joints[finger[1]], model.v_template[MANO21_TIP_VERTICES[finger[3] - 16]]
    axis = torch.nn.functional.normalize(tip - start, dim=0)
    own = model.weights[:, list(finger[1:3])].sum(dim=1) > 0.5
    along = ((model.v_template - start) @ axis)[:, None]
    aside = model.v_template - start - along * axis
    round_ = start + along * axis + diameter_m / 2 * torch.nn.functional.normalize(aside, dim=1)
    return replace(
        model,
        v_template=torch.where(own[:, None], round_, model.v_template),
        shapedirs=torch.where(own[:, None, None], 0.0, model.shapedirs),
        posedirs=torch.where(own[:, None, None], 0.0, model.posedirs),
    )
