"""The stand-in hand is in MANO's layout; MANO's files are read without executing code."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch

from holdprep.errors import HoldprepError
from holdprep.hand import lbs
from holdprep.hand.joints import MANO21_TIP_VERTICES, WRIST_RING
from holdprep.hand.model import SIDES, ManoParams, export_mano_pkl, load_hand_model
from holdprep.io import safeio


def params(frames: int, seed: int = 0) -> ManoParams:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return ManoParams(normal(frames, 3), 0.3 * normal(frames, 45), normal(10), 0.1 * normal(frames, 3))


def test_right_standin_has_manos_rest_pose():
    model = load_hand_model("right", dtype=torch.float64)
    joints = model.J_regressor @ model.v_template
    np.testing.assert_allclose(joints[0], [0.096, 0.006, 0.006], atol=0.006)
    tips = model.v_template[list(MANO21_TIP_VERTICES)]
    assert (tips[1:, 0] < -0.03).all()  # fingers along -x
    assert tips[0, 2] > 0.06  # thumb at +z
    assert tips[4, 2] < -0.03  # little finger at -z
    chain = torch.cat([joints[[0, 4, 5, 6]], tips[2:3]])
    assert float((chain[1:] - chain[:-1]).norm(dim=1).sum()) == pytest.approx(0.182, abs=0.003)


@pytest.mark.parametrize("side", SIDES)
def test_mesh_is_a_disc_whose_edge_is_the_wrist_ring(side: str):
    model = load_hand_model(side)
    faces = model.faces.numpy()
    assert faces.shape == (1538, 3)
    edges = Counter(tuple(sorted((int(f[i]), int(f[i - 1])))) for f in faces for i in range(3))
    boundary = {e for e, n in edges.items() if n == 1}
    assert max(edges.values()) == 2
    assert 778 - len(edges) + 1538 == 1
    ring = {tuple(sorted((a, b))) for a, b in zip(WRIST_RING, (*WRIST_RING[1:], WRIST_RING[0]), strict=True)}
    assert boundary == ring
    v = model.v_template.numpy()
    cap = np.array([[WRIST_RING[i - 1], WRIST_RING[i], 778] for i in range(16)])  # how HOLD's trainer seals a right hand
    closed = np.concatenate([faces, cap if side == "right" else cap[:, [1, 0, 2]]])
    full = np.vstack([v, v[list(WRIST_RING)].mean(axis=0)])
    directed = Counter((int(f[i]), int(f[(i + 1) % 3])) for f in closed for i in range(3))
    assert max(directed.values()) == 1  # every edge once each way: one outside
    volume = np.einsum("fi,fi->f", np.cross(full[closed[:, 0]], full[closed[:, 1]]), full[closed[:, 2]]).sum() / 6
    assert 2e-4 < volume < 6e-4  # m^3, outward: an adult's hand is about 0.35 litres


def test_weights_and_regressor_are_convex():
    model = load_hand_model("right", dtype=torch.float64)
    for table in (model.weights, model.J_regressor):
        assert float(table.min()) >= 0
        np.testing.assert_allclose(table.sum(dim=1), 1, atol=1e-5)


def test_positive_z_bends_every_finger_towards_the_palm():
    model = load_hand_model("right", dtype=torch.float64)
    flat = torch.zeros(1, 45).double() - model.hand_mean
    bent = flat.reshape(15, 3).clone()
    bent[:12, 2] += 0.8
    zero = torch.zeros(1, 3).double()
    tips = [lbs.forward(model, ManoParams(zero, p.reshape(1, 45), torch.zeros(10).double(), zero)).joints[0, 17:] for p in (flat, bent)]
    assert (tips[1][:, 1] < tips[0][:, 1] - 0.03).all()


def test_left_is_the_mirror_image():
    right, left = (load_hand_model(s, dtype=torch.float64) for s in SIDES)
    p = params(3)
    flip = torch.tensor([1.0, -1.0, -1.0]).double()
    mirrored = ManoParams(p.global_orient * flip, (p.hand_pose.reshape(3, 15, 3) * flip).reshape(3, 45), p.betas, p.transl * -flip * -1)
    mirrored = ManoParams(mirrored.global_orient, mirrored.hand_pose, p.betas, p.transl * torch.tensor([-1.0, 1, 1]).double())
    a, b = lbs.forward(right, p), lbs.forward(left, mirrored)
    np.testing.assert_allclose(a.vertices * torch.tensor([-1.0, 1, 1]), b.vertices, atol=1e-9)


@pytest.mark.parametrize("side", SIDES)
def test_forward_equals_smplx_on_the_exported_file(side: str, tmp_path: Path):
    export_mano_pkl(tmp_path)
    file = tmp_path / f"MANO_{side.upper()}.pkl"
    layer = smplx.create(str(file), model_type="mano", is_rhand=side == "right", use_pca=False, flat_hand_mean=False, dtype=torch.float64)
    p = params(4)
    theirs = layer(global_orient=p.global_orient, hand_pose=p.hand_pose, betas=p.betas.expand(4, 10), transl=p.transl)
    model = load_hand_model(side, tmp_path, dtype=torch.float64)
    ours = lbs.forward(model, p)
    np.testing.assert_allclose(ours.vertices, theirs.vertices.detach(), atol=1e-7)
    np.testing.assert_allclose(ours.joints[:, :16], theirs.joints[:, :16].detach(), atol=1e-7)
    assert model.name == "standin"


def test_a_file_without_the_standin_mark_is_mano_with_pose_correctives(tmp_path: Path):
    export_mano_pkl(tmp_path)
    data = safeio.load_pickle(tmp_path / "MANO_RIGHT.pkl")
    del data["holdprep_standin"]
    data["posedirs"] = 1e-3 * np.random.default_rng(0).normal(size=(778, 3, 135))
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(data))
    model = load_hand_model("right", tmp_path, dtype=torch.float64)
    assert model.name == "mano"
    layer = smplx.create(str(tmp_path / "MANO_RIGHT.pkl"), model_type="mano", use_pca=False, dtype=torch.float64)
    p = params(2)
    theirs = layer(global_orient=p.global_orient, hand_pose=p.hand_pose, betas=p.betas.expand(2, 10), transl=p.transl)
    np.testing.assert_allclose(lbs.forward(model, p).vertices, theirs.vertices.detach(), atol=1e-7)


def test_missing_and_foreign_files_are_errors(tmp_path: Path):
    with pytest.raises(HoldprepError, match=r"MANO_LEFT\.pkl does not exist"):
        load_hand_model("left", tmp_path)
    (tmp_path / "MANO_LEFT.pkl").write_bytes(pickle.dumps({"v_template": np.zeros((10, 3))}))
    with pytest.raises(HoldprepError, match=r"v_template has shape \(10, 3\)"):
        load_hand_model("left", tmp_path)


def test_a_file_of_the_other_side_selects_the_one_beside_it(tmp_path: Path):
    """hand_model.path=MANO_RIGHT.pkl must not make a right hand of the left one."""
    export_mano_pkl(tmp_path)
    left = load_hand_model("left", tmp_path / "MANO_RIGHT.pkl")
    assert torch.equal(left.v_template, load_hand_model("left", tmp_path).v_template)
    (tmp_path / "MANO_LEFT.pkl").unlink()
    with pytest.raises(HoldprepError, match=r"MANO_LEFT\.pkl does not exist"):
        load_hand_model("left", tmp_path / "MANO_RIGHT.pkl")
