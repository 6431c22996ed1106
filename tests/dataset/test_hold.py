"""What the trainer reads lands on the pixels that were aligned, for every set of hands and every admissible shift."""

import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from holdprep.dataset import hold
from holdprep.dataset.trainer import decompose, project_build
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, ManoParams, load_hand_model
from holdprep.io import safeio

FRAMES = 6
K = pinhole_K(900.0, 1280, 720)
MODELS = {side: load_hand_model(side, dtype=torch.float64) for side in SIDES}


def aligned(sides: tuple[str, ...], depth: float = 0.5):
    """Hands and an object about `depth` metres away, and where their points are in the camera frame."""
    rng = np.random.default_rng(0)
    hands, points = {}, {}
    for side in sides:
        pose, betas = 0.3 * rng.normal(size=(FRAMES, 45)), rng.normal(size=10)
        hands[side] = hold.AlignedHand(
            rng.normal(size=(FRAMES, 3)),
            pose,
            betas,
            rng.normal(size=(FRAMES, 3)) * 0.03 + [0, 0, depth],
            hold.wrist_template(MODELS[side], betas),
        )
        arrays = (hands[side].global_orient, pose, betas, hands[side].transl_m)
        points[side] = lbs.forward(MODELS[side], ManoParams(*map(torch.as_tensor, arrays))).vertices.numpy()
    norm_mat = np.eye(4) * 1.7
    norm_mat[:3, 3], norm_mat[3, 3] = rng.normal(size=3), 1
    R = Rotation.random(FRAMES, random_state=0).as_matrix()
    obj = hold.AlignedObject(R, rng.normal(size=(FRAMES, 3)) * 0.02, 0.04, rng.uniform(-0.6, 0.6, (50, 3)), norm_mat)
    centre = np.median(obj.points_cam_m, axis=1)
    obj = hold.AlignedObject(R, obj.transl_m - centre + [0.01, -0.02, depth], 0.04, obj.points_cano, norm_mat)
    return hands, obj, points | {"object": obj.points_cam_m}


@pytest.mark.parametrize("sides", [("right",), ("left",), ("right", "left")], ids="-".join)
@pytest.mark.parametrize("shift", ["origin", "fixed", "paper"])
def test_round_trip(sides: tuple[str, ...], shift: str, tmp_path: Path):
    hands, obj, points = aligned(sides)
    shift_m = hold.normalize_shift(obj, shift)
    safeio.save_npy(tmp_path / "data.npy", hold.assemble("x", K, hands, obj, shift_m))
    seen = project_build(safeio.load_npy(tmp_path / "data.npy"), {s: MODELS[s] for s in sides})
    assert set(seen) == {*sides, "object"}
    for entity, px in seen.items():
        np.testing.assert_allclose(px, project(points[entity], K), atol=0.01)


def test_the_camera_comes_apart_as_the_trainer_takes_it_apart():
    _, obj, _ = aligned(("right",))
    shift_m = hold.normalize_shift(obj, "origin")
    data = hold.assemble("x", K, {}, obj, shift_m)
    found_K, R, centre = decompose((data["cameras"]["world_mat_0"] @ data["cameras"]["scale_mat_0"])[:3])
    scale = data["cameras"]["scale_mat_0"][0, 0]
    np.testing.assert_allclose(found_K, K, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(R, np.diag([1, -1, -1]), atol=1e-5)
    np.testing.assert_allclose(centre * scale, shift_m, atol=1e-5)
    assert scale == pytest.approx(3 * np.linalg.norm(shift_m) / 6, rel=1e-5)


@pytest.mark.parametrize(
    ("shift", "depth", "reached"), [("origin", 1.0, True), ("fixed", 1.0, False), ("fixed", 0.4, True), ("paper", 2.2, False)]
)
def test_shifts_that_leave_the_rays_are_refused(shift: str, depth: float, reached: bool):
    _, obj, points = aligned(("right",), depth)
    report = hold.rays_report(points, hold.normalize_shift(obj, shift))
    if reached:
        assert report["object_in_rays_pct"] == 100
        assert hold.check_rays(report, shift, depth) == []
    else:
        with pytest.raises(HoldprepError, match=r"build\.shift=origin"):
            hold.check_rays(report, shift, depth)


def test_data_npy_opens_under_old_numpy(tmp_path: Path):
    hands, obj, _ = aligned(("right", "left"))
    safeio.save_npy(tmp_path / "data.npy", hold.assemble("x", K, hands, obj, hold.normalize_shift(obj, "origin")))
    raw = (tmp_path / "data.npy").read_bytes()
    named = {str(a) for op, a, _ in pickletools.genops(raw[raw.index(b"\n") + 1 :]) if isinstance(a, str)}
    assert not any("_core" in n or "torch" in n for n in named)
    assert any("numpy.core" in n for n in named)


def test_label_image_and_frames_that_crash_the_trainer():
    masks = {e: np.zeros((2, 3), bool) for e in ("right", "left", "object")}
    masks["right"][0, :2], masks["left"][1, 0], masks["object"][0, 1] = True, True, True
    np.testing.assert_array_equal(hold.merge_masks(masks), [[150, 50, 0], [250, 0, 0]])
    only_left = np.full((2, 2), 250, np.uint8)
    labels = [hold.merge_masks(masks), only_left, np.zeros((2, 2), np.uint8)]
    assert hold.unusable_frames(labels, ["left"]) == [2]
    assert hold.unusable_frames(labels, ["right", "left"]) == [1, 2]


def test_aligned_fit_has_the_layout_of_the_contract():
    hands, obj, points = aligned(("left",))
    fit = hold.hold_fit_aligned(K, ["a.jpg"] * FRAMES, hands, {"left": (points["left"], points["left"][:, :21])}, obj)
    shapes = {k: v.shape for k, v in fit["left"].items() if isinstance(v, np.ndarray)}
    assert shapes["hand_rot"] == (FRAMES, 3) and shapes["hand_beta"] == (10,) and shapes["v2d"] == (FRAMES, 778, 2)
    assert fit["object"]["obj_scale"].shape == (1,) and fit["object"]["o2w_all"].shape == (FRAMES, 4, 4)
    np.testing.assert_allclose(fit["object"]["j3d"], points["object"], atol=1e-6)
