"""SAM 2 / 3 video: tiny random models of the same architecture, against the library's own whole-clip propagation."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.segmenters import sam
from holdprep.segmenters.prompts import EntityPrompt
from tests.synthetic import make_sequence

transformers = pytest.importorskip("transformers")

SIZE = (60, 80)
FRAMES = 22  # more than the memories that are kept
COMMON = {
    "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 32,
    "memory_encoder_hidden_size": 128,
    "memory_encoder_output_channels": 64,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 32,
}
HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 8,
    "image_size": [128, 128],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [8, 4, 8, 4],
    "global_attention_blocks": [3],
}
VIT = {
    "model_type": "sam3_vit_model",
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 112,
    "window_size": 4,
    "global_attn_indexes": [1],
    "pretrain_image_size": 56,
}


def save(family: str, folder: Path) -> Path:
    """A random model whose objects are always there, in the layout that Hugging Face serves."""
    torch.manual_seed(0)
    if family == "sam2":
        vision = {"model_type": "sam2_vision_model", "backbone_config": HIERA, "backbone_channel_list": [64, 32, 16, 8]}
        vision |= {"backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": 128}
        prompt = {"hidden_size": 128, "image_size": 128, "patch_size": 16}
        config = transformers.Sam2VideoConfig(
            vision_config=vision, prompt_encoder_config=prompt, image_size=128, memory_attention_rope_feat_sizes=[8, 8], **COMMON
        )
        model = transformers.Sam2VideoModel(config)
    else:
        vision = {"model_type": "sam3_vision_model", "backbone_config": VIT, "fpn_hidden_size": 128}
        prompt = {"hidden_size": 128, "image_size": 112, "patch_size": 14}
        model = transformers.Sam3TrackerVideoModel(
            transformers.Sam3TrackerVideoConfig(vision_config=vision, prompt_encoder_config=prompt, image_size=112, **COMMON)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(4)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["sam2", "sam3"])
def weights(request, tmp_path_factory) -> tuple[sam.Family, Path]:
    return request.param, save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 6, 8, 3), np.uint8)
    return [cv2.resize(n, SIZE[::-1], interpolation=cv2.INTER_CUBIC) for n in noise]


CLICKS = EntityPrompt(positive=np.array([[30.0, 20.0]]), negative=np.array([[60.0, 50.0]]))
BOX = EntityPrompt(box=(10.0, 10.0, 50.0, 40.0))
TRIANGLE = EntityPrompt(polygons=(np.array([[10.0, 10.0], [60.0, 12.0], [30.0, 50.0]]),))


def whole_clip(predictor: sam.Predictor, images: list[np.ndarray], start: int, reverse: bool) -> dict[int, np.ndarray]:
    """The library's own propagation of CLICKS on frame `start`, all frames in memory; masks (H, W) by frame."""
    session = predictor.session(SIZE)
    session.processed_frames = {t: predictor.pixels(image)[0] for t, image in enumerate(images)}
    scale = predictor.side / np.array(SIZE[::-1])
    points = np.concatenate([CLICKS.positive, CLICKS.negative])
    coords = torch.tensor((points + 0.5) * scale - 0.5, dtype=torch.float32)[None, None]
    session.add_point_inputs(0, start, {"point_coords": coords, "point_labels": torch.tensor([[[1, 0]]], dtype=torch.int32)})
    session.obj_with_new_inputs = [1]
    predictor.model(session, frame_idx=start)
    found = predictor.model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse)
    up = {o.frame_idx: torch.nn.functional.interpolate(o.pred_masks, SIZE, mode="bilinear", align_corners=False) for o in found}
    return {t: (mask[0, 0] > 0).numpy() for t, mask in up.items()}


@pytest.mark.parametrize("reverse", [False, True])
def test_frame_by_frame_is_the_whole_clip_at_once(weights, images, reverse: bool):
    family, folder = weights
    start = FRAMES - 1 if reverse else 0
    expected = whole_clip(sam.Predictor.load(family, folder, "cpu"), images, start, reverse)
    found = sam.propagate(images, {start: {"object": CLICKS}}, sam.Predictor.load(family, folder, "cpu"))["object"]
    assert found.shape == (FRAMES, *SIZE) and 0.01 < found.mean() < 0.99
    assert len({f.tobytes() for f in found}) > FRAMES // 2  # frames differ
    assert np.mean([np.mean(found[t] != expected[t]) for t in range(FRAMES)]) < 0.002


