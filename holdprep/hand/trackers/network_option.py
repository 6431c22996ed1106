"""Base of the nodes of `hand` that run a published network on crops."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External, Values
from holdprep.hand.trackers.option import Tracker

if TYPE_CHECKING:
    from holdprep.hand.model import HandModel
    from holdprep.hand.trackers.crops import Feed
    from holdprep.sequence import Sequence


class NetworkHand(Tracker):
    """A tracker that runs a published network on crops."""

    boxes: Literal["masks", "mediapipe", "file"] = Field(
        description="source of the crops' boxes: hand masks, MediaPipe's keypoints, or a file"
    )
    boxes_file: Path | None = Field(
        description="boxes=file: .npy of x1, y1, x2, y2 per frame (px), NaN = none; or a dict {right: .., left: ..}"
    )
    crop: Literal["own", "100doh"] = Field(
        description="own = as published (HaMeR: 2 boxes; METRO: 1.5), only frames with a box; 100doh = 1.5 boxes within 256 and 700 px, a "
        "frame without a box uses the last one with 2.5"
    )
    focal_px: float | None = Field(
        gt=0,
        description="focal length in pixels of images/, by default object_pose.focal_px; null = 5000/256 x the longer side, as published",
    )
    batch: int = Field(ge=1, description="crops per batch of the network")
    threads: int = Field(ge=1, description="threads that read images and cut crops")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        description="precision of the backbone; auto = bfloat16 on CUDA, else float32"
    )

    def weights(self) -> External:
        """The published files of the network."""
        return {}

    def files(self, seq: "Sequence") -> External:
        return self.weights() | {"given boxes": self.boxes_file}

    def settings(self) -> Values:
        return self.recorded("threads", "boxes_file", *self.weights())

    def feed(self) -> "Feed":
        """Settings of the network's input."""
        from holdprep.hand.trackers.crops import Feed

        return Feed(self.batch, self.threads, progress=True)


def stand_in_notes(tracker: str, model: "HandModel") -> list[str]:
    """A note where MANO's files, with which the tracker's network was trained, are missing."""
    text = f"{tracker} was trained on MANO: with the stand-in hand its results are approximate; set hand_model.path"
    return [text] if model.name == "standin" else []
