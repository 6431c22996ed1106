"""Our own file of ground truth, and two data sets' layouts as small files written here."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from holdprep.errors import HoldprepError, UnsafeFile
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.rigid import apply, from_rt
from holdprep.hand import lbs
from holdprep.hand.model import SIDES, HandModel, ManoParams, Side, load_hand_model
from holdprep.quality.truth import GroundTruth, HandTruth, load_truth, read_arctic, read_ho3d, rigid_fit, save_truth

T = 3
K = pinhole_K(600.0, 640, 480)
FLIP = np.diag([1.0, -1.0, -1.0])


@pytest.fixture(scope="module")
def models() -> dict[Side, HandModel]:
    return {side: load_hand_model(side, dtype=torch.float64) for side in SIDES}


def some_params(seed: int) -> ManoParams:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(T, 3)), 0.2 * rng.normal(size=(T, 45)), np.tile(rng.normal(size=10), (T, 1)), rng.normal(size=(T, 3)) * 0.1)
    return ManoParams(*(torch.as_tensor(v) for v in values))


def some_poses(seed: int) -> np.ndarray:
    return from_rt(Rotation.random(T, random_state=seed).as_matrix(), np.random.default_rng(seed).uniform(-0.1, 0.1, (T, 3)))


# our own file


def test_a_truth_comes_back_as_it_was(tmp_path: Path):
    params = some_params(0)
    hands: dict[Side, HandTruth] = {"left": HandTruth(params, np.ones((T, 778, 3)), np.full((T, 21, 3), np.nan)), "right": HandTruth()}
    truth = GroundTruth(
        ["0003", "0001", "b"], (640, 480), K, -0.05, some_poses(1), np.eye(3), np.array([[0, 1, 2]]), hands, "regrasp",
        np.array([0, 0, 1]), np.array([True, False, True]),
    )  # fmt: skip
    save_truth(tmp_path / "truth.npz", truth)
    found = load_truth(tmp_path / "truth.npz")
    assert (found.names, found.image_size, found.distortion, found.grasp) == (truth.names, (640, 480), -0.05, "regrasp")
    for key in ("K", "T_cam_obj", "object_vertices_m", "object_faces", "segments", "contact"):
        np.testing.assert_array_equal(getattr(found, key), getattr(truth, key))
    assert set(found.hands) == {"left"}  # a hand of which nothing is known is not there
    np.testing.assert_array_equal(found.hands["left"].joints_m, hands["left"].joints_m)
    assert found.hands["left"].params is not None
    assert torch.equal(found.hands["left"].params.betas, params.betas)
    assert found.contact is not None and found.contact.dtype == bool
    assert [file.name for file in tmp_path.iterdir()] == ["truth.npz"]


def test_what_is_not_known_stays_unknown(tmp_path: Path):
    save_truth(tmp_path / "truth.npz", GroundTruth(["a"], (4, 3), K))
    found = load_truth(tmp_path / "truth.npz")
    assert (found.T_cam_obj, found.object_vertices_m, found.segments, found.hands) == (None, None, None, {})


class Shell:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_files_that_are_no_truth_are_one_line(tmp_path: Path, capsys):
    np.savez(tmp_path / "other.npz", a=1)
    np.savez(tmp_path / "pickled.npz", names=np.array([Shell()], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:60])
    for name in ("other.npz", "pickled.npz", "array.npy", "text.npz", "cut.npz", "absent.npz"):
        with pytest.raises(HoldprepError, match=name) as error:
            load_truth(tmp_path / name)
        assert "\n" not in str(error.value)
    assert "must not run" not in capsys.readouterr().out


def test_a_truth_that_contradicts_itself_is_refused():
    with pytest.raises(HoldprepError, match="names frame a twice"):
        GroundTruth(["a", "b", "a"], (4, 3), K)
    with pytest.raises(HoldprepError, match=r"holds 2 frames, but its left.joints_m has 3"):
        GroundTruth(["a", "b"], (4, 3), K, hands={"left": HandTruth(joints_m=np.zeros((3, 21, 3)))})


# HO-3D


def write_ho3d(folder: Path, model: HandModel) -> tuple[lbs.HandMesh, np.ndarray]:
    """Meta files as HO-3D v3's, in OpenGL's axes; the hand and T_cam_obj as they are in OpenGL's axes too."""
    params, T_gl = some_params(2), some_poses(3)
    mesh = lbs.forward(model, params)
    (folder / "meta").mkdir(parents=True)
    full_pose = torch.cat([params.global_orient, params.hand_pose + model.hand_mean], dim=1).numpy()
    for t in range(T):
        frame = {
            "objName": "003_cracker_box",
            "objLabel": 2,
            "camMat": K,
            "handPose": full_pose[t],
            "handTrans": params.transl[t].numpy(),
            "handBeta": params.betas[t].numpy(),
            "handJoints3D": mesh.joints[t].numpy(),
            "objRot": Rotation.from_matrix(T_gl[t, :3, :3]).as_rotvec().reshape(3, 1),
            "objTrans": T_gl[t, :3, 3],
        }
        (folder / "meta" / f"{7 * t:04d}.pkl").write_bytes(pickle.dumps(frame, protocol=2))
    unknown = dict.fromkeys(frame) | {"camMat": K}
    (folder / "meta" / "0099.pkl").write_bytes(pickle.dumps(unknown, protocol=2))
    return mesh, T_gl


