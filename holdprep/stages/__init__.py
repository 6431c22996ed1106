"""The stage graph: one short file per stage. A stage reads files, calls the domain code, writes files and reports metrics.

Stages are imported when they run. Their order is that of `GRAPH`; `needs` and `uses` list the artefacts that each reads.
"""

from holdprep.config.schema import Config
from holdprep.pipeline.stage import Context, Stage, deferred
from holdprep.sequence import ENTITIES, MODES
from holdprep.stages import inputs

MASKS = tuple(f"masks_{e}" for e in ENTITIES)
AGAIN = tuple(f"again_{e}" for e in ENTITIES)
FINAL_MASKS = (*MASKS, *AGAIN)  # what `Sequence.final_masks` reads
TRUTH = ("truth", "truth_depth", *(f"truth_masks_{e}" for e in ENTITIES))


def _click(ctx: Context) -> None:
    clicked = ctx.cfg.segmenter.clicked()
    if clicked is not None and (clicked.ui or clicked.fix):
        deferred("holdprep.stages.segment", "click")(ctx)


def _check(ctx: Context) -> None:
    if ctx.cfg.hand.check:
        deferred("holdprep.stages.hand_check", "inspect")(ctx)


def _align_stage(mode: str) -> Stage:
    before = {"h": (), "o": ("ckpt_h",), "ho": ("ckpt_o",)}[mode]
    return Stage(
        f"align.{mode}",
        deferred("holdprep.stages.align", "run", mode=mode),
        needs=("fit_slerp", "j2d", "colmap", *before),
        uses=(*FINAL_MASKS, "points") if mode == "o" else FINAL_MASKS,
        outputs=("ckpt_ho", "fit_aligned") if mode == "ho" else (f"ckpt_{mode}",),
        settings=inputs.align_settings,
        remembers=("align", "weights", "object", "experiment", "hand_model", "seed"),
        external=inputs.measured_files if mode == "o" else inputs.hand_model_files,
        measure=deferred("holdprep.stages.align", "measure", mode=mode),
    )


CREATE = Stage(
    "create",
    deferred("holdprep.stages.create", "run"),
    outputs=("images",),
    optional=lambda cfg: ("frames",) if cfg.source.name == "video" else TRUTH,
    previews=("images_zip", "raw_images"),
    settings=inputs.create_settings,
    remembers=("source", "create"),
    external=inputs.create_files,
    measure=deferred("holdprep.stages.create", "measure"),
)
SEGMENT = Stage(
    "segment",
    deferred("holdprep.stages.segment", "run"),
    needs=("images",),
    outputs=("masks", "images_object", "masks_object"),
    optional=inputs.segment_outputs,
    previews=("second_pass", "again", *AGAIN),  # of the masks that are replaced: no later stage may use them
    settings=inputs.segment_settings,
    remembers=("segmenter", "hands", "experiment", "seed"),
    external=inputs.segment_files,
    measure=deferred("holdprep.stages.segment", "measure"),
    importer="segmenter=import",
    prepare=_click,
)
HAND_POSE = Stage(
    "hand_pose",
    deferred("holdprep.stages.hand_pose", "run"),
    needs=("images",),
    uses=MASKS,
    outputs=("v3d", "j2d"),
    optional=inputs.hand_pose_outputs,
    previews=("crop_image", "keypoints_vis", "hpe_vis"),
    settings=inputs.hand_pose_settings,
    remembers=("hand", "hands", "experiment", "hand_model", "seed"),
    external=inputs.hand_pose_files,
    measure=deferred("holdprep.stages.hand_pose", "measure"),
    inspect=_check,
)
OBJECT_POSE = Stage(
    "object_pose",
    deferred("holdprep.stages.object_pose", "run"),
    needs=("images", "masks_object"),
    uses=("frames",),
    outputs=("colmap", "colmap_2d"),
    settings=inputs.object_pose_settings,
    remembers=("object_pose", "seed"),
    external=inputs.object_pose_files,
    measure=deferred("holdprep.stages.object_pose", "measure"),
)
RESEGMENT = Stage(
    "resegment",
    deferred("holdprep.stages.resegment", "run"),
    needs=("images",),
    uses=("colmap", "v3d", "j2d", *MASKS),
    outputs=("second_pass",),
    optional=lambda cfg: ("again", *AGAIN),
    settings=inputs.resegment_settings,
    remembers=("segmenter",),
    external=inputs.resegment_files,
)
REGISTER = Stage(
    "register",
    deferred("holdprep.stages.register", "run"),
    needs=("images", "v3d", "j2d"),
    uses=("colmap", *FINAL_MASKS),
    outputs=("fit_init", "fit_slerp"),
    previews=("fit_meshes",),
    settings=inputs.register_settings,
    remembers=("registration", "hands", "experiment", "hand_model"),
    external=inputs.hand_model_files,
    measure=deferred("holdprep.stages.register", "measure"),
)
BUILD = Stage(
    "build",
    deferred("holdprep.stages.build", "run"),
    needs=("images", "masks", "fit_aligned", "colmap"),
    uses=("fit_slerp", "again"),
    outputs=("build",),
    optional=inputs.build_outputs,
    settings=inputs.build_settings,
    remembers=("build", "hand_model"),
    external=inputs.hand_model_files,
    measure=deferred("holdprep.stages.build", "measure"),
)
REPORT = Stage(
    "report",
    deferred("holdprep.stages.report", "run"),
    needs=("images",),
    outputs=("report",),
    previews=("overlay",),
    settings=inputs.report_settings,
    external=inputs.report_files,
    reports=True,
)
GRAPH: list[Stage] = [CREATE, SEGMENT, HAND_POSE, OBJECT_POSE, RESEGMENT, REGISTER, *(_align_stage(mode) for mode in MODES), BUILD, REPORT]
# runs only by name, since few sequences have ground truth
EVALUATE = Stage("evaluate", deferred("holdprep.stages.evaluate", "run"), needs=("images",), on_request=True)
VIEW = Stage("view", deferred("holdprep.stages.view", "run"), needs=("images",), on_request=True)  # shows, and makes nothing for others


def select(cfg: Config) -> list[Stage]:
    """The stages selected by a configuration, in order."""
    if cfg.stage in ("all", "status"):
        return GRAPH
    if cfg.stage == "align":
        return [s for s in GRAPH if s.name in ([f"align.{cfg.mode}"] if cfg.mode else [f"align.{m}" for m in MODES])]
    return [s for s in (*GRAPH, EVALUATE, VIEW) if s.name == cfg.stage]
