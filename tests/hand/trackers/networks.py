"""Tiny checkpoints in the published layouts, from a seed; and the fixtures that the published implementations computed with them."""

import ast
from pathlib import Path

import cv2
import numpy as np
import scipy.sparse
import torch
import yaml
from torch import Tensor

import holdprep
from holdprep.hand.trackers.metro_network import Sizes

HERE = Path(__file__).parent
# The demo clip's first picture, its right hand boxed and wrist, thumb tip and index tip (MANO-21 0, 16, 17) read off by eye.
DEMO_BOX = np.array([[380.0, 95.0, 605.0, 230.0]])
DEMO_JOINTS, DEMO_J2D = [0, 16, 17], np.array([[575, 160], [533, 222], [393, 212]])
HAMER_CONFIG = {
    "MODEL": {
        "IMAGE_SIZE": 256,
        "BACKBONE": {"TYPE": "vit", "DEPTH": 2, "NUM_HEADS": 4},
        "MANO_HEAD": {
            "TYPE": "transformer_decoder",
            "TRANSFORMER_DECODER": {"depth": 2, "heads": 2, "mlp_dim": 16, "dim_head": 8, "norm": "layer", "context_dim": 32, "dim": 24},
        },
    },
}


def fixture(name: str) -> dict[str, np.ndarray]:
    """Inputs and outputs of a published implementation, made outside this repository."""
    with np.load(HERE / name, allow_pickle=False) as file:
        return dict(file)


def seeded(parity: dict[str, np.ndarray], seed: int, sigma: float) -> dict[str, Tensor]:
    """The weights that a fixture was made with: normal numbers, drawn in the order of the published names."""
    rng = np.random.default_rng(seed)
    shapes = [ast.literal_eval(str(s)) for s in parity["shapes"]]
    return {str(n): torch.from_numpy(rng.normal(0, sigma, s).astype(np.float32)) for n, s in zip(parity["names"], shapes, strict=True)}


def hamer_weights() -> dict[str, Tensor]:
    weights = seeded(fixture("hamer_parity.npz"), seed=7, sigma=0.15)
    return weights | {"mano_head.init_cam": torch.tensor([[0.9, 0.0, 0.0]])}


def write_hamer_checkpoint(folder: Path) -> Path:
    """hamer.ckpt as Lightning writes it, with what else the published one holds, and model_config.yaml in the folder above."""
    path = folder / "checkpoints" / "hamer.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = {
        "mano.v_template": torch.zeros(778, 3),
        "discriminator.betas_fc1.weight": torch.zeros(2, 2),
        "initialized": torch.tensor(False),
    }
    torch.save({"state_dict": hamer_weights() | extra, "epoch": 3, "hyper_parameters": {"cfg": {}}}, path)
    (folder / "model_config.yaml").write_text(yaml.safe_dump(HAMER_CONFIG))
    return path


def demo_picture() -> np.ndarray:
    return cv2.VideoCapture(str(Path(holdprep.__file__).parent / "assets" / "demo" / "cube.mp4")).read()[1]


def picture(width: int, height: int, seed: int) -> np.ndarray:
    """(H, W, 3) uint8: random tiles of 10 pixels."""
    tiles = np.random.default_rng(seed).uniform(0, 255, (height // 10, width // 10, 3)).astype(np.float32)
    return np.clip(np.round(cv2.resize(tiles, (width, height), interpolation=cv2.INTER_NEAREST)), 0, 255).astype(np.uint8)


METRO_SIZES = Sizes(width=8, units=(1, 2, 1), blocks=1, encoders=(64, 32, 16), layers=2, heads=4, positions=220)


def metro_weights() -> dict[str, Tensor]:
    """Normalisations start from ones, and no variance is negative."""
    weights = seeded(fixture("metro_parity.npz"), seed=11, sigma=0.05)
    for name, value in weights.items():
        if name.endswith("running_var"):
            weights[name] = value.abs() + 0.5
        elif name.endswith("LayerNorm.weight") or (name.startswith("backbone") and name.endswith("weight") and value.ndim == 1):
            weights[name] = value + 1
    return weights


def write_sampling(path: Path, kept: np.ndarray) -> Path:
    """mano_downsampling.npz as METRO's repository has it: lists of sparse matrices."""
    rows = scipy.sparse.csc_matrix((np.ones(len(kept)), (np.arange(len(kept)), kept)), shape=(len(kept), 778))
    steps = np.empty(2, object)
    steps[:] = [rows, scipy.sparse.csc_matrix(np.eye(3, len(kept)))]
    np.savez(path, D=steps, A=steps)
    return path
