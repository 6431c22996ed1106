"""The typed configuration: every key with its meaning, unit and range. `conf/*.yaml` holds values, this file says what is allowed.

`validation.py` reads a configuration and a command line against it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Threshold = float | tuple[float, float] | None


class Node(BaseModel):
    """A part of the configuration; keys that it does not name are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Create(Node):
    stride: int | None = Field(
        ge=1, description="keep every stride-th frame, named by its number; null = 2 for videos, 1 for image folders"
    )
    start: int = Field(ge=0, description="first frame of the video that is used")
    end: int | None = Field(ge=1, description="frame of the video to stop before; null = its end")
    crop: tuple[int, int, int, int] | None = Field(description="x, y, width, height in pixels of the video; null = the whole picture")
    max_side: int = Field(ge=64, description="longest side of images/ in pixels; larger frames are reduced")
    raw_images: bool = Field(description="also keep every decoded frame in processed/raw_images/")


class VideoSource(Node):
    name: Literal["video"]


class SyntheticSource(Node):
    name: Literal["synthetic"]
    object: Literal["can", "box", "mug", "bottle", "can_plain", "box_repeat", "can_symmetric"] = Field(description="what is held")
    grasp: Literal["rigid", "in_hand", "regrasp"] = Field(description="held still in the hand, turned in the fingers, or gripped anew")
    hands: Literal["right", "left", "both"] = Field(description="which hands hold it")
    frames: int = Field(ge=3, le=2000, description="frames that are rendered")
    width: int = Field(ge=160, le=4096, description="width of the pictures (px)")
    height: int = Field(ge=120, le=4096, description="height of the pictures (px)")
    focal_px: float | None = Field(gt=0, description="focal length (px); null = a phone's, 0.95 x the longer side")
    degrees: Positive = Field(description="how far the object turns before the camera, over the whole film (degrees)")
    depth_m: Positive = Field(description="distance of the object from the camera (m)")
    distortion: float = Field(ge=-0.5, le=0.5, description="lens: k of COLMAP's SIMPLE_RADIAL")
    shake_deg: Weight = Field(description="hand-held camera: standard deviation of its turning (degrees)")
    blur: float = Field(ge=0, le=1, description="exposure as a share of the time between frames (motion blur)")
    noise: Weight = Field(description="sensor noise: standard deviation in grey levels of 255")
    seed: int = Field(ge=0, description="seed of hand shape, grasp, motion, textures and noise")


class TruthSegmenter(Node):
    name: Literal["truth"]
    erode_px: int = Field(ge=0, description="true masks are eroded by this (px)")
    dilate_px: int = Field(ge=0, description="true masks are dilated by this (px)")
    leak_pct: Weight = Field(description="true masks leak at their edge by this much of their area (%)")


class ClickedSegmenter(Node):
    prompts: Path | None = Field(description="clicks, boxes or polygons on key frames; null = <seq>/prompts.yaml")
    # what opens the page changes no result by itself: it is not recorded
    ui: bool = Field(exclude=True, description="open the click page first: local, its address is printed")
    fix: bool = Field(exclude=True, description="open the click page on the frames whose masks look wrong")
    port: int = Field(exclude=True, ge=0, le=65535, description="the click page's port on 127.0.0.1; 0 = any free one")


class ClassicalSegmenter(ClickedSegmenter):
    name: Literal["classical"]
    work_side: int = Field(ge=160, description="longest side in pixels at which masks are propagated")


class SamSegmenter(ClickedSegmenter):
    name: Literal["sam2", "sam3"]
    weights: Path | None = Field(description="folder with the model's config.json and .safetensors, as Hugging Face has them")


class MaskValues(Node):
    right: int | None = Field(ge=0, le=65535, description="the right hand's label: palette index, grey level or COCO category")
    left: int | None = Field(ge=0, le=65535, description="the left hand's label; null = masks hold one entity, everything over 0")
    object: int | None = Field(ge=0, le=65535, description="the object's label")


class ImportSegmenter(Node):
    name: Literal["import"]
    right: Path | None = Field(
        description="right-hand masks: folder, COCO .json or video; null = processed/sam/right/images_masks if there"
    )
    left: Path | None = Field(description="left-hand masks; null = processed/sam/left/images_masks if there")
    object: Path | None = Field(description="object masks; null = processed/sam/object/images_masks")
    values: MaskValues


