"""Prompts: prompts.yaml with outlines, boxes and clicks of the entities on a few key frames."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from holdprep.errors import HoldprepError
from holdprep.io.atomic import write_bytes_atomic
from holdprep.io.bounded import inside, picture_size, read_yaml, refuse_interpolations
from holdprep.io.clicks import SAME_ASPECT, known, numbers, scale_to_images
from holdprep.segmenters import ENTITIES

FIELDS = ("polygon", "polygons", "mask", "positive", "negative", "box")


@dataclass(frozen=True)
class EntityPrompt:
    """Prompt of an entity in one frame, in pixels (x, y): coarse outlines, positive and negative clicks, a box x1, y1, x2, y2.

    `absent`: the entity is not in the frame.
    """

    polygons: tuple[np.ndarray, ...] = ()
    positive: np.ndarray | None = None
    negative: np.ndarray | None = None
    box: tuple[float, float, float, float] | None = None
    absent: bool = False

    @property
    def is_outline(self) -> bool:
        """Whether it outlines the entity without other key frames; clicks alone may only correct another key frame's outline."""
        return bool(self.polygons) or self.box is not None or self.absent


def anchors(prompts: Mapping[int, Mapping[str, EntityPrompt]], entity: str) -> list[int]:
    """Key frames that outline `entity` by themselves; clicks on others correct the masks propagated from these.

    Without any outline or box, it is the first key frame with the most positive clicks.
    """
    own = {t: p[entity] for t, p in sorted(prompts.items()) if entity in p}
    strong = [t for t, prompt in own.items() if prompt.is_outline]
    if any(not own[t].absent for t in strong):
        return strong
    clicks = {t: len(p.positive) for t, p in own.items() if p.positive is not None}
    return sorted([*strong, *([max(clicks, key=lambda t: clicks[t])] if clicks else [])])


def write_prompts(path: Path, prompts: Mapping[str, Mapping[str, EntityPrompt]], image_size: tuple[int, int]) -> None:
    """Write prompts for `read_prompts`, rounded to 0.1 px; `prompts` by frame name, `image_size` (width, height) of images/."""

    def rounded(values: Any) -> Any:
        return np.round(np.asarray(values, float), 1).tolist()

    def tree(prompt: EntityPrompt) -> Any:
        if prompt.absent:
            return "absent"
        points = {"positive": prompt.positive, "negative": prompt.negative, "box": prompt.box}
        found = {kind: rounded(value) for kind, value in points.items() if value is not None}
        return found | ({"polygons": [rounded(p) for p in prompt.polygons]} if prompt.polygons else {})

    frames = {frame: {e: tree(p) for e, p in entities.items()} for frame, entities in sorted(prompts.items()) if entities}
    text = yaml.safe_dump({"image_size": list(image_size), "frames": frames}, sort_keys=False, default_flow_style=None, width=10**6)
    write_bytes_atomic(path, text.encode())


def read_prompts(path: Path, image_size: tuple[int, int] | None = None) -> dict[str, dict[str, EntityPrompt]]:
    """prompts.yaml as {frame name: {entity: EntityPrompt}}.

    `image_size` (width, height) is that of images/; where the file has another, coordinates are scaled. A mask file (next to prompts.yaml,
    0 is background) is read as its outlines, without holes. Raises HoldprepError in one line naming file, frame and entity.
    """
    tree = _tree(path)
    for key in tree:
        known(key, ("image_size", "frames"), f"{path}:")
    units = _Units(path.parent, scale_to_images(path, tree.get("image_size"), image_size), image_size)
    found = {frame: _frame(entities, units, f"{path}: frame {frame}") for frame, entities in tree["frames"].items()}
    shown = {entity for entities in found.values() for entity, prompt in entities.items() if _shows(prompt)}
    for frame, entities in found.items():
        for entity, prompt in entities.items():
            if prompt.positive is None and not prompt.is_outline and entity not in shown:
                raise HoldprepError(
                    f"{path}: frame {frame}, {entity}: negative clicks alone are not sufficient; add a polygon, a box or positive clicks"
                )
    if image_size is not None:
        for frame, entities in found.items():
            for entity, prompt in entities.items():
                _check_inside(prompt, image_size, f"{path}: frame {frame}, {entity}")
    return found


def read_indexed_prompts(path: Path, names: Sequence[str], image_size: tuple[int, int]) -> dict[int, dict[str, EntityPrompt]]:
    """prompts.yaml by the index of each frame in `names`. Raises HoldprepError as `read_prompts` does, and for a frame of another name."""
    prompts = read_prompts(path, image_size=image_size)
    number = {name: t for t, name in enumerate(names)}
    unknown = [frame for frame in prompts if frame not in number]
    if unknown:
        raise HoldprepError(f"{path}: frame {unknown[0]} is not in images/ ({len(unknown)} such; frames are {names[0]} ... {names[-1]})")
    return {number[frame]: entities for frame, entities in prompts.items()}


