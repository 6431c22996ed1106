"""Points of silhouettes' edges, and the surface that they complete, of an ellipsoid of which the truth is a closed form."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import trimesh

from holdprep.align.object_surface import object_surface
from holdprep.align.problem import EntityMasks, Problem
from holdprep.align.rim import Rim, Silhouettes, rim_points
from holdprep.align.surface import Kind, Surface
from holdprep.geometry.cameras import pinhole_K, project
from holdprep.geometry.raster import covered
from holdprep.geometry.rigid import apply, from_rt

from .synthetic import rotations_about_y

RADII_M = np.array([0.03, 0.04, 0.06])
SIZE, FRAMES = (320, 240), 30
K = pinhole_K(350.0, *SIZE)
ALONG = np.array([0.0, 0.0, 1.0])  # the long axis, at the positive end of which a hand may be


@dataclass(frozen=True)
class Scene:
    """Poses (F, 4, 4), visible masks of object and hand (F, H, W), and a mesh of the ellipsoid."""

    T_cam_obj: np.ndarray
    obj: np.ndarray
    hand: np.ndarray
    mesh: trimesh.Trimesh

    def silhouettes(self, hand=None, obj=None, points=None) -> Silhouettes:
        obj, hand = self.obj if obj is None else obj, self.hand if hand is None else hand
        return Silhouettes(obj, hand, self.T_cam_obj, K, cloud(lambda z: z < -0.015) if points is None else points)

    def rim(self, **changed) -> Rim:
        return rim_points(self.silhouettes(**changed), 2 * RADII_M.max())


def scene(degrees: float = 140.0, hand_from_m: float | None = None, hand_frames: int = FRAMES) -> Scene:
    """The rotated ellipsoid; in the first `hand_frames` a hand covers the end beyond `hand_from_m` on the long axis."""
    T = from_rt(rotations_about_y(FRAMES, degrees, tilt=0.0025 * degrees).numpy(), np.tile([0.0, 0.0, 0.4], (FRAMES, 1)))
    mesh = trimesh.creation.icosphere(subdivisions=4)
    mesh.apply_scale(RADII_M)
    whole = np.stack([covered(project(apply(pose, mesh.vertices), K), mesh.faces, SIZE) for pose in T])
    hand = np.zeros_like(whole)
    if hand_from_m is not None:
        ball = trimesh.creation.icosphere(subdivisions=3, radius=0.04)
        ball.apply_translation(ALONG * (hand_from_m + 0.04))
        hand = np.stack([covered(project(apply(pose, ball.vertices), K), ball.faces, SIZE) for pose in T])
        hand[hand_frames:] = False
    return Scene(T, whole & ~hand, hand, mesh)


def off_m(points: np.ndarray) -> np.ndarray:
    """Signed distances from the ellipsoid, to first order."""
    level = np.linalg.norm(points / RADII_M, axis=1)
    return (level - 1) * level / np.linalg.norm(points / RADII_M**2, axis=1)


def cloud(where) -> np.ndarray:
    """Points of the surface for which `where` of the position along the long axis holds."""
    directions = np.random.default_rng(1).normal(size=(2500, 3))
    points = RADII_M * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    return points[where(points @ ALONG)]


def test_rim_points_lie_on_the_surface_with_its_normals() -> None:
    rim = scene().rim()
    assert len(rim.points) > 200
    assert np.abs(np.median(off_m(rim.points))) < 0.001 and np.quantile(np.abs(off_m(rim.points)), 0.95) < 0.002
    normals = rim.points / RADII_M**2
    along = (rim.normals * normals).sum(axis=1) / np.linalg.norm(normals, axis=1)
    assert np.median(along) > 0.99 and np.quantile(along, 0.05) > 0.9
    pixel_m = 0.4 / K[0, 0]
    assert (np.abs(off_m(rim.points)) < 0.5 * rim.stretch + pixel_m).all()


def test_a_half_cloud_is_completed_where_silhouettes_show_the_rest() -> None:
    half, other = cloud(lambda z: z < -0.015), cloud(lambda z: z > 0.01)
    plain = Surface.of(half, half)
    whole = plain.completed(half, half, scene().rim())
    assert np.median(plain.distance(other)) > 0.04
    assert np.median(np.abs(whole.distance(other))) < 0.004 and np.quantile(np.abs(whole.distance(other)), 0.9) < 0.01
    assert (whole.kind(half) == Kind.OBSERVED).mean() > 0.95 and (whole.kind(other) == Kind.BOUNDED).mean() > 0.5
    assert whole.added > 100 and whole.diameter == pytest.approx(0.12, abs=0.004) and plain.diameter < 0.1
    assert whole.across == pytest.approx(0.12, abs=0.003) and plain.across == plain.diameter


def test_what_a_hand_hides_in_every_frame_remains_a_guess() -> None:
    half, tip = cloud(lambda z: z < -0.015), cloud(lambda z: z > 0.055)
    surface = Surface.of(half, half).completed(half, half, scene(hand_from_m=0.02).rim())
    assert (surface.kind(tip) == Kind.INVENTED).all() and not surface.known(tip).any()
    between = cloud(lambda z: (z > -0.012) & (z < 0.004))
    assert surface.known(between).mean() > 0.5 and np.median(np.abs(surface.distance(between))) < 0.003


def test_a_whole_cloud_is_not_changed() -> None:
    points = cloud(lambda z: z < 1)
    plain = Surface.of(points, points)
    rim = scene().rim()
    whole = plain.completed(points, points, rim)
    assert (whole.values == plain.values).all() and whole.rim is rim and whole.added == 0
    assert (plain.completed(points, points, Rim.empty()).values == plain.values).all()


def test_masks_that_are_wrong_in_two_frames_add_nothing() -> None:
    true = scene()
    leaking = true.obj.copy()
    leaking[[7, 20], 60:180, 200:300] = True  # a piece of the background
    rim = true.rim(obj=leaking)
    assert len(rim.points) > 200 and off_m(rim.points).max() < 0.004


def test_pixels_of_hands_exclude_nothing() -> None:
    true = scene(hand_from_m=0.0, hand_frames=FRAMES // 2)
    rim = true.rim()
    assert (rim.points @ ALONG > 0.03).sum() > 30 and np.quantile(np.abs(off_m(rim.points)), 0.98) < 0.003
    taken_for_background = true.rim(hand=np.zeros_like(true.hand))
    assert (taken_for_background.points @ ALONG > 0.03).sum() == 0


def test_little_rotation_locates_no_point() -> None:
    assert len(scene(degrees=0.0).rim().points) < 0.02 * len(scene().rim().points)


def test_no_mask_no_rim() -> None:
    true = scene()
    assert len(true.rim(obj=np.zeros_like(true.obj)).points) == 0


def test_the_surface_of_a_problem_is_completed_from_its_masks_and_all_hands() -> None:
    true, half = scene(hand_from_m=0.0, hand_frames=FRAMES // 2), torch.from_numpy(cloud(lambda z: z < -0.015))
    masks = EntityMasks(np.arange(FRAMES), {}, true.obj, all_hands=true.hand)
    problem = Problem(torch.from_numpy(K), SIZE, {}, half, torch.from_numpy(true.T_cam_obj), torch.ones(FRAMES), masks=masks)
    surface = object_surface(problem)
    assert (surface.points @ ALONG > 0.03).sum() > 30 and object_surface(problem) is surface
    other_hand_unknown = replace(problem, masks=replace(masks, all_hands=np.zeros_like(true.hand)))
    assert (object_surface(other_hand_unknown).points @ ALONG > 0.03).sum() == 0
    assert len(object_surface(replace(problem, masks=None)).rim.points) == 0


def test_the_size_reaches_to_edges_without_points() -> None:
    true, middle = scene(), cloud(lambda z: abs(z) < 0.052)
    plain = Surface.of(middle, middle)
    whole = plain.completed(middle, middle, true.rim(points=plain.points))
    assert plain.across < 0.112
    assert whole.across == pytest.approx(0.12, abs=0.003) and np.ptp(whole.outermost @ ALONG) == pytest.approx(0.12, abs=0.003)


def test_a_surface_as_tensors_and_back() -> None:
    true, points = ring_scene()
    surface = carved(true, points)
    again, near = Surface.from_tensors(surface.tensors()), 1.05 * points
    assert np.abs(again.distance(near) - surface.distance(near)).max() < 1e-6 and (again.kind(near) == surface.kind(near)).all()
    assert np.abs(again.gradient(near) - surface.gradient(near)).max() < 1e-4 and again.diameter == surface.diameter
    assert len(again.rim.points) > 100 and again.added == surface.added


def ring_scene() -> tuple[Scene, np.ndarray]:
    """A ring that tilts about its plane, and points of its outer half."""
    mesh = trimesh.creation.torus(0.04, 0.008, major_sections=60, minor_sections=24)
    T = from_rt(rotations_about_y(FRAMES, 160.0, tilt=0.9).numpy(), np.tile([0.0, 0.0, 0.4], (FRAMES, 1)))
    obj = np.stack([covered(project(apply(pose, mesh.vertices), K), mesh.faces, SIZE) for pose in T])
    points = trimesh.sample.sample_surface(mesh, 1500, seed=1)[0]
    return Scene(T, obj, np.zeros_like(obj), mesh), points[np.linalg.norm(points[:, :2], axis=1) > 0.041]


def carved(true: Scene, points: np.ndarray, obj: np.ndarray | None = None) -> Surface:
    plain = Surface.of(points, points)
    seen = true.silhouettes(points=plain.points, obj=obj)
    return plain.completed(points, points, rim_points(seen, plain.diameter)).carved(seen.outside)


def test_the_hole_of_a_ring_is_carved_and_its_edge_is_bounded() -> None:
    true, points = ring_scene()
    angle = np.linspace(0, 2 * np.pi, 40)
    around = np.stack([np.cos(angle), np.sin(angle), np.zeros(40)], axis=1)
    surface, plain = carved(true, points), Surface.of(points, points)
    assert (plain.distance(0.02 * around) < 0).all() and (surface.distance(0.02 * around) > 0.004).all()
    assert np.abs(surface.distance(0.032 * around)).max() < 0.003 and surface.known(0.032 * around).mean() > 0.9
    assert (surface.distance(0.04 * around) < -0.004).all(), "the ring itself remains"
    slope = surface.gradient(0.028 * around)
    assert (np.einsum("na,na->n", slope, -around) > 0.5).all(), "the surface faces the hole"


@pytest.mark.parametrize("damage", ["hole", "third"])
def test_wrong_masks_carve_nothing_where_points_were_observed(damage) -> None:
    true, points = scene(), cloud(lambda z: z < 1)
    wrong = true.obj.copy()
    for mask, pose in zip(wrong[:20], true.T_cam_obj, strict=False):
        rows = np.flatnonzero(mask.any(axis=1))
        if damage == "third":
            mask[: rows.min() + np.ptp(rows) // 3] = False
        else:
            centre = np.round(project(apply(pose, np.array([[0.0, 0.0, -0.02]])), K)[0]).astype(int)
            mask[centre[1] - 8 : centre[1] + 9, centre[0] - 8 : centre[0] + 9] = False
    plain, surface = Surface.of(points, points), carved(true, points, wrong)
    inside = 0.9 * points
    assert (plain.distance(inside) < 0).all() and (surface.distance(inside) < 0).mean() > 0.999
    blind = plain.carved(true.silhouettes(obj=wrong, points=points[:1]).outside)
    assert (blind.distance(inside) > 0).mean() > 0.01, "without points these masks carve"