class Hands(Node):
    which: Literal["auto", "right", "left", "both"] = Field(description="hands in the sequence; auto = those that have masks or tracks")
    length_mm: float | None = Field(ge=100, le=300, description="wrist to middle fingertip, measured; null = the model's average")


class Tracker(Node):
    # what only shows a result is not recorded
    check: bool = Field(
        exclude=True, description="show one frame's hands: a picture and the numbers that tell conventions (side, unit, camera)"
    )


class MediapipeHand(Tracker):
    name: Literal["mediapipe"]
    min_presence: float = Field(gt=0, lt=1, description="frames whose hand presence is below this count as missed")
    focal_px: float | None = Field(
        gt=0, description="focal length in pixels of images/, by default object_pose.focal_px; null = 1.2 x the longer side"
    )
    smooth: bool = Field(description="take the jitter that the keypoints themselves show off their paths, without lag")
    threads: int = Field(exclude=True, ge=1, description="networks that work at once; changes no result")


class NetworkHand(Tracker):
    """A tracker that runs a published network on crops."""

    boxes: Literal["masks", "mediapipe", "file"] = Field(
        description="where crops are: about the hand masks, MediaPipe's keypoints, or a file's"
    )
    boxes_file: Path | None = Field(
        description="boxes=file: .npy of x1, y1, x2, y2 per frame (px), NaN = none; or a dict {right: .., left: ..}"
    )
    crop: Literal["own", "100doh"] = Field(
        description="own = as published (HaMeR: 2 boxes; METRO: 1.5), frames with a box; 100doh = 1.5 boxes within 256 and 700 px, a "
        "frame without a box gets the last one at 2.5"
    )
    focal_px: float | None = Field(
        gt=0,
        description="focal length in pixels of images/, by default object_pose.focal_px; null = 5000/256 x the longer side, as published",
    )
    batch: int = Field(ge=1, description="crops that go through the network at once")
    threads: int = Field(ge=1, description="threads that read and cut pictures ahead of the network")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="precision of the backbone; auto = bfloat16 on CUDA, else float32"
    )


class HamerHand(NetworkHand):
    name: Literal["hamer"]
    checkpoint: Path = Field(description="hamer.ckpt as published, model_config.yaml beside it or one folder up; also $HAMER_CHECKPOINT")


class MetroHand(NetworkHand):
    name: Literal["metro"]
    checkpoint: Path = Field(description="metro_hand_state_dict.bin; also $METRO_CHECKPOINT")
    backbone: Path | None = Field(
        description="hrnetv2_w64_imagenet_pretrained.pth, only for a checkpoint without its backbone; null = none"
    )
    sampling: Path = Field(description="mano_downsampling.npz of METRO's repository")


class ImportHand(Tracker):
    name: Literal["import"]
    format: Literal["hamer", "metro", "wilor", "hawor", "meshes", "keypoints"] = Field(
        description="what the folder holds: a tracker's files, meshes of 778 vertices, or 21 keypoints a hand"
    )
    folder: Path | None = Field(description="folder with the tracker's files, or keypoints' .json or .npz; null = <seq>/processed")
    focal_px: float | None = Field(
        gt=0,
        description="meshes, keypoints: focal length of their camera in pixels of images/; null = HaMeR's for meshes, 1.2 longer sides",
    )


class TruthHand(Tracker):
    name: Literal["truth"]
    noise_px: Weight = Field(description="noise of each true keypoint: standard deviation (px)")
    depth_noise_pct: Weight = Field(description="noise of the true hand's distance: standard deviation (%)")
    drop_pct: float = Field(ge=0, le=100, description="frames in which the true hand is withheld (%)")
    drop: Literal["random", "bursts", "ends"] = Field(description="which frames those are")
    size_error_pct: float = Field(gt=-90, le=900, description="error of the hand's size (%)")
    swap: bool = Field(description="left hands are called right and right hands left")


class HandModelNode(Node):
    path: Path | None = Field(description="folder with MANO_RIGHT.pkl / MANO_LEFT.pkl; null = $MANO_DIR, else the CC0 stand-in")


class Registration(Node):
    outlier_z: Positive = Field(description="robust z-score above which a fitted frame counts as an outlier and is infilled")
    save_mesh: bool = Field(description="write processed/mesh_fit_vis/*.ply")


