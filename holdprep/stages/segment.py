"""images/ + clicks or a tool's mask folders -> processed/sam/, processed/masks/, processed/images_object/."""

import asyncio
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from holdprep.config import ClassicalSegmenter, ImportSegmenter, SamSegmenter, TruthSegmenter
from holdprep.dataset.hold import merge_masks
from holdprep.errors import HoldprepError
from holdprep.pipeline import Context, Result
from holdprep.quality import metrics as quality
from holdprep.quality import suspects
from holdprep.segmenters import Masks, Segmenter, classical, foreign, sam
from holdprep.segmenters.prompts import EntityPrompt, read_prompts, write_prompts
from holdprep.sequence import ENTITIES
from holdprep.sequence import Masks as MasksOnDisk
from holdprep.stages.inputs import prompts_path, segment_files
from holdprep.synth import corruption
from holdprep.ui.clicks import ClickSession
from holdprep.ui.server import ClickServer

SIDES_OF = {"auto": ("right", "left"), "right": ("right",), "left": ("left",), "both": ("right", "left")}


def click(ctx: Context) -> None:
    """Before the stage, where it is asked for: the page that makes prompts.yaml, until the user is done with it."""
    node = ctx.cfg.segmenter
    if not isinstance(node, ClassicalSegmenter | SamSegmenter) or not (node.ui or node.fix):
        return
    names, images, path = ctx.seq.frame_names(), ctx.seq.images(), prompts_path(ctx.cfg, ctx.seq)
    prompts = _usable_prompts(ctx, path, names)
    masks = _usable_masks(ctx)
    again = suspects.reclick(suspects.suspects(masks, images)) if node.fix and masks else {}
    session = ClickSession(images, _segmenter(ctx, node), prompts, masks)

    def save() -> Path:
        if path.is_file() and not path.with_suffix(".before.yaml").exists() and _unknown(path, ctx, names):
            shutil.copyfile(path, path.with_suffix(".before.yaml"))
        write_prompts(path, {names[t]: p for t, p in session.prompts.items()}, ctx.seq.image_size())
        return path

    def started(address: str) -> None:
        ctx.note(f"click page at {address} (this machine alone); `Done` there goes on here")

    asyncio.run(ClickServer(session, ctx.seq.name, names, save, again).run(node.port, started))


def _usable_prompts(ctx: Context, path: Path, names: list[str]) -> dict[int, dict[str, EntityPrompt]]:
    """The clicks of frames that are there: the page must open where images/ were made anew, to correct them."""
    if not path.is_file():
        return {}
    unknown = _unknown(path, ctx, names)
    if unknown:
        ctx.warn(f"{path.name}: {len(unknown)} frames are not in images/ (first: {unknown[0]}) and are left out; a copy is kept on saving")
    prompts = read_prompts(path, image_size=ctx.seq.image_size())
    return {names.index(frame): entities for frame, entities in prompts.items() if frame in names}


def _unknown(path: Path, ctx: Context, names: list[str]) -> list[str]:
    return [frame for frame in read_prompts(path, image_size=ctx.seq.image_size()) if frame not in names]


def _usable_masks(ctx: Context) -> dict[str, MasksOnDisk]:
    """The masks that cover every frame of images/; those of an earlier choice of frames are of no use to the page."""
    masks = {}
    for entity in ctx.seq.entities():
        try:
            masks[entity] = ctx.seq.masks(entity)
        except HoldprepError as error:
            ctx.warn(f"the page opens without the masks of before: {error}")
    return masks


def measure(ctx: Context) -> Result:
    """Of processed masks, whoever made them."""
    masks = {entity: list(ctx.seq.masks(entity)) for entity in ctx.seq.entities()}
    if "object" not in masks:
        raise HoldprepError(f"{ctx.seq.path('masks_object')} holds no masks: the object's are needed")
    return _measured(ctx, masks, [])


def run(ctx: Context) -> Result:
    names = ctx.seq.frame_names()
    wanted = (*SIDES_OF[ctx.cfg.hands.which], "object")
    node = ctx.cfg.segmenter
    notes: list[str] = []
    if isinstance(node, ImportSegmenter):
        masks, notes = _import(ctx, node, names)
    elif isinstance(node, TruthSegmenter):
        masks = _truth(ctx, node)
    else:
        masks = dict(_propagate(ctx, node, names))
    masks = {entity: m for entity, m in masks.items() if entity in wanted}
    _require(ctx, masks, wanted)
    _write(ctx, names, masks, keep_tool_output=isinstance(node, ImportSegmenter))
    return _measured(ctx, {entity: list(m) for entity, m in masks.items()}, notes)


def _measured(ctx: Context, frames: dict[str, list[np.ndarray]], notes: list[str]) -> Result:
    """The numbers of masks (T, H, W) bool by entity, and which frames are worth another click."""
    names = ctx.seq.frame_names()
    metrics, curves = quality.all_mask_metrics(frames)
    found = suspects.suspects(frames, ctx.seq.images())
    again = suspects.reclick(found)
    metrics |= {f"{e}.{reason}_frames": int(flags.sum()) for e, by in found.items() for reason, flags in by.items() if reason != "jump"}
    metrics["reclick_frames"] = len(again)
    curves["reclick"] = [float(t in again) for t in range(len(names))]
    if again:
        listed = "; ".join(f"{names[t]} ({', '.join(reasons)})" for t, reasons in again.items())
        notes = [*notes, f"frames to click again: {listed}"]
    return Result(metrics, curves, notes)


