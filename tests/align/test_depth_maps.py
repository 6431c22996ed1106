"""The scale from rendered depth maps of unknown gain."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from holdprep.align import run
from holdprep.align.depth_maps import SYSTEMATIC, depth_maps, depth_ratios
from holdprep.align.problem import EntityMasks, HandObservation, Problem, Weights, outward, prepare
from holdprep.align.scale import Views, estimate_scale
from holdprep.align.surface import Surface
from holdprep.errors import HoldprepError
from holdprep.geometry.lens import Lens
from holdprep.hand.lbs import to_state
from holdprep.hand.model import load_hand_model
from holdprep.sequence.depthmaps import read_depth_maps
from tests.synthetic import make_sequence

UNIT_M, FRAMES = 0.05, 20


@pytest.fixture(scope="module")
def scene():
    """The sequence, its problem with true hands, and the object's surface."""
    seq = make_sequence(frames=FRAMES)
    T = seq.T_cam_obj.copy()
    T[:, :3, 3] /= UNIT_M
    masks = EntityMasks(np.arange(FRAMES), {"right": seq.masks["right"]}, seq.masks["object"])
    model = load_hand_model("right", dtype=torch.float64)
    hand = HandObservation(model, seq.params["right"], torch.tensor(seq.j2d_px["right"]), torch.ones(FRAMES), torch.ones(FRAMES) > 0)
    points = torch.tensor(seq.points_obj_m / UNIT_M)
    size = seq.images[0].shape[1::-1]
    problem = Problem(torch.tensor(seq.K), size, {"right": hand}, points, torch.tensor(T), torch.ones(FRAMES), masks=masks)
    problem = prepare(problem, Weights())
    return seq, problem, Surface.of(problem.points_obj.numpy(), outward(problem).numpy())


def maps_of(seq, noise=0.0, seed=0):
    """True depth times another gain in each frame, times smooth noise of a standard deviation; half precision as `read_depth_maps` gives."""
    rng = np.random.default_rng(seed)
    depth = np.where(np.isfinite(seq.depth_m), seq.depth_m, 2.0)
    for t in range(len(depth)):
        blotches = cv2.GaussianBlur(rng.normal(size=depth.shape[1:]), (0, 0), 12.0)
        depth[t] *= rng.uniform(0.3, 3.0) * np.exp(noise * blotches / blotches.std())
    return depth.astype(np.float16)


def with_maps(problem, depth):
    return replace(problem, masks=replace(problem.masks, depth=depth))


def estimated(scene, depth):
    seq, problem, surface = scene
    state = to_state(problem.hands["right"].model, seq.params["right"])
    return depth_maps({"right": depth_ratios(with_maps(problem, depth), "right", state, surface)}, UNIT_M)


@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.01), (0.03, 0.03)])
def test_depth_of_any_gain_gives_the_scale(scene, noise, most):
    found = estimated(scene, maps_of(scene[0], noise))
    assert found.scale == pytest.approx(UNIT_M, rel=most)
    assert found.rejection == ""
    assert SYSTEMATIC <= found.stderr_ratio < 0.1
    assert found.figures["frames"] == FRAMES
    assert found.figures["exponent"] == pytest.approx(1, abs=0.25)


def test_the_sampling_error_covers_the_noise_of_the_maps(scene):
    found = [estimated(scene, maps_of(scene[0], 0.1, seed)) for seed in range(4)]
    z = [np.log(e.scale / UNIT_M) / np.sqrt(e.stderr_ratio**2 - SYSTEMATIC**2) for e in found]
    assert np.sqrt(np.mean(np.square(z))) < 1.5


def shuffled(depth, seq):
    return np.random.default_rng(0).permuted(depth.reshape(FRAMES, -1), axis=1).reshape(depth.shape)


def hand_at_will(depth, seq):
    """The hand 30 % too near and too far in turn."""
    return depth * np.where(seq.masks["right"], np.exp(0.3 * (-1) ** np.arange(FRAMES)[:, None, None]), 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda depth, seq: 1 / depth, "their values are not proportional to the object's depth (exponent -1."),
        (shuffled, "their values are not proportional to the object's depth (exponent"),
        (hand_at_will, "frames differ by"),
    ],
)
def test_maps_that_are_no_depth_are_rejected(scene, change, reason):
    depth = maps_of(scene[0]).astype(float)
    assert estimated(scene, change(depth, scene[0]).astype(np.float16)).rejection.startswith(reason)


def test_too_few_frames_are_rejected(scene):
    depth = maps_of(scene[0])
    depth[3:] = 0
    assert estimated(scene, depth).rejection == "hand and object have depth in 3 frames (at least 5)"


