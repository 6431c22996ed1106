"""segmenter=classical: prompts on key frames, propagated by optical flow and local colour, without network weights."""

from typing import Literal

from pydantic import Field

from holdprep.segmenters.option import ClickedSegmenter, PromptedSegmenter


class ClassicalSegmenter(ClickedSegmenter):
    """The segmenter without network weights."""

    name: Literal["classical"]
    work_side: int = Field(ge=160, description="longest side in pixels at which masks are propagated")

    def load(self, device: str) -> PromptedSegmenter:
        from functools import partial

        from holdprep.segmenters import classical

        return PromptedSegmenter(
            partial(classical.outline, work_side=self.work_side), partial(classical.propagate, work_side=self.work_side)
        )