def test_ho3d_in_opencv_axes(tmp_path: Path, models):
    mesh, T_gl = write_ho3d(tmp_path, models["right"])
    truth = read_ho3d(tmp_path)
    assert truth.names == ["0000", "0007", "0014", "0099"]
    assert truth.image_size == (640, 480)
    np.testing.assert_array_equal(truth.K, K)
    point = np.array([[0.01, 0.02, 0.03]])
    np.testing.assert_allclose(apply(truth.T_cam_obj[:3], point), apply(T_gl, point) * [1, -1, -1], atol=1e-12)
    assert np.linalg.det(truth.T_cam_obj[:3, :3, :3]) == pytest.approx([1, 1, 1])
    hand = truth.hands["right"]
    np.testing.assert_allclose(hand.joints_m[:3], mesh.joints.numpy() * [1, -1, -1], atol=1e-12)
    assert hand.params is None and hand.vertices_m is None
    assert np.isnan(truth.T_cam_obj[3, :3]).all() and np.isnan(hand.joints_m[3]).all()


def test_ho3d_with_the_hand_model_knows_mesh_and_parameters(tmp_path: Path, models):
    mesh, _ = write_ho3d(tmp_path, models["right"])
    hand = read_ho3d(tmp_path, models).hands["right"]
    np.testing.assert_allclose(hand.vertices_m[:3], mesh.vertices.numpy() * [1, -1, -1], atol=1e-9)
    np.testing.assert_allclose(hand.params.hand_pose[:3], some_params(2).hand_pose, atol=1e-9)  # the mean pose is taken out
    assert np.isnan(hand.vertices_m[3]).all()


def test_ho3d_with_another_hand_s_model_is_refused(tmp_path: Path, models):
    write_ho3d(tmp_path, models["right"])
    other = load_hand_model("right", dtype=torch.float64)
    larger = HandModel(**(vars(other) | {"v_template": 1.2 * other.v_template}))
    with pytest.raises(HoldprepError, match=r"another hand model .* joints differ by up to \d+ mm \(limit 5\)"):
        read_ho3d(tmp_path, {"right": larger})


def test_ho3d_with_the_object_s_mesh(tmp_path: Path, models):
    write_ho3d(tmp_path / "seq", models["right"])
    box = trimesh.creation.box((0.1, 0.2, 0.3))
    with pytest.raises(HoldprepError, match=r"textured_simple\.obj does not exist"):
        read_ho3d(tmp_path / "seq", ycb=tmp_path / "ycb")
    (tmp_path / "ycb" / "models" / "003_cracker_box").mkdir(parents=True)
    box.export(tmp_path / "ycb" / "models" / "003_cracker_box" / "textured_simple.obj")
    truth = read_ho3d(tmp_path / "seq", ycb=tmp_path / "ycb")
    assert np.ptp(truth.object_vertices_m, axis=0) == pytest.approx([0.1, 0.2, 0.3])
    assert truth.object_faces.shape == (12, 3)


def test_the_evaluation_split_of_ho3d_knows_no_hand(tmp_path: Path):
    (tmp_path / "meta").mkdir()
    frame = {"objName": "x", "camMat": K, "handJoints3D": np.zeros(3), "objRot": np.zeros(3), "objTrans": np.zeros(3)}
    (tmp_path / "meta" / "0000.pkl").write_bytes(pickle.dumps(frame))
    assert np.isnan(read_ho3d(tmp_path).hands["right"].joints_m).all()


