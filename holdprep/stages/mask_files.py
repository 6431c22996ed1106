"""Masks of all frames written to the sequence folder: one picture for each entity and frame, and merged label images."""

from collections.abc import Iterator

import numpy as np

from holdprep.dataset.hold import merge_masks
from holdprep.segmenters.option import Masks
from holdprep.sequence import Sequence


def write_masks(seq: Sequence, masks: Masks, kind: str, labels: str) -> None:
    """Write masks (T, H, W) bool by entity to the artefacts `<kind>_<entity>`, and one label image per frame to the artefact `labels`."""
    names = seq.frame_names()
    for entity in masks:
        write_entity(seq, f"{kind}_{entity}", masks[entity])
    merged = ((f"{name}.png", merge_masks({e: m[t] for e, m in masks.items()})) for t, name in enumerate(names))
    seq.write_images(labels, merged)


def write_entity(seq: Sequence, artefact: str, masks: np.ndarray) -> None:
    """Write one entity's masks (T, H, W) bool as pictures of 0 and 255."""

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        for name, mask in zip(seq.frame_names(), masks, strict=True):
            yield f"{name}.png", mask.astype(np.uint8) * 255

    seq.write_images(artefact, pictures())
