"""From a tracker's files and masks to a build, for every set of hands, against exact truth."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from holdprep.config.schema import Loggers
from holdprep.errors import HoldprepError, MissingArtefact
from holdprep.geometry import rigid
from holdprep.io import safeio
from holdprep.pipeline import Context
from holdprep.runlog import RunLog
from holdprep.sequence import Sequence
from holdprep.stages import GRAPH
from tests.running import composed, run
from tests.synthetic import SyntheticSequence, make_sequence, write_tracker_files

FRAMES = 24
# the focal length is given: what is tested is where things are, and a focal length off by q puts depths off by q
ASKED = ("seq=box", "segmenter=import", "on_fail=warn", "object_pose.min_registered_pct=50", "object_pose.focal_px=640")


@pytest.fixture(scope="module", params=[("right",), ("left",), ("right", "left")], ids="-".join)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SyntheticSequence, Path, dict]:
    """A whole run on a rendered sequence; one hand is lost in a few frames."""
    root = tmp_path_factory.mktemp("-".join(request.param))
    seq = make_sequence(request.param, frames=FRAMES)
    write_tracker_files(seq, root / "data" / "box", lost={request.param[0]: (9, 10)})
    stages = run(root / "data", root / "run", "stage=all", *ASKED)
    return seq, root, stages


def test_every_stage_ran_or_kept_what_others_made(prepared):
    _, _, stages = prepared
    status = {name: s["status"] for name, s in stages.items()}
    assert status.pop("create") == status.pop("hand_pose") == "kept"
    assert set(status) == {"segment", "register", "object_pose", "resegment", "align.h", "align.o", "align.ho", "build", "report"}
    assert set(status.values()) == {"done"}


# what a fit alone knows, and the cloud before it was trimmed
NOT_IN_FILES = (
    "outlier_frames",
    "object_pose.points",
    "track_length",
    "object_pose.reprojection_px",
    "mask_covered_pct",
    "cloud_outside_pct",
    "mask_lost_frames_pct",
)


def test_files_alone_give_the_numbers_that_their_run_gave(prepared, tmp_path: Path):
    """What others make in a stage's place is held to the same gates."""
    _, root, stages = prepared
    cfg = composed(f"data_root={root / 'data'}", *ASKED)
    seq = Sequence(root / "data", "box")
    runlog = RunLog(Loggers(), "box", tmp_path, None, {})
    compared = {}
    for stage in (s for s in GRAPH if s.measure is not None):
        measured = stage.measure(Context(cfg, seq, runlog, tmp_path, stage.name)).metrics
        known = {k: v for k, v in stages[stage.name]["metrics"].items() if not f"{stage.name}.{k}".endswith(NOT_IN_FILES)}
        numbers = {k: v for k, v in measured.items() if isinstance(v, int | float) and k in known and known[k] is not None}
        assert numbers == pytest.approx({k: known[k] for k in numbers}, rel=0.02, abs=0.02, nan_ok=True), stage.name
        compared[stage.name] = len(numbers)
    least = {
        "create": 3,
        "segment": 8,
        "hand_pose": 2,
        "object_pose": 6,
        "register": 20,
        "align.h": 5,
        "align.o": 8,
        "align.ho": 10,
        "build": 5,
    }
    assert {name: count >= least[name] for name, count in compared.items()} == dict.fromkeys(least, True), compared


def test_hands_and_object_are_where_they_are_in_truth(prepared):
    seq, root, stages = prepared
    fit = safeio.load_npy(root / "data" / "box" / "processed" / "hold_fit.aligned.npy")
    o2w, scale = fit["object"]["o2w_all"], float(fit["object"]["obj_scale"][0])
    true_depth = seq.T_cam_obj[:, 2, 3]
    # SfM's frame is free: compare turns between frames, and the depth of the cloud's middle
    turned, true_turn = (rigid.rotation_angle_deg(R[:-1], R[1:]) for R in (o2w[:, :3, :3], seq.T_cam_obj[:, :3, :3]))
    assert np.median(np.abs(turned - true_turn)) < 1.0
    middle = np.median(fit["object"]["j3d"], axis=1)
    assert np.median(np.abs(middle[:, 2] / true_depth - 1)) < 0.05
    assert scale > 0
    for side, vertices in seq.vertices_m.items():
        error = np.linalg.norm(fit[side]["v3d"] - vertices, axis=-1).mean(axis=1)
        assert np.median(error) < 0.02
        px = np.linalg.norm(fit[side]["j2d"] - seq.j2d_px[side], axis=-1)
        assert np.median(px) < 3
    assert stages["object_pose"]["metrics"]["registered_pct"] > 90


def test_the_build_is_what_the_trainer_reads(prepared):
    seq, root, stages = prepared
    build = root / "data" / "box" / "build"
    data = safeio.load_npy(build / "data.npy")
    assert set(data) == {"seq_name", "cameras", "scene_bounding_sphere", "max_radius_ratio", "entities", "normalize_shift"}
    assert data["cameras"]["scale_mat_0"].dtype == data["cameras"][f"world_mat_{FRAMES - 1}"].dtype == np.float32
    assert set(data["entities"]) == {*seq.params, "object"}
    for side in seq.params:
        hand = data["entities"][side]
        assert (hand["hand_poses"].shape, hand["hand_trans"].shape, hand["mean_shape"].shape) == ((FRAMES, 48), (FRAMES, 3), (10,))
    obj = data["entities"]["object"]
    assert obj["object_poses"].shape == (FRAMES, 6)
    assert isinstance(obj["obj_scale"], float)
    assert obj["norm_mat"].dtype == np.float32
    assert [p.name for p in sorted((build / "image").iterdir())] == [f"{t:04d}.png" for t in range(FRAMES)]
    assert len((build / "corres.txt").read_text().split()) == FRAMES == len(list((build / "mask").iterdir()))
    metrics = stages["build"]["metrics"]
    assert metrics["roundtrip_px"] < 0.01
    assert metrics["object_in_rays_pct"] == metrics["hand_in_rays_pct"] == 100
    assert metrics["trainable"] is False
    with zipfile.ZipFile(root / "data" / "box.zip") as archive:
        names = archive.namelist()
    assert "box/build/data.npy" in names
    assert not any("vis" in n for n in names)


