"""What every option of `segmenter` is: the Protocol that stage segment relies on, the bases of its nodes, and its result."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import Field

from holdprep.backend import NAMED, Backend, BackendOption, External, Task, Values
from holdprep.segmenters import ENTITIES

if TYPE_CHECKING:
    import numpy as np

    from holdprep.sequence import Sequence

Masks = Mapping[str, "np.ndarray"]
HAND_MASKS = ("masks_right", "masks_left")


@dataclass(frozen=True)
class SegmentedMasks:
    """A segmenter's result: masks (T, H, W) bool by entity, and remarks."""

    masks: Masks
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PromptedSegmenter:
    """A segmenter of prompts with its settings bound.

    `outline(image, prompts, known)` gives one BGR picture's masks (H, W) bool by entity, from its prompts and from known masks where
    they leave things open; `propagate(images, prompts, progress=None)` every frame's (T, H, W), from prompts by frame index.
    """

    outline: Callable[..., Masks]
    propagate: Callable[..., Masks]


@runtime_checkable
class Segmenter(BackendOption, Protocol):
    """An option of `segmenter`, as stage segment uses it."""

    def segment(self, task: Task) -> SegmentedMasks:
        """The masks of every frame; entities that nobody requested are left out afterwards."""

    def clicked(self) -> "ClickedSegmenter | None":
        """The node itself where a person's prompts guide it, for which the click page can be opened; else None."""

    def advice(self, entity: str, seq: "Sequence") -> str:
        """What to do where no frame has a mask of an entity that is needed: the end of an error's line."""


class SegmenterNode(Backend):
    """The base of nodes of `segmenter`."""

    def outputs(self) -> tuple[str, ...]:
        """Masks of either hand, and of each entity as the segmenter made them."""
        return (*HAND_MASKS, *(f"sam_{entity}" for entity in ENTITIES))

    def segment(self, task: Task) -> SegmentedMasks:
        raise NotImplementedError

    def clicked(self) -> "ClickedSegmenter | None":
        return None

    def advice(self, entity: str, seq: "Sequence") -> str:
        return f"outline it on a key frame of {seq.path('prompts')}, or set hands="


class ClickedSegmenter(SegmenterNode):
    """A segmenter that a person's prompts guide; a subclass loads its implementation."""

    prompts: Path | None = Field(description="clicks, boxes or polygons on key frames; null = <seq>/prompts.yaml")
    # what opens the page changes no result by itself: it is not recorded
    ui: bool = Field(exclude=True, description="open the click page first: local, its address is printed")
    fix: bool = Field(exclude=True, description="open the click page on the frames whose masks look wrong")
    port: int = Field(exclude=True, ge=0, le=65535, description="the click page's port on 127.0.0.1; 0 = any free one")

    def load(self, device: str) -> PromptedSegmenter:
        """The implementation with these settings, its networks on `device`."""
        raise NotImplementedError

    def prompts_path(self, seq: "Sequence") -> Path:
        """The file of prompts."""
        return self.prompts or seq.path("prompts")

    def files(self, seq: "Sequence") -> External:
        """The prompts with the mask pictures that they name."""
        from holdprep.segmenters.prompts import mask_files

        path = self.prompts_path(seq)
        named = mask_files(path) if path.is_file() else {}
        return {**{NAMED + name: file for name, file in named.items()}, "prompts": path}

    def settings(self) -> Values:
        return self.recorded("prompts")

    def clicked(self) -> "ClickedSegmenter | None":
        return self

    def segment(self, task: Task) -> SegmentedMasks:
        from functools import partial

        from tqdm import tqdm

        from holdprep.errors import HoldprepError
        from holdprep.segmenters.prompts import read_indexed_prompts

        path = self.prompts_path(task.seq)
        if not path.is_file():
            raise HoldprepError(
                f"{path} does not exist: click with segmenter.ui=true, write it (README, 'Clicks'), or segmenter=import with a tool's masks"
            )
        prompts = read_indexed_prompts(path, task.seq.frame_names(), task.seq.image_size())
        masks = self.load(task.device).propagate(task.seq.images(), prompts, progress=partial(tqdm, disable=None))
        return SegmentedMasks(masks)
