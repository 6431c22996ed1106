"""Records of all stages -> report.html: verdict, problems, the sequence in 3D, and curves; and overlay.mp4, the result over the video."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import cv2
import yaml

from holdprep import __version__
from holdprep.io import safeio
from holdprep.pipeline import Context, Result
from holdprep.pipeline.runner import outcomes_so_far
from holdprep.quality.advice import for_imported
from holdprep.quality.gates import judge
from holdprep.quality.report import ReportData, render_report
from holdprep.quality.rule import Thresholds
from holdprep.quality.verdict import StageReport
from holdprep.sequence.images import encode
from holdprep.stages.scene import STAGES, read_scene
from holdprep.viewers.overlay import best_result, overlay, overlays
from holdprep.viewers.scene import Scene
from holdprep.viz.movie import has_h264, write_movie

MOVIE_FRAMES = 600  # most frames of overlay.mp4
FPS = 30.0  # of a video whose rate nobody has recorded
THUMBNAIL_PX = 320


def run(ctx: Context) -> Result:
    seq = ctx.seq
    records = {name: found.record for name, found in ctx.standing.items()}
    stages = _stages(records, outcomes_so_far(ctx.run_dir), ctx.cfg.gates)
    masks, poses = ctx.cfg.segmenter.clicked() is None, ctx.cfg.object_pose.is_imported
    stages = [replace(stage, gates=for_imported(stage.gates, masks, poses)) for stage in stages]
    model = records.get("build", records.get("register", {})).get("metrics", {}).get("hand_model", "standin")
    scene = read_scene(ctx)
    data = ReportData(
        seq=seq.name,
        version=__version__,
        hand_model=str(model),
        created=datetime.now().strftime("%Y-%m-%d %H:%M"),
        stages=stages,
        names=scene.names,
        curves=scene.curves,
        scene=scene,
        config_yaml=yaml.safe_dump(ctx.cfg.model_dump(mode="json"), sort_keys=False),
        notes=[*scene.notes, *(f"{name}: {note}" for name, record in records.items() for note in record.get("notes", []))],
        versions=_versions(records),
    )
    html = render_report(data).encode()
    safeio.write_bytes_atomic(seq.target("report"), html)
    safeio.write_bytes_atomic(ctx.run_dir / "report.html", html)
    ctx.runlog.file("report", ctx.run_dir / "report.html")
    verdict = data.verdict
    notes = [f"{verdict.sentence}", f"report: {seq.place(seq.home, 'report')}", *_pictures(ctx, scene, records)]
    return Result({"status": data.status, "trainable": verdict.is_trainable, "sentence": verdict.sentence}, {}, notes)


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


def _versions(records: dict[str, Any]) -> dict[str, str]:
    """The packages that the latest stage has recorded."""
    latest: dict[str, Any] = max(records.values(), key=lambda record: str(record.get("finished", "")), default={})
    return {"python": str(latest.get("python", "")), **latest.get("packages", {})} if latest.get("packages") else {}


def _pictures(ctx: Context, scene: Scene, records: dict[str, Any]) -> list[str]:
    """Write overlay.mp4, and a thumbnail for the page of a batch; returns notes."""
    result = best_result(scene)
    middle = len(scene.names) // 2
    picture = scene.images[middle] if result is None else overlay(scene, result, middle)
    scale = THUMBNAIL_PX / max(picture.shape[:2])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    thumbnail = ctx.run_dir / "thumbnail.jpg"
    safeio.write_bytes_atomic(thumbnail, encode(thumbnail, small))
    if result is None or not has_h264():
        return [] if result is None else ["overlay.mp4 is not written: PyAV has no encoder of H.264 here"]
    shown = scene.sampled(MOVIE_FRAMES)
    made = records.get("create", {})
    stride = made.get("settings", {}).get("create", {}).get("stride") or 1 if made.get("settings") else 1
    fps = float(made.get("metrics", {}).get("fps") or FPS) / stride * len(shown.names) / scene.total
    with safeio.atomic_path(ctx.seq.target("overlay")) as temporary:
        write_movie(temporary, overlays(shown, result), min(max(fps, 1.0), 60.0))
    ctx.runlog.file("overlay", ctx.seq.path("overlay"))
    return [f"overlay: {ctx.seq.place(ctx.seq.home, 'overlay')} ({result.title}, {len(shown.names)} of {scene.total} frames)"]
