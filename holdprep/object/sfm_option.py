"""object_pose=sift, xfeat, sift_xfeat, superpoint_superglue, superpoint_lightglue and auto: structure from motion on the object's features."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from holdprep.backend import External, Values
from holdprep.node import Positive
from holdprep.object.holding_hand import files_of_hands, holding_hand
from holdprep.object.option import ObjectPoseNode, PoseTask, SourcedPoses
from holdprep.object.silhouettes_option import SilhouettesObjectPose

if TYPE_CHECKING:
    from holdprep.object.features import FeatureSource
    from holdprep.object.reconstruction import ObjectReconstruction
    from holdprep.object.superpoint import Matcher
    from holdprep.sequence import Sequence


class SfmObjectPose(ObjectPoseNode):
    """Structure from motion; a subclass has the source of features."""

    focal_px: float | None = Field(
        gt=0,
        description="focal length in pixels of images/ if known (then fixed); null = estimated, from the pictures' EXIF if that has one",
    )
    principal_px: tuple[float, float] | None = Field(
        description="principal point in pixels of images/, the first pixel's centre at 0, if known; null = the picture's centre"
    )
    upsample: Positive = Field(
        description="factor by which the crop around the object is enlarged before features are found; "
        "less, down to 1, where the object is larger than 200 px (root of its mask's area)"
    )
    erode_px: int = Field(ge=0, description="object masks are eroded by this before features are found (pixels)")
    max_features: int = Field(ge=100, description="features per frame at most")
    num_pairs: int = Field(ge=1, description="frames that each frame is matched with, where not all pairs are tried")
    max_gap: int = Field(ge=0, description="object poses are interpolated across gaps of at most this many frames, held across longer ones")
    follow_hand: bool = Field(
        description="where the grasp is static, frames without a pose follow the hand across longer gaps instead of being held; needs stage hand_pose"
    )
    undistort: bool = Field(
        description="undistort pictures, masks and keypoints for what follows where the lens moves a corner by over 1 px"
    )
    min_registered_pct: float = Field(ge=0, le=100, description="fewer registered frames than this is an error (%)")
    threads: int = Field(exclude=True, ge=1, le=64, description="processes of COLMAP, or threads, that work at once; changes no result")

    @property
    def uses_seed(self) -> bool:
        return True

    def files_for_lost_frames(self, seq: "Sequence") -> External:
        return files_of_hands(seq) if self.follow_hand else {}

    def features(self, device: str) -> "FeatureSource":
        """The source of features with these settings."""
        raise NotImplementedError

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        return SourcedPoses(self.reconstruct(task, task.seq.work_dir("object_pose")))

    def reconstruct(self, task: PoseTask, work_dir: Path) -> "ObjectReconstruction":
        """Structure from motion with these settings; COLMAP's files are kept in `work_dir`."""
        from holdprep.object import sfm
        from holdprep.object.reconstruction import with_held_warning
        from holdprep.object.sfm_options import SfmOptions

        options = SfmOptions(
            source=self.features(task.device),
            upsample=self.upsample,
            erode_px=self.erode_px,
            focal_px=self.focal_px,
            focal_guess_px=task.seq.read_frames().get("focal_px"),
            principal_px=self.principal_px,
            num_pairs=self.num_pairs,
            min_registered_pct=self.min_registered_pct,
            max_gap=self.max_gap,
            seed=task.seed,
            num_threads=self.threads,
            progress=True,
        )
        found = sfm.reconstruct(task.seq.images(), task.seq.masks("object"), task.seq.frame_names(), work_dir, options)
        if self.follow_hand and "held" in found.origin and task.seq.has("v3d"):
            found = self._carried(task, found)
        return with_held_warning(found)

    def _carried(self, task: PoseTask, found: "ObjectReconstruction") -> "ObjectReconstruction":
        """The reconstruction with those frames that it lost, and the hand carries; as it is where the hand is found in too few frames."""
        from holdprep.errors import HoldprepError
        from holdprep.object.carried import carried_by_hand

        try:
            hand = holding_hand(task, found.K)
        except HoldprepError as error:
            task.note(f"frames without a pose do not follow the hand: {error}")
            return found
        return carried_by_hand(found, hand.palm, hand.touches, self.max_gap)


class SiftFeatures(SfmObjectPose):
    """Structure from motion on COLMAP's SIFT features."""

    peak_threshold: Positive = Field(description="contrast (of 1) below which a SIFT feature is left out")

    def features(self, device: str) -> "FeatureSource":
        from holdprep.object.features import Sift

        return Sift(self.max_features, self.peak_threshold)


class SiftObjectPose(SiftFeatures):
    """One reconstruction from SIFT features."""

    name: Literal["sift"]


class XFeatObjectPose(SfmObjectPose):
    """One reconstruction from XFeat features."""

    name: Literal["xfeat"]

    def features(self, device: str) -> "FeatureSource":
        from holdprep.object.xfeat import XFeat

        return XFeat(self.max_features, device)


class SiftXFeatObjectPose(SiftFeatures):
    """One reconstruction from SIFT and XFeat features together; `max_features` of each."""

    name: Literal["sift_xfeat"]

    def features(self, device: str) -> "FeatureSource":
        from holdprep.object.combined import SiftXFeat
        from holdprep.object.features import Sift
        from holdprep.object.xfeat import XFeat

        return SiftXFeat(Sift(self.max_features, self.peak_threshold), XFeat(self.max_features, device))


