"""MANO's files as people have them: one side, other names and folders, .npz, every sparse type; and what is no hand of that side."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from holdprep.errors import HoldprepError
from holdprep.hand.model import SIDES, STANDIN_MARK, HandModels, Side, _standin, available, load_hand_model
from holdprep.hand.trackers import meshes
from tests.hand.trackers.known import NAMES, SIZE, mesh


def arrays(side: Side) -> dict[str, Any]:
    return {key: value for key, value in _standin(side).items() if key != STANDIN_MARK}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".npz":
        np.savez(path, **content)
        path.with_name(path.name + ".npz").rename(path) if not path.exists() else None
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize(
    "name", ["MANO_RIGHT.pkl", "mano_right.pkl", "models/MANO_RIGHT.pkl", "mano_v1_2/models/MANO_RIGHT.pkl", "Mano_Right.npz"]
)
def test_the_file_of_the_side_in_use_is_enough(tmp_path: Path, name: str):
    write(tmp_path / name, arrays("right"))
    model = load_hand_model("right", tmp_path)
    assert model.name == "mano"
    np.testing.assert_allclose(model.v_template, arrays("right")["v_template"], atol=1e-6)
    with pytest.raises(HoldprepError, match=r"MANO_LEFT\.pkl does not exist.*only MANO_LEFT is needed"):
        load_hand_model("left", tmp_path)


@pytest.mark.parametrize("kind", ["csc", "csr", "bsr", "coo", "dia", "dok", "lil"])
@pytest.mark.parametrize("form", ["matrix", "array"])
@pytest.mark.filterwarnings("ignore:Constructing a DIA matrix")
def test_every_sparse_type_of_a_regressor(tmp_path: Path, kind: str, form: str):
    content = arrays("right")
    dense = content["J_regressor"]
    for protocol in (2, 4):
        path = tmp_path / "MANO_RIGHT.pkl"
        path.write_bytes(pickle.dumps(content | {"J_regressor": getattr(scipy.sparse, f"{kind}_{form}")(dense)}, protocol=protocol))
        np.testing.assert_allclose(load_hand_model("right", path).J_regressor, dense, atol=1e-6)


def test_an_npz_without_regressor_is_not_for_training(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    content = arrays("right")
    del content["J_regressor"]
    write(tmp_path / "MANO_RIGHT.npz", content)
    assert load_hand_model("right", tmp_path).name == "estimated"
    assert "not for training" in caplog.text
    write(tmp_path / "pkl" / "MANO_RIGHT.pkl", content)
    with pytest.raises(HoldprepError, match="J_regressor has shape None"):
        load_hand_model("right", tmp_path / "pkl")


@pytest.mark.parametrize("side", SIDES)
def test_a_file_of_the_other_hand_is_refused_by_its_geometry(tmp_path: Path, side: Side):
    other: Side = "left" if side == "right" else "right"
    turned = arrays(other)
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    turned["v_template"], mean = turned["v_template"] @ quarter.T, turned["hands_mean"].reshape(15, 3) @ quarter.T
    for content in (arrays(other), turned | {"hands_mean": mean.ravel()}):  # whatever the axes of the file
        write(tmp_path / f"MANO_{side.upper()}.pkl", content)
        with pytest.raises(HoldprepError, match=f"holds a {other} hand by its geometry"):
            load_hand_model(side, tmp_path)


@pytest.mark.parametrize("side", SIDES)
def test_meshes_of_one_side_need_its_file_alone(tmp_path: Path, side: Side):
    write(tmp_path / "mano" / f"MANO_{side.upper()}.pkl", arrays(side))
    models = HandModels(lambda s: load_hand_model(s, tmp_path / "mano"))
    assert available(models).side == side
    for name, vertices in zip(NAMES, mesh(side, 0.6).vertices.numpy(), strict=True):
        (tmp_path / f"{name}.obj").write_text("".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices))
    assert list(meshes.read(tmp_path, NAMES, SIZE, models, 600.0).vertices_m) == [side]
