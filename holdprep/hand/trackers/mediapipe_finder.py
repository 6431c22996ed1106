"""Detection of one hand in single frames by MediaPipe's networks: in the crop from the previous frame, or without one."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from holdprep.hand.model import Side
from holdprep.hand.trackers.mediapipe_networks import Crop, Estimate, HandNetworks, mean_of

NEAR, MIN_SHARE_NEAR_MASK, MIN_JOINTS_NEAR = 0.1, 0.4, 4  # of the hand's size; share and number of joints within this distance of the mask
MIN_SIDE_SEEN, MIN_SIDE_KNOWN = 0.5, 0.2  # handedness, without and with a mask or previous frame that selects the hand
FOLLOWED = 0.5  # of the minimal presence, where neighbouring frames give the hand's position
SURE, GONE = 0.8, 0.1  # presence below which a crop from the previous frame is repeated, and below which there is no hand
# Further crops for an estimate of a right hand: rotation in degrees, size factor, mirrored. With earlier estimates, only the first two.
VIEWS = ((-10.0, 0.95, False), (10.0, 1.05, True), (10.0, 0.95, False), (-10.0, 1.05, True))


class View(NamedTuple):
    """A frame: its image, the hand's mask if known, the mask of possible occluders if known; all (H, W, ..)."""

    image: np.ndarray
    mask: np.ndarray | None
    hiding: np.ndarray | None


class Candidate(NamedTuple):
    """An estimate with its score; 0 rejects it."""

    estimate: Estimate
    score: float


@dataclass(frozen=True)
class Finder:
    """Detector of the hand of one side in single frames."""

    nets: HandNetworks
    side: Side
    min_presence: float

    def follow(self, view: View, crop: Crop, mirrored: bool) -> Candidate | None:
        """The candidate in the crop from the previous frame; None if rejected."""
        found = self._scored_estimate(view, crop, mirrored)
        if found.estimate.presence >= SURE and found.score:
            return found
        if found.estimate.presence < GONE:
            return None
        return best([found, self._scored_estimate(view, found.estimate.next_crop(), mirrored)])

    def search(self, view: View, first: int = 0, at_most: int | None = None) -> Candidate | None:
        """The best candidate in the first region with any: around detected palms, then in crops around the mask.

        Regions are tested one after the other, cyclically, starting from number `first`: `at_most` of them, else each once.
        """
        regions = _search_regions(view.image.shape, view.mask)
        attempts: list[tuple[str, Crop]] = [*(("inside", r) for r in regions), *(("beyond", r) for r in regions)]
        if view.mask is not None:
            attempts += [("mask", _square_about(view.mask, 1.3).rotated(angle)) for angle in range(0, 360, 45)]
        for kind, region in itertools.islice(itertools.cycle(attempts), first, first + (at_most or len(attempts))):
            from_mask = kind == "mask"
            found = [region] if from_mask else [p.hand_crop() for p in self.nets.palms(view.image, region, repeat_edge=kind == "beyond")]
            if candidate := best(self._estimate_uncentred(view, crop) for crop in found):
                return candidate
        return None

    def average_crops(self, view: View, crop: Crop, earlier: Sequence[Estimate] = ()) -> Candidate | None:
        """The mean over several crops and `earlier` estimates; None where the crops show no hand or the mean is rejected."""
        seen = list(earlier)
        for degrees, size, mirrored in VIEWS[: 2 if earlier else None]:
            seen.append(self._estimate(view, crop.rotated(-degrees if self.side == "left" else degrees, size), mirrored))
            if seen[0].presence < GONE:
                return None
        return best([self.scored(mean_of(seen), view)])

    def _estimate_uncentred(self, view: View, crop: Crop) -> Candidate:
        """The candidate in a crop that is not from landmarks: its landmarks give a centred crop; without a mask the side must match."""
        first = self._estimate(view, crop, False)
        if first.presence < GONE:
            return Candidate(first, 0.0)
        estimate = mean_of([self._estimate(view, first.next_crop(), mirrored) for mirrored in (False, True)])
        return self.scored(estimate, view, MIN_SIDE_SEEN if view.mask is None else MIN_SIDE_KNOWN, 1.0)

    def _scored_estimate(self, view: View, crop: Crop, mirrored: bool) -> Candidate:
        return self.scored(self._estimate(view, crop, mirrored), view)

    def _estimate(self, view: View, crop: Crop, mirrored: bool) -> Estimate:
        """The estimate in one crop; left hands are mirrored where right ones are not, so that a mirrored clip gives mirrored results."""
        return self.nets.estimate(view.image, crop, mirrored != (self.side == "left"))

    def scored(self, estimate: Estimate, view: View, min_side: float = MIN_SIDE_KNOWN, share: float = FOLLOWED) -> Candidate:
        """A candidate with its score; the default limits are those of a crop from the previous frame."""
        of_side = estimate.handedness if self.side == "right" else 1 - estimate.handedness
        near = 1.0 if view.mask is None else share_near_mask(estimate, view.mask, view.hiding)
        if estimate.presence < share * self.min_presence or of_side < min_side or near < MIN_SHARE_NEAR_MASK:
            return Candidate(estimate, 0.0)
        return Candidate(estimate, estimate.presence * float(estimate.agreement.mean()) * near * (0.5 + 0.5 * of_side))


