"""Hand trackers on one machine: HaMeR with random weights from pictures on disk to meshes, and the default tracker's rate and accuracy."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

import holdprep
from holdprep.geometry.cameras import project
from holdprep.hand.model import SIDES, load_hand_model
from holdprep.hand.trackers import checkpoint, crops, hamer, hamer_network, mediapipe
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence, write_image
from tests.benchmarks.measure import Row, row
from tests.running import run

PHONE, WEBCAM = (1920, 1080), (640, 480)  # width and height in pixels
HAND_BOX = np.array([380, 95, 605, 230])  # of the demo clip's hand, in its pixels
THREADS = 8  # of the input, as in conf/hand/hamer.yaml
SIGMA = 0.02  # of random weights
CONFIG = {
    "MODEL": {
        "IMAGE_SIZE": 256,
        "BACKBONE": {"TYPE": "vit"},
        "MANO_HEAD": {
            "TYPE": "transformer_decoder",
            "TRANSFORMER_DECODER": {"depth": 6, "heads": 8, "mlp_dim": 1024, "dim_head": 64, "norm": "layer", "context_dim": 1280},
        },
    },
}
RENDERED = ["source=synthetic", "source.object=can", "source.grasp=in_hand", "source.frames=72", "source.seed=8", "segmenter=truth"]


def measure_hamer() -> Iterator[Row]:
    """Crops a second of a network of the published size with random weights, on CUDA where there is: from pictures of a phone's size on disk."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as scratch:
        yield from _hamer(Path(scratch), device, *((512, 32) if device == "cuda" else (4, 2)))


def _hamer(scratch: Path, device: str, many: int, batch: int) -> Iterator[Row]:
    """The network alone, boxes about masks, the input alone, all together, and the stage with its overlays."""
    case, weights = f"hamer_{device}", scratch / "hamer.ckpt"
    write_random_hamer(weights)
    started = time.perf_counter()
    network = hamer_network.load(weights)
    checkpoint.move(network, network.backbone, device, "auto")
    yield row(case, "hand_pose", "load_time_s", time.perf_counter() - started)
    seq = write_phone_clip(scratch, many)
    names, size = seq.frame_names(), seq.image_size()
    yield row(case, "hand_pose", "network_crops_per_s", _network_rate(network, device, batch, many))
    started = time.perf_counter()
    boxes = {"right": crops.mask_boxes(seq.masks("right"), size, names, "right")}
    yield row(case, "hand_pose", "boxes_per_s", many / (time.perf_counter() - started))
    started = time.perf_counter()
    todo = crops.jobs(boxes)
    for _ in crops.batches(seq.images(), todo, hamer.cut, crops.Feed(batch, THREADS), torch.device(device)):
        pass
    yield row(case, "hand_pose", "input_crops_per_s", len(todo) / (time.perf_counter() - started))
    models = {side: load_hand_model(side, dtype=torch.float64) for side in SIDES}
    started = time.perf_counter()
    hamer.track(seq.images(), boxes, network, models, names, feed=crops.Feed(batch, THREADS))
    yield row(case, "hand_pose", "crops_per_s", len(todo) / (time.perf_counter() - started))
    del network
    told = ["seq=phone", "stage=hand_pose", "hand=hamer", "on_fail=warn", f"device={device}"]
    told += [f"hand.checkpoint={weights}", f"hand.batch={batch}", f"hand.threads={THREADS}"]
    yield row(case, "hand_pose", "stage_time_s", run(scratch, scratch / "out", *told)["hand_pose"]["seconds"])


def write_random_hamer(path: Path) -> None:
    """A checkpoint of the published layout and sizes with random weights, and its model_config.yaml."""
    with torch.device("meta"):
        network = hamer_network.Hamer(hamer_network.Sizes())
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for own, value in network.state_dict().items():
        (name,) = checkpoint.published_names(own, hamer_network.NAMES)
        weights[name] = SIGMA * torch.randn(value.shape, generator=generator) + float("norm" in own and own.endswith("weight"))
    weights["mano_head.init_cam"] = torch.tensor([[0.9, 0.0, 0.0]])
    torch.save({"state_dict": weights}, path)
    (path.parent / "model_config.yaml").write_text(yaml.safe_dump(CONFIG))


