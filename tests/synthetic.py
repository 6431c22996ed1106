"""Rendered scenes with exact ground truth, shared by the tests: plain numpy and OpenCV, no files, no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt, invert
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model
from holdprep.quality.truth import GroundTruth, HandTruth, save_truth

# Corners of a unit box, x fastest; the faces' corners go around so that (b - a) x (c - a) points outwards.
_BOX_CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_BOX_FACES = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))


FINGER_RADIUS_M = 0.008
GRIP_DEPTH_M = 0.045  # from the fingertips to the box's centre
# for `launch.py`: the hand reaches 14 mm into the box, so that contact and depth order mislead the scale
RIGID_GRASP = "align.scale=rigid_grasp"


def textured_box(seed: int = 0, texels: int = 256) -> list[np.ndarray]:
    """Six different BGR textures (texels, texels, 3) uint8: smoothed noise of two scales under random filled blobs."""
    rng = np.random.default_rng(seed)
    textures = []
    for _ in range(6):
        fine, coarse = (cv2.GaussianBlur(rng.normal(size=(texels, texels, 3)), (0, 0), s) for s in (1.5, 8.0))
        image = 128 + 25 * fine / fine.std() + 30 * coarse / coarse.std() + rng.uniform(-30, 30, 3)
        for _ in range(40):
            centre, axes = rng.integers(0, texels, 2), rng.integers(texels // 40, texels // 12, 2)
            colour = tuple(float(c) for c in rng.uniform(0, 255, 3))
            cv2.ellipse(image, tuple(map(int, centre)), tuple(map(int, axes)), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        textures.append(np.clip(image, 0, 255).astype(np.uint8))
    return textures


def render_box(
    image: np.ndarray, textures: list[np.ndarray], size: tuple[float, float, float], K: np.ndarray, T_cam_obj: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Paint a box of edge lengths `size` over a copy of `image` (H, W, 3) uint8; also the mask (H, W) bool of what it covers.

    Each face seen from outside is a homography of its texture; a convex body needs no order among those. Drawn at twice the
    resolution and averaged, so that edges and textures are anti-aliased.
    """
    h, w = image.shape[:2]
    corners_cam = apply(T_cam_obj, _BOX_CORNERS * np.asarray(size))
    fine = (project(corners_cam, K) + 0.5) * 2 - 0.5
    canvas, mask = cv2.resize(image, (2 * w, 2 * h), interpolation=cv2.INTER_LINEAR), np.zeros((2 * h, 2 * w), np.uint8)
    for texture, face in zip(textures, _BOX_FACES, strict=True):
        a, b, c, _ = corners_cam[list(face)]
        if np.dot(np.cross(b - a, c - a), a) >= 0:  # the outward normal points away from the camera
            continue
        n = texture.shape[0]
        texels = np.array([[0, 0], [n, 0], [n, n], [0, n]], np.float32) - 0.5
        H = cv2.getPerspectiveTransform(texels, fine[list(face)].astype(np.float32))
        cv2.warpPerspective(texture, H, (2 * w, 2 * h), dst=canvas, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
        cv2.fillConvexPoly(mask, np.round(fine[list(face)] * 16).astype(np.int32), 255, shift=4)
    small = cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA) > 127
    painted = cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA)
    return painted, small


def turning_poses(
    num_frames: int, depth: float, degrees: float = 150.0, axis: tuple[float, float, float] = (0.35, 1.0, 0.15)
) -> np.ndarray:
    """(T, 4, 4) T_cam_obj of an object that turns about a tilted axis and sways a little before the camera."""
    s = np.linspace(0, 1, num_frames)
    unit = np.asarray(axis) / np.linalg.norm(axis)
    R = Rotation.from_rotvec(np.radians(degrees * s + 25)[:, None] * unit) * Rotation.from_euler("x", 25, degrees=True)
    sway = np.stack([0.08 * np.sin(5 * s), 0.05 * np.cos(4 * s), 1 + 0.05 * np.sin(3 * s)], axis=1) * depth
    return from_rt(R.as_matrix(), sway)


