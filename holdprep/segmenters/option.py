"""Interface of the options of `segmenter`: Protocol, bases of the nodes, and result."""

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
    """Result of a segmenter: masks (T, H, W) bool by entity, and notes."""

    masks: Masks
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PromptedSegmenter:
    """A segmenter of prompts with its settings bound.

    `outline(image, prompts, known)` returns one BGR image's masks (H, W) bool by entity, from prompts and known masks of entities without;
    `propagate(images, prompts, progress=None)` those of all frames (T, H, W), from prompts by frame index.
    """

    outline: Callable[..., Masks]
    propagate: Callable[..., Masks]


@runtime_checkable
class Segmenter(BackendOption, Protocol):
    """An option of `segmenter`, as stage segment uses it."""

    def segment(self, task: Task) -> SegmentedMasks:
        """The masks of all frames; entities that are not requested are removed later."""

    def clicked(self) -> "ClickedSegmenter | None":
        """The node itself if it uses prompts, for which the click page can be opened; else None."""

    def second_pass_side(self) -> int | None:
        """Longest side in pixels at which stage resegment decides about its masks again; None where it does not."""

    def advice(self, entity: str, seq: "Sequence") -> str:
        """Advice at the end of the error message where no frame has a mask of a needed entity."""


class SegmenterNode(Backend):
    """Base of the nodes of `segmenter`."""

    def outputs(self) -> tuple[str, ...]:
        """Masks of both hands, and the segmenter's own masks of each entity."""
        return (*HAND_MASKS, *(f"sam_{entity}" for entity in ENTITIES))

    def segment(self, task: Task) -> SegmentedMasks:
        raise NotImplementedError

    def clicked(self) -> "ClickedSegmenter | None":
        return None

    def second_pass_side(self) -> int | None:
        return None

    def advice(self, entity: str, seq: "Sequence") -> str:
        return f"outline it on a key frame of {seq.path('prompts')}, or set hands="


class ClickedSegmenter(SegmenterNode):
    """A segmenter with prompts; a subclass loads its implementation."""

    prompts: Path | None = Field(description="clicks, boxes or polygons on key frames; null = <seq>/prompts.yaml")
    # not recorded, since opening the page does not change results
    ui: bool = Field(exclude=True, description="open the local click page first; its address is printed")
    fix: bool = Field(exclude=True, description="open the click page on frames with suspect masks")
    port: int = Field(exclude=True, ge=0, le=65535, description="the click page's port on 127.0.0.1; 0 = any free port")

    def load(self, device: str) -> PromptedSegmenter:
        """The implementation with these settings, its networks on `device`."""
        raise NotImplementedError

    def prompts_path(self, seq: "Sequence") -> Path:
        """The file of prompts."""
        return self.prompts or seq.path("prompts")

    def files(self, seq: "Sequence") -> External:
        """The file of prompts and the mask images that it names."""
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
                f"{path} does not exist: click with segmenter.ui=true, write it (holdprep/README.md, 'Clicks'), "
                "or segmenter=import with a tool's masks"
            )
        prompts = read_indexed_prompts(path, task.seq.frame_names(), task.seq.image_size())
        masks = self.load(task.device).propagate(task.seq.images(), prompts, progress=partial(tqdm, disable=None))
        return SegmentedMasks(masks)
