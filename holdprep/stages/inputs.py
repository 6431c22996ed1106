"""Inputs of stages outside the graph: values of their settings, and files that they read.

No large packages are imported here, so that the check whether a stage is up to date is fast.
"""

from pathlib import Path

from holdprep.backend import NAMED, BackendOption, External, Values
from holdprep.config.schema import Config
from holdprep.hand import STANDIN_FILE
from holdprep.pipeline import records
from holdprep.pipeline.records import DONE, HASHES
from holdprep.sequence import RECORDS, Sequence

NOT_REPORTED = {"report", "evaluate", "view", "absent", Path(HASHES).stem, Path(DONE).stem}  # files that the report does not show


def _seed(cfg: Config, backend: BackendOption) -> dict[str, int]:
    return {"seed": cfg.seed} if backend.uses_seed else {}


def source(cfg: Config, seq: Sequence) -> Path | None:
    """The video or image folder of this sequence: the one in `video`, video.mp4, or the folder of the last run."""
    if cfg.video is not None:
        return cfg.video
    if seq.has("video"):
        return seq.path("video")
    known = seq.read_frames().get("source")
    return Path(known) if known and Path(known).is_dir() else None


def create_files(cfg: Config, seq: Sequence) -> External:
    """The video, unless the sequence is rendered."""
    return {} if cfg.source.name == "synthetic" else {"video": source(cfg, seq)}


def create_settings(cfg: Config) -> Values:
    """Values of a rendered scene, or of frame selection of a video; raw images change no output."""
    if cfg.source.name == "synthetic":
        return {"source": cfg.source.recorded()}
    return {"source": cfg.source.recorded(), "create": cfg.create.recorded("raw_images")}


def segment_files(cfg: Config, seq: Sequence) -> External:
    """Files that the segmenter reads: prompts, weights, another tool's masks, ground truth."""
    return cfg.segmenter.files(seq)


def segment_outputs(cfg: Config) -> tuple[str, ...]:
    """Masks that the segmenter writes for existing entities."""
    return cfg.segmenter.outputs()


def segment_settings(cfg: Config) -> Values:
    """The segmenter's values, the requested hands, and the seed if masks depend on it."""
    found = {"segmenter": cfg.segmenter.settings(), "hands": {"which": cfg.hands.which}}
    return found | _seed(cfg, cfg.segmenter)


def resegment_files(cfg: Config, seq: Sequence) -> External:
    """The prompts, whose frames keep their masks."""
    node = cfg.segmenter.clicked()
    return {} if node is None else {"prompts": node.prompts_path(seq)}


def resegment_settings(cfg: Config) -> Values:
    """Whether the segmenter has a second pass, and its size."""
    side = cfg.segmenter.second_pass_side()
    return {"segmenter": {"name": cfg.segmenter.name, "second_pass": side is not None, "work_side": side}}


def hand_model_files(cfg: Config, seq: Sequence) -> External:
    """MANO's files or the stand-in."""
    return {"hand_model": cfg.hand_model.path or STANDIN_FILE}


def hand_pose_files(cfg: Config, seq: Sequence) -> External:
    """Files that the tracker reads, and the hand model."""
    return cfg.hand.files(seq) | hand_model_files(cfg, seq)


def hand_pose_outputs(cfg: Config) -> tuple[str, ...]:
    """Files that only some trackers write."""
    return cfg.hand.outputs()


def hand_pose_settings(cfg: Config) -> Values:
    """The tracker's values, the requested hands, and the hand's length and the seed if the track depends on them."""
    hands = {"which": cfg.hands.which} | ({"length_mm": cfg.hands.length_mm} if cfg.hand.uses_length else {})
    return {"hand": cfg.hand.settings(), "hands": hands} | _seed(cfg, cfg.hand)


def register_settings(cfg: Config) -> Values:
    """The method's values, and those of the hands."""
    return {"registration": cfg.registration.recorded("save_mesh"), "hands": cfg.hands.recorded()}


def object_pose_files(cfg: Config, seq: Sequence) -> External:
    """Files that the source of poses reads: ground truth, another tool's result, weights of networks; the hand's where frames lack a pose."""
    files, for_lost = cfg.object_pose.files(seq), cfg.object_pose.files_for_lost_frames(seq)
    if not for_lost:
        return files
    record = records.read(seq, "object_pose")
    metrics = {} if record is None else record["metrics"]
    is_complete = metrics.get("held_frames") == 0 and not metrics.get("carried_frames")
    return files if is_complete else files | for_lost


def object_pose_settings(cfg: Config) -> Values:
    """The source's values, and the seed if poses depend on it."""
    return {"object_pose": cfg.object_pose.settings()} | _seed(cfg, cfg.object_pose)


def measured_files(cfg: Config, seq: Sequence) -> External:
    """The hand model, the pictures of a marker, depth maps, and a file of clicked points; the sequence's own is an artefact."""
    named = [path for path in (cfg.object.points, cfg.align.maps) if path is not None]
    found = hand_model_files(cfg, seq) | {NAMED + path.name: path for path in named}
    return found if cfg.object.marker_mm is None else found | {"images": seq.path("images")}


def align_settings(cfg: Config) -> Values:
    """The method's values, the weights, the seed of the scale estimators, and measured sizes."""
    points = None if cfg.object.points is None else cfg.object.points.name
    sizes = {"hands.length_mm": cfg.hands.length_mm, "object": cfg.object.recorded() | {"points": points}}
    return {"align": cfg.align.settings(), "weights": cfg.weights.recorded(), "seed": cfg.seed} | sizes


def build_settings(cfg: Config) -> Values:
    """Values of the build: the object's position, and packing."""
    return {"build": cfg.build.recorded()}


def build_outputs(cfg: Config) -> tuple[str, ...]:
    """The packed build, if requested."""
    return ("zip",) if cfg.build.zip else ()


def report_files(cfg: Config, seq: Sequence) -> External:
    """All records of stages: the report is written again when one of them has changed."""
    found: External = {}
    for folder in dict.fromkeys((seq.root, seq.home)):
        for path in sorted((folder / RECORDS).glob("*.json")):
            stage, _, kind = path.name.rpartition(".json")[0].partition(".measured")
            if stage.removesuffix(".failed") not in NOT_REPORTED:
                found[f"record of {stage}{kind}"] = path
    return found


def report_settings(cfg: Config) -> Values:
    """The thresholds of the gates."""
    return {"gates": None if cfg.gates is None else cfg.model_dump(mode="json", include={"gates"})["gates"]}
