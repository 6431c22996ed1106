"""Films: lens, shake and blur do to pictures what their equations say, and masks follow."""

import cv2
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.hand import lbs
from holdprep.hand.model import ManoParams, Side, load_hand_model
from holdprep.synth import film

SIZE = (320, 240)
K = pinhole_K(300.0, *SIZE)
FRAMES = 4
PLACE = from_rt(np.eye(3), np.array([0.02, 0.01, 0.5]))


def actors(speed_m: float = 0.0) -> film.Actors:
    ball = trimesh.creation.icosphere(4, 0.04)
    T = np.stack([PLACE] * FRAMES)
    T[:, 0, 3] += speed_m * np.arange(FRAMES)
    model = load_hand_model("right", dtype=torch.float64)
    rest = ManoParams(torch.zeros(FRAMES, 3), torch.zeros(FRAMES, 45), torch.zeros(10), torch.tensor([[-0.1, 0.06, 0.6]] * FRAMES))
    hand = lbs.forward(model, ManoParams(*(x.double() for x in (rest.global_orient, rest.hand_pose, rest.betas, rest.transl))))
    uv = np.asarray(ball.vertices)[:, :2] / 0.08 + 0.5
    return film.Actors(
        T, np.asarray(ball.vertices), np.asarray(ball.faces), uv, "label", {"right": hand.vertices.numpy()}, {"right": model}
    )


def shots(camera: film.Camera, speed_m: float = 0.0) -> list[film.Shot]:
    try:
        return list(film.shoot(actors(speed_m), camera, seed=1))
    except HoldprepError as error:
        pytest.skip(str(error))


WRIST_X = {"right": 1.0, "left": -1.0}  # where the forearm lies in the rest pose


def _skin_light(seed: int) -> np.ndarray:
    try:
        shot = next(film.shoot(actors(), film.Camera(K, SIZE), seed))
    except HoldprepError as error:
        pytest.skip(str(error))
    return shot.image[shot.masks["right"]].astype(float)


def centre_px(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)[::-1]


def test_masks_are_disjoint_and_where_the_truth_projects():
    found = shots(film.Camera(K, SIZE))
    for shot in found:
        assert not (shot.masks["right"] & shot.masks["object"]).any()
        u, v = np.round(project(actors().hands_m["right"][0], K)).astype(int).T
        assert shot.masks["right"][v, u].mean() > 0.75  # the rest lies on the outline or behind the ball
        np.testing.assert_allclose(centre_px(shot.masks["object"]), project(apply(PLACE, np.zeros((1, 3))), K)[0], atol=0.6)
        depth = shot.depth_m[shot.masks["object"]]
        assert depth.min() == pytest.approx(0.46, abs=2e-3)


def test_the_lens_moves_the_picture_by_its_equation():
    camera = film.Camera(K, SIZE, distortion=-0.25)
    far = PLACE[None, :3, 3] + np.array([0.15, 0.09, 0])
    moved = film.Actors(**{**vars(actors()), "T_cam_obj": np.stack([from_rt(np.eye(3), far[0])] * FRAMES)})
    try:
        shot = next(film.shoot(moved, camera, seed=1))
    except HoldprepError as error:
        pytest.skip(str(error))
    straight, bent = project(far, K)[0], project(distort(far, -0.25), K)[0]
    assert np.linalg.norm(straight - bent) > 4
    np.testing.assert_allclose(centre_px(shot.masks["object"]), bent, atol=1.2)


def test_shake_turns_everything_alike():
    T = film.shake(50, 1.0, seed=3)
    turns = rotation_angle_deg(T[:, :3, :3], np.eye(3)[None].repeat(50, 0))
    assert np.sqrt((turns**2).mean() / 3) == pytest.approx(1.0, rel=0.2)
    assert rotation_angle_deg(T[1:, :3, :3], T[:-1, :3, :3]).max() < 1.0
    found = shots(film.Camera(K, SIZE, shake_deg=2.0))
    for t, shot in enumerate(found):
        seen = project(apply(film.shake(FRAMES, 2.0, 1)[t] @ PLACE, np.zeros((1, 3))), K)[0]
        np.testing.assert_allclose(centre_px(shot.masks["object"]), seen, atol=0.6)