def test_entities_and_key_frames(weights, images):
    family, folder = weights
    prompts = {4: {"object": TRIANGLE, "right": BOX}, 8: {"right": EntityPrompt(absent=True)}, 9: {"object": BOX}}
    found = sam.propagate(images[:12], prompts, sam.Predictor.load(family, folder, "cpu"))
    assert set(found) == {"right", "object"}
    assert not (found["right"] & found["object"]).any()
    assert not found["right"][8].any()
    filled = cv2.fillPoly(np.zeros(SIZE, np.uint8), [TRIANGLE.polygons[0].astype(np.int32)], 1) > 0
    own = found["object"][4]
    assert (own & filled).sum() > 0.9 * (own | filled).sum()
    alone = sam.propagate(images[:12], {4: {"object": TRIANGLE}, 9: {"object": BOX}}, sam.Predictor.load(family, folder, "cpu"))["object"]
    assert (alone >= found["object"]).all()  # the hand took from the object, and changed nothing else
    assert (alone == (found["object"] | (alone & found["right"]))).all()


def test_between_key_frames_both_directions_count(weights, images):
    family, folder = weights
    predictor = sam.Predictor.load(family, folder, "cpu")
    track = sam.Track(predictor, {0: CLICKS, 10: CLICKS}, SIZE, [0, 10])
    track.propagated[False] |= {4: torch.tensor([[4.0]]), 12: torch.tensor([[2.0]])}
    track.propagated[True] |= {4: torch.tensor([[-1.0]])}
    assert track.logits(4).item() == pytest.approx(0.6 * 4 - 0.4 * 1)
    assert track.logits(12).item() == 2


