"""The objective of modes h and ho, term by term, and its Gauss-Newton equations."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import roma
import torch
from torch import Tensor

from holdprep.align import evidence as ev
from holdprep.align import residuals as res
from holdprep.align.contact import TOUCHING_TIPS
from holdprep.align.grasp import Grasps
from holdprep.align.layout import FOCAL, SCALE, Group, Layout
from holdprep.align.outline import OutlineTargets
from holdprep.align.problem import Problem, Refine, Weights, contact_frames
from holdprep.align.solver import BlockSystem
from holdprep.align.surface import Surface
from holdprep.align.trajectory import Trajectory, information
from holdprep.geometry.cameras import projection_jacobian
from holdprep.hand.lbs import NUM_JOINTS, HandPoints, HandState, Posed, tip_patches
from holdprep.hand.model import Side

NEAR_M = 0.05  # nothing of a hand is nearer to the camera
CONTACT_EPSILON_M = 0.003  # how well tips meet the surface; contact distances count squared below, straight above
PATCH_SIZE = 10
FIRST_GRASP = 4e4  # the same of a still hand's place; px^2 per m^2
FIRST_WEIGHT = 400.0  # of a prior that is to be measured; px^2 per rad^2
FIRST_KNOWN = 1e4  # the same of what SfM knows: its poses and its focal length
FOCAL_RATIO = 0.01  # standard error of SfM's focal length, as a fraction of it


@dataclass(frozen=True)
class Scene:
    """What is optimised: the hands, the logarithm of the object's scale, its trajectory, the places (S, 3) on it, m, where hands stand still."""

    hands: dict[Side, HandState]
    log_scale: float
    trajectory: Trajectory
    places_m: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))


@dataclass(frozen=True)
class _HandResiduals:
    """Residuals of one hand; contact's `gap` (T, 3) with the points it is of and the surface's slopes there, `wandering` (T, 3)
    m of a still hand on the object (none without object), `outline` (T, Q) px of silhouette vertices from the mask's edge."""

    posed: Posed
    pixels: Tensor
    near: Tensor
    departure: Tensor
    shape: Tensor
    gap: Tensor
    gap_points: Tensor
    slopes: Tensor
    wandering: Tensor
    outline: Tensor


