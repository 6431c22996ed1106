"""Masks of real clips from few clicks: two key frames, a box and three clicks for each entity, compared with drawn outlines.

Clicks are in tests/data/clips/<clip>/few_clicks.yaml. The outlines are those of tests/data/outlines/ (hands) and the polygons of the clip's
prompts.yaml, on frames without clicks.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from holdprep.errors import HoldprepError
from holdprep.segmenters.prompts import EntityPrompt, read_prompts
from holdprep.sequence import Sequence
from tests.benchmarks.clips import DEMO, RECIPES, unpack
from tests.benchmarks.measure import Row, row
from tests.outlines import FOLDER, Outline, mask_iou, outline, read_outlines
from tests.running import run

SECOND = ("hand_pose", "object_pose", "resegment")
FEW = ("demo", "cube", "wild6", "wild1", "wild4")


def measure_few_clicks(clip: str, root: Path) -> Iterator[Row]:
    """Mean and smallest IoU of hand and object after each pass, and seconds a frame; `refused` where no object poses are found."""
    unpack(clip, root)
    clicks = RECIPES / clip / "few_clicks.yaml"
    shutil.copyfile(clicks, root / clip / "prompts.yaml")
    run(root, root / "out", "stage=create", f"seq={clip}", "on_fail=warn")
    outcomes = run(root, root / "out", "stage=segment", f"seq={clip}", "on_fail=warn")
    seq, case, clicked = Sequence(root, clip), f"{clip}_few_clicks", set(read_prompts(clicks))
    yield row(case, "segment", "time_per_frame_s", sum(o["seconds"] for o in outcomes.values()) / len(seq.frame_names()))
    yield from _rows(case, "segment", judge(seq, clicked))
    for stage in SECOND:
        try:
            outcomes = run(root, root / "out", f"stage={stage}", f"seq={clip}", "on_fail=warn")
        except HoldprepError as error:
            print(f"{clip}: {error}")
            yield row(case, stage, "refused", 1.0)
            return
    yield row(case, "resegment", "time_per_frame_s", sum(o["seconds"] for o in outcomes.values()) / len(seq.frame_names()))
    yield row(case, "resegment", "changed_frames", float(outcomes["resegment"]["metrics"]["changed_frames"]))
    yield from _rows(case, "resegment", judge(seq, clicked))


def _rows(case: str, stage: str, found: dict[str, list[float]]) -> Iterator[Row]:
    for entity, ious in found.items():
        yield row(case, stage, f"{entity}_iou_mean", float(np.mean(ious)))
        yield row(case, stage, f"{entity}_iou_min", min(ious))


def judge(seq: Sequence, clicked: set[str]) -> dict[str, list[float]]:
    """IoU of the final masks of hand and object with every outline on frames that are not `clicked`."""
    names, size = seq.frame_names(), seq.image_size()
    side = next(e for e in seq.entities() if e != "object")
    masks = {e: seq.final_masks(e) for e in (side, "object")}
    found: dict[str, list[float]] = {"hand": [], "object": []}
    if (FOLDER / f"{seq.name}_hand.json").is_file():
        found["hand"] += [mask_iou(masks[side][names.index(f)], hand) for f, hand in read_outlines(seq.name, size).items()]
    drawn = read_prompts((DEMO if seq.name == "demo" else RECIPES / seq.name) / "prompts.yaml", size)
    for frame, prompts in drawn.items():
        if frame in clicked:
            continue
        for entity, truth in painted(prompts, size).items():
            mask = masks[entity][names.index(frame)]
            if entity == "object":
                found["object"].append(float((mask & truth).sum() / (mask | truth).sum()))
            else:
                corners = np.argwhere(truth)[:, ::-1].tolist()
                found["hand"].append(mask_iou(mask, Outline(truth, outline([corners], size).near)))
    return found


def painted(prompts: dict[str, EntityPrompt], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Masks (H, W) bool of a frame's polygons, painted in their order over each other."""
    labels = np.zeros(size[::-1], np.uint8)
    for k, prompt in enumerate(prompts.values(), start=1):
        for polygon in prompt.polygons:
            cv2.fillPoly(labels, [np.round(polygon).astype(np.int32)], k)
    return {entity: labels == k for k, entity in enumerate(prompts, start=1)}
