"""The networks on real frames of the demo clip, against pixels read off the picture and against turned and mirrored copies."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import holdprep
from holdprep.align.problem import OBSERVED
from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.hand.joints import BONES_MANO21, MANO21_TIP_VERTICES
from holdprep.hand.model import load_hand_model
from holdprep.hand.trackers.mediapipe import Settings, distinct, drop_implausible, fill_from_neighbours, precision, track_hand
from holdprep.hand.trackers.mediapipe_finder import GONE, SURE, Candidate, View, share_near_mask
from holdprep.hand.trackers.mediapipe_networks import Crop, Estimate, HandNetworks, mean_of, palm_anchors, weighted_nms
from holdprep.hand.trackers.tracks import KeypointTrack

CLIP = Path(holdprep.__file__).parent / "assets" / "demo" / "cube.mp4"
FRAMES = (0, 168, 300)
WIDTH, HEIGHT = 640, 480
# Read off the pictures by eye, before any network saw them: wrist, thumb tip, index tip.
BY_HAND = np.array([[[575, 160], [533, 222], [393, 212]], [[535, 100], [530, 240], [380, 215]], [[600, 165], [484, 262], [372, 208]]])
SEEN = [0, 1, 13]  # wrist, knuckle of the index, root of the thumb
THUMB_TIP, INDEX_TIP, MIDDLE_TIP, RING_TIP, LITTLE_TIP = 16, 17, 18, 19, 20


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(CLIP))
    wanted = [capture.read()[1] for _ in range(max(FRAMES) + 1)]
    return [wanted[f] for f in FRAMES]


@pytest.fixture(scope="module")
def track(images):
    return track_hand(images, "right")


def hull_masks(j2d_px: np.ndarray) -> list[np.ndarray]:
    masks = []
    for joints in j2d_px:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillConvexPoly(mask, cv2.convexHull(np.round(joints).astype(np.int32)), 1)
        masks.append(mask > 0)
    return masks


def test_joints_are_at_their_positions_in_the_image(track):
    assert track.found.all()
    off_px = np.linalg.norm(track.j2d_px[:, [0, THUMB_TIP, INDEX_TIP]] - BY_HAND, axis=-1)
    assert off_px.max() < 15
    assert (track.confidence > OBSERVED).mean() > 0.9
    inside = (track.j2d_px >= track.boxes_px[:, None, :2]) & (track.j2d_px <= track.boxes_px[:, None, 2:])
    assert inside.all()
    np.testing.assert_allclose(track.boxes_px[:, 2] - track.boxes_px[:, 0], track.boxes_px[:, 3] - track.boxes_px[:, 1])


def test_3d_is_metric_wrist_relative_and_nearer_is_smaller(track):
    np.testing.assert_allclose(track.j3d_m[:, 0], 0, atol=1e-12)
    palm = np.linalg.norm(track.j3d_m[:, 4], axis=-1)  # wrist to middle knuckle; 95 mm in an average adult
    assert np.abs(palm - 0.095).max() < 0.015
    bones = np.array(BONES_MANO21)
    model = load_hand_model("right")
    rest = torch.cat([model.J_regressor @ model.v_template, model.v_template[list(MANO21_TIP_VERTICES)]]).numpy()
    for joints in track.j3d_m:
        size, average = (np.linalg.norm(x[bones[:, 0]] - x[bones[:, 1]], axis=-1).sum() for x in (joints, rest))
        assert size == pytest.approx(average, rel=0.02)
    fingers = np.linalg.norm(np.diff(track.j3d_m[:, [[1, 2, 3, 17], [4, 5, 6, 18], [10, 11, 12, 19]]], axis=2), axis=-1).sum(axis=-1)
    assert np.abs(fingers - [0.082, 0.092, 0.088]).max() < 0.03
    # In these frames the thumb is the side of the hand that faces the camera, the little finger the far one.
    assert (np.diff(track.j3d_m[0, [THUMB_TIP, INDEX_TIP, MIDDLE_TIP, RING_TIP, LITTLE_TIP], 2]) > 0).all()


def test_a_rotated_image_rotates_both_2d_and_3d(images, track):
    turned = track_hand([cv2.rotate(i, cv2.ROTATE_90_CLOCKWISE) for i in images], "right")
    x, y = track.j2d_px[..., 0], track.j2d_px[..., 1]
    assert np.abs(turned.j2d_px - np.stack([HEIGHT - 1 - y, x], axis=-1)).max() < 4
    expected = np.stack([-track.j3d_m[..., 1], track.j3d_m[..., 0], track.j3d_m[..., 2]], axis=-1)
    assert np.linalg.norm(turned.j3d_m - expected, axis=-1).max() < 0.006


def test_a_mirrored_right_hand_is_a_left_hand(images, track):
    mirrored = [np.ascontiguousarray(i[:, ::-1]) for i in images]
    left = track_hand(mirrored, "left")
    expected = track.j2d_px * [-1, 1] + [WIDTH - 1, 0]
    assert np.abs(left.j2d_px - expected).max() < 4
    assert np.linalg.norm(left.j3d_m - track.j3d_m * [-1, 1, 1], axis=-1).max() < 0.006
    assert not track_hand(mirrored[:1], "right").found.any()


def test_known_camera_rotates_3d_to_its_ray(images):
    K = pinhole_K(600, WIDTH, HEIGHT)
    seen, plain = (track_hand(images[:1], "right", K=k) for k in (K, None))
    np.testing.assert_array_equal(seen.j2d_px, plain.j2d_px)
    center = (seen.boxes_px[0, :2] + seen.boxes_px[0, 2:]) / 2
    ray = np.linalg.inv(K) @ [*center, 1]
    # A rotation with axis z x ray keeps that axis and takes z to the ray.
    axis = np.cross([0, 0, 1], ray) / np.linalg.norm(np.cross([0, 0, 1], ray))
    without_K = plain.j3d_m[0]
    np.testing.assert_allclose(seen.j3d_m[0] @ axis, without_K @ axis, atol=1e-9)
    np.testing.assert_allclose(seen.j3d_m[0] @ ray / np.linalg.norm(ray), without_K[:, 2], atol=1e-9)


def test_no_hand_in_black_frames_and_the_hand_again_after_them(images, track):
    clip = track_hand([images[0], np.zeros_like(images[0]), images[0]], "right")
    np.testing.assert_array_equal(clip.found, [True, False, True])
    assert np.isnan(clip.j3d_m[1]).all()
    assert np.isnan(clip.boxes_px[1]).all()
    assert (clip.confidence[1] == 0).all()
    np.testing.assert_allclose(clip.j2d_px[2], track.j2d_px[0], atol=5)


def test_masks_say_where_the_hand_is(images, track):
    right = hull_masks(track.j2d_px)
    elsewhere = np.zeros((HEIGHT, WIDTH), bool)
    elsewhere[380:470, 20:110] = True  # the keyboard
    masked = track_hand(images, "right", [right[0], np.zeros_like(elsewhere), elsewhere])
    np.testing.assert_array_equal(masked.found, [True, False, False])
    np.testing.assert_allclose(masked.j2d_px[0], track.j2d_px[0], atol=5)


def test_masks_choose_between_two_right_hands(images, track):
    both = np.concatenate([images[0], images[1]])
    above, below = hull_masks(track.j2d_px[:2])
    for mask, expected in (
        (np.concatenate([above, np.zeros_like(above)]), track.j2d_px[0]),
        (np.concatenate([np.zeros_like(below), below]), track.j2d_px[1] + [0, HEIGHT]),
    ):
        found = track_hand([both], "right", [mask])
        off_px = np.linalg.norm(found.j2d_px[0] - expected, axis=1)  # beyond its edge a crop shows the other picture
        assert np.median(off_px) < 5 and off_px.max() < 20


def test_bad_input_is_one_line(images):
    with pytest.raises(HoldprepError, match="1 masks for 2 images"):
        track_hand(images[:2], "right", [None])
    with pytest.raises(HoldprepError, match="3 masks for 2 images"):
        track_hand(images[:2], "right", None, [None] * 3)
    with pytest.raises(HoldprepError, match=r"mask 0 has shape \(10, 10\), its image \(480, 640\)"):
        track_hand(images[:1], "right", [np.ones((10, 10), bool)])
    with pytest.raises(HoldprepError, match="image 0 has shape"):
        track_hand([images[0][..., 0]], "right")
    with pytest.raises(HoldprepError, match="hand side 'both'"):
        track_hand(images[:1], "both")  # type: ignore[arg-type]


def test_crops_cut_what_they_say():
    """A picture whose blue and green tell x and y: each crop pixel holds the place that `to_image` gives for it."""
    y, x = np.mgrid[:120, :200].astype(np.uint8)
    image = np.stack([x, y, x], axis=-1).astype(np.float32)
    for crop in (Crop(np.array([100.0, 60.0]), 48.0, 0.6), Crop(np.array([100.0, 60.0]), 64.0, -2.0)):
        patch = crop.cut(image, 16, cv2.BORDER_CONSTANT) * 255
        v, u = np.mgrid[:16, :16]
        expected = crop.to_image((np.stack([u, v], axis=-1) + 0.5) / 16)
        np.testing.assert_allclose(patch[..., 2], expected[..., 0], atol=0.1)
        np.testing.assert_allclose(patch[..., 1], expected[..., 1], atol=0.1)


def test_hands_of_another_size_are_dropped(track):
    def estimate(scale: float) -> Estimate:
        j2d = track.j2d_px[0] * scale
        return Estimate(j2d, np.zeros(21), 1.0, 1.0, np.zeros(21))

    kept = drop_implausible([estimate(1.0), None, estimate(1.1), estimate(0.4), estimate(1.2), estimate(2.5), estimate(1.3)], None)
    assert [e is not None for e in kept] == [True, False, True, False, True, False, True]


def test_a_mask_of_one_pixel_means_no_hand(images, track):
    mask = hull_masks(track.j2d_px[:1])[0]
    pixel = np.zeros_like(mask)
    pixel[160, 575] = True
    masked = track_hand(images[:2], "right", [mask, pixel])
    np.testing.assert_array_equal(masked.found, [True, False])


def test_a_left_hand_given_as_right_is_an_error(images, track):
    mirrored = [np.ascontiguousarray(i[:, ::-1]) for i in images]
    masks = [np.ascontiguousarray(m[:, ::-1]) for m in hull_masks(track.j2d_px)]
    with pytest.raises(HoldprepError, match=r"the right hand's masks show a left hand in [23] of 3 tested frames: call it left"):
        track_hand(mirrored, "right", masks)


def test_joints_on_the_object_have_less_confidence(images, track):
    held = np.zeros((HEIGHT, WIDTH), bool)
    x, y = track.j2d_px[0, [INDEX_TIP, MIDDLE_TIP]].mean(axis=0).astype(int)
    held[y - 25 : y + 25, x - 25 : x + 25] = True
    hand = hull_masks(track.j2d_px[:1])[0] & ~held
    with_object = track_hand(images[:1], "right", [hand], [held])
    np.testing.assert_allclose(with_object.j2d_px[0], track.j2d_px[0], atol=5)
    on_object = np.abs(with_object.j2d_px[0] - [x, y]).max(axis=1) < 24
    assert on_object.sum() >= 2
    assert (with_object.confidence[0, on_object] < OBSERVED / 4).all()
    assert (with_object.confidence[0, SEEN] > 0.8).all()


def test_joints_beside_the_hand_and_unsure_ones_have_less_confidence():
    """Six joints 30 px apart: on the hand, on it and unsure, on the object, 2 px and 20 px beside the hand, outside of the picture."""
    j2d_px = np.full((21, 2), 20.0)
    j2d_px[:6] = [[20, 20], [50, 20], [80, 20], [61, 20], [20, 62], [-40, 20]]
    spread_px = np.zeros(21)
    estimate = Estimate(j2d_px, np.zeros(21), 1.0, 1.0, spread_px)
    spread_px[1] = 0.1 * estimate.size_px  # agreement 1 / e
    hand, held = np.zeros((100, 200), bool), np.zeros((100, 200), bool)
    hand[:40, 10:60] = True
    held[:, 70:120] = True
    found = precision(estimate, hand, held)
    unsure = (0.03 / (0.02 + 0.25 * (1 - np.exp(-1)))) ** 2
    hidden = (0.03 / 0.2) ** 2
    np.testing.assert_allclose(found[:6], [1, unsure, hidden, 1, hidden, hidden])
    np.testing.assert_allclose(precision(estimate, None, None)[:6], [1, unsure, 1, 1, 1, 1])


def test_frames_of_low_confidence_count_as_missed(images, track):
    """A blurred hand is found with a low confidence; the sharp ones around it stay."""
    clip = [images[0], cv2.GaussianBlur(images[0], (0, 0), 14), images[0]]
    every = track_hand(clip, "right", settings=Settings(min_presence=0.1, smooth=False))
    kept = track_hand(clip, "right", settings=Settings(min_presence=0.1, min_confidence=0.7, smooth=False))
    assert every.found.tolist() == [True, True, True]
    assert kept.found.tolist() == [True, False, True]
    assert (kept.confidence[1] == 0).all()


def test_occluded_joints_do_not_count_against_a_mask():
    estimate = Estimate(np.stack([np.linspace(0, 200, 21), np.full(21, 50)], axis=1), np.zeros(21), 1.0, 1.0, np.zeros(21))
    mask, held = np.zeros((100, 210), bool), np.zeros((100, 210), bool)
    mask[:, :35] = True  # and 20 px beyond: 6 of 21 joints
    held[:, 60:] = True  # all others
    assert share_near_mask(estimate, mask, None) == pytest.approx(6 / 21)
    assert share_near_mask(estimate, mask, held) == 1
    mask[:, 15:] = False
    assert share_near_mask(estimate, mask, held) == pytest.approx(4 / 6)
    assert share_near_mask(estimate, np.zeros_like(mask), held) == 0


def test_the_number_of_threads_has_no_effect(images, track):
    alone = track_hand(images, "right", settings=Settings(threads=1))
    for name in ("j2d_px", "j3d_m", "confidence", "boxes_px"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(track, name))


def test_lost_frames_use_the_crops_of_their_neighbours():
    """A finder that sees a hand of presence 0.6 wherever the crop's centre is within 30 of where the hand is."""

    def estimate(x: float, presence: float) -> Estimate:
        corner = np.array([[0, 100], [100, 0]])[np.arange(21) % 2]
        return Estimate(corner + np.array([x, 0.0]), np.zeros(21), presence, 1.0, np.zeros(21))

    places = [0.0, 20.0, 40.0, 500.0, 60.0]

    class Finder:
        def average_crops(self, view: View, crop: Crop) -> Candidate | None:
            x = float(view.image[0, 0, 0])
            seen = abs(crop.center[0] - estimate(x, 1.0).next_crop().center[0]) < 30
            return Candidate(estimate(x, 0.6), 0.6) if seen else None

    frames = [View(np.full((1, 1, 3), x), None, None) for x in places]
    sure, weak = Candidate(estimate(0.0, SURE), SURE), Candidate(estimate(60.0, 2 * GONE), 2 * GONE)
    mended = fill_from_neighbours(Finder(), frames, [sure, None, None, None, weak])  # type: ignore[arg-type]
    assert mended[0] is sure
    assert [f and f.score for f in mended[1:]] == [0.6, 0.6, None, 2 * GONE]
    assert mended[2].estimate.j2d_px[0, 0] == 40


