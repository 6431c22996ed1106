"""XFeat (Potje et al. 2024): a small convolutional network that finds keypoints and describes them, with its weights in assets/.

A cell of 8 x 8 pixels has one descriptor of 64 numbers, one reliability, and the probability of a keypoint at each of its pixels.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from holdprep.errors import HoldprepError
from holdprep.io.safeio import load_npz

CELL_PX = 8
_MULTIPLE_PX = 32  # both sides of the picture: the coarsest features have a stride of 32
_MIN_PROBABILITY = 0.05  # of a keypoint
_SEPARATION = 2  # pixels: a keypoint is the most probable one among those that are nearer
_STRIDES = {"block1.1": 2, "block1.3": 2, "block3.0": 2, "block4.0": 2, "block5.0": 2}
_LINEAR = ("skip1.1", "block_fusion.2", "heatmap_head.2", "keypoint_head.3")  # convolutions that no rectifier follows


@dataclass(frozen=True)
class Keypoints:
    """K keypoints, best first: `px` (K, 2), the first pixel's centre at 0, `scores` (K,) and `descriptors` (K, 64) of unit length."""

    px: np.ndarray
    scores: np.ndarray
    descriptors: np.ndarray


class XFeatNetwork:
    """The network on a torch device, for inference."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        arrays = load_npz(Path(__file__).parent / "assets" / "xfeat.npz")
        self._weights = {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}
        names = sorted({name.rpartition(".")[0] for name in arrays})
        self._blocks = {block: [n for n in names if n.startswith(f"{block}.")] for block in {n.partition(".")[0] for n in names}}

    @torch.inference_mode()
    def detect(self, image: np.ndarray, mask: np.ndarray, max_keypoints: int) -> Keypoints:
        """The best keypoints of a grey image (H, W) at pixels where `mask` (H, W) is not 0."""
        height, width = image.shape
        pad = (0, -width % _MULTIPLE_PX, 0, -height % _MULTIPLE_PX)
        grey = F.pad(torch.from_numpy(image.astype(np.float32)).to(self.device)[None, None], pad, mode="replicate")
        descriptors, reliability, probability = self._forward(grey)
        allowed = F.pad(torch.from_numpy(mask > 0).to(self.device)[None, None], pad)
        size = 2 * _SEPARATION + 1
        peak = (F.max_pool2d(probability, size, 1, _SEPARATION) == probability) & (probability > _MIN_PROBABILITY) & allowed
        at = peak[0, 0].nonzero().flip(1)
        score = probability[0, 0, at[:, 1], at[:, 0]] * _sample(reliability, at, "bilinear")[:, 0]
        best = torch.argsort(-score, stable=True)[:max_keypoints]
        described = F.normalize(_sample(descriptors, at[best], "bicubic"), dim=1)
        px = _refine(probability[0, 0], at[best])
        return Keypoints(px.double().cpu().numpy(), score[best].cpu().numpy(), described.cpu().numpy())

    def _forward(self, grey: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Descriptors (1, 64, H/8, W/8) and reliability (1, 1, H/8, W/8) of the cells, and probability (1, 1, H, W) of a keypoint."""
        x = F.instance_norm(grey)
        fine = self._block("block2", self._block("block1", x) + self._block("skip1", F.avg_pool2d(x, 4)))
        middle = self._block("block3", fine)
        coarse = self._block("block4", middle)
        coarsest = self._block("block5", coarse)
        size = (int(middle.shape[2]), int(middle.shape[3]))
        parts = [F.interpolate(part, size, mode="bilinear") for part in (coarse, coarsest)]
        descriptors = self._block("block_fusion", middle + parts[0] + parts[1])
        reliability = torch.sigmoid(self._block("heatmap_head", descriptors))
        logits = self._block("keypoint_head", F.pixel_unshuffle(x, CELL_PX))
        probability = F.pixel_shuffle(F.softmax(logits, dim=1)[:, :-1], CELL_PX)  # the last one: no keypoint in the cell
        return descriptors, reliability, probability

    def _block(self, block: str, x: Tensor) -> Tensor:
        """A chain of convolutions, each followed by a rectifier where it is not one of `_LINEAR`."""
        for name in self._blocks[block]:
            weight = self._weights[f"{name}.weight"]
            x = F.conv2d(x, weight, self._weights[f"{name}.bias"], _STRIDES.get(name, 1), weight.shape[-1] // 2)
            x = x if name in _LINEAR else F.relu(x)
        return x


@lru_cache(1)
def load(device: str) -> XFeatNetwork:
    """The network on `device` (cpu, cuda). Raises HoldprepError without that device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise HoldprepError(f"object_pose=xfeat: device=cuda, but torch {torch.__version__} sees no CUDA device: set device=cpu")
    return XFeatNetwork(device)


def _sample(cells: Tensor, at: Tensor, mode: str) -> Tensor:
    """(K, C) values of a map of cells (1, C, H, W) at pixels (K, 2) of the picture."""
    size = torch.tensor([cells.shape[3], cells.shape[2]], device=cells.device)
    grid = 2 * (at + 0.5) / (CELL_PX * size) - 1
    return F.grid_sample(cells, grid[None, None].to(cells.dtype), mode=mode, align_corners=False)[0, :, 0].T


def _refine(probability: Tensor, at: Tensor) -> Tensor:
    """(K, 2) maxima of parabolas through the logarithms at whole pixels (K, 2) and their neighbours, at most half a pixel away."""
    log = F.pad(probability.clamp_min(1e-6).log()[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    x, y = at[:, 0] + 1, at[:, 1] + 1
    centre = log[y, x]
    shifts = []
    for before, after in ((log[y, x - 1], log[y, x + 1]), (log[y - 1, x], log[y + 1, x])):
        curvature = (2 * centre - before - after).clamp_min(1e-3)
        shifts.append(((after - before) / (2 * curvature)).clamp(-0.5, 0.5))
    return at + torch.stack(shifts, dim=1)
