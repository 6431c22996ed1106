"""Video, image folder or synthetic scene -> images/, images.zip, processed/raw_images/, processed/frames.json, ground_truth/."""

import json
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from holdprep.config.schema import SyntheticSource
from holdprep.errors import HoldprepError
from holdprep.hand.model import Side
from holdprep.io import safeio, video
from holdprep.io.atomic import atomic_dir
from holdprep.pipeline import Context, Metrics, Result
from holdprep.quality.truth import GroundTruth, save_truth
from holdprep.sequence import Sequence, image_files, packing, read_image, write_image
from holdprep.stages.inputs import source

if TYPE_CHECKING:
    from holdprep.synth.film import Shot

SIDES_OF: dict[str, tuple[Side, ...]] = {"right": ("right",), "left": ("left",), "both": ("right", "left")}
DEPTH_UNITS_PER_M = 10_000  # 16-bit PNGs: 0.1 mm, 0 for background
VIDEO_STRIDE = 2  # HOLD's skip_every; image folders have stride 1


def run(ctx: Context) -> Result:
    node = ctx.cfg.source
    return _render(ctx, node) if node.name == "synthetic" else _read(ctx)


def measure(ctx: Context) -> Result:
    """Metrics of existing images/: number and size; each must be readable and of the size of the first."""
    files = ctx.seq.images().files
    sizes = [read_image(file).shape[1::-1] for file in files]
    odd = next((t for t, size in enumerate(sizes) if size != sizes[0]), None)
    if odd is not None:
        raise HoldprepError(
            f"{files[odd]} is {sizes[odd][0]} x {sizes[odd][1]}, the first is {sizes[0][0]} x {sizes[0][1]}: all must be of one size"
        )
    return Result({"frames": len(files), "width": int(sizes[0][0]), "height": int(sizes[0][1]), "unreadable_frames": 0})


def _render(ctx: Context, node: SyntheticSource) -> Result:
    """Render a sequence: images/ and ground_truth/."""
    from holdprep.synth.scene import Filming, make_scene  # optional packages, not needed for videos

    seq = ctx.seq
    values = node.model_dump(exclude={"name", "object", "grasp", "hands", "frames", "width", "height", "seed"})
    filming = Filming(size=(node.width, node.height), **values)
    truth, shots = make_scene(node.object, node.grasp, SIDES_OF[node.hands], node.frames, filming=filming, seed=node.seed)
    write_rendered(seq, truth, tqdm(shots, total=node.frames, desc="create", unit="frame", leave=False, disable=None))
    metrics: Metrics = {"frames": node.frames, "width": node.width, "height": node.height, "unreadable_frames": 0}
    return Result(metrics, notes=[f"{node.frames} frames of {node.width} x {node.height}: {node.object}, {node.grasp}, {node.hands}"])


def write_rendered(seq: Sequence, truth: GroundTruth, shots: "Iterable[Shot]") -> None:
    """Write images/ with their archive and ground_truth/ of a scene."""
    entities = (*truth.hands, "object")
    with ExitStack() as stack:
        images, depths = (stack.enter_context(atomic_dir(seq.target(a))) for a in ("images", "truth_depth"))
        masks = {e: stack.enter_context(atomic_dir(seq.target(f"truth_masks_{e}"))) for e in entities}
        for name, shot in zip(truth.names, shots, strict=True):
            write_image(images / f"{name}.jpg", shot.image)
            depth = np.where(np.isfinite(shot.depth_m), shot.depth_m * DEPTH_UNITS_PER_M, 0)
            write_image(depths / f"{name}.png", depth.round().astype(np.uint16))
            for entity, folder in masks.items():
                write_image(folder / f"{name}.png", shot.masks[entity].astype(np.uint8) * 255)
    save_truth(seq.target("truth"), truth)
    packing.write_images_zip(seq)


