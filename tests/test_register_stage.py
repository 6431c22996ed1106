"""The register stage on a tracker's files: what it writes, counts and logs, what it refuses, and what alignment makes of filled frames."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from holdprep.errors import HoldprepError
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.hand import lbs
from holdprep.hand.mirror import mirrored
from holdprep.hand.model import ManoParams, Side, export_mano_pkl, load_hand_model
from holdprep.io import safeio
from holdprep.stages import align as align_stage
from tests.running import run
from tests.synthetic import make_sequence, write_truth

FRAMES = 12
K = pinhole_K(600.0, 640, 480)


def params(side: Side, frames: int = FRAMES) -> ManoParams:
    """A hand that turns and bends evenly before the camera."""
    t = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None]
    bend = torch.zeros(frames, 15, 3).double()
    bend[:, :12, 2] = (0.4 if side == "right" else -0.4) * t
    return ManoParams(
        0.4 * t.expand(-1, 3), bend.flatten(1), torch.linspace(-1, 1, 10).double(), torch.cat([0.1 * t, 0 * t, 0.6 + 0 * t], 1)
    )


def write(root: Path, hands: dict[Side, ManoParams], lost: tuple[int, ...] = (), **changes: np.ndarray) -> Path:
    """A sequence `s` as HaMeR leaves it, `changes` put in place of what v3d.npy holds; returns its processed folder."""
    folder, names = root / "s", [f"{t:04d}" for t in range(FRAMES)]
    (folder / "images").mkdir(parents=True)
    (folder / "processed").mkdir()
    for name in names:
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.zeros((480, 640, 3), np.uint8))
    v3d: dict[str, object] = {"im_paths": names, "K": K}
    j2d: dict[str, object] = {"im_paths": names}
    for side, p in hands.items():
        mesh = lbs.forward(load_hand_model(side, dtype=torch.float64), p)
        rows = np.isin(np.arange(FRAMES), lost)[:, None, None]
        v3d[f"v3d.{side}"] = np.where(rows, np.nan, mesh.vertices.numpy())
        j2d[f"j2d.{side}"] = np.where(rows, np.nan, project(mesh.joints.numpy(), K))
    for file, content in (("v3d", v3d | changes), ("j2d.full", j2d)):
        np.save(folder / "processed" / f"{file}.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder / "processed"


def register(root: Path, *told: str) -> dict:
    return run(root, root / "out", "stage=register", "seq=s", "on_fail=warn", *told)["register"]


def test_gaps_are_counted_filled_and_marked(tmp_path: Path):
    processed = write(tmp_path, {"right": params("right")}, lost=(0, 3, 4, 5, 8, 11))
    found = register(tmp_path)["metrics"]
    assert (found["right.infilled_frames"], found["right.longest_gap"], found["right.outlier_frames"]) == (6, 3, 0)
    assert found["right.valid_pct"] == 50
    assert "6 of 12 frames infilled (longest gap 3)" in json.loads((processed / ".holdprep" / "register.json").read_text())["notes"][-1]
    first, filled = (safeio.load_npy(processed / f"hold_fit.{kind}.npy")["right"] for kind in ("init", "slerp"))
    valid = filled["is_valid"] > 0
    assert np.flatnonzero(~valid).tolist() == [0, 3, 4, 5, 8, 11]
    truth = params("right")
    for key in ("global_orient", "hand_pose", "transl"):
        np.testing.assert_array_equal(filled[key][valid], first[key][valid])
        assert np.isfinite(filled[key]).all() and np.isnan(first[key][~valid]).all()
        np.testing.assert_array_equal(filled[key][[0, 11]], filled[key][[1, 10]])  # ends are held
    np.testing.assert_allclose(filled["transl"][3:6], truth.transl[3:6], atol=1e-4)  # motion was even: what is filled is the truth


@pytest.mark.parametrize("kind", ["meshes", "keypoints"])
def test_a_replaced_fit_is_judged_by_what_the_tracker_saw(tmp_path: Path, kind: str):
    joints_m = lbs.forward(load_hand_model("right", dtype=torch.float64), params("right")).joints.numpy()
    joints_m[[4, 5]] = np.nan
    given = {} if kind == "meshes" else {"keypoints.right": joints_m - joints_m[:, :1]}
    path = write(tmp_path, {"right": params("right")}, lost=(4, 5), **given) / "hold_fit.slerp.npy"
    own = register(tmp_path)["metrics"]
    fit = safeio.load_npy(path)
    safeio.save_npy(path, fit | {"note": "mine"})
    kept = register(tmp_path)
    assert kept["status"] == "kept"
    assert kept["metrics"].pop("hand_model") == own.pop("hand_model")
    assert kept["metrics"] == pytest.approx(own, rel=1e-3, abs=1e-3)
    assert len(own) > 15
    fit["right"]["global_orient"] += np.radians(60.0)
    safeio.save_npy(path, fit)
    judged = register(tmp_path)
    assert judged["metrics"]["right.error_mm"] > 20
    assert [g["metric"] for g in judged["gates"] if g["status"] == "fail"] == ["right.error_mm"]


def test_one_valid_frame_is_held(tmp_path: Path):
    processed = write(tmp_path, {"left": params("left")}, lost=tuple(t for t in range(FRAMES) if t != 4))
    assert register(tmp_path)["metrics"]["left.longest_gap"] == 7
    filled = safeio.load_npy(processed / "hold_fit.slerp.npy")["left"]
    np.testing.assert_allclose(filled["transl"], np.tile(params("left").transl[4], (FRAMES, 1)), atol=1e-4)


def test_fingers_beyond_their_limits_are_counted(tmp_path: Path):
    bent = params("right")
    bent.hand_pose.view(FRAMES, 15, 3)[[2, 3, 7], 1, 2] += np.radians(-110.0)  # an index finger folded backwards
    write(tmp_path, {"right": bent})
    assert register(tmp_path, "registration.outlier_z=1000")["metrics"]["right.beyond_limits_pct"] == pytest.approx(100 * 3 / FRAMES)


def test_files_of_the_wrong_hand_or_unit_are_refused(tmp_path: Path):
    left = lbs.forward(load_hand_model("left", dtype=torch.float64), params("left")).vertices.numpy()
    right = lbs.forward(load_hand_model("right", dtype=torch.float64), params("right")).vertices.numpy()
    for n, (vertices, told) in enumerate(
        (
            (left, "the right hand's vertices are a left hand's"),
            (1e3 * right, "millimetres"),
            (np.full_like(right, 0.5), "lie at one point"),
        )
    ):
        write(tmp_path / str(n), {"right": params("right")}, **{"v3d.right": vertices})
        for method in ("lm", "adam"):
            with pytest.raises(HoldprepError, match=told):
                register(tmp_path / str(n), f"registration={method}")


def test_a_trackers_own_parameters_are_taken_as_they_are(tmp_path: Path):
    p = params("left")
    rows = replace(p, betas=p.betas.expand(FRAMES, 10))
    processed = write(tmp_path, {"left": p}, lost=(5,), **{"params.left": {k: np.array(v) for k, v in vars(rows).items()}})
    found = register(tmp_path, "registration=direct")["metrics"]
    assert found["left.error_mm"] < 1e-3
    assert found["left.infilled_frames"] == 1
    filled = safeio.load_npy(processed / "hold_fit.slerp.npy")["left"]
    seen = filled["is_valid"] > 0
    for key, value in vars(rows).items():
        np.testing.assert_allclose(filled[key][seen], value.numpy()[seen], atol=1e-6)
    with pytest.raises(HoldprepError, match=r"hands.length_mm needs registration=lm"):
        register(tmp_path, "registration=direct", "hands.length_mm=185")


def test_parameters_that_are_not_there_are_asked_for(tmp_path: Path):
    write(tmp_path, {"right": params("right")})
    with pytest.raises(HoldprepError, match="no MANO parameters of the right hand"):
        register(tmp_path, "registration=direct")


def test_left_shapes_with_manos_wrong_sign_are_carried_over_and_said(tmp_path: Path):
    """A tracker mirrors its right hand; the left file's shape directions have the sign of x wrong, as MANO's published one has."""
    export_mano_pkl(tmp_path)
    data = safeio.load_pickle(tmp_path / "MANO_LEFT.pkl")
    data["shapedirs"] = data["shapedirs"] * np.array([-1.0, 1.0, 1.0])[:, None]
    (tmp_path / "MANO_LEFT.pkl").write_bytes(safeio.dump_portable(data))
    right, left = (load_hand_model(side, tmp_path, dtype=torch.float64) for side in ("right", "left"))
    hand = params("right")
    vertices = lbs.forward(right, hand).vertices * torch.tensor([-1.0, 1.0, 1.0])
    carried = mirrored(hand, right, left)
    given = {"v3d.left": vertices.numpy(), "params.left": {k: v.numpy() for k, v in vars(carried).items()}}
    processed = write(tmp_path, {"left": params("left")}, **given)
    found = register(tmp_path, "registration=direct", f"hand_model.path={tmp_path}")["metrics"]
    naive = lbs.forward(left, replace(carried, betas=hand.betas)).vertices
    naive_mm = 1e3 * float((naive - naive.mean(dim=1, keepdim=True) - vertices + vertices.mean(dim=1, keepdim=True)).norm(dim=-1).mean())
    assert 0.05 < found["left.error_mm"] < 0.8 * naive_mm  # better than the right hand's betas would be, even put in place
    (note,) = (n for n in json.loads((processed / ".holdprep" / "register.json").read_text())["notes"] if "own meshes" in n)
    assert f"{found['left.error_mm']:.2f} mm from its own meshes" in note
    taken = safeio.load_npy(processed / "hold_fit.slerp.npy")["left"]
    wrists = lbs.forward(left, ManoParams(*(torch.as_tensor(taken[k]).double() for k in vars(hand)))).joints[:, 0]
    np.testing.assert_allclose(wrists, lbs.forward(right, hand).joints[:, 0] * torch.tensor([-1.0, 1.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("lm", {"vertex", "joint_2d", "shape_prior", "pose_prior", "motion_prior", "noise.vertex", "noise.joint_2d", "loss"}),
        ("adam", {"vertex", "edge", "tip", "shape", "loss"}),
    ],
)
def test_every_loss_term_is_logged_every_iteration(tmp_path: Path, method: str, terms: set[str]):
    write(tmp_path, {"right": params("right"), "left": params("left")})
    adam = ("registration.max_iterations=5", "registration.shape_loss=true") if method == "adam" else ()
    register(tmp_path, "logger=csv", f"registration={method}", *adam)
    (file,) = (tmp_path / "out").rglob("metrics.csv")
    with file.open(newline="") as f:
        rows = list(csv.DictReader(f))
    for side in ("right", "left"):
        logged = {name: [float(r[f"register/{side}/{name}"]) for r in rows if r.get(f"register/{side}/{name}")] for name in terms}
        every = len(logged["loss"])
        assert every == 10 * FRAMES if method == "adam" else every >= 3
        late = {"tip", "shape"}  # of the fine part alone
        assert {name: len(values) for name, values in logged.items()} == {n: every // 2 if n in late else every for n in terms}
        sums = np.sum([logged[n] for n in terms - late - {"loss"} if not n.startswith("noise.")], axis=0)
        early = np.arange(every) // 5 % 2 == 0 if method == "adam" else np.arange(every) < every // 2  # five coarse, five fine a frame
        np.testing.assert_allclose(np.array(logged["loss"])[early], sums[early], rtol=1e-5)
        assert logged["loss"][-1] < logged["loss"][0]


def test_filled_frames_carry_no_weight_in_alignment_others_the_trackers_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_truth(make_sequence(("right",), frames=FRAMES), tmp_path / "s")
    told = ("seq=s", "hand=truth", "segmenter=truth", "object_pose=truth", "on_fail=warn", "hand.drop_pct=40")
    for stage in ("segment", "hand_pose", "register", "object_pose"):
        run(tmp_path, tmp_path / "out", f"stage={stage}", *told)
    j2d = tmp_path / "s" / "processed" / "j2d.full.npy"
    confidence = np.random.default_rng(0).uniform(0.1, 1, (FRAMES, 21))
    np.save(j2d, np.array(safeio.load_npy(j2d) | {"confidence.right": confidence}, dtype=object), allow_pickle=True)
    given = []

    def caught(mode: str, problem: object, *_: object) -> None:
        given.append(problem)
        raise HoldprepError("seen enough")

    monkeypatch.setattr(align_stage, "align", caught)
    with pytest.raises(HoldprepError, match="seen enough"):
        run(tmp_path, tmp_path / "out", "stage=align", "mode=h", *told)
    is_valid = safeio.load_npy(tmp_path / "s" / "processed" / "hold_fit.slerp.npy")["right"]["is_valid"]
    hand = given[0].hands["right"]
    assert 0 < is_valid.sum() < FRAMES
    np.testing.assert_allclose(hand.weight, is_valid[:, None] * confidence)
    assert np.isfinite(hand.params.hand_pose).all()
