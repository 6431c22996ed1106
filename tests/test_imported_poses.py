"""Object poses of other tools through the later stages: what they do not hold is unknown, which no gate counts as a failure."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from holdprep.geometry.rigid import apply
from holdprep.io import safeio, tracks
from holdprep.object.cloud import normalization_matrix
from holdprep.quality.bounds import is_missing
from holdprep.quality.gates import judge
from holdprep.sequence import Sequence
from holdprep.sequence import colmap as colmap_files
from tests.running import run
from tests.synthetic import RIGID_GRASP, SyntheticSequence, make_sequence, write_tracker_files

ASKED = ("seq=box", "segmenter=import", "on_fail=warn", RIGID_GRASP)
OTHERS = np.arange(600) % 3 > 0  # HOLD's script finds another cloud


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSequence, Path]:
    """A sequence whose object's poses are imported from a .npz, registered."""
    root = tmp_path_factory.mktemp("imported")
    seq = make_sequence(("right",), frames=10, size=(320, 240))
    write_tracker_files(seq, root / "data" / "box")
    np.savez(root / "poses.npz", T_cam_obj=seq.T_cam_obj, points_obj=seq.points_obj_m, K=seq.K)
    poses = ("object_pose=import", f"object_pose.path={root / 'poses.npz'}")
    for stage in ("create", "segment", "hand_pose", "object_pose", "register"):
        run(root / "data", root / stage, f"stage={stage}", *ASKED, *poses)
    return seq, root


def aligned(root: Path, case: str, *given: str) -> dict:
    """The metrics of every mode of alignment, on a copy of the sequence."""
    return {mode: outcome["metrics"] for mode, outcome in run(root / case, root / f"run_{case}", "stage=align", *ASKED, *given).items()}


def assert_known(stages: dict) -> None:
    for stage, metrics in stages.items():
        unknown = [gate.line() for gate in judge(stage, metrics) if is_missing(gate.value)]
        assert not unknown, stage
    assert stages["align.ho"]["object.scale"] == pytest.approx(1.0, rel=0.05)


def write_hold(folder: Path, seq: SyntheticSequence, points: np.ndarray) -> None:
    """colmap/'s arrays and cloud as HOLD's script writes them."""
    matrix = normalization_matrix(points)
    for name, array in (("intrinsic", seq.K), ("o2w", seq.T_cam_obj), ("normalization_mat", matrix)):
        np.save(folder / f"{name}.npy", array)
    lines = ("v {:.8f} {:.8f} {:.8f}\n".format(*p) for p in apply(matrix, points))
    (folder / "sparse_points_normalized.obj").write_text("".join(lines))


@pytest.mark.parametrize("left", ["no observations", "no tracks", "stale tracks without a digest"])
def test_what_another_tool_does_not_know_fails_no_gate(registered: tuple[SyntheticSequence, Path], left: str) -> None:
    seq, root = registered
    case = left.replace(" ", "_")
    shutil.copytree(root / "data", root / case)
    colmap = root / case / "box" / "processed" / "colmap"
    if left == "no tracks":
        (colmap / tracks.FILE).unlink()
    elif left.startswith("stale"):  # of more points, seen elsewhere: HOLD's own script has run since
        old = dict(safeio.load_npz(colmap / tracks.FILE))
        observed = np.full((5, 2), 3.0), np.arange(5), np.arange(595, 600)
        old |= {"observation_px": observed[0], "observation_frame": observed[1], "observation_point": observed[2], "lens": np.array(-0.2)}
        if "digest" in left:
            del old[tracks.DIGEST]
        np.savez(colmap / tracks.FILE, **old)
        write_hold(colmap, seq, seq.points_obj_m[OTHERS])
        assert set(colmap_files.read_colmap(Sequence(root / case, "box"))) == {"intrinsic", "o2w", "normalization_mat", "points_cano"}
    found = aligned(root, case)
    assert_known(found)
    assert not any("object.reprojection_px" in metrics for metrics in found.values())
