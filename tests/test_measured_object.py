"""Sizes of the object that were measured, from files and pictures to the aligned scale."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from scipy.spatial.distance import pdist

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import distort, project
from holdprep.geometry.rigid import apply, invert
from holdprep.quality.truth import save_truth
from tests.running import run
from tests.synthetic import SyntheticSequence, make_sequence, truth_of, write_truth

# the hand is registered 8 % too large, and so is the object without a measured size
GIVEN = (
    "seq=box",
    "segmenter=truth",
    "hand=truth",
    "hand.size_error_pct=8",
    "object_pose=truth",
    "on_fail=warn",
    "align.scale=rigid_grasp",
)
DISTORTION, MARKER_MM, WHITE = 0.08, 30.0, 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSequence, Path]:
    """A sequence before mode o; its keypoints, poses, clicks and marker are those of a lens (the rest of its pictures is not used)."""
    root = tmp_path_factory.mktemp("measured")
    seq = make_sequence(frames=16)
    write_truth(seq, root / "box")
    save_truth(root / "box" / "ground_truth" / "truth.npz", replace(truth_of(seq), distortion=DISTORTION))
    draw_markers(seq, root / "box" / "images")
    for stage in ("segment", "hand_pose", "object_pose", "register", "align mode=h"):
        run(root, root / "out", *f"stage={stage}".split(), *GIVEN)
    return seq, root


def seen_px(seq: SyntheticSequence, t: int, points_m: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) of points (N, 3) of the object in a frame, as the lens shows them."""
    return project(distort(apply(seq.T_cam_obj[t], points_m), DISTORTION), seq.K)


def draw_markers(seq: SyntheticSequence, folder: Path) -> None:
    """Print markers 0 to 5 on the middles of the box's faces, as far as the hand does not hide them."""
    for t, name in enumerate(seq.names):
        drawn = seq.images[t].copy()
        for number in range(6):
            axis, sign = number % 3, 1 if number < 3 else -1
            across, up = np.roll(np.eye(3), axis, axis=1)[1], sign * np.roll(np.eye(3), axis, axis=1)[2]
            middle = sign * np.eye(3)[axis] * seq.box_size_m / 2
            square = middle + MARKER_MM / 2e3 * np.array([-across - up, across - up, across + up, up - across])
            corners = seen_px(seq, t, square[::-1]).astype(np.float32)
            if np.cross(corners[1] - corners[0], corners[2] - corners[0]) > 0:  # seen from outside
                H = cv2.getPerspectiveTransform(np.float32([[0, 0], [300, 0], [300, 300], [0, 300]]) + np.float32(WHITE - 0.5), corners)
                size = drawn.shape[1::-1]
                cv2.warpPerspective(printed(number), H, size, dst=drawn, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_TRANSPARENT)
        shown = np.where(seq.masks["object"][t][..., None], drawn, seq.images[t])
        cv2.imwrite(str(folder / f"{name}.jpg"), shown, [cv2.IMWRITE_JPEG_QUALITY, 97])


def printed(number: int) -> np.ndarray:
    """A marker of 300 texels with a margin."""
    marker = cv2.aruco.generateImageMarker(cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_50), number, 300)
    return np.pad(marker, WHITE, constant_values=255)[..., None].repeat(3, axis=2)


def click(seq: SyntheticSequence, root: Path, frames: tuple[int, ...], distance_mm: float | None = None) -> None:
    """points.yaml with two corners of the box, as the lens shows them, rounded to pixels."""
    corners = seq.box_size_m * np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, -0.5]])
    clicks = {}
    for t in frames:
        px = seen_px(seq, t, corners).round()
        clicks[seq.names[t]] = {"a": px[0].tolist(), "b": px[1].tolist()}
    true_mm = 1e3 * float(np.linalg.norm(corners[0] - corners[1]))
    (root / "box" / "points.yaml").write_text(yaml.safe_dump({"distance_mm": distance_mm or true_mm, "frames": clicks}))


def aligned(root: Path, *overrides: str) -> dict:
    """The record of mode o."""
    return run(root, root / "out", "stage=align", "mode=o", *GIVEN, *overrides)["align.o"]


def true_scale(seq: SyntheticSequence, root: Path) -> float:
    """Metres per unit of the object's poses: by the distances between the camera's positions about the object."""
    poses = np.load(root / "box" / "processed" / "colmap" / "o2w.npy")
    metres, units = (pdist(invert(T)[:, :3, 3]) for T in (seq.T_cam_obj, poses))
    return float(np.median(metres / units))


