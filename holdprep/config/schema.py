"""The typed configuration: every key with its meaning, unit and range. `conf/*.yaml` holds values, this file the allowed ones.

Nodes of hand trackers, segmenters, sources of object poses and registration methods are with their implementations; the unions of
`Config` list them. `validation.py` reads a configuration and a command line against it.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, create_model

from holdprep.align import term_files
from holdprep.hand.registration_option import AdamRegistration, DirectRegistration, LmRegistration
from holdprep.hand.trackers.hamer_option import HamerHand
from holdprep.hand.trackers.import_option import ImportHand
from holdprep.hand.trackers.mediapipe_option import MediapipeHand
from holdprep.hand.trackers.metro_option import MetroHand
from holdprep.hand.trackers.truth_option import TruthHand
from holdprep.node import Node, Positive, Weight
from holdprep.object.import_option import ImportObjectPose
from holdprep.object.sfm_option import AutoObjectPose, SiftObjectPose, SiftXFeatObjectPose, SuperPointObjectPose, XFeatObjectPose
from holdprep.object.silhouettes_option import SilhouettesObjectPose
from holdprep.object.truth_option import TruthObjectPose
from holdprep.segmenters.classical_option import ClassicalSegmenter
from holdprep.segmenters.import_option import ImportSegmenter
from holdprep.segmenters.sam_option import SamSegmenter
from holdprep.segmenters.truth_option import TruthSegmenter
from holdprep.viewers.option import AitviewerView, RerunView, ViserView

Threshold = float | tuple[float, float] | None
Weighting = TypeVar("Weighting", bound=Node)
Marker = Literal[
    "DICT_4X4_50",
    "DICT_4X4_100",
    "DICT_4X4_250",
    "DICT_4X4_1000",
    "DICT_5X5_50",
    "DICT_5X5_100",
    "DICT_5X5_250",
    "DICT_5X5_1000",
    "DICT_6X6_50",
    "DICT_6X6_100",
    "DICT_6X6_250",
    "DICT_6X6_1000",
    "DICT_7X7_50",
    "DICT_7X7_100",
    "DICT_7X7_250",
    "DICT_7X7_1000",
    "DICT_ARUCO_ORIGINAL",
    "DICT_ARUCO_MIP_36h12",
    "DICT_APRILTAG_16h5",
    "DICT_APRILTAG_25h9",
    "DICT_APRILTAG_36h10",
    "DICT_APRILTAG_36h11",
]


class Create(Node):
    stride: int | None = Field(
        ge=1, description="keep every stride-th frame, named by its number; null = 2 for videos, 1 for image folders"
    )
    start: int = Field(ge=0, description="first frame of the video that is used")
    end: int | None = Field(ge=1, description="frame of the video to stop before; null = its end")
    crop: tuple[int, int, int, int] | None = Field(description="x, y, width, height in pixels of the video; null = the whole image")
    max_side: int = Field(ge=64, description="longest side of images/ in pixels; larger frames are reduced")
    raw_images: bool = Field(description="also keep every decoded frame in processed/raw_images/")


class VideoSource(Node):
    name: Literal["video"]


class SyntheticSource(Node):
    name: Literal["synthetic"]
    object: Literal["can", "box", "mug", "bottle", "case", "can_plain", "box_plain", "case_plain", "box_repeat", "can_symmetric"] = Field(
        description="the held object"
    )
    grasp: Literal["rigid", "in_hand", "regrasp"] = Field(
        description="static in the hand, rotated in the fingers, or with a change of grip"
    )
    hands: Literal["right", "left", "both"] = Field(description="which hands hold it")
    frames: int = Field(ge=3, le=2000, description="number of rendered frames")
    width: int = Field(ge=160, le=4096, description="width of the images (px)")
    height: int = Field(ge=120, le=4096, description="height of the images (px)")
    focal_px: float | None = Field(gt=0, description="focal length (px); null = 0.95 times the longer side, as in phones")
    degrees: Positive = Field(description="total rotation of the object in front of the camera (degrees)")
    depth_m: Positive = Field(description="distance of the object from the camera (m)")
    place: tuple[float, float] = Field(description="where in the picture it is held: 0,0 = the centre, 1,1 = the lower right corner")
    distortion: float = Field(ge=-0.5, le=0.5, description="lens: k of COLMAP's SIMPLE_RADIAL")
    shake_deg: Weight = Field(description="hand-held camera: standard deviation of its rotation (degrees)")
    blur: float = Field(ge=0, le=1, description="exposure as a share of the time between frames (motion blur)")
    noise: Weight = Field(description="sensor noise: standard deviation in grey levels of 255")
    seed: int = Field(ge=0, description="seed of hand shape, grasp, motion, textures and noise")


class Hands(Node):
    which: Literal["auto", "right", "left", "both"] = Field(description="hands in the sequence; auto = hands with masks or tracks")
    length_mm: float | None = Field(ge=100, le=300, description="wrist to middle fingertip, measured; null = the model's average")

    @property
    def sides(self) -> tuple[Literal["right", "left"], ...]:
        """The hands that a sequence may have."""
        return (self.which,) if self.which in ("right", "left") else ("right", "left")


class MeasuredObject(Node):
    diameter_mm: float | None = Field(
        ge=10, le=2000, description="largest distance of two points of the object, measured; the hand's size then follows from it"
    )
    size_mm: tuple[float, float, float] | None = Field(
        description="length, width and height of the object, measured, in any order; the hand's size then follows from them"
    )
    points: Path | None = Field(
        description="YAML file with two clicked points of the object and their distance (holdprep/README.md, 'Measured sizes'); "
        "null = <seq>/points.yaml, if it exists"
    )
    marker_mm: float | None = Field(
        ge=5,
        le=500,
        description="side of a printed marker that is fixed on the object, without its white border; null = none is looked for",
    )
    marker: Marker = Field(description="the marker's dictionary, by OpenCV's name (ArUco or AprilTag)")


class HandModelNode(Node):
    path: Path | None = Field(description="folder with MANO_RIGHT.pkl / MANO_LEFT.pkl; null = $MANO_DIR, else the CC0 stand-in")


class Align(Node):
    max_iterations: int | None = Field(ge=1, description="maximal number of iterations; null = the method's own")

    @property
    def estimates_scale(self) -> bool:
        """Whether the scale comes from estimators and what was measured; else it is an unknown of the method."""
        return False

    @property
    def maps(self) -> Path | None:
        """The folder of depth maps; None where the method uses none."""
        return None

    def settings(self) -> dict[str, Any]:
        """Values that change the result; of the folder of depth maps the name."""
        return self.recorded() | ({} if self.maps is None else {"depth_maps": self.maps.name})

    def freedom(self) -> dict[str, Any]:
        """Arguments of `align.run.align`: the free unknowns and the scale estimator; empty = the method's own."""
        raise NotImplementedError


