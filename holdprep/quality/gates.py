"""What a number must be for a sequence to be worth training on: one table of thresholds, and what to do where one is missed."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from holdprep.errors import ConfigError
from holdprep.quality.bounds import Bound, Direction, Value, is_missing, missed, show

Status = Literal["pass", "warn", "fail"]
Thresholds = Mapping[str, tuple[Bound, Bound]]  # (warn_at, fail_at) by stage.metric

_SEVERITY: dict[Status, int] = {"pass": 0, "warn": 1, "fail": 2}


@dataclass(frozen=True)
class Gate:
    """One number and its verdict. A value beyond `warn_at` warns, beyond `fail_at` fails; a bound of None is never missed.

    `advice` says what to do next; it is empty where the gate passes.
    """

    stage: str
    metric: str
    value: Value
    unit: str
    status: Status
    warn_at: Bound
    fail_at: Bound
    direction: Direction
    advice: str

    @property
    def number(self) -> str:
        """The value with its unit, for reading."""
        return show(self.value) if is_missing(self.value) else f"{show(self.value)} {self.unit}".strip()

    @property
    def threshold(self) -> str:
        """What passes and what fails, for reading: `at least 90, fails below 60 %`."""
        words = {"at least": "below", "at most": "above", "within": "outside", "is": "unless"}[self.direction]
        bound = self.fail_at if self.warn_at is None else self.warn_at
        text = show(bound) if self.direction == "is" else f"{self.direction} {show(bound)}"
        if self.fail_at is None:
            return f"{text} {self.unit}".strip()
        return f"{text if self.fail_at == bound else f'{text}, fails {words} {show(self.fail_at)}'} {self.unit}".strip()

    def line(self) -> str:
        """One line: metric, number, threshold and advice."""
        return f"{self.metric} is {self.number}, should be {self.threshold}" + (f": {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Rule:
    """A line of the table: the bounds that a stage's metric is held to."""

    stage: str
    metric: str
    unit: str
    direction: Direction
    warn_at: Bound
    fail_at: Bound
    advice: str

    @property
    def name(self) -> str:
        """By which `Thresholds` know it."""
        return f"{self.stage}.{self.metric}"

    def held_to(self, thresholds: Thresholds) -> "Rule":
        """The rule with the bounds that they give, itself where they give none."""
        warn_at, fail_at = thresholds.get(self.name, (self.warn_at, self.fail_at))
        return replace(self, warn_at=warn_at, fail_at=fail_at)


