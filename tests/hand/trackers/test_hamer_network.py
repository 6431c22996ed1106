"""HaMeR in this project's code against the published implementation, on one set of random weights and a small network."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.joints import to_mano21
from holdprep.hand.model import Side, load_hand_model
from holdprep.hand.trackers import conversion, crops, hamer, hamer_network
from tests.hand.trackers.networks import (
    DEMO_BOX,
    DEMO_J2D,
    DEMO_JOINTS,
    HAMER_CONFIG,
    demo_picture,
    fixture,
    hamer_weights,
    picture,
    write_hamer_checkpoint,
)

# the published code's results were recorded with this hand
PARITY_HAND = Path(__file__).parent / "parity_hand.npz"
MODELS = {side: load_hand_model(side, PARITY_HAND, dtype=torch.float64) for side in ("right", "left")}
MEAN, STD = (np.array(x)[:, None, None] for x in (crops.IMAGE_MEAN, crops.IMAGE_STD))
Case = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> hamer_network.Hamer:
    return hamer_network.load(write_hamer_checkpoint(tmp_path_factory.mktemp("hamer")))


@pytest.fixture(scope="module", params=[0, 1], ids=["as it is", "reduced"])
def case(request: pytest.FixtureRequest) -> Case:
    """A picture with two hands; in the second one they are so large that they are blurred before they are reduced."""
    mine = {k.removeprefix(f"{request.param}."): v for k, v in fixture("hamer_parity.npz").items() if k[0] == str(request.param)}
    return mine | {"image": picture(*mine["size"], seed=request.param)}


def sides(case: Case) -> list[Side]:
    return ["right" if right else "left" for right in case["right"]]


def track_case(case: Case, network: hamer_network.Hamer, **options: object) -> hamer.VertexTrack:
    boxes = {side: box[None].astype(float) for side, box in zip(sides(case), case["boxes"], strict=True)}
    return hamer.track([case["image"]], boxes, network, MODELS, ["0000"], **options)


def test_crops_are_the_published_ones(case: Case):
    for box, side, expected in zip(case["boxes"].astype(float), sides(case), case["crop"], strict=True):
        crop = hamer.cut(case["image"], box, side == "left")
        assert crop.shape == (3, 256, 192)
        grey_levels = np.abs(crop[:, 8::16, 8::16] - 255 * (expected * STD + MEAN))
        assert grey_levels.max() < 1.1  # float32 corners there: interpolation rounds to another 32nd of a pixel
        assert grey_levels.mean() < 0.1


def test_network_gives_the_published_hands(network: hamer_network.Hamer):
    parity = fixture("hamer_parity.npz")
    found = hamer.predict(network, [torch.from_numpy(np.random.default_rng(3).normal(size=(3, 3, 256, 192)).astype(np.float32))])
    for name in ("rotations", "betas", "camera"):
        np.testing.assert_allclose(getattr(found, name).numpy(), parity[f"net.{name}"], atol=1e-5)
    assert np.abs(np.diff(parity["net.betas"], axis=0)).max() > 0.01  # it does look at the picture


def test_hands_are_at_the_positions_of_the_published_code(case: Case, network: hamer_network.Hamer):
    track = track_case(case, network)
    assert track.K[0, 0] == pytest.approx(float(case["focal"]))
    np.testing.assert_array_equal(track.K[:2, 2], case["size"] / 2)
    for i, side in enumerate(sides(case)):
        far = case["v3d"][i][:, 2].mean()  # random weights put hands tens of metres away, where float32 ends at micrometres
        assert np.abs(track.vertices_m[side][0, ::8] - case["v3d"][i]).max() < 2e-5 * far
        assert np.abs(track.joints_m[side][0] - to_mano21(case["j3d"][i])).max() < 2e-5 * far
        assert np.abs(track.j2d_px[side][0] - to_mano21(case["j2d"][i])).max() < 0.05
        shape = track.vertices_m[side][0, ::8] - track.joints_m[side][0, 0]
        np.testing.assert_allclose(shape, case["v3d"][i] - case["j3d"][i][0], atol=1e-4)


def test_parameters_are_those_of_the_meshes_in_this_projects_conventions(case: Case, network: hamer_network.Hamer):
    track = track_case(case, network)
    for side in sides(case):
        mesh = lbs.forward(MODELS[side], track.params[side])
        np.testing.assert_allclose(mesh.vertices.numpy(), track.vertices_m[side], atol=1e-9)
        np.testing.assert_allclose(mesh.joints.numpy(), track.joints_m[side], atol=1e-9)


def test_a_known_focal_length_moves_the_hand_along_its_ray_only(case: Case, network: hamer_network.Hamer):
    invented, known = track_case(case, network), track_case(case, network, focal_px=float(case["focal"]) / 10)
    for side in sides(case):
        near, far = (t.params[side].transl.numpy() for t in (known, invented))
        np.testing.assert_allclose(near, far * [1, 1, 0.1], rtol=1e-9)
        np.testing.assert_allclose(project(known.joints_m[side], known.K), known.j2d_px[side])


def test_frames_without_a_box_are_nan_and_batches_and_threads_have_no_effect(network: hamer_network.Hamer):
    images = [picture(200, 160, seed) for seed in range(5)]
    box = np.array([[60.0, 40, 120, 110]]).repeat(5, axis=0) + np.arange(5)[:, None]
    boxes = {"right": np.where([[True], [False], [True], [True], [False]], box, np.nan), "left": box}
    names = [f"{t:04d}" for t in range(5)]
    whole = hamer.track(images, boxes, network, MODELS, names, feed=crops.Feed(batch=32))
    pieces = hamer.track(images, boxes, network, MODELS, names, feed=crops.Feed(batch=3, threads=3))
    np.testing.assert_array_equal(np.isfinite(whole.vertices_m["right"]).all(axis=(1, 2)), [True, False, True, True, False])
    assert np.isnan(whole.params["right"].hand_pose[1]).all()
    for side in ("right", "left"):
        np.testing.assert_allclose(whole.vertices_m[side], pieces.vertices_m[side], rtol=1e-4)


def test_half_precision_stays_near(case: Case, network: hamer_network.Hamer, tmp_path: Path):
    halved = hamer_network.load(write_hamer_checkpoint(tmp_path))
    halved.backbone.to(torch.bfloat16)
    for side in sides(case):
        exact, rough = (track_case(case, n).params[side] for n in (network, halved))
        assert (exact.betas - rough.betas).abs().max() < 0.05
        assert (exact.betas - rough.betas).abs().max() > 0


def test_left_shapes_that_are_not_mirror_images_give_a_note(case: Case, network: hamer_network.Hamer):
    assert track_case(case, network).notes == ()
    wrong_sign = replace(MODELS["left"], shapedirs=MODELS["left"].shapedirs * torch.tensor([-1.0, 1, 1])[:, None])
    boxes = {"left": case["boxes"][sides(case).index("left")][None].astype(float)}
    track = hamer.track([case["image"]], boxes, network, {"right": MODELS["right"], "left": wrong_sign}, ["0000"])
    mesh = lbs.forward(wrong_sign, track.params["left"])
    off_mm = 1e3 * np.linalg.norm(mesh.vertices.numpy() - track.vertices_m["left"], axis=-1).mean()
    assert off_mm > conversion.MAX_MIRROR_ERROR_MM
    assert track.notes[0].endswith(f"the parameters are {off_mm:.1f} mm from the mesh")


def test_overflow_in_half_precision_is_an_error(network: hamer_network.Hamer):
    with pytest.raises(HoldprepError, match=r"HaMeR: 1 of 2 crops gave NaN or infinity; set hand.dtype=bfloat16 or float32"):
        hamer.predict(network, [torch.zeros(1, 3, 256, 192), torch.full((1, 3, 256, 192), torch.inf)])


def corrupt(tmp_path: Path, change: dict[str, Tensor | None]) -> Path:
    """The checkpoint with some tensors replaced, or left out where None."""
    path = write_hamer_checkpoint(tmp_path)
    weights = {k: v for k, v in (hamer_weights() | change).items() if v is not None}
    torch.save({"state_dict": weights}, path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(HoldprepError) as error:
        hamer_network.load(path)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_models_checkpoint_is_an_error_with_its_name(tmp_path: Path):
    path = write_hamer_checkpoint(tmp_path)
    metro = {"trans_encoder.0.bert.img_embedding.weight": torch.zeros(2, 2), "upsampling.weight": torch.zeros(778, 195)}
    torch.save(metro, path)
    assert "is not HaMeR's checkpoint, it looks like METRO's: backbone.pos_embed is missing" in refused(path)
    body = {k: v for k, v in hamer_weights().items() if not k.startswith("mano_head")} | {
        "smpl_head.decpose.weight": torch.zeros(144, 1024)
    }
    torch.save({"state_dict": body}, path)
    assert "it looks like HMR2 (4DHumans)'s: mano_head.transformer.pos_embedding is missing" in refused(path)
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, path)
    assert "has 1 tensors of an unknown model, first conv.weight" in refused(path)
    wide = corrupt(tmp_path, {"backbone.pos_embed": torch.zeros(1, 197, 768)})
    assert "is a checkpoint of HaMeR, but of another variant: backbone.pos_embed is (1, 197, 768), (1, 193, 32) is needed" in refused(wide)
    without = corrupt(tmp_path, {"mano_head.decpose.bias": None})
    assert "mano_head.decpose.bias is missing" in refused(without)


def test_missing_cut_and_empty_files_say_what_to_do(tmp_path: Path):
    assert "does not exist: get hamer_demo_data.tar.gz" in refused(tmp_path / "nothing" / "hamer.ckpt")
    path = write_hamer_checkpoint(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "could not be read: it is truncated at" in refused(path)
    path.write_text("<!DOCTYPE html><html>Quota exceeded</html>")
    assert "hamer.ckpt is no checkpoint, it begins with b'<!DOCTYPE html><': a web page saved in its place?" in refused(path)
    torch.save({"epoch": 3, "global_step": 7}, path)
    assert "holds no weights, only epoch, global_step" in refused(path)
    (tmp_path / "model_config.yaml").unlink()
    assert "model_config.yaml does not exist" in refused(path)


def test_settings_of_another_network_are_refused_by_key(tmp_path: Path):
    path = write_hamer_checkpoint(tmp_path)
    config = tmp_path / "model_config.yaml"
    config.write_text("MODEL: {IMAGE_SIZE: 256}")
    assert "is not a model_config.yaml of HaMeR (KeyError: 'MANO_HEAD')" in refused(path)
    text = str(HAMER_CONFIG).replace("'vit'", "'resnet'")
    config.write_text(text)
    assert "MODEL.BACKBONE.TYPE is 'resnet', only HaMeR's published 'vit' is supported" in refused(path)


@pytest.mark.skipif(
    "HAMER_CHECKPOINT" not in os.environ, reason="HAMER_CHECKPOINT is not set: the published weights are not here to be tried"
)
def test_published_weights_detect_the_hand_of_the_demo():
    network = hamer_network.load(Path(os.environ["HAMER_CHECKPOINT"]))
    mano = Path(os.environ["MANO_DIR"]) if "MANO_DIR" in os.environ else None
    model = load_hand_model("right", mano, dtype=torch.float64)
    track = hamer.track([demo_picture()], {"right": DEMO_BOX}, network, {"right": model}, ["0000"])
    off_px = np.linalg.norm(track.j2d_px["right"][0, DEMO_JOINTS] - DEMO_J2D, axis=1)
    assert off_px.max() < 40
