"""Films: lens, shake and blur do to pictures what their equations say, and masks follow."""

import numpy as np
import pytest
import torch
import trimesh

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.hand import lbs
from holdprep.hand.model import ManoParams, load_hand_model
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


def test_noise_is_as_strong_as_told_and_the_film_repeats_itself():
    clean, noisy, again = shots(film.Camera(K, SIZE)), shots(film.Camera(K, SIZE, noise=4.0)), shots(film.Camera(K, SIZE, noise=4.0))
    difference = noisy[0].image[:40].astype(float) - clean[0].image[:40]
    assert difference.std() == pytest.approx(4.0, rel=0.1)
    np.testing.assert_array_equal(noisy[2].image, again[2].image)