# fmt: off
RULES: tuple[Rule, ...] = (
    # SfM needs views: the experiments that worked had 70 or more; a dozen cannot turn an object once round
    Rule(
        "create", "frames", "", "at least", 40, 10,
        "film longer, or keep more frames: lower create.stride, widen create.start/create.end",
    ),
    # hand networks see crops of 192-224 px, SIFT wants an object of 100 px or more: a picture smaller than that holds neither
    Rule("create", "width", "px", "at least", 480, 160, "use the original recording, or raise create.max_side"),
    Rule("create", "height", "px", "at least", 360, 120, "use the original recording, or raise create.max_side"),
    # frames that do not decode are left out: one is harmless, but the file is damaged
    Rule("create", "unreadable_frames", "frames", "at most", 0, None, "the video is damaged: copy or export it again, or cut the part out"),
    # the object must be seen all the time: what has no mask cannot register, and 60 % registered is the least that worked
    Rule(
        "segment", "object.frames_with_mask_pct", "%", "at least", 95, 60,
        "add a key frame for the object where its mask ends (prompts.yaml)",
    ),
    # a hand may leave the picture; the trainer still needs it in most frames to explain what hides the object
    Rule("segment", "frames_with_mask_pct", "%", "at least", 80, 30, "add a key frame for this hand where its mask ends (prompts.yaml)"),
    # 50 x 50 px gives SIFT some hundred features on textured things; at 20 x 20 px nothing is left to match or to train on
    Rule("segment", "area_median_px", "px", "at least", 2500, 400, "film closer, or crop less and raise create.max_side"),
    # area x1.5 against the running median is a leak or a lost part; a few frames are outvoted, thirty are not
    Rule(
        "segment", "area_jumps", "frames", "at most", 2, 30,
        "look at the mask pictures and add a key frame where it flickers (prompts.yaml)",
    ),
    # an object that reaches the border is cut off: its centre and its silhouette are then wrong
    Rule(
        "segment", "object.border_leak_pct", "%", "at most", 1, 25,
        "keep the whole object in the picture, or widen create.crop; if it is in it, its mask leaks",
    ),
    # an arm crosses 5-15 % of the border; a background leak takes most of it
    Rule(
        "segment", "border_leak_pct", "%", "at most", 25, 50,
        "the hand's mask leaks into the background: add a background click (prompts.yaml)",
    ),
    # visible regions are disjoint by definition; a few pixels are rounding between two tools' masks
    Rule(
        "segment", "overlap_pct", "%", "at most", 10, 50,
        "hand and object masks claim the same pixels: correct them, each shows only what is visible",
    ),
    # each such frame is wrong or hard: what is listed takes a click or two
    Rule("segment", "reclick_frames", "frames", "at most", 0, None, "click again on the frames listed in the notes: segmenter.fix=true"),
    # without contact nothing ties the object's scale to the hand
    Rule(
        "segment", "touching_pct", "%", "at least", 50, 5,
        "hand and object hardly touch: cut the clip to the part where the object is held (create.start/create.end)",
    ),
    # the default tracker finds 50-80 % of the frames of real clips; with less than a third, most of the motion is made up
    Rule(
        "hand_pose", "detected_pct", "%", "at least", 80, 30,
        "check the hand's mask and side, or import another tracker's result (hand=import)",
    ),
    # frames: 10 of a 30 fps clip at stride 2 are 0.7 s, which SLERP bridges; 2 s of finger motion it cannot know
    Rule(
        "hand_pose", "longest_gap", "frames", "at most", 10, 30,
        "cut the clip where the hand is lost, or import another tracker's result (hand=import)",
    ),
    # mean distance to the target: 1-2 mm is the trackers' noise, 8 mm half a finger's width, 20 mm another finger
    Rule(
        "register", "error_mm", "mm", "at most", 8, 20,
        "look at the hand overlays; try hand=import, or raise registration.max_iterations",
    ),
    Rule(
        "register", "valid_pct", "%", "at least", 80, 30,
        "too many frames are infilled: better hand tracks are needed (hand=import), or raise registration.outlier_z",
    ),
    Rule(
        "register", "longest_gap", "frames", "at most", 10, 30,
        "the pose in this gap is invented: cut the clip there, or use another tracker (hand=import)",
    ),
    # coefficients are standard deviations over the people scanned: a normal one is beyond 3 once in 370, beyond 5 once in two million, and some
    # one of ten is beyond 3 in one hand of 37. MANO was learned from 31 people, so that nothing is known of its tails: both bounds are a guess
    Rule(
        "register", "shape_largest", "sigma", "at most", 3, 5,
        "no person has such a hand: another focal length (object_pose.focal_px) or better hand tracks (hand=import); measure hands.length_mm",
    ),
    # the same rarity for all coefficients together: every one of them at 2.2 is as rare as one normal variable at 5. A guess, as above
    Rule(
        "register", "shape_mahalanobis", "sigma", "at most", 3, 5,
        "no person has such a hand: another focal length (object_pose.focal_px) or better hand tracks (hand=import); measure hands.length_mm",
    ),
    # no survey of fingers was at hand: the bounds are a guess about the stand-in, whose smallest section is 11.7 mm, and 7.5 to 15.6 mm over
    # random normal shapes (1st to 99th percentile)
    Rule(
        "register", "finger_breadth_min_mm", "mm", "within", (8, 20), (6.5, 25),
        "a finger is too thin or too thick: its keypoints are wrong; look at the hand overlays, try another tracker (hand=import)",
    ),
    # a guess likewise: the stand-in's widest section is 19.4 mm, and 15.1 to 23.5 mm over random normal shapes
    Rule(
        "register", "finger_breadth_max_mm", "mm", "within", (13.5, 27), (11, 32),
        "a finger is too thin or too thick: its keypoints are wrong; look at the hand overlays, try another tracker (hand=import)",
    ),
    # hand breadth of 6068 US soldiers (ANSUR II, Gordon et al. 2014, NATICK/TR-15/007, public data): 70 mm (1st percentile of the women) to
    # 99 mm (99th of the men), extremes 67 and 105. The margins beyond are a guess, because the model's section is not what a calliper spans
    Rule(
        "register", "palm_breadth_mm", "mm", "within", (62, 105), (55, 120),
        "the palm is too narrow or too broad: measure hands.length_mm; check the hand's side; try another tracker (hand=import)",
    ),
    # hand length of the same 6068: 160 mm (1st percentile of the women) to 218 mm (99th of the men), extremes 145 and 239; children have less.
    # Every size and depth follows it, one to one
    Rule(
        "register", "hand_length_mm", "mm", "within", (150, 220), (135, 240),
        "every size follows the hand's: measure it and set hands.length_mm",
    ),
    # share of frames. A guess: one frame in twenty may slip, one in four is a systematic error, such as the wrong side or joint order
    *(Rule(
        stage, "beyond_limits_pct", "%", "at most", 5, 25,
        "joints bend where no joint bends: check the hand's side (hand.check=true), look at the overlays, try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # a guess: where fingers press, soft skin gives way by a few millimetres, and the measure itself is right to 1-2 mm: fists have 5; 10 mm is half a finger
    *(Rule(
        stage, "self_penetration_mm", "mm", "at most", 6, 10,
        "fingers pass through each other: fingers were confused; look at the overlays, try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # of the hand's own silhouette it is 1; a mask without two of the straight fingers, or a hand 20 px beside a mask of some 200 px, has under
    # 0.75. The bounds are a guess
    *(Rule(
        stage, "mask_iou", "", "at least", 0.75, 0.6,
        "the posed hand does not fill its mask: look at the overlays; end the mask at the wrist; check the hand's side and the focal length",
    ) for stage in ("register", "align")),
    # share of the mask's own edge within 2.5 % of the hand's size of the silhouette's edge; a hand that is shifted keeps what lies along the
    # shift. The bounds are a guess
    *(Rule(
        stage, "outline_explained_pct", "%", "at least", 60, 35,
        "hand and mask have other outlines: look at the overlays; correct the masks (segmenter.fix=true), try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # independent noise from frame to frame. A guess: 3 px are a sixth of a fingertip of 20 px, which the trainer then cannot resolve. The RMS of
    # the 11-frame high-pass (jitter_px) has no bounds: fast motion passes it as well
    *(Rule(
        stage, "frame_noise_px", "px", "at most", 1, 3,
        "the hand trembles: set registration.smooth=true and hand.smooth=true, or try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    Rule(
        "register", "hand_model", "", "is", "mano", None,
        "get the MANO files from mano.is.tue.mpg.de and set hand_model.path or $MANO_DIR",
    ),
    # 60 % registered is the least at which the interpolated rest does no harm
    Rule(
        "object_pose", "registered_pct", "%", "at least", 90, 60,
        "the stage's warnings say what the frames without a pose lack (mask, features, matches) and what to try; of imported poses, import more",
    ),
    # good runs reach 0.4-0.7 px; wrong ones passed 1 px (a wrong one may be below: see rotation_jumps)
    Rule(
        "object_pose", "reprojection_px", "px", "at most", 0.8, 1.0,
        "check the object's masks for background; try object_pose.erode_px=3",
    ),
    # focal length / longest side: phones have 0.6-2, a wrong model was off by up to 900 %
    Rule(
        "object_pose", "focal_ratio", "x width", "within", (0.6, 2.0), (0.5, 2.5),
        "SfM found an impossible camera: set object_pose.focal_px, or turn the object further",
    ),
    # a sparse cloud of a few dozen points is neither a shape nor an extent
    Rule(
        "object_pose", "points", "", "at least", 300, 50,
        "the object has too little texture: film closer and sharper, raise object_pose.upsample or max_features",
    ),
    # the one sign of a flipped object: symmetric things register fully at under 1 px and are wrong by 60-90 degrees
    Rule(
        "object_pose", "rotation_jumps", "frames", "at most", 0, 0,
        "the object flips between frames: try another seed, correct its masks, or put tape with a pattern on it",
    ),
    # frames: SLERP bridges half a second; a turn of two seconds it cannot know
    Rule(
        "object_pose", "longest_gap", "frames", "at most", 10, 30,
        "the object's pose in this gap is invented: add masks there, raise object_pose.num_pairs, or cut the clip there",
    ),
    # phones and webcams have 45 to 90 degrees; beyond 20 to 120 SfM has traded depth for focal length
    Rule(
        "object_pose", "field_of_view_deg", "deg", "within", (30, 100), (20, 120),
        "SfM found an impossible camera: set object_pose.focal_px, or turn the object further",
    ),
    # 11 on rendered objects with texture; points seen in two or three frames only tie neighbours together, and drift
    Rule(
        "object_pose", "track_length", "frames", "at least", 4, 2.5,
        "features are not found again: film slower and sharper, raise object_pose.upsample or max_features",
    ),
    # an opaque body projects into its own outline: what lies outside is background, or the pose is wrong
    Rule(
        "object_pose", "cloud_outside_pct", "%", "at most", 5, 30,
        "the cloud leaves the masks: look at the overlay; correct the masks, or raise object_pose.erode_px",
    ),
    # half the mask bare means one face only, or a cloud squeezed flat
    Rule(
        "object_pose", "mask_covered_pct", "%", "at least", 60, 25,
        "the cloud is smaller or flatter than the object: turn it further, film it with more texture, raise object_pose.upsample",
    ),
    # mappings of the same matches that disagree tell two stories: two solutions of a plane, alike faces, symmetry
    Rule(
        "object_pose", "agreement_pct", "%", "at least", 90, 50,
        "mappings disagree: the object repeats itself or is symmetric; put tape with a pattern on it, or try another seed (seed=1)",
    ),
    # a few are harmless; each is a guess
    Rule(
        "object_pose", "interpolated_frames", "frames", "at most", 10, None,
        "these frames have no measured object pose: film slower, or raise object_pose.num_pairs",
    ),
    # not even a guess: the object stands still there while it moves
    Rule(
        "object_pose", "held_frames", "frames", "at most", 0, None,
        "these frames repeat the nearest known pose: cut the clip there (create.start/create.end), or add frames",
    ),
    # a trainer believes every pose: a real brush without texture registered until it was turned over, and stood still for the last 29 %
    Rule(
        "object_pose", "held_pct", "%", "at most", 10, 20,
        "too many frames would be trained at a pose that is not theirs: cut the clip there (create.start/create.end); the warnings say what these frames lack",
    ),
    # HOLD's Geman-McClure width for keypoints is 25 px: beyond it the optimiser itself counts a point as an outlier
    Rule(
        "align", "reprojection_px", "px", "at most", 10, 25,
        "hand and picture disagree: look at the overlays; check the hand's side and the focal length",
    ),
    # the target is the object's own SfM projection, zero on the SfM trajectory: pixels of error are drift away from it
    Rule(
        "align", "object.reprojection_px", "px", "at most", 3, 10,
        "contact pulls the object off its trajectory: lower weights.contact or raise weights.o2d",
    ),
    # the goal is 3 %; 30 degrees of turn give 2.4 %, no turn no scale at all
    Rule(
        "align", "object.scale_stderr_pct", "%", "at most", 3, 10,
        "the scale is uncertain: turn the object further, or try another align.scale",
    ),
    # 10 mm is what an average hand's size does to the depth of a held object; 50 mm is a hand that holds nothing
    Rule(
        "align", "contact.gap_mm", "mm", "at most", 10, 50,
        "hand and object do not meet: try another align.scale or raise weights.contact; measure hands.length_mm",
    ),
    # a soft palm gives some millimetres; more is a hand inside the object. A guess
    Rule(
        "align", "contact.penetration_mm", "mm", "at most", 12, 40,
        "the hand is inside the object: try another align.scale; measure hands.length_mm; look at the cloud",
    ),
    # rendered sequences have 0.2 % after mode ho, 3 % where the object's handle is closed by its hull
    Rule(
        "align", "contradicted_pct", "%", "at most", 15, None,
        "the hand lies before the object where the pictures show it behind, or the reverse: try another align.scale; check the masks",
    ),
    Rule(
        "align", "behind_camera_frames", "frames", "at most", 0, 0,
        "points lie behind the camera: raise weights.z_min; check the focal length",
    ),
    # things that a hand holds
    Rule(
        "align", "object.diameter_mm", "mm", "within", (30, 400), (20, 600),
        "no hand holds a thing of this size: try another align.scale, measure hands.length_mm",
    ),
    # the round trip is exact up to float32: 0.01 px is the promise of the format
    Rule(
        "build", "roundtrip_px", "px", "at most", 0.01, 0.01,
        "the build does not reproduce the alignment: run stage=build force=true; if it stays, this is a defect",
    ),
    # what the trainer's rays do not reach is not trained: the origin shift reaches everything
    Rule("build", "object_in_rays_pct", "%", "at least", 99, 90, "the trainer's rays end before the object: use build.shift=origin"),
    Rule("build", "hand_in_rays_pct", "%", "at least", 99, 90, "the trainer's rays end before the hand: use build.shift=origin"),
    # the trainer crashes on a frame that shows neither this hand nor the object
    Rule(
        "build", "unusable_frames", "frames", "at most", 0, 0,
        "the trainer crashes on frames without hand and object masks: add key frames, or cut them (create.start/create.end)",
    ),
    Rule(
        "build", "trainable", "", "is", True, None,
        "not for training: the stand-in hand was used. Get the MANO files and set hand_model.path or $MANO_DIR",
    ),
)
# fmt: on


def check_thresholds(thresholds: Thresholds) -> None:
    """Raises ConfigError for a name that is no rule's, or a bound that is none of its kind."""
    rules = {rule.name: rule for rule in RULES}
    for name, bounds in thresholds.items():
        if name not in rules:
            near = difflib.get_close_matches(name, rules, n=1, cutoff=0.5)
            raise ConfigError(f"gates: no number called '{name}' is judged" + (f" (did you mean '{near[0]}'?)" if near else ""))
        like = next(b for b in (rules[name].warn_at, rules[name].fail_at) if b is not None)
        if any(b is not None and isinstance(b, tuple) != isinstance(like, tuple) for b in bounds):
            raise ConfigError(f"gates: {name}={list(bounds)}: two bounds like {show(like)} are needed, where it warns and where it fails")


def judge(stage: str, metrics: Mapping[str, Value], thresholds: Thresholds | None = None) -> list[Gate]:
    """The gates of a stage, in the order of its metrics; metrics without a rule are not judged. `thresholds` go before the table's.

    A rule's name matches a metric's full name or, after a prefix such as `right.`, its end; the longest match wins.
    All modes of alignment (`align.h`, ...) share the rules of `align`. NaN or None, a number that could not be had, misses both bounds.
    """
    rules = {rule.metric: rule.held_to(thresholds or {}) for rule in RULES if rule.stage == stage.split(".")[0]}
    gates = []
    for metric, value in metrics.items():
        parts = metric.split(".")
        rule = next((rules[name] for i in range(len(parts)) if (name := ".".join(parts[i:])) in rules), None)
        if rule is not None:
            gates.append(_gate(rule, stage, metric, value))
    return gates


def overall(gates: Iterable[Gate]) -> Status:
    """The worst status; pass without any gate."""
    return max((gate.status for gate in gates), key=_SEVERITY.__getitem__, default="pass")


def _gate(rule: Rule, stage: str, metric: str, value: Value) -> Gate:
    status: Status = "pass"
    if missed(value, rule.direction, rule.fail_at):
        status = "fail"
    elif missed(value, rule.direction, rule.warn_at):
        status = "warn"
    advice = "" if status == "pass" else rule.advice
    return Gate(stage, metric, value, rule.unit, status, rule.warn_at, rule.fail_at, rule.direction, advice)
