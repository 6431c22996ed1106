"""Structure from motion on rendered boxes with known poses."""

import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object.child import Children
from holdprep.object.features import Sift
from holdprep.object.reconstruction import ObjectReconstruction, reproject
from holdprep.object.sfm import magnification, reconstruct
from holdprep.object.sfm_options import SfmOptions
from tests.synthetic import box_sequence

NUM_FRAMES = 24
EMPTY = 11  # a frame with an empty mask


def rotation_errors_deg(R: np.ndarray, R_true: np.ndarray) -> np.ndarray:
    """(T,) after aligning the object frames."""
    between = Rotation.from_matrix(np.swapaxes(R, 1, 2) @ R_true).mean().as_matrix()
    return rotation_angle_deg(R @ between, R_true)


@pytest.fixture(scope="module")
def scene() -> tuple:
    images, masks, K, poses = box_sequence(NUM_FRAMES)
    masks[EMPTY] = np.zeros_like(masks[EMPTY])
    names = [f"{(7 * t) % NUM_FRAMES:03d}" for t in range(NUM_FRAMES)]  # the order of names is not the temporal order
    return images, masks, K, poses, names


class OnDisk(Sequence[np.ndarray]):
    """Arrays that are made when requested, the last one kept, as of a sequence's folder; `most` is how many lived at once."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays, self._alive, self._last, self.most = arrays, list[weakref.ref[np.ndarray]](), (-1, np.zeros(0)), 0

    def __len__(self) -> int:
        return len(self._arrays)

    def __getitem__(self, index: Any) -> Any:
        if self._last[0] != index:
            self._last = (index, self._arrays[index].copy())
            self._alive = [ref for ref in self._alive if ref() is not None] + [weakref.ref(self._last[1])]
            self.most = max(self.most, len(self._alive))
        return self._last[1]


@pytest.fixture(scope="module")
def found(scene: tuple, tmp_path_factory: pytest.TempPathFactory) -> ObjectReconstruction:
    images, masks, _, _, names = scene
    images, masks = OnDisk(images), OnDisk(masks)
    result = reconstruct(images, masks, names, tmp_path_factory.mktemp("sfm"), SfmOptions(num_threads=1))
    assert images.most <= 3 and masks.most <= 3  # not all frames at once: 300 of 1280 x 720 would be 1.1 GB
    return result


def test_poses_match_the_truth_frame_by_frame(found: ObjectReconstruction, scene: tuple) -> None:
    poses = scene[3]
    has_mask = np.arange(NUM_FRAMES) != EMPTY
    assert found.registered.tolist() == has_mask.tolist()
    errors = rotation_errors_deg(found.T_cam_obj[has_mask, :3, :3], poses[has_mask, :3, :3])
    assert np.median(errors) < 0.7
    assert errors.max() < 1.5
    assert found.rotation_jumps == []


def test_camera(found: ObjectReconstruction, scene: tuple) -> None:
    K = scene[2]
    assert abs(found.focal_px / K[0, 0] - 1) < 0.03
    assert found.K[:2, 2].tolist() == [(480 - 1) / 2, (360 - 1) / 2]


def test_a_frame_without_a_mask_is_interpolated(found: ObjectReconstruction, scene: tuple) -> None:
    poses = scene[3]
    assert [t for t, origin in enumerate(found.origin) if origin == "interpolated"] == [EMPTY]
    assert set(found.origin) == {"sfm", "interpolated"}
    assert found.inliers[EMPTY] == 0
    assert found.inliers[~(np.arange(NUM_FRAMES) == EMPTY)].min() > 30
    assert rotation_errors_deg(found.T_cam_obj[:, :3, :3], poses[:, :3, :3])[EMPTY] < 2.0


def test_cloud_projects_onto_its_observations_and_into_the_masks(found: ObjectReconstruction, scene: tuple) -> None:
    masks = scene[1]
    pixels = reproject(found.points_obj[found.observation_point], found.T_cam_obj[found.observation_frame], found.K, found.distortion)
    error = np.linalg.norm(pixels - found.observation_px, axis=1)
    assert error.mean() == pytest.approx(found.reprojection_px)
    assert found.reprojection_px < 0.5
    assert error.max() < 2.0  # no point behind a camera, or at infinity
    x, y = np.round(found.observation_px).astype(int).T
    inside = np.array([masks[t][v, u] for t, u, v in zip(found.observation_frame, x, y, strict=True)])
    assert inside.all()
    assert np.bincount(found.observation_point, minlength=len(found.points_obj)).tolist() == found.track_length.tolist()


def test_colours_of_the_cloud_are_those_of_the_images(found: ObjectReconstruction, scene: tuple) -> None:
    at = found.observation_px.astype(np.float32)
    sampled = np.zeros((len(at), 3))
    for t, image in enumerate(scene[0]):
        of = found.observation_frame == t
        if of.any():
            sampled[of] = cv2.remap(image, at[of, None, 0], at[of, None, 1], cv2.INTER_LINEAR)[:, 0, ::-1]
    mean = np.stack([np.bincount(found.observation_point, sampled[:, c], minlength=len(found.points_obj)) for c in range(3)], axis=1)
    off = np.abs(mean / found.track_length[:, None] - found.colors).mean(axis=1)
    assert found.colors.std(axis=0).min() > 20
    assert np.median(off) < 4
    assert np.percentile(off, 99) < 20


def test_canonical_frame(found: ObjectReconstruction) -> None:
    canonical = found.trimmed_points_obj @ found.normalization[:3, :3].T + found.normalization[:3, 3]
    assert np.linalg.norm(canonical, axis=1).max() == pytest.approx(1.0)
    assert (canonical.min(axis=0) + canonical.max(axis=0)) == pytest.approx(np.zeros(3), abs=1e-12)


def test_a_given_camera_is_not_refined(scene: tuple, tmp_path: Path) -> None:
    """Images cropped at the left and the top: the principal point is not their centre."""
    images, masks, K, poses, names = scene
    few, left, top = slice(0, 10), 60, 20
    cut, cut_masks = ([image[top:, left:] for image in of[few]] for of in (images, masks))
    principal_px = (float(K[0, 2]) - left, float(K[1, 2]) - top)
    options = SfmOptions(focal_px=float(K[0, 0]), principal_px=principal_px, min_mappings=1, max_mappings=1, num_threads=1)
    found = reconstruct(cut, cut_masks, names[few], tmp_path, options)
    assert np.abs(found.K - (K - [[0, 0, left], [0, 0, top], [0, 0, 0]])).max() < 1e-6
    assert np.median(rotation_errors_deg(found.T_cam_obj[:, :3, :3], poses[few, :3, :3])) < 0.7


def test_the_number_of_threads_does_not_change_the_result(scene: tuple, tmp_path: Path) -> None:
    """Bit-identical for two mappings in parallel and in sequence, and features and matches on one and on three threads."""
    images, masks, _, _, names = scene
    few = slice(0, 9)
    one, three = (
        reconstruct(images[few], masks[few], names[few], tmp_path / str(n), SfmOptions(max_mappings=2, seed=3, num_threads=n))
        for n in (1, 3)
    )
    for name in ("K", "T_cam_obj", "points_obj", "registered", "inliers", "observation_px", "observation_point", "colors"):
        np.testing.assert_array_equal(getattr(one, name), getattr(three, name), err_msg=name)
    assert one.models == three.models and len(one.models) >= 2


def test_the_features_that_most_frames_share_are_sufficient(found: ObjectReconstruction, scene: tuple, tmp_path: Path) -> None:
    images, masks, K, poses, names = scene
    few, options = slice(0, 10), SfmOptions(source=Sift(max_matched=150), min_mappings=1, max_mappings=1, num_threads=1)
    assert found.inliers[few].min() > 150
    thinned = reconstruct(images[few], masks[few], names[few], tmp_path, options)
    assert thinned.registered.all() and thinned.inliers.min() > 30 and thinned.inliers.max() <= 150
    assert np.median(rotation_errors_deg(thinned.T_cam_obj[:, :3, :3], poses[few, :3, :3])) < 0.7
    assert abs(thinned.focal_px / K[0, 0] - 1) < 0.05


def test_an_object_without_texture_is_reported_in_one_line(tmp_path: Path) -> None:
    plain = [np.full((64, 64, 3), level, np.uint8) for level in (60, 90, 120, 150, 180, 210)]
    images, masks, _, _ = box_sequence(8, textures=plain)
    with pytest.raises(HoldprepError, match=r"object poses: no features: 0 of 8 frames .* too little texture$") as error:
        reconstruct(images, masks, [f"{t}" for t in range(8)], tmp_path, SfmOptions(num_threads=1))
    assert "\n" not in str(error.value)


def test_unusable_input_is_reported(tmp_path: Path) -> None:
    images, masks, _, _ = box_sequence(4)
    options = SfmOptions()
    with pytest.raises(HoldprepError, match="0 of 4 frames have an object mask"):
        reconstruct(images, [np.zeros_like(mask) for mask in masks], list("abcd"), tmp_path, options)
    with pytest.raises(HoldprepError, match="0 of 0 frames have an object mask"):
        reconstruct([], [], [], tmp_path, options)
    with pytest.raises(HoldprepError, match="unique"):
        reconstruct(images, masks, list("abca"), tmp_path, options)
    with pytest.raises(HoldprepError, match=r"frame b: mask .* must have the first frame's size"):
        reconstruct(images, [masks[0], masks[1][:-1], *masks[2:]], list("abcd"), tmp_path, options)
    with pytest.raises(HoldprepError, match=r"frame c: image .* must have the masks' size"):
        reconstruct([*images[:2], images[2][1:], images[3]], masks, list("abcd"), tmp_path, options)


@pytest.mark.parametrize(
    ("upsample", "size_px", "expected"), [(2, 100, 2), (2, 200, 2), (2, 300, 4 / 3), (2, 900, 1), (3, 300, 2), (0.5, 900, 0.5), (1, 900, 1)]
)
def test_a_large_object_is_enlarged_less_and_none_is_shrunk(upsample: float, size_px: float, expected: float) -> None:
    assert magnification(upsample, size_px) == pytest.approx(expected)


def abort_inside(*_: object) -> NoReturn:
    os.write(2, b"abort message\n")
    os.abort()


class Aborting(Sift):
    def extract(self, *_: object) -> NoReturn:
        abort_inside()


def test_an_abort_inside_colmap_is_reported_in_one_line_with_its_log(scene: tuple, tmp_path: Path) -> None:
    images, masks, _, _, names = scene
    with pytest.raises(HoldprepError, match="COLMAP's process crashed in extract") as error:
        reconstruct(images[:4], masks[:4], names[:4], tmp_path, SfmOptions(source=Aborting(), num_threads=1))
    assert "\n" not in str(error.value)
    assert str(tmp_path / "colmap.log") in str(error.value)
    assert "abort message" in (tmp_path / "colmap.log").read_text()


def test_exceptions_of_a_child_are_raised_unchanged(tmp_path: Path) -> None:
    steps: list[str] = []
    with Children(tmp_path / "log", 1, steps.append) as children:
        assert list(children.map(abs, [-1, 2])) == [1, 2]
        assert steps == ["abs"]
        with pytest.raises(ValueError, match="invalid literal"):
            children.call(int, "x")
        with pytest.raises(HoldprepError, match="crashed in abort inside"):
            list(children.map(abort_inside, [1]))
