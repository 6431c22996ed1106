"""The scale from points of the object with measured distances."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from holdprep.align import run
from holdprep.align.marks import SURFACE_STD, scale_by_marks, triangulated
from holdprep.align.points_file import CLICK_PX, MOST_PX, read_points
from holdprep.align.problem import Marks, Weights, outward, prepare
from holdprep.align.size import MeasuredSizes, resized
from holdprep.align.surface import Surface
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.lbs import HandPoints
from holdprep.hand.priors import chain_length_m

from .synthetic import BAR_LENGTH_M, BAR_RADIUS_M, grasp

UNIT_M = 0.037
NAMES = [f"{t:04d}" for t in range(60)]
# on the bar's side that the camera sees from the first frames to the last
A, B = np.array([0.0, -BAR_RADIUS_M, -0.4 * BAR_LENGTH_M]), np.array([BAR_RADIUS_M, 0.0, 0.35 * BAR_LENGTH_M])
APART_M = float(np.linalg.norm(A - B))


@pytest.fixture(scope="module")
def scene():
    problem = prepare(grasp(frames=60, unit_m=UNIT_M)[0], Weights())
    return problem, Surface.of(problem.points_obj.numpy(), outward(problem).numpy())


def clicked(problem, frames, noise_px=0.0, seed=0, points_m=(A, B)):
    """Both points clicked in some frames."""
    T = problem.T_cam_obj.numpy()[list(frames)]
    px = project(np.stack(points_m) / UNIT_M @ np.swapaxes(T[:, :3, :3], 1, 2) + T[:, None, :3, 3], problem.K.numpy())
    px = px.reshape(-1, 2) + noise_px * np.random.default_rng(seed).normal(size=(2 * len(px), 2))
    frame, point = np.repeat(list(frames), 2), np.tile([0, 1], len(frames))
    return Marks("points", "points.yaml", frame, point, px, np.array([[0, 1]]), np.array([APART_M]), ("a", "b"), NAMES, CLICK_PX, MOST_PX)


def front_of(problem, frame):
    """Two points of the bar's side that face the camera in a frame, in metres."""
    T = problem.T_cam_obj.numpy()[frame]
    away = -T[:3, :3].T @ T[:3, 3]
    away = BAR_RADIUS_M * away[:2] / np.linalg.norm(away[:2])
    return np.array([*away, -0.3 * BAR_LENGTH_M]), np.array([*away, 0.3 * BAR_LENGTH_M])


def test_exact_clicks_give_the_exact_scale(scene):
    found = scale_by_marks(clicked(scene[0], (0, 20, 40)), *scene)
    assert found.scale == pytest.approx(UNIT_M, rel=1e-9)
    assert found.figures["residual_px"] < 1e-6
    assert found.figures["frames"] == 3


@pytest.mark.parametrize("frames", [(0, 25), (0, 20, 40)])
def test_the_standard_error_is_that_of_noisy_clicks(scene, frames):
    found = [scale_by_marks(clicked(scene[0], frames, 1.5, seed), *scene) for seed in range(60)]
    z = np.array([np.log(e.scale / UNIT_M) / e.stderr_ratio for e in found])
    assert 0.6 < np.sqrt(np.mean(z**2)) < 1.2
    assert (np.abs(z) < 2).mean() > 0.9
    assert max(e.stderr_ratio for e in found) < 0.04


def test_a_single_frame_uses_the_surface(scene):
    problem, surface = scene
    points = front_of(problem, 30)
    true = np.linalg.norm(points[1] - points[0])
    found = [
        scale_by_marks(replace(clicked(problem, (30,), 1.5, seed, points), distance_m=np.array([true])), problem, surface)
        for seed in range(30)
    ]
    z = np.array([np.log(e.scale / UNIT_M) / e.stderr_ratio for e in found])
    assert np.abs(z).max() < 3
    assert np.abs(np.log([e.scale / UNIT_M for e in found])).max() < 0.06
    assert all(SURFACE_STD / 2 < e.stderr_ratio < 0.05 for e in found)


