"""The description of a scene for viewers: pictures, hands and object of every result, and curves over frames. Plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from holdprep.errors import HoldprepError

TITLES = {
    "init": "registered",
    "slerp": "registered, gaps filled",
    "h": "aligned, mode h",
    "o": "aligned, mode o",
    "ho": "aligned, mode ho",
    "truth": "ground truth",
}


@dataclass(frozen=True)
class HandTrack:
    """A hand of one result in T frames.

    `vertices_m` (T, V, 3) in the camera frame, NaN where there is no hand; `faces` (F, 3); `is_valid` (T,) bool, false in infilled frames;
    `error` and `confidence` (T,) or None, NaN where unknown; `distance_m` (T, V) signed distances to the object's surface, or None.
    """

    side: str
    vertices_m: np.ndarray
    faces: np.ndarray
    is_valid: np.ndarray
    error: np.ndarray | None = None
    confidence: np.ndarray | None = None
    distance_m: np.ndarray | None = None


@dataclass(frozen=True)
class SurfaceMesh:
    """A closed surface: `vertices_m` (V, 3) in the object's frame, `faces` (F, 3), `observed` (V,) bool, false where it is a guess."""

    vertices_m: np.ndarray
    faces: np.ndarray
    observed: np.ndarray


@dataclass(frozen=True)
class ObjectTrack:
    """The object of one result in T frames.

    `T_cam_obj` (T, 4, 4) in metres; `points_m` (N, 3) in the object's frame; `is_registered` (T,) bool; `surface` or None; `error` and
    `confidence` (T,) or None.
    """

    T_cam_obj: np.ndarray
    points_m: np.ndarray
    is_registered: np.ndarray
    surface: SurfaceMesh | None = None
    error: np.ndarray | None = None
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class ResultTrack:
    """What one stage made: its name (a key of TITLES), camera `K` (3, 3), hands and object. `unit` is that of the hands' errors."""

    name: str
    K: np.ndarray
    hands: Sequence[HandTrack] = ()
    obj: ObjectTrack | None = None
    unit: str = "mm"

    @property
    def title(self) -> str:
        """The name for people."""
        return TITLES.get(self.name, self.name)


@dataclass(frozen=True)
class Scene:
    """A sequence for viewers.

    `frames` are the numbers of the shown frames among the `total` of the sequence, `names` their names; `images` and the masks of each
    entity are sequences of pictures (H, W, 3) BGR and (H, W) bool, one per shown frame, which may be read when requested.
    `curves` (total,) by `<stage>/<curve>` are those of all frames. `notes` are lines for the user.
    """

    seq: str
    names: Sequence[str]
    frames: np.ndarray
    total: int
    image_size: tuple[int, int]
    images: Sequence[np.ndarray]
    masks: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)
    results: Sequence[ResultTrack] = ()
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def result(self, name: str) -> ResultTrack | None:
        """The result of this name, if there is one."""
        return next((r for r in self.results if r.name == name), None)

    def require(self, names: Sequence[str]) -> None:
        """Raise HoldprepError where there is no result of one of these names."""
        missing = [name for name in names if self.result(name) is None]
        if missing:
            have = ", ".join(r.name for r in self.results) or "none"
            raise HoldprepError(f"view.results: {self.seq} has no result {missing[0]}; it has {have}")

    def sampled(self, most: int, also: Sequence[int] = ()) -> "Scene":
        """The scene with at most `most` frames, evenly spaced, or `also` if there is room; a note says that frames are left out."""
        count = len(self.frames)
        if count <= most:
            return self
        kept = [t for t in also if t < count][: most // 2]
        at = np.unique([*np.linspace(0, count - 1, most - len(kept)).round().astype(int), *kept]).astype(int)
        note = f"{len(at)} of {self.total} frames are shown"
        return replace(
            self,
            names=[self.names[t] for t in at],
            frames=self.frames[at],
            images=Picked(self.images, at),
            masks={entity: Picked(masks, at) for entity, masks in self.masks.items()},
            results=[_result_at(result, at) for result in self.results],
            notes=[*self.notes, note],
        )


class Picked(Sequence[np.ndarray]):
    """Some pictures of a sequence, read when requested."""

    def __init__(self, source: Sequence[np.ndarray], at: np.ndarray) -> None:
        self._source, self._at = source, at

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self._source[int(self._at[index])]


def _result_at(result: ResultTrack, at: np.ndarray) -> ResultTrack:
    hands = [
        replace(
            hand,
            vertices_m=hand.vertices_m[at],
            is_valid=hand.is_valid[at],
            error=_rows(hand.error, at),
            confidence=_rows(hand.confidence, at),
            distance_m=_rows(hand.distance_m, at),
        )
        for hand in result.hands
    ]
    obj = result.obj
    if obj is not None:
        obj = replace(
            obj,
            T_cam_obj=obj.T_cam_obj[at],
            is_registered=obj.is_registered[at],
            error=_rows(obj.error, at),
            confidence=_rows(obj.confidence, at),
        )
    return replace(result, hands=hands, obj=obj)


def _rows(values: np.ndarray | None, at: np.ndarray) -> np.ndarray | None:
    return None if values is None else values[at]
