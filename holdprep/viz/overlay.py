"""Overlays on frames: functions of BGR images (H, W, 3) uint8, which are not modified."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from holdprep.geometry.cameras import project
from holdprep.geometry.normals import face_normals
from holdprep.geometry.raster import paint
from holdprep.hand.joints import FINGERS

if TYPE_CHECKING:
    from holdprep.hand.model import Side

COLORS = {"right": (80, 180, 60), "left": (220, 150, 40), "object": (60, 60, 230)}  # BGR
FINGER_COLORS = ((60, 200, 255), (80, 220, 80), (230, 200, 40), (220, 90, 200), (70, 110, 255))  # index, middle, little, ring, thumb
PALE = 0.3  # opacity of what was not measured in a frame
LIGHT = np.array([0.3, -0.5, -0.8]) / np.linalg.norm([0.3, -0.5, -0.8])


def draw_masks(image: np.ndarray, masks: Mapping[str, np.ndarray], alpha: float = 0.45) -> np.ndarray:
    """The image with each entity's mask (H, W) bool tinted in its colour, with an outline."""
    out = image.copy()
    for entity, mask in masks.items():
        color = np.array(COLORS[entity])
        out[mask] = ((1 - alpha) * out[mask] + alpha * color).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(out, contours, -1, COLORS[entity], 1, cv2.LINE_AA)
    return out


def draw_skeleton(image: np.ndarray, j2d_px: np.ndarray, confidence: np.ndarray | None = None) -> np.ndarray:
    """The image with 21 joints (21, 2) in MANO-21 order, one colour per finger; without NaN joints and those of confidence below 0.05."""
    out = image.copy()
    shown = np.isfinite(j2d_px).all(axis=1) & (True if confidence is None else confidence >= 0.05)
    size = max(image.shape[:2]) // 400 + 1
    for finger, color in zip(FINGERS, FINGER_COLORS, strict=True):
        for a, b in pairwise((0, *finger)):
            if shown[a] and shown[b]:
                cv2.line(out, _pixel(j2d_px[a]), _pixel(j2d_px[b]), color, size, cv2.LINE_AA)
        for joint in (0, *finger):
            if shown[joint]:
                cv2.circle(out, _pixel(j2d_px[joint]), size + 1, color, -1, cv2.LINE_AA)
    return out


def draw_points(image: np.ndarray, px: np.ndarray, colors: np.ndarray | tuple[int, int, int]) -> np.ndarray:
    """The image with points (N, 2) px as dots, in one BGR colour or (N, 3)."""
    out = image.copy()
    radius = max(image.shape[:2]) // 640 + 1
    finite = np.isfinite(px).all(axis=1)
    centre = np.clip(np.round(px[finite]), -1e5, 1e5).astype(int)
    each = np.broadcast_to(np.asarray(colors), (len(px), 3))[finite]
    disc = np.argwhere(np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius + 0.5) - radius
    for offset in disc:  # all points at once are ten times as fast as a circle each
        x, y = (centre + offset).T
        inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
        out[y[inside], x[inside]] = each[inside]
    return out


