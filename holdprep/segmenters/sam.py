"""SAM 2 and SAM 3 video (Ravi et al. 2024, Carion et al. 2025) by `transformers`, with weights from a local folder.

Images are prepared here, because the processors of `transformers` need torchvision. Only the memories of the last few frames are kept, so
that memory grows only by the low-resolution masks. Every entity has its own session, since key frames differ; all share the image's
features, which take most of the time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from holdprep.errors import HoldprepError
from holdprep.io import pretrained
from holdprep.segmenters import ENTITIES
from holdprep.segmenters.prompts import EntityPrompt, anchors

Family = Literal["sam2", "sam3"]
_Features = dict[int, Any]  # of one image, by frame


@dataclass(frozen=True)
class _Release:
    """A family's classes in `transformers`, normalisation of its images (RGB of 0 to 1), and source of its weights."""

    module: str
    prefix: str
    types: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str


RELEASES: dict[Family, _Release] = {
    "sam2": _Release(
        "sam2_video", "Sam2Video", ("sam2_video",), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "facebook/sam2.1-hiera-small"
    ),
    "sam3": _Release(
        "sam3_tracker_video", "Sam3TrackerVideo", ("sam3_video", "sam3_tracker_video"), (0.5,) * 3, (0.5,) * 3, "facebook/sam3"
    ),
}
LOGIT_LIMIT = 5.0  # bound of the logits of each direction before blending


def propagate(
    images: Sequence[np.ndarray],
    prompts: Mapping[int, Mapping[str, EntityPrompt]],
    predictor: "Predictor",
    *,
    progress: Callable[..., tqdm] | None = None,
) -> dict[str, np.ndarray]:
    """Visible masks (T, H, W) bool of every prompted entity, disjoint, from T BGR images and prompts on some of them.

    `prompts` maps a frame's index to its entities. Masks are propagated forward from an entity's first key frame and backward from
    its last; between key frames both are blended by distance. An outline is used as the mask, a box and clicks as prompts of the
    model; clicks alone correct the model's masks from other key frames. `progress` creates the progress bar (tqdm or a subclass).
    """
    entities = [e for e in ENTITIES if any(e in p and not p[e].absent for p in prompts.values())]
    if not entities:
        raise HoldprepError("no key frame has a prompt: add prompts for the object and a hand")
    size = (images[0].shape[0], images[0].shape[1])
    tracks = [Track(predictor, {t: p[e] for t, p in prompts.items() if e in p}, size, anchors(prompts, e)) for e in entities]
    with (progress or partial(tqdm, disable=True))(total=2 * len(images) + 2 * len(prompts), desc="masks", unit="frame") as bar:
        for correcting in (False, True):
            for t in sorted(prompts):
                _condition(tracks, t, predictor.pixels(images[t]), correcting)
                bar.update()
        for reverse in (False, True):
            for track in tracks:
                track.forget()
            for t in range(len(images))[:: -1 if reverse else 1]:
                pixels, shared = predictor.pixels(images[t]), _Features()
                for track in tracks:
                    track.step(t, pixels, reverse, shared)
                bar.update()
    masks = {entity: np.zeros((len(images), *size), bool) for entity in entities}
    for t in range(len(images)):
        labels = _labels([track.logits(t) for track in tracks], size)
        for k, entity in enumerate(entities, start=1):
            masks[entity][t] = labels == k
    return masks


def _condition(tracks: "Sequence[Track]", t: int, pixels: torch.Tensor, correcting: bool) -> None:
    """Give the tracks that have a prompt at frame `t` this prompt: an anchor's, or one that corrects."""
    shared = _Features()
    for track in tracks:
        if t in track.prompts and (t not in track.anchors) == correcting:
            track.condition(t, pixels, shared)