class SuperPointObjectPose(SfmObjectPose):
    """One reconstruction from SuperPoint features, matched by SuperGlue or LightGlue."""

    name: Literal["superpoint_superglue", "superpoint_lightglue"]
    weights: Path | None = Field(
        description="folder with the matcher's config.json and .safetensors, as Hugging Face has them (SuperPoint is in it)"
    )

    def files(self, seq: "Sequence") -> External:
        return {"weights": self.weights and self.weights / "config.json"}

    def settings(self) -> Values:
        return self.recorded("weights")

    def features(self, device: str) -> "FeatureSource":
        from holdprep.object.superpoint import SuperPoint

        matcher: Matcher = "superglue" if self.name == "superpoint_superglue" else "lightglue"
        return SuperPoint(matcher, self.weights, self.max_features, device)


Change = Literal["features", "upsample", "erode_px", "max_features", "peak_threshold", "num_pairs"]
Features = Literal["sift", "xfeat", "sift_xfeat"]
_NODES: dict[str, type[SiftObjectPose] | type[XFeatObjectPose] | type[SiftXFeatObjectPose]] = {
    "sift": SiftObjectPose,
    "xfeat": XFeatObjectPose,
    "sift_xfeat": SiftXFeatObjectPose,
}


class AutoObjectPose(SiftFeatures):
    """Reconstructions with several settings and kinds of features in turn, until one passes the gates; at last from silhouettes."""

    name: Literal["auto"]
    features_first: Features = Field(description="features of the first attempt; `features` in an attempt changes them")
    attempts: tuple[dict[Change, float | Features], ...] = Field(
        description="what to change, in turn, when the settings as given fail the gates"
    )
    silhouettes: bool = Field(
        description="when all attempts fail the gates, poses from silhouettes and the hand's motion are tried as well"
    )

    def variants(self) -> list[tuple[str, SfmObjectPose]]:
        """Every attempt's description and settings, those given first; raises ValidationError where a change is not allowed."""
        own = self.model_dump(exclude={"name", "attempts", "features_first", "silhouettes"}) | {"threads": self.threads}
        unchanged: dict[Change, float | Features] = {}
        return [
            (
                ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in change.items()) or "as given",
                self._node(own, change),
            )
            for change in (unchanged, *self.attempts)
        ]

    def _node(self, own: Values, change: Mapping[Change, float | Features]) -> SfmObjectPose:
        changed: dict[str, Any] = {**own, **{str(key): value for key, value in change.items()}}
        name = str(changed.pop("features", self.features_first))
        node = _NODES.get(name, SiftObjectPose)
        return node.model_validate(
            {key: value for key, value in changed.items() if key in node.model_fields or key in change} | {"name": name}
        )

    @model_validator(mode="after")
    def _changes_are_allowed(self) -> "AutoObjectPose":
        self.variants()
        return self

    def files(self, seq: "Sequence") -> External:
        return files_of_hands(seq) if self.silhouettes else {}

    def _attempts(self, task: PoseTask) -> "list[tuple[str, Callable[[], ObjectReconstruction]]]":
        """Every attempt's description and call; each of structure from motion leaves COLMAP's files in a folder of its own."""
        from holdprep.object.silhouettes import SilhouetteOptions

        folder = task.seq.work_dir("object_pose")
        found: list[tuple[str, Callable[[], ObjectReconstruction]]] = [
            (description, partial(settings.reconstruct, task, folder / f"attempt_{i}"))
            for i, (description, settings) in enumerate(self.variants(), start=1)
        ]
        if self.silhouettes:
            usual = SilhouetteOptions()
            last = SilhouettesObjectPose(
                name="silhouettes", focal_px=self.focal_px, held_out_every=usual.held_out_every, max_gap=self.max_gap
            )
            found.append(("silhouettes", partial(last.reconstruct, task)))
        return found

    def find_poses(self, task: PoseTask) -> SourcedPoses:
        """The first attempt that fails no gate, else the one that fails fewest; and what was tried, in words.

        Raises HoldprepError when none gives any poses.
        """
        from holdprep.errors import HoldprepError
        from holdprep.quality.gates import overall

        ranked: list[tuple[tuple[int, int, float], ObjectReconstruction]] = []
        attempts, tried, outcomes = self._attempts(task), [], []
        for i, (description, reconstruct) in enumerate(attempts, start=1):
            try:
                found = reconstruct()
            except HoldprepError as error:
                failed, outcome = 1, str(error)
                outcomes.append(outcome)
            else:
                gates = task.judge(found)
                failed, warned = (sum(gate.status == status for gate in gates) for status in ("fail", "warn"))
                ranked.append(((failed, warned, -float(found.registered.mean())), found))
                outcome = next((gate.line() for gate in gates if gate.status == "fail"), f"{overall(gates)}, kept")
            tried.append(description)
            task.note(f"attempt {i} of {len(attempts)} ({description}): {outcome}")
            if not failed:
                break
        if not ranked:
            raise HoldprepError(f"{outcomes[len(self.attempts)]} (tried: {'; '.join(tried)})")
        return SourcedPoses(min(ranked, key=lambda entry: entry[0])[1], "; ".join(tried))