def test_artefacts_have_the_layout_of_the_contract(prepared):
    seq, root, _ = prepared
    processed = root / "data" / "box" / "processed"
    for name, shape in (("intrinsic", (3, 3)), ("normalization_mat", (4, 4)), ("o2w", (FRAMES, 4, 4))):
        assert safeio.load_npy(processed / "colmap" / f"{name}.npy").shape == shape
    for name in ("sparse_points.ply", "sparse_points_trim.ply", "sparse_points_normalized.obj", "poses.npy"):
        assert (processed / "colmap" / name).is_file()
    assert safeio.load_npy(processed / "colmap_2d" / "keypoints.npy").shape[0] == FRAMES
    slerp = safeio.load_npy(processed / "hold_fit.slerp.npy")
    first = next(iter(seq.params))
    assert set(slerp) == {*seq.params, "K"}
    np.testing.assert_array_equal(slerp["K"], safeio.load_npy(processed / "colmap" / "intrinsic.npy"))
    assert slerp[first]["is_valid"].tolist() == [0.0 if t in (9, 10) else 1.0 for t in range(FRAMES)]
    assert np.isnan(safeio.load_npy(processed / "hold_fit.init.npy")[first]["hand_pose"][9]).all()
    assert {k: v.shape for k, v in slerp[first].items()} == {
        "global_orient": (FRAMES, 3), "hand_pose": (FRAMES, 45), "betas": (FRAMES, 10), "transl": (FRAMES, 3), "is_valid": (FRAMES,)
    }  # fmt: skip
    assert all((processed / "mano_fit_ckpt" / m / "last.ckpt").is_file() for m in ("h", "o", "ho"))


def test_nothing_runs_twice_and_a_weight_reruns_align_alone(prepared):
    _, root, _ = prepared
    again = run(root / "data", root / "again", "stage=all", *ASKED)
    assert {n: s["status"] for n, s in again.items() if s["status"] == "done"} == {}
    other = run(root / "data", root / "other", "stage=all", *ASKED, "weights.contact=50")
    done = [n for n, s in other.items() if s["status"] == "done"]
    assert done == ["align.h", "align.o", "align.ho", "build", "report"]
    kept = run(root / "data", root / "kept_weights", "stage=all", *ASKED)  # a weight given once stays
    assert {s["status"] for s in kept.values()} == {"skipped", "kept"}


def test_a_replaced_artefact_is_kept_and_measured_until_forced(prepared):
    _, root, _ = prepared
    path = root / "data" / "box" / "processed" / "hold_fit.slerp.npy"
    original = path.read_bytes()
    fit = safeio.load_npy(path)
    safeio.save_npy(path, fit | {"note": "mine"})
    try:
        kept = run(root / "data", root / "kept", "stage=register", *ASKED)
        assert kept["register"]["status"] == "kept"
        measured, recorded = kept["register"]["metrics"], prepared[2]["register"]["metrics"]
        assert measured["hand_model"] == recorded["hand_model"]
        numbers = {k: v for k, v in measured.items() if isinstance(v, int | float) and not k.endswith("outlier_frames")}
        # the same fit: measured from the files it is as good
        assert len(numbers) > 5 and numbers == pytest.approx({k: recorded[k] for k in numbers}, rel=0.02, abs=0.02)
        assert safeio.load_npy(path)["note"] == "mine"
        forced = run(root / "data", root / "forced", "stage=register", "force=true", *ASKED)
        assert forced["register"]["status"] == "done"
    finally:
        path.write_bytes(original)


def test_an_interrupted_stage_runs_again(prepared):
    _, root, _ = prepared
    marker = root / "data" / "box" / "processed" / ".holdprep" / "register.running"
    marker.touch()
    assert run(root / "data", root / "resumed", "stage=register", *ASKED)["register"]["status"] == "done"
    assert not marker.exists()


def test_a_sweeps_job_writes_beside_the_sequence(prepared):
    _, root, _ = prepared
    folder = root / "data" / "box" / "processed"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    stages = run(root / "data", root / "job", "stage=align", "mode=ho", "weights.contact=7", *ASKED, group="sweep")
    assert stages["align.ho"]["status"] == "done"
    assert (root / "job" / "box" / "processed" / "mano_fit_ckpt" / "ho" / "last.ckpt").is_file()
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_missing_stage_is_named(tmp_path: Path):
    seq = make_sequence(("right",), frames=2)
    write_tracker_files(seq, tmp_path / "data" / "box")
    with pytest.raises(MissingArtefact, match="stage=register"):
        run(tmp_path / "data", tmp_path / "run", "stage=align", "mode=h", *ASKED)
    with pytest.raises(HoldprepError, match="no video"):
        run(tmp_path / "data", tmp_path / "run2", "stage=create", "seq=none")
