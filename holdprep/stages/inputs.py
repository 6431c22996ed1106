"""What decides about a stage besides the graph: the values of its settings, and the files that it reads outside the graph.

Nothing heavy is imported here: whether a stage is up to date must be known at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from holdprep.config import (
    ClassicalSegmenter,
    Config,
    HamerHand,
    ImportHand,
    ImportObjectPose,
    ImportSegmenter,
    MediapipeHand,
    MetroHand,
    NetworkHand,
    SamSegmenter,
    SuperPointObjectPose,
    SyntheticSource,
    TruthHand,
    TruthObjectPose,
    TruthSegmenter,
)
from holdprep.hand import STANDIN_FILE
from holdprep.pipeline.stage import NAMED, External
from holdprep.sequence import ENTITIES, RECORDS, Sequence

Values = Mapping[str, Any]
METRO_FILES = ("v3d_metro", "j2d_metro", "boxes")  # which hand=import reads where hand=metro writes them


def _values(node: BaseModel, *without: str) -> dict[str, Any]:
    return node.model_dump(mode="json", exclude=set(without))


def source(cfg: Config, seq: Sequence) -> Path | None:
    """The video or image folder that this sequence comes from: the one named, video.mp4, or the folder used the last time."""
    if cfg.video is not None:
        return cfg.video
    if seq.has("video"):
        return seq.path("video")
    known = seq.read_frames().get("source")
    return Path(known) if known and Path(known).is_dir() else None


def create_files(cfg: Config, seq: Sequence) -> External:
    """The video, where the sequence is not rendered."""
    return {} if isinstance(cfg.source, SyntheticSource) else {"video": source(cfg, seq)}


def create_settings(cfg: Config) -> Values:
    """A rendered scene by its own values, a video by what is cut out of it; whether raw pictures are kept changes no output."""
    if isinstance(cfg.source, SyntheticSource):
        return {"source": _values(cfg.source)}
    return {"source": _values(cfg.source), "create": _values(cfg.create, "raw_images")}


def prompts_path(cfg: Config, seq: Sequence) -> Path:
    """prompts.yaml of a segmenter that is clicked."""
    return getattr(cfg.segmenter, "prompts", None) or seq.path("prompts")


def segment_files(cfg: Config, seq: Sequence) -> External:
    """The prompts with the mask pictures that they name, or each entity's folder of masks."""
    node = cfg.segmenter
    if isinstance(node, ClassicalSegmenter | SamSegmenter):
        from holdprep.segmenters.prompts import mask_files

        path = prompts_path(cfg, seq)
        named = mask_files(path) if path.is_file() else {}
        found: External = {**{NAMED + name: file for name, file in named.items()}, "prompts": path}
        return found | {"weights": node.weights and node.weights / "config.json"} if isinstance(node, SamSegmenter) else found
    if isinstance(node, TruthSegmenter):
        return {entity: seq.path(f"truth_masks_{entity}") for entity in ENTITIES}
    return {entity: getattr(node, entity) or seq.path(f"sam_{entity}") for entity in ENTITIES}


def segment_outputs(cfg: Config) -> tuple[str, ...]:
    """Masks of either hand, and of each entity as the segmenter had it, which another tool's masks are already."""
    hands = ("masks_right", "masks_left")
    return hands if isinstance(cfg.segmenter, ImportSegmenter) else (*hands, *(f"sam_{entity}" for entity in ENTITIES))


def segment_settings(cfg: Config) -> Values:
    """The segmenter without the files that it reads, which count by their content."""
    found = {"segmenter": _values(cfg.segmenter, "prompts", "weights", *ENTITIES), "hands": {"which": cfg.hands.which}}
    return found | ({"seed": cfg.seed} if isinstance(cfg.segmenter, TruthSegmenter) else {})


def hand_model_files(cfg: Config, seq: Sequence) -> External:
    """MANO's files or the stand-in."""
    return {"hand_model": cfg.hand_model.path or STANDIN_FILE}


def hand_pose_files(cfg: Config, seq: Sequence) -> External:
    """What a tracker reads outside the graph: another's files, the ground truth, a network's weights, given boxes, the hand model."""
    node, model = cfg.hand, hand_model_files(cfg, seq)
    if isinstance(node, TruthHand):
        return {"truth": seq.path("truth")} | model
    if isinstance(node, ImportHand):
        return _tracker_files(node, seq) | model
    if isinstance(node, NetworkHand):
        return _weights(node) | {"given boxes": node.boxes_file} | model
    return model


