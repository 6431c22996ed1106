"""images/ + clicks or a tool's mask folders -> processed/sam/, processed/masks/, processed/images_object/."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from holdprep.backend import Task
from holdprep.errors import HoldprepError
from holdprep.pipeline import Context, Result
from holdprep.quality import metrics as quality
from holdprep.quality import suspects
from holdprep.segmenters.option import Masks, Segmenter
from holdprep.segmenters.prompts import EntityPrompt, read_prompts, write_prompts
from holdprep.sequence import Masks as MasksOnDisk
from holdprep.stages.mask_files import write_entity, write_masks
from holdprep.ui.clicks import ClickSession
from holdprep.ui.server import ClickServer


def click(ctx: Context) -> None:
    """Open the click page, which writes prompts.yaml, before the stage if requested; returns when the user is done."""
    node = ctx.cfg.segmenter.clicked()
    if node is None or not (node.ui or node.fix):
        return
    names, images, path = ctx.seq.frame_names(), ctx.seq.images(), node.prompts_path(ctx.seq)
    prompts = _usable_prompts(ctx, path, names)
    masks = _usable_masks(ctx)
    again = suspects.reclick(suspects.suspects(masks, images)) if node.fix and masks else {}
    session = ClickSession(images, node.load(ctx.cfg.device), prompts, masks)

    def save() -> Path:
        if path.is_file() and not path.with_suffix(".before.yaml").exists() and _unknown(path, ctx, names):
            shutil.copyfile(path, path.with_suffix(".before.yaml"))
        write_prompts(path, {names[t]: p for t, p in session.prompts.items()}, ctx.seq.image_size())
        return path

    def started(address: str) -> None:
        # not logged: the address opens the page, and other users of the machine may read the run's log
        print(f"segment      click page at {address} (local only); `Done` on the page continues here", flush=True)

    asyncio.run(ClickServer(session, ctx.seq.name, names, save, again).run(node.port, started))


def _usable_prompts(ctx: Context, path: Path, names: list[str]) -> dict[int, dict[str, EntityPrompt]]:
    """The prompts of existing frames, so that the page also opens after a change of images/."""
    if not path.is_file():
        return {}
    unknown = _unknown(path, ctx, names)
    if unknown:
        ctx.warn(f"{path.name}: {len(unknown)} frames are not in images/ (first: {unknown[0]}) and are ignored; a copy is kept when saving")
    prompts = read_prompts(path, image_size=ctx.seq.image_size())
    return {names.index(frame): entities for frame, entities in prompts.items() if frame in names}


def _unknown(path: Path, ctx: Context, names: list[str]) -> list[str]:
    return [frame for frame in read_prompts(path, image_size=ctx.seq.image_size()) if frame not in names]


def _usable_masks(ctx: Context) -> dict[str, MasksOnDisk]:
    """The masks that cover all frames of images/; masks of another selection of frames are not used."""
    masks = {}
    for entity in ctx.seq.entities():
        try:
            masks[entity] = ctx.seq.masks(entity)
        except HoldprepError as error:
            ctx.warn(f"the page opens without earlier masks: {error}")
    return masks


def measure(ctx: Context) -> Result:
    """Metrics of existing masks."""
    masks = {entity: list(ctx.seq.masks(entity)) for entity in ctx.seq.entities()}
    if "object" not in masks:
        raise HoldprepError(f"{ctx.seq.path('masks_object')} holds no masks: the object's are needed")
    return _measured(ctx, masks, [])


def run(ctx: Context) -> Result:
    wanted = (*ctx.cfg.hands.sides, "object")
    segmenter: Segmenter = ctx.cfg.segmenter
    segmented = segmenter.segment(Task(ctx.seq, ctx.cfg.device, ctx.cfg.seed))
    masks = {entity: m for entity, m in segmented.masks.items() if entity in wanted}
    _require(ctx, masks, wanted)
    _write(ctx, masks)
    return _measured(ctx, {entity: list(m) for entity, m in masks.items()}, segmented.notes)


def _measured(ctx: Context, frames: dict[str, list[np.ndarray]], notes: list[str]) -> Result:
    """Metrics of masks (T, H, W) bool by entity, and the frames to click again."""
    names = ctx.seq.frame_names()
    metrics, curves = quality.all_mask_metrics(frames)
    found = suspects.suspects(frames, ctx.seq.images())
    again = suspects.reclick(found)
    metrics |= {f"{e}.{reason}_frames": int(flags.sum()) for e, by in found.items() for reason, flags in by.items() if reason != "jump"}
    metrics["reclick_frames"] = len(again)
    curves["reclick"] = [float(t in again) for t in range(len(names))]
    if again:
        what = "frames whose masks look wrong" if ctx.cfg.segmenter.clicked() is None else "frames to click again"
        listed = "; ".join(f"{names[t]} ({', '.join(reasons)})" for t, reasons in again.items())
        notes = [*notes, f"{what}: {listed}"]
    return Result(metrics, curves, notes)


def _require(ctx: Context, masks: Masks, wanted: tuple[str, ...]) -> None:
    """Raise HoldprepError unless the object and every requested hand (auto: at least one) have masks in some frame."""
    seen = [entity for entity, m in masks.items() if m.any()]
    needed = wanted if ctx.cfg.hands.which != "auto" else ("object", *(("right",) if {"right", "left"}.isdisjoint(seen) else ()))
    lacking = [entity for entity in needed if entity not in seen]
    if not lacking:
        return
    raise HoldprepError(f"no mask of {' or '.join(lacking)}: {ctx.cfg.segmenter.advice(lacking[0], ctx.seq)}")


def _write(ctx: Context, masks: Masks) -> None:
    """Write masks by entity (sam/ for a segmenter's masks), one merged label image per frame, and the object's images."""
    names, outputs = ctx.seq.frame_names(), ctx.cfg.segmenter.outputs()

    def object_only() -> Iterator[tuple[str, np.ndarray]]:
        for name, image, mask in zip(names, ctx.seq.images(), masks["object"], strict=True):
            yield f"{name}.png", np.where(mask[..., None], image, 255).astype(np.uint8)

    for entity in masks:
        if f"sam_{entity}" in outputs:
            write_entity(ctx.seq, f"sam_{entity}", masks[entity])
    write_masks(ctx.seq, masks, "masks", "masks")
    ctx.seq.write_images("images_object", object_only())