def box_sequence(
    num_frames: int = 30,
    *,
    size: tuple[float, float, float] = (0.10, 0.08, 0.07),
    degrees: float = 150.0,
    textures: list[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Images (T of (H, W, 3)), masks (T of (H, W) bool), K (3, 3) and T_cam_obj (T, 4, 4) in metres of a turning textured box."""
    rng = np.random.default_rng(1)
    width, height = 480, 360
    K, poses = pinhole_K(520.0, width, height), turning_poses(num_frames, 0.38, degrees)
    background = np.clip(110 + 10 * cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 3) * 3, 0, 255).astype(np.uint8)
    textures = textured_box() if textures is None else textures
    images, masks = zip(*(render_box(background, textures, size, K, T) for T in poses), strict=True)
    noisy = [np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8) for image in images]
    return noisy, list(masks), K, poses


@dataclass(frozen=True)
class SyntheticSequence:
    """A static camera's film of one or two hands that hold and turn a textured box, with exact truth in metres.

    `images` T of (H, W, 3) uint8 BGR; `masks` (T, H, W) bool by entity, what is visible; `depth_m` (T, H, W), infinite in the
    background; `K` (3, 3); `T_cam_obj` (T, 4, 4); `box_size_m` (3,) edge lengths; `points_obj_m` (N, 3) on the box; by side: `params`,
    `vertices_m` (T, 778, 3), `joints_m` (T, 21, 3), `j2d_px` (T, 21, 2).
    """

    images: list[np.ndarray]
    masks: dict[str, np.ndarray]
    depth_m: np.ndarray
    K: np.ndarray
    T_cam_obj: np.ndarray
    box_size_m: np.ndarray
    points_obj_m: np.ndarray
    params: dict[Side, ManoParams]
    vertices_m: dict[Side, np.ndarray]
    joints_m: dict[Side, np.ndarray]
    j2d_px: dict[Side, np.ndarray]

    @property
    def names(self) -> list[str]:
        """Frame names as HOLD's create gives them at stride 2."""
        return [f"{2 * t:04d}" for t in range(len(self.images))]


def make_sequence(
    sides: tuple[Side, ...] = ("right",),
    frames: int = 24,
    size: tuple[int, int] = (512, 384),
    degrees: float = 110.0,
    seed: int = 0,
) -> SyntheticSequence:
    """The right hand grips the box from below, the left one, its mirror image, from above (alone: the way the right one does)."""
    width, height = size
    rng = np.random.default_rng(seed)
    models = {side: load_hand_model(side, dtype=torch.float64) for side in sides}
    K = pinhole_K(1.25 * max(size), width, height)
    T_cam_obj = turning_poses(frames, depth=0.67, degrees=degrees)
    betas = torch.from_numpy(rng.normal(0, 0.5, 10))
    box, params = {}, {}
    for side, model in models.items():
        box, T_obj_hand = _grip(model, betas, from_above=side == "left" and len(sides) == 2)
        params[side] = _hold(model, betas, T_cam_obj @ T_obj_hand)
    meshes = {side: lbs.forward(model, params[side]) for side, model in models.items()}
    vertices = {side: mesh.vertices.numpy() for side, mesh in meshes.items()}
    joints = {side: mesh.joints.numpy() for side, mesh in meshes.items()}
    background, textures = _background(rng, width, height), textured_box(seed)
    scene = _Scene(background, textures, box, K, {side: model.faces.numpy() for side, model in models.items()})
    shown = [_render(scene, T, {s: v[t] for s, v in vertices.items()}, rng) for t, T in enumerate(T_cam_obj)]
    masks = {entity: np.stack([mask[entity] for _, mask, _ in shown]) for entity in (*sides, "object")}
    depth_m = np.stack([depth for _, _, depth in shown])
    j2d = {side: project(x, K) for side, x in joints.items()}
    points = _box_points(box, rng)
    return SyntheticSequence([image for image, _, _ in shown], masks, depth_m, K, T_cam_obj, box, points, params, vertices, joints, j2d)


def write_tracker_files(seq: SyntheticSequence, folder: Path, lost: Mapping[Side, Sequence[int]] | None = None) -> None:
    """A sequence folder as HaMeR and SAM-Track leave it: images/, processed/sam/<entity>/images_masks/, v3d.npy and j2d.full.npy.

    HaMeR's camera is the one it invents, so its hands lie too far away. In `lost` frames a hand is NaN; frames without any hand are absent.
    """
    frames, lost = len(seq.images), lost or {}
    (folder / "images").mkdir(parents=True)
    for name, image in zip(seq.names, seq.images, strict=True):
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 97])
    for entity, masks in seq.masks.items():
        (folder / "processed" / "sam" / entity / "images_masks").mkdir(parents=True)
        for name, mask in zip(seq.names, masks, strict=True):
            cv2.imwrite(str(folder / "processed" / "sam" / entity / "images_masks" / f"{name}.png"), mask.astype(np.uint8) * 255)
    height, width = seq.images[0].shape[:2]
    K = np.array([[5000 / 256 * max(width, height), 0, width / 2], [0, 5000 / 256 * max(width, height), height / 2], [0, 0, 1]])
    seen = {side: np.isin(np.arange(frames), lost.get(side, ()), invert=True) & (side in seq.params) for side in SIDES}
    kept = np.flatnonzero(seen["right"] | seen["left"])
    im_paths = [f"./data/{folder.name}/images/{seq.names[t]}.jpg" for t in kept]
    v3d: dict[str, Any] = {"im_paths": im_paths, "K": torch.from_numpy(K).float()}
    j2d: dict[str, Any] = {"im_paths": im_paths}
    for side in SIDES:
        shift = _to_hamer_camera(seq, side, K) if side in seq.params else 0.0
        for store, key, truth, width in (
            (v3d, "v3d", seq.vertices_m, (778, 3)),
            (v3d, "j3d", seq.joints_m, (21, 3)),
            (j2d, "j2d", seq.j2d_px, (21, 2)),
        ):
            rows = np.full((frames, *width), np.nan)
            if side in truth:
                rows[seen[side]] = (truth[side] + (shift if key != "j2d" else 0.0))[seen[side]]
            store[f"{key}.{side}"] = torch.from_numpy(rows[kept]).float()
    for file, content in (("v3d.npy", v3d), ("j2d.full.npy", j2d)):
        np.save(folder / "processed" / file, np.array(content, dtype=object), allow_pickle=True)


