"""hand=hamer: HaMeR's network on every hand."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from holdprep.backend import External
from holdprep.hand.trackers.network_option import NetworkHand, stand_in_notes
from holdprep.hand.trackers.option import HandTask, TrackedHands


class HamerHand(NetworkHand):
    """HaMeR's network."""

    name: Literal["hamer"]
    checkpoint: Path = Field(description="hamer.ckpt as published, model_config.yaml beside it or one folder up; also $HAMER_CHECKPOINT")

    def weights(self) -> External:
        from holdprep.hand.trackers.hamer_network import settings_file

        return {"checkpoint": self.checkpoint, "settings": settings_file(self.checkpoint)}

    def outputs(self) -> tuple[str, ...]:
        return ("boxes",)

    def track(self, task: HandTask) -> TrackedHands:
        from holdprep.hand.trackers import checkpoint, crops, hamer, hamer_network
        from holdprep.hand.trackers.boxes import hand_boxes

        network = hamer_network.load(self.checkpoint)
        checkpoint.move(network, network.backbone, task.device, self.dtype)
        boxes, notes = hand_boxes(task, self)
        if self.crop == "100doh":
            boxes = {side: hamer.boxes_of_squares(crops.doh_squares(own)) for side, own in boxes.items()}
        models = {side: task.model(side) for side in dict.fromkeys(("right", *boxes))}
        notes += stand_in_notes("HaMeR", models["right"])
        names = task.seq.frame_names()
        track = hamer.track(task.seq.images(), boxes, network, models, names, focal_px=self.focal_px, feed=self.feed())
        return TrackedHands(replace(track, notes=(*track.notes, *notes)), {side: hamer.square(b) for side, b in boxes.items()})
