"""segmenter=classical: prompts on key frames, propagated by optical flow and local colour, without network weights."""

from typing import Literal

from pydantic import Field

from holdprep.backend import Values
from holdprep.segmenters.option import ClickedSegmenter, PromptedSegmenter


class ClassicalSegmenter(ClickedSegmenter):
    """The segmenter without network weights."""

    name: Literal["classical"]
    work_side: int = Field(ge=160, description="longest side in pixels at which masks are propagated")
    keypoints: bool = Field(description="use the hand's tracked keypoints as evidence for its mask")
    second_pass: bool = Field(description="stage=resegment decides about the masks again with the object's poses")

    def settings(self) -> Values:
        return self.recorded("prompts", "second_pass")

    def second_pass_side(self) -> int | None:
        return self.work_side if self.second_pass else None

    def load(self, device: str) -> PromptedSegmenter:
        from functools import partial

        from holdprep.segmenters import classical
        from holdprep.segmenters.tracked import track_prompted

        track = track_prompted if self.keypoints else None
        return PromptedSegmenter(
            partial(classical.outline, work_side=self.work_side, track=track),
            partial(classical.propagate, work_side=self.work_side, track=track),
        )