def _require(ctx: Context, masks: dict[str, np.ndarray], wanted: tuple[str, ...]) -> None:
    """The object and every hand asked for (auto: one at least) have masks in some frame."""
    seen = [entity for entity, m in masks.items() if m.any()]
    needed = wanted if ctx.cfg.hands.which != "auto" else ("object", *(("right",) if {"right", "left"}.isdisjoint(seen) else ()))
    lacking = [entity for entity in needed if entity not in seen]
    if not lacking:
        return
    if isinstance(ctx.cfg.segmenter, ImportSegmenter):
        folder = getattr(ctx.cfg.segmenter, lacking[0]) or ctx.seq.path(f"sam_{lacking[0]}")
        raise HoldprepError(f"no mask of {' or '.join(lacking)}: looked in {folder}; set segmenter.{lacking[0]}=<folder>, or hands=")
    raise HoldprepError(f"no mask of {' or '.join(lacking)}: outline it on a key frame of {ctx.seq.path('prompts')}, or set hands=")


def _read_prompts(ctx: Context, path: Path, names: list[str]) -> dict[int, dict[str, EntityPrompt]]:
    prompts = read_prompts(path, image_size=ctx.seq.image_size())
    unknown = [frame for frame in prompts if frame not in names]
    if unknown:
        raise HoldprepError(f"{path}: frame {unknown[0]} is not in images/ ({len(unknown)} such; frames there: {names[0]} ... {names[-1]})")
    return {names.index(frame): entities for frame, entities in prompts.items()}


def _segmenter(ctx: Context, node: ClassicalSegmenter | SamSegmenter) -> Segmenter:
    if isinstance(node, ClassicalSegmenter):
        return Segmenter(partial(classical.outline, work_side=node.work_side), partial(classical.propagate, work_side=node.work_side))
    predictor = sam.Predictor.load(node.name, node.weights, ctx.cfg.device)
    return Segmenter(partial(sam.outline, predictor=predictor), partial(sam.propagate, predictor=predictor))


def _propagate(ctx: Context, node: ClassicalSegmenter | SamSegmenter, names: list[str]) -> Masks:
    path = prompts_path(ctx.cfg, ctx.seq)
    if not path.is_file():
        raise HoldprepError(
            f"{path} is not there: click with segmenter.ui=true, write it (README, 'Clicks'), or segmenter=import with a tool's masks"
        )
    prompts = _read_prompts(ctx, path, names)
    return _segmenter(ctx, node).propagate(ctx.seq.images(), prompts, progress=partial(tqdm, disable=None))


def _truth(ctx: Context, node: TruthSegmenter) -> dict[str, np.ndarray]:
    there = [e for e in ENTITIES if ctx.seq.has(f"truth_masks_{e}")]
    if not there:
        raise HoldprepError(f"{ctx.seq.path('truth').parent} holds no true masks: segmenter=truth needs a sequence of source=synthetic")
    masks = {e: np.stack(list(ctx.seq.masks(e, "truth_masks"))) for e in there}
    return corruption.corrupt_masks(masks, node.erode_px, node.dilate_px, node.leak_pct, ctx.cfg.seed)


def _import(ctx: Context, node: ImportSegmenter, names: list[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    width, height = ctx.seq.image_size()
    masks: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for entity, path in segment_files(ctx.cfg, ctx.seq).items():
        asked = getattr(node, entity) is not None
        if path is None or not (path.exists() or asked):
            continue
        masks[entity], said = foreign.read_masks(path, names, (height, width), getattr(node.values, entity))
        notes += said
    return masks, notes


def _write(ctx: Context, names: list[str], masks: dict[str, np.ndarray], keep_tool_output: bool) -> None:
    def pictures(entity: str) -> Iterator[tuple[str, np.ndarray]]:
        for name, mask in zip(names, masks[entity], strict=True):
            yield f"{name}.png", mask.astype(np.uint8) * 255

    def labels() -> Iterator[tuple[str, np.ndarray]]:
        for i, name in enumerate(names):
            yield f"{name}.png", merge_masks({e: m[i] for e, m in masks.items()})

    def object_only() -> Iterator[tuple[str, np.ndarray]]:
        for name, image, mask in zip(names, ctx.seq.images(), masks["object"], strict=True):
            yield f"{name}.png", np.where(mask[..., None], image, 255).astype(np.uint8)

    for entity in masks:
        if not keep_tool_output:
            ctx.seq.write_images(f"sam_{entity}", pictures(entity))
        ctx.seq.write_images(f"masks_{entity}", pictures(entity))
    ctx.seq.write_images("masks", labels())
    ctx.seq.write_images("images_object", object_only())
