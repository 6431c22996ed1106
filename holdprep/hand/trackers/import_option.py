"""hand=import: results of another tracker, read from its files."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from holdprep.backend import External, Values
from holdprep.hand.trackers.metro_option import METRO_FILES
from holdprep.hand.trackers.option import HandTask, TrackedHands, Tracker, select_hands

if TYPE_CHECKING:
    from holdprep.hand.trackers.tracks import VertexTrack
    from holdprep.sequence import Sequence


DATA_SETS = ("ho3d", "dexycb")


class ImportHand(Tracker):
    """Files of another tracker, in one of several formats."""

    name: Literal["import"]
    format: Literal["hamer", "metro", "wilor", "hawor", "frankmocap", "meshes", "keypoints", "ho3d", "dexycb"] = Field(
        description="content of the folder: a tracker's files, meshes of 778 vertices, 21 keypoints per hand, or a data set's ground truth"
    )
    folder: Path | None = Field(description="folder with the tracker's files, or keypoints' .json or .npz; null = <seq>/processed")
    focal_px: float | None = Field(
        gt=0,
        description="meshes, frankmocap, keypoints: focal length in pixels of images/; null = HaMeR's, 0.95 x longer side (keypoints)",
    )

    def files(self, seq: "Sequence") -> External:
        """The tracker's folder; in the sequence's own folder, which also holds outputs, only the files of its format."""
        own = seq.path("v3d").parent
        if self.folder is not None and self.folder.resolve() != own.resolve():
            return {"tracker": self.folder}
        return {artefact: seq.path(artefact) for artefact in METRO_FILES} if self.format == "metro" else {}

    def settings(self) -> Values:
        return self.recorded("folder")

    @property
    def uses_length(self) -> bool:
        return self.format in ("keypoints", *DATA_SETS)

    def track(self, task: HandTask) -> TrackedHands:
        from holdprep.errors import HoldprepError

        folder = self.folder or task.seq.path("v3d").parent
        if not folder.exists():
            raise HoldprepError(f"{folder} does not exist: hand.folder is the folder of the tracker's files")
        return TrackedHands(select_hands(self._read(task, folder), task, folder))

    def _read(self, task: HandTask, folder: Path) -> "VertexTrack":
        from holdprep.hand.model import HandModels
        from holdprep.hand.trackers import frankmocap, hawor, meshes, metro, trackfile, wilor

        names = task.seq.frame_names()
        if self.format == "hamer":
            return trackfile.read(folder, names)
        if self.format == "metro":
            return metro.read(folder, names)
        size = task.seq.image_size()
        if self.format in ("keypoints", *DATA_SETS):
            return self._read_keypoints(task, folder, size)
        models = HandModels(task.model)
        if self.format in ("meshes", "frankmocap"):
            return (meshes if self.format == "meshes" else frankmocap).read(folder, names, size, models, self.focal_px)
        return (wilor if self.format == "wilor" else hawor).read(folder, names, size, models)

    def _read_keypoints(self, task: HandTask, path: Path, size: tuple[int, int]) -> "VertexTrack":
        from holdprep.geometry.cameras import usual_camera
        from holdprep.hand.lifting import lift_tracks
        from holdprep.hand.trackers import datasets, keypoints

        names = task.seq.frame_names()
        if self.format in DATA_SETS:
            tracks, K, notes = datasets.read(self.format, path, names, size)
        else:
            K = usual_camera(size, self.focal_px)
            tracks, notes = keypoints.read(path, names, size, {side: task.seq.masks(side) for side in task.masked_sides})
        tracks = {side: track for side, track in tracks.items() if side in task.sides}
        models = {side: task.model(side) for side in tracks}
        return lift_tracks(tracks, models, K, task.hands.length_mm, names, notes)