def test_a_wrong_click_is_refused_with_its_frame(scene):
    marks = clicked(scene[0], (0, 20, 40), 1.0)
    wrong = marks.px.copy()
    wrong[2] += (40, -30)
    with pytest.raises(HoldprepError, match=r"points.yaml: point a is \d+ px \(at most 8\) .* in frame \d{4}: take the same point"):
        scale_by_marks(replace(marks, px=wrong), *scene)


def test_a_frame_without_an_object_pose_is_refused(scene):
    problem, surface = scene
    weight = problem.obj_weight.clone()
    weight[20] = 0
    with pytest.raises(HoldprepError, match="point a is in frame 0020, which has no measured object pose"):
        scale_by_marks(clicked(problem, (0, 20, 40)), replace(problem, obj_weight=weight), surface)


def test_a_click_beside_the_object_is_refused(scene):
    marks = clicked(scene[0], (30,), points_m=front_of(scene[0], 30))
    with pytest.raises(HoldprepError, match="point b is beside the object's surface"):
        scale_by_marks(replace(marks, px=marks.px * [[1.0], [0.0]]), *scene)


@pytest.mark.parametrize("away_m", [0.001, 0.01])
def test_a_click_just_beside_the_cloud_counts(scene, away_m):
    """A cloud does not reach the edges: a ray that passes it at `away_m` is taken where it is nearest."""
    problem, surface = scene
    T = problem.T_cam_obj.numpy()[30]
    camera = -T[:3, :3].T @ T[:3, 3]
    beside = np.array([-camera[1], camera[0], 0.0]) / np.linalg.norm(camera[:2]) * (BAR_RADIUS_M + away_m)
    points = (beside - np.array([0, 0, 0.05]), beside + np.array([0, 0, 0.05]))
    found = scale_by_marks(replace(clicked(problem, (30,), points_m=points), distance_m=np.array([0.1])), problem, surface)
    assert abs(np.log(found.scale / UNIT_M)) < 2 * found.stderr_ratio
    assert found.scale == pytest.approx(UNIT_M, rel=0.05)


def test_a_click_where_no_picture_shows_the_surface_needs_a_second_frame(scene):
    """The cloud lacks the bar's half at z > 0, which the convex hull closes."""
    problem, _ = scene
    half = replace(problem, points_obj=problem.points_obj[problem.points_obj[:, 2] < -0.2 * BAR_LENGTH_M / UNIT_M])
    surface = Surface.of(half.points_obj.numpy(), outward(half).numpy())
    end = (np.array([0.0, 0.0, -0.2 * BAR_LENGTH_M]), A)
    T = problem.T_cam_obj.numpy()
    seen = int(np.argmax([-(R[:, 2] @ t) for R, t in zip(T[:, :3, :3], T[:, :3, 3], strict=True)]))  # the end at +z faces the camera
    with pytest.raises(HoldprepError, match="point a is where the object's surface was not observed"):
        scale_by_marks(clicked(half, (seen,), points_m=end), half, surface)


def test_points_that_coincide_are_refused(scene):
    with pytest.raises(HoldprepError, match="points a and b coincide"):
        scale_by_marks(clicked(scene[0], (0, 30), points_m=(A, A)), *scene)


def test_a_point_away_from_the_object_is_refused(scene):
    with pytest.raises(HoldprepError, match=r"point b is 1\.\d diameters of the object away from it"):
        scale_by_marks(clicked(scene[0], (0, 30), points_m=(A, A + np.array([0.25, 0, 0]))), *scene)


def test_triangulation_withstands_frames_with_another_position(scene):
    problem = scene[0]
    marks = clicked(problem, range(0, 60, 3), 0.5)
    px = marks.px[::2].copy()
    px[:6] += 60.0
    at, residual_px = triangulated(problem.K.numpy(), problem.T_cam_obj.numpy()[::3], px, width_px=3.0)
    assert UNIT_M * at == pytest.approx(A, abs=1e-3)
    assert (residual_px > 50).sum() == 6


