"""The options of structure from motion on object crops."""

from dataclasses import dataclass, field

from holdprep.object.features import FeatureSource, Sift
from holdprep.object.keyframes import NUM_KEYFRAMES
from holdprep.object.reconstruction import MAX_GAP


@dataclass(frozen=True)
class SfmOptions:
    """Options of `sfm.reconstruct`; lengths in pixels of the full image.

    The initial focal length is `focal_px` (then fixed), else `focal_guess_px`, else USUAL_FOCAL times the longer image side.
    """

    source: FeatureSource = field(default_factory=Sift)  # finds and matches the features
    upsample: float = 2.0  # magnification of the crop, less for a large object
    erode_px: int = 2  # by which masks are eroded before features are detected
    focal_px: float | None = None  # known focal length, not refined
    focal_guess_px: float | None = None  # prior focal length, refined
    principal_px: tuple[float, float] | None = None  # never refined; None: the image centre
    num_pairs: int = 40  # frames that each frame is matched with in long videos
    exhaustive_frames: int = 150  # of a video up to this long, every pair is matched
    num_keyframes: int = NUM_KEYFRAMES  # up to so many all are mapped, of more about half as many; PnP registers the others
    min_registered_pct: float = 60.0  # share of frames with a pose, below which the reconstruction fails
    max_gap: int = MAX_GAP  # frames; longer gaps hold the nearest pose instead of interpolating
    seed: int = 0
    min_mappings: int = 2  # incremental mappings in any case
    max_mappings: int = 6  # mappings at most, until two of them agree
    num_threads: int = 2  # mappings run in parallel, one thread each; no effect on the result
    progress: bool = False  # show a progress bar
