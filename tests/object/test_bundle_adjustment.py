"""Bundle adjustment over patch observations recovers perturbed poses and focal length, and radial distortion if there is any."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.cameras import distort, project
from holdprep.geometry.rigid import apply, from_rt, rotation_angle_deg
from holdprep.object.bundle_adjustment import adjust_points, adjust_to_patches
from holdprep.object.colmap import read_model, write_keypoints
from holdprep.object.patch_tracking import PatchObservations
from holdprep.object.workspace import Workspace
from tests.object.boxes import ExactBox, exact_box

NOISE_PX = 0.05


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> ExactBox:
    return exact_box(tmp_path_factory.mktemp("bundle"), 12, noise_px=0.3)


def observe(box: ExactBox, k: float = 0.0) -> dict[str, PatchObservations]:
    """Projections of the points with distortion k, with noise and one outlier in twenty that is 5 px off."""
    rng, found = np.random.default_rng(2), {}
    for name, pose in box.model.poses.items():
        index = box.model.point_of_keypoint[name]
        points = index[index >= 0]
        px = project(distort(apply(pose, box.model.points[points]), k), box.K) + rng.normal(0, NOISE_PX, (len(points), 2))
        is_outlier = rng.random(len(points)) < 0.05
        px[is_outlier] += 5.0
        found[name] = PatchObservations(points, px)
    return found


def free(box: ExactBox) -> Workspace:
    """The box's workspace, whose focal length is to be refined."""
    return replace(box.workspace, refine_focal=True)


@pytest.mark.parametrize("k", [0.0, -0.15])
def test_poses_focal_length_and_distortion_are_recovered(box: ExactBox, k: float) -> None:
    noise = Rotation.from_rotvec(np.random.default_rng(3).normal(0, 0.005, (12, 3))).as_matrix()
    poses = {name: pose @ from_rt(R, np.zeros(3)) for (name, pose), R in zip(box.model.poses.items(), noise, strict=True)}
    focal_px = float(box.K[0, 0])
    perturbed = replace(box.model, poses=poses, focal_px=1.03 * focal_px)
    found, uncertain = adjust_to_patches(perturbed, observe(box, k), free(box))
    assert found.focal_px == pytest.approx(focal_px, rel=0.005)
    assert found.distortion == pytest.approx([k], abs=0.03)
    assert k or found.distortion[0] == 0.0
    assert abs(found.focal_px - focal_px) < 4 * uncertain.focal_stderr_px < 0.02 * focal_px
    assert np.isfinite(uncertain.k_stderr) == bool(k)
    assert not k or abs(found.distortion[0] - k) < 4 * uncertain.k_stderr < 0.02
    R, R_true = (np.stack([of[name][:3, :3] for name in box.names]) for of in (found.poses, box.model.poses))
    between = Rotation.from_matrix(np.swapaxes(R, 1, 2) @ R_true).mean().as_matrix()
    assert np.median(rotation_angle_deg(R @ between, R_true)) < 0.1


def test_a_given_focal_length_is_not_refined_nor_is_distortion(box: ExactBox) -> None:
    model, observations = replace(box.model, focal_px=612.0), observe(box, -0.15)
    found, uncertain = adjust_to_patches(model, observations, box.workspace)
    assert found.focal_px == 612.0
    assert found.distortion == pytest.approx([0.0])
    assert uncertain.focal_stderr_px == 0.0


def test_no_lens_is_estimated_from_the_middle_of_the_picture(box: ExactBox) -> None:
    """The same observations in a picture so large that they reach a fifth of the way to its corners."""
    observations = observe(box, -0.15)
    (width, height), centre = box.workspace.image_size, np.array(box.workspace.principal_px)
    K = box.workspace.K.copy()
    K[:2, 2] = 2 * centre + 0.5
    shift = K[:2, 2] - centre
    larger = replace(free(box), K=K, image_size=(2 * width, 2 * height))
    moved = {name: PatchObservations(each.points, each.px + shift) for name, each in observations.items()}
    found, uncertain = adjust_to_patches(box.model, moved, larger)
    assert found.distortion == pytest.approx([0.0])
    assert np.isnan(uncertain.k_stderr)
    with_lens, _ = adjust_to_patches(box.model, observations, free(box))
    assert with_lens.distortion[0] < -0.1


def test_a_focal_length_that_the_pictures_do_not_determine_is_held_at_its_prior(box: ExactBox) -> None:
    """Three frames that differ by a few degrees."""
    few = dict(list(observe(box).items())[:3])
    prior = box.workspace.K.copy()
    prior[0, 0] = prior[1, 1] = 1.2 * box.K[0, 0]
    model = replace(box.model, poses={name: box.model.poses[name] for name in few})
    found, uncertain = adjust_to_patches(model, few, replace(free(box), K=prior))
    assert found.focal_px == pytest.approx(prior[0, 0])
    assert np.isinf(uncertain.focal_stderr_px)


def test_points_are_adjusted_under_fixed_poses_and_outliers_are_dropped(box: ExactBox, tmp_path: Path) -> None:
    """Points that are 2 % of the box off return; of 24 points one observation is 10 px off."""
    px = {name: box.features.keypoints_px[name].copy() for name in box.names}
    wrong = np.flatnonzero(box.model.point_of_keypoint["05"] >= 0)[:24]
    px["05"][wrong] += 10.0
    workspace = replace(box.workspace, folder=tmp_path)
    shutil.copytree(box.workspace.folder / "images", tmp_path / "images")
    write_keypoints(tmp_path, workspace.crop, box.K, {name: workspace.crop.to_window(each) for name, each in px.items()})
    moved = box.model.points + np.random.default_rng(5).normal(0, 0.002, box.model.points.shape)
    found = read_model(adjust_points(workspace, replace(box.model, points=moved)), workspace.crop, 0, tmp_path)
    assert found.focal_px == pytest.approx(box.model.focal_px)
    assert all(found.poses[name] == pytest.approx(box.model.poses[name], abs=1e-9) for name in box.names)
    kept = {name: np.flatnonzero(found.point_of_keypoint[name] >= 0) for name in box.names}
    assert not set(kept["05"]) & set(wrong)
    assert set(kept["04"]) >= set(wrong) & set(np.flatnonzero(box.model.point_of_keypoint["04"] >= 0))
    at = kept["04"]
    error = np.linalg.norm(found.points[found.point_of_keypoint["04"][at]] - box.model.points[at], axis=1)
    assert np.median(error) < 5e-4 < 2e-3 < np.median(np.linalg.norm(moved - box.model.points, axis=1))