class LmRegistration(Registration):
    method: Literal["lm"] = Field(description="second order over all frames at once")
    max_iterations: int = Field(ge=1, le=1000, description="Levenberg-Marquardt iterations at most")
    shared_shape: bool = Field(description="one shape per hand for the whole sequence")
    robust: Literal["none", "huber", "geman_mcclure"] = Field(description="loss of the distance to the tracker's mesh")
    robust_mm: Positive = Field(description="width of that loss (mm); farther points count less")
    smooth: bool = Field(description="smooth rotations and translation by a prior on accelerations, as large as the clip shows them")
    outline: Weight = Field(description="weight of the mask's outline, in its own evidence; 0 = keypoints and meshes alone")
    fingers_apart: bool = Field(description="keep fingers from passing through each other")
    shared_errors: bool = Field(description="let frames whose errors are alike count as fewer when the shape is estimated")


class AdamRegistration(Registration):
    method: Literal["adam"] = Field(description="HOLD's published losses and schedule")
    max_iterations: int = Field(ge=1, le=100_000, description="Adam's iterations at most, of the coarse and of the fine part")
    shape_loss: bool = Field(description="hold the shape to the mean (HOLD's use_beta_loss)")


class DirectRegistration(Registration):
    method: Literal["direct"] = Field(description="the tracker's own MANO parameters (hand=hamer)")
    shared_shape: bool = Field(description="one shape per hand for the whole sequence")


class SfmObjectPose(Node):
    focal_px: float | None = Field(
        gt=0,
        description="focal length in pixels of images/ if known (then fixed); null = estimated, from the pictures' EXIF if it tells one",
    )
    principal_px: tuple[float, float] | None = Field(
        description="principal point in pixels of images/, the first pixel's centre at 0, if known; null = the picture's centre"
    )
    upsample: Positive = Field(description="factor by which the crop around the object is enlarged before features are found")
    erode_px: int = Field(ge=0, description="object masks are eroded by this before features are found (pixels)")
    max_features: int = Field(ge=100, description="features per frame at most")
    num_pairs: int = Field(ge=1, description="frames that each frame is matched with, where not all pairs are tried")
    max_gap: int = Field(ge=0, description="object poses are interpolated across gaps of at most this many frames, held across longer ones")
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )
    min_registered_pct: float = Field(ge=0, le=100, description="fewer registered frames than this is an error (%)")
    threads: int = Field(exclude=True, ge=1, le=64, description="processes of COLMAP that work at once; changes no result")


class SiftFeatures(SfmObjectPose):
    peak_threshold: Positive = Field(description="contrast (of 1) below which a SIFT feature is left out")


class SiftObjectPose(SiftFeatures):
    name: Literal["sift"]


class SuperPointObjectPose(SfmObjectPose):
    name: Literal["superpoint_superglue", "superpoint_lightglue"]
    weights: Path | None = Field(
        description="folder with the matcher's config.json and .safetensors, as Hugging Face has them (SuperPoint is in it)"
    )


Change = Literal["upsample", "erode_px", "max_features", "peak_threshold", "num_pairs"]


class AutoObjectPose(SiftFeatures):
    name: Literal["auto"]
    attempts: tuple[dict[Change, float], ...] = Field(description="what to change, in turn, when the settings as given fail the gates")

    def settings(self) -> list[tuple[str, SiftObjectPose]]:
        """Every attempt's description and settings, those given first; raises ValidationError where a change is not allowed."""
        given = self.model_dump(exclude={"name", "attempts"}) | {"name": "sift", "threads": self.threads}
        unchanged: dict[Change, float] = {}
        return [
            (", ".join(f"{k}={v:g}" for k, v in change.items()) or "as given", SiftObjectPose.model_validate(given | dict(change)))
            for change in (unchanged, *self.attempts)
        ]

    @model_validator(mode="after")
    def _changes_are_allowed(self) -> "AutoObjectPose":
        self.settings()
        return self


class ImportObjectPose(Node):
    name: Literal["import"]
    path: Path | None = Field(
        description="a COLMAP model's folder, HOLD's colmap/ folder, or .npz with T_cam_obj, points_obj, K or focal_px"
    )
    max_gap: int = Field(ge=0, description="object poses are interpolated across gaps of at most this many frames, held across longer ones")
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )


