"""Every reader of files that may come from others: small valid files, and the call that reads them from a folder."""

import gc
import io
import json
import pickle
import struct
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from holdprep.align import state
from holdprep.align.points_file import read_points
from holdprep.config import memory
from holdprep.configured import CONF_DIR
from holdprep.dataset import hold
from holdprep.hand import hold_params
from holdprep.hand.model import _standin, load_hand_model
from holdprep.hand.trackers import boxes, checkpoint, datasets, frankmocap, hamer_network, hawor, keypoints, meshes, metro, trackfile, wilor
from holdprep.io import safeio
from holdprep.io.video import Video
from holdprep.object import foreign as poses
from holdprep.pipeline import records
from holdprep.quality import truth
from holdprep.segmenters import foreign as masks
from holdprep.segmenters import prompts
from holdprep.sequence import Sequence, image_files, read_image
from holdprep.sequence import colmap as colmap_files
from holdprep.sequence.depthmaps import read_depth_maps
from tests.fuzz.valid import MODELS, NAMES, SIZE, K, Reader, T, mesh, npy, npz, picture, pixels, posed, torch_file
from tests.kinds import films


def settings_files() -> Iterator[Reader]:
    own = b"create: {stride: 3, crop: [0, 0, 64, 48]}\nhands: left\nsegmenter: {name: import, right: masks}\nweights: {contact: 7.5}\n"
    yield Reader("holdprep_yaml", {"holdprep.yaml": own}, lambda d: memory.settings(d / "holdprep.yaml", [], [], CONF_DIR), slow=True)
    yield Reader("weights_yaml", {"w.yaml": b"contact: 7\nj2d: 1.0\ngrasp: null\n"}, lambda d: memory.expanded(f"weights={d / 'w.yaml'}"))
    clicks = (
        b'image_size: [32, 24]\nframes:\n  "0000":\n    object: {polygon: [[3, 2], [20, 3], [15, 18]], negative: [[1, 1]]}\n'
        b"    right: {box: [3, 1, 9, 20], positive: [[5, 5]]}\n  0001: {right: absent, object: {mask: m.png}}\n"
    )
    mask = picture("png", np.pad(np.full((10, 10), 255, np.uint8), ((5, 9), (5, 17))))

    def read_clicks(d: Path) -> object:
        return prompts.mask_files(d / "prompts.yaml"), prompts.read_indexed_prompts(d / "prompts.yaml", NAMES, SIZE)

    points = b'distance_mm: 85.6\nimage_size: [%d, %d]\nframes:\n  "%s": {a: [1, 2], b: [3.5, 4]}\n' % (*SIZE, NAMES[0].encode())
    yield Reader("points_yaml", {"points.yaml": points}, lambda d: read_points(d / "points.yaml", NAMES, SIZE))
    maps = {"0000.png": picture("png", np.full((24, 32), 900, np.uint16)), "0001.npy": npy(np.full((24, 32), 0.5, np.float32))}
    yield Reader("depth_maps", maps, lambda d: read_depth_maps(d, ["0000", "0001"], [0, 1], (32, 24)))
    yield Reader("prompts_yaml", {"prompts.yaml": clicks, "m.png": mask}, read_clicks)
    model = (
        b"MODEL:\n  IMAGE_SIZE: 256\n  BACKBONE: {TYPE: vit, DEPTH: 2}\n  MANO_HEAD:\n    TYPE: transformer_decoder\n"
        b"    TRANSFORMER_DECODER: {context_dim: 64, depth: 1, heads: 2, dim_head: 8, mlp_dim: 32, dim: 64}\n"
    )
    yield Reader("model_config", {"model_config.yaml": model}, lambda d: hamer_network._sizes(d / "model_config.yaml"))
    yield Reader("record", {"box/processed/.holdprep/register.json": json.dumps(record()).encode()}, read_records)
    frames = {"source": "/x", "fps": 30.0, "times_s": {"0000": 0.0}, "focal_px": 40.0}
    yield Reader("frames_json", {"box/processed/frames.json": json.dumps(frames).encode()}, lambda d: Sequence(d, "box").read_frames())


