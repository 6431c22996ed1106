"""hand=mediapipe: keypoints of MediaPipe's networks, whose weights are part of the package, and the meshes that explain them."""

from typing import Literal

from pydantic import Field

from holdprep.hand.trackers.option import HandTask, TrackedHands, Tracker


class MediapipeHand(Tracker):
    """MediaPipe's keypoints, lifted to meshes."""

    name: Literal["mediapipe"]
    min_presence: float = Field(gt=0, lt=1, description="frames whose hand presence is below this count as missed")
    min_confidence: float = Field(
        ge=0,
        lt=1,
        description="frames whose keypoints have a mean confidence below this count as missed; on rendered hands a third are wrong there",
    )
    focal_px: float | None = Field(
        gt=0, description="focal length in pixels of images/, by default object_pose.focal_px; null = 0.95 x the longer side"
    )
    smooth: bool = Field(description="take the jitter that the keypoints themselves show off their paths, without lag")
    threads: int = Field(exclude=True, ge=1, description="networks that work at once; changes no result")

    def outputs(self) -> tuple[str, ...]:
        return ("boxes",)

    @property
    def uses_length(self) -> bool:
        return True

    def track(self, task: HandTask) -> TrackedHands:
        from holdprep.geometry.cameras import usual_camera
        from holdprep.hand.lifting import lift_tracks
        from holdprep.hand.trackers.boxes import keypoint_tracks
        from holdprep.hand.trackers.mediapipe import Settings

        K = usual_camera(task.seq.image_size(), self.focal_px)
        settings = Settings(self.min_presence, self.min_confidence, smooth=self.smooth, threads=self.threads, progress=True)
        tracks = keypoint_tracks(task, K, settings)
        models = {side: task.model(side) for side in tracks}
        lifted = lift_tracks(tracks, models, K, task.hands.length_mm, task.seq.frame_names())
        return TrackedHands(lifted, {side: track.boxes_px for side, track in tracks.items()})