def test_clicked_points_give_the_scale_through_the_lens(prepared):
    seq, root = prepared
    true = true_scale(seq, root)
    assert aligned(root)["metrics"]["object.scale"] == pytest.approx(1.08 * true, rel=0.01)
    click(seq, root, (0, 7, 14))
    found = aligned(root)
    assert found["status"] == "done"
    assert found["metrics"]["object.scale"] == pytest.approx(true, rel=0.005)  # pixels as the lens shows them would be 3 % wrong
    assert found["metrics"]["object.scale_low"] < true < found["metrics"]["object.scale_high"]
    assert found["metrics"]["object.size_interval_pct"] < 5
    assert aligned(root)["status"] == "skipped"
    (root / "box" / "points.yaml").unlink()
    again = aligned(root)
    assert again["status"] == "done"
    assert again["metrics"]["object.scale"] == pytest.approx(1.08 * true, rel=0.01)


def test_a_named_file_of_points_is_used_and_must_exist(prepared):
    seq, root = prepared
    click(seq, root, (0, 7, 14))
    (root / "box" / "points.yaml").rename(root / "elsewhere.yaml")
    assert aligned(root, f"object.points={root / 'elsewhere.yaml'}")["metrics"]["scale.points.frames"] == 3
    with pytest.raises(HoldprepError, match=r"nowhere\.yaml cannot be read"):
        aligned(root, f"object.points={root / 'nowhere.yaml'}")
    assert aligned(root, "object.points=null")["status"] == "done"


def test_a_measured_size_is_kept_for_the_sequence(prepared):
    _, root = prepared
    given = aligned(root, "object.diameter_mm=140")["metrics"]["object.diameter_mm"]
    assert given == pytest.approx(140)
    assert aligned(root)["status"] == "skipped"
    assert aligned(root, "object.diameter_mm=null")["metrics"]["object.diameter_mm"] > 150


def test_a_marker_gives_the_scale_through_the_lens(prepared):
    seq, root = prepared
    true = true_scale(seq, root)
    found = aligned(root, f"object.marker_mm={MARKER_MM}", "object.marker=DICT_5X5_50")
    assert found["metrics"]["scale.marker.frames"] > 5
    assert found["metrics"]["object.scale"] == pytest.approx(true, rel=0.02)  # the marker is 29 px large
    assert found["metrics"]["object.scale_low"] < true < found["metrics"]["object.scale_high"]
    with pytest.raises(HoldprepError, match="no marker of DICT_APRILTAG_36h11 in any of 16 frames"):
        aligned(root, "object.marker=DICT_APRILTAG_36h11")
    aligned(root, "object.marker_mm=null", "object.marker=DICT_4X4_50")


def test_depth_maps_join_the_estimators(prepared):
    seq, root = prepared
    maps = root / "maps"
    maps.mkdir()
    for t, name in enumerate(seq.names):
        depth = np.where(np.isfinite(seq.depth_m[t]), (3000 + 500 * t) * seq.depth_m[t], 0)
        cv2.imwrite(str(maps / f"{name}.png"), depth.astype(np.uint16))
    found = aligned(root, f"align.depth_maps={maps}", "align.scale=auto")["metrics"]
    assert found["scale.depth_maps.scale"] == pytest.approx(1.08 * true_scale(seq, root), rel=0.03)  # the hand is 8 % too large
    assert aligned(root, "align.scale=auto")["status"] == "skipped"
    (maps / f"{seq.names[3]}.png").unlink()
    with pytest.raises(HoldprepError, match=rf"maps lacks depth maps of 1 of 16 frames \(first: {seq.names[3]}\)"):
        aligned(root, "align.scale=auto")
    assert "scale.depth_maps.scale" not in aligned(root, "align.depth_maps=null", "align.scale=auto")["metrics"]


def test_a_method_with_its_own_scale_says_that_measured_sizes_are_not_used(
    prepared: tuple[SyntheticSequence, Path], caplog: pytest.LogCaptureFixture
):
    _, root = prepared
    few = ("align=hold", "align.max_iterations=2", "object.diameter_mm=120")
    for mode in ("h", "o"):
        run(root, root / "out", "stage=align", f"mode={mode}", *GIVEN[:-1], *few)
    assert any("the object's measured sizes are not used" in record.getMessage() for record in caplog.records)