def mask_files(path: Path) -> dict[str, Path]:
    """Paths of the mask images in a prompts.yaml, existing or not, by name. Raises HoldprepError for another file."""
    prompts = [p for entities in _tree(path)["frames"].values() if isinstance(entities, dict) for p in entities.values()]
    names = [str(p["mask"]) for p in prompts if isinstance(p, dict) and "mask" in p]
    return {name: inside(path.parent, name, str(path)) for name in names}


def _tree(path: Path) -> dict[str, Any]:
    tree = read_yaml(path)
    refuse_interpolations(path, tree)
    if not isinstance(tree, dict) or not isinstance(tree.get("frames"), dict) or not tree["frames"]:
        raise HoldprepError(f"{path}: needs a mapping 'frames: {{<frame name>: {{<entity>: ...}}}}'")
    return tree


@dataclass(frozen=True)
class _Units:
    """Folder of mask files, factor (2,) from the file's coordinates to those of images/, and size of images/ (None: unknown)."""

    folder: Path
    scale: np.ndarray
    image_size: tuple[int, int] | None


def _shows(prompt: EntityPrompt) -> bool:
    return not prompt.absent and (prompt.is_outline or prompt.positive is not None)


def _check_inside(prompt: EntityPrompt, image_size: tuple[int, int], where: str) -> None:
    """Raise HoldprepError for clicks outside of the image, or outlines more than 5 % outside."""
    box = [] if prompt.box is None else [np.reshape(prompt.box, (2, 2))]
    clicks = [points for points in (prompt.positive, prompt.negative) if points is not None]
    for points, margin in [(p, 0.05) for p in (*prompt.polygons, *box)] + [(p, 0.0) for p in clicks]:
        beyond = np.maximum(-points, points - np.array(image_size)) > margin * max(image_size)
        if beyond.any():
            x, y = points[beyond.any(axis=1)][0]
            raise HoldprepError(
                f"{where}: ({x:.0f}, {y:.0f}) lies outside the image of {image_size[0]} x {image_size[1]} pixels: correct it, or image_size"
            )


def _frame(entities: Any, units: _Units, where: str) -> dict[str, EntityPrompt]:
    if not isinstance(entities, dict):
        raise HoldprepError(f"{where}: needs entities ({', '.join(ENTITIES)})")
    found = {}
    for entity, prompt in entities.items():
        known(entity, ENTITIES, f"{where}: entity")
        found[entity] = _entity(prompt, units, f"{where}, {entity}")
    return found


def _entity(prompt: Any, units: _Units, where: str) -> EntityPrompt:
    if prompt == "absent":
        return EntityPrompt(absent=True)
    if not isinstance(prompt, Mapping) or not prompt:
        raise HoldprepError(f"{where}: needs 'absent' or one of {', '.join(FIELDS)}")
    for field in prompt:
        known(field, FIELDS, where)
    if not isinstance(prompt.get("polygons", []), list):
        raise HoldprepError(f"{where}: polygons is a list of polygons, each a list of points")
    outlines = [*prompt.get("polygons", []), *([prompt["polygon"]] if "polygon" in prompt else [])]
    scale = units.scale
    polygons = tuple(numbers(p, (None, 2), f"{where}: polygon") * scale for p in outlines)
    if any(len(p) < 3 for p in polygons):
        raise HoldprepError(f"{where}: a polygon needs 3 points or more")
    if "mask" in prompt:
        polygons += _mask_outlines(inside(units.folder, str(prompt["mask"]), where), units.image_size, where)
    points = {kind: numbers(prompt[kind], (None, 2), f"{where}: {kind}") * scale for kind in ("positive", "negative") if kind in prompt}
    box = numbers(prompt["box"], (4,), f"{where}: box") * np.tile(scale, 2) if "box" in prompt else None
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        raise HoldprepError(f"{where}: box is x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    return EntityPrompt(polygons, points.get("positive"), points.get("negative"), None if box is None else tuple(box.tolist()))


def _mask_outlines(path: Path, image_size: tuple[int, int] | None, where: str) -> tuple[np.ndarray, ...]:
    if path.exists():
        picture_size(path)
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if picture is None:
        raise HoldprepError(f"{where}: {path} is not a mask image: copy it next to prompts.yaml, or give its relative path")
    size = np.array(picture.shape[::-1], float)
    goal = size if image_size is None else np.array(image_size, float)
    if abs(size[0] * goal[1] / (size[1] * goal[0]) - 1) > SAME_ASPECT:
        raise HoldprepError(f"{where}: {path} has {size.astype(int).tolist()} pixels, the proportions of images/ ({image_size}) are needed")
    contours, _ = cv2.findContours((picture > 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = tuple(c[:, 0] * (goal / size) for c in contours if len(c) >= 3)
    if not outlines:
        raise HoldprepError(f"{where}: {path} is empty: use 'absent' where the entity is not in the frame")
    return outlines
