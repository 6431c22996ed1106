"""hand=truth: the true hands of a synthetic sequence, with optional errors."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External
from holdprep.hand.trackers.option import HandTask, TrackedHands, Tracker, select_hands
from holdprep.node import Weight

if TYPE_CHECKING:
    from holdprep.sequence import Sequence


class TruthHand(Tracker):
    """Ground truth instead of a tracker's result."""

    name: Literal["truth"]
    noise_px: Weight = Field(description="noise of each true keypoint: standard deviation (px)")
    depth_noise_pct: Weight = Field(description="noise of the true hand's distance: standard deviation (%)")
    drop_pct: float = Field(ge=0, le=100, description="share of frames in which the true hand is removed (%)")
    drop: Literal["random", "bursts", "ends"] = Field(description="distribution of these frames")
    size_error_pct: float = Field(gt=-90, le=900, description="error of the hand's size (%)")
    swap: bool = Field(description="left hands are labelled right and right hands left")

    def files(self, seq: "Sequence") -> External:
        return {"truth": seq.path("truth")}

    @property
    def uses_seed(self) -> bool:
        return True

    def track(self, task: HandTask) -> TrackedHands:
        from holdprep.quality.truth import load_truth
        from holdprep.synth import corruption

        path = task.seq.path("truth")
        errors = corruption.HandErrors(**self.model_dump(exclude={"name"}))
        track = corruption.hand_track(load_truth(path), task.seq.frame_names(), errors, task.seed)
        return TrackedHands(select_hands(track, task, path))