def best(found: Iterable[Candidate | None]) -> Candidate | None:
    """The candidate of the highest score; None where all are rejected."""
    accepted = [f for f in found if f is not None and f.score > 0]
    return max(accepted, key=lambda f: f.score, default=None)


def share_near_mask(estimate: Estimate, mask: np.ndarray, hiding: np.ndarray | None) -> float:
    """Share of the visible joints that are within NEAR times the hand's size of the mask; 0 where these are too few."""
    size, reach = np.array(mask.shape[::-1]), NEAR * estimate.size_px
    joints = np.round(estimate.j2d_px).astype(int)
    x, y = joints[((joints >= 0) & (joints < size)).all(axis=1)].T
    if len(x) < MIN_JOINTS_NEAR:
        return 0.0
    x1, y1 = max(0, x.min() - int(reach) - 1), max(0, y.min() - int(reach) - 1)  # larger distances are not needed
    part = mask[y1 : y.max() + int(reach) + 2, x1 : x.max() + int(reach) + 2]
    near = part.any() & (cv2.distanceTransform((part == 0).astype(np.uint8), cv2.DIST_L2, 3)[y - y1, x - x1] <= reach)
    visible = near | (True if hiding is None else ~hiding[y, x])
    return float(near.sum() / visible.sum()) if near.sum() >= MIN_JOINTS_NEAR else 0.0


def _square_about(mask: np.ndarray, factor: float) -> Crop:
    """A square of `factor` times the longer side of the mask's bounding box, around its centre."""
    y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Crop(np.array([x[0] + x[-1], y[0] + y[-1]]) / 2, factor * float(max(np.ptp(x), np.ptp(y)) + 1), 0.0)


def _search_regions(shape: tuple[int, ...], mask: np.ndarray | None) -> list[Crop]:
    """Squares in which palms are detected, around the mask if there is one.

    Larger squares are for palms that fill or leave the image, those at the two ends of a long image for small palms.
    """
    if mask is not None:
        whole = _square_about(mask, 1.3)
        return [whole.rotated(angle, factor) for factor, angle in itertools.product((1.0, 1.5), (0, -45, 45, -90, 90, 180))]
    height, width = shape[:2]
    long, short = max(height, width), min(height, width)
    whole = Crop(np.array([width - 1, height - 1]) / 2, float(long), 0.0)
    to_end = np.array([width - short, height - short]) / 2
    return [whole, *(whole.rotated(angle, 1.3) for angle in (0, -45, 45)), *(Crop(whole.center + s * to_end, short, 0.0) for s in (-1, 1))]