def truth_of(seq: SyntheticSequence) -> GroundTruth:
    """The scene as a ground truth, with the box's mesh."""
    box = trimesh.creation.box(seq.box_size_m)
    hands = {side: HandTruth(seq.params[side], seq.vertices_m[side], seq.joints_m[side]) for side in seq.params}
    height, width = seq.images[0].shape[:2]
    vertices, faces = np.asarray(box.vertices), np.asarray(box.faces)
    return GroundTruth(seq.names, (width, height), seq.K, 0.0, seq.T_cam_obj, vertices, faces, hands, grasp="rigid")


def write_truth(seq: SyntheticSequence, folder: Path) -> None:
    """images/ and ground_truth/ as stage=create leaves them with source=synthetic."""
    (folder / "images").mkdir(parents=True)
    for name, image in zip(seq.names, seq.images, strict=True):
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 97])
    for entity, masks in seq.masks.items():
        (folder / "ground_truth" / "masks" / entity).mkdir(parents=True)
        for name, mask in zip(seq.names, masks, strict=True):
            cv2.imwrite(str(folder / "ground_truth" / "masks" / entity / f"{name}.png"), mask.astype(np.uint8) * 255)
    save_truth(folder / "ground_truth" / "truth.npz", truth_of(seq))


def _to_hamer_camera(seq: SyntheticSequence, side: Side, K: np.ndarray) -> np.ndarray:
    """(T, 1, 3) what to add so that a hand of unchanged size looks alike to the camera `K`."""
    root = seq.joints_m[side][:, :1]
    far = root[..., 2:] * K[0, 0] / seq.K[0, 0]
    pixel = project(root, seq.K)
    return np.concatenate([(pixel - K[:2, 2]) * far / K[0, 0], far], axis=-1) - root


def _grip(model: HandModel, betas: torch.Tensor, from_above: bool) -> tuple[np.ndarray, np.ndarray]:
    """Edge lengths of a box that fits between thumb and fingers, and T_obj_hand (4, 4) of the hand's root (see `_hold`).

    Box frame: x from the fingers to the thumb, y from there to the palm: the hand comes from +y, the image's bottom.
    """
    still = lbs.forward(model, _hold(model, betas, np.eye(4)[None]))
    joints = still.joints[0].numpy()
    thumb, fingers, knuckles = joints[16], joints[[17, 18]].mean(axis=0), joints[[1, 4, 7, 10]].mean(axis=0)
    palm = (joints[0] + knuckles) / 2
    x = (thumb - fingers) / np.linalg.norm(thumb - fingers)
    middle = (thumb + fingers) / 2
    y = palm - middle
    y -= (y @ x) * x
    y /= np.linalg.norm(y)
    width = np.linalg.norm(thumb - fingers) - 2 * FINGER_RADIUS_M
    room = (knuckles - middle) @ y - FINGER_RADIUS_M  # the box must not reach the palm
    half_length = GRIP_DEPTH_M + max(min(room, 0.02), 0.0)
    hand_axes = np.stack([x, y, np.cross(x, y)], axis=1)
    T_hand_obj = from_rt(hand_axes, middle - GRIP_DEPTH_M * y)
    T_obj_hand = invert(T_hand_obj)
    if from_above:  # for the left hand, whose box has z the other way round, this mirrors the right hand's grip in y
        T_obj_hand = from_rt(np.diag([1.0, -1.0, -1.0]), np.zeros(3)) @ T_obj_hand
    return np.array([width, 2 * half_length, 0.07]), T_obj_hand


