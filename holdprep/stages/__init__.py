"""The stage graph: one file a stage, thin. A stage reads, calls the domain, writes and reports numbers; the maths is elsewhere."""

from functools import partial
from pathlib import Path

from holdprep.align.problem import MODES, Mode
from holdprep.config import Config
from holdprep.hand.model import STANDIN_FILE
from holdprep.pipeline import Stage
from holdprep.sequence import ENTITIES, Sequence
from holdprep.stages import align, build, create, evaluate, hand_check, hand_pose, object_pose, register, report, segment

SAM = tuple(f"sam_{e}" for e in ENTITIES)
MASKS = tuple(f"masks_{e}" for e in ENTITIES)


def _video(cfg: Config, seq: Sequence) -> dict[str, Path | None]:
    return {} if cfg.source.name == "synthetic" else {"video": create.source(cfg, seq)}


def _hand_model(cfg: Config, seq: Sequence) -> dict[str, Path | None]:
    return {"hand_model": cfg.hand_model.path or STANDIN_FILE}


def _align_stage(mode: Mode) -> Stage:
    before = {"h": (), "o": ("ckpt_h",), "ho": ("ckpt_o",)}[mode]
    return Stage(
        f"align.{mode}",
        partial(align.run, mode=mode),
        needs=("fit_slerp", "j2d", "colmap", *before),
        uses=MASKS,
        makes=("ckpt_ho", "fit_aligned") if mode == "ho" else (f"ckpt_{mode}",),
        may_make=("align_vis",) if mode == "ho" else (),
        config=("align", "weights", "seed"),
        files=_hand_model,
    )


GRAPH: list[Stage] = [
    Stage(
        "create",
        create.run,
        makes=("images",),
        may_make=("images_zip", "raw_images", "frames", "truth"),
        config=("source", "create"),
        files=_video,
    ),
    Stage(
        "segment",
        segment.run,
        needs=("images",),
        makes=("masks", "images_object", "masks_object"),
        may_make=("masks_right", "masks_left"),
        config=("segmenter", "hands"),
        files=segment.files,
        prepare=segment.click,
    ),
    Stage(
        "hand_pose",
        hand_pose.run,
        needs=("images",),
        uses=MASKS,
        makes=("v3d", "j2d"),
        may_make=("boxes", "v3d_metro", "j2d_metro", "crop_image", "keypoints_vis", "hpe_vis"),
        config=("hand", "hands"),
        files=hand_pose.files,
        inspect=hand_check.inspect,
    ),
    Stage(
        "object_pose",
        object_pose.run,
        needs=("images", "masks_object"),
        uses=("frames",),
        makes=("colmap", "colmap_2d"),
        config=("object_pose", "seed"),
        files=object_pose.files,
    ),
    Stage(
        "register",
        register.run,
        needs=("images", "v3d", "j2d"),
        uses=("colmap", *MASKS),
        makes=("fit_init", "fit_slerp"),
        may_make=("fit_meshes",),
        config=("registration", "hands"),
        files=_hand_model,
    ),
    *(_align_stage(mode) for mode in MODES),
    Stage(
        "build",
        build.run,
        needs=("images", "masks", "fit_aligned", "colmap"),
        makes=("build",),
        config=("build",),
        files=_hand_model,
    ),
    Stage("report", report.run, needs=("images",), always=True),
]
EVALUATE = Stage("evaluate", evaluate.run, needs=("images",), always=True)  # asked for by name: few sequences have ground truth


def select(cfg: Config) -> list[Stage]:
    """The stages that a configuration asks for, in order."""
    if cfg.stage == "all":
        return GRAPH
    if cfg.stage == "align":
        return [s for s in GRAPH if s.name in ([f"align.{cfg.mode}"] if cfg.mode else [f"align.{m}" for m in MODES])]
    return [s for s in (*GRAPH, EVALUATE) if s.name == cfg.stage]