def test_a_wrong_map_is_outvoted_and_reported(scene):
    """The maps put the object 30 % too far behind the hand: the scale hardly changes, and the disagreement is counted."""
    seq, problem, _ = scene
    depth = maps_of(seq)
    wrong = np.where(seq.masks["object"], 1.3, 1.0) * depth
    scales = {}
    for name, maps in (("without", None), ("right", depth), ("wrong", wrong.astype(np.float16))):
        with_them = with_maps(problem, maps)
        h = run.align("h", with_them)
        scales[name] = run.align("o", with_them, initial=h)
    assert "scale.depth_maps.scale" not in scales["without"].metrics
    assert scales["right"].metrics["scale.depth_maps.scale"] == pytest.approx(UNIT_M, rel=0.03)
    assert scales["wrong"].metrics["scale.depth_maps.scale"] == pytest.approx(1.3 * UNIT_M, rel=0.03)
    assert scales["wrong"].obj_scale == pytest.approx(scales["without"].obj_scale, rel=0.02)
    assert scales["wrong"].metrics["scale.disagreeing"] > scales["right"].metrics["scale.disagreeing"]
    assert any("scale by depth_maps" in note and "disagrees" in note for note in scales["wrong"].notes)


def test_the_maps_alone_give_the_scale(scene):
    seq, problem, _ = scene
    with_them = with_maps(problem, maps_of(seq))
    options = run.Options(scale_estimator="depth_maps")
    o = run.align("o", with_them, options, run.align("h", with_them, options))
    assert o.obj_scale == pytest.approx(UNIT_M, rel=0.03)
    with pytest.raises(HoldprepError, match=r"depth_maps needs the maps: give align\.depth_maps="):
        estimate_scale("depth_maps", {}, scene[2], Views())


NAMES = ["0000", "0002", "0004"]


def write(folder, maps, names=NAMES, suffix=".png"):
    folder.mkdir()
    for name, values in zip(names, maps, strict=True):
        if suffix == ".png":
            cv2.imwrite(str(folder / f"{name}.png"), values)
        else:
            np.save(folder / f"{name}.npy", values)
    return folder


def test_maps_are_read_with_their_gain_removed(tmp_path):
    depth = np.random.default_rng(0).integers(5000, 9000, (3, 24, 32)).astype(np.uint16)
    depth[:, :2] = 0
    metres = depth / 1e4
    metres[:, 0] = np.nan
    png, _ = read_depth_maps(write(tmp_path / "png", depth), NAMES, [0, 2], (32, 24))
    npy, _ = read_depth_maps(write(tmp_path / "npy", metres[..., None].astype(np.float32), suffix=".npy"), NAMES, [0, 2], (32, 24))
    assert np.array_equal(png == 0, depth[[0, 2]] == 0)
    expected = depth[[0, 2]] / np.median(depth[[0, 2]][:, 2:], axis=(1, 2), keepdims=True)
    assert png == pytest.approx(expected, rel=1e-3)
    assert npy == pytest.approx(expected, rel=1e-3)


def test_maps_are_undistorted_as_the_pictures_are(tmp_path):
    lens = Lens(np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]]), 0.3, (32, 24))
    ramp = np.tile(np.arange(100, 132, dtype=np.uint16), (24, 1))
    found, _ = read_depth_maps(write(tmp_path / "maps", [ramp] * 3), NAMES, [1], (32, 24), lens)
    assert found[0] == pytest.approx(lens.undistorted(ramp.astype(np.float32), cv2.INTER_NEAREST) / 115.5, rel=1e-3)


@pytest.mark.parametrize(
    ("maps", "names", "message"),
    [
        (np.ones((2, 24, 32), np.uint16), NAMES[:2], r"lacks depth maps of 1 of 3 frames \(first: 0004\)"),
        (np.ones((3, 12, 16), np.uint16), NAMES, r"0000.png has 16 x 12 values, images/ has 32 x 24 pixels"),
        (np.ones((3, 24, 32), np.uint8), NAMES, "0000.png holds uint8: depth needs 16-bit PNG"),
        (np.ones((3, 24, 32, 3), np.uint16), NAMES, "0000.png has 3 x 32 x 24 values"),
        (np.zeros((3, 24, 32), np.uint16), NAMES, "0000.png has no positive value"),
        (np.ones((3, 24, 32), np.uint16), ["a", "b", "c"], "none of its 3 entries belongs to one of the 3 frames"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_one_line(tmp_path, maps, names, message):
    folder = write(tmp_path / "maps", maps, names)
    with pytest.raises(HoldprepError, match=message) as refused:
        read_depth_maps(folder, NAMES, [0, 1], (32, 24))
    assert "\n" not in str(refused.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(HoldprepError, match="nowhere is not a folder"):
        read_depth_maps(tmp_path / "nowhere", NAMES, [0], (32, 24))