class TruthObjectPose(Node):
    name: Literal["truth"]
    drop_pct: float = Field(ge=0, le=100, description="frames whose true pose is withheld (%)")
    focal_error_pct: float = Field(gt=-90, le=900, description="error of the focal length; depths follow it (%)")
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )


class Align(Node):
    max_iterations: int | None = Field(ge=1, description="iterations at most; null = the method's own number")


class HoldAlign(Align):
    method: Literal["hold", "hold_arctic"] = Field(description="HOLD's published Adam objective and schedule, generic or ARCTIC's")


class LmAlign(Align):
    method: Literal["lm"] = Field(description="second order")
    scale: Literal["auto", "centroid", "rigid_grasp", "contact", "depth_order"] = Field(
        description="estimator of the object's metric scale"
    )
    refine_rotation: bool = Field(description="mode ho also refines the hand's rotation")
    refine_pose: bool = Field(description="mode ho also refines the finger pose")
    refine_shape: bool = Field(description="mode ho also refines the hand's shape")
    refine_obj_pose: bool = Field(description="mode ho also corrects the object's poses, as far as SfM's observations allow")
    refine_focal: bool = Field(description="mode ho also corrects the focal length, about SfM's; wants a hand of known shape")


class Weights(Node):
    j2d: Weight = Field(description="hand keypoint reprojection (per px^2)")
    j2d_sigma_px: Positive = Field(description="Geman-McClure width of hand keypoints (px)")
    outline: float | None = Field(
        ge=0, allow_inf_nan=False, description="distance of the hand's outline from its mask's (per px^2); null = by the keypoints' scatter"
    )
    o2d: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="object reprojection, where the object may leave SfM's trajectory (per px^2); null = by the scatter of keypoints and "
        "SfM's observations, align=hold: 1",
    )
    o2d_sigma_px: Positive = Field(description="Geman-McClure width of object points (px)")
    contact: float | None = Field(
        ge=0, allow_inf_nan=False, description="distance of hand and object (px^2 per m); null = by the keypoints' scatter, align=hold: 100"
    )
    grasp: float | None = Field(
        ge=0, allow_inf_nan=False, description="how a still hand's middle wanders on the object, mode ho (px^2 per m^2); null = as measured"
    )
    grasp_sigma_m: Positive = Field(description="Geman-McClure width of that (m)")
    z_min: Weight = Field(description="points behind the camera (px^2 per m)")
    smooth: Weight = Field(description="squared motion between frames (px^2 per m^2)")
    obj_scale: Positive = Field(description="the scale at step 1 of mode o, align=hold alone (m per SfM unit)")
    rotation: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="departure of the hand's rotation from the registered one (px^2 per rad^2); null = as measured",
    )
    pose: float | None = Field(ge=0, allow_inf_nan=False, description="departure of the finger pose (px^2 per rad^2); null = as measured")
    shape: Weight = Field(description="departure of the hand's shape (px^2 per beta^2)")
    focal: float | None = Field(
        ge=0,
        allow_inf_nan=False,
        description="departure of a refined focal length from SfM's (px^2 per squared logarithm of their ratio); null = as if that were good to 1 %",
    )
    scale_prior: Weight = Field(description="departure of the scale from mode o's (px^2 per squared standard error)")


class Build(Node):
    shift: Literal["origin", "fixed", "paper"] = Field(description="where the object is put in the trainer's world")
    zip: bool = Field(description="pack <data_root>/<seq>.zip")


class Evaluate(Node):
    truth: Path | None = Field(
        description="ground truth: a .npz, HO-3D's sequence folder, ARCTIC's .npy; null = the synthetic sequence's own"
    )
    format: Literal["holdprep", "ho3d", "arctic"] = Field(description="what kind of ground truth that is")
    view: int = Field(ge=0, le=8, description="ARCTIC's camera: 0 the egocentric one, 1 to 8 the fixed ones")
    first: int = Field(ge=0, description="ARCTIC: number of the sequence's first picture (the subject's ioi_offset)")
    image_size: tuple[int, int] | None = Field(description="ARCTIC: width, height of the view's original pictures; null = those of images/")
    ycb: Path | None = Field(description="folder of the YCB models, for HO-3D's objects")


class FileLogger(Node):
    """losses/metrics.csv, or tensorboard/, in the run's folder."""