def test_memory_does_not_grow_with_the_clip(weights, images):
    family, folder = weights
    predictor = sam.Predictor.load(family, folder, "cpu")
    track = sam.Track(predictor, {0: BOX}, SIZE, [0])
    track.condition(0, predictor.pixels(images[0]), {})
    for t in range(1, FRAMES):
        track.step(t, predictor.pixels(images[t]), False, {})
    outputs = track.session.output_dict_per_obj[0]
    assert len(outputs["non_cond_frame_outputs"]) == predictor.memory == 16
    assert not track.session.processed_frames
    kept = sum(v.numel() * v.element_size() for o in outputs["non_cond_frame_outputs"].values() for v in o.values())
    assert kept < 16 * 4 * 2 * (predictor.side // 16 + 1) ** 2 * 128  # memories and pointers, no full-size masks


def test_weights_that_are_missing_or_another_models_are_named(weights, tmp_path: Path):
    family, folder = weights
    other: sam.Family = "sam3" if family == "sam2" else "sam2"
    cases = {
        "segmenter.weights is not set": (family, None),
        f"no weights in {tmp_path}": (family, tmp_path),
        "holds a model of type": (other, folder),
    }
    for words, (asked, place) in cases.items():
        with pytest.raises(HoldprepError, match=words) as error:
            sam.Predictor.load(asked, place, "cpu")
        assert "hf download facebook/sam" in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(HoldprepError, match="cannot be loaded") as error:
        sam.Predictor.load(family, tmp_path, "cpu")
    assert "\n" not in str(error.value)


def test_the_tracker_of_a_whole_sam3_is_found(tmp_path: Path):
    """facebook/sam3 holds a detector beside the tracker: its configuration nests the tracker's, its arrays carry prefixes."""
    safetensors = pytest.importorskip("safetensors.torch")
    folder = save("sam3", tmp_path / "tracker")
    expected = sam.Predictor.load("sam3", folder, "cpu").model.state_dict()
    config = json.loads((folder / "config.json").read_text())
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text(json.dumps({"model_type": "sam3_video", "tracker_config": config, "detector_config": {}}))
    arrays = {}
    for name, array in expected.items():
        backbone, neck = "vision_encoder.backbone.", "vision_encoder.neck."
        kept = f"detector_model.{name}" if name.startswith(backbone) else f"tracker_model.{name}"
        arrays[name.replace(neck, "tracker_neck.", 1) if name.startswith(neck) else kept] = array.clone()
    safetensors.save_file(arrays, whole / "model.safetensors", {"format": "pt"})
    found = sam.Predictor.load("sam3", whole, "cpu")
    assert found.side == 112
    assert all(torch.equal(found.model.state_dict()[name], array) for name, array in expected.items())


def test_arrays_that_are_not_there_are_counted(weights, tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.torch")
    family, folder = weights
    arrays = safetensors.load_file(folder / "model.safetensors")
    gone = [name for name in arrays if "memory_attention" in name]
    safetensors.save_file({k: v for k, v in arrays.items() if k not in gone}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(HoldprepError, match=f"lacks {len(gone)} of the model's arrays"):
        sam.Predictor.load(family, tmp_path, "cpu")


def test_clicks_alone_correct_what_is_remembered(weights, images):
    family, folder = weights
    predictor = sam.Predictor.load(family, folder, "cpu")
    prompts = {0: {"object": BOX}, 6: {"object": CLICKS}}
    corrected = sam.propagate(images[:8], prompts, predictor)["object"][6]
    alone = sam.propagate(images[:8], {6: {"object": CLICKS}}, predictor)["object"][6]
    assert (corrected != alone).any()  # the box on frame 0 has a say
    plain = sam.propagate(images[:8], {0: {"object": BOX}}, predictor)["object"][6]
    assert (corrected != plain).any()  # and so have the clicks


def test_a_picture_is_looked_at_once_for_all_entities(weights, images, monkeypatch):
    family, folder = weights
    predictor = sam.Predictor.load(family, folder, "cpu")
    looks, encode = [], predictor.model.get_image_features
    monkeypatch.setattr(predictor.model, "get_image_features", lambda *a, **k: looks.append(1) or encode(*a, **k))
    hand = np.ones(SIZE, bool)
    sam.outline(images[0], {"object": BOX, "right": CLICKS}, {"right": hand, "left": hand}, predictor)
    assert len(looks) == 1
    sam.propagate(images[:5], {0: {"object": BOX, "right": CLICKS}}, predictor)
    assert len(looks) == 1 + 1 + 4  # the key frame, then four frames forward; none is before it


def test_one_picture_by_itself(weights, images):
    family, folder = weights
    predictor = sam.Predictor.load(family, folder, "cpu")
    hand = np.zeros(SIZE, bool)
    hand[40:58, 50:76] = True
    found = sam.outline(images[0], {"object": BOX}, {"right": hand}, predictor)
    expected = sam.propagate(images[:1], {0: {"object": BOX}}, predictor)["object"][0]
    np.testing.assert_array_equal(found["object"] & ~hand, expected & ~hand & found["object"])
    assert (found["right"] & hand).sum() > 0.5 * hand.sum() and not (found["right"] & found["object"]).any()
    corrected = sam.outline(images[0], {"object": CLICKS}, {"object": expected}, predictor)["object"]
    assert (corrected != sam.outline(images[0], {"object": CLICKS}, {}, predictor)["object"]).any()


@pytest.mark.parametrize("family", ["sam2", "sam3"])
def test_real_weights_follow_a_rendered_object(family: sam.Family):
    folder = os.environ.get(f"HOLDPREP_{family.upper()}_WEIGHTS")
    if not folder:
        pytest.skip(f"set HOLDPREP_{family.upper()}_WEIGHTS to a folder with {sam.RELEASES[family].source} to run this")
    seq = make_sequence(("right",), frames=9, size=(320, 240), degrees=30)
    ys, xs = np.nonzero(seq.masks["object"][0])
    box = EntityPrompt(box=(float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())))
    found = sam.propagate(seq.images, {0: {"object": box}}, sam.Predictor.load(family, Path(folder), "cpu"))["object"]
    truth = seq.masks["object"]
    assert min((f & t).sum() / (f | t).sum() for f, t in zip(found, truth, strict=True)) > 0.8
