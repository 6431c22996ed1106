"""METRO in this project's code against the published implementation, on one set of random weights and a small network."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand.joints import MANO21_TIP_VERTICES
from holdprep.hand.model import load_hand_model
from holdprep.hand.trackers import crops, metro, metro_network
from tests.hand.trackers.networks import (
    DEMO_BOX,
    DEMO_J2D,
    DEMO_JOINTS,
    METRO_SIZES,
    demo_picture,
    fixture,
    metro_weights,
    picture,
    write_sampling,
)

# the published code's results were recorded with this hand
MODEL = load_hand_model("right", Path(__file__).parent / "parity_hand.npz", dtype=torch.float64)
K = np.array([[900.0, 0, 319.5], [0, 900, 239.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def parity() -> dict[str, np.ndarray]:
    return fixture("metro_parity.npz")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metro") / "metro_hand_state_dict.bin"
    torch.save(metro_weights(), path)
    return path


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> metro_network.Metro:
    return metro_network.load(checkpoint, sizes=METRO_SIZES)


def test_template_is_the_published_one(parity: dict[str, np.ndarray]):
    np.testing.assert_allclose(metro.template(MODEL, parity["kept"]).numpy(), parity["template"], atol=1e-6)


def test_network_gives_the_published_hands(parity: dict[str, np.ndarray], network: metro_network.Metro):
    crops = torch.from_numpy(np.random.default_rng(3).normal(size=(3, 3, 224, 224)).astype(np.float32))
    template = metro.template(MODEL, parity["kept"]).float()
    with torch.inference_mode():
        np.testing.assert_allclose(network.backbone(crops)[:, ::16], parity["features"], atol=1e-4)
        found = network(crops, template)
    np.testing.assert_allclose(found.vertices_m[:, ::4], parity["vertices"], atol=1e-4)
    np.testing.assert_allclose(found.camera, parity["camera"], atol=1e-4)
    vertices, j2d = metro.about_wrist(found.vertices_m, found.camera, MODEL)
    np.testing.assert_allclose(vertices[:, ::4], parity["v3d_ra"], atol=1e-4)
    np.testing.assert_allclose(j2d, parity["j2d_crop"], atol=1e-2)  # of 224 pixels
    assert np.abs(np.diff(parity["vertices"], axis=0)).max() > 0.01  # it does look at the picture


def test_crops_are_pillows():
    image = picture(300, 200, seed=0)
    for box in ([20, 10, 148, 138], [-40, -30, 260, 270], [200, 100, 300, 200]):
        crop = Image.fromarray(image[..., ::-1]).crop(box).resize((224, 224), Image.Resampling.BILINEAR)
        expected = np.asarray(crop, np.float32).transpose(2, 0, 1)
        np.testing.assert_allclose(metro.cut(image, np.array(box, float), False), expected, atol=1.01)
        np.testing.assert_allclose(metro.cut(image, np.array(box, float), True), expected[..., ::-1], atol=1.01)


def test_a_left_hand_is_the_mirrored_right_hand_of_the_mirrored_image(network: metro_network.Metro, parity: dict[str, np.ndarray]):
    images = [picture(640, 480, seed) for seed in range(3)]
    mirrored = [np.ascontiguousarray(i[:, ::-1]) for i in images]
    box = np.array([[100.0, 120, 200, 260], [np.nan] * 4, [140, 120, 241, 260]])
    flipped = np.stack([640 - box[:, 2], box[:, 1], 640 - box[:, 0], box[:, 3]], axis=1)
    names = ["a", "b", "c"]
    right = metro.track(images, {"right": box}, metro.Regressor(network, MODEL, parity["kept"]), names, feed=crops.Feed(batch=2))["right"]
    left = metro.track(mirrored, {"left": flipped}, metro.Regressor(network, MODEL, parity["kept"]), names)["left"]
    np.testing.assert_array_equal(np.isnan(right.v3d_ra_m).all(axis=(1, 2)), [False, True, False])
    assert np.isfinite(right.boxes_px).all()
    whole = [0]  # the other box has odd sides: its mirrored square is rounded to another pixel
    np.testing.assert_allclose(left.v3d_ra_m[whole], (right.v3d_ra_m * [-1, 1, 1])[whole], atol=1e-5)
    np.testing.assert_allclose(left.j2d_crop_px[whole], ([224, 0] + right.j2d_crop_px * [-1, 1])[whole], atol=1e-3)
    everywhere = metro.track(images, {"right": box}, metro.Regressor(network, MODEL, parity["kept"]), names, reuse_boxes=True)["right"]
    assert np.isfinite(everywhere.v3d_ra_m).all()
    np.testing.assert_allclose(everywhere.v3d_ra_m[[0, 2]], right.v3d_ra_m[[0, 2]], atol=1e-5)


def test_hands_of_both_sides_project_to_their_keypoints():
    rng = np.random.default_rng(0)
    ra = rng.normal(0, 0.04, (2, 778, 3))
    transl = np.array([[0.05, -0.02, 0.6], [0.1, 0.05, 0.8]])
    joints = rng.normal(0, 0.04, (2, 21, 3))
    joints[:, 0], joints[:, 16:] = 0, ra[:, list(MANO21_TIP_VERTICES)]
    j2d = project(joints + transl[:, None], K)
    boxes = np.array([[200.0, 100, 500, 400], [250, 150, 650, 550]])
    in_crop = (j2d[:, list(metro.OPENPOSE_FROM_MANO21)] - boxes[:, None, :2]) * 224 / (boxes[:, 2] - boxes[:, 0])[:, None, None]
    hand = metro.Raw(ra, in_crop, boxes)
    placed = metro.to_camera({"left": hand}, K, ["a", "b"])
    np.testing.assert_allclose(placed.vertices_m["left"], ra + transl[:, None], atol=1e-9)
    np.testing.assert_allclose(placed.j2d_px["left"], j2d, atol=1e-9)


def refused(path: Path, backbone: Path | None = None) -> str:
    with pytest.raises(HoldprepError) as error:
        metro_network.load(path, backbone, METRO_SIZES)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_weights_are_errors_of_one_line(tmp_path: Path, checkpoint: Path):
    assert "METRO's download" in refused(tmp_path / "metro.bin")
    body = tmp_path / "body.bin"
    torch.save(metro_weights() | {"upsampling2.weight": torch.zeros(6890, 1723), "upsampling.weight": torch.zeros(1723, 431)}, body)
    assert "it looks like METRO's body model's: upsampling.weight is (1723, 431), (778, 195) is needed" in refused(body)
    cut_short = tmp_path / "cut.bin"
    cut_short.write_bytes(checkpoint.read_bytes()[:100_000])
    assert "could not be read" in refused(cut_short)


def test_a_backbone_may_come_from_hrnets_own_file(tmp_path: Path, network: metro_network.Metro):
    weights = metro_weights()
    bare, hrnet = tmp_path / "bare.bin", tmp_path / "hrnet.pth"
    torch.save({k: v for k, v in weights.items() if not k.startswith("backbone.")}, bare)
    torch.save({k.removeprefix("backbone."): v for k, v in weights.items() if k.startswith("backbone.")}, hrnet)
    assert "backbone.conv1.weight is missing" in refused(bare)
    joined = metro_network.load(bare, hrnet, METRO_SIZES)
    for name, value in network.state_dict().items():
        assert torch.equal(value, joined.state_dict()[name]), name


def test_the_choice_of_vertices_is_read_and_other_reductions_refused(tmp_path: Path, parity: dict[str, np.ndarray]):
    path = write_sampling(tmp_path / "mano_downsampling.npz", parity["kept"])
    np.testing.assert_array_equal(metro.read_kept(path), parity["kept"])
    write_sampling(path, parity["kept"][:100])
    with pytest.raises(HoldprepError, match=r"has shape \(100, 778\), a choice of 195 of 778 vertices is needed"):
        metro.read_kept(path)
    with pytest.raises(HoldprepError, match=r"hand.sampling is metro/modeling/data/mano_downsampling.npz"):
        metro.read_kept(tmp_path / "nothing.npz")


def test_half_precision_stays_near(checkpoint: Path, network: metro_network.Metro, parity: dict[str, np.ndarray]):
    halved = metro_network.load(checkpoint, sizes=METRO_SIZES)
    halved.backbone.to(torch.bfloat16)
    box = {"right": np.array([[100.0, 120, 200, 260]])}
    exact, rough = (
        metro.track([picture(640, 480, 0)], box, metro.Regressor(n, MODEL, parity["kept"]), ["a"])["right"] for n in (network, halved)
    )
    off_m = np.abs(exact.v3d_ra_m - rough.v3d_ra_m).max()
    assert 0 < off_m < 0.05 * np.abs(exact.v3d_ra_m).max()


@pytest.mark.skipif(
    not {"METRO_CHECKPOINT", "METRO_SAMPLING"} <= set(os.environ),
    reason="METRO_CHECKPOINT and METRO_SAMPLING are not set: the published weights are not here to be tried",
)
def test_published_weights_detect_the_hand_of_the_demo():
    network = metro_network.load(Path(os.environ["METRO_CHECKPOINT"]))
    mano = Path(os.environ["MANO_DIR"]) if "MANO_DIR" in os.environ else None
    model = load_hand_model("right", mano, dtype=torch.float64)
    kept = metro.read_kept(Path(os.environ["METRO_SAMPLING"]))
    found = metro.track([demo_picture()], {"right": DEMO_BOX}, metro.Regressor(network, model, kept), ["0000"])
    track = metro.to_camera(found, K, ["0000"])
    off_px = np.linalg.norm(track.j2d_px["right"][0, DEMO_JOINTS] - DEMO_J2D, axis=1)
    assert off_px.max() < 40
