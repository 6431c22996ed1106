"""SuperPoint (DeTone et al. 2018) with SuperGlue (Sarlin et al. 2020) or LightGlue (Lindenberger et al. 2023).

The networks are those of `transformers`, with weights from a local folder, which contains both matcher and detector.
Features are extracted once per frame and stored in `features/` of the work folder; the matcher reads them instead of
running its own detector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from holdprep.io import pretrained
from holdprep.object import colmap, stored_features
from holdprep.object.colmap import Crop

Matcher = Literal["superglue", "lightglue"]
_CLASSES: dict[Matcher, str] = {"superglue": "SuperGlueForKeypointMatching", "lightglue": "LightGlueForKeypointMatching"}
_SOURCES: dict[Matcher, str] = {"superglue": "magic-leap-community/superglue_outdoor", "lightglue": "ETH-CVG/lightglue_superpoint"}
_TORCH_THREADS = 2  # fixed: the number of threads changes rounding on a CPU
_CACHED_FRAMES = 64  # in memory during matching; pairs are in temporal order


@dataclass(frozen=True)
class SuperPoint:
    """The `max_features` best SuperPoint features per frame, and a matcher from the folder `weights`, on `device` (cpu, cuda)."""

    matcher: Matcher
    weights: Path | None
    max_features: int
    device: str

    def extract(self, folder: Path, crop: Crop, K: np.ndarray, num_threads: int) -> None:
        """Raises HoldprepError when the weights cannot be used."""
        torch.set_num_threads(_TORCH_THREADS)
        detector = self._model().keypoint_detector
        detector.keypoint_decoder.max_keypoints = -1  # no limit: the best ones on the mask are selected below
        keypoints_px = {}
        for path in sorted((folder / "images").glob("*.png")):
            px, scores, descriptors = self._detect(detector, colmap.read_crop(folder, path.stem), colmap.read_mask(folder, path.stem))
            stored_features.write(folder, path.stem, px, scores, descriptors)
            keypoints_px[path.stem] = px
        colmap.write_keypoints(folder, crop, K, keypoints_px)

    def thin(self, folder: Path) -> None:
        """Keeps all: their number is small."""

    def descriptors(self, folder: Path) -> Mapping[str, np.ndarray]:
        return stored_features.descriptors(folder)

    def match(
        self,
        folder: Path,
        pairs: Sequence[tuple[str, str]],
        max_error_px: float,
        seed: int,
        num_threads: int,
    ) -> None:
        torch.set_num_threads(_TORCH_THREADS)
        colmap.write_matches(folder, self.matches(folder, pairs), max_error_px, seed, num_threads)

    def _model(self) -> Any:
        option, kind = f"object_pose=superpoint_{self.matcher}", f"{self.matcher} on superpoint"
        return pretrained.load(option, self.weights, _CLASSES[self.matcher], (kind,), _SOURCES[self.matcher], self.device)

    @torch.inference_mode()
    def _detect(
        self,
        detector: torch.nn.Module,
        image: np.ndarray,
        mask: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keypoints (K, 2) in pixels of the enlarged crop, scores (K,) and descriptors (K, D), highest score first."""
        height, width = image.shape
        found = detector(torch.from_numpy(image.astype(np.float32) / 255)[None, None].to(self.device))
        scores = found.scores[0].cpu().numpy()
        # the network detects at whole pixels
        keypoints_px = (found.keypoints[0].cpu() * torch.tensor([width, height])).round().numpy()
        x, y = keypoints_px.astype(int).T
        best = np.argsort(-scores, kind="stable")
        best = best[mask[y, x][best] > 0][: self.max_features]
        return keypoints_px[best], scores[best], found.descriptors[0].cpu().numpy()[best]

    @torch.inference_mode()
    def matches(self, folder: Path, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, np.ndarray]]:
        read = lru_cache(_CACHED_FRAMES)(partial(stored_features.read, folder))
        model = self._model()
        # all crops have the same size
        model.keypoint_detector = stored = _StoredFeatures(colmap.read_crop(folder, pairs[0][0]).shape, self.device)
        for a, b in pairs:
            frames = read(a), read(b)
            if not all(len(frame["scores"]) for frame in frames):
                continue
            to_other = model(stored.select(frames)).matches.reshape(2, -1)[0, : len(frames[0]["scores"])].cpu().numpy()
            own = np.flatnonzero(to_other >= 0)
            yield a, b, np.stack([own, to_other[own]], axis=1)


class _StoredFeatures(torch.nn.Module):
    """Replaces the detector inside a matcher: returns the stored features of the two selected frames."""

    def __init__(self, size: tuple[int, ...], device: str) -> None:
        super().__init__()
        self._size, self._device = size, device
        self._features: tuple[torch.Tensor, ...] = ()

    def select(self, frames: Sequence[Mapping[str, np.ndarray]]) -> torch.Tensor:
        """Select two frames' features; returns dummy images for the matcher, of which only the size (H, W) matters."""
        lengths = torch.tensor([len(frame["scores"]) for frame in frames], device=self._device)

        def padded(key: str) -> torch.Tensor:
            parts = [torch.from_numpy(frame[key]).to(self._device) for frame in frames]
            return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

        is_valid = torch.arange(int(lengths.max()), device=self._device) < lengths[:, None]
        relative = padded("keypoints_px") / torch.tensor(self._size[::-1], device=self._device)
        self._features = relative, padded("scores"), padded("descriptors"), is_valid.int()
        return torch.zeros(1, device=self._device).expand(1, 2, 1, *self._size)

    def forward(self, _: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._features