def record() -> dict[str, Any]:
    return {
        "format": records.FORMAT,
        "stage": "register",
        "inputs": {"v3d": "a" * 32, "external.hand_model": "b" * 32},
        "settings": {"registration": {"method": "lm", "outlier_z": 6.0}, "hands": {"which": "right"}},
        "version": "0.2.0",
        "outputs": {"fit_init": "c" * 32, "fit_slerp": "d" * 32},
        "given": {"hands": "hands=right", "hand_model.path": "hand_model.path=null"},
        "own": {"create.stride": "create.stride=3"},
        "metrics": {"frames": 3, "right.error_mm": 1.5, "hand_model": "standin", "right.x": None},
        "curves": {"right.error_mm": [1.0, None, 2.0], "right.is_valid": [1.0, 0.0, 1.0]},
        "notes": ["right hand: fitted"],
        "seconds": 1.25,
        "finished": "2025-01-31T12:00:00.000000",
    }


def read_records(d: Path) -> object:
    """As status, settings and report use them."""
    from holdprep.quality.report import ReportData, render_report
    from holdprep.stages import report
    from holdprep.stages.scene import curves_of

    seq = Sequence(d, "box")
    memory.settings(d / "holdprep.yaml", records.of_sequence(seq), [], CONF_DIR)
    found = {"register": r} if (r := records.read(seq, "register")) else {}
    curves = {k: v for name, r in found.items() for k, v in curves_of(name, r, T).items()}
    stages = report._stages(found, {}, None)
    notes = [n for r in found.values() for n in r.get("notes", [])]
    return render_report(ReportData("box", "0", "standin", "", stages, [f"{t:04d}" for t in range(T)], curves, notes=notes))


