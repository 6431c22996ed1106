"""What decides about a stage besides the graph: the values of its settings, and the files that it reads outside the graph.

Nothing heavy is imported here: whether a stage is up to date must be known at once.
"""

from pathlib import Path

from holdprep.backend import BackendOption, External, Values
from holdprep.config.schema import Config
from holdprep.hand import STANDIN_FILE
from holdprep.sequence import RECORDS, Sequence


def _seed(cfg: Config, backend: BackendOption) -> dict[str, int]:
    return {"seed": cfg.seed} if backend.uses_seed else {}


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
    return {} if cfg.source.name == "synthetic" else {"video": source(cfg, seq)}


def create_settings(cfg: Config) -> Values:
    """A rendered scene by its own values, a video by what is cut out of it; whether raw pictures are kept changes no output."""
    if cfg.source.name == "synthetic":
        return {"source": cfg.source.recorded()}
    return {"source": cfg.source.recorded(), "create": cfg.create.recorded("raw_images")}


def segment_files(cfg: Config, seq: Sequence) -> External:
    """What the segmenter reads outside the graph: prompts, weights, another tool's masks, the ground truth."""
    return cfg.segmenter.files(seq)


def segment_outputs(cfg: Config) -> tuple[str, ...]:
    """Masks that the segmenter writes where there are such hands or entities."""
    return cfg.segmenter.outputs()


def segment_settings(cfg: Config) -> Values:
    """The segmenter's own values, the hands requested, and the seed where masks depend on it."""
    found = {"segmenter": cfg.segmenter.settings(), "hands": {"which": cfg.hands.which}}
    return found | _seed(cfg, cfg.segmenter)


def hand_model_files(cfg: Config, seq: Sequence) -> External:
    """MANO's files or the stand-in."""
    return {"hand_model": cfg.hand_model.path or STANDIN_FILE}


def hand_pose_files(cfg: Config, seq: Sequence) -> External:
    """What the tracker reads outside the graph, and the hand model."""
    return cfg.hand.files(seq) | hand_model_files(cfg, seq)


def hand_pose_outputs(cfg: Config) -> tuple[str, ...]:
    """Files that only some trackers write."""
    return cfg.hand.outputs()


def hand_pose_settings(cfg: Config) -> Values:
    """The tracker's own values, the hands requested, and the hand's length and the seed where the track depends on them."""
    hands = {"which": cfg.hands.which} | ({"length_mm": cfg.hands.length_mm} if cfg.hand.uses_length else {})
    return {"hand": cfg.hand.settings(), "hands": hands} | _seed(cfg, cfg.hand)


def register_settings(cfg: Config) -> Values:
    """The method, and the hand's length, which some methods refuse."""
    return {"registration": cfg.registration.recorded("save_mesh"), "hands": cfg.hands.recorded()}


def object_pose_files(cfg: Config, seq: Sequence) -> External:
    """What the source of poses reads outside the graph: the ground truth, another tool's result, the weights of networks."""
    return cfg.object_pose.files(seq)


def object_pose_settings(cfg: Config) -> Values:
    """The source's own values, and the seed where poses depend on it."""
    return {"object_pose": cfg.object_pose.settings()} | _seed(cfg, cfg.object_pose)


def align_settings(cfg: Config) -> Values:
    """The method, its weights, and the seed of the scale's estimators."""
    return {"align": cfg.align.recorded(), "weights": cfg.weights.recorded(), "seed": cfg.seed}


def build_settings(cfg: Config) -> Values:
    """Where the object is put, and whether the build is packed."""
    return {"build": cfg.build.recorded()}


def build_outputs(cfg: Config) -> tuple[str, ...]:
    """The packed build, where it is requested."""
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
