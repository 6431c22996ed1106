"""What masks gain and lose from frame to frame, beyond their motion, and whether its colours are those of the entity."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

FLOW_SIDE = 320  # px: size of the images for optical flow
BINS = 16  # of each channel of CIE Lab
RING_PX = 25  # width of the surroundings whose colours are the background's
EDGE_PX = 2  # flow is inaccurate by this much at edges
MIN_SHARE = 0.05  # of the mask: smaller changes are not judged
FOREIGN = 1.5  # mean log-likelihood ratio of a change's colours above which it is an error
MAX_HOLE = 0.05  # of the mask, above the clip's median: holes that are larger are errors


@dataclass(frozen=True)
class Moved:
    """A frame at small size: its image BGR (h, w, 3), soft masks (h, w) by entity, and the previous frame's masks moved by optical flow.

    `before` has two estimates for each entity, by the flow of each pixel and by the mask's median flow; it is empty for the first frame.
    """

    image: np.ndarray
    masks: dict[str, np.ndarray]
    before: dict[str, list[np.ndarray]]


def moved_masks(masks: Mapping[str, Sequence[np.ndarray]], images: Sequence[np.ndarray]) -> Iterator[Moved]:
    """Frames with masks (T, H, W) bool by entity, and what the previous frame's masks become by the motion of T BGR images."""
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    last_grey: np.ndarray | None = None
    last: dict[str, np.ndarray] = {}
    for small, now in _small(masks, images):
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
        before = {}
        if last_grey is not None:
            back = flow_of.calc(grey, last_grey, None)  # type: ignore[call-overload]
            before = {e: _moved(last[e], mask, back) for e, mask in now.items() if (mask > 0.5).any() and (last[e] > 0.5).any()}
        yield Moved(small, now, before)
        last_grey, last = grey, now


