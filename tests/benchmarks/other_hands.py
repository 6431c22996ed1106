"""Rendered hands that the hand model cannot represent, tracked from their pictures by the default tracker.

As a command, `python -m tests.benchmarks --only other_hands`. `bake_other_hands` says what the hands are.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from holdprep.geometry.cameras import project
from holdprep.hand import lbs
from holdprep.hand.hold_params import params_from_dict
from holdprep.hand.joints import PARENTS
from holdprep.hand.model import HandModel, load_hand_model
from holdprep.quality.truth import load_truth
from holdprep.sequence import Sequence
from holdprep.stages.create import write_rendered
from holdprep.synth.scene import make_scene
from tests.benchmarks.bake_other_hands import ASSET, UNIT_M
from tests.benchmarks.bake_standin import mean_pose
from tests.benchmarks.measure import Row, row, worst
from tests.running import run

CASE = "other_hands"
FRAMES, OBJECTS = 60, ("can", "box", "bottle", "mug")
OFF_PX = 25.0  # the mean of a frame's joints: farther off, its hand is not where the picture shows it
TOLD = ("on_fail=warn", "source=synthetic", "segmenter=truth", "hand=mediapipe", "object_pose=truth")


def other_hands() -> dict[str, HandModel]:
    """Right hands by name in MANO's rest pose and vertex numbers, with a mesh of their own and without shapes or pose corrections."""
    with np.load(ASSET) as file:
        baked = {key: file[key] for key in file.files}
    weights = torch.from_numpy(baked["weights"].astype(np.float64))
    count = len(weights)
    return {
        str(name): HandModel(
            side="right",
            name=str(name),
            v_template=torch.from_numpy(UNIT_M * vertices),
            shapedirs=torch.zeros(count, 3, 10, dtype=torch.float64),
            posedirs=torch.zeros(count, 3, 135, dtype=torch.float64),
            J_regressor=torch.from_numpy(regressor.astype(np.float64)),
            weights=weights / weights.sum(1, keepdim=True),
            hand_mean=torch.from_numpy(mean_pose()),
            faces=torch.from_numpy(baked["faces"].astype(np.int64)),
            parents=PARENTS,
        )
        for name, vertices, regressor in zip(baked["names"], baked["vertices"], baked["J_regressor"], strict=True)
    }


def measure_other_hands(root: Path) -> Iterator[Row]:
    """Each hand holds an object and turns it; of its registration: PA-MPJPE, valid frames that are off, largest shape coefficient."""
    for k, (name, hand) in enumerate(other_hands().items()):
        truth, shots = make_scene(OBJECTS[k % len(OBJECTS)], "rigid", ("right",), FRAMES, seed=100 + k, hands={"right": hand})
        seq = Sequence(root, f"{CASE}_{name}")
        write_rendered(seq, truth, shots)
        told = (f"seq={seq.name}", *TOLD)
        for stage in ("segment", "hand_pose", "object_pose", "register"):
            run(root, root / "out", f"stage={stage}", *told)
        judged = run(root, root / "out", "stage=evaluate", *told)["evaluate"]["metrics"]
        yield row(seq.name, "register", "pa_mpjpe_mm", worst(judged, "pa_mpjpe_mm"))
        yield from _judged(seq)


def _judged(seq: Sequence) -> Iterator[Row]:
    fits, truth = seq.read_npy("fit_slerp"), load_truth(seq.path("truth"))
    fit = fits["right"]
    model, valid = load_hand_model("right", dtype=torch.float64), np.asarray(fit["is_valid"]) > 0
    joints = lbs.forward(model, params_from_dict(fit)).joints.numpy()
    seen = project(truth.hands["right"].joints_m, truth.K)
    off_px = np.linalg.norm(project(joints, np.asarray(fits["K"])) - seen, axis=-1).mean(axis=1)
    yield row(seq.name, "register", "valid_pct", 100 * valid.mean())
    yield row(seq.name, "register", "valid_off_25px_pct", 100 * (off_px[valid] > OFF_PX).mean())
    yield row(seq.name, "register", "j2d_median_px", np.median(off_px[valid]))
    yield row(seq.name, "register", "largest_beta", np.abs(np.asarray(fit["betas"])).max())
