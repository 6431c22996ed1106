"""Frames and masks of a clip in memory, workers with a finder each, and a progress bar, for `mediapipe`."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.hand.trackers import crops
from holdprep.hand.trackers.mediapipe_finder import Finder, View

Result = TypeVar("Result")


class PackedMask(NamedTuple):
    """A mask with one bit per pixel."""

    packed: np.ndarray
    shape: tuple[int, ...]

    @classmethod
    def of(cls, mask: np.ndarray) -> "PackedMask":
        return cls(np.packbits(mask), mask.shape)

    def mask(self) -> np.ndarray:
        """The mask, (H, W) bool."""
        return np.unpackbits(self.packed, count=self.shape[0] * self.shape[1]).reshape(self.shape).view(bool)


@dataclass(frozen=True)
class Frames:
    """Images and masks, read on demand; masks are cached with one bit per pixel, since reading them is slow."""

    images: Sequence[np.ndarray]
    masks: Sequence[np.ndarray | None]
    hiding: Sequence[np.ndarray | None]
    _packed: dict[int, tuple[PackedMask | None, PackedMask | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, t: int) -> View | None:
        """Frame `t`; None where the mask is empty. Raises HoldprepError where image and masks do not fit."""
        mask, hiding = self.shown_masks(t)
        return View(self.images[t], mask, hiding) if mask is None or mask.any() else None

    def shown_masks(self, t: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Masks (H, W) of a frame: the hand's, empty where it shows no hand, and that of possible occluders."""
        if t not in self._packed:
            self._packed[t] = self._read(t)
        mask, hiding = (None if bits is None else bits.mask() for bits in self._packed[t])
        return mask, hiding

    def _read(self, t: int) -> tuple[PackedMask | None, PackedMask | None]:
        image, mask, hiding = self.images[t], self.masks[t], self.hiding[t]
        if image.ndim != 3 or image.shape[2] != 3:
            raise HoldprepError(f"image {t} has shape {image.shape}; (height, width, 3) is needed")
        for shown in (mask, hiding):
            if shown is not None and shown.shape != image.shape[:2]:
                raise HoldprepError(
                    f"mask {t} has shape {shown.shape}, its image {image.shape[:2]}; the mask must have the size of the image"
                )
        if mask is not None and not crops.holds_hand(mask):
            mask = np.zeros_like(mask)
        return None if mask is None else PackedMask.of(mask), None if hiding is None else PackedMask.of(hiding)


class WorkerPool:
    """Threads with one finder each; results are in the order of the tasks."""

    def __init__(self, finders: Sequence[Finder]) -> None:
        self._threads = len(finders)
        self._free: SimpleQueue[Finder] = SimpleQueue()
        for finder in finders:
            self._free.put(finder)

    def map(self, work: Callable[..., Result], tasks: Iterable[object]) -> list[Result]:
        def one(task: object) -> Result:
            finder = self._free.get()
            try:
                return work(finder, task)
            finally:
                self._free.put(finder)

        with ThreadPoolExecutor(self._threads) as workers:
            return list(workers.map(one, tasks))


class ProgressBar(tqdm):
    """A progress bar that also shows the number of frames without a hand so far."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._without: set[int] = set()
        super().__init__(*args, **kwargs)

    def update_frame(self, t: int, found: Result) -> Result:
        (self._without.add if found is None else self._without.discard)(t)
        self.set_postfix_str(f"{len(self._without)} frames without a hand", refresh=False)
        self.update()
        return found