def write_phone_clip(root: Path, frames: int) -> Sequence:
    """The demo clip as large as a phone films, its frames over and over, and masks where its hand is."""
    seq, shown = Sequence(root, "phone"), [cv2.resize(image, PHONE, interpolation=cv2.INTER_CUBIC) for image in demo_clip()[:30]]
    images, masks = seq.target("images"), seq.target("masks_right")
    images.mkdir()
    masks.mkdir()
    x1, y1, x2, y2 = np.round(HAND_BOX * np.tile(np.array(PHONE) / WEBCAM, 2)).astype(int).tolist()
    mask = np.zeros(PHONE[::-1], np.uint8)
    cv2.ellipse(mask, ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2), 0, 0, 360, 255, -1)
    for t in range(frames):
        write_image(images / f"{t:04d}.jpg", shown[t % len(shown)])
        write_image(masks / f"{t:04d}.png", mask)
    return seq


def demo_clip() -> list[np.ndarray]:
    """All frames (480, 640, 3) of the demo clip."""
    film = cv2.VideoCapture(str(Path(holdprep.__file__).parent / "assets" / "demo" / "cube.mp4"))
    frames = []
    while (read := film.read())[0]:
        frames.append(read[1])
    return frames


def _network_rate(network: hamer_network.Hamer, device: str, batch: int, many: int) -> float:
    """Crops a second where the crops are on the device already; once around before, to warm up."""
    picture = torch.randn(batch, 3, hamer_network.CROP_HEIGHT, hamer_network.CROP_WIDTH, device=device)
    hamer.predict(network, [picture])
    started = time.perf_counter()
    hamer.predict(network, [picture] * (many // batch))
    return many // batch * batch / (time.perf_counter() - started)


def measure_default() -> Iterator[Row]:
    """Frames a second at 640 x 480 on the demo clip (every third frame), and the CPU's seconds a frame."""
    images = demo_clip()[::3]
    track = mediapipe.track_hand(images[:4], "right")  # once before, to warm up
    for case, masks in (("default_without_masks", None), ("default_with_masks", "of the first")):
        given = None if masks is None else [_hull(joints) for joints in track.j2d_px]
        started, cpu = time.perf_counter(), time.process_time()
        track = mediapipe.track_hand(images, "right", given)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        yield row(case, "hand_pose", "frames_per_s", len(images) / seconds)
        yield row(case, "hand_pose", "cpu_per_frame_s", cpu / len(images))
        yield row(case, "hand_pose", "found_pct", 100 * track.found.mean())


def measure_rendered() -> Iterator[Row]:
    """Pixels that the default tracker's keypoints are off the truth."""
    with tempfile.TemporaryDirectory() as scratch:
        yield from _rendered(Path(scratch))


def _rendered(scratch: Path) -> Iterator[Row]:
    run(scratch, scratch / "out", "seq=rendered", "stage=create", *RENDERED)
    run(scratch, scratch / "out", "seq=rendered", "stage=segment", *RENDERED)
    seq = Sequence(scratch, "rendered")
    truth = load_truth(seq.path("truth"))
    joints_px = project(truth.hands["right"].joints_m, truth.K)
    for case, with_masks in (("rendered_without_masks", False), ("rendered_with_masks", True)):
        found = mediapipe.track_hand(seq.images(), "right", *((seq.masks("right"), seq.masks("object")) if with_masks else ()))
        off_px = np.linalg.norm(found.j2d_px - joints_px, axis=-1)
        yield row(case, "hand_pose", "found_pct", 100 * found.found.mean())
        yield row(case, "hand_pose", "j2d_median_px", np.nanmedian(off_px))
        yield row(case, "hand_pose", "j2d_p95_px", np.nanpercentile(off_px, 95))


def _hull(j2d_px: np.ndarray) -> np.ndarray:
    """(480, 640) bool: the keypoints' hull, and some pixels about it; nothing where there are none."""
    mask = np.zeros(WEBCAM[::-1], np.uint8)
    if np.isfinite(j2d_px).all():
        cv2.fillConvexPoly(mask, cv2.convexHull(np.round(j2d_px).astype(np.int32)), 1)
    return cv2.dilate(mask, np.ones((9, 9), np.uint8)) > 0


TRACKERS = {"hamer": measure_hamer, "default": measure_default, "rendered": measure_rendered}