def test_estimates_are_averaged_with_their_standard_deviation():
    looks = [Estimate(np.full((21, 2), x), np.full(21, x), p, r, np.zeros(21)) for x, p, r in ((1.0, 0.5, 1.0), (3.0, 1.0, 0.5))]
    mean = mean_of(looks)
    np.testing.assert_allclose(mean.j2d_px, 2)
    np.testing.assert_allclose(mean.depth_px, 2)
    assert (mean.presence, mean.handedness) == (0.75, 0.75)
    np.testing.assert_allclose(mean.std_px, np.sqrt(2))


def test_one_hand_is_not_taken_for_two(track):
    def moved(share: float, frames: int, trust: float) -> KeypointTrack:
        """The hand, moved by a share of its size, in some of the frames."""
        size = np.linalg.norm(np.ptp(track.j2d_px, axis=1), axis=-1)
        j2d = track.j2d_px + np.stack([share * size, 0 * size], axis=1)[:, None]
        j2d[frames:] = np.nan
        return KeypointTrack(j2d, track.j3d_m, track.confidence * trust * (np.arange(3) < frames)[:, None], track.boxes_px)

    assert list(distinct({"right": moved(0, 3, 1), "left": moved(0.3, 2, 0.9)})) == ["right"]
    assert list(distinct({"right": moved(0, 3, 0.5), "left": moved(0.3, 3, 0.9)})) == ["left"]
    assert list(distinct({"right": moved(0, 3, 1), "left": moved(1.5, 3, 0.9)})) == ["right", "left"]
    assert list(distinct({"left": moved(0, 3, 1)})) == ["left"]


