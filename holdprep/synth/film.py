"""Rendered video of hands and an object: skin, sleeves, background, a hand-held camera with lens, exposure and sensor noise."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation, Slerp

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, project
from holdprep.geometry.normals import vertex_normals
from holdprep.geometry.rigid import apply, from_rt
from holdprep.hand.joints import MANO21_TIP_VERTICES, WRIST_RING
from holdprep.hand.model import HandModel, Side
from holdprep.synth.render import Mesh, Rendered, Renderer
from holdprep.synth.textures import make_room, make_texture

ENTITY = {"right": 1, "left": 2, "object": 3}
ARM = 4  # forearms and sleeves occlude, but are no entity
SUB_FRAMES, STEP_PX = 8, 2.0  # of a blurred image: maximal number, and maximal motion between two
GAMMA = 2.2
SKIN = np.array([[0.62, 0.36, 0.26], [0.50, 0.27, 0.18], [0.72, 0.46, 0.36], [0.30, 0.16, 0.10]])  # linear RGB, from fair to dark
ARM_STEPS_M = np.array([0.015, 0.04, 0.06, 0.061, 0.12, 0.6])  # rings of the forearm behind the wrist
ARM_WIDTH = np.array([1.02, 1.12, 1.2, 1.38, 1.5, 2.2])
SLEEVE_M = 0.0605  # start of the sleeve


@dataclass(frozen=True)
class Camera:
    """The camera: `K` (3, 3), `size` (width, height), `distortion` SIMPLE_RADIAL's k, `shake_deg` standard deviation of its rotation.

    `blur` is the exposure as a share of the time between frames, `noise` the standard deviation of the sensor in grey levels.
    """

    K: np.ndarray
    size: tuple[int, int]
    distortion: float = 0.0
    shake_deg: float = 0.0
    blur: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True)
class Actors:
    """Object and hands in the frame of a camera without shake.

    `T_cam_obj` (T, 4, 4), the object's mesh and texture, and by side the hand's vertices `hands_m` (T, 778, 3) with its model.
    """

    T_cam_obj: np.ndarray
    object_vertices_m: np.ndarray
    object_faces: np.ndarray
    object_uv: np.ndarray
    texture: str
    hands_m: Mapping[Side, np.ndarray]
    models: Mapping[Side, HandModel]


@dataclass(frozen=True)
class Shot:
    """One frame: `image` (H, W, 3) uint8 BGR, visible `masks` by entity (H, W) bool, `depth_m` (H, W), infinite in the background."""

    image: np.ndarray
    masks: dict[str, np.ndarray]
    depth_m: np.ndarray


def shake(frames: int, std_deg: float, seed: int) -> np.ndarray:
    """(T, 4, 4) T_shaken_static: slow rotation of a hand-held camera, smooth over about 0.3 s at 30 fps."""
    rng = np.random.default_rng(seed)
    rotvecs = gaussian_filter1d(rng.standard_normal((frames + 40, 3)), 5.0, axis=0)[20 : frames + 20]
    rotvecs *= np.radians(std_deg) / max(float(rotvecs.std()), 1e-12)
    return from_rt(Rotation.from_rotvec(rotvecs).as_matrix(), np.zeros((frames, 3)))


def shoot(actors: Actors, camera: Camera, seed: int) -> Iterator[Shot]:
    """The video, frame by frame. A hand's mask is its model's mesh, open at the wrist; forearm and sleeve occlude, but are no entity."""
    rng = np.random.default_rng(seed)
    lens = _Lens(camera)
    width, height = lens.size
    T_shaken = shake(len(actors.T_cam_obj), camera.shake_deg, seed)
    stage = Stage(actors, T_shaken, np.random.default_rng(seed + 1))
    room = to_linear(make_room(rng, int(1.3 * width), int(1.3 * height)))
    with Renderer(width, height, {"object": make_texture(actors.texture, seed)}) as renderer:
        for t in range(len(actors.T_cam_obj)):
            exact = renderer.render(lens.K, stage.meshes(float(t)))
            exposed = []
            for moment in stage.exposure(t, lens.K, camera.blur):
                image = exact.image if moment == t else renderer.render(lens.K, stage.meshes(moment), facts=False).image
                exposed.append(_over(image, _background(room, lens.K, (width, height), stage.shaken_at(moment)[:3, :3])))
            picture = np.mean(exposed, axis=0)
            yield _develop(picture, exact, lens, camera, rng)


def to_linear(picture: np.ndarray) -> np.ndarray:
    """Linear light (..., 3) float32 in 0..1 of a uint8 image."""
    return ((np.arange(256) / 255) ** GAMMA).astype(np.float32)[picture]


def _over(image: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The image over the background; colours of partly covered pixels are premultiplied."""
    return image[..., :3] + behind * (1 - image[..., 3:])