def test_clicks_correct_the_hand(scene):
    """The hand is registered 6 % too large: with the points, the scale and the hand are right, and the interval is narrow."""
    problem = grasp(frames=40, noise_px=0.5, unit_m=UNIT_M)[0]
    hand = problem.hands["right"]
    model = hand.model.to(torch.float64)
    too_long = replace(hand, params=replace(hand.params, betas=resized(model, hand.params.betas.double(), 1.06)))
    problem = replace(problem, hands={"right": too_long}, marks=(clicked(problem, (0, 15, 30), 1.5),))
    h = run.align("h", problem)
    o = run.align("o", problem, initial=h)
    assert o.obj_scale == pytest.approx(UNIT_M, rel=0.02)
    assert abs(o.obj_scale - UNIT_M) < 2 * o.obj_scale_stderr
    assert o.metrics["object.scale_low"] < UNIT_M < o.metrics["object.scale_high"]
    assert o.metrics["object.size_interval_pct"] < 6
    points = HandPoints.of(model, torch.zeros(0, dtype=torch.long))
    true_m = float(chain_length_m(points, hand.params.betas.double()))
    assert float(chain_length_m(points, o.hands["right"].betas)) == pytest.approx(true_m, rel=0.03)


def test_measured_sources_are_combined_and_a_contradiction_widens_the_interval(scene):
    problem, surface = scene
    diameter_mm = 1e3 * UNIT_M * surface.diameter
    both = replace(problem, marks=(clicked(problem, (0, 20, 40)),))
    h = run.align("h", both)
    widths = {}
    for factor in (1.0, 1.5):
        o = run.align("o", both, run.Options(measured=MeasuredSizes(diameter_mm=factor * diameter_mm)), h)
        widths[factor] = o.metrics["object.size_interval_pct"]
        assert o.metrics["scale.disagreeing"] == (factor > 1)
    assert widths[1.5] > 2 * widths[1.0]


GOOD = "distance_mm: 85.6\nframes:\n  '0000': {a: [100, 50], b: [200, 60]}\n  '0010': {b: [210, 64]}\n"


def test_points_are_read_in_pixels_of_the_pictures(tmp_path):
    path = tmp_path / "points.yaml"
    path.write_text("image_size: [1280, 960]\n" + GOOD)
    found = read_points(path, NAMES, (640, 480))
    assert found.frame.tolist() == [0, 0, 10]
    assert found.point.tolist() == [0, 1, 1]
    assert found.px.tolist() == [[50, 25], [100, 30], [105, 32]]
    assert found.distance_m.tolist() == [0.0856]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "needs 'distance_mm: <number>' and 'frames:"),
        (GOOD.replace("distance_mm: 85.6\n", ""), "needs 'distance_mm: <number>' and 'frames:"),
        (GOOD.replace("85.6", "0.0856"), "distance_mm is 0.0856, between 2 and 2000 mm is possible"),
        ("distance: 3\n" + GOOD, "'distance' is unknown .did you mean 'distance_mm'"),
        (GOOD.replace("'0010'", "'0100'"), r"frame 0100 is not in images/ \(frames are 0000 ... 0059\)"),
        (GOOD.replace("[210, 64]", "[2100, 64]"), r"frame 0010: b \(2100, 64\) lies outside the image of 640 x 480"),
        (GOOD.replace("[210, 64]", "[210]"), "frame 0010: b must be numbers of shape"),
        (GOOD.replace("a: [100, 50], ", ""), "point a is in no frame"),
        (GOOD.replace("b: [210, 64]", "c: [210, 64]"), "frame 0010: point 'c' is unknown"),
        (GOOD.replace("{b: [210, 64]}", "[210, 64]"), "frame 0010: needs one or both of a:"),
        (GOOD.replace("85.6", "${oc.env:HOME}"), "interpolation"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "points.yaml"
    path.write_text(text)
    with pytest.raises(HoldprepError, match=message) as refused:
        read_points(path, NAMES, (640, 480))
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