@pytest.mark.parametrize("key", ["objRot", "objTrans", "camMat", "handJoints3D", "objName"])
def test_a_missing_key_of_ho3d_is_named(tmp_path: Path, models, key: str):
    write_ho3d(tmp_path, models["right"])
    file = tmp_path / "meta" / "0007.pkl"
    frame = pickle.loads(file.read_bytes())
    del frame[key]
    file.write_bytes(pickle.dumps(frame))
    with pytest.raises(HoldprepError, match=f"0007.pkl has no '{key}'"):
        read_ho3d(tmp_path)


def test_ho3d_files_are_read_without_running_them(tmp_path: Path, capsys):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "0000.pkl").write_bytes(pickle.dumps({"camMat": Shell()}))
    with pytest.raises(UnsafeFile):
        read_ho3d(tmp_path)
    assert "must not run" not in capsys.readouterr().out
    with pytest.raises(HoldprepError, match=r"holds no .pkl"):
        read_ho3d(tmp_path / "meta")


# ARCTIC

VIEWS = 10  # of points; the last, the distorted egocentric camera, has no rotations


def write_arctic(file: Path, models: dict[Side, HandModel], verts: bool, lid_rad: float = 0.0) -> dict:
    """A processed sequence as scripts_data/process_seqs.py writes it; returns what the cameras see, by side, and the poses."""
    rng = np.random.default_rng(5)
    box = trimesh.creation.box((0.1, 0.2, 0.3))
    params = {side: some_params(6 + i) for i, side in enumerate(SIDES)}
    meshes = {side: lbs.forward(models[side], params[side]) for side in SIDES}
    T_world_obj = some_poses(8)
    T_cam_world = from_rt(Rotation.random(VIEWS, random_state=9).as_matrix(), np.array([0, 0, 1.5]) + rng.uniform(-0.1, 0.1, (VIEWS, 3)))
    Ks = [pinhole_K(1000.0 + 10 * v, 2000 + v, 2800 - v) for v in range(VIEWS)]
    world = {f"joints.{side}": meshes[side].joints.numpy() for side in SIDES}
    world |= {"kp3d": apply(T_world_obj, rng.uniform(-0.1, 0.1, (32, 3))), "bbox3d": apply(T_world_obj, rng.uniform(-0.1, 0.1, (16, 3)))}
    world["rot_r"] = params["right"].global_orient.numpy()
    if verts:
        world |= {f"verts.{side}": meshes[side].vertices.numpy() for side in SIDES}
        padded = np.concatenate([box.vertices, np.zeros((5, 3))])
        world["verts.object"] = apply(T_world_obj, padded)
        world |= {"f": np.tile(np.concatenate([box.faces, np.zeros((4, 3))]), (T, 1, 1)), "f_len": np.full(T, 12), "v_len": np.full(T, 8)}
        world["parts_ids"] = np.tile(np.r_[np.where(box.vertices[:, 2] > 0, 1, 2), np.zeros(5, int)], (T, 1))
    points = {key: value for key, value in world.items() if key.startswith(("joints", "verts", "kp3d", "bbox3d"))}
    cam = {key: np.stack([apply(T_cam_world[v][None], value) for v in range(VIEWS)], axis=1) for key, value in points.items()}
    px = {key: np.stack([project(cam[key][:, v], Ks[v]) for v in range(VIEWS)], axis=1) for key in points if "verts" not in key}
    valid = np.ones((T, VIEWS - 1), int)
    cam |= {"is_valid": valid.copy(), "right_valid": valid.copy(), "left_valid": valid}
    cam["right_valid"][1, 4] = 0
    cam["is_valid"][2, 4] = 0
    stored = {"obj_arti": np.linspace(0, lid_rad, T), "obj_rot": Rotation.from_matrix(T_world_obj[:, :3, :3]).as_rotvec()}
    stored |= {"obj_trans": 1000 * T_world_obj[:, :3, 3]}  # millimetres, as in the raw sequences
    for side, p in params.items():
        values = zip(("rot", "pose", "shape", "trans"), (p.global_orient, p.hand_pose, p.betas, p.transl), strict=True)
        stored |= {f"{key}_{side[0]}": value.numpy() for key, value in values}
    np.save(file, {"world_coord": world, "cam_coord": cam, "2d": px, "bbox": np.zeros((T, 9, 3)), "params": stored})
    return {"cam": cam, "T_cam_obj": T_cam_world[4] @ T_world_obj, "K": Ks[4], "box": box}


