"""Feature backends: tiny random SuperPoint matchers against the library's own results, and exact features through mapping."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K
from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.object import colmap
from holdprep.object.colmap import Crop, write_crops
from holdprep.object.sfm import reconstruct
from holdprep.object.sfm_options import SfmOptions
from holdprep.object.superpoint import Matcher, SuperPoint
from tests.object.boxes import exact_box
from tests.object.clouds import KnownFeatures
from tests.synthetic import box_sequence

transformers = pytest.importorskip("transformers")

DETECTOR = {
    "model_type": "superpoint",
    "encoder_hidden_sizes": [8, 8, 16, 16],
    "decoder_hidden_size": 16,
    "descriptor_decoder_dim": 32,
    "keypoint_threshold": 0.0,  # every peak
}
NAMES = ["0", "1", "2"]
MATCHERS: list[Matcher] = ["superglue", "lightglue"]


def save(matcher: Matcher, folder: Path) -> Path:
    """Save a random matcher with its detector in the layout of Hugging Face."""
    torch.manual_seed(0)
    if matcher == "superglue":
        sizes = {"hidden_size": 32, "keypoint_encoder_sizes": [8, 32], "gnn_layers_types": ["self", "cross"], "sinkhorn_iterations": 10}
        model = transformers.SuperGlueForKeypointMatching(transformers.SuperGlueConfig(keypoint_detector_config=DETECTOR, **sizes))
        model.bin_score.data.fill_(-5.0)
    else:
        sizes = {"descriptor_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "filter_threshold": 0.0}
        model = transformers.LightGlueForKeypointMatching(transformers.LightGlueConfig(keypoint_detector_config=DETECTOR, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # otherwise all descriptors are nearly equal
            if parameter.ndim > 1:
                parameter.mul_(150 if "final_projection" in name else 8 if "keypoint_detector" in name else 2)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Prepared:
    source: SuperPoint
    folder: Path
    crop: Crop
    model: torch.nn.Module


@pytest.fixture(scope="module", params=MATCHERS)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Three frames of a box, the last one without a mask, with extracted and matched features."""
    folder = tmp_path_factory.mktemp(request.param)
    weights = save(request.param, folder / "weights")
    images, masks, _, _ = box_sequence(3)
    crop = Crop.around(masks, 1.0)
    write_crops(folder, crop, images, [*masks[:2], np.zeros_like(masks[2])], NAMES)
    source = SuperPoint(request.param, weights, 100000, "cpu")
    source.extract(folder, crop, pinhole_K(500.0, *images[0].shape[1::-1]), 1)
    source.match(folder, [("0", "1"), ("0", "2"), ("1", "2")], 4.0, 0, 1)
    model = getattr(transformers, type_of(request.param)).from_pretrained(weights).eval()
    return Prepared(source, folder, crop, model)


def type_of(matcher: str) -> str:
    return {"superglue": "SuperGlueForKeypointMatching", "lightglue": "LightGlueForKeypointMatching"}[matcher]


def crop_tensor(folder: Path, name: str) -> torch.Tensor:
    return torch.from_numpy(colmap.read_crop(folder, name).astype(np.float32) / 255)[None, None]


def test_features_are_those_of_the_network_on_the_mask(prepared: Prepared) -> None:
    with torch.no_grad():
        found = prepared.model.keypoint_detector(crop_tensor(prepared.folder, "0"))
    mask = colmap.read_mask(prepared.folder, "0")
    px = (found.keypoints[0] * torch.tensor(mask.shape[::-1])).numpy()
    x, y = np.round(px).astype(int).T
    inside = mask[y, x] > 0
    assert 50 < inside.sum() < len(px)
    features = colmap.read_features(prepared.folder, prepared.crop)
    own = features.keypoints_px["0"]
    expected = prepared.crop.from_window(px[inside])
    assert own[np.lexsort(own.T)] == pytest.approx(expected[np.lexsort(expected.T)], abs=1e-3)
    described = prepared.source.descriptors(prepared.folder)
    assert described["0"].shape == (inside.sum(), 32) and described["0"].dtype == np.float32
    assert described["0"][np.lexsort(own.T)] == pytest.approx(found.descriptors[0].numpy()[inside][np.lexsort(expected.T)], abs=1e-5)
    assert len(features.keypoints_px["2"]) == 0


def test_the_features_of_highest_score_are_kept(prepared: Prepared, tmp_path: Path) -> None:
    few = SuperPoint(prepared.source.matcher, prepared.source.weights, 20, "cpu")
    images, masks, _, _ = box_sequence(1)
    write_crops(tmp_path, prepared.crop, images, masks, ["0"])
    few.extract(tmp_path, prepared.crop, pinhole_K(500.0, *images[0].shape[1::-1]), 1)
    with np.load(tmp_path / "features" / "0.npz") as found, np.load(prepared.folder / "features" / "0.npz") as every:
        assert len(found["scores"]) == 20
        assert found["scores"].tolist() == np.sort(every["scores"])[::-1][:20].tolist()