def _read(ctx: Context) -> Result:
    cfg, seq = ctx.cfg.create, ctx.seq
    path = source(ctx.cfg, seq)
    if path is None:
        raise HoldprepError(f"no video: give video=<file or image folder>, or put one at {seq.path('video')}")
    is_folder = path.is_dir()
    files = image_files(path) if is_folder else []
    if is_folder and not files:
        raise HoldprepError(f"{path} holds no images ({len(list(path.iterdir()))} other files): give a folder of images or a video")
    stems = [f.stem for f in files]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
    if twice is not None:
        raise HoldprepError(f"{path} holds several images named {twice}: frames are identified by their names, rename or remove one")
    info = video.VideoInfo(0.0, len(files)) if is_folder else video.probe_video(path)
    stride = cfg.stride or (1 if is_folder else VIDEO_STRIDE)
    stream = islice(video.read_folder(files) if is_folder else video.read_video(path), cfg.start, cfg.end)
    times, unreadable, size = _write(
        ctx, tqdm(stream, total=info.frame_count or None, desc="create", unit="frame", leave=False, disable=None), stride
    )
    if not is_folder and path.resolve() != seq.path("video").resolve():
        with safeio.atomic_path(seq.target("video")) as temporary:
            shutil.copyfile(path, temporary)
    read = len(times) if is_folder else len(times) * stride
    if not is_folder and cfg.end is None and info.frame_count - (cfg.start + read) > max(stride, 0.02 * info.frame_count):
        ctx.warn(f"{path.name} ends after frame {cfg.start + read} of {info.frame_count}: it is truncated or damaged")
    content = {"source": str(path.resolve()), "fps": info.fps, "stride": stride, "times_s": times, "unreadable": unreadable}
    if is_folder:
        content["focal_px"] = video.focal_px(files[0], cfg.crop, size)
    safeio.write_bytes_atomic(seq.target("frames"), json.dumps(content, indent=1).encode())
    packing.write_images_zip(seq)
    for name in unreadable[:5]:
        ctx.warn(f"frame {name} of {path.name} cannot be decoded and is left out ({len(unreadable)} such frames)")
    metrics: Metrics = {"frames": len(times), "width": size[0], "height": size[1], "fps": info.fps, "unreadable_frames": len(unreadable)}
    return Result(metrics, notes=[f"{len(times)} frames of {size[0]} x {size[1]} (every {stride}. of {path.name})"])


def _write(ctx: Context, stream: Iterable[video.Frame | str], stride: int) -> tuple[dict[str, float | None], list[str], tuple[int, int]]:
    """Write images/ and raw_images/; returns the kept frames' times, the undecodable frames' names and the images' size."""
    cfg, seq = ctx.cfg.create, ctx.seq
    times: dict[str, float | None] = {}
    unreadable: list[str] = []
    size: tuple[int, int] | None = None
    with ExitStack() as stack:
        images = stack.enter_context(atomic_dir(seq.target("images")))
        raw = stack.enter_context(atomic_dir(seq.target("raw_images"))) if cfg.raw_images else None
        for index, frame in enumerate(stream):
            if isinstance(frame, str):
                unreadable.append(frame)
                continue
            if raw is not None:
                write_image(raw / f"{frame.name}.jpg", frame.image)
            if index % stride:
                continue
            image = video.fit(frame.image, cfg.crop, cfg.max_side)
            found = (image.shape[1], image.shape[0])
            size = size or found
            if found != size:
                raise HoldprepError(
                    f"frame {frame.name} is {found[0]} x {found[1]}, the first is {size[0]} x {size[1]}: all must be of one size"
                )
            write_image(images / f"{frame.name}.jpg", image)
            times[frame.name] = None if frame.time_s != frame.time_s else round(frame.time_s, 6)
        if size is None:
            raise HoldprepError(f"no frame could be decoded ({len(unreadable)} unreadable): check video= and create.start/end")
    return times, unreadable, size