def _hold(model: HandModel, betas: torch.Tensor, T_cam_hand: np.ndarray) -> ManoParams:
    """A curled hand whose wrist joint is the origin of the frame `T_cam_hand` (T, 4, 4), axes as the model's."""
    curl = np.zeros((15, 3))
    flexion = 1.0 if model.side == "right" else -1.0  # fingers lie along -x (right) or x (left), palm down: flexion turns about z
    curl[:12, 2] = flexion * np.tile([0.1, -0.2, -0.1], 4)  # on top of the mean pose, which is curled already
    hand_pose = torch.from_numpy(np.tile(curl.ravel(), (len(T_cam_hand), 1)))
    wrist = (model.J_regressor @ (model.v_template + model.shapedirs @ betas))[0].numpy()
    rotation = Rotation.from_matrix(T_cam_hand[:, :3, :3]).as_rotvec()
    return ManoParams(torch.from_numpy(rotation), hand_pose, betas, torch.from_numpy(T_cam_hand[:, :3, 3] - wrist))


@dataclass(frozen=True)
class _Scene:
    """What is the same in all frames."""

    background: np.ndarray
    textures: list[np.ndarray]
    box: np.ndarray
    K: np.ndarray
    faces: Mapping[Side, np.ndarray]


def _render(
    scene: _Scene, T_cam_obj: np.ndarray, hands: Mapping[Side, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """One frame, its visible masks and its depth: every pixel belongs to what is nearest there."""
    box, K = scene.box, scene.K
    image, mask = render_box(scene.background, scene.textures, tuple(box), K, T_cam_obj)
    masks = {"object": mask}
    nearest = np.where(mask, _box_depth(image.shape[:2], box, K, T_cam_obj), np.inf)
    for side, vertices in hands.items():
        colour, depth = _render_mesh(image.shape[:2], vertices, scene.faces[side], K, rng)
        front = depth < nearest
        masks = {entity: other & ~front for entity, other in masks.items()} | {side: front}
        image, nearest = np.where(front[..., None], colour, image), np.minimum(nearest, depth)
    noisy = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.5) + rng.normal(0, 2, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), masks, nearest


def _render_mesh(
    shape: tuple[int, int], vertices: np.ndarray, faces: np.ndarray, K: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Skin colour (H, W, 3) and depth (H, W; inf where nothing is) of a mesh: painter's algorithm, one shade and depth a triangle."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    light = np.array([-0.4, -0.6, -0.7])
    shade = 0.55 + 0.45 * np.abs(normals @ light) + rng.normal(0, 0.02, len(faces))
    colours = np.clip(shade[:, None] * np.array([120, 150, 205]), 0, 255)
    depths = corners[..., 2].mean(axis=1)
    pixels = np.round(project(corners, K) * 16).astype(np.int32)
    colour, depth = np.zeros((*shape, 3), np.float32), np.full(shape, np.inf, np.float32)
    for i in np.argsort(-depths):
        cv2.fillConvexPoly(colour, pixels[i], colours[i].tolist(), shift=4)
        cv2.fillConvexPoly(depth, pixels[i], float(depths[i]), shift=4)
    return colour, depth


def _box_depth(shape: tuple[int, int], box: np.ndarray, K: np.ndarray, T_cam_obj: np.ndarray) -> np.ndarray:
    """(H, W) depth at which each pixel's ray enters the box (where it misses the box, a number without meaning): the slab method."""
    v, u = np.indices(shape)
    rays = np.stack([u, v, np.ones(shape)], axis=-1) @ np.linalg.inv(K).T @ T_cam_obj[:3, :3]
    start = -T_cam_obj[:3, :3].T @ T_cam_obj[:3, 3]
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    return np.minimum((box / 2 - start) / rays, (-box / 2 - start) / rays).max(axis=-1)


def _background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A wall (height, width, 3) with blotches of several sizes."""
    image = np.full((height, width, 3), 115.0)
    for sigma in (2.0, 9.0, 40.0):
        layer = cv2.GaussianBlur(rng.normal(size=(height, width, 1)) + 0.4 * rng.normal(size=(height, width, 3)), (0, 0), sigma)
        image += 12 * layer / layer.std()
    return np.clip(image, 0, 255).astype(np.uint8)


def _box_points(box: np.ndarray, rng: np.random.Generator, count: int = 600) -> np.ndarray:
    """(count, 3) points spread evenly over the box's surface."""
    areas = np.prod(box) / box
    axis = rng.choice(3, count, p=areas / areas.sum())
    points = rng.uniform(-0.5, 0.5, (count, 3))
    points[np.arange(count), axis] = rng.choice([-0.5, 0.5], count)
    return points * box
