"""The demo's object poses with perturbed settings: frames registered, frames turned against the defaults' poses, error of the focal length.

As a command, `python -m tests.benchmarks --perturbed JOBS`. The true focal length is that of ViSP's calibration of the camera.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from holdprep.errors import HoldprepError
from holdprep.geometry.rigid import rotation_angle_deg
from holdprep.quality.gauge import rotation_gauge
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files
from tests.benchmarks.clips import unpack
from tests.benchmarks.measure import Row, row
from tests.running import run

FOCAL_PX = 605.0
FLIPPED_DEG = 25.0
DEFAULTS = ("object_pose=sift", "seed=0")
SETTINGS = (
    *(f"seed={seed}" for seed in range(1, 6)),
    *(f"object_pose.erode_px={px}" for px in (0, 1, 4)),
    *(f"object_pose.num_pairs={pairs}" for pairs in (20, 30, 60, 80)),
    *(f"object_pose.max_features={features}" for features in (1500, 2000, 6000)),
    *(f"object_pose.peak_threshold={peak}" for peak in (0.002, 0.01)),
    *(f"object_pose.upsample={factor}" for factor in (1.5, 3)),
    "object_pose.threads=1",
)


def measure_perturbed(root: Path, jobs: int) -> Iterator[Row]:
    """The defaults, then each setting alone, `jobs` at a time; a setting that is refused has the row `refused`."""
    unpack("demo", root)
    for stage in ("create", "segment"):
        run(root, root / "out", f"stage={stage}", "seq=demo", "on_fail=warn")
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        found = dict(zip(("defaults", *SETTINGS), pool.map(_rotations, repeat(root), ("seed=0", *SETTINGS)), strict=True))
    reference = found["defaults"]
    if isinstance(reference, str):
        raise HoldprepError(reference)
    for setting, result in found.items():
        case = f"demo: {setting}"
        if isinstance(result, str):
            print(f"{case}: {result}")
            yield row(case, "object_pose", "refused", 1.0)
            continue
        focal_px, registered, R = result
        both = registered & reference[1]
        away = rotation_angle_deg(R @ rotation_gauge(R[both], reference[2][both]), reference[2])
        yield row(case, "object_pose", "registered_pct", 100 * float(registered.mean()))
        yield row(case, "object_pose", "flipped_frames", float((away[registered] > FLIPPED_DEG).sum()))
        yield row(case, "object_pose", "rotation_away_deg_median", float(np.median(away[both])))
        yield row(case, "object_pose", "focal_error_pct", 100 * (focal_px / FOCAL_PX - 1))


def _rotations(root: Path, setting: str) -> tuple[float, np.ndarray, np.ndarray] | str:
    """Focal length (px), registered (T,), rotations R_cam_obj (T, 3, 3) of a copy of the sequence with one setting; the error of a refusal."""
    own = root / setting.replace("=", "_")
    shutil.copytree(root / "demo", own / "demo", dirs_exist_ok=True)
    given = [one for one in DEFAULTS if one.partition("=")[0] != setting.partition("=")[0]]
    try:
        run(own, own / "out", "stage=object_pose", "seq=demo", "on_fail=warn", *given, setting)
    except HoldprepError as error:
        return str(error)
    found = colmap_files.read_colmap(Sequence(own, "demo"))
    return float(found["intrinsic"][0, 0]), found["registered"] > 0, found["o2w"][:, :3, :3]
