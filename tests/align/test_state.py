"""States of an alignment on disk: holdprep's own and HOLD's checkpoints."""

import pytest
import roma
import torch

from holdprep.align.problem import Refine
from holdprep.align.state import load_state, save_state
from holdprep.errors import HoldprepError, UnsafeFile

from .synthetic import align, grasp

STILL = Refine(rotation=False, pose=False, shape=False)


def test_state_round_trip(tmp_path):
    problem, _ = grasp(("right", "left"), frames=12)
    h = align("h", problem, refine=STILL)
    o = align("o", problem, initial=h)
    save_state(tmp_path / "last.ckpt", o)
    back = load_state(tmp_path / "last.ckpt")
    assert (back.mode, back.obj_scale, back.metrics, back.notes, back.losses) == (o.mode, o.obj_scale, o.metrics, o.notes, o.losses)
    assert torch.equal(back.hands["left"].hand_pose, o.hands["left"].hand_pose)
    assert not h.surface and all(torch.equal(back.surface[name], o.surface[name]) for name in o.surface)
    again = align("ho", problem, initial=back, refine=STILL)
    assert again.obj_scale == align("ho", problem, initial=o, refine=STILL).obj_scale


def test_holds_own_checkpoints_are_read(tmp_path):
    """As Lightning writes them, with what else lies in them; the next mode starts from there."""
    problem, _ = grasp(("right", "left"), frames=12)
    adam = align("h", problem, method="hold", max_iterations=3)
    tensors = {"models.object.obj_scale": torch.tensor([1.0]), "models.object.obj_transl": adam.transl_cam_obj_m.float()}
    tensors |= {"models.object.obj_rot": roma.rotmat_to_rotvec(adam.R_cam_obj).float(), "models.object.obj_cano": torch.ones(5, 4)}
    for side, p in adam.hands.items():
        named = {"hand_rot": p.global_orient, "hand_pose": p.hand_pose, "hand_beta": p.betas, "hand_transl": p.transl}
        tensors |= {f"models.{side}.{name}": value.float() for name, value in named.items()}
        tensors[f"models.{side}.mano_layer.v_template"] = torch.zeros(778, 3)
    path = tmp_path / "h" / "last.ckpt"
    path.parent.mkdir()
    content = {
        "pytorch-lightning_version": "2.0.0",
        "epoch": 0,
        "global_step": 4000,
        "state_dict": tensors,
        "optimizer_states": [{"state": {}}],
    }
    torch.save(content, path)
    read = load_state(path)
    assert (read.mode, read.method, read.obj_scale, set(read.hands)) == ("h", "hold", 1.0, {"left", "right"})
    assert torch.allclose(read.R_cam_obj, adam.R_cam_obj, atol=1e-6)
    start = {"method": "hold", "max_iterations": 4}
    assert align("o", problem, initial=read, **start).losses[-1]["loss"] == pytest.approx(
        align("o", problem, initial=adam, **start).losses[-1]["loss"], rel=1e-4
    )
    del tensors["models.object.obj_rot"]
    torch.save(content, path)
    with pytest.raises(HoldprepError, match="not an alignment state"):
        load_state(path)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_a_state_that_asks_for_code_is_not_loaded(tmp_path, capsys):
    torch.save({"state_dict": Evil()}, tmp_path / "last.ckpt")
    with pytest.raises(UnsafeFile):
        load_state(tmp_path / "last.ckpt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [{"mode": "h"}, {"holdprep_alignment": 1, "mode": "h"}])
def test_other_files_are_no_state(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(HoldprepError, match="not an alignment state"):
        load_state(tmp_path / "last.ckpt")