def test_matches_are_those_of_the_network(prepared: Prepared, tmp_path: Path) -> None:
    """Equal to the library's result on both images if the masks cover them, up to the order of features."""
    noise = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
    images = [noise[:120, :160], noise[3:123, 5:165]]
    crop = Crop(0, 0, 160, 120, 1.0, (0, 0, 160, 120))
    write_crops(tmp_path, crop, images, np.ones((2, 120, 160), bool), NAMES[:2])
    prepared.source.extract(tmp_path, crop, pinhole_K(500.0, 160, 120), 1)
    ((a, b, ours),) = prepared.source.matches(tmp_path, [("0", "1")])
    own, other = (np.load(tmp_path / "features" / f"{name}.npz")["keypoints_px"] for name in (a, b))
    with torch.no_grad():
        found = prepared.model(torch.stack([crop_tensor(tmp_path, name) for name in NAMES[:2]], dim=1)[0][None])
    px = found.keypoints[0].numpy() * crop_tensor(tmp_path, "0").shape[:1:-1]
    to_other = found.matches.reshape(2, -1)[0].numpy()
    at = np.flatnonzero(to_other >= 0)
    expected = {(*x, *y) for x, y in zip(np.round(px[0][at]).tolist(), np.round(px[1][to_other[at]]).tolist(), strict=True)}
    got = {(*x, *y) for x, y in zip(own[ours[:, 0]].tolist(), other[ours[:, 1]].tolist(), strict=True)}
    assert 20 < len(got) < len(own)
    assert len(got & expected) > 0.99 * max(len(got), len(expected))


def test_frames_without_features_are_skipped(prepared: Prepared) -> None:
    assert [(a, b) for a, b, _ in prepared.source.matches(prepared.folder, [("0", "1"), ("0", "2")])] == [("0", "1")]


def test_camera_and_matches_in_the_database(prepared: Prepared) -> None:
    with pycolmap.Database.open(prepared.folder / "database.db") as database:
        (camera,) = database.read_all_cameras()
        ids = {image.name: image.image_id for image in database.read_all_images()}
        raw = database.read_matches(ids["0.png"], ids["1.png"])
    assert sorted(ids) == [f"{name}.png" for name in NAMES]
    assert camera.params == pytest.approx([500.0, *prepared.crop.to_colmap([(480 - 1) / 2, (360 - 1) / 2]), 0.0])
    (found,) = prepared.source.matches(prepared.folder, [("0", "1")])
    assert raw.tolist() == found[2].tolist()


@pytest.mark.parametrize("matcher", MATCHERS)
def test_errors_about_weights_name_their_source(matcher: Matcher, tmp_path: Path) -> None:
    source = {"superglue": "magic-leap-community/superglue_outdoor", "lightglue": "ETH-CVG/lightglue_superpoint"}[matcher]
    other = save("lightglue" if matcher == "superglue" else "superglue", tmp_path / "other")
    lacking = save(matcher, tmp_path / "lacking")
    strange = save(matcher, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    config["keypoint_detector_config"]["model_type"] = "disk"
    (strange / "config.json").write_text(json.dumps(config))
    (lacking / "model.safetensors").write_bytes(b"")
    for weights, message in (
        (None, "object_pose.weights is not set"),
        (tmp_path / "none", "no weights in"),
        (other, f"holds a model of type .* on superpoint, not {matcher} on superpoint"),
        (strange, f"of type {matcher} on disk"),
        (lacking, "cannot be loaded"),
    ):
        with pytest.raises(HoldprepError, match=message) as error:
            SuperPoint(matcher, weights, 100, "cpu").extract(tmp_path, Crop(0, 0, 9, 9, 1.0, (0, 0, 9, 9)), pinhole_K(9.0, 9, 9), 1)
        assert "\n" not in str(error.value)
        assert f"object_pose=superpoint_{matcher}:" in str(error.value)
        assert f"hf download {source} " in str(error.value)


def test_features_of_any_source_become_poses(tmp_path: Path) -> None:
    box = exact_box(tmp_path / "box", 16, noise_px=0.2)
    rng = np.random.default_rng(0)
    matches: dict[str, dict[str, np.ndarray]] = {}
    for a, others in box.features.matches.items():
        for b, found in others.items():
            wrong = found[rng.random(len(found)) < 0.1]  # 10 % wrong matches for verification to remove
            matches.setdefault(a, {})[b] = np.concatenate(
                [found[~np.isin(found[:, 0], wrong[:, 0])], np.roll(wrong, 1, axis=0) * [0, 1] + wrong * [1, 0]]
            )
    images, masks, _, _ = box_sequence(16, degrees=40.0, size=(0.10, 0.08, 0.07))
    options = SfmOptions(source=KnownFeatures(box.features.keypoints_px, matches), num_threads=1)
    found = reconstruct(images, masks, box.names, tmp_path / "sfm", options)
    assert found.registered.all()
    R, R_true = found.T_cam_obj[:, :3, :3], box.poses[:, :3, :3]
    between = Rotation.from_matrix(np.swapaxes(R, 1, 2) @ R_true).mean().as_matrix()
    assert np.median(rotation_angle_deg(R @ between, R_true)) < 0.3
    assert abs(found.focal_px / box.K[0, 0] - 1) < 0.03
