"""The table of quality gates: thresholds of metrics, where they come from, and the advice for a missed one."""

from holdprep.quality.rule import Rule

# fmt: off
RULES: tuple[Rule, ...] = (
    # SfM needs views: successful experiments had 70 or more; a dozen do not cover a full rotation
    Rule(
        "create", "frames", "", "at least", 40, 10,
        "film longer, or keep more frames: lower create.stride, widen create.start/create.end",
    ),
    # hand networks use crops of 192-224 px, SIFT needs an object of 100 px or more: smaller images are not sufficient
    Rule("create", "width", "px", "at least", 480, 160, "use the original recording, or raise create.max_side"),
    Rule("create", "height", "px", "at least", 360, 120, "use the original recording, or raise create.max_side"),
    # frames that cannot be decoded are left out: one is harmless, but the file is damaged
    Rule("create", "unreadable_frames", "frames", "at most", 0, None, "the video is damaged: copy or export it again, or cut the part out"),
    # pictures of which the brightest twentieth is below grey level 40 show no hand; clips of dim rooms have 170 and more
    Rule("create", "dark_pct", "%", "at most", 5, 50, "the pictures are nearly black: check images/; export the video or pictures again"),
    # real clips have deviations of 22 grey levels and more; a decoder that failed leaves one colour
    Rule("create", "flat_pct", "%", "at most", 0, 10, "pictures of a single colour: check images/; re-encode the video (ffmpeg -i in out.mp4)"),
    # 24 frames a second shown at 30 repeat 20 %; a decoder that failed repeats the last picture
    Rule("create", "repeated_pct", "%", "at most", 5, 30, "pictures are repeated: check images/; raise create.stride, or re-encode the video"),
    # the object must be visible all the time: frames without a mask cannot be registered, and 60 % registered is the lowest that worked
    Rule(
        "segment", "object.frames_with_mask_pct", "%", "at least", 95, 60,
        "add a key frame for the object where its mask ends (prompts.yaml)",
    ),
    # a hand may leave the image; the trainer still needs it in most frames to explain occlusions of the object
    Rule("segment", "frames_with_mask_pct", "%", "at least", 80, 30, "add a key frame for this hand where its mask ends (prompts.yaml)"),
    # 50 x 50 px gives SIFT about a hundred features on textured objects; 20 x 20 px are not sufficient for matching or training
    Rule("segment", "area_median_px", "px", "at least", 2500, 400, "film closer, or crop less and raise create.max_side"),
    # an area of 1.5 times the running median is a leak or a missing part; a few such frames do no harm, thirty do
    Rule(
        "segment", "area_jumps", "frames", "at most", 2, 30,
        "check the mask images and add a key frame where it flickers (prompts.yaml)",
    ),
    # an object at the border is cut off: its centre and its silhouette are then wrong
    Rule(
        "segment", "object.border_leak_pct", "%", "at most", 1, 25,
        "keep the whole object in the image, or widen create.crop; if it is inside, its mask leaks",
    ),
    # an arm covers 5-15 % of the border; a leak into the background covers most of it
    Rule(
        "segment", "border_leak_pct", "%", "at most", 25, 50,
        "the hand's mask leaks into the background: add a background click (prompts.yaml)",
    ),
    # visible regions are disjoint by definition; a few pixels are due to rounding
    Rule(
        "segment", "overlap_pct", "%", "at most", 10, 50,
        "hand and object masks overlap: correct them, each covers only visible pixels",
    ),
    # each such frame is wrong or difficult, and needs one or two clicks
    Rule("segment", "reclick_frames", "frames", "at most", 0, None, "click again on the frames listed in the notes: segmenter.fix=true"),
    # without contact the object's scale is not determined by the hand
    Rule(
        "segment", "touching_pct", "%", "at least", 50, 5,
        "hand and object hardly touch: cut the clip to the part where the object is held (create.start/create.end)",
    ),
    # the default tracker detects hands in 50-80 % of the frames of real clips; below a third, most of the motion is infilled
    Rule(
        "hand_pose", "detected_pct", "%", "at least", 80, 30,
        "check the hand's mask and side, or import another tracker's result (hand=import)",
    ),
    # frames: 10 of a 30 fps clip at stride 2 are 0.7 s, which SLERP can infill; 2 s of finger motion it cannot
    Rule(
        "hand_pose", "longest_gap", "frames", "at most", 10, 30,
        "cut the clip where the hand is lost, or import another tracker's result (hand=import)",
    ),
    # mean distance to the target: 1-2 mm is the trackers' noise, 8 mm half a finger's width, 20 mm a wrong finger
    Rule(
        "register", "error_mm", "mm", "at most", 8, 20,
        "check the hand overlays; try hand=import, or raise registration.max_iterations",
    ),
    Rule(
        "register", "valid_pct", "%", "at least", 80, 30,
        "too many frames are infilled: better hand tracks are needed (hand=import), or raise registration.outlier_z",
    ),
    Rule(
        "register", "longest_gap", "frames", "at most", 10, 30,
        "the pose in this gap is interpolated: cut the clip there, or use another tracker (hand=import)",
    ),
    # coefficients are standard deviations over the people scanned: a normal one exceeds 3 once in 370, 5 once in two million, and at least
    # one of ten exceeds 3 in one hand of 37. MANO was learned from 31 people, so that its tails are unknown: both bounds are a guess
    Rule(
        "register", "shape_largest", "sigma", "at most", 3, 5,
        "no person has such a hand: another focal length (object_pose.focal_px) or better hand tracks (hand=import); measure hands.length_mm",
    ),
    # the same rarity for all coefficients together: every one of them at 2.2 is as rare as one normal variable at 5. A guess, as above
    Rule(
        "register", "shape_mahalanobis", "sigma", "at most", 3, 5,
        "no person has such a hand: another focal length (object_pose.focal_px) or better hand tracks (hand=import); measure hands.length_mm",
    ),
    # without survey data of fingers, the bounds are a guess from the stand-in, whose smallest section is 11.7 mm, and 7.5 to 15.6 mm over
    # random normal shapes (1st to 99th percentile)
    Rule(
        "register", "finger_breadth_min_mm", "mm", "within", (8, 20), (6.5, 25),
        "a finger is too thin or too thick: its keypoints are wrong; check the hand overlays, try another tracker (hand=import)",
    ),
    # also a guess: the stand-in's widest section is 19.4 mm, and 15.1 to 23.5 mm over random normal shapes
    Rule(
        "register", "finger_breadth_max_mm", "mm", "within", (13.5, 27), (11, 32),
        "a finger is too thin or too thick: its keypoints are wrong; check the hand overlays, try another tracker (hand=import)",
    ),
    # hand breadth of 6068 US soldiers (ANSUR II, Gordon et al. 2014, NATICK/TR-15/007, public data): 70 mm (1st percentile of the women) to
    # 99 mm (99th of the men), extremes 67 and 105. The margins are a guess, because the model's section is not exactly a calliper's width
    Rule(
        "register", "palm_breadth_mm", "mm", "within", (62, 105), (55, 120),
        "the palm is too narrow or too broad: measure hands.length_mm; check the hand's side; try another tracker (hand=import)",
    ),
    # hand length of the same 6068: 160 mm (1st percentile of the women) to 218 mm (99th of the men), extremes 145 and 239;
    # children have less. All sizes and depths are proportional to it
    Rule(
        "register", "hand_length_mm", "mm", "within", (150, 220), (135, 240),
        "all sizes are proportional to the hand's: measure it and set hands.length_mm",
    ),
    # share of frames. A guess: one frame in twenty may be wrong, one in four is a systematic error, such as a wrong side or joint order
    *(Rule(
        stage, "beyond_limits_pct", "%", "at most", 5, 25,
        "joints exceed anatomical limits: check the hand's side (hand.check=true) and the overlays, try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # a guess: pressed skin deforms by a few millimetres, and the metric has errors of 1-2 mm: fists have 5 mm; 10 mm is half a finger
    *(Rule(
        stage, "self_penetration_mm", "mm", "at most", 6, 10,
        "fingers intersect: fingers were confused; check the overlays, try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # 1 for the hand's own silhouette; a mask without two straight fingers, or a hand 20 px from its mask of about 200 px, has less than
    # 0.75. The bounds are a guess
    *(Rule(
        stage, "mask_iou", "", "at least", 0.75, 0.6,
        "the posed hand does not fill its mask: check the overlays; end the mask at the wrist; check the hand's side and the focal length",
    ) for stage in ("register", "align")),
    # share of the mask's own edge within 2.5 % of the hand's size of the silhouette's edge; for a shifted hand, edges along the shift still
    # agree. The bounds are a guess
    *(Rule(
        stage, "outline_explained_pct", "%", "at least", 60, 35,
        "outlines of hand and mask differ: check the overlays; correct the masks (segmenter.fix=true), try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    # noise independent from frame to frame. A guess: 3 px are 1/6 of a fingertip of 20 px, which the trainer then cannot resolve. The RMS
    # of the 11-frame high-pass (jitter_px) has no bounds, since it contains fast motion too
    *(Rule(
        stage, "frame_noise_px", "px", "at most", 1, 3,
        "the hand jitters: set registration.smooth=true and hand.smooth=true, or try another tracker (hand=import)",
    ) for stage in ("register", "align")),
    Rule(
        "register", "hand_model", "", "is", "mano", None,
        "get the MANO files from mano.is.tue.mpg.de and set hand_model.path or $MANO_DIR",
    ),
    # a weaker basis than features: it needs a static grasp, and shape and poses share their errors
    Rule(
        "object_pose", "from_silhouettes", "", "is", False, None,
        "no structure from motion: poses follow the hand and the silhouettes; look at the overlays, or put tape with a pattern on the object",
    ),
    # median of frames that shape and hull were not fitted to. Rendered objects: 0.98 to 0.99; with a grasp that is not static or a hand that
    # is tracked on its wrong side, less than 0.96
    Rule(
        "object_pose", "silhouette_iou", "", "at least", 0.95, 0.85,
        "the shape does not predict the silhouettes: correct the masks, track the hand better (hand=import), or cut the clip to a static grasp",
    ),
    # degrees between the object's rotation and the palm's, in nine of ten frames. Rendered static grasps: 3 to 11 with 4 mm noise of the
    # joints, 9 to 16 with the default tracker; boxes that are turned in the fingers 18 and more
    Rule(
        "object_pose", "grasp_departure_deg", "deg", "at most", 15, 45,
        "the object does not move with the palm: cut the clip to a static grasp (create.start/create.end), or track the hand better",
    ),
    # distance of the fingertips from their usual place in the palm: 5 to 7 in rendered static grasps with 4 mm noise of the joints, 11 and 12
    # with boxes that are turned in the fingers, 16 to 66 with the default tracker where it sees few of the fingers
    Rule(
        "object_pose", "finger_motion_mm", "mm", "at most", 9, None,
        "the fingers move in the palm, or are badly tracked: the grasp may not be static; cut the clip, or track the hand better",
    ),
    # the axis of a can, all axes of a ball
    Rule(
        "object_pose", "free_axes", "axes", "at most", 0, None,
        "the object looks the same from several sides: its rotation about these axes is the hand's; tape with a pattern shows it",
    ),
    # below 60 %, interpolated frames do harm
    Rule(
        "object_pose", "registered_pct", "%", "at least", 90, 60,
        "the stage's warnings list what frames without a pose lack (mask, features, matches) and what to try",
    ),
    # good runs have 0.4-0.7 px; wrong ones more than 1 px (a wrong one may have less: see rotation_jumps)
    Rule(
        "object_pose", "reprojection_px", "px", "at most", 0.8, 1.0,
        "check the object's masks for background; try object_pose.erode_px=3",
    ),
    # focal length / longest side: phones have 0.6-2; wrong models had errors of up to 900 %
    Rule(
        "object_pose", "focal_ratio", "x width", "within", (0.6, 2.0), (0.5, 2.5),
        "SfM estimated an impossible camera: set object_pose.focal_px, or rotate the object further",
    ),
    # standard error, unknown where the prior is held; sequences with rotations of 90 degrees have 0.2 to 2 %. Depths are wrong by as much
    Rule(
        "object_pose", "focal_stderr_pct", "%", "at most", 3, None,
        "the pictures hardly determine the focal length: set object_pose.focal_px, or rotate the object further and nearer to the camera",
    ),
    # a few dozen points do not determine shape and extent of the object
    Rule(
        "object_pose", "points", "", "at least", 300, 50,
        "the object has too little texture: film closer and sharper, raise object_pose.upsample or max_features",
    ),
    # indicates a flipped object: symmetric objects register fully with errors below 1 px and a rotation wrong by 60-90 degrees
    Rule(
        "object_pose", "rotation_jumps", "frames", "at most", 0, 0,
        "the object flips between frames: try another seed, correct its masks, or put tape with a pattern on it",
    ),
    # frames: SLERP can infill half a second, but not a rotation of two seconds
    Rule(
        "object_pose", "longest_gap", "frames", "at most", 10, 30,
        "no pose is measured in this gap: add masks there, raise object_pose.num_pairs, or cut the clip there",
        ("gap_filled_by", {
            "interpolated": "poses in this gap are interpolated: add masks there, raise object_pose.num_pairs, or cut the clip there",
            "held": "frames in this gap repeat the nearest known pose: add masks there, raise object_pose.num_pairs, or cut the clip there",
            "hand": "poses in this gap are not measured, they follow the hand: check the overlay there, add masks there, or cut the clip there",
        }),
    ),
    # phones and webcams have 45 to 90 degrees; outside of 20 to 120 SfM has confused depth and focal length
    Rule(
        "object_pose", "field_of_view_deg", "deg", "within", (30, 100), (20, 120),
        "SfM estimated an impossible camera: set object_pose.focal_px, or rotate the object further",
    ),
    # 11 on rendered objects with texture; tracks of two or three frames connect only neighbours, which causes drift
    Rule(
        "object_pose", "track_length", "frames", "at least", 4, 2.5,
        "features are not matched over many frames: film slower and sharper, raise object_pose.upsample or max_features",
    ),
    # an opaque object projects into its own outline: points outside are background, or the pose is wrong
    Rule(
        "object_pose", "cloud_outside_pct", "%", "at most", 5, 30,
        "the cloud leaves the masks: check the overlay; correct the masks, or raise object_pose.erode_px",
    ),
    # real clips: 0 to 2 % with good masks, 16 % of a clip from few clicks where masks lack a tenth to a quarter of the object
    Rule(
        "object_pose", "mask_lost_frames_pct", "%", "at most", 5, 25,
        "the masks of the frames listed lack a part of the object: click on it there (segmenter.ui=true); if they are whole, the poses are wrong",
    ),
    # real clips: 0.4 to 2.3; a clip with wrong poses 11, rotations of other frames, or mirrored ones, 98 to 100
    Rule(
        "resegment", "shape_excess_pct", "%", "at most", 5, None,
        "masks and object poses contradict each other, so the masks were not changed: check the overlays of object_pose, and the masks",
    ),
    # a cloud that leaves the masks in most frames shows wrong poses, or masks that are useless; real clips: 79 to 100
    Rule(
        "resegment", "whole_pct", "%", "at least", 50, None,
        "the object's poses and its masks contradict each other, so the masks were not changed: check the overlays of object_pose",
    ),
    # real clips: none above 14 % from few clicks; a restored third of an object is 33 %
    Rule(
        "resegment", "much_changed_frames", "frames", "at most", 0, None,
        "look at the masks of the frames listed in stage=view; if they are worse than before, correct the poses, or segmenter.second_pass=false",
    ),
    # the larger of what is missing and of what is too much is below 6 % in all frames of real clips where both are
    Rule(
        "resegment", "contradicted_frames", "frames", "at most", 0, None,
        "the object's pose is wrong in the frames listed, or the mask: check the overlays of object_pose, and correct the mask there",
    ),
    # half of the mask uncovered indicates a single face, or a flattened cloud
    Rule(
        "object_pose", "mask_covered_pct", "%", "at least", 60, 25,
        "the cloud is smaller or flatter than the object: rotate it further, film it with more texture, raise object_pose.upsample",
    ),
    # disagreement of mappings from the same matches indicates ambiguity: flipped planes, similar faces, symmetry
    Rule(
        "object_pose", "agreement_pct", "%", "at least", 90, 50,
        "mappings disagree: the object has repeated parts or is symmetric; put tape with a pattern on it, or try another seed (seed=1)",
    ),
    # a few are harmless; each is an estimate without observations
    Rule(
        "object_pose", "interpolated_frames", "frames", "at most", 10, None,
        "these frames have no measured object pose: film slower, or raise object_pose.num_pairs",
    ),
    # the pose is constant there although the object moves
    Rule(
        "object_pose", "held_frames", "frames", "at most", 0, None,
        "these frames repeat the nearest known pose: cut the clip there (create.start/create.end), or add frames",
    ),
    # trainers use every pose: the pose of a real brush without texture was constant for the last 29 % of the clip
    Rule(
        "object_pose", "held_pct", "%", "at most", 10, 20,
        "too many frames would be trained with a wrong pose: cut the clip there (create.start/create.end); see the warnings",
    ),
    # rendered gaps: off by 4 and 8 deg (median) where held poses are off by 12 and 24; the object may move in the hand unseen
    Rule(
        "object_pose", "carried_frames", "frames", "at most", 0, None,
        "the poses of these frames are not measured, they follow the hand: check the overlay there, film slower, or cut the clip there",
    ),
    # HOLD's Geman-McClure width for keypoints is 25 px: beyond it a point is an outlier for the optimiser
    Rule(
        "align", "reprojection_px", "px", "at most", 10, 25,
        "hand and image disagree: check the overlays; check the hand's side and the focal length",
    ),
    # the target is the object's own SfM projection: errors in pixels are departures from the SfM trajectory
    Rule(
        "align", "object.reprojection_px", "px", "at most", 3, 10,
        "contact pulls the object off its trajectory: lower weights.contact or raise weights.o2d",
    ),
    # the goal is 3 %; a rotation of 30 degrees gives 2.4 %; without rotation the scale is undetermined
    Rule(
        "align", "object.scale_stderr_pct", "%", "at most", 3, 10,
        "the scale is uncertain: rotate the object further, or try another align.scale",
    ),
    Rule(
        "align", "disagreeing", "estimators", "at most", 0, None,
        "estimators of the scale exclude each other, see the notes: measure the object (object.diameter_mm, points.yaml)",
    ),
    # an average hand (+- 5 %) that is well tracked gives 13 %; one with three quarters of its keypoints hidden 25 %
    Rule(
        "align", "object.size_interval_pct", "%", "at most", 15, 25,
        "the object's size is uncertain: measure the hand (hands.length_mm) or the object (object.diameter_mm, points.yaml); film with fewer hidden fingers",
    ),
    # 10 mm is the effect of assuming an average hand's size on the depth of a held object; 50 mm is a hand that does not hold the object
    Rule(
        "align", "contact.gap_mm", "mm", "at most", 10, 50,
        "hand and object are not in contact: try another align.scale or raise weights.contact; measure hands.length_mm",
    ),
    # rendered hands that the model cannot represent: 0.3 to 6 mm with exact keypoints
    Rule(
        "align", "contact.tips_mm", "mm", "at most", 15, 50,
        "the fingertips do not reach the object: check the hand overlays and the masks; measure hands.length_mm",
    ),
    # rendered sequences have up to 40 % without harm: the hull of a box or a can is its surface
    Rule(
        "align", "contact.unobserved_pct", "%", "at most", 60, None,
        "the fingers touch parts of the object that no picture shows, whose surface is a guess: show the held part too, in another grasp",
    ),
    # soft skin deforms by a few millimetres; more is a hand inside the object. A guess
    Rule(
        "align", "contact.penetration_mm", "mm", "at most", 12, 40,
        "the hand is inside the object: try another align.scale; measure hands.length_mm; check the cloud",
    ),
    # rendered sequences have 0.2 % after mode ho, 3 % where the object's handle is closed by its hull
    Rule(
        "align", "contradicted_pct", "%", "at most", 15, 25,
        "the hand is in front of the object where the images show it behind, or the reverse: measure hands.length_mm or "
        "object.diameter_mm; check the masks where hand and object meet",
    ),
    Rule(
        "align", "behind_camera_frames", "frames", "at most", 0, 0,
        "points lie behind the camera: raise weights.z_min; check the focal length",
    ),
    # objects that a hand can hold
    Rule(
        "align", "object.diameter_mm", "mm", "within", (30, 400), (20, 600),
        "no hand holds an object of this size: try another align.scale, measure hands.length_mm",
    ),
    # the round trip is exact up to float32: at most 0.01 px
    Rule(
        "build", "roundtrip_px", "px", "at most", 0.01, 0.01,
        "the build does not reproduce the alignment: run stage=build force=true; if it remains, this is a defect",
    ),
    # parts that the trainer's rays do not reach are not trained; with the origin shift they reach everything
    Rule("build", "object_in_rays_pct", "%", "at least", 99, 90, "the trainer's rays end before the object: use build.shift=origin"),
    Rule("build", "hand_in_rays_pct", "%", "at least", 99, 90, "the trainer's rays end before the hand: use build.shift=origin"),
    # the trainer crashes on frames without a mask of the hand and without one of the object
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