def test_arctic_one_view(tmp_path: Path, models):
    made = write_arctic(tmp_path / "box_grab_01.npy", models, verts=False)
    truth = read_arctic(tmp_path / "box_grab_01.npy", 4, (2004, 2796), first=2, models=models)
    assert truth.names == ["00002", "00003", "00004"]
    assert truth.image_size == (2004, 2796)
    np.testing.assert_allclose(truth.K, made["K"], atol=1e-6)
    np.testing.assert_allclose(truth.T_cam_obj[:2], made["T_cam_obj"][:2], atol=1e-9)
    assert np.isnan(truth.T_cam_obj[2]).all()  # outside the image
    assert truth.object_vertices_m is None
    for side in SIDES:
        hand, seen = truth.hands[side], [0, 2] if side == "right" else [0, 1, 2]
        np.testing.assert_allclose(hand.joints_m[seen], made["cam"][f"joints.{side}"][seen, 4], atol=1e-9)
        # the parameters in the camera's frame make the hand that the camera sees
        np.testing.assert_allclose(lbs.forward(models[side], hand.params).joints[seen], hand.joints_m[seen], atol=1e-9)
        assert hand.vertices_m.shape == (T, 778, 3)
    assert np.isnan(truth.hands["right"].joints_m[1]).all() and torch.isnan(truth.hands["right"].params.transl[1]).all()


def test_arctic_with_meshes_in_the_file(tmp_path: Path, models):
    made = write_arctic(tmp_path / "s.npy", models, verts=True)
    truth = read_arctic(tmp_path / "s.npy", 4, (2004, 2796))
    np.testing.assert_allclose(truth.object_vertices_m, made["box"].vertices, atol=1e-9)
    np.testing.assert_array_equal(truth.object_faces, made["box"].faces)
    np.testing.assert_allclose(truth.hands["left"].vertices_m, made["cam"]["verts.left"][:, 4], atol=1e-12)


def test_of_an_articulated_object_the_base_is_the_rigid_body(tmp_path: Path, models):
    made = write_arctic(tmp_path / "s.npy", models, verts=True, lid_rad=0.5)
    truth = read_arctic(tmp_path / "s.npy", 4, (2004, 2796))
    assert (truth.object_vertices_m[:, 2] < 0).all()  # the lid is the half above
    whole = made["box"].vertices[made["box"].faces]
    assert truth.object_faces.shape == (int((whole[:, :, 2] < 0).all(axis=1).sum()), 3)


def test_arctic_s_faults_are_one_line(tmp_path: Path, models):
    write_arctic(tmp_path / "s.npy", models, verts=False)
    with pytest.raises(HoldprepError, match="no view 9"):
        read_arctic(tmp_path / "s.npy", 9, (1, 1))
    data = np.load(tmp_path / "s.npy", allow_pickle=True).item()
    for outer, key in (("params", "obj_trans"), ("cam_coord", "joints.left"), ("world_coord", "kp3d"), ("2d", "bbox3d")):
        np.save(tmp_path / "cut.npy", data | {outer: {k: v for k, v in data[outer].items() if k != key}})
        with pytest.raises(HoldprepError, match=rf"cut.npy has no '{key}'"):
            read_arctic(tmp_path / "cut.npy", 1, (1, 1))
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(HoldprepError, match=r"array\.npy has no 'world_coord'"):
        read_arctic(tmp_path / "array.npy", 1, (1, 1))


def test_rigid_fit_of_a_flat_shape_is_a_rotation():
    square = np.array([[[1.0, 1, 0], [1, -1, 0], [-1, 1, 0], [-1, -1, 0]]])  # flat: a mirror image would fit as well
    R = Rotation.from_euler("xyz", [30, 40, 50], degrees=True).as_matrix()
    found = rigid_fit(square, square @ R.T + [1, 2, 3])
    np.testing.assert_allclose(found[0], from_rt(R, np.array([1.0, 2, 3])), atol=1e-12)