class HoldAlign(Align):
    method: Literal["hold", "hold_arctic"] = Field(description="HOLD's published Adam objective and schedule, generic or ARCTIC's")

    def freedom(self) -> dict[str, Any]:
        return {}


class LmAlign(Align):
    method: Literal["lm", "soft_silhouette"] = Field(
        description="second order; or mode h by gradient descent through pytorch3d's soft silhouette renderer, and o and ho as lm"
    )
    silhouette: Weight = Field(description="weight of the silhouettes, only align=soft_silhouette (px^2 per unit of IoU)")
    scale: Literal["auto", "centroid", "rigid_grasp", "contact", "depth_order", "depth_maps"] = Field(
        description="estimator of the object's metric scale"
    )
    depth_maps: Path | None = Field(
        description="folder of depth maps, named as the frames: 16-bit PNG or .npy, of any gain; only the ratio of hand and object within a "
        "frame is used; null = none"
    )
    refine_rotation: bool = Field(description="mode ho also refines the hand's rotation")
    refine_pose: bool = Field(description="mode ho also refines the finger poses: hidden fingers close onto the object")
    refine_shape: bool = Field(description="mode ho also refines the hand's shape")
    refine_obj_pose: bool = Field(description="mode ho also corrects the object's poses, as far as SfM's observations allow")
    refine_focal: bool = Field(description="mode ho also corrects the focal length, with SfM's as prior; needs a hand of known shape")

    @property
    def estimates_scale(self) -> bool:
        return True

    @property
    def maps(self) -> Path | None:
        return self.depth_maps

    def freedom(self) -> dict[str, Any]:
        from holdprep.align.problem import Refine

        return {
            "refine": Refine(**{free: getattr(self, f"refine_{free}") for free in vars(Refine())}),
            "scale_estimator": self.scale,
            "silhouette": self.silhouette,
        }