def test_blur_smears_what_moves_and_leaves_the_truth_sharp():
    sharp, blurred = shots(film.Camera(K, SIZE), 0.02), shots(film.Camera(K, SIZE, blur=0.8), 0.02)
    mask = sharp[1].masks["object"]
    np.testing.assert_array_equal(mask, blurred[1].masks["object"])

    def detail(shot: film.Shot) -> float:
        return float(np.abs(np.diff(shot.image.astype(float), axis=1))[mask[:, 1:]].mean())

    assert detail(blurred[1]) < 0.75 * detail(sharp[1])


def test_a_shaken_exposure_blurs_the_room_too():
    """Like a mean of sharp rooms, each turned by its part of the shake (a camera that turns sees a homography)."""
    sharp, blurred = (shots(film.Camera(K, SIZE, shake_deg=8.0, blur=blur))[1].image[:70, 60:-60].astype(float) for blur in (0.0, 1.0))
    whole = film.to_linear(shots(film.Camera(K, SIZE, shake_deg=8.0))[1].image)
    R = film.shake(FRAMES, 8.0, 1)[:, :3, :3]
    expected = []
    for s in np.linspace(-0.5, 0.5, 17):
        step = Rotation.from_matrix(R[1 + int(np.sign(s))] @ R[1].T).as_rotvec() * abs(s)
        H = K @ Rotation.from_rotvec(step).as_matrix() @ np.linalg.inv(K)
        expected.append(cv2.warpPerspective(whole, H, SIZE))
    mean = 255 * np.mean(expected, axis=0)[:70, 60:-60] ** (1 / 2.2)
    assert np.abs(blurred - mean).mean() < 0.4 * np.abs(blurred - sharp).mean()


def test_an_exposure_takes_more_moments_the_more_moves():
    stages = {speed: film.Stage(actors(speed), np.stack([np.eye(4)] * FRAMES), np.random.default_rng(0)) for speed in (0.0, 0.01, 0.2)}
    moments = {speed: stage.exposure(1, K, 0.5) for speed, stage in stages.items()}
    assert moments[0.0] == [1.0]
    # 0.01 m at 0.46 m and 300 px: 6.5 px a frame, 3.3 in half of one, two steps
    np.testing.assert_allclose(moments[0.01], [0.875, 1.125])
    assert len(moments[0.2]) == film.SUB_FRAMES
    assert np.mean(moments[0.2]) == pytest.approx(1.0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_forearms_go_on_where_hands_end(side: Side):
    model = load_hand_model(side, dtype=torch.float64)
    hand, arm = film.Limb(model, film.SKIN[0], np.zeros(3)).meshes(model.v_template.numpy(), film.ENTITY[side])
    limb = trimesh.Trimesh(hand.vertices_m, np.concatenate([hand.faces, arm.faces]), process=False)
    assert limb.is_winding_consistent
    assert (np.linalg.norm(hand.normals, axis=1) > 0.99).all()
    elbow = np.sign(WRIST_X[side]) * (hand.vertices_m[778:, 0] - hand.vertices_m[:778, 0].mean())
    assert elbow.min() > 0.08
    ring = trimesh.grouping.group_rows(np.sort(limb.edges, axis=1), require_count=1)
    assert (limb.edges[ring] >= 778).all()  # the one open end is the elbow's


def test_skin_is_no_flat_colour_and_differs_between_seeds():
    found = {seed: _skin_light(seed) for seed in range(6)}
    means = np.array([light.mean(axis=0) for light in found.values()])
    assert np.ptp(means[:, 2]) > 25
    model = load_hand_model("right")
    colour = film.skin_colour(model, film.SKIN[0])
    redness = colour[:, 0] / colour[:, 1]
    assert redness[list(film.MANO21_TIP_VERTICES)].min() > 1.1 * np.median(redness)


def test_a_lens_that_folds_the_picture_is_refused():
    with pytest.raises(HoldprepError, match=r"distortion -0.5 bends \d+ of 76800 pixels"):
        next(film.shoot(actors(), film.Camera(K, SIZE, distortion=-0.6 + 0.1), seed=0))


def test_noise_is_as_strong_as_told_and_the_film_repeats_itself():
    clean, noisy, again = shots(film.Camera(K, SIZE)), shots(film.Camera(K, SIZE, noise=4.0)), shots(film.Camera(K, SIZE, noise=4.0))
    difference = noisy[0].image[:40].astype(float) - clean[0].image[:40]
    assert difference.std() == pytest.approx(4.0, rel=0.1)
    np.testing.assert_array_equal(noisy[2].image, again[2].image)