def draw_axes(image: np.ndarray, K: np.ndarray, T_cam_obj: np.ndarray, length: float) -> np.ndarray:
    """The image with the object frame's axes, x red, y green, z blue, of `length` in the unit of T_cam_obj (4, 4)."""
    ends = np.concatenate([np.zeros((1, 3)), length * np.eye(3)]) @ T_cam_obj[:3, :3].T + T_cam_obj[:3, 3]
    if (ends[:, 2] <= 0).any():
        return image
    px, out = project(ends, K), image.copy()
    for end, color in zip(px[1:], ((0, 0, 255), (0, 220, 0), (255, 80, 0)), strict=True):
        cv2.line(out, _pixel(px[0]), _pixel(end), color, max(image.shape[:2]) // 320 + 1, cv2.LINE_AA)
    return out


def draw_mesh(
    image: np.ndarray, vertices_cam_m: np.ndarray, faces: np.ndarray, K: np.ndarray, color: tuple[int, int, int], alpha: float = 0.75
) -> np.ndarray:
    """The image with a shaded mesh (V, 3), drawn from far to near, without triangles behind the camera."""
    if not np.isfinite(vertices_cam_m).all():
        return image
    corners = vertices_cam_m[faces]
    normals = face_normals(vertices_cam_m, faces)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12
    shade = 0.35 + 0.65 * np.abs(normals @ LIGHT)
    px = np.clip(project(vertices_cam_m, K), -1e5, 1e5)[faces]
    order = np.argsort(-corners[..., 2].mean(axis=1))
    order = order[(corners[order, :, 2] > 0).all(axis=1)]
    out, size = image.copy(), np.array(image.shape[1::-1])
    low = np.clip(np.floor(px[order].min(axis=(0, 1), initial=1e5)), 0, size).astype(int)
    high = np.clip(np.ceil(px[order].max(axis=(0, 1), initial=-1e5)) + 1, low, size).astype(int)
    part = out[low[1] : high[1], low[0] : high[0]]  # bounding box of the mesh
    if not part.size:
        return out
    layer = np.dstack([part, np.zeros(part.shape[:2], np.uint8)])  # with a coverage channel
    paint(layer, (px - low)[order], np.column_stack([shade[:, None] * color, np.full(len(shade), 255)])[order].tolist())
    part[:] = np.where(layer[..., 3:] > 0, cv2.addWeighted(layer[..., :3], alpha, part, 1 - alpha, 0), part)
    return out


def draw_scene(
    image: np.ndarray,
    points_px: np.ndarray,
    meshes: "Mapping[Side, tuple[np.ndarray, np.ndarray]]",
    K: np.ndarray,
    unmeasured: Collection[str] = (),
) -> np.ndarray:
    """The image with the object's points (N, 2) px and each side's mesh (vertices (V, 3) m, faces), all in their colours.

    `unmeasured` entities, infilled hands and an object whose pose was interpolated or held, are pale and listed in a line of text.
    """
    out = draw_points(image, points_px, COLORS["object"])
    if "object" in unmeasured:
        out = cv2.addWeighted(out, PALE, image, 1 - PALE, 0)
    for side, (vertices_m, faces) in meshes.items():
        out = draw_mesh(out, vertices_m, faces, K, COLORS[side], alpha=PALE if side in unmeasured else 0.75)
    lines = [f"{side} hand infilled" for side in meshes if side in unmeasured]
    lines += ["object's pose not measured"] if "object" in unmeasured else []
    return _labelled(out, ", ".join(lines)) if lines else out


def side_view(parts: Mapping[str, np.ndarray], size: int = 480) -> np.ndarray:
    """Side view of points (N, 3) of each entity: depth to the right, the image's y axis down. It shows depth errors."""
    out = np.full((size, size, 3), 250, np.uint8)
    everything = np.concatenate([p[np.isfinite(p).all(axis=1)] for p in parts.values()])
    if not len(everything):
        return out
    centre, extent = np.median(everything, axis=0), float(np.percentile(np.ptp(everything, axis=0), 100))
    scale = 0.85 * size / max(extent, 1e-6)
    for entity, points in parts.items():
        xy = (points[:, [2, 1]] - centre[[2, 1]]) * scale + size / 2
        out = draw_points(out, xy, COLORS[entity])
    bar = scale * 0.05
    cv2.line(out, (12, size - 14), (int(12 + bar), size - 14), (40, 40, 40), 2)
    cv2.putText(out, "5 cm, depth ->", (int(20 + bar), size - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return out


def contact_sheet(images: Sequence[np.ndarray], labels: Sequence[str], columns: int = 4, width: int = 320) -> np.ndarray:
    """Images in a grid, each of `width`, with its label."""
    tiles = []
    for image, label in zip(images, labels, strict=True):
        tile = cv2.resize(image, (width, round(image.shape[0] * width / image.shape[1])), interpolation=cv2.INTER_AREA)
        tiles.append(_labelled(tile, label))
    columns = min(columns, len(tiles))
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def _labelled(image: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of text in the upper left corner, white with a black outline."""
    out = image.copy()
    size = max(0.5, max(image.shape[:2]) / 1280)
    at, thickness, outline_px = np.array([6, round(36 * size)]), max(1, round(2 * size)), max(1, round(2 * size))
    around = [np.array([x, y]) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y]
    # the outline is the text moved: a thicker text is a bold one in OpenCV 5, whose letters are wider
    for offset, color in (*((outline_px * each, (0, 0, 0)) for each in around), (np.zeros(2, int), (255, 255, 255))):
        cv2.putText(out, text, _pixel(at + offset), cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
    return out


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return tuple(int(v) for v in np.clip(np.round(point), -1e5, 1e5))  # type: ignore[return-value]