def with_new_terms(node: type[Weighting]) -> type[Weighting]:
    """`node` with a key for every term of the alignment that it does not declare itself; null = the weight that the term starts with or
    measures. Their meaning is the first line of the file's docstring."""
    added: dict[str, Any] = {
        name: (float | None, Field(default=None, ge=0, allow_inf_nan=False, description=term_files.meaning(path)))
        for name, path in term_files.files().items()
        if name not in node.model_fields
    }
    return create_model(node.__name__, __base__=node, __module__=node.__module__, __doc__=node.__doc__, **added) if added else node


@with_new_terms
class Weights(Node):
    """A key of a term's name is the weight of that term (holdprep/align/terms/); a term without a key here gets one from its file."""

    j2d: Weight = Field(description="hand keypoint reprojection (per px^2)")
    j2d_sigma_px: Positive = Field(description="Geman-McClure width of hand keypoints (px)")
    outline: float | None = Field(
        ge=0, allow_inf_nan=False, description="distance of the hand's outline from its mask's (per px^2); null = from the keypoints' noise"
    )
    o2d: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="object reprojection, where the object's poses are free (per px^2); null = from the noise of keypoints and "
        "SfM's observations, align=hold: 1",
    )
    o2d_sigma_px: Positive = Field(description="Geman-McClure width of object points (px)")
    contact: float | None = Field(
        ge=0, allow_inf_nan=False, description="distance of hand and object (px^2 per m); null = from the keypoints' noise, align=hold: 100"
    )
    grasp: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="drift of a static hand's centroid on the object, mode ho (px^2 per m^2); null = estimated",
    )
    grasp_sigma_m: Positive = Field(description="Geman-McClure width of that (m)")
    z_min: Weight = Field(description="joints nearer than 5 cm, or behind the camera (px^2 per m^2; align=hold: per m)")
    smooth: Weight = Field(description="squared motion between frames (px^2 per m^2)")
    obj_scale: Positive = Field(description="the scale at step 1 of mode o, only align=hold (m per SfM unit)")
    rotation: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="departure of the hand's rotation from the registered one (px^2 per rad^2); null = estimated",
    )
    pose: float | None = Field(ge=0, allow_inf_nan=False, description="departure of the finger pose (px^2 per rad^2); null = estimated")
    shape: Weight = Field(description="departure of the hand's shape (px^2 per beta^2)")
    focal: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="departure of a refined focal length from SfM's (px^2 per squared log ratio); null = standard error of 1 %",
    )
    scale_prior: Weight = Field(
        description="departure of the scale from mode o's, which has used the contact already (px^2 per squared standard error)"
    )


class Build(Node):
    shift: Literal["origin", "fixed", "paper"] = Field(description="position of the object in the trainer's world")
    zip: bool = Field(description="pack <data_root>/<seq>.zip")


class Evaluate(Node):
    truth: Path | None = Field(
        description="ground truth: a .npz, HO-3D's sequence folder, ARCTIC's .npy; null = the synthetic sequence's own"
    )
    format: Literal["holdprep", "ho3d", "arctic"] = Field(description="format of the ground truth")
    view: int = Field(ge=0, le=8, description="ARCTIC's camera: 0 the egocentric one, 1 to 8 the fixed ones")
    first: int = Field(ge=0, description="ARCTIC: number of the sequence's first image (the subject's ioi_offset)")
    image_size: tuple[int, int] | None = Field(
        description="ARCTIC: width, height of the view's original images (px); null = those of images/"
    )
    ycb: Path | None = Field(description="folder of the YCB models, for HO-3D's objects")


class FileLogger(Node):
    """losses/metrics.csv, or tensorboard/, in the run's folder."""


class WandbLogger(Node):
    project: str = Field(description="W&B project")
    entity: str | None = Field(description="W&B entity; null = your default")
    group: str | None = Field(description="W&B group; null = the sweep's folder name")
    id: str | None = Field(
        pattern=r"^\w{1,64}$", description="W&B run to append to; null = that of the run's folder, if it has one, else a new one"
    )
    alert: bool = Field(description="send a W&B alert where a gate or a stage fails")


class Loggers(Node):
    """Any combination: logger=[csv,wandb]."""

    csv: FileLogger | None = None
    tensorboard: FileLogger | None = None
    wandb: WandbLogger | None = None


