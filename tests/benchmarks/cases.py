"""The rendered sequences, and what each stage is given on them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A sequence of source=synthetic; `source` its keys, `given` the keys of the stages (default: ground truth for every stage but the
    aligner), `quick` if it belongs to the short run, `last` stage, `key_frames` with clicks (as the classical segmenter wants)."""

    name: str
    source: dict[str, object]
    given: dict[str, object] = field(default_factory=dict)
    quick: bool = False
    last: str = "align"
    key_frames: int = 0

    def overrides(self) -> list[str]:
        """The command line of the case."""
        given: dict[str, object] = {"segmenter": "truth", "hand": "truth", "object_pose": "truth", **self.given}
        told = [f"{key}={value}" for key, value in given.items()]
        return [f"seq={self.name}", "source=synthetic", *[f"source.{k}={v}" for k, v in self.source.items()], *told]


NOISY: dict[str, object] = {"hand.noise_px": 5, "hand.depth_noise_pct": 3}
SFM: dict[str, object] = {"object_pose": "sift"}

CORNERS = {"upper_left": "[-.65,-.4]", "upper_right": "[.65,-.4]", "lower_left": "[-.65,.6]", "lower_right": "[.65,.6]"}

CASES = (
    Case("can_rigid", {"object": "can", "grasp": "rigid"}, SFM, quick=True),
    Case("box_in_hand", {"frames": 28, "object": "box", "grasp": "in_hand", "seed": 1}, NOISY, quick=True),
    Case("mug_regrasp_left", {"frames": 28, "object": "mug", "grasp": "regrasp", "hands": "left", "seed": 2}, NOISY, quick=True),
    Case("box_both", {"frames": 28, "object": "box", "grasp": "rigid", "hands": "both", "seed": 3}, NOISY, quick=True),
    Case(
        "can_dropped",
        {"frames": 28, "object": "can", "grasp": "rigid", "seed": 4},
        {**NOISY, "hand.drop_pct": 30, "hand.drop": "bursts"},
        quick=True,
    ),
    Case("can_plain", {"object": "can_plain", "grasp": "rigid", "frames": 24, "seed": 5}, SFM, quick=True),
    Case("bottle_rigid", {"object": "bottle", "grasp": "rigid", "seed": 6}, {**SFM, **NOISY}),
    Case("mug_in_hand", {"object": "mug", "grasp": "in_hand", "seed": 7}, {**SFM, **NOISY}),
    Case("can_in_hand", {"object": "can", "grasp": "in_hand", "seed": 8}, {**SFM, **NOISY}),
    Case("box_rigid_blur", {"object": "box", "grasp": "rigid", "blur": 0.8, "shake_deg": 1.0, "seed": 9}, SFM),
    Case("box_rigid_lens", {"object": "box", "grasp": "rigid", "distortion": -0.1, "seed": 10}, SFM),
    Case("box_repeat", {"object": "box_repeat", "grasp": "rigid", "seed": 11}, SFM),
    Case("can_symmetric", {"object": "can_symmetric", "grasp": "rigid", "seed": 12}, SFM),
    Case("mug_in_hand_xfeat", {"object": "mug", "grasp": "in_hand", "seed": 7}, {"object_pose": "xfeat", **NOISY}),
    Case("mug_in_hand_sift_xfeat", {"object": "mug", "grasp": "in_hand", "seed": 7}, {"object_pose": "sift_xfeat", **NOISY}),
    *(
        Case(f"{thing}_silhouettes", {"object": thing, "grasp": "rigid", "seed": 20 + k}, {"object_pose": "silhouettes", **NOISY})
        for k, thing in enumerate(("can_plain", "box_plain", "case_plain"))
    ),
    Case("mug_25_deg", {"object": "mug", "grasp": "rigid", "degrees": 25, "seed": 18}, SFM),
    *(
        Case(f"mug_{corner}", {"object": "mug", "grasp": "rigid", "degrees": 25, "frames": 48, "place": place, "seed": 19}, SFM)
        for corner, place in CORNERS.items()
    ),
    Case("can_tracked", {"object": "can", "grasp": "rigid", "seed": 13}, {**SFM, "hand": "mediapipe"}),
    *(
        Case(f"{thing}_clicked", {"object": thing, "grasp": grasp, "seed": seed}, {"segmenter": "classical"}, last="segment", key_frames=2)
        for thing, grasp, seed in (("can", "rigid", 15), ("box", "in_hand", 16), ("mug", "regrasp", 17))
    ),
    Case("can_300", {"object": "can", "grasp": "rigid", "frames": 300, "degrees": 500, "seed": 14}, NOISY),
)