def _background(room: np.ndarray, K: np.ndarray, size: tuple[int, int], R_shaken: np.ndarray) -> np.ndarray:
    """The background under a rotated camera: a homography of its plate, which is larger than the image by the same margin on all sides."""
    margin = (np.array(room.shape[1::-1]) - size) / 2
    plate_K = np.array([[1, 0, margin[0]], [0, 1, margin[1]], [0, 0, 1]]) @ K
    H = plate_K @ R_shaken.T @ np.linalg.inv(K)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(room, H, size, flags=flags, borderMode=cv2.BORDER_REFLECT)


def _develop(picture: np.ndarray, exact: Rendered, lens: "_Lens", camera: Camera, rng: np.random.Generator) -> Shot:
    light = cv2.GaussianBlur(lens.bend(picture, cv2.INTER_LINEAR), (0, 0), 0.5)
    noisy = 255 * np.clip(light, 0, 1) ** (1 / GAMMA) + camera.noise * rng.standard_normal(light.shape, dtype=np.float32)
    entity = lens.bend(exact.entity, cv2.INTER_NEAREST)
    masks = {name: entity == number for name, number in ENTITY.items()}
    return Shot(np.clip(noisy.round(), 0, 255).astype(np.uint8), masks, lens.bend(exact.depth_m, cv2.INTER_NEAREST))


class _Lens:
    """A sufficiently large pinhole image, and the position in it of each pixel of the distorted one."""

    def __init__(self, camera: Camera) -> None:
        self._k = camera.distortion
        width, height = camera.size
        self.K, self.size = camera.K, camera.size
        if self._k == 0:
            return
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 1, 2).astype(np.float64)
        # OpenCV's radial model with k2 = 0 is SIMPLE_RADIAL
        close = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-8)
        straight = cv2.undistortPoints(grid, camera.K, np.array([self._k, 0, 0, 0.0]), R=np.eye(3), P=camera.K, criteria=close)
        rays = np.concatenate([straight - camera.K[:2, 2], np.ones((*straight.shape[:2], 1))], axis=2) / [*np.diag(camera.K)[:2], 1]
        lost = ~(np.linalg.norm(project(distort(rays, self._k), camera.K) - grid, axis=2) < 0.05)
        if lost.any():
            raise HoldprepError(
                f"distortion {self._k:g} bends {lost.sum()} of {width * height} pixels outside of all rays: "
                "use a smaller distortion or a longer focal length"
            )
        straight = straight.reshape(height, width, 2)
        margin = np.ceil(np.maximum(-straight.min(axis=(0, 1)), straight.max(axis=(0, 1)) - np.array([width - 1, height - 1]))).astype(int)
        margin = np.maximum(margin, 0) + 1
        self.size = (width + 2 * int(margin[0]), height + 2 * int(margin[1]))
        self.K = camera.K + np.array([[0, 0, margin[0]], [0, 0, margin[1]], [0, 0, 0]])
        self._look_u, self._look_v = np.moveaxis((straight + margin).astype(np.float32), 2, 0)

    def bend(self, picture: np.ndarray, flags: int) -> np.ndarray:
        """The image distorted by the lens."""
        return picture if self._k == 0 else cv2.remap(picture, self._look_u, self._look_v, flags)


class Stage:
    """Meshes at any time, also between frames."""

    def __init__(self, actors: Actors, T_shaken: np.ndarray, rng: np.random.Generator) -> None:
        self._actors = actors
        self.shaken_at, self._object_at = _interpolator(T_shaken), _interpolator(actors.T_cam_obj)
        skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.9, 1.1)
        cloth = rng.uniform(0.02, 0.5, 3)
        self._limbs = {side: Limb(model, skin, cloth) for side, model in actors.models.items()}

    def meshes(self, t: float) -> list[Mesh]:
        """All meshes at time `t` in frames."""
        actors, T = self._actors, self.shaken_at(t)
        vertices_m = apply(T @ self._object_at(t), actors.object_vertices_m)
        white = np.ones_like(vertices_m)
        found = [Mesh(vertices_m, actors.object_faces, ENTITY["object"], white, actors.object_uv, "object", gloss=0.12)]
        for side, vertices in actors.hands_m.items():
            found += self._limbs[side].meshes(apply(T, _between(vertices, t)), ENTITY[side])
        return found

    def exposure(self, t: int, K: np.ndarray, share: float) -> list[float]:
        """The times whose mean is a frame exposed around `t`; `t` alone without significant motion."""
        opens, closes = np.clip([t - share / 2, t + share / 2], 0, len(self._actors.T_cam_obj) - 1)
        if opens == closes:
            return [float(t)]
        start, end = (
            np.concatenate([project(mesh.vertices_m, K) for mesh in self.meshes(moment) if mesh.entity != ARM])
            for moment in (opens, closes)
        )
        count = int(np.clip(np.ceil(np.linalg.norm(end - start, axis=1).max() / STEP_PX), 1, SUB_FRAMES))
        return [float(t)] if count == 1 else (opens + (np.arange(count) + 0.5) / count * (closes - opens)).tolist()


