"""hand=metro: METRO's network on every hand; it also writes METRO's own files of the right hand."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from holdprep.backend import External
from holdprep.hand.trackers.network_option import NetworkHand, stand_in_notes
from holdprep.hand.trackers.option import HandTask, TrackedHands

METRO_FILES = ("v3d_metro", "j2d_metro", "boxes")  # artefacts that hand=metro writes and hand=import hand.format=metro reads


class MetroHand(NetworkHand):
    """METRO's network."""

    name: Literal["metro"]
    checkpoint: Path = Field(description="metro_hand_state_dict.bin; also $METRO_CHECKPOINT")
    backbone: Path | None = Field(
        description="hrnetv2_w64_imagenet_pretrained.pth, only for a checkpoint without its backbone; null = none"
    )
    sampling: Path = Field(description="mano_downsampling.npz of METRO's repository")

    def weights(self) -> External:
        return {"checkpoint": self.checkpoint, "backbone": self.backbone, "sampling": self.sampling}

    def outputs(self) -> tuple[str, ...]:
        return METRO_FILES

    def track(self, task: HandTask) -> TrackedHands:
        import numpy as np

        from holdprep.hand.trackers import checkpoint, crops, metro, metro_network
        from holdprep.hand.trackers.boxes import hand_boxes

        network = metro_network.load(self.checkpoint, self.backbone)
        checkpoint.move(network, network.backbone, task.device, self.dtype)
        kept = metro.read_kept(self.sampling)
        boxes, notes = hand_boxes(task, self)
        regressor, names = metro.Regressor(network, task.model("right"), kept), task.seq.frame_names()
        reuse_boxes = self.crop == "100doh"
        raw = metro.track(task.seq.images(), boxes, regressor, names, reuse_boxes=reuse_boxes, feed=self.feed())
        K = crops.assumed_camera(*task.seq.image_size(), self.focal_px)
        track = metro.to_camera(raw, K, names, notes + stand_in_notes("METRO", regressor.model))
        files = {}
        if "right" in raw:  # METRO's own files have no left hand
            arrays = (raw["right"].v3d_ra_m.astype(np.float32), raw["right"].j2d_crop_px.astype(np.float32), raw["right"].boxes_px)
            files = dict(zip(METRO_FILES, arrays, strict=True))
        return TrackedHands(track, {side: hand.boxes_px for side, hand in raw.items()}, files)