def outline(
    image: np.ndarray, prompts: Mapping[str, EntityPrompt], known: Mapping[str, np.ndarray], predictor: "Predictor"
) -> dict[str, np.ndarray]:
    """Disjoint masks (H, W) bool of one BGR image, from `prompts` and `known` masks of entities without a prompt or to be corrected."""
    entities = [e for e in ENTITIES if e in prompts or e in known]
    size = (image.shape[0], image.shape[1])
    pixels, shared = predictor.pixels(image), _Features()
    logits = []
    for entity in entities:
        mask = known.get(entity, np.zeros(size, bool))
        track = Track(predictor, {0: EntityPrompt(absent=True), **({1: prompts[entity]} if entity in prompts else {})}, size, [0])
        steps: list[tuple[int, np.ndarray | None]] = [(1, None)] if entity in prompts else []
        if not steps or (mask.any() and not prompts[entity].is_outline):
            steps.insert(0, (0, mask))
        for t, outlined in steps:
            track.condition(t, pixels, shared, outlined)
            shared[0] = shared[1] = next(iter(shared.values()))  # the same image is used for both frames
        logits.append(track.logits(1 if entity in prompts else 0))
    labels = _labels(logits, size)
    return {entity: labels == k for k, entity in enumerate(entities, start=1)}