def test_frames_about_which_the_hand_is_mostly_of_the_other_side_are_dropped():
    def estimates(*right: float) -> list[Estimate | None]:
        return [Estimate(np.outer(np.arange(21), [1, 2]), np.zeros(21), 1.0, r, np.zeros(21)) for r in right]

    once_wrong = estimates(0.9, 0.9, 0.2, 0.9, 0.9)
    assert drop_implausible(once_wrong, "right") == once_wrong
    assert drop_implausible(once_wrong, "left") == [None] * 5
    assert drop_implausible(once_wrong, None) == once_wrong
    halves = estimates(*[0.9] * 30, *[0.1] * 30)
    assert [e is not None for e in drop_implausible(halves, "left")] == [False] * 30 + [True] * 30


def test_anchors_and_weighted_nms():
    anchors = palm_anchors()
    assert anchors.shape == (2016, 2)
    np.testing.assert_allclose(anchors[[0, 1, 2]], [[0.5 / 24, 0.5 / 24]] * 2 + [[1.5 / 24, 0.5 / 24]])
    np.testing.assert_allclose(anchors[-1], [11.5 / 12, 11.5 / 12])
    rows = np.zeros((3, 18))
    rows[:, :4] = [[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2], [0.9, 0.1, 0.1, 0.1]]
    kept = weighted_nms(rows, np.array([0.9, 0.6, 0.8]))
    assert [score for score, _ in kept] == [0.9, 0.8]
    assert kept[0][1][0] == pytest.approx((0.9 * 0.5 + 0.6 * 0.52) / 1.5)


def test_black_crop_holds_no_palm():
    networks = HandNetworks(threads=1)
    assert networks.palms(np.zeros((100, 100, 3), np.uint8), Crop(np.array([49.5, 49.5]), 100.0, 0.0)) == []