def _between(x: np.ndarray, t: float) -> np.ndarray:
    """Linear interpolation of (T, ...) over its first axis."""
    low = min(int(t), max(len(x) - 2, 0))
    return x[low] if t == low else (1 - (t - low)) * x[low] + (t - low) * x[low + 1]


def _interpolator(T: np.ndarray) -> Callable[[float], np.ndarray]:
    """Poses (T, 4, 4) at any time between the first and the last frame: SLERP and linear interpolation."""
    frames = np.arange(len(T))
    slerp = Slerp(frames, Rotation.from_matrix(T[:, :3, :3])) if len(T) > 1 else None

    def at(t: float) -> np.ndarray:
        if slerp is None or t == int(t):
            return T[int(t)]
        return from_rt(slerp(t).as_matrix(), _between(T[:, :3, 3], t))

    return at


def skin_colour(model: HandModel, base: np.ndarray) -> np.ndarray:
    """(778, 3) linear RGB: redder at fingertips and knuckles, paler in the palm."""
    rest = model.v_template
    joints = model.J_regressor @ rest
    tips = rest[list(MANO21_TIP_VERTICES)]
    near_tip = torch.exp(-((torch.cdist(rest, tips).min(dim=1).values / 0.012) ** 2))
    near_knuckle = torch.exp(-((torch.cdist(rest, joints[1:]).min(dim=1).values / 0.011) ** 2))
    red = (0.5 * near_tip + 0.25 * near_knuckle).numpy()[:, None]
    palm = np.clip((joints[0, 1] - rest[:, 1]).numpy() / 0.02, 0, 1)[:, None]
    colour = base * (1 + red * np.array([0.15, -0.25, -0.2])) * (1 + 0.12 * palm)
    return np.clip(colour, 0, 1)


class Limb:
    """A hand with a forearm attached to the open wrist: bare at first, then a sleeve."""

    def __init__(self, model: HandModel, skin: np.ndarray, cloth: np.ndarray) -> None:
        self._hand, hand_rest = model.faces.numpy(), model.v_template.numpy()
        ring = np.array(WRIST_RING)
        rings = np.stack([ring, *(len(hand_rest) + np.arange(len(ring) * len(ARM_STEPS_M)).reshape(-1, len(ring)))])
        if (np.stack([self._hand, np.roll(self._hand, -1, axis=1)], axis=-1) == ring[:2]).all(axis=-1).any():
            rings = rings[:, ::-1]  # adjacent faces have opposite directions of their common edge
        a, b = rings, np.roll(rings, -1, axis=1)
        self._arm = np.stack([a[:-1], b[:-1], a[1:], b[:-1], b[1:], a[1:]], axis=-1).reshape(-1, 3)
        # the skin's texture is fixed to the wrist's rest shape
        self._rest = np.concatenate([hand_rest, *(hand_rest[ring] + [0, 0, step] for step in ARM_STEPS_M)])
        hand = skin_colour(model, skin)
        self._colour = np.concatenate([hand, *(hand[ring] if step < SLEEVE_M else np.tile(cloth, (len(ring), 1)) for step in ARM_STEPS_M)])

    def meshes(self, hand_m: np.ndarray, entity: int) -> list[Mesh]:
        """The hand (778, 3) and its arm, with continuous normals at the wrist."""
        vertices = np.concatenate([hand_m, _arm_rings(hand_m)])
        normals = vertex_normals(vertices, np.concatenate([self._hand, self._arm]))
        parts = ((self._hand, entity), (self._arm, ARM))
        return [Mesh(vertices, faces, number, self._colour, rest_m=self._rest, normals=normals) for faces, number in parts]


def _arm_rings(hand_m: np.ndarray) -> np.ndarray:
    """Vertices (R, 3) of the rings behind the wrist of a hand (778, 3)."""
    ring = hand_m[list(WRIST_RING)]
    centre = ring.mean(axis=0)
    normal = np.linalg.svd(ring - centre)[2][2]
    back = normal * np.sign(normal @ (centre - hand_m.mean(axis=0)))
    away = back * [1, 1, 0] + [0, 0, max(back[2], 0.15)]  # the arm is bent away from the camera, which it would occlude
    bend = np.clip(ARM_STEPS_M / 0.06, 0, 1)[:, None]
    way = (1 - bend) * back + bend * away / np.linalg.norm(away)
    rings = centre + (ARM_STEPS_M[:, None] * way)[:, None] + ARM_WIDTH[:, None, None] * (ring - centre)
    return rings.reshape(-1, 3)
