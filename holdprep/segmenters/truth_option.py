"""segmenter=truth: the true masks of a synthetic sequence, with optional errors."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External, Task
from holdprep.node import Weight
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.option import SegmentedMasks, SegmenterNode

if TYPE_CHECKING:
    from holdprep.sequence import Sequence


class TruthSegmenter(SegmenterNode):
    """Ground truth instead of a segmenter's result."""

    name: Literal["truth"]
    erode_px: int = Field(ge=0, description="true masks are eroded by this (px)")
    dilate_px: int = Field(ge=0, description="true masks are dilated by this (px)")
    leak_pct: Weight = Field(description="true masks leak at their edge by this much of their area (%)")

    def files(self, seq: "Sequence") -> External:
        return {entity: seq.path(f"truth_masks_{entity}") for entity in ENTITIES}

    @property
    def uses_seed(self) -> bool:
        return True

    def segment(self, task: Task) -> SegmentedMasks:
        import numpy as np

        from holdprep.errors import HoldprepError
        from holdprep.synth import corruption

        seq, there = task.seq, [e for e in ENTITIES if task.seq.has(f"truth_masks_{e}")]
        if not there:
            raise HoldprepError(f"{seq.path('truth').parent} holds no true masks: segmenter=truth needs a sequence of source=synthetic")
        masks = {e: np.stack(list(seq.masks(e, "truth_masks"))) for e in there}
        return SegmentedMasks(corruption.corrupt_masks(masks, self.erode_px, self.dilate_px, self.leak_pct, task.seed))
