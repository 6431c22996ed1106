"""Rendered scenes with exact ground truth, shared by the tests: plain numpy and OpenCV, no files, no network."""

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt

# Corners of a unit box, x fastest; the faces' corners go around so that (b - a) x (c - a) points outwards.
_BOX_CORNERS = np.array([[x, y, z] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
_BOX_FACES = ((0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (2, 6, 7, 3), (0, 4, 6, 2), (1, 3, 7, 5))


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
    width: int = 480,
    height: int = 360,
    focal_px: float = 520.0,
    size: tuple[float, float, float] = (0.10, 0.08, 0.07),
    depth: float = 0.38,
    degrees: float = 150.0,
    textures: list[np.ndarray] | None = None,
    seed: int = 0,
) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Images (T of (H, W, 3)), masks (T of (H, W) bool), K (3, 3) and T_cam_obj (T, 4, 4) in metres of a turning textured box."""
    rng = np.random.default_rng(seed + 1)
    K, poses = pinhole_K(focal_px, width, height), turning_poses(num_frames, depth, degrees)
    background = np.clip(110 + 10 * cv2.GaussianBlur(rng.normal(size=(height, width, 3)), (0, 0), 3) * 3, 0, 255).astype(np.uint8)
    textures = textured_box(seed) if textures is None else textures
    images, masks = zip(*(render_box(background, textures, size, K, T) for T in poses), strict=True)
    noisy = [np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8) for image in images]
    return noisy, list(masks), K, poses