class Trainer(Node):
    """Settings of Lightning's Trainer for every optimisation."""

    max_steps: int = Field(ge=-1, description="maximal number of iterations of every optimisation; -1 = its own bound")
    enable_progress_bar: bool = Field(description="Lightning's progress bar for every optimisation")
    log_every_n_steps: int = Field(ge=1, description="iterations between two lines of losses")
    profiler: Literal["simple", "advanced", "pytorch"] | None = Field(description="Lightning's profiler")
    detect_anomaly: bool = Field(description="stop where a gradient is not finite (the methods of first order)")
    ckpt_path: Path | None = Field(description="checkpoint of callbacks=checkpoint from which the stage's optimisation resumes")


class EarlyStopping(Node):
    patience: int = Field(ge=1, description="iterations without a decrease of the loss after which an optimisation ends")
    min_delta: Weight = Field(description="minimal relative decrease of the loss")


class Checkpoint(Node):
    every_n_train_steps: int = Field(ge=1, description="iterations between two checkpoints, in the run's folder checkpoints/")


class Callbacks(Node):
    """Any combination: callbacks=[early_stopping,checkpoint]."""

    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpoint | None = None


class Config(Node):
    """All keys of a run of `launch.py`."""

    stage: Literal[
        "all",
        "create",
        "segment",
        "hand_pose",
        "register",
        "object_pose",
        "resegment",
        "align",
        "build",
        "report",
        "evaluate",
        "view",
        "score",
        "status",
        "dashboard",
    ]
    mode: Literal["h", "o", "ho"] | None = Field(description="alignment mode; null = h, o, ho one after the other")
    seq: str = Field(
        pattern=r"^\w[\w.-]*$",
        description="sequence name: a folder of data_root; with -m or stage=status several: a,b, glob(cup*), all",
    )
    seqs: list[str] | None = Field(description="stage=score: sequences of a search over weights")
    score_metric: str | None = Field(
        description="stage=score: a metric of stage=evaluate (the worst sequence counts); null = label-free mm"
    )
    video: Path | None = Field(description="video or image folder; null = <seq>/video.mp4 or <seq>/images")
    data_root: Path = Field(description="folder of sequences")
    force: bool = Field(description="run again even if nothing has changed, and replace foreign outputs")
    dry: bool = Field(description="print what would run and why, and exit")
    overlay: bool | None = Field(
        description="write into the run's own folder, as an overlay of the sequence; null = in sweeps over other keys than seq"
    )
    on_fail: Literal["stop", "warn"] = Field(description="action of a failed quality gate")
    device: Literal["cpu", "cuda"] = Field(description="device of optimisations and networks in torch")
    seed: int = Field(ge=0, description="random seed")
    objective: str | None = Field(
        description="<stage>.<metric> that a run returns to a sweeper; null = align.ho.contact.gap_mm if reported"
    )
    gates: dict[str, tuple[Threshold, Threshold]] | None = Field(
        description="thresholds that replace the built-in ones: {<stage>.<metric>: [warn, fail]}, null = no threshold"
    )
    source: Annotated[VideoSource | SyntheticSource, Field(discriminator="name")]
    create: Create
    segmenter: Annotated[ClassicalSegmenter | SamSegmenter | ImportSegmenter | TruthSegmenter, Field(discriminator="name")]
    hands: Hands
    hand: Annotated[MediapipeHand | HamerHand | MetroHand | ImportHand | TruthHand, Field(discriminator="name")]
    hand_model: HandModelNode
    object: MeasuredObject
    registration: Annotated[LmRegistration | AdamRegistration | DirectRegistration, Field(discriminator="method")]
    object_pose: Annotated[
        SiftObjectPose
        | XFeatObjectPose
        | SiftXFeatObjectPose
        | AutoObjectPose
        | SuperPointObjectPose
        | SilhouettesObjectPose
        | ImportObjectPose
        | TruthObjectPose,
        Field(discriminator="name"),
    ]
    align: Annotated[LmAlign | HoldAlign, Field(discriminator="method")]
    weights: Weights
    build: Build
    evaluate: Evaluate
    view: Annotated[ViserView | RerunView | AitviewerView, Field(discriminator="name")]
    logger: Loggers = Loggers()
    trainer: Trainer
    callbacks: Callbacks = Callbacks()