def _labels(logits: list[torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    """Labels (H, W) uint8: 0 where no entity's mask is, else 1 + the most certain one."""
    full = F.interpolate(torch.stack(logits).float()[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    best, index = full.max(dim=0)
    return torch.where(best > 0, index + 1, 0).to(torch.uint8).numpy()


class Predictor:
    """A loaded model, with the format of its images and prompts."""

    def __init__(self, model: Any, session: Any, release: _Release, device: str) -> None:
        self.model, self._session, self._release, self._device = model, session, release, device
        self.side = int(model.config.image_size)
        self.memory = max(model.config.num_maskmem, model.config.max_object_pointers_in_encoder)

    @staticmethod
    def load(family: Family, weights: Path | None, device: str) -> "Predictor":
        """The model in the folder `weights` (config.json, *.safetensors); nothing is downloaded, no code in it is executed."""
        release = RELEASES[family]
        model = pretrained.load(f"segmenter={family}", weights, f"{release.prefix}Model", release.types, release.source, device)
        import transformers

        module = getattr(transformers.models, release.module)
        session = getattr(module, f"{release.prefix}InferenceSession")
        return Predictor(model, session, release, device)

    def pixels(self, image: np.ndarray) -> torch.Tensor:
        """The network's input (1, 3, side, side) from a BGR image (H, W, 3) uint8."""
        shrinks = max(image.shape[:2]) > self.side
        small = cv2.resize(image, (self.side, self.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        rgb = small[..., ::-1].astype(np.float32) / 255
        array = (rgb - np.array(self._release.mean)) / np.array(self._release.std)
        return torch.from_numpy(array.transpose(2, 0, 1)[None].astype(np.float32)).to(self._device)

    def session(self, size: tuple[int, int]) -> Any:
        """An empty tracking session for images of (height, width)."""
        session = self._session(
            video_height=size[0],
            video_width=size[1],
            inference_device=self._device,
            inference_state_device=self._device,
            video_storage_device=self._device,
            dtype=torch.float32,
        )
        session.obj_id_to_idx(1)
        return session


@dataclass
class Track:
    """One entity in the clip: key frames, the model's memories, and masks of both directions at low resolution."""

    predictor: Predictor
    prompts: Mapping[int, EntityPrompt]
    size: tuple[int, int]
    anchors: list[int]
    propagated: dict[bool, dict[int, torch.Tensor]] = field(default_factory=lambda: {False: {}, True: {}})

    def __post_init__(self) -> None:
        self.session = self.predictor.session(self.size)

    def condition(self, t: int, pixels: torch.Tensor, shared: _Features, mask: np.ndarray | None = None) -> None:
        """Give the model a key frame's prompt, or the mask (H, W) there."""
        prompt = self.prompts[t]
        outputs = self.session.output_dict_per_obj[0]
        corrects = bool(outputs["cond_frame_outputs"]) and t not in self.anchors
        if mask is not None or prompt.absent or prompt.polygons:
            self.session.add_mask_inputs(0, t, self._shrunk(_filled(prompt, self.size) if mask is None else mask))
        else:
            self.session.add_point_inputs(0, t, self._points(prompt))
        self.session.obj_with_new_inputs = [1]
        if corrects:  # a frame marked as tracked is processed with the memories
            self.session.frames_tracked_per_obj[0][t] = {"reverse": False}
        logits = self._predict(t, pixels, min(outputs["cond_frame_outputs"], default=t) > t, shared)
        if corrects:
            outputs["cond_frame_outputs"][t] = outputs["non_cond_frame_outputs"].pop(t)
        del outputs["cond_frame_outputs"][t]["high_res_masks"]
        self.propagated[False][t] = self.propagated[True][t] = logits

    def step(self, t: int, pixels: torch.Tensor, reverse: bool, shared: _Features) -> None:
        """Propagate the mask to frame `t`, unless it is a key frame or before the first one in this direction."""
        if t in self.prompts or (t > max(self.prompts) if reverse else t < min(self.prompts)):
            return
        self.propagated[reverse][t] = self._predict(t, pixels, reverse, shared)
        recent = self.session.output_dict_per_obj[0]["non_cond_frame_outputs"]
        del recent[t]["high_res_masks"]
        recent.pop(t + self.predictor.memory if reverse else t - self.predictor.memory, None)

    def forget(self) -> None:
        """Start a direction: clear the memories of all but key frames."""
        self.session.output_dict_per_obj[0]["non_cond_frame_outputs"].clear()

    def logits(self, t: int) -> torch.Tensor:
        """The mask (h, w) of frame `t` at low resolution, above 0 inside: both directions, blended by the distance to their key frames."""
        ways = [self.propagated[reverse].get(t) for reverse in (False, True)]
        known = [way for way in ways if way is not None]
        if len(known) == 1 or t in self.prompts:
            return known[0]
        before, after = max(k for k in self.prompts if k < t), min(k for k in self.prompts if k > t)
        share = (after - t) / (after - before)
        return share * known[0] + (1 - share) * known[1]

    def _predict(self, t: int, pixels: torch.Tensor, reverse: bool, shared: _Features) -> torch.Tensor:
        """Logits (h, w) float16 on the CPU; `shared` are the image's features, shared by all entities."""
        self.session.cache._vision_features = shared
        found = self.predictor.model(self.session, frame_idx=t, frame=pixels, reverse=reverse)
        self.session.processed_frames.clear()
        self.session.frames_tracked_per_obj[0].clear()
        return found.pred_masks[0, 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT).to("cpu", torch.float16)

    def _shrunk(self, mask: np.ndarray) -> torch.Tensor:
        small = cv2.resize(mask.astype(np.float32), (self.predictor.side,) * 2, interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.float32(small >= 0.5))[None, None]

    def _points(self, prompt: EntityPrompt) -> dict[str, torch.Tensor]:
        """Box corners (labels 2 and 3) and clicks (1 positive, 0 negative) in the network's pixels."""
        parts = [(np.reshape(prompt.box, (2, 2)), [2, 3])] if prompt.box is not None else []
        parts += [(points, [label] * len(points)) for points, label in ((prompt.positive, 1), (prompt.negative, 0)) if points is not None]
        scale = self.predictor.side / np.array(self.size[::-1])
        coords = (np.concatenate([points for points, _ in parts]) + 0.5) * scale - 0.5
        labels = [label for _, each in parts for label in each]
        return {
            "point_coords": torch.tensor(coords, dtype=torch.float32)[None, None],
            "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
        }


def _filled(prompt: EntityPrompt, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for polygon in prompt.polygons:
        cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 1)
    return mask > 0
