"""The state of the click page: prompts on key frames, undo, masks of the current frame, propagation."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.option import PromptedSegmenter
from holdprep.segmenters.prompts import EntityPrompt
from holdprep.viz.overlay import COLORS

Action = Literal["positive", "negative", "box", "absent", "clear"]
Prompts = dict[int, dict[str, EntityPrompt]]
ALPHA = 0.42
log = logging.getLogger("holdprep")


@dataclass(frozen=True)
class Progress:
    """Progress of a propagation: completed share (0 to 1), whether it runs, its error message."""

    share: float = 0.0
    running: bool = False
    error: str | None = None


class ClickSession:
    """The click session of one sequence: T BGR images, prompts by frame index, and masks as label images.

    `masks` are existing ones, (H, W) bool by entity and frame. All methods are thread-safe.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        segmenter: PromptedSegmenter,
        prompts: Mapping[int, Mapping[str, EntityPrompt]],
        masks: Mapping[str, Sequence[np.ndarray]],
    ) -> None:
        self.images = images
        self.prompts: Prompts = {t: dict(p) for t, p in prompts.items()}
        self.progress = Progress()
        self.segmenter = segmenter
        self._size = images[0].shape[:2]
        self._carried = [_pack(_paint({e: m[t] for e, m in masks.items()}, self._size)) for t in range(len(images))]
        self._edited: dict[int, bytes] = {}  # label images of edited key frames
        self._undo: list[tuple[int, str, EntityPrompt | None]] = []
        self._lock = threading.RLock()
        self._worker: threading.Thread | None = None

    def edit(self, t: int, entity: str, action: Action, at: Sequence[float] = ()) -> None:
        """A click (x, y), a box (x1, y1, x2, y2), `absent` or `clear` for an entity on frame `t`; updates its masks.

        Raises HoldprepError outside of the image, or for an unknown entity or frame.
        """
        if entity not in ENTITIES or not 0 <= t < len(self.images):
            raise HoldprepError(f"there is no entity {entity} or no frame {t}")
        with self._lock:
            before = self.prompts.get(t, {}).get(entity)
            after = self._changed(before, action, [float(v) for v in at])
            self._set(t, entity, after)
            try:
                self._refresh(t)
            except HoldprepError:
                self._set(t, entity, before)
                raise
            self._undo.append((t, entity, before))

    def undo(self) -> int | None:
        """Undo the last edit; returns its frame, or None if there is none."""
        with self._lock:
            if not self._undo:
                return None
            t, entity, before = self._undo.pop()
            self._set(t, entity, before)
            self._refresh(t)
            return t

    def labels(self, t: int) -> np.ndarray:
        """The current masks of frame `t`: (H, W) uint8, 0 background, k the k-th of ENTITIES."""
        data = self._edited.get(t, self._carried[t])
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE))

    def overlay(self, t: int) -> bytes:
        """The masks of frame `t` as a transparent PNG: tinted, with opaque outlines."""
        labels = self.labels(t)
        image = np.zeros((*self._size, 4), np.uint8)
        for k, entity in enumerate(ENTITIES, start=1):
            mask = (labels == k).astype(np.uint8)
            image[mask > 0] = (*COLORS[entity], round(255 * ALPHA))
            contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(image, contours, -1, (*COLORS[entity], 255), 1)
        return _pack(image)

    def propagate(self) -> None:
        """Propagate the key frames' masks through the clip in a thread; `progress` is updated."""
        with self._lock:
            if self.progress.running:
                raise HoldprepError("masks are being propagated already: wait for it")
            if not any(not p.absent for by in self.prompts.values() for p in by.values()):
                raise HoldprepError("nothing has been clicked yet: draw a box around the object on one frame")
            self.progress = Progress(running=True)
            prompts = {t: dict(p) for t, p in self.prompts.items() if p}
            self._worker = threading.Thread(target=self._propagate, args=(prompts,), daemon=True)
            self._worker.start()

    def wait(self) -> None:
        """Wait until no propagation runs."""
        if self._worker is not None:
            self._worker.join()

    def _propagate(self, prompts: Prompts) -> None:
        try:
            masks = self.segmenter.propagate(self.images, prompts, progress=partial(_Bar, report=self._report))
            carried = [_pack(_paint({e: m[t] for e, m in masks.items()}, self._size)) for t in range(len(self.images))]
            with self._lock:
                self._carried = carried
                self._edited = {t: data for t, data in self._edited.items() if not _same(self.prompts.get(t, {}), prompts.get(t, {}))}
        except Exception as error:  # the page shows the error
            if not isinstance(error, HoldprepError):
                log.exception("propagation failed")
            self.progress = Progress(error=str(error) or type(error).__name__)
            return
        self.progress = Progress(share=1.0)

    def _report(self, share: float) -> None:
        self.progress = Progress(share=share, running=True)

    def _changed(self, before: EntityPrompt | None, action: Action, at: list[float]) -> EntityPrompt | None:
        kept = before if before is not None and not before.absent else EntityPrompt()
        if action in ("absent", "clear"):
            return EntityPrompt(absent=True) if action == "absent" else None
        if len(at) != (4 if action == "box" else 2) or not np.isfinite(at).all():
            raise HoldprepError(f"a {action} needs {4 if action == 'box' else 2} numbers")
        height, width = self._size
        inside = np.clip(np.reshape(at, (-1, 2)), 0, [width - 1, height - 1])
        if np.abs(inside - np.reshape(at, (-1, 2))).max() > 0.05 * max(width, height):
            raise HoldprepError(f"({at[0]:.0f}, {at[1]:.0f}) lies outside the image of {width} x {height} pixels")
        if action == "box":
            (x1, y1), (x2, y2) = inside.min(axis=0).tolist(), inside.max(axis=0).tolist()
            if min(x2 - x1, y2 - y1) < 3:
                raise HoldprepError("this box is smaller than 3 pixels: drag a larger one, or click")
            return replace(kept, box=(x1, y1, x2, y2), polygons=())
        points = kept.positive if action == "positive" else kept.negative
        added = inside if points is None else np.concatenate([points, inside])
        return replace(kept, positive=added) if action == "positive" else replace(kept, negative=added)

    def _set(self, t: int, entity: str, prompt: EntityPrompt | None) -> None:
        here = {e: p for e, p in self.prompts.get(t, {}).items() if e != entity} | ({} if prompt is None else {entity: prompt})
        # a new dictionary, since the page's state may be read meanwhile
        self.prompts = {f: by for f, by in self.prompts.items() if f != t} | ({t: here} if here else {})

    def _refresh(self, t: int) -> None:
        """Update the masks of frame `t` from its prompts and the propagated masks."""
        self._edited.pop(t, None)
        if t in self.prompts:
            labels = self.labels(t)
            known = {e: labels == k for k, e in enumerate(ENTITIES, start=1) if (labels == k).any()}
            self._edited[t] = _pack(_paint(self.segmenter.outline(self.images[t], self.prompts[t], known), self._size))


class _Bar(tqdm):
    """A progress bar that also reports to the page."""

    def __init__(self, *args: Any, report: Callable[[float], None], **kwargs: Any) -> None:
        self._report = report
        super().__init__(*args, **kwargs)

    def update(self, n: float | None = 1) -> bool | None:
        shown = super().update(n)
        self._report(min(self.n / self.total, 1.0) if self.total else 0.0)
        return shown


def _same(one: Mapping[str, EntityPrompt], other: Mapping[str, EntityPrompt]) -> bool:
    """Whether these are the same prompts; an edit makes a new prompt, and arrays in them cannot be compared by `==`."""
    return one.keys() == other.keys() and all(one[entity] is other[entity] for entity in one)


def _paint(masks: Mapping[str, np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    for k, entity in enumerate(ENTITIES, start=1):
        if entity in masks:
            labels[masks[entity]] = k
    return labels


def _pack(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
