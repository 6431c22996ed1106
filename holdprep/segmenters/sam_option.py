"""segmenter=sam2 and segmenter=sam3: prompts on key frames, propagated by SAM's video networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External, Values
from holdprep.segmenters.option import ClickedSegmenter, PromptedSegmenter

if TYPE_CHECKING:
    from holdprep.sequence import Sequence


class SamSegmenter(ClickedSegmenter):
    """SAM 2 or SAM 3 video."""

    name: Literal["sam2", "sam3"]
    weights: Path | None = Field(description="folder with the model's config.json and .safetensors, as on Hugging Face")

    def files(self, seq: "Sequence") -> External:
        return super().files(seq) | {"weights": self.weights and self.weights / "config.json"}

    def settings(self) -> Values:
        return self.recorded("prompts", "weights")

    def load(self, device: str) -> PromptedSegmenter:
        from functools import partial

        from holdprep.segmenters import sam

        predictor = sam.Predictor.load(self.name, self.weights, device)
        return PromptedSegmenter(partial(sam.outline, predictor=predictor), partial(sam.propagate, predictor=predictor))
