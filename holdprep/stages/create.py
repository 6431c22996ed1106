"""Video, image folder or synthetic scene -> images/, images.zip, processed/raw_images/, processed/frames.json, ground_truth/."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from holdprep.config.schema import SyntheticSource
from holdprep.errors import HoldprepError
from holdprep.hand.model import Side
from holdprep.io import pictures, safeio
from holdprep.io.atomic import atomic_dir
from holdprep.io.matching import same_number
from holdprep.io.pictures import Folder
from holdprep.io.video import Frame, Video
from holdprep.pipeline import Context, Metrics, Result
from holdprep.quality.pictures import PictureCheck
from holdprep.quality.truth import GroundTruth, save_truth
from holdprep.sequence import IMAGE_SUFFIXES, Sequence, image_files, packing, read_image, write_image
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
    """Metrics of existing images/: number, size, and whether they show anything; each must be readable and of one size."""
    files, check = ctx.seq.images().files, PictureCheck()
    sizes = {}
    for file in files:
        image = read_image(file)
        sizes[file.name] = (image.shape[1], image.shape[0])
        check.add(image)
    _require_one_size(sizes)
    width, height = next(iter(sizes.values()))
    metrics: Metrics = {"frames": len(files), "width": width, "height": height, "unreadable_frames": 0}
    return Result({**metrics, **check.metrics()})


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
    opened = _folder(path) if path.is_dir() else Video(path)
    stride = cfg.stride or (1 if isinstance(opened, Folder) else VIDEO_STRIDE)
    stream = islice(opened.frames(), cfg.start, cfg.end)
    progress = tqdm(stream, total=opened.frame_count or None, desc="create", unit="frame", leave=False, disable=None)
    times, unreadable, size, check = _write(ctx, opened, progress, stride)
    content = {"source": str(path.resolve()), "fps": opened.fps, "stride": stride, "times_s": times, "unreadable": unreadable}
    if isinstance(opened, Folder):
        content["focal_px"] = pictures.focal_px(opened.files[0], cfg.crop, size)
    else:
        _keep_video(ctx, opened)
    safeio.write_bytes_atomic(seq.target("frames"), json.dumps(content, indent=1).encode())
    packing.write_images_zip(seq)
    for name in unreadable[:5]:
        ctx.warn(f"frame {name} of {path.name} cannot be decoded and is left out ({len(unreadable)} such frames)")
    metrics: Metrics = {
        "frames": len(times),
        "width": size[0],
        "height": size[1],
        "fps": opened.fps,
        "unreadable_frames": len(unreadable),
        **check.metrics(),
    }
    done = [f"{path.name}: {note}" for note in opened.notes]
    return Result(metrics, notes=[f"{len(times)} frames of {size[0]} x {size[1]} (every {stride}. of {path.name})", *done])


def _folder(path: Path) -> Folder:
    """The pictures of a folder; raises HoldprepError where there are none, some are not read, or two are one frame."""
    files = image_files(path, (*IMAGE_SUFFIXES, *pictures.BY_PILLOW))
    advice = pictures.unread(path)
    if advice is not None:
        raise HoldprepError(advice)
    if not files:
        raise HoldprepError(f"{path} holds no images ({len(list(path.iterdir()))} other files): give a folder of images or a video")
    twice = same_number([f.stem for f in files])
    if twice is not None:
        first, second = (files[i].name for i in twice)
        raise HoldprepError(
            f"{path} holds several images of one frame: {first} and {second}; frames are identified by name and number, rename or remove one"
        )
    return Folder(files)


def _keep_video(ctx: Context, opened: Video) -> None:
    """Copy the video into the sequence, and warn where its end is missing."""
    if opened.path.resolve() != ctx.seq.path("video").resolve():
        with safeio.atomic_path(ctx.seq.target("video")) as temporary:
            shutil.copyfile(opened.path, temporary)
    if ctx.cfg.create.end is None and opened.missing_s:
        ctx.warn(f"{opened.path.name} ends {opened.missing_s:.1f} s before the time that its header says: it is cut short or damaged")


def _require_one_size(sizes: Mapping[str, tuple[int, int]]) -> None:
    """Raise HoldprepError unless all pictures, by name, have one size (width, height)."""
    counts = Counter(sizes.values()).most_common()
    if len(counts) < 2:
        return
    usual, others = counts[0][0], len(sizes) - counts[0][1]
    first = next(name for name, size in sizes.items() if size != usual)
    raise HoldprepError(
        f"{others} of {len(sizes)} frames are not of the size of the others, {usual[0]} x {usual[1]}: frame {first} is "
        f"{sizes[first][0]} x {sizes[first][1]}; all must be of one size: remove or resize them"
    )


def _write(
    ctx: Context, opened: Folder | Video, stream: Iterable[Frame | str], stride: int
) -> tuple[dict[str, float | None], list[str], tuple[int, int], PictureCheck]:
    """Write images/ and raw_images/; returns the kept frames' times, the undecodable frames' names, the images' size and their check."""
    cfg, seq = ctx.cfg.create, ctx.seq
    times: dict[str, float | None] = {}
    unreadable: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    check = PictureCheck()
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
            image = pictures.fit(frame.image, cfg.crop, cfg.max_side)
            sizes[frame.name] = (image.shape[1], image.shape[0])
            check.add(image)
            write_image(images / f"{frame.name}.jpg", image)
            times[frame.name] = None if frame.time_s != frame.time_s else round(frame.time_s, 6)
        if not sizes and unreadable and isinstance(opened, Video):
            raise opened.refused(f"none of its {len(unreadable)} frames")
        if not sizes:
            raise HoldprepError(f"no frame could be read ({len(unreadable)} unreadable): check video= and create.start/end")
        _require_one_size(sizes)
    return times, unreadable, next(iter(sizes.values())), check
