"""What one rigid shape says of a mask: silhouettes of a box and a can with exact poses, and masks that are wrong in some frames."""

from dataclasses import dataclass

import numpy as np
import pytest
import trimesh

from holdprep.geometry.cameras import project
from holdprep.geometry.lens import Lens
from holdprep.geometry.raster import covered
from holdprep.geometry.rigid import apply
from holdprep.segmenters.rigid_shape import NEUTRAL, PosedMasks, RigidShape, whole_masks
from holdprep.segmenters.second_pass import SHAPE_LEAST, SHAPE_MOST, SHAPE_WEIGHT, Disagreement, shape_evidence
from holdprep.synth.objects import make_object
from tests.object.held import SIZE, Held, K, held

FRAMES = 30


@dataclass(frozen=True)
class Case:
    """A held object, its mesh, and `points` (N, 3) m on it."""

    clip: Held
    mesh: trimesh.Trimesh
    points: np.ndarray

    def posed(self, masks: list[np.ndarray] | None = None, lens: Lens | None = None) -> PosedMasks:
        return PosedMasks(masks or self.clip.masks, self.clip.hands, self.clip.T_cam_obj, K, lens)


@pytest.fixture(scope="module", params=["box", "can"])
def case(request: pytest.FixtureRequest) -> Case:
    obj = make_object(request.param)
    mesh = trimesh.Trimesh(obj.vertices_m, obj.faces, process=False)
    return Case(held(request.param, FRAMES), mesh, np.asarray(trimesh.sample.sample_surface(mesh, 500, seed=0)[0]))


def without_a_third(mask: np.ndarray) -> np.ndarray:
    xs = np.nonzero(mask)[1]
    return mask & (np.arange(mask.shape[1]) < np.quantile(xs, 2 / 3))


def test_true_masks_agree_with_the_shape_of_the_others(case: Case) -> None:
    shape = RigidShape(case.posed(), range(FRAMES), case.points)
    for t in range(0, FRAMES, 5):
        excluded, mask, hand = shape.excluded(t), case.clip.masks[t], case.clip.hands[t]
        found = Disagreement.of(mask, hand, excluded)
        assert found.missing_pct < 4 and found.excess_pct < 4 and not found.is_contradiction
        assert np.median(excluded[mask]) < 0.03
        assert (excluded[:20] == 1).all()  # away from the object


def test_a_third_that_a_frame_lacks_is_predicted_and_does_not_vote(case: Case) -> None:
    lost = range(10, 20)
    masks = [without_a_third(mask) if t in lost else mask for t, mask in enumerate(case.clip.masks)]
    posed = case.posed(masks)
    whole = whole_masks(posed, range(FRAMES), case.points)
    assert whole == [t for t in range(FRAMES) if t not in lost]
    shape = RigidShape(posed, whole, case.points)
    for t in (12, 15, 18):
        gone = case.clip.masks[t] & ~masks[t]
        assert (shape.excluded(t)[gone] < NEUTRAL).mean() > 0.9
        found = Disagreement.of(masks[t], case.clip.hands[t], shape.excluded(t))
        assert found.missing_pct > 20 and found.excess_pct < 4 and not found.is_contradiction


def test_background_in_a_mask_is_in_excess(case: Case) -> None:
    t, masks = 15, list(case.clip.masks)
    leak = np.zeros_like(masks[t])
    ys, xs = np.nonzero(masks[t])
    leak[ys.min() : ys.max(), max(xs.min() - 60, 0) : xs.min()] = True
    masks[t] = masks[t] | (leak & ~case.clip.hands[t])
    excluded = RigidShape(case.posed(masks), range(FRAMES), case.points).excluded(t)
    assert np.median(excluded[leak]) > 3 * NEUTRAL
    assert Disagreement.of(masks[t], case.clip.hands[t], excluded).excess_pct > 15


def test_a_wrong_pose_contradicts_its_mask(case: Case) -> None:
    t, T = 15, case.clip.T_cam_obj.copy()
    T[t, 0, 3] += 0.05
    posed = PosedMasks(case.clip.masks, case.clip.hands, T, K)
    excluded = RigidShape(posed, [s for s in range(FRAMES) if s != t], case.points).excluded(t)
    assert Disagreement.of(case.clip.masks[t], case.clip.hands[t], excluded).is_contradiction


def test_what_hands_always_hide_is_neutral(case: Case) -> None:
    everywhere = [np.ones(SIZE[::-1], bool)] * FRAMES
    nothing = [np.zeros(SIZE[::-1], bool)] * FRAMES
    shape = RigidShape(PosedMasks(nothing, everywhere, case.clip.T_cam_obj, K), range(FRAMES), case.points)
    inside = shape.excluded(15)[case.clip.masks[15]]
    np.testing.assert_allclose(inside, NEUTRAL, atol=1e-6)
    np.testing.assert_allclose(shape_evidence(inside), 0, atol=1e-4)


def test_masks_behind_a_lens_are_compared_as_the_lens_shows_them(case: Case) -> None:
    lens = Lens(K, 2.0, SIZE)
    vertices, faces = np.asarray(case.mesh.vertices), np.asarray(case.mesh.faces)
    masks = [covered(lens.distorted_points(project(apply(T, vertices), K)), faces, SIZE) for T in case.clip.T_cam_obj]
    empty = [np.zeros(SIZE[::-1], bool)] * FRAMES
    excess = []
    for known in (lens, None):
        shape = RigidShape(PosedMasks(masks, empty, case.clip.T_cam_obj, K, known), range(FRAMES), case.points)
        found = [Disagreement.of(masks[t], empty[t], shape.excluded(t)) for t in range(0, FRAMES, 6)]
        excess.append(np.mean([max(f.missing_pct, f.excess_pct) for f in found]))
    assert excess[0] < 3 and excess[0] < excess[1]


def test_evidence_is_bounded_and_decreases_with_the_frames_that_exclude() -> None:
    found = shape_evidence(np.array([0.0, 0.05, NEUTRAL, 0.3, 1.0]))
    assert (np.diff(found) <= 0).all()
    assert found[0] == pytest.approx(SHAPE_WEIGHT * SHAPE_MOST) and found[2] == pytest.approx(0)
    assert found[-1] == pytest.approx(SHAPE_WEIGHT * SHAPE_LEAST)