def _tracker_files(node: ImportHand, seq: Sequence) -> External:
    """A tracker's folder; in the sequence's own, where outputs lie too, the files of its format alone."""
    own = seq.path("v3d").parent
    if node.folder is not None and node.folder.resolve() != own.resolve():
        return {"tracker": node.folder}
    return {artefact: seq.path(artefact) for artefact in METRO_FILES} if node.format == "metro" else {}


def _weights(node: NetworkHand) -> External:
    if isinstance(node, HamerHand):
        from holdprep.hand.trackers.hamer_network import settings_file

        return {"checkpoint": node.checkpoint, "settings": settings_file(node.checkpoint)}
    if isinstance(node, MetroHand):
        return {"checkpoint": node.checkpoint, "backbone": node.backbone, "sampling": node.sampling}
    return {}


def hand_pose_outputs(cfg: Config) -> tuple[str, ...]:
    """Boxes where this project's own trackers ran, METRO's own files where METRO did."""
    if isinstance(cfg.hand, MetroHand):
        return METRO_FILES
    return ("boxes",) if isinstance(cfg.hand, HamerHand | MediapipeHand) else ()


def hand_pose_settings(cfg: Config) -> Values:
    """The tracker without its files and threads; the hand's length where keypoints are lifted to meshes of that size."""
    node = cfg.hand
    found: dict[str, Any] = {
        "hand": _values(node, "threads", "folder", "checkpoint", "backbone", "sampling", "boxes_file"),
        "hands": {"which": cfg.hands.which},
    }
    if isinstance(node, MediapipeHand) or (isinstance(node, ImportHand) and node.format == "keypoints"):
        found["hands"]["length_mm"] = cfg.hands.length_mm
    return found | ({"seed": cfg.seed} if isinstance(node, TruthHand) else {})


def register_settings(cfg: Config) -> Values:
    """The method, and the hand's length, which some methods refuse."""
    return {"registration": _values(cfg.registration, "save_mesh"), "hands": _values(cfg.hands)}


def object_pose_files(cfg: Config, seq: Sequence) -> External:
    """The ground truth or another tool's result, where they stand in for SfM; the weights of networks."""
    node = cfg.object_pose
    if isinstance(node, SuperPointObjectPose):
        return {"weights": node.weights and node.weights / "config.json"}
    if isinstance(node, ImportObjectPose):
        return {"poses": node.path}
    return {"truth": seq.path("truth")} if isinstance(node, TruthObjectPose) else {}


def object_pose_settings(cfg: Config) -> Values:
    """The source of poses without its files, and the seed of what is drawn."""
    found = {"object_pose": _values(cfg.object_pose, "weights", "path")}
    return found if isinstance(cfg.object_pose, ImportObjectPose) else found | {"seed": cfg.seed}


def align_settings(cfg: Config) -> Values:
    """The method, its weights, and the seed of the scale's estimators."""
    return {"align": _values(cfg.align), "weights": _values(cfg.weights), "seed": cfg.seed}


def build_settings(cfg: Config) -> Values:
    """Where the object is put, and whether the build is packed."""
    return {"build": _values(cfg.build)}


def build_outputs(cfg: Config) -> tuple[str, ...]:
    """The packed build, where it is asked for."""
    return ("zip",) if cfg.build.zip else ()


def report_files(cfg: Config, seq: Sequence) -> External:
    """Everything that stages recorded: the page is made anew when one of them has changed."""
    found: External = {}
    for folder in dict.fromkeys((seq.root, seq.home)):
        for path in sorted((folder / RECORDS).glob("*.json")):
            stage, _, kind = path.name.rpartition(".json")[0].partition(".measured")
            if stage.removesuffix(".failed") not in ("report", "evaluate", "hashes", "absent"):
                found[f"record of {stage}{kind}"] = path
    return found


def report_settings(cfg: Config) -> Values:
    """The thresholds that it judges by."""
    return {"gates": None if cfg.gates is None else cfg.model_dump(mode="json", include={"gates"})["gates"]}