class Objective:
    """The sum of weighted terms over all hands; `registered` are the priors' centres.

    Without a `surface` the object plays no part (mode h). Weights left open start from `measured`, those of the mode before.
    """

    def __init__(
        self,
        problem: Problem,
        weights: Weights,
        refine: Refine,
        registered: dict[Side, HandState],
        surface: Surface | None = None,
        log_scale: float = 0.0,
        scale_stderr_ratio: float = 1.0,
        measured: Mapping[str, float] | None = None,
        grasps: Mapping[Side, Grasps] | None = None,
    ) -> None:
        self.problem, self.given, self.registered = problem, weights, registered
        self.surface, self.log_scale, self.scale_stderr_ratio = surface, log_scale, scale_stderr_ratio
        models = {side: hand.model for side, hand in problem.hands.items()}
        self.points = {side: HandPoints.of(model, tip_patches(model, PATCH_SIZE).flatten()) for side, model in models.items()}
        self.skin = {side: HandPoints.of(model, torch.arange(778)) for side, model in models.items()}
        self.edges: dict[Side, OutlineTargets] = {}
        self.with_object = surface is not None
        self.touching = {side: _shares(contact_frames(problem, side)) for side in problem.hands}
        self._label(grasps or {})
        self.layout = Layout(tuple(problem.hands), refine, self.with_object, len(self.places_m))
        # a step of the object's pose is in rad, and in metres under mode o's scale
        self.sfm_unit = torch.tensor([1.0] * 3 + [float(np.exp(-log_scale))] * 3, dtype=torch.float64)
        self.known = information(problem, weights.o2d_sigma_px) if self.layout.moves else None
        first = dict.fromkeys(("rotation", "pose"), FIRST_WEIGHT) | {"contact": 0.0, "grasp": FIRST_GRASP if self.stands else 0.0}
        first |= dict.fromkeys(("o2d", "focal"), FIRST_KNOWN) | {"outline": 0.0}
        self.weights = weights.settled(**(first | dict(measured or {})))

    def _label(self, grasps: Mapping[Side, Grasps]) -> None:
        """`stands` (T,) tells which place each hand stands at, -1 for none."""
        self.wandering_m = {side: grasp.wandering_m for side, grasp in grasps.items()}
        self.stands = {side: torch.full((self.problem.num_frames,), -1) for side in grasps}
        places = [(side, frames, place) for side, grasp in grasps.items() for frames, place in grasp.stretches]
        for number, (side, frames, _) in enumerate(places):
            self.stands[side][torch.from_numpy(frames)] = number
        self.places_m = torch.from_numpy(np.array([place for *_, place in places]).reshape(-1, 3))

    def measure(self, systems: dict[Group, BlockSystem], residuals: dict[Side, _HandResiduals]) -> None:
        """Set the weights that were left open, from the latest equations and the residuals after their step.

        Fingers that the keypoints have no reason to move stay where they are from then on: most of the unknowns are gone.
        """
        found: dict[str, list[float]] = {name: [] for name in ("rotation", "pose", "outline", "contact", "grasp", "o2d", "focal")}
        tightest = np.inf
        prior = np.concatenate([np.zeros(3), self._prior_weights() / (len(residuals) * self.problem.num_frames)])
        for side, r in residuals.items():
            weight = self.problem.hands[side].weight
            seen = weight.sum(dim=1) > 0
            frames, touching = int(seen.sum()), int((self.touching[side] > 0).sum())
            own = self.layout.hand(side)
            shares = ev.determined(systems[self.layout.group(side)].diagonal[seen.numpy(), own, own], prior)
            variance = ev.keypoint_variance(r.pixels, weight, frames * float(shares.sum()))
            tightest = min(tightest, ev.of_departures(variance, ev.DEPARTURE_RAD[0]))
            departure = r.departure[seen][:, self.layout.bones].flatten(1)
            for name, columns in self.layout.turns.items():
                found[name].append(
                    ev.prior_weight(variance, departure[:, columns], float(shares[3:][columns].mean()), getattr(self.weights, name))
                )
            if side in self.edges:
                found["outline"].append(variance / self.edges[side].sigma_px ** 2)
            if side in self.stands:
                found["grasp"].append(ev.of_departures(variance, self.wandering_m[side]))
            found["contact"].append(ev.contact_weight(variance, CONTACT_EPSILON_M, TOUCHING_TIPS, touching / frames))
            joints = len(residuals) * float(weight.sum())
            found["focal"].append(ev.shared_weight(variance, joints, FOCAL_RATIO))
            if self.known is not None:
                found["o2d"].append(self.known.count * ev.shared_weight(variance, joints, self.known.variance_px2**0.5))
        known = {name: float(np.mean(values)) if values else getattr(self.weights, name) for name, values in found.items()}
        self.weights = self.given.settled(**known)
        refine = self.layout.refine
        if refine.pose and self.given.pose is None and self.weights.pose >= (1 - 1e-6) * tightest:
            self.layout = replace(self.layout, refine=replace(refine, pose=False))

    def match_outlines(self, scene: Scene) -> None:
        """New correspondences of every hand's outline with its mask's, in frames that show its keypoints."""
        if self.given.outline == 0:
            return
        K = scene.trajectory.K(self.problem.K)
        for side, hand in self.problem.hands.items():
            if hand.outlines is not None:
                vertices_m = self.skin[side].pose(scene.hands[side]).points[:, NUM_JOINTS:]
                self.edges[side] = OutlineTargets.of(hand.outlines, vertices_m, K, hand.weight.sum(dim=1) > 0)

    def residuals(self, scene: Scene) -> dict[Side, _HandResiduals]:
        """All residuals; which fingertips touch is found anew."""
        result = {}
        for side, hand in self.problem.hands.items():
            state = scene.hands[side]
            posed = self.points[side].pose(state)
            joints = posed.points[:, :NUM_JOINTS]
            departure = roma.rotmat_to_rotvec(state.rotations @ self.registered[side].rotations.transpose(-1, -2))
            shape = state.betas - self.registered[side].betas
            pixels = res.reprojection(joints, scene.trajectory.K(self.problem.K), hand.j2d_px)
            near = res.too_near(joints[..., 2], NEAR_M)
            wandering = self._wandering(side, posed, scene)
            result[side] = _HandResiduals(
                posed, pixels, near, departure, shape, *self._contact(posed, scene), wandering, self._outline(side, scene)
            )
        return result

    def terms(self, scene: Scene, residuals: dict[Side, _HandResiduals]) -> dict[str, float]:
        """Weighted terms of the objective, averaged over hands; their sum under `loss`."""
        w, sums = self.weights, dict.fromkeys(("j2d", "outline", "z_min", "rotation", "pose", "shape"), 0.0)
        if self.with_object:
            sums |= {"contact": 0.0, "grasp": 0.0, "smooth": 0.0}
        for side, r in residuals.items():
            weight = self.problem.hands[side].weight
            per_joint = res.geman_mcclure(r.pixels, w.j2d_sigma_px).sum(dim=-1)
            sums["j2d"] += w.j2d * float((per_joint * weight).sum() / weight.sum())
            if side in self.edges:
                edges = self.edges[side]
                each = res.geman_mcclure(r.outline, edges.width_px) * edges.weight
                sums["outline"] += w.outline * float(each.sum() / weight.sum())
            sums["z_min"] += w.z_min * float(r.near.square().mean())
            sums["rotation"] += w.rotation * float(r.departure[:, 0].square().sum(dim=-1).mean())
            sums["pose"] += w.pose * float(r.departure[:, 1:].square().sum(dim=(1, 2)).mean())
            sums["shape"] += w.shape * float(r.shape.square().sum())
            if self.with_object:
                sums["contact"] += w.contact * float((self.touching[side] * res.l1_norm(r.gap[..., None], CONTACT_EPSILON_M)).sum())
                sums["grasp"] += w.grasp * float(res.geman_mcclure(r.wandering, w.grasp_sigma_m).sum(dim=-1).mean())
                moved = res.motion(r.posed.points[:, :NUM_JOINTS]).square().sum(dim=-1)
                sums["smooth"] += w.smooth * float(moved.mean()) if len(moved) else 0.0
        result = {name: value / len(residuals) for name, value in sums.items()}
        if self.with_object:
            result["scale_prior"] = w.scale_prior * self._scale_departure(scene) ** 2
        if self.known is not None:
            away = scene.trajectory.departure(self.problem)
            result["o2d"] = w.o2d / self.known.count * float(torch.einsum("ta,tab,tb->", away, self.known.blocks, away))
        if self.layout.zooms:
            result["focal"] = w.focal * scene.trajectory.log_focal**2
        return result | {"loss": sum(result.values())}

    def equations(self, scene: Scene, residuals: dict[Side, _HandResiduals]) -> tuple[dict[Group, BlockSystem], np.ndarray, np.ndarray]:
        """Each group's system; the shared unknowns' own block and gradient."""
        layout, share = self.layout, 1 / len(residuals)
        own, gradient = np.zeros((layout.shared, layout.shared)), np.zeros(layout.shared)
        if self.with_object:
            own[SCALE, SCALE] = self.weights.scale_prior / self.scale_stderr_ratio**2
            gradient[SCALE] = own[SCALE, SCALE] * (scene.log_scale - self.log_scale)
        if layout.zooms:
            own[FOCAL, FOCAL] = self.weights.focal
            gradient[FOCAL] = self.weights.focal * scene.trajectory.log_focal
        systems = {group: BlockSystem(self.problem.num_frames, layout.size(group), layout.shared) for group in layout.groups}
        for side, r in residuals.items():
            system = systems[layout.group(side)]
            joints = self._jacobians(side, r.posed, torch.arange(NUM_JOINTS)[None])
            self._add_pixels(system, side, r, joints, scene, share)
            self._add_outline(system, side, r, scene, share)
            self._add_near(system, side, r, joints, share)
            if self.with_object:
                self._add_contact(system, side, r, scene, share)
                self._add_motion(system, side, r, joints, share)
                self._add_wandering(system, side, r, joints, scene, share)
            self._add_priors(system, side, r, share)
            if (betas := layout.betas(side)) is not None:
                own[betas, betas] += share * self.weights.shape * np.eye(10)
                gradient[betas] += share * self.weights.shape * r.shape.numpy()
        if self.known is not None:
            away = scene.trajectory.departure(self.problem) / self.sfm_unit
            blocks = (self.weights.o2d / self.known.count) * self.sfm_unit[:, None] * self.known.blocks * self.sfm_unit
            systems[layout.groups[0]].add_squares(blocks.numpy(), away.numpy(), layout.obj)
        return systems, own, gradient

    def step(self, scene: Scene, per_group: dict[Group, np.ndarray], shared: np.ndarray) -> Scene:
        """The scene after a step of the solver."""
        hands, layout = {}, self.layout
        for side, state in scene.hands.items():
            delta = torch.from_numpy(per_group[layout.group(side)][:, layout.hand(side)])
            turns = torch.zeros(len(delta), 16, 3, dtype=torch.float64)
            turns[:, layout.bones] = delta[:, 3:].unflatten(1, (-1, 3)) if layout.bones else turns[:, layout.bones]
            betas = layout.betas(side)
            more = torch.zeros(10, dtype=torch.float64) if betas is None else torch.from_numpy(shared[betas])
            hands[side] = state.step(delta[:, :3], turns, more)
        log_scale = scene.log_scale + (float(shared[SCALE]) if self.with_object else 0.0)
        trajectory = scene.trajectory
        if layout.moves:
            moved = torch.from_numpy(per_group[layout.groups[0]][:, layout.obj]) * self.sfm_unit
            trajectory = trajectory.moved(moved[:, :3], moved[:, 3:])
        if layout.zooms:
            trajectory = trajectory.zoomed(float(shared[FOCAL]))
        places_m = scene.places_m + torch.from_numpy(shared[layout.at_places]).reshape(-1, 3)
        return Scene(hands, log_scale, trajectory, places_m)

    def _scale_departure(self, scene: Scene) -> float:
        return (scene.log_scale - self.log_scale) / self.scale_stderr_ratio

    def _contact(self, posed: Posed, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """Signed distances (T, 3) m of the tips nearest to the surface or deepest in it, their points (T, 3), the surface's slopes there
        (T, 3, 3) in the camera frame."""
        if self.surface is None:
            return torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long), torch.zeros(0, 3, 3)
        scale, R = float(np.exp(scene.log_scale)), scene.trajectory.R_cam_obj
        local = (posed.points[:, NUM_JOINTS:] / scale - scene.trajectory.t_cam_obj[:, None]) @ R
        distance = torch.from_numpy(scale * self.surface.distance(local.numpy()))
        best = distance.unflatten(1, (5, PATCH_SIZE)).min(dim=2)
        nearest = best.values.topk(TOUCHING_TIPS, dim=1, largest=False)
        chosen = nearest.indices * PATCH_SIZE + best.indices.gather(1, nearest.indices)
        slopes = self.surface.gradient(local.gather(1, chosen[..., None].expand(-1, -1, 3)).numpy())
        return nearest.values, chosen + NUM_JOINTS, torch.from_numpy(slopes) @ R.transpose(1, 2)

    def _middle(self, posed: Posed) -> Tensor:
        return posed.points[:, :NUM_JOINTS].mean(dim=1)

    def _wandering(self, side: Side, posed: Posed, scene: Scene) -> Tensor:
        """(T, 3) m from the place where the hand stands still on the object; 0 where it does not."""
        if side not in self.stands:
            return torch.zeros(len(posed.points), 3, dtype=torch.float64)
        stands, thing = self.stands[side], scene.trajectory
        place = scene.places_m[stands.clamp_min(0)]
        away = res.wandering(self._middle(posed), thing.R_cam_obj, np.exp(scene.log_scale) * thing.t_cam_obj, place)
        return torch.where(stands[:, None] >= 0, away, 0.0)

    def _outline(self, side: Side, scene: Scene) -> Tensor:
        """(T, Q) px along the edges' normals; none without masks."""
        if side not in self.edges:
            return torch.zeros(self.problem.num_frames, 0, dtype=torch.float64)
        edges, K = self.edges[side], scene.trajectory.K(self.problem.K)
        points = self.skin[side].pose(scene.hands[side]).points.gather(1, edges.ids[..., None].expand(-1, -1, 3))
        return (edges.normal * res.reprojection(points, K, edges.target_px)).sum(dim=-1)

    def _jacobians(self, side: Side, posed: Posed, ids: Tensor, of: HandPoints | None = None) -> tuple[Tensor, Tensor]:
        """Of points `ids` (T, Q), or (1, Q) for all frames: by the hand's unknowns of their frame (T, Q, 3, n), by the shared ones (T, Q, 3, shared)."""
        frames, points, bones, of = len(posed.points), ids.shape[1], self.layout.bones, of or self.points[side]
        own = torch.eye(3, dtype=torch.float64).expand(frames, points, 3, 3)
        if bones == [0]:
            own = torch.cat([own, of.root_jacobian(posed, ids)], dim=-1)
        elif bones:
            own = torch.cat([own, of.rotation_jacobian(posed, ids)[..., bones, :].flatten(3)], dim=-1)
        common = torch.zeros(frames, points, 3, self.layout.shared, dtype=torch.float64)
        if (betas := self.layout.betas(side)) is not None:
            common[..., betas] = of.shape_jacobian(posed, ids)
        return own, common

    def _add_pixels(
        self, system: BlockSystem, side: Side, r: _HandResiduals, joints: tuple[Tensor, Tensor], scene: Scene, share: float
    ) -> None:
        hand, K = self.problem.hands[side], scene.trajectory.K(self.problem.K)
        by_point = projection_jacobian(r.posed.points[:, :NUM_JOINTS], K)
        shared = by_point @ joints[1]
        if self.layout.zooms:
            shared[..., FOCAL] = r.pixels + hand.j2d_px - K[:2, 2]
        weight = hand.weight[..., None] * res.geman_mcclure_weight(r.pixels, self.weights.j2d_sigma_px)
        scaled = weight * (share * self.weights.j2d / hand.weight.sum())
        system.add(by_point @ joints[0], shared, r.pixels, scaled, self.layout.hand(side))

    def _add_outline(self, system: BlockSystem, side: Side, r: _HandResiduals, scene: Scene, share: float) -> None:
        if side not in self.edges or self.weights.outline == 0:
            return
        edges, K, posed = self.edges[side], scene.trajectory.K(self.problem.K), self.skin[side].pose(scene.hands[side])
        points = posed.points.gather(1, edges.ids[..., None].expand(-1, -1, 3))
        along = edges.normal[..., None, :] @ projection_jacobian(points, K)
        own, shared = (along @ J for J in self._jacobians(side, posed, edges.ids, self.skin[side]))
        if self.layout.zooms:
            shared[..., 0, FOCAL] = r.outline + (edges.normal * (edges.target_px - K[:2, 2])).sum(dim=-1)
        weight = edges.weight * res.geman_mcclure_weight(r.outline, edges.width_px)
        scaled = weight * (share * self.weights.outline / self.problem.hands[side].weight.sum())
        system.add(own, shared, r.outline[..., None], scaled[..., None], self.layout.hand(side))

    def _add_near(self, system: BlockSystem, side: Side, r: _HandResiduals, joints: tuple[Tensor, Tensor], share: float) -> None:
        if bool((r.near > 0).any()):
            weight = (r.near > 0)[..., None] * (share * self.weights.z_min / r.near.numel())
            system.add(-joints[0][..., 2:, :], -joints[1][..., 2:, :], r.near[..., None], weight, self.layout.hand(side))

    def _add_contact(self, system: BlockSystem, side: Side, r: _HandResiduals, scene: Scene, share: float) -> None:
        points = r.posed.points.gather(1, r.gap_points[..., None].expand(-1, -1, 3))
        own, shared = self._jacobians(side, r.posed, r.gap_points)
        along = r.slopes[:, :, None]
        own, shared = along @ own, along @ shared
        shared[..., SCALE] = res.signed_gap_by_log_scale(r.gap, r.slopes, points)[..., None]
        scale, thing = float(np.exp(scene.log_scale)), scene.trajectory
        if self.layout.zooms:
            shared[..., FOCAL] = -scale * (along @ thing.t_by_log_focal[:, None, :, None])[..., 0]
        if self.layout.moves:
            by_pose = res.signed_gap_by_pose(r.slopes, points, scale * thing.t_cam_obj[:, None], scale * thing.farther)
            own = torch.cat([own, by_pose[:, :, None] * self.sfm_unit], dim=-1)
        weight = self.touching[side] * res.l1_norm_weight(r.gap[..., None], CONTACT_EPSILON_M)
        system.add(own, shared, r.gap[..., None], weight[..., None] * (share * self.weights.contact), self.layout.hand_and_object(side))

    def _add_motion(self, system: BlockSystem, side: Side, r: _HandResiduals, joints: tuple[Tensor, Tensor], share: float) -> None:
        if self.problem.num_frames > 1:
            moved = res.motion(r.posed.points[:, :NUM_JOINTS])
            system.add_motion(*joints, moved, share * self.weights.smooth / moved[..., 0].numel(), self.layout.hand(side))

    def _add_wandering(
        self, system: BlockSystem, side: Side, r: _HandResiduals, joints: tuple[Tensor, Tensor], scene: Scene, share: float
    ) -> None:
        if side not in self.stands:
            return
        own, shared = joints[0].mean(dim=1, keepdim=True), joints[1].mean(dim=1, keepdim=True)
        stands, thing, scale = self.stands[side], scene.trajectory, float(np.exp(scene.log_scale))
        shared[:, 0, :, SCALE] = -scale * thing.t_cam_obj
        if self.layout.zooms:
            shared[:, 0, :, FOCAL] = -scale * thing.t_by_log_focal
        for place, at in enumerate(range(self.layout.at_places.start, self.layout.at_places.stop, 3)):
            shared[:, 0, :, at : at + 3] = torch.where((stands == place)[:, None, None], -thing.R_cam_obj, 0.0)
        if self.layout.moves:
            by_pose = res.wandering_by_pose(thing.R_cam_obj, scene.places_m[stands.clamp_min(0)], scale * thing.farther)
            own = torch.cat([own, by_pose[:, None] * self.sfm_unit], dim=-1)
        weight = (stands >= 0)[:, None] * res.geman_mcclure_weight(r.wandering, self.weights.grasp_sigma_m)
        scaled = weight[:, None] * (share * self.weights.grasp / self.problem.num_frames)
        system.add(own, shared, r.wandering[:, None], scaled, self.layout.hand_and_object(side))

    def _add_priors(self, system: BlockSystem, side: Side, r: _HandResiduals, share: float) -> None:
        if self.layout.bones:
            weights = share / self.problem.num_frames * self._prior_weights()
            turns = slice(self.layout.hand(side).start + 3, self.layout.hand(side).stop)
            system.add_squares(np.diag(weights), r.departure[:, self.layout.bones].flatten(1).numpy(), turns)

    def _prior_weights(self) -> np.ndarray:
        """Of the hand's turned bones, three unknowns each; px^2 per rad^2."""
        weights = np.zeros(3 * len(self.layout.bones))
        for name, columns in self.layout.turns.items():
            weights[columns] = getattr(self.weights, name)
        return weights


def _shares(frames: Tensor) -> Tensor:
    """(T, 1) weights of the tips' terms, whose mean over frames (T,) bool they make; 0 elsewhere."""
    return frames.double()[:, None] / (TOUCHING_TIPS * frames.sum().clamp_min(1))