def _small(masks: Mapping[str, Sequence[np.ndarray]], images: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    scale = min(1.0, FLOW_SIDE / max(images[0].shape[:2]))
    for t, image in enumerate(images):
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        yield small, {e: cv2.resize(m[t].astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA) for e, m in masks.items()}


def _moved(before: np.ndarray, mask: np.ndarray, back: np.ndarray) -> list[np.ndarray]:
    """A soft mask of the previous frame, moved by the flow `back` per pixel and by its median, since flow is inaccurate at edges."""
    ys, xs = np.indices(mask.shape, dtype=np.float32)
    whole = np.broadcast_to(np.median(back[mask > 0.5], axis=0), back.shape)
    return [
        cv2.remap(before, xs + flow[..., 0], ys + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for flow in (back, whole)
    ]


def iou_of(moved: Moved, entity: str) -> float:
    """IoU of an entity's soft mask with the better one of the moved masks; NaN where either is empty."""
    mask = moved.masks[entity]
    return max((float(np.minimum(m, mask).sum() / np.maximum(m, mask).sum()) for m in moved.before.get(entity, [])), default=float("nan"))


@dataclass(frozen=True)
class Changes:
    """Changes of an entity's mask over T frames.

    `iou` (T,) with the previous frame's mask after its motion, NaN where either is empty; frames (T,) bool in which it gained background,
    or lost a part that is still visible, by colour; its holes (T,) in % of the mask.
    """

    iou: np.ndarray
    gained: np.ndarray
    lost: np.ndarray
    holes_pct: np.ndarray

    @property
    def has_hole(self) -> np.ndarray:
        """Frames with more enclosed background than the clip's median by MAX_HOLE of the mask."""
        usual = float(np.median(self.holes_pct)) if len(self.holes_pct) else 0.0
        return self.holes_pct > usual + 100 * MAX_HOLE


def mask_changes(masks: Mapping[str, Sequence[np.ndarray]], images: Sequence[np.ndarray]) -> dict[str, Changes]:
    """The changes of every entity's masks (T, H, W) bool over T BGR images."""
    colors = _Colors.of(masks, images)
    curves: dict[str, list[tuple[float, ...]]] = {entity: [] for entity in masks}
    for frame in moved_masks(masks, images):
        for entity, curve in curves.items():
            others = [e for e in masks if e != entity]
            curve.append((iou_of(frame, entity), *_gain_and_loss(frame, entity, others, colors), _holes_pct(frame, entity)))
    found = {}
    for entity, curve in curves.items():
        iou, gain, loss, holes = np.array(curve).reshape(-1, 4).T
        found[entity] = Changes(iou, gain > FOREIGN, loss > FOREIGN, holes)
    return found


@dataclass(frozen=True)
class _Colors:
    """Log-likelihood (BINS, BINS, BINS) of colours of each entity, and of the background beside the entities, from the whole clip."""

    of_entity: dict[str, np.ndarray]
    of_background: np.ndarray

    @staticmethod
    def of(masks: Mapping[str, Sequence[np.ndarray]], images: Sequence[np.ndarray]) -> "_Colors":
        counts = {e: np.zeros((BINS,) * 3, np.float32) for e in (*masks, "")}
        for small, now in _small(masks, images):
            bins = _bins(small)
            entities = np.max([m > 0.5 for m in now.values()], axis=0)
            ring = cv2.dilate(entities.astype(np.uint8), np.ones((2 * RING_PX + 1,) * 2, np.uint8)) > 0
            for name, where in [*((e, m > 0.5) for e, m in now.items()), ("", ring & ~entities)]:
                np.add.at(counts[name], tuple(bins[where].T), 1.0)
        tables = {e: np.log(gaussian_filter(c, 0.7) / max(float(c.sum()), 1.0) + 1e-5) for e, c in counts.items()}
        background = tables.pop("")
        return _Colors(tables, background)

    def ratio(self, frame: Moved, where: np.ndarray, entity: str) -> float:
        """Mean log-likelihood ratio of background and entity over the pixels `where`."""
        at = tuple(_bins(frame.image)[where].T)
        return float((self.of_background[at] - self.of_entity[entity][at]).mean())


def _bins(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2Lab).astype(np.intp) * BINS // 256


def _gain_and_loss(frame: Moved, entity: str, others: Sequence[str], colors: _Colors) -> tuple[float, float]:
    """Log-ratios of what an entity gained (background to entity) and lost (entity to background); 0 for small changes.

    What another entity covers now is not lost, and what it showed before is not judged.
    """
    if entity not in frame.before:
        return 0.0, 0.0
    now, grow = frame.masks[entity] > 0.5, np.ones((2 * EDGE_PX + 1,) * 2, np.uint8)
    was_any = np.max([m > 0.5 for m in frame.before[entity]], axis=0)
    was_all = np.min([m > 0.5 for m in frame.before[entity]], axis=0)
    elsewhere = np.max([frame.masks[e] > 0.1 for e in others], axis=0) if others else np.zeros_like(now)
    gained = now & ~(cv2.dilate(was_any.astype(np.uint8), grow) > 0)
    lost = was_all & ~(cv2.dilate(now.astype(np.uint8), grow) > 0) & ~(cv2.dilate(elsewhere.astype(np.uint8), grow) > 0)
    least = MIN_SHARE * max(int(np.count_nonzero(now)), 1)
    ratios = []
    for change, sign in ((gained, 1.0), (lost, -1.0)):
        ratios.append(sign * colors.ratio(frame, change, entity) if np.count_nonzero(change) > least else 0.0)
    return ratios[0], ratios[1]


def _holes_pct(frame: Moved, entity: str) -> float:
    """Background enclosed by an entity's mask, in % of the mask."""
    mask = (frame.masks[entity] > 0.5).astype(np.uint8)
    union = (np.max([m > 0.5 for m in frame.masks.values()], axis=0)).astype(np.uint8)
    _, index, _, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    rim = np.unique(np.concatenate([index[0], index[-1], index[:, 0], index[:, -1]]))
    enclosed = ~np.isin(index, rim) & (mask == 0) & (union == 0)
    return 100 * float(enclosed.sum()) / max(int(mask.sum()), 1)
