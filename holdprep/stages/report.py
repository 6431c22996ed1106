"""Records of all stages -> report.html: gates, images and curves of the sequence in one self-contained file."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import cv2
import numpy as np
import yaml

from holdprep import __version__
from holdprep.io import safeio
from holdprep.pipeline import Context, Result
from holdprep.pipeline.runner import outcomes_so_far
from holdprep.quality.advice import for_imported
from holdprep.quality.chart import Curve
from holdprep.quality.gates import judge
from holdprep.quality.report import Picture, ReportData, StageReport, render_report
from holdprep.quality.rules import Thresholds
from holdprep.sequence import image_files, read_image
from holdprep.viz.overlay import contact_sheet, draw_masks

STAGES = ("create", "segment", "hand_pose", "register", "object_pose", "align.h", "align.o", "align.ho", "build")
SHOWN = 12  # frames in a sheet
SHEETS = {
    "keypoints_vis": ("Hand keypoints", "Keypoints of the hand tracker, one colour per finger."),
    "colmap_2d": (
        "Object poses",
        "The cloud of SfM projected by each frame's pose: it must stay on the object. Axes x red, y green, z blue.",
    ),
    "align_vis": ("Aligned hand and object", "Hand mesh and object cloud in the common metric frame."),
}
CURVES = (
    ("segment", "area_px", "Mask area", "px"),
    ("register", "error_mm", "Distance of the hand model to its target", "mm"),
    ("object_pose", "inliers", "Observations per object pose", "points"),
    ("object_pose", "rotation_stderr_deg", "Standard error of the object's rotation", "deg"),
)


def run(ctx: Context) -> Result:
    seq = ctx.seq
    records = {name: found.record for name, found in ctx.standing.items()}
    stages = _stages(records, outcomes_so_far(ctx.run_dir), ctx.cfg.gates)
    if ctx.cfg.segmenter.clicked() is None:
        stages = [replace(stage, gates=for_imported(stage.gates)) for stage in stages]
    model = records.get("build", records.get("register", {})).get("metrics", {}).get("hand_model", "standin")
    data = ReportData(
        seq=seq.name,
        version=__version__,
        hand_model=str(model),
        created=datetime.now().strftime("%Y-%m-%d %H:%M"),
        stages=stages,
        pictures=_pictures(ctx, records),
        curves=_curves(ctx, records),
        config_yaml=yaml.safe_dump(ctx.cfg.model_dump(mode="json"), sort_keys=False),
        notes=[f"{name}: {note}" for name, record in records.items() for note in record.get("notes", [])],
    )
    html = render_report(data).encode()
    safeio.write_bytes_atomic(seq.target("report"), html)
    safeio.write_bytes_atomic(ctx.run_dir / "report.html", html)
    return Result({"status": data.status}, {}, [f"{data.status}: {seq.place(seq.home, 'report')}"])


def _stages(records: dict[str, Any], run: dict[str, Any], thresholds: Thresholds | None) -> list[StageReport]:
    """The record of every stage, and its status in this run: skipped, or the error message."""
    found = []
    for name in STAGES:
        record, now = records.get(name), run.get(name, {})
        if record is None and now.get("error") is None:
            continue
        metrics = record["metrics"] if record else {}
        seconds = record["seconds"] if record else now["seconds"]
        found.append(
            StageReport(name, seconds, now.get("status") == "skipped", metrics, judge(name, metrics, thresholds), now.get("error"))
        )
    return found


def _some(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)).tolist()


def _pictures(ctx: Context, records: dict[str, Any]) -> list[Picture]:
    seq = ctx.seq
    names = seq.frame_names()
    found = []
    entities = seq.entities()
    if entities:
        masks = {e: seq.masks(e) for e in entities}
        images = seq.images()
        drawn = [draw_masks(images[t], {e: m[t] for e, m in masks.items()}) for t in _some(len(names))]
        caption = "Right hand green, left hand blue, object red: outlines must fit fingers and object."
        found.append(Picture("Masks", caption, contact_sheet(drawn, [names[t] for t in _some(len(names))])))
        again = np.flatnonzero(records.get("segment", {}).get("curves", {}).get("reclick", []))[:SHOWN].tolist()
        if again and again[-1] < len(names):
            drawn = [draw_masks(images[t], {e: m[t] for e, m in masks.items()}) for t in again]
            caption = "Masks that vanish, jump, leak, overlap or flicker; see the notes."
            found.append(Picture("Frames whose masks look wrong", caption, contact_sheet(drawn, [names[t] for t in again])))
    for artefact, (title, caption) in SHEETS.items():
        files = [f for f in image_files(seq.path(artefact))] if seq.has(artefact) else []
        if files:
            chosen = [files[t] for t in _some(len(files))]
            found.append(Picture(title, caption, contact_sheet([read_image(f) for f in chosen], [f.stem for f in chosen])))
    sides = sorted(seq.path("build", "vis").glob("*_side.jpg")) if seq.has("build") else []
    if sides:
        chosen = [sides[t] for t in _some(len(sides))[::3]]
        sheet = contact_sheet([read_image(f, cv2.IMREAD_COLOR) for f in chosen], [f.stem.removesuffix("_side") for f in chosen])
        found.append(Picture("From the side", "Depth to the right: hand and object must touch at the fingers.", sheet))
    return found


def _curves(ctx: Context, records: dict[str, Any]) -> list[Curve]:
    frames = np.arange(len(ctx.seq.frame_names()))
    curves = []
    for stage, suffix, title, unit in CURVES:
        recorded = records.get(stage, {}).get("curves", {})
        series = {
            k.removesuffix(suffix).strip(".") or title: _array(v)
            for k, v in recorded.items()
            if k.endswith(suffix) and len(v) == len(frames)
        }
        if series:
            curves.append(Curve(title, unit, frames, series, _shaded(stage, recorded, len(frames))))
    return curves


def _shaded(stage: str, recorded: dict[str, Any], frames: int) -> np.ndarray | None:
    """(T,) bool, infilled frames: hands that are not valid, object poses that are not registered."""
    marks = [_array(v) for k, v in recorded.items() if k.endswith(("is_valid", "registered")) and len(v) == frames]
    return np.any([m == 0 for m in marks], axis=0) if marks else None


def _array(values: list[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=float)
