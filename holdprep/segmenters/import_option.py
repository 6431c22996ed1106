"""segmenter=import: masks of another tool."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from holdprep.backend import External, Task, Values
from holdprep.node import Node
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.option import HAND_MASKS, SegmentedMasks, SegmenterNode

if TYPE_CHECKING:
    import numpy as np

    from holdprep.sequence import Sequence


Label = Annotated[int, Field(ge=0, le=65535)] | str | None


class MaskValues(Node):
    """The label of each entity in masks with several labels."""

    right: Label = Field(
        description="the right hand's label: palette index, grey level, number of DAVIS's colour, COCO category, labelme label"
    )
    left: Label = Field(description="the left hand's label; null = masks of one entity")
    object: Label = Field(description="the object's label")


class ImportSegmenter(SegmenterNode):
    """Folders, json files or videos of masks of another tool."""

    name: Literal["import"]
    right: Path | None = Field(
        description="right-hand masks: folder, COCO .json or video; null = processed/sam/right/images_masks if there"
    )
    left: Path | None = Field(description="left-hand masks; null = processed/sam/left/images_masks if there")
    object: Path | None = Field(description="object masks; null = processed/sam/object/images_masks")
    values: MaskValues

    def files(self, seq: "Sequence") -> External:
        return {entity: self._path(entity, seq) for entity in ENTITIES}

    def settings(self) -> Values:
        return self.recorded(*ENTITIES)

    def outputs(self) -> tuple[str, ...]:
        """Masks of both hands; the tool's own masks exist already."""
        return HAND_MASKS

    def advice(self, entity: str, seq: "Sequence") -> str:
        return f"looked in {self._path(entity, seq)}; set segmenter.{entity}=<folder>, or hands="

    def segment(self, task: Task) -> SegmentedMasks:
        from holdprep.segmenters import foreign

        width, height = task.seq.image_size()
        masks: dict[str, np.ndarray] = {}
        notes: list[str] = []
        for entity in ENTITIES:
            path = self._path(entity, task.seq)
            if path.exists() or getattr(self, entity) is not None:
                value = getattr(self.values, entity)
                masks[entity], remarks = foreign.read_masks(path, task.seq.frame_names(), (height, width), value)
                notes += remarks
        return SegmentedMasks(masks, notes)

    def _path(self, entity: str, seq: "Sequence") -> Path:
        return getattr(self, entity) or seq.path(f"sam_{entity}")
