"""From clicks, or from another tool's files, to masks; one file a segmenter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Masks = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Segmenter:
    """A segmenter with its settings bound.

    `outline(image, prompts, known)` gives one BGR picture's masks (H, W) bool by entity, from its prompts and from known masks where
    they leave things open; `propagate(images, prompts, progress=None)` every frame's (T, H, W), from prompts by frame index.
    """

    outline: Callable[..., Masks]
    propagate: Callable[..., Masks]
