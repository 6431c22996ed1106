"""What is expected of the next frame, against a motion known in closed form; what counts as a model."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from holdprep.geometry.rigid import from_rt
from holdprep.object.mapper import continued
from tests.object.clouds import cloud, halves, map_cloud


def steady(t: float) -> np.ndarray:
    """A turn of 7 degrees and a step of 1 cm a frame."""
    R = Rotation.from_rotvec(np.radians(7.0 * t) * np.array([0.6, 0.0, 0.8])).as_matrix()
    return from_rt(R, np.array([0.01 * t, 0.0, 0.5]))


@pytest.mark.parametrize(("known", "t"), [((3, 4), 5), ((3, 4), 6), ((8, 6), 4), ((2, 4), 6)])
def test_an_even_motion_goes_on_evenly(known: tuple[int, ...], t: int) -> None:
    gap, poses = continued({s: steady(s) for s in known}, t)
    assert gap == min(abs(s - t) for s in known)
    assert poses[0] == pytest.approx(steady(min(known, key=lambda s: abs(s - t))))
    assert poses[-1] == pytest.approx(steady(t), abs=1e-12)


def test_frames_far_before_or_on_the_other_side_tell_no_speed() -> None:
    assert len(continued({4: steady(4), 0: steady(0)}, 5)[1]) == 1
    assert len(continued({4: steady(4), 6: steady(6)}, 5)[1]) == 1


def test_frames_whose_points_were_all_filtered_are_no_model(tmp_path: Path) -> None:
    """Mappings that begin from a wrong pair; without points a model has no reprojection errors to be compared by."""
    scene = halves(cloud((200.0, 150.0), size=(320, 240), num_frames=12, num_points=70), 5)
    models, starts = map_cloud(tmp_path, scene, 1.0, refine_focal=False)
    assert any(start.most_frames > 2 and start.frames == 0 for start in starts)
    assert len(models) == sum(start.frames > 0 for start in starts)
    assert all(len(model.points) for model in models)