class WandbLogger(Node):
    project: str = Field(description="W&B project")
    entity: str | None = Field(description="W&B entity; null = your default")
    group: str | None = Field(description="W&B group; null = the sweep's folder name")


class Loggers(Node):
    """Any of them: logger=[csv,wandb]."""

    csv: FileLogger | None = None
    tensorboard: FileLogger | None = None
    wandb: WandbLogger | None = None


class Trainer(Node):
    """What Lightning's Trainer is given for every optimisation."""

    max_steps: int = Field(ge=-1, description="iterations at most of every optimisation; -1 = each one's own bound")
    enable_progress_bar: bool = Field(description="Lightning's bar for every optimisation")
    log_every_n_steps: int = Field(ge=1, description="iterations between two lines of losses")
    profiler: Literal["simple", "advanced", "pytorch"] | None = Field(description="Lightning's profiler")
    detect_anomaly: bool = Field(description="stop where a gradient is not finite (the methods of first order)")
    ckpt_path: Path | None = Field(description="checkpoint of callbacks=checkpoint from which the stage's optimisation goes on")


class EarlyStopping(Node):
    patience: int = Field(ge=1, description="iterations without a fall of the loss after which an optimisation ends")
    min_delta: Weight = Field(description="relative fall of the loss that counts")


class Checkpoint(Node):
    every_n_train_steps: int = Field(ge=1, description="iterations between two checkpoints, in the run's folder checkpoints/")


class Callbacks(Node):
    """Any of them: callbacks=[early_stopping,checkpoint]."""

    early_stopping: EarlyStopping | None = None
    checkpoint: Checkpoint | None = None


class Config(Node):
    """Everything `launch.py` can be told."""

    stage: Literal[
        "all", "create", "segment", "hand_pose", "register", "object_pose", "align", "build", "report", "evaluate", "score", "status"
    ]
    mode: Literal["h", "o", "ho"] | None = Field(description="alignment mode; null = h, o, ho in turn")
    seq: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="sequence name: a folder of data_root; with -m or stage=status several: a,b, glob(cup*), all",
    )
    seqs: list[str] | None = Field(description="stage=score: the sequences that a search over weights aligns and scores")
    score_metric: str | None = Field(
        description="stage=score: a metric of stage=evaluate (the worst sequence counts); null = label-free mm"
    )
    video: Path | None = Field(description="video or image folder; null = <seq>/video.mp4 or <seq>/images")
    data_root: Path = Field(description="folder of sequences")
    force: bool = Field(description="run again even if nothing has changed, and replace what others wrote")
    dry: bool = Field(description="print what would run and why, and exit")
    overlay: bool | None = Field(
        description="write into the run's own folder, laid over the sequence; null = in sweeps over anything but seq"
    )
    on_fail: Literal["stop", "warn"] = Field(description="what a failed quality gate does")
    device: Literal["cpu", "cuda"] = Field(description="where optimisations and networks of torch run")
    seed: int = Field(ge=0, description="seed of everything random")
    objective: str | None = Field(
        description="<stage>.<metric> that a run returns to a sweeper; null = align.ho.contact.gap_mm where that is reported"
    )
    gates: dict[str, tuple[Threshold, Threshold]] | None = Field(
        description="where a number warns and where it fails, other than built in: {<stage>.<metric>: [warn, fail]}, a bound of null never"
    )
    source: Annotated[VideoSource | SyntheticSource, Field(discriminator="name")]
    create: Create
    segmenter: Annotated[ClassicalSegmenter | SamSegmenter | ImportSegmenter | TruthSegmenter, Field(discriminator="name")]
    hands: Hands
    hand: Annotated[MediapipeHand | HamerHand | MetroHand | ImportHand | TruthHand, Field(discriminator="name")]
    hand_model: HandModelNode
    registration: Annotated[LmRegistration | AdamRegistration | DirectRegistration, Field(discriminator="method")]
    object_pose: Annotated[
        SiftObjectPose | AutoObjectPose | SuperPointObjectPose | ImportObjectPose | TruthObjectPose, Field(discriminator="name")
    ]
    align: Annotated[LmAlign | HoldAlign, Field(discriminator="method")]
    weights: Weights
    build: Build
    evaluate: Evaluate
    logger: Loggers = Loggers()
    trainer: Trainer
    callbacks: Callbacks = Callbacks()