def picture_files() -> Iterator[Reader]:
    kinds = {"png": {}, "jpg": {}, "tif": {}, "webp": {}, "bmp": {}}
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0xA405] = 26
    for kind in kinds:
        saved = picture({"jpg": "jpeg", "tif": "tiff"}.get(kind, kind), pixels(), **({"exif": exif} if kind == "jpg" else {}))
        yield Reader(f"picture_{kind}", {f"0000.{kind}": saved}, lambda d: [read_image(f) for f in image_files(d)])
    for kind in ("jpeg", "png", "tiff", "webp", "avif"):
        yield Reader(f"created_{kind}", {f"0000.{kind}": picture(kind, pixels(), exif=exif)}, read_created)
    labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    labels[4:12, 4:20] = 255
    folder = {f"m/{name}.png": picture("png", labels) for name in NAMES}
    yield Reader("mask_pictures", folder, lambda d: masks.read_masks(d / "m", NAMES, SIZE[::-1]), ("m/0001.png",))
    palette = Image.fromarray((labels > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    stream = io.BytesIO()
    palette.save(stream, "png")
    yield Reader(
        "mask_palette",
        {f"m/{n}.png": stream.getvalue() for n in NAMES},
        lambda d: masks.read_masks(d / "m", NAMES, SIZE[::-1]),
        ("m/0000.png",),
    )
    rle = {"size": [SIZE[1], SIZE[0]], "counts": [100, 50, SIZE[0] * SIZE[1] - 150]}
    coco = {
        "images": [{"id": t, "file_name": f"{n}.jpg", "height": SIZE[1], "width": SIZE[0]} for t, n in enumerate(NAMES)],
        "annotations": [{"image_id": t, "category_id": 1, "segmentation": rle} for t in range(T)],
    }
    yield Reader("coco", {"m.json": json.dumps(coco).encode()}, lambda d: masks.read_masks(d / "m.json", NAMES, SIZE[::-1]))
    outline = {"label": "object", "points": [[2, 2], [20, 3], [15, 18]], "shape_type": "polygon"}
    labelme = {"version": "5", "shapes": [outline], "imageHeight": SIZE[1], "imageWidth": SIZE[0]}
    files = {f"m/{n}.json": json.dumps(labelme).encode() for n in NAMES}
    yield Reader("labelme", files, lambda d: masks.read_masks(d / "m", NAMES, SIZE[::-1]), ("m/0001.json",))
    stack = np.tile(labels > 0, (T, 1, 1))
    yield Reader("mask_npz", {"m.npz": npz(masks=stack, names=np.array(NAMES))}, lambda d: masks.read_masks(d / "m.npz", NAMES, SIZE[::-1]))
    nested = {t: {1: labels[None] > 0} for t in range(T)}
    yield Reader("mask_npy", {"m.npy": npy(nested)}, lambda d: masks.read_masks(d / "m.npy", NAMES, SIZE[::-1]))
    plain = {n: {"size": [SIZE[1], SIZE[0]], "counts": compressed([100, 50, SIZE[0] * SIZE[1] - 150])} for n in NAMES} | {NAMES[0]: rle}
    yield Reader("coco_frames", {"m.json": json.dumps(plain).encode()}, lambda d: masks.read_masks(d / "m.json", NAMES, SIZE[::-1]))


def video_files() -> Iterator[Reader]:
    """Small films in three containers, read to the end; FFmpeg's libraries could end the process, hence `is_native`."""
    frames = [np.roll(pixels(), 3 * t, axis=1) for t in range(6)]
    for suffix, codec in (("mp4", "libx264:yuv420p"), ("mkv", "mpeg4:yuv420p"), ("avi", "mjpeg:yuvj420p"), ("webm", "libvpx-vp9:yuv420p")):
        with tempfile.TemporaryDirectory() as folder:
            data = films.write(Path(folder) / f"clip.{suffix}", frames, codec).read_bytes()
        yield Reader(f"video_{suffix}", {f"clip.{suffix}": data}, read_video, is_native=True)


def read_video(d: Path) -> object:
    """As stage create reads a video."""
    gc.collect()  # the decoders' threads of the video before: PyAV's objects are cycles
    video = Video(next(d.glob("clip.*")))
    return list(video.frames()), video.notes


def compressed(runs: list[int]) -> str:
    """COCO's string of up to three run lengths."""
    text = ""
    for value in runs:
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * more)
            if not more:
                break
    return text


def read_created(d: Path) -> object:
    """As stage create reads a folder of pictures."""
    from holdprep.io import pictures

    (path,) = d.glob("0000.*")
    return list(pictures.Folder([path]).frames()), pictures.focal_px(path, None, SIZE)


def hand_files() -> Iterator[Reader]:
    _, px = posed()
    rows = np.concatenate([px, np.full((T, 21, 1), 0.9)], axis=2)
    person = [{"hand_right_keypoints_2d": r.ravel().tolist(), "hand_left_keypoints_2d": [0] * 63} for r in rows]
    files = {f"{n}_keypoints.json": json.dumps({"version": 1.3, "people": [p, p]}).encode() for n, p in zip(NAMES, person, strict=True)}
    yield Reader("openpose", files, lambda d: keypoints.read(d, NAMES, SIZE))
    tree = {n: {"right": rows[t].tolist(), "left": {"j2d": px[t].tolist(), "j3d": posed()[0][t].tolist()}} for t, n in enumerate(NAMES)}
    yield Reader("keypoints_json", {"k.json": json.dumps(tree).encode()}, lambda d: keypoints.read(d / "k.json", NAMES, SIZE))
    arrays = {"j2d__right": rows, "j3d__right": posed()[0], "names": np.array(NAMES)}
    yield Reader("keypoints_npz", {"k.npz": npz(**arrays)}, lambda d: keypoints.read(d / "k.npz", NAMES, SIZE))
    v3d = np.tile(mesh(), (T, 1, 1))
    paths = [f"images/{n}.jpg" for n in NAMES]
    params = {"global_orient": np.zeros((T, 3)), "hand_pose": np.zeros((T, 45)), "betas": np.zeros((T, 10)), "transl": np.zeros((T, 3))}
    hamer = {
        "v3d.right": v3d,
        "j3d.right": v3d[:, :21],
        "im_paths": paths,
        "K": K,
        "params.right": params,
        "keypoints_sigma.right": np.float32(0.03),
    }
    track = {"v3d.npy": npy(hamer), "j2d.full.npy": npy({"j2d.right": px, "im_paths": paths, "confidence.right": np.ones((T, 21))})}
    yield Reader("track_files", track, lambda d: trackfile.read(d, NAMES))
    boxes = np.tile([2.0, 2, 20, 20], (T, 1))
    files = {"v3d_ra.npy": npy(v3d), "j2d.crop.npy": npy(px * 8), "boxes.npy": npy(boxes)}
    yield Reader("metro", files, lambda d: metro.read(d, NAMES))
    mini = {"pred_vertices": v3d[:1], "pred_cam_t_full": np.zeros((1, 3), np.float32), "pred_keypoints_2d": px[:1].astype(np.float32)}
    mini |= {
        "global_orient": np.zeros((1, 1, 3), np.float32),
        "hand_pose": np.zeros((1, 15, 3), np.float32),
        "betas": np.zeros((1, 10), np.float32),
    }
    result = np.empty(1, object)
    result[0] = {"is_right": 1.0, "wilor_preds": mini}
    stream = io.BytesIO()
    np.save(stream, result)
    yield Reader("wilor", {f"{NAMES[0]}.npy": stream.getvalue()}, lambda d: wilor.read(d, NAMES, SIZE, MODELS))
    eye = np.eye(3)
    chunk = {"init_root_orient": [[eye.tolist()] * T], "init_hand_pose": [[[eye.tolist()] * 15] * T], "init_betas": [[[0.0] * 10] * T]}
    chunk |= {"init_trans": [[[0.0, 0.0, 0.6]] * T]}
    files = {"cam_space/1/0_2.json": json.dumps(chunk).encode(), "est_focal.txt": b"40.0"}
    yield Reader("hawor", files, lambda d: hawor.read(d, NAMES, SIZE, MODELS))
    hand = {"pred_joints_smpl": posed()[0][0], "bbox_scale_ratio": 9.0, "bbox_top_left": np.zeros(2), "pred_camera": np.array([5.0, 0, 0])}
    person = {"right_hand": hand | {"pred_hand_pose": np.zeros((1, 48)), "img_cropped": np.zeros((4, 4, 3), np.uint8)}, "left_hand": {}}
    files = {f"{NAMES[0]}_prediction_result.pkl": pickle.dumps({"demo_type": "hand", "pred_output_list": [person]}, 2)}
    yield Reader("frankmocap", files, lambda d: frankmocap.read(d, NAMES, SIZE, MODELS))
    obj = "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in mesh()).encode() + b"f 1 2 3\n"
    yield Reader("mesh_obj", {f"{n}.obj": obj for n in NAMES}, lambda d: meshes.read(d, NAMES, SIZE, MODELS))
    ply = b"ply\nformat binary_little_endian 1.0\nelement vertex 778\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    yield Reader("mesh_ply", {f"{n}.ply": ply + mesh().tobytes() for n in NAMES}, lambda d: meshes.read(d, NAMES, SIZE, MODELS))
    mano = {k: v for k, v in _standin("right").items() if k != "holdprep_standin"}
    mano["posedirs"] = mano["posedirs"].astype(np.float16)  # most of the file
    yield Reader("mano_pkl", {"MANO_RIGHT.pkl": pickle.dumps(mano, 2)}, lambda d: load_hand_model("right", d), slow=True)
    yield Reader("mano_npz", {"MANO_RIGHT.npz": npz(**mano)}, lambda d: load_hand_model("right", d), slow=True)
    weights = {"state_dict": {"mano_head.decpose.weight": torch.zeros(4, 3), "b": torch.ones(2)}, "epoch": 3, "hyper_parameters": {"a": 1}}
    yield Reader("checkpoint", {"h.ckpt": torch_file(weights)}, lambda d: checkpoint.read(d / "h.ckpt", "get it"))
    fit = {"right": {**params, "is_valid": np.ones(T, np.float32)}, "K": K}
    yield Reader("hold_fit", {"hold_fit.slerp.npy": npy(fit)}, lambda d: hold_params.read_fits(d / "hold_fit.slerp.npy"))


def object_files() -> Iterator[Reader]:
    o2w = np.tile(np.eye(4), (T, 1, 1))
    o2w[:, 2, 3] = 0.6
    points = np.random.default_rng(3).normal(0, 0.05, (30, 3))
    cloud = "".join(f"v {x:.8f} {y:.8f} {z:.8f}\n" for x, y, z in points).encode()
    arrays = {"intrinsic": K, "o2w": o2w, "normalization_mat": np.eye(4)}
    colmap = {f"{k}.npy": npy(v) for k, v in arrays.items()} | {"sparse_points_normalized.obj": cloud}
    tracks = {"names": np.array(NAMES), "points_obj": points, "registered": np.ones(T, bool), "origin": np.array(["sfm"] * T)}
    tracks |= {"inliers": np.full(T, 9), "distortion": np.zeros(1), "lens": np.array(0.01)}
    tracks |= {"observation_frame": np.zeros(5, int), "observation_point": np.arange(5), "observation_px": np.ones((5, 2))}
    folder = {f"box/images/{n}.png": picture("png", pixels()) for n in NAMES}
    folder |= {f"box/processed/colmap/{k}": v for k, v in (colmap | {"tracks.npz": npz(**tracks)}).items()}
    targets = tuple(name for name in folder if "colmap" in name)

    def read(d: Path) -> object:
        seq = Sequence(d, "box")
        return colmap_files.read_colmap(seq), colmap_files.lens_of(seq)

    yield Reader("colmap_folder", folder, read, targets)
    yield Reader("hold_colmap", colmap, lambda d: poses.read_poses(d, NAMES, SIZE))
    given = {"T_cam_obj": o2w, "points_obj": points, "K": K, "names": np.array(NAMES)}
    yield Reader("poses_npz", {"p.npz": npz(**given)}, lambda d: poses.read_poses(d / "p.npz", NAMES, SIZE))
    ply = "ply\nformat ascii 1.0\nelement vertex 30\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    ply += "".join(f"{x} {y} {z}\n" for x, y, z in points)
    shots = [{"file_path": f"images/{n}.png", "transform_matrix": np.diag([1.0, -1, -1, 1]).tolist()} for n in NAMES]
    studio = {"w": SIZE[0], "h": SIZE[1], "fl_x": 40.0, "cx": 16.0, "cy": 12.0, "ply_file_path": "c.ply", "frames": shots}
    files = {"transforms.json": json.dumps(studio).encode(), "c.ply": ply.encode()}
    yield Reader("nerfstudio", files, lambda d: poses.read_poses(d, NAMES, SIZE))
    yield Reader("colmap_text", colmap_text(points, o2w), lambda d: poses.read_poses(d, NAMES, SIZE), slow=True)
    yield Reader("colmap_binary", colmap_binary(points, o2w), lambda d: poses.read_poses(d, NAMES, SIZE), slow=True)
    hand = {
        "hand_rot": np.zeros((T, 3)),
        "hand_pose": np.zeros((T, 45)),
        "hand_beta": np.zeros(10),
        "hand_transl": np.zeros((T, 3)),
        "v3d": np.tile(mesh(), (T, 1, 1)),
    }
    aligned = {"right": hand, "object": {"o2w_all": o2w, "obj_scale": np.ones(1), "K": K}}
    yield Reader("hold_fit_aligned", {"a.npy": npy(aligned)}, lambda d: hold.read_aligned(d / "a.npy"))
    names = ("hand_rot", "hand_pose", "hand_beta", "hand_transl")
    tensors = {f"models.right.{n}": torch.as_tensor(hand[n]) for n in names}
    tensors |= {
        "models.object.obj_scale": torch.ones(1),
        "models.object.obj_rot": torch.zeros(T, 3),
        "models.object.obj_transl": torch.zeros(T, 3),
    }
    saved = torch_file({"state_dict": tensors, "pytorch-lightning_version": "1.5"})
    yield Reader("hold_state", {"o/last.ckpt": saved}, lambda d: state.load_state(d / "o" / "last.ckpt"))


def colmap_text(points: np.ndarray, o2w: np.ndarray) -> dict[str, bytes]:
    images, tracks = [], {i: [] for i in range(len(points))}
    for t, name in enumerate(NAMES):
        images.append(f"{t + 1} 1 0 0 0 {o2w[t, 0, 3]} {o2w[t, 1, 3]} {o2w[t, 2, 3]} 1 {name}.png")
        images.append(" ".join(f"{10 + i % 5} {9 + i % 7} {i + 1}" for i in range(len(points))))
        for i in tracks:
            tracks[i].append(f"{t + 1} {i}")
    listed = "".join(f"{i + 1} {x} {y} {z} 9 9 9 0.5 {' '.join(tracks[i])}\n" for i, (x, y, z) in enumerate(points))
    camera = f"1 SIMPLE_RADIAL {SIZE[0]} {SIZE[1]} 40 16 12 0\n"
    return {"cameras.txt": camera.encode(), "images.txt": ("\n".join(images) + "\n").encode(), "points3D.txt": listed.encode()}


def colmap_binary(points: np.ndarray, o2w: np.ndarray) -> dict[str, bytes]:
    cameras = struct.pack("<Q", 1) + struct.pack("<IiQQ4d", 1, 2, *SIZE, 40.0, 16.0, 12.0, 0.0)
    images, listed = struct.pack("<Q", T), struct.pack("<Q", len(points))
    for t, name in enumerate(NAMES):
        images += struct.pack("<I7dI", t + 1, 1, 0, 0, 0, *o2w[t, :3, 3], 1) + name.encode() + b".png\0" + struct.pack("<Q", len(points))
        for i in range(len(points)):
            images += struct.pack("<2dQ", 10.0 + i % 5, 9.0 + i % 7, i + 1)
    for i, point in enumerate(points):
        listed += struct.pack("<Q3d3Bd", i + 1, *point, 9, 9, 9, 0.5) + struct.pack("<Q", T)
        for t in range(T):
            listed += struct.pack("<II", t + 1, i)
    return {"cameras.bin": cameras, "images.bin": images, "points3D.bin": listed}


def truth_files() -> Iterator[Reader]:
    own = {
        "names": np.array(NAMES),
        "image_size": np.array(SIZE),
        "K": K,
        "T_cam_obj": np.tile(np.eye(4), (T, 1, 1)),
        "grasp": np.array("rigid"),
    }
    own |= {"right__joints_m": np.zeros((T, 21, 3)), "contact": np.ones(T, bool)}
    yield Reader("truth_npz", {"t.npz": npz(**own)}, lambda d: truth.load_truth(d / "t.npz"))
    frame = {"camMat": K, "objRot": np.zeros((3, 1)), "objTrans": np.zeros(3), "objName": "021", "handJoints3D": np.zeros((21, 3))}
    frame |= {"handPose": np.zeros(48), "handTrans": np.zeros(3), "handBeta": np.zeros(10)}
    yield Reader("ho3d", {f"meta/{n}.pkl": pickle.dumps(frame, 2) for n in NAMES}, lambda d: truth.read_ho3d(d))
    labels = {
        "joint_3d": posed()[0][:1].astype(np.float32),
        "joint_2d": posed()[1][:1].astype(np.float32),
        "seg": np.zeros((4, 4), np.uint8),
    }
    files = {f"camera/labels_{n}.npz": npz(**labels) for n in NAMES} | {"meta.yml": b"mano_sides:\n- right\nnum_frames: 3\n"}
    targets = ("camera/labels_0001.npz", "meta.yml")
    yield Reader("dexycb", files, lambda d: datasets.read("dexycb", d / "camera", NAMES, SIZE), targets)
    yield Reader("boxes_npy", {"b.npy": npy({"right": np.tile([2.0, 2, 20, 20], (T, 1))})}, read_boxes)
    yield Reader(
        "npy",
        {"a.npy": npy({"a": np.ones(3), "b": ["x", 1.5], "c": {"d": np.arange(4, dtype=np.int16)}})},
        lambda d: safeio.load_npy(d / "a.npy"),
    )
    yield Reader("truth_arctic", {"a.npy": npy(arctic())}, lambda d: truth.read_arctic(d / "a.npy", 1, SIZE))


def read_boxes(d: Path) -> object:
    task = SimpleNamespace(
        sides=("right",), masked_sides=("right",), seq=SimpleNamespace(frame_names=lambda: NAMES, image_size=lambda: SIZE)
    )
    return boxes.hand_boxes(task, SimpleNamespace(boxes="file", boxes_file=d / "b.npy"))


def arctic() -> dict[str, Any]:
    rng = np.random.default_rng(4)
    points = {
        "joints.right": rng.normal(0, 0.1, (T, 21, 3)),
        "joints.left": rng.normal(0, 0.1, (T, 21, 3)),
        "kp3d": rng.normal(0, 0.1, (T, 8, 3)),
    }
    points["bbox3d"] = rng.normal(0, 0.1, (T, 8, 3))
    cam = {k: np.tile(np.add(v, [0, 0, 1.0])[:, None], (1, 9, 1, 1)) for k, v in points.items()}
    px = {k: (v @ K.T)[..., :2] / v[..., 2:] for k, v in cam.items()}
    cam |= {"is_valid": np.ones((T, 9)), "right_valid": np.ones((T, 9)), "left_valid": np.ones((T, 9))}
    params = {f"{k}_{s}": np.zeros((T, n)) for s in "rl" for k, n in (("rot", 3), ("pose", 45), ("shape", 10), ("trans", 3))}
    params |= {"obj_rot": np.zeros((T, 3)), "obj_trans": np.zeros((T, 3)), "obj_arti": np.zeros(T)}
    return {"world_coord": points, "cam_coord": cam, "2d": px, "params": params}


@cache
def all_readers() -> dict[str, Reader]:
    found = [*settings_files(), *picture_files(), *video_files(), *hand_files(), *object_files(), *truth_files()]
    return {reader.name: reader for reader in found}
